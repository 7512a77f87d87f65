//! Two tenants of one machine, and what they can learn of each other.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, sync::Arc};

use aa_chaos_tests::{
    invariants::{Tenant, check_tenancy},
    outside::outside,
    peer::PeerError,
};
use aa_control_plane::{
    admission::Limits,
    gateway::Gateway,
    rest::{Api, ApiInfo, router},
    throttle::{FailureRate, FailureThrottle},
    token::TokenKey,
};
use aa_governance::{
    AuditKeys, Governance, GovernanceOptions, Grant,
    permission::{ManagePolicies, ReadAudit, RegisterAgents},
};
use aa_ledger::MacKey;
use aa_protocol::{
    AgentFacts, AgentId, WorkspaceId,
    wire::v1::{self, gateway_server::Gateway as _},
};
use aa_runtime::{Node, NodeOptions, SystemClock, SystemEntropy};
use aa_store::MemoryStore;
use tonic::{Code, Request};

const INFO: ApiInfo = ApiInfo { version: "0" };

async fn governance() -> Governance {
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
    let store = Arc::new(MemoryStore::new());
    let node = Node::start(store, clock, entropy, NodeOptions::embedded()).await.unwrap();
    let mac = MacKey::new("k1", &[7; 32]).unwrap();
    let keys = AuditKeys { log_seed: [9; 32].into(), mac };
    Governance::start(node, keys, outside(), GovernanceOptions::default())
}

/// A workspace with an agent, a policy, keys and a log, all of which bear its mark.
async fn tenant(governance: &Governance, name: &str) -> (WorkspaceId, Tenant) {
    let workspace = WorkspaceId::from_uuid(uuid::Uuid::new_v4());
    let mark = format!("mark-of-{name}");
    governance.set_up_workspace(workspace, &mark).await.unwrap();
    let (record, key) = governance.set_up_key(workspace, &mark, Grant::Owner).await.unwrap();
    let principal = governance.authenticate(&key).await.unwrap().unwrap();
    let facts = AgentFacts {
        id: AgentId::of_name(workspace, &mark),
        name: mark.clone(),
        org: None,
        team: Some(mark.clone()),
        governance_level: Default::default(),
        labels: BTreeMap::from([("mark".to_owned(), mark.clone())]),
    };
    let permit = principal.authorize::<RegisterAgents>().unwrap();
    let agent = governance.register(&permit, facts, "key".to_owned()).await.unwrap().id;
    let source = format!("scope: global\ndescription: {mark}\ntools: {{{mark}: {{allow: false}}}}");
    let permit = principal.authorize::<ManagePolicies>().unwrap();
    let policy = "rules".to_owned();
    governance.apply_policy(&permit, source.into(), policy.clone(), false).await.unwrap();
    let permit = principal.authorize::<ReadAudit>().unwrap();
    let page = governance.entries(&permit, &Default::default(), None, 1).await.unwrap();
    let event = aa_ledger::Entry::parse(&page.lines[0]).unwrap().id.to_string();
    let tenant = Tenant {
        name: name.to_owned(),
        owner_key: key.expose().to_owned(),
        agent: agent.to_string(),
        policy,
        key: record.id,
        event,
        marks: vec![mark, workspace.to_string()],
    };
    (workspace, tenant)
}

#[tokio::test]
async fn no_route_of_the_api_shows_or_changes_what_is_another_tenants() {
    let governance = governance().await;
    let (_, one) = tenant(&governance, "one").await;
    let (_, other) = tenant(&governance, "other").await;
    let throttle = FailureThrottle::new(FailureRate::default(), Arc::new(SystemClock));
    let api = router(Api { governance, throttle: Arc::new(throttle), links: None }, INFO);
    let checked = check_tenancy(&api, &one, &other).await.unwrap();
    assert!(checked.requests > 60, "{checked:?}");
    assert!(checked.refused > 20, "{checked:?}");
    assert!(checked.marked >= 10, "what is looked for must be there to be found: {checked:?}");
    check_tenancy(&api, &other, &one).await.unwrap();
}

#[tokio::test]
async fn a_key_registers_agents_in_its_own_workspace_only() -> Result<(), PeerError> {
    let governance = governance().await;
    let (workspace, _) = tenant(&governance, "one").await;
    let (_, other) = tenant(&governance, "other").await;
    let (_drain, draining) = tokio::sync::watch::channel(false);
    let tokens = TokenKey::new(&[5; 32]);
    let gateway = Gateway::new(governance, tokens, Limits::default(), draining);
    let begin = v1::BeginRegistrationRequest { workspace_id: workspace.to_string() };
    let mut request = Request::new(begin);
    request.metadata_mut().insert("authorization", format!("Bearer {}", other.owner_key).parse()?);
    let refused = gateway.begin_registration(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    Ok(())
}
