//! A node with its actors over the memory store, for the tests beside it.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use aa_governance::{
    AuditKeys, Governance, GovernanceOptions, Grant, Outside, Permit, Principal,
    agent::{AgentKeyId, Answer, NotRegistered, Request},
    permission::Operation,
};
use aa_ledger::MacKey;
use aa_notify::{Guard, Lookup, Roots, SendLimits, Sender};
use aa_protocol::{Action, ActionId, AgentFacts, AgentId, GovernanceLevel, Timestamp, WorkspaceId};
use aa_runtime::{Clock, Fault, ManualClock, Node, NodeOptions, Reply, SeededEntropy};
use aa_store::{FaultRates, Faults, MemoryStore, Store, SystemClock as StoreSystemClock};
use aa_vault::master_key::env::EnvMasterKey;
use zeroize::Zeroizing;

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const MAC_SECRET: [u8; 32] = [3; 32];

pub(crate) struct World {
    pub(crate) governance: Governance,
    pub(crate) node: Node,
    pub(crate) clock: ManualClock,
    pub(crate) faults: Faults,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) workspace: WorkspaceId,
}

impl World {
    pub(crate) async fn new() -> Self {
        let (store, faults) = new_store();
        let noon: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let world = Self::over(store, faults, ManualClock::new(noon)).await;
        world.governance.set_up_workspace(world.workspace, "test").await.unwrap();
        world
    }

    /// A new process over what an earlier one left.
    pub(crate) async fn restarted(self) -> Self {
        self.node.stop().await;
        Self::over(self.store, self.faults, self.clock).await
    }

    /// A new process over what an earlier one left, to whose store it has a way of its own.
    pub(crate) async fn restarted_over(
        self,
        way: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
    ) -> Self {
        self.node.stop().await;
        Self::over(way(self.store), self.faults, self.clock).await
    }

    /// A second process over the same store, which takes the shards away from this one, as this one does from it.
    pub(crate) async fn beside(&self) -> Self {
        Self::over(Arc::clone(&self.store), self.faults.clone(), self.clock.clone()).await
    }

    /// A process over what the store holds.
    pub(crate) async fn over(store: Arc<dyn Store>, faults: Faults, clock: ManualClock) -> Self {
        let entropy = Arc::new(SeededEntropy::new(clock.now().as_micros() as u64));
        let options = NodeOptions { name: "n".into(), shards: 2, cluster: None };
        let node = Node::start(Arc::clone(&store), Arc::new(clock.clone()), entropy, options)
            .await
            .unwrap();
        let keys = AuditKeys {
            log_seed: Zeroizing::new([9; 32]),
            mac: MacKey::new("k1", &MAC_SECRET).unwrap(),
        };
        let governance =
            Governance::start(node.clone(), keys, outside(), GovernanceOptions::default());
        let workspace = "ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890".parse().unwrap();
        Self { governance, node, clock, faults, store, workspace }
    }

    pub(crate) fn principal(&self, grant: Grant) -> Principal {
        Principal { workspace: self.workspace, key_id: "test".into(), grant }
    }

    /// The permit of the key with this id, an owner's unless told otherwise.
    pub(crate) fn permit_of<O: Operation>(&self, key_id: &str, grant: Grant) -> Permit<O> {
        Principal { key_id: key_id.into(), ..self.principal(grant) }.authorize().unwrap()
    }

    pub(crate) fn permit<O: Operation>(&self) -> Permit<O> {
        self.principal(Grant::Owner).authorize().unwrap()
    }

    pub(crate) fn id(&self, name: &str) -> AgentKeyId {
        AgentKeyId { workspace: self.workspace, agent: AgentId::of_name(self.workspace, name) }
    }

    pub(crate) async fn register(&self, name: &str) -> AgentKeyId {
        let id = self.id(name);
        let facts = AgentFacts {
            id: id.agent,
            name: name.into(),
            org: None,
            team: Some("platform".into()),
            governance_level: GovernanceLevel::L0,
            labels: Default::default(),
        };
        let key = "public-key".to_owned();
        self.governance.register(&self.permit(), facts, key).await.unwrap();
        id
    }

    pub(crate) async fn apply(&self, source: &str) -> aa_governance::policy_set::Applied {
        let source = bytes::Bytes::copy_from_slice(source.as_bytes());
        let applied =
            self.governance.apply_policy(&self.permit(), source, "flat".into(), false).await;
        applied.unwrap()
    }

    pub(crate) fn request(&self, action: u128, json: &str) -> Request {
        Request::new(ActionId::from_bytes(action.to_be_bytes()), action_of(json), self.clock.now())
    }

