//! The API as its callers see it: requests in, answers out, over the actors and a store in memory.

mod approvals;
mod approvers;
mod audit;
mod budgets;
mod policies;
mod prices;
mod refusals;
mod secrets;

use std::{collections::BTreeMap, sync::Arc};

use aa_governance::{
    AuditKeys, Governance, GovernanceOptions, Grant, Outside, permission::RegisterAgents,
};
use aa_ledger::MacKey;
use aa_notify::{Guard, Roots, SendLimits, Sender, SystemLookup};
use aa_protocol::{AgentFacts, AgentId, WorkspaceId};
use aa_runtime::{Node, NodeOptions, SystemClock, SystemEntropy};
use aa_store::MemoryStore;
use aa_vault::master_key::env::EnvMasterKey;
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::throttle::FailureRate;

const INFO: ApiInfo = ApiInfo { version: "1.2.3" };
const WORKSPACE: &str = "ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890";

/// A control plane's API with one workspace.
struct Fixture {
    governance: Governance,
    router: Router,
    owner: String,
}

/// What came back.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

fn api(governance: Governance) -> Api {
    Api { governance, throttle: throttle(), links: None }
}

fn throttle() -> Arc<FailureThrottle> {
    Arc::new(FailureThrottle::new(FailureRate::default(), Arc::new(SystemClock)))
}

impl Fixture {
    async fn new() -> Self {
        Self::over(MemoryStore::new(), GovernanceOptions::default()).await
    }

    async fn over(store: MemoryStore, options: GovernanceOptions) -> Self {
        let node = Node::start(
            Arc::new(store),
            Arc::new(SystemClock),
            Arc::new(SystemEntropy),
            NodeOptions::embedded(),
        )
        .await
        .unwrap();
        let mac = MacKey::new("k1", &[7; 32]).unwrap();
        let master = EnvMasterKey::from_lookup("TEST_MASTER_KEY", None, |_| Some("A".repeat(43)));
        let roots = Roots::Only(Vec::new());
        let limits = SendLimits::default();
        let sender = Sender::new(
            Guard::new(["127.0.0.0/8".parse().unwrap()]),
            Arc::new(SystemLookup),
            &roots,
            limits,
        );
        let (master_key, sender) = (Arc::new(master.unwrap()), Arc::new(sender.unwrap()));
        let outside = Outside { master_key, sender };
        let keys = AuditKeys { log_seed: [9; 32].into(), mac };
        let governance = Governance::start(node, keys, outside, options);
        let workspace = workspace();
        governance.set_up_workspace(workspace, "test").await.unwrap();
        let (_, owner) = governance.set_up_key(workspace, "owner", Grant::Owner).await.unwrap();
        let router = router(api(governance.clone()), INFO);
        Self { governance, router, owner: owner.expose().to_owned() }
    }

    /// The same with other bounds.
    fn with(self, change: impl FnOnce(&mut ApiState)) -> Self {
        let mut state = ApiState::new(api(self.governance.clone()), INFO);
        change(&mut state);
        Self { router: service(Arc::new(state)), ..self }
    }

    async fn key(&self, grant: Grant) -> String {
        let made = self.governance.set_up_key(workspace(), "test", grant).await;
        made.unwrap().1.expose().to_owned()
    }

    /// An owner's key of another workspace.
    async fn stranger(&self) -> String {
        let other: WorkspaceId = "ws-00000000-e5f6-7890-abcd-ef1234567890".parse().unwrap();
        self.governance.set_up_workspace(other, "other").await.unwrap();
        let made = self.governance.set_up_key(other, "owner", Grant::Owner).await;
        made.unwrap().1.expose().to_owned()
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// Sends with a key and a body of a type.
    async fn call(
        &self,
        key: &str,
        method: Method,
        path: &str,
        content: Option<(&str, Vec<u8>)>,
    ) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header(header::AUTHORIZATION, format!("Bearer {key}"));
        let body = match content {
            Some((content_type, body)) => {
                request = request.header(header::CONTENT_TYPE, content_type);
                Body::from(body)
            }
            None => Body::empty(),
        };
        self.send(request.body(body).unwrap()).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.call(&self.owner, Method::GET, path, None).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        let content = ("application/json", serde_json::to_vec(&body).unwrap());
        self.call(&self.owner, Method::POST, path, Some(content)).await
    }

    async fn put(&self, path: &str, body: Value) -> Answer {
        let content = ("application/json", serde_json::to_vec(&body).unwrap());
        self.call(&self.owner, Method::PUT, path, Some(content)).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.call(&self.owner, Method::DELETE, path, None).await
    }

    async fn apply(&self, query: &str, document: &str) -> Answer {
        let content = ("application/yaml", document.as_bytes().to_vec());
        let path = format!("/policies{query}");
        self.call(&self.owner, Method::POST, &path, Some(content)).await
    }

