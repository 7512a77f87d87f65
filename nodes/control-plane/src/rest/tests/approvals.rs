use aa_governance::{
    agent::{AgentKeyId, Request as CheckRequest},
    api_key::ApiKey,
};
use aa_protocol::{Action, ActionId, ApprovalId, Verdict};
use aa_runtime::Reply;

use super::*;

const ASK_FOR_BASH: &str = "\
apiVersion: agent-assembly/v1
kind: Policy
metadata: {name: ask, version: '1'}
spec:
  tools:
    bash: {requires_approval_if: 'true'}
  approval: {timeout_seconds: 100}
";

/// Cannot be the id of a request: those are made of hashes.
const NONE: &str = "00000000-0000-4000-8000-000000000000";

/// The id of a key, as groups have it.
pub(super) fn id_of(key: &str) -> &str {
    key.split('_').nth(1).unwrap()
}

impl Fixture {
    /// A fixture whose policy asks about `bash`, of the approvers of a role if one is named.
    async fn asking(role: Option<&str>) -> Self {
        let fixture = Self::new().await;
        let policy = match role {
            Some(role) => ASK_FOR_BASH.replace("100}", &format!("100, escalation_role: {role}}}")),
            None => ASK_FOR_BASH.to_owned(),
        };
        fixture.apply("", &policy).await.ok(201);
        fixture
    }

    /// An agent that registers with a key of its own choice.
    async fn register_with(&self, key: &str, name: &str) -> AgentId {
        let principal = self.governance.authenticate(&ApiKey::parse(key).unwrap()).await;
        let permit = principal.unwrap().unwrap().authorize::<RegisterAgents>().unwrap();
        let facts = AgentFacts {
            id: AgentId::of_name(workspace(), name),
            name: name.to_owned(),
            org: None,
            team: Some("platform".to_owned()),
            governance_level: Default::default(),
            labels: BTreeMap::new(),
        };
        self.governance.register(&permit, facts, "cHVibGlj".to_owned()).await.unwrap().id
    }

    /// What an agent's call of `bash` comes to, under an action id of its own.
    async fn call_bash(
        &self,
        agent: AgentId,
        id: u128,
        command: &str,
        approval: Option<&str>,
    ) -> (Verdict, Option<String>) {
        let action = Action::ToolCall {
            tool: "bash".to_owned(),
            args: json!({"cmd": command}).as_object().unwrap().clone(),
        };
        let request = CheckRequest {
            id: ActionId::from_bytes(id.to_be_bytes()),
            trace: None,
            parent_span: None,
            action,
            received: self.governance.services().clock.now(),
            approval: approval.map(|id| id.parse::<ApprovalId>().unwrap()),
            session: None,
            context: Some("to see\u{1b}[2J what is there".to_owned()),
        };
        let (reply, answer) = Reply::channel();
        self.governance.check(&AgentKeyId { workspace: workspace(), agent }, request, reply);
        let answer = answer.await.unwrap().unwrap().unwrap();
        (answer.decision.verdict, answer.approval.map(|id| id.to_string()))
    }

    /// The path of a fresh request.
    async fn asked(&self, agent: AgentId, id: u128) -> String {
        let (verdict, approval) = self.call_bash(agent, id, "ls", None).await;
        assert_eq!(verdict, Verdict::RequireApproval);
        format!("/approvals/{}", approval.unwrap())
    }

    async fn post_as(&self, key: &str, path: &str, body: Value) -> Answer {
        let content = ("application/json", serde_json::to_vec(&body).unwrap());
        self.call(key, Method::POST, path, Some(content)).await
    }
}

