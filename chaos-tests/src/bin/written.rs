//! What a durable decision writes: bytes and fsyncs, counted by the store and the same on every machine.
//!
//! `written` decides in this process, over the embedded store in a directory of its own, on a clock that
//! stands still; it closes the store, so that everything has moved where it stays, and prints lines of
//! `<subject>.<unit> <number>` per decision, as `counted --extra` reads them.

use std::{io::Write as _, path::Path, sync::Arc};

use aa_governance::{
    AuditKeys, Governance, GovernanceOptions, Grant, Principal,
    agent::{AgentKeyId, Check, Request},
};
use aa_ledger::MacKey;
use aa_protocol::{Action, ActionId, AgentFacts, AgentId, GovernanceLevel, Timestamp, WorkspaceId};
use aa_runtime::{Clock, ManualClock, Node, NodeOptions, Reply, SeededEntropy};
use aa_store::{RedbOptions, RedbStats, RedbStore};
use serde_json::json;
use zeroize::Zeroizing;

type Error = Box<dyn std::error::Error + Send + Sync>;

const DECISIONS: u128 = 4_096;
/// How many an agent has in flight, by the name of the subject.
const SUBJECTS: [(&str, u128); 2] = [("lone_decision", 1), ("batched_decision", 32)];

fn main() -> Result<(), Error> {
    let mut out = std::io::stdout();
    for (name, in_flight) in SUBJECTS {
        let directory = tempfile::tempdir_in(".")?;
        // One thread: what comes together is committed together, every time.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stats = runtime.block_on(decide(&directory.path().join("store.redb"), in_flight))?;
        let per_decision = |count: u64| count as f64 / DECISIONS as f64;
        writeln!(out, "{name}.log_bytes {:.0}", per_decision(stats.log_bytes))?;
        writeln!(out, "{name}.file_bytes {:.0}", per_decision(stats.file_bytes))?;
        writeln!(out, "{name}.log_fsyncs {:.3}", per_decision(stats.log_fsyncs))?;
    }
    Ok(())
}

/// Makes as many decisions twice, and gives what the store has done for the second half: by then the log's
/// segments are used again, and not written to zeros first.
async fn decide(path: &Path, in_flight: u128) -> Result<RedbStats, Error> {
    // Small enough that everything has moved into the file, but for what closing moves.
    let options =
        RedbOptions { memtable_bytes: 1 << 20, segment_bytes: 1 << 20, ..RedbOptions::default() };
    let store = RedbStore::open(path, options)?;
    let clock = ManualClock::new(Timestamp::from_micros(1_763_900_000_000_000));
    let options = NodeOptions { name: "n".into(), shards: 1, cluster: None };
    let entropy = Arc::new(SeededEntropy::new(1));
    let of_node = Arc::new(store.clone());
    let node = Node::start(of_node, Arc::new(clock.clone()), entropy, options).await?;
    let mac = MacKey::new("k1", &[3; 32])?;
    let keys = AuditKeys { log_seed: Zeroizing::new([9; 32]), mac };
    let governance = Governance::start(
        node.clone(),
        keys,
        aa_chaos_tests::outside::outside(),
        GovernanceOptions::default(),
    );
    let workspace: WorkspaceId = "ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890".parse()?;
    governance.set_up_workspace(workspace, "counter").await?;
    let facts = AgentFacts {
        id: AgentId::of_name(workspace, "reader"),
        name: "reader".to_owned(),
        org: None,
        team: Some("platform".to_owned()),
        governance_level: GovernanceLevel::L1,
        labels: Default::default(),
    };
    let id = AgentKeyId { workspace, agent: facts.id };
    let owner = Principal { workspace, key_id: "counter".to_owned(), grant: Grant::Owner };
    governance.register(&owner.authorize()?, facts, "public-key".to_owned()).await?;
    let action: Action = serde_json::from_value(json!({
        "kind": "tool_call", "tool": "web_search",
        "args": {"query": "governance of agents", "limit": 10},
    }))?;
    let mut before = store.stats();
    for first in (0..2 * DECISIONS).step_by(in_flight as usize) {
        if first == DECISIONS {
            before = store.stats();
        }
        let mut answers = Vec::new();
        let checks = (first..first + in_flight).map(|number| {
            let (reply, answer) = Reply::channel();
            answers.push(answer);
            let id = ActionId::from_bytes(number.to_be_bytes());
            let received = clock.now();
            Check { request: Request::new(id, action.clone(), received), reply }
        });
        governance.check_all(&id, checks.collect());
        for answer in answers {
            answer.await???;
        }
    }
    let after = store.stats();
    node.stop().await;
    Ok(RedbStats {
        log_bytes: after.log_bytes - before.log_bytes,
        file_bytes: after.file_bytes - before.file_bytes,
        log_fsyncs: after.log_fsyncs - before.log_fsyncs,
        ..after
    })
}