    async fn register(&self, name: &str) -> AgentId {
        let (_, key) = self.governance.set_up_key(workspace(), "sdk", Grant::Agent).await.unwrap();
        let principal = self.governance.authenticate(&key).await.unwrap().unwrap();
        let permit = principal.authorize::<RegisterAgents>().unwrap();
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
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The problem document of a refusal, whose form is checked.
    #[track_caller]
    fn problem(&self, status: u16, name: &str) -> Problem {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json");
        let problem: Problem = serde_json::from_slice(&self.body).unwrap();
        assert_eq!((problem.status, problem.name()), (status, name));
        assert!(!problem.title.is_empty() && !problem.detail.is_empty());
        problem
    }

    #[track_caller]
    fn ok(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self
    }
}

fn workspace() -> WorkspaceId {
    WORKSPACE.parse().unwrap()
}

#[tokio::test]
async fn health_needs_no_key_and_reads_the_store() {
    let fixture = Fixture::new().await;
    let request = Request::get("/api/v1/health").body(Body::empty()).unwrap();
    let answer = fixture.send(request).await.ok(200);
    assert_eq!(answer.json(), json!({"status": "ok", "version": "1.2.3", "store": "ok"}));
}

#[tokio::test]
async fn every_answer_carries_the_security_headers() {
    let fixture = Fixture::new().await;
    for path in ["/health", "/policies", "/nothing"] {
        let headers = fixture.get(path).await.headers;
        assert_eq!(headers[header::CACHE_CONTROL], "no-store");
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(headers[header::STRICT_TRANSPORT_SECURITY], "max-age=31536000");
        assert!(headers.contains_key(header::CONTENT_SECURITY_POLICY));
    }
}

#[tokio::test]
async fn the_openapi_document_describes_every_route_and_its_key() {
    let fixture = Fixture::new().await;
    let document = fixture.get("/openapi.json").await.ok(200).json();
    assert_eq!(document["openapi"], "3.1.0");
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            operations.push(format!("{method} {path}"));
            // Slack signs its requests instead.
            let is_open = path == "/api/v1/health" || path.starts_with("/api/v1/slack/");
            assert_eq!(operation["security"].is_null(), is_open, "{method} {path}");
            assert!(operation["operationId"].is_string(), "{method} {path}");
        }
    }
    operations.sort();
    assert_eq!(
        operations,
        [
            "delete /api/v1/alerts/destinations/{name}",
            "delete /api/v1/alerts/rules/{name}",
            "delete /api/v1/approvers/chains/teams/{team}",
            "delete /api/v1/approvers/chains/workspace",
            "delete /api/v1/approvers/groups/{name}",
            "delete /api/v1/budgets/teams/{team}/{window}",
            "delete /api/v1/budgets/workspace/{window}",
            "delete /api/v1/keys/{id}",
            "delete /api/v1/policies/{name}",
            "delete /api/v1/secrets/{name}",
            "delete /api/v1/secrets/{name}/release",
            "get /api/v1/agents",
            "get /api/v1/agents/{id}",
            "get /api/v1/agents/{id}/spending",
            "get /api/v1/alerts",
            "get /api/v1/alerts/dead-letters",
            "get /api/v1/approvals",
            "get /api/v1/approvals/{id}",
            "get /api/v1/approvals/{id}/proposals",
            "get /api/v1/approvers",
            "get /api/v1/audit/checkpoint",
            "get /api/v1/audit/entries",
            "get /api/v1/audit/export",
            "get /api/v1/audit/keys",
            "get /api/v1/audit/tail",
            "get /api/v1/budgets",
            "get /api/v1/budgets/teams/{team}/{window}",
            "get /api/v1/budgets/workspace/{window}",
            "get /api/v1/cluster",
            "get /api/v1/cluster/nodes",
            "get /api/v1/cluster/shards",
            "get /api/v1/health",
            "get /api/v1/keys",
            "get /api/v1/metrics",
            "get /api/v1/policies",
            "get /api/v1/policies/{name}",
            "get /api/v1/policies/{name}/history",
            "get /api/v1/policies/{name}/source",
            "get /api/v1/prices",
            "get /api/v1/secrets",
            "post /api/v1/agents/{id}/resume",
            "post /api/v1/agents/{id}/suspend",
            "post /api/v1/alerts/dead-letters/discard",
            "post /api/v1/alerts/dead-letters/replay",
            "post /api/v1/alerts/destinations/{name}/test",
            "post /api/v1/approvals/{id}/approve",
            "post /api/v1/approvals/{id}/deny",
            "post /api/v1/cluster/nodes/{name}/drain",
            "post /api/v1/cluster/nodes/{name}/undrain",
            "post /api/v1/cluster/shards/{shard}/move",
            "post /api/v1/keys",
            "post /api/v1/policies",
            "post /api/v1/policies/{name}/rollback",
            "post /api/v1/slack/{workspace}/{destination}",
            "post /api/v1/vault/rotate",
            "post /api/v1/vault/rotate-master",
            "post /api/v1/workspace/backup",
            "put /api/v1/alerts/destinations/{name}",
            "put /api/v1/alerts/rules/{name}",
            "put /api/v1/approvers/chains/teams/{team}",
            "put /api/v1/approvers/chains/workspace",
            "put /api/v1/approvers/groups/{name}",
            "put /api/v1/budgets/teams/{team}/{window}",
            "put /api/v1/budgets/workspace/{window}",
            "put /api/v1/prices",
            "put /api/v1/secrets/{name}",
        ]
    );
    assert_eq!(document["components"]["securitySchemes"]["api_key"]["scheme"], "bearer");
}