#[tokio::test]
async fn a_request_shows_everything_and_its_approval_lets_the_action_go_on_once() {
    let fixture = Fixture::asking(None).await;
    let agent = fixture.register("researcher").await;
    let path = fixture.asked(agent, 1).await;
    let id = path.trim_start_matches("/approvals/");
    let request = fixture.get(&path).await.ok(200).json();
    let expected = json!({
        "id": id, "state": "pending", "kind": "tool_call", "tool": "bash",
        "agent": {"id": agent.to_string(), "name": "researcher", "team": "platform"},
        "action": {"kind": "tool_call", "tool": "bash", "args": {"cmd": "ls"}},
        "context": "to see\u{1b}[2J what is there",
        "asked": 1, "needs_every_stage": false, "may_answer": true, "answers": [],
        "outcome": null, "used_by": null,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&request[name], value, "{name}");
    }
    let stage = &request["stages"][0];
    assert_eq!(
        (&stage["group"], &stage["needed"], &stage["approved"]),
        (&Value::Null, &json!(1), &json!(0))
    );
    let reason = &request["reasons"][0];
    assert_eq!(
        (&reason["code"], &reason["policy"], &reason["line"]),
        (&json!("approval_required"), &json!("ask"), &json!(6))
    );
    assert_eq!(request["digest"].as_str().unwrap().len(), 64);
    assert!(request["asked_at"].as_str().unwrap() < request["deadline"].as_str().unwrap());
    let listed = fixture.get("/approvals").await.ok(200).json();
    assert_eq!(listed["approvals"], json!([request]));

    let body = json!({"scope": "once", "reason": "looks harmless"});
    let approved = fixture.post(&format!("{path}/approve"), body).await.ok(200).json();
    assert_eq!(
        (&approved["state"], &approved["may_answer"], &approved["stages"][0]["approved"]),
        (&json!("approved"), &json!(false), &json!(1))
    );
    let answer = &approved["answers"][0];
    assert_eq!(
        (&answer["by"], &answer["approved"], &answer["scope"], &answer["reason"]),
        (&json!(id_of(&fixture.owner)), &json!(true), &json!("once"), &json!("looks harmless"))
    );
    assert_eq!(approved["outcome"]["scope"], "once");
    assert_eq!(fixture.get("/approvals").await.ok(200).json()["approvals"], json!([]));
    let all = fixture.get("/approvals?state=all").await.ok(200).json();
    assert_eq!(all["approvals"], json!([approved]));

    assert_eq!(fixture.call_bash(agent, 2, "ls", Some(id)).await.0, Verdict::Allow);
    assert!(fixture.get(&path).await.ok(200).json()["used_by"].is_string());
    assert_eq!(fixture.call_bash(agent, 3, "ls", Some(id)).await.0, Verdict::RequireApproval);
}

#[tokio::test]
async fn a_refusal_needs_no_body_and_nothing_is_answered_twice() {
    let fixture = Fixture::asking(None).await;
    let agent = fixture.register("a").await;
    let path = fixture.asked(agent, 1).await;
    let key = &fixture.owner;
    let denied = fixture.call(key, Method::POST, &format!("{path}/deny"), None).await;
    let denied = denied.ok(200).json();
    assert_eq!(
        (&denied["state"], &denied["outcome"]["by"], &denied["outcome"]["reason"]),
        (&json!("denied"), &json!(id_of(key)), &json!(""))
    );
    assert_eq!(denied["answers"][0]["scope"], Value::Null);
    for verb in ["approve", "deny"] {
        let late = fixture.post(&format!("{path}/{verb}"), json!({})).await;
        let problem = late.problem(409, "conflict");
        assert!(problem.detail.contains("was decided at"), "{}", problem.detail);
    }
    let id = path.trim_start_matches("/approvals/");
    assert_eq!(fixture.call_bash(agent, 2, "ls", Some(id)).await.0, Verdict::Deny);
}

#[tokio::test]
async fn nobody_answers_for_an_agent_that_registered_with_their_key() {
    let fixture = Fixture::asking(None).await;
    let agent = fixture.register_with(&fixture.owner, "own").await;
    let path = fixture.asked(agent, 1).await;
    assert_eq!(fixture.get(&path).await.ok(200).json()["may_answer"], false);
    for verb in ["approve", "deny"] {
        let refused = fixture.post(&format!("{path}/{verb}"), json!({})).await;
        let problem = refused.problem(403, "forbidden");
        assert!(problem.detail.contains("use another key"), "{}", problem.detail);
    }
    let admin = fixture.key(Grant::Admin).await;
    fixture.call(&admin, Method::POST, &format!("{path}/approve"), None).await.ok(200);
}

