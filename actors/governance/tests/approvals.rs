//! What an agent, and the people it asks, can rely on.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use std::time::Duration;

use aa_governance::{
    GovernanceError, Grant,
    agent::{AgentKeyId, Answer, Request, SessionId},
    approval::NotAnswered,
    approval_record::{AnswerError, ApprovalRecord, ApprovalScope},
    approvers::{ApprovalChain, ApproverGroup, ApproversError, Stage},
    notice::Notice,
};
use aa_ledger::Kind;
use aa_protocol::{ApprovalId, ReasonCode, Verdict};
use world::{BASH, PATIENCE, World};

const ASK_FOR_BASH: &str = "\
apiVersion: agent-assembly/v1
kind: Policy
metadata: {name: ask, version: '1'}
spec:
  tools:
    bash: {requires_approval_if: 'true'}
  approval: {timeout_seconds: 100}
";

async fn world() -> (World, AgentKeyId) {
    let world = World::new().await;
    world.apply(ASK_FOR_BASH).await;
    let agent = world.register("a").await;
    (world, agent)
}

fn with_role(role: &str) -> String {
    ASK_FOR_BASH.replace("100}", &format!("100, escalation_role: {role}}}"))
}

async fn asked(world: &World, agent: &AgentKeyId, action: u128) -> ApprovalId {
    let answer = world.check(agent, action, BASH).await.unwrap();
    assert_eq!(answer.decision.verdict, Verdict::RequireApproval);
    answer.approval.expect("the answer names the request")
}

async fn again(world: &World, agent: &AgentKeyId, action: u128, id: ApprovalId) -> Answer {
    ask_with(world, agent, action, id, BASH).await
}

async fn ask_with(
    world: &World,
    agent: &AgentKeyId,
    action: u128,
    id: ApprovalId,
    json: &str,
) -> Answer {
    let request = Request { approval: Some(id), ..world.request(action, json) };
    world.ask(agent, request).await.unwrap()
}

async fn answer_as(
    world: &World,
    key: &str,
    grant: Grant,
    id: ApprovalId,
    approved: bool,
) -> Result<ApprovalRecord, AnswerError> {
    let permit = world.permit_of(key, grant);
    let answered =
        world.governance.answer_approval(&permit, id, approved, ApprovalScope::Once, "").await;
    answered.map_err(|error| match error {
        GovernanceError::NotAnswered(NotAnswered::Refused(error)) => error,
        other => panic!("{other}"),
    })
}

async fn approve(world: &World, id: ApprovalId) {
    answer_as(world, "somebody", Grant::Owner, id, true).await.unwrap();
}

fn code(answer: &Answer) -> (Verdict, ReasonCode) {
    (answer.decision.verdict, answer.decision.reasons[0].code)
}

fn group(name: &str, members: &[&str], needed: u32) -> ApproverGroup {
    let members = members.iter().map(ToString::to_string).collect();
    ApproverGroup { name: name.into(), members, needed }
}