#[tokio::test]
async fn metrics_are_readable_by_a_viewer() {
    let fixture = Fixture::new().await;
    let viewer = fixture.key(Grant::Viewer).await;
    let answer = fixture.call(&viewer, Method::GET, "/metrics", None).await.ok(200);
    assert!(answer.text().contains("aa_decisions_total{verdict=\"deny\"} 0\n"));
    assert!(answer.text().contains("# TYPE aa_journal_commits_total counter\n"));
}

#[tokio::test]
async fn agents_are_listed_page_by_page_and_each_can_be_suspended_and_resumed() {
    let fixture = Fixture::new().await;
    let mut ids: Vec<String> = Vec::new();
    for name in ["a", "b", "c"] {
        ids.push(fixture.register(name).await.to_string());
    }
    ids.sort();
    let first = fixture.get("/agents?limit=2").await.ok(200).json();
    assert_eq!(first["agents"].as_array().unwrap().len(), 2);
    let next = first["next"].as_str().unwrap();
    let second = fixture.get(&format!("/agents?limit=2&after={next}")).await.ok(200).json();
    assert_eq!(second["next"], Value::Null);
    let listed: Vec<_> = [&first, &second]
        .into_iter()
        .flat_map(|page| page["agents"].as_array().unwrap())
        .map(|agent| agent["id"].as_str().unwrap())
        .collect();
    assert_eq!(listed, ids);

    let path = format!("/agents/{}", ids[0]);
    let suspended = fixture.post(&format!("{path}/suspend"), json!({"reason": "odd"})).await;
    let suspended = suspended.ok(200).json();
    assert_eq!(
        (&suspended["status"], &suspended["suspended"]["reason"]),
        (&json!("suspended"), &json!("odd"))
    );
    let agent = fixture.get(&path).await.ok(200).json();
    assert_eq!(agent, suspended);
    assert_eq!((&agent["team"], &agent["governance_level"]), (&json!("platform"), &json!("L0")));
    // No body is needed.
    let key = &fixture.owner;
    let resumed = fixture.call(key, Method::POST, &format!("{path}/resume"), None).await;
    assert_eq!(resumed.ok(200).json()["status"], "active");
}

#[tokio::test]
async fn keys_are_made_shown_once_and_revoked() {
    let fixture = Fixture::new().await;
    let made = fixture.post("/keys", json!({"name": "ci", "role": "viewer"})).await.ok(201).json();
    let (id, secret) = (made["id"].as_str().unwrap(), made["secret"].as_str().unwrap());
    assert!(secret.starts_with(&format!("aak_{id}_")));
    let listed = fixture.get("/keys").await.ok(200);
    assert!(!listed.text().contains(secret) && !listed.text().contains("digest"));
    fixture.call(secret, Method::GET, "/policies", None).await.ok(200);
    let revoked = fixture.delete(&format!("/keys/{id}")).await.ok(200).json();
    assert!(revoked["revoked_at"].is_string());
    let refused = fixture.call(secret, Method::GET, "/policies", None).await;
    refused.problem(401, "unauthenticated");
    fixture.delete("/keys/nonesuch22").await.problem(404, "not-found");
}

#[tokio::test]
async fn the_last_owner_key_stays_and_a_developer_reaches_its_own_only() {
    let fixture = Fixture::new().await;
    let owner = fixture.owner.split('_').nth(1).unwrap().to_owned();
    fixture.delete(&format!("/keys/{owner}")).await.problem(409, "conflict");
    let developer = fixture.key(Grant::Developer).await;
    let content = |role: &str| {
        let body = serde_json::to_vec(&json!({"name": "x", "role": role})).unwrap();
        Some(("application/json", body))
    };
    let post = Method::POST;
    fixture.call(&developer, post.clone(), "/keys", content("viewer")).await.ok(201);
    let refused = fixture.call(&developer, post, "/keys", content("owner")).await;
    assert!(refused.problem(403, "forbidden").detail.contains("it takes owner"));
    let listed = fixture.call(&developer, Method::GET, "/keys", None).await.ok(200).json();
    assert_eq!(listed["keys"].as_array().unwrap().len(), 1);
    let path = format!("/keys/{owner}");
    fixture.call(&developer, Method::DELETE, &path, None).await.problem(403, "forbidden");
}