#[tokio::test]
async fn who_is_in_a_group_answers_whatever_the_role_and_others_do_not() {
    let fixture = Fixture::asking(Some("security")).await;
    let (alice, bob) = (fixture.key(Grant::Viewer).await, fixture.key(Grant::Viewer).await);
    let group = json!({"members": [id_of(&alice), id_of(&bob)], "needed": 2});
    fixture.put("/approvers/groups/security", group).await.ok(201);
    let agent = fixture.register("a").await;
    let path = fixture.asked(agent, 1).await;
    let may = async |key: &str| {
        let request = fixture.call(key, Method::GET, &path, None).await.ok(200).json();
        request["may_answer"].as_bool().unwrap()
    };
    assert!(may(&alice).await && !may(&fixture.owner).await);
    let approve = format!("{path}/approve");
    let outsider = fixture.post(&approve, json!({})).await.problem(403, "forbidden");
    assert!(outsider.detail.contains("the group `security` (2 of them)"), "{}", outsider.detail);

    let first = fixture.post_as(&alice, &approve, json!({"scope": "session"})).await.ok(200);
    let first = first.json();
    assert_eq!(
        (&first["state"], &first["stages"][0]["approved"], &first["stages"][0]["needed"]),
        (&json!("pending"), &json!(1), &json!(2))
    );
    let twice = fixture.post_as(&alice, &approve, json!({})).await.problem(409, "conflict");
    assert!(twice.detail.contains("needs the approval of others"), "{}", twice.detail);
    assert!(may(&alice).await, "she may think again");
    let second = fixture.post_as(&bob, &approve, json!({})).await.ok(200).json();
    // The narrowest scope of both holds.
    assert_eq!(
        (&second["state"], &second["outcome"]["scope"], &second["needs_every_stage"]),
        (&json!("approved"), &json!("once"), &json!(true))
    );
}

#[tokio::test]
async fn another_tenant_sees_and_decides_nothing() {
    let fixture = Fixture::asking(None).await;
    let stranger = fixture.stranger().await;
    let agent = fixture.register("a").await;
    let path = fixture.asked(agent, 1).await;
    for list in ["/approvals", "/approvals?state=all"] {
        let page = fixture.call(&stranger, Method::GET, list, None).await.ok(200).json();
        assert_eq!(page["approvals"], json!([]));
    }
    fixture.call(&stranger, Method::GET, &path, None).await.problem(404, "not-found");
    for verb in ["approve", "deny"] {
        let path = format!("{path}/{verb}");
        fixture.call(&stranger, Method::POST, &path, None).await.problem(404, "not-found");
    }
    assert_eq!(fixture.get(&path).await.ok(200).json()["state"], "pending");
}

#[tokio::test]
async fn requests_are_listed_page_by_page_in_the_order_of_their_ids() {
    let fixture = Fixture::asking(None).await;
    let agent = fixture.register("a").await;
    let mut asked = Vec::new();
    for number in 1..=5 {
        let command = format!("ls {number}");
        asked.push(fixture.call_bash(agent, number, &command, None).await.1.unwrap());
    }
    asked.sort();
    for state in ["pending", "all"] {
        let mut listed = Vec::new();
        let mut path = format!("/approvals?state={state}&limit=2");
        loop {
            let page = fixture.get(&path).await.ok(200).json();
            let approvals = page["approvals"].as_array().unwrap().iter();
            listed.extend(approvals.map(|request| request["id"].as_str().unwrap().to_owned()));
            let Some(next) = page["next"].as_str() else { break };
            path = format!("/approvals?state={state}&limit=2&after={next}");
        }
        assert_eq!(listed, asked, "{state}");
    }
    // An id that is none can be gone on from as well.
    let rest = fixture.get(&format!("/approvals?after={NONE}")).await.ok(200).json();
    assert_eq!(rest["approvals"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn an_answer_that_is_malformed_decides_nothing() {
    let fixture = Fixture::asking(None).await;
    let agent = fixture.register("a").await;
    let path = fixture.asked(agent, 1).await;
    for (verb, body) in [
        ("approve", json!({"scope": "forever"})),
        ("approve", json!({"scope": null})),
        ("approve", json!({"reason": "x".repeat(1_001)})),
        ("approve", json!({"reason": "a\u{1b}[2Jb"})),
        ("approve", json!({"approved": true})),
        ("deny", json!({"scope": "once"})),
        ("deny", json!([])),
    ] {
        let refused = fixture.post(&format!("{path}/{verb}"), body).await;
        refused.problem(400, "invalid-request");
    }
    for verb in ["approve", "deny"] {
        let unknown = fixture.post(&format!("/approvals/{NONE}/{verb}"), json!({})).await;
        unknown.problem(404, "not-found");
        let malformed = fixture.post(&format!("/approvals/nonsense/{verb}"), json!({})).await;
        malformed.problem(400, "invalid-request");
        let key = &fixture.owner;
        let content = Some(("text/plain", b"yes".to_vec()));
        let answer = fixture.call(key, Method::POST, &format!("{path}/{verb}"), content).await;
        answer.problem(415, "unsupported-media-type");
    }
    fixture.get(&format!("/approvals/{NONE}")).await.problem(404, "not-found");
    assert_eq!(fixture.get(&path).await.ok(200).json()["answers"], json!([]));
}