async fn set_group(world: &World, group: ApproverGroup) {
    world.governance.set_approver_group(&world.permit(), group).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approved_action_goes_on_once() {
    let (world, agent) = world().await;
    let id = asked(&world, &agent, 1).await;
    let record = world.governance.approval(&world.permit(), id).await.unwrap();
    assert_eq!((record.state(), record.agent_name.as_str()), ("pending", "a"));
    assert_eq!(record.action["args"]["cmd"], "ls", "people see every argument");
    assert_eq!(record.reasons[0].policy.as_deref(), Some("ask"));
    approve(&world, id).await;
    assert_eq!(again(&world, &agent, 2, id).await.decision.verdict, Verdict::Allow);
    assert!(again(&world, &agent, 2, id).await.repeated, "the same action is the same use");
    let second = again(&world, &agent, 3, id).await;
    assert_eq!(second.decision.verdict, Verdict::RequireApproval);
    assert_ne!(second.approval, Some(id), "a further call needs an approval of its own");
    let entries = world.verified_entries().await;
    let changes: Vec<_> = entries
        .iter()
        .filter(|entry| entry.kind == Kind::Approval && entry.detail["approval"] == id.to_string())
        .map(|entry| entry.detail["change"].as_str())
        .collect();
    assert_eq!(changes, ["asked", "answered", "used"]);
    let allowed = entries.iter().find(|entry| {
        entry.verdict == Some(Verdict::Allow) && entry.detail.contains_key("approval")
    });
    assert_eq!(allowed.unwrap().detail["approval"], id.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_arguments_or_a_changed_policy_need_a_new_approval() {
    let (world, agent) = world().await;
    let id = asked(&world, &agent, 1).await;
    approve(&world, id).await;
    let other = r#"{"kind":"tool_call","tool":"bash","args":{"cmd":"rm -rf /"}}"#;
    let changed = ask_with(&world, &agent, 2, id, other).await;
    assert_eq!(changed.decision.verdict, Verdict::RequireApproval);
    assert_ne!(changed.approval, Some(id));
    world.apply(&ASK_FOR_BASH.replace("100}", "101}")).await;
    let stale = again(&world, &agent, 3, id).await;
    assert_eq!(stale.decision.verdict, Verdict::RequireApproval);
    assert_ne!(stale.approval, Some(id));
    let stranger = world.register("b").await;
    let stolen = again(&world, &stranger, 4, id).await;
    assert_eq!(stolen.decision.verdict, Verdict::RequireApproval);
    assert_ne!(stolen.approval, Some(id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_and_its_reason_reach_the_agent() {
    let (world, agent) = world().await;
    let mut notices = world.governance.notices(world.workspace);
    let id = asked(&world, &agent, 1).await;
    let permit = world.permit_of("somebody", Grant::Admin);
    let denied = world.governance.answer_approval(
        &permit,
        id,
        false,
        ApprovalScope::Once,
        "not on a Friday",
    );
    assert_eq!(denied.await.unwrap().state(), "denied");
    let told = tokio::time::timeout(PATIENCE, notices.recv()).await.unwrap().unwrap();
    assert_eq!(told, Notice::ApprovalDecided { agent: agent.agent, approval: id, approved: false });
    let refused = again(&world, &agent, 2, id).await;
    assert_eq!(code(&refused), (Verdict::Deny, ReasonCode::ApprovalDenied));
    assert!(refused.decision.reasons[0].message.contains("not on a Friday"));
    assert_ne!(asked(&world, &agent, 3).await, id, "who asks anew asks anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_nobody_decides_expires_as_denied_by_itself() {
    let (world, agent) = world().await;
    let mut notices = world.governance.notices(world.workspace);
    let id = asked(&world, &agent, 1).await;
    let waiting = again(&world, &agent, 2, id).await;
    assert_eq!((waiting.decision.verdict, waiting.approval), (Verdict::RequireApproval, Some(id)));
    let told = async {
        loop {
            world.clock.advance(Duration::from_secs(10));
            tokio::select! {
                told = notices.recv() => return told.unwrap(),
                () = tokio::task::yield_now() => {}
            }
        }
    };
    let told = tokio::time::timeout(PATIENCE, told).await.unwrap();
    assert_eq!(told, Notice::ApprovalDecided { agent: agent.agent, approval: id, approved: false });
    let refused = again(&world, &agent, 3, id).await;
    assert_eq!(code(&refused), (Verdict::Deny, ReasonCode::ApprovalExpired));
    assert!(matches!(
        answer_as(&world, "late", Grant::Owner, id, true).await,
        Err(AnswerError::Decided { state, .. }) if state == "expired"
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identical_pending_requests_are_one() {
    let (world, agent) = world().await;
    let id = asked(&world, &agent, 1).await;
    assert_eq!(asked(&world, &agent, 2).await, id);
    assert_eq!(asked(&world, &agent, 3).await, id);
    let pending = world.governance.approvals(&world.permit(), true, None, 10).await.unwrap();
    assert_eq!((pending.len(), pending[0].asked), (1, 3));
    let other = world.register("b").await;
    assert_ne!(asked(&world, &other, 4).await, id, "each agent asks for itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_answers_and_deadlines_survive_a_restart() {
    let (world, agent) = world().await;
    let pending = asked(&world, &agent, 1).await;
    let world = world.restarted().await;
    assert_eq!(asked(&world, &agent, 2).await, pending, "still the same request");
    approve(&world, pending).await;
    let world = world.restarted().await;
    assert_eq!(again(&world, &agent, 3, pending).await.decision.verdict, Verdict::Allow);
    let left = asked(&world, &agent, 4).await;
    let mut world = world.restarted().await;
    let mut notices = world.governance.notices(world.workspace);
    // Nobody asks for it: its own clock, set at the start, lets it expire.
    let told = async {
        loop {
            world.clock.advance(Duration::from_secs(20));
            tokio::select! {
                told = notices.recv() => return told.unwrap(),
                () = tokio::task::yield_now() => {}
            }
        }
    };
    let told = tokio::time::timeout(PATIENCE, told).await.unwrap();
    assert!(
        matches!(told, Notice::ApprovalDecided { approval, approved: false, .. } if approval == left)
    );
    world = world.restarted().await;
    assert_eq!(code(&again(&world, &agent, 5, left).await).1, ReasonCode::ApprovalExpired);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_approves_what_is_their_own() {
    let (world, agent) = world().await;
    let id = asked(&world, &agent, 1).await;
    // The key that the agent registered with.
    assert_eq!(answer_as(&world, "test", Grant::Owner, id, true).await, Err(AnswerError::Own));
    assert!(
        world
            .principal(Grant::Agent)
            .authorize::<aa_governance::permission::AnswerApprovals>()
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_those_who_are_asked_may_answer() {
    let (world, agent) = world().await;
    world.apply(&with_role("security")).await;
    let open = asked(&world, &agent, 1).await;
    assert!(matches!(
        answer_as(&world, "dev", Grant::Developer, open, true).await,
        Err(AnswerError::NotAsked(_))
    ));
    set_group(&world, group("security", &["alice", "bob"], 1)).await;
    assert!(
        matches!(
            answer_as(&world, "boss", Grant::Owner, open, true).await,
            Err(AnswerError::NotAsked(_))
        ),
        "once a group has members, they decide"
    );
    let record = answer_as(&world, "bob", Grant::Viewer, open, true).await.unwrap();
    assert_eq!(record.state(), "approved");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_eyes_are_of_two_people() {
    let (world, agent) = world().await;
    set_group(&world, group("security", &["alice", "bob", "carol"], 2)).await;
    world.apply(&with_role("security")).await;
    let id = asked(&world, &agent, 1).await;
    assert_eq!(
        answer_as(&world, "alice", Grant::Viewer, id, true).await.unwrap().state(),
        "pending"
    );
    assert_eq!(answer_as(&world, "alice", Grant::Viewer, id, true).await, Err(AnswerError::Twice));
    assert_eq!(again(&world, &agent, 2, id).await.decision.verdict, Verdict::RequireApproval);
    assert_eq!(
        answer_as(&world, "carol", Grant::Viewer, id, true).await.unwrap().state(),
        "approved"
    );
    assert_eq!(again(&world, &agent, 3, id).await.decision.verdict, Verdict::Allow);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_refusal_is_enough_even_after_an_approval() {
    let (world, agent) = world().await;
    set_group(&world, group("security", &["alice", "bob"], 2)).await;
    world.apply(&with_role("security")).await;
    let id = asked(&world, &agent, 1).await;
    answer_as(&world, "alice", Grant::Viewer, id, true).await.unwrap();
    let record = answer_as(&world, "alice", Grant::Viewer, id, false).await.unwrap();
    assert_eq!(record.state(), "denied", "a person may think again while it is pending");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_asks_one_group_after_the_other() {
    let (world, agent) = world().await;
    set_group(&world, group("leads", &["lee"], 1)).await;
    set_group(&world, group("directors", &["dora"], 1)).await;
    let stage = |group: &str, share| Stage { group: group.into(), needed: 1, share };
    let chain = ApprovalChain {
        team: "platform".into(),
        stages: vec![stage("leads", 60), stage("directors", 40)],
    };
    world.governance.set_approval_chain(&world.permit(), chain).await.unwrap();
    let id = asked(&world, &agent, 1).await;
    let early = answer_as(&world, "dora", Grant::Viewer, id, true).await;
    assert!(matches!(early, Err(AnswerError::NotAsked(_))), "{early:?}");
    world.clock.advance(Duration::from_secs(61));
    assert_eq!(
        answer_as(&world, "dora", Grant::Viewer, id, true).await.unwrap().state(),
        "approved"
    );
    let entries = world.verified_entries().await;
    let escalated = entries
        .iter()
        .filter(|entry| entry.kind == Kind::Approval && entry.detail["change"] == "escalated");
    assert_eq!(
        escalated.map(|entry| entry.detail["asks"].as_str()).collect::<Vec<_>>(),
        ["directors"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_for_a_session_serves_the_same_tool_and_rules_in_that_session_only() {
    let (world, agent) = world().await;
    let in_session = |action, session, approval, json: &str| Request {
        session: Some(SessionId(session)),
        approval,
        ..world.request(action, json)
    };
    let first = world.ask(&agent, in_session(1, 7, None, BASH)).await.unwrap();
    let id = first.approval.unwrap();
    let permit = world.permit_of("somebody", Grant::Owner);
    world.governance.answer_approval(&permit, id, true, ApprovalScope::Session, "").await.unwrap();
    let granted = world.ask(&agent, in_session(2, 7, Some(id), BASH)).await.unwrap();
    assert_eq!(granted.decision.verdict, Verdict::Allow);
    let other = r#"{"kind":"tool_call","tool":"bash","args":{"cmd":"pwd"}}"#;
    let same_session = world.ask(&agent, in_session(3, 7, None, other)).await.unwrap();
    assert_eq!(same_session.decision.verdict, Verdict::Allow);
    let other_session = world.ask(&agent, in_session(4, 8, None, other)).await.unwrap();
    assert_eq!(other_session.decision.verdict, Verdict::RequireApproval);
    world.apply(&ASK_FOR_BASH.replace("100}", "99}")).await;
    let other_rule = world.ask(&agent, in_session(5, 7, None, other)).await.unwrap();
    assert_eq!(other_rule.decision.verdict, Verdict::RequireApproval);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_to_be_shown_is_refused() {
    let (world, agent) = world().await;
    let large = format!(
        r#"{{"kind":"tool_call","tool":"bash","args":{{"cmd":"{}"}}}}"#,
        "x".repeat(aa_governance::agent::MAX_SHOWN)
    );
    let refused = world.check(&agent, 1, &large).await.unwrap();
    assert_eq!(code(&refused), (Verdict::Deny, ReasonCode::ApprovalDenied));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_rules_still_hold_for_what_was_approved() {
    let (world, agent) = world().await;
    let id = asked(&world, &agent, 1).await;
    approve(&world, id).await;
    world.apply(
        "apiVersion: agent-assembly/v1\nkind: Policy\nmetadata: {name: no-shell, version: '1'}\nspec: {tools: {bash: {allow: false}}}\n",
    )
    .await;
    let denied = again(&world, &agent, 2, id).await;
    assert_eq!(code(&denied), (Verdict::Deny, ReasonCode::ToolDenied));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_serves_until_a_while_after_its_deadline() {
    let (world, agent) = world().await;
    let id = asked(&world, &agent, 1).await;
    approve(&world, id).await;
    world.clock.advance(Duration::from_secs(100 + 900));
    let late = again(&world, &agent, 2, id).await;
    assert_eq!(late.decision.verdict, Verdict::RequireApproval);
    assert_ne!(late.approval, Some(id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_groups_and_chains_are_refused_by_name() {
    let (world, _) = world().await;
    let refused = async |group: ApproverGroup| {
        let error = world.governance.set_approver_group(&world.permit(), group).await.unwrap_err();
        match error {
            GovernanceError::Approvers(error) => error,
            other => panic!("{other}"),
        }
    };
    assert!(matches!(refused(group("", &[], 1)).await, ApproversError::Name(_)));
    assert!(matches!(refused(group("g", &["a"], 2)).await, ApproversError::Quorum { .. }));
    assert!(matches!(refused(group("g", &["a"], 0)).await, ApproversError::Quorum { .. }));
    let many: Vec<_> = (0..101).map(|number| number.to_string()).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert!(matches!(refused(group("g", &many, 1)).await, ApproversError::TooMany { .. }));
    let stage = |share| Stage { group: String::new(), needed: 1, share };
    for stages in [vec![], vec![stage(99)], vec![stage(100), stage(0)], vec![stage(60), stage(60)]]
    {
        let chain = ApprovalChain { team: "t".into(), stages };
        let error = world.governance.set_approval_chain(&world.permit(), chain).await;
        assert!(matches!(error, Err(GovernanceError::Approvers(_))));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_cannot_flood_people_with_requests() {
    let (world, agent) = world().await;
    let call = |number: u128| {
        format!(r#"{{"kind":"tool_call","tool":"bash","args":{{"number":{number}}}}}"#)
    };
    for number in 0..100 {
        let asked = world.check(&agent, number, &call(number)).await.unwrap();
        assert_eq!(asked.decision.verdict, Verdict::RequireApproval);
    }
    let refused = world.check(&agent, 100, &call(100)).await.unwrap();
    assert_eq!(code(&refused), (Verdict::Deny, ReasonCode::ApprovalDenied));
    let joined = world.check(&agent, 101, &call(7)).await.unwrap();
    assert_eq!(joined.decision.verdict, Verdict::RequireApproval, "what is pending can be joined");
    world.clock.advance(Duration::from_secs(101));
    let later = world.check(&agent, 102, &call(102)).await.unwrap();
    assert_eq!(
        later.decision.verdict,
        Verdict::RequireApproval,
        "those that expired count no more"
    );
    let world = world.restarted().await;
    let still = world.check(&agent, 103, &call(102)).await.unwrap();
    assert_eq!(still.approval, later.approval);
}