    pub(crate) async fn check(
        &self,
        id: &AgentKeyId,
        action: u128,
        json: &str,
    ) -> Result<Answer, Fault> {
        self.ask(id, self.request(action, json)).await
    }

    pub(crate) async fn ask(&self, id: &AgentKeyId, request: Request) -> Result<Answer, Fault> {
        let (reply, answer) = Reply::channel();
        self.governance.check(id, request, reply);
        settled(answer).await.map(|answer| answer.unwrap())
    }

    /// Checks until the shard is back after a fault, always with the same action id.
    pub(crate) async fn check_again(&self, id: &AgentKeyId, action: u128, json: &str) -> Answer {
        let checking = async {
            loop {
                match self.check(id, action, json).await {
                    Ok(answer) => return answer,
                    Err(fault) => assert!(fault.is_retryable(), "{fault}"),
                }
                self.clock.advance(Duration::from_millis(1));
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, checking).await.expect("the shard comes back")
    }

    /// The whole audit log as an export.
    pub(crate) async fn export(&self) -> Vec<u8> {
        use aa_governance::audit::ExportFormat;
        let permit = self.permit();
        let mut export =
            self.governance.export(&permit, ExportFormat::JsonLines, None, "0").await.unwrap();
        let mut text = Vec::new();
        while let Some(chunk) = export.chunks.recv().await {
            text.extend_from_slice(&chunk.unwrap());
        }
        text
    }

    /// Exports, verifies everything and returns the entries.
    pub(crate) async fn verified_entries(&self) -> Vec<aa_ledger::Entry> {
        let text = self.export().await;
        let report = verify(&text);
        assert!(report.intact, "{report}");
        let lines: Vec<_> = text.split(|byte| *byte == b'\n').filter(|l| !l.is_empty()).collect();
        let entries = lines[1..lines.len() - 1].iter();
        entries.map(|line| aa_ledger::Entry::parse(line).unwrap()).collect()
    }
}

/// An empty store, and the faults that can be asked of it.
pub(crate) fn new_store() -> (Arc<dyn Store>, Faults) {
    faulty_store(0)
}

/// The same; what chance decides follows from the seed.
pub(crate) fn faulty_store(seed: u64) -> (Arc<dyn Store>, Faults) {
    let faults = Faults::seeded(seed, FaultRates::default());
    let store = MemoryStore::with(Arc::new(StoreSystemClock::default()), faults.clone());
    (Arc::new(store), faults)
}

/// Resolves nothing: tests stay on this machine.
struct NoNames;

#[async_trait::async_trait]
impl Lookup for NoNames {
    async fn lookup(&self, host: &str) -> std::io::Result<Vec<std::net::IpAddr>> {
        Err(std::io::Error::other(format!("{host} is not looked up in a test")))
    }
}

/// The same in every process: a master key, and a sender that may dial this machine.
pub(crate) fn outside() -> Outside {
    let key = EnvMasterKey::from_lookup("TEST_MASTER_KEY", None, |_| Some("A".repeat(43)));
    let guard = Guard::new(["127.0.0.0/8".parse().unwrap()]);
    let roots = Roots::Only(Vec::new());
    let sender = Sender::new(guard, Arc::new(NoNames), &roots, SendLimits::default());
    Outside { master_key: Arc::new(key.unwrap()), sender: Arc::new(sender.unwrap()) }
}

pub(crate) fn verify(text: &[u8]) -> aa_ledger::Report {
    let secret: String = MAC_SECRET.iter().map(|byte| format!("{byte:02x}")).collect();
    let header: serde_json::Value =
        serde_json::from_slice(text.split(|byte| *byte == b'\n').next().unwrap()).unwrap();
    let log_key = header["log_key"].as_str().unwrap();
    let keys = serde_json::json!({
        "log_keys": [{"key": log_key}],
        "mac_keys": [{"id": "k1", "secret": secret}],
    });
    let keys = aa_ledger::Keys::parse(&keys.to_string()).unwrap();
    let mut reader = std::io::Cursor::new(text.to_vec());
    let mut exports = [aa_ledger::Export { name: "export", reader: &mut reader }];
    aa_ledger::verify(&mut exports, Some(&keys), None).unwrap()
}

pub(crate) fn action_of(json: &str) -> Action {
    serde_json::from_str(json).unwrap()
}

pub(crate) async fn settled(
    answer: tokio::sync::oneshot::Receiver<Result<Result<Answer, NotRegistered>, Fault>>,
) -> Result<Result<Answer, NotRegistered>, Fault> {
    tokio::time::timeout(PATIENCE, answer)
        .await
        .expect("every action is answered")
        .unwrap_or(Err(Fault::Gone))
}

pub(crate) const BASH: &str = r#"{"kind":"tool_call","tool":"bash","args":{"cmd":"ls"}}"#;
