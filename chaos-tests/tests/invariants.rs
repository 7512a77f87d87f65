//! The invariants' checks fail where they must: what is sound passes, and each falsehood is called by its name.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{path::Path, time::Duration};

use aa_chaos_tests::{
    invariants::{
        Acknowledged, Replay, ShardState, ShardWatch, Violation, check_export_file, shard_states,
    },
    operator::Operator,
    peer::{ORDINARY, Peer, connect, tool_call},
    process::ControlPlaneProcess,
};
use aa_protocol::{Action, ActionId, EventId, Verdict, WorkspaceId};
use aa_store::{RedbOptions, RedbStore};
use reqwest::Method;

const PATIENCE: Duration = Duration::from_secs(60);
const LAG: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sound_passes_and_each_falsehood_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let (data, export) = (directory.path().join("data"), directory.path().join("export.jsonl"));
    let any = "127.0.0.1:0".parse().unwrap();
    let process =
        ControlPlaneProcess::start(Path::new(env!("CARGO_BIN_EXE_victim")), &data, any, any);
    let process = process.await.unwrap();
    let operator = Operator::owner(&process.env, PATIENCE).unwrap();
    let rules = "scope: global\ntools: {bash: {allow: false}}";
    operator.call(Method::POST, "/policies?name=rules", rules).await.unwrap();
    let peer =
        Peer::register(connect(&process.env).await.unwrap(), &process.env, "a").await.unwrap();
    let mut told = Vec::new();
    for _ in 0..10 {
        let message = tool_call(ORDINARY);
        let action = ActionId::from_bytes(message.id.as_ref().try_into().unwrap());
        let decision = peer.check(message).await.unwrap();
        let verdict = Some(decision.to_decision().unwrap().verdict);
        told.push(Acknowledged { action, event: decision.event_id.parse().unwrap(), verdict });
    }
    operator.export(&export).await.unwrap();
    let sources = operator.policy_sources().await.unwrap();
    let workspace: WorkspaceId = process.env.workspace_id().parse().unwrap();
    process.interrupt().await.unwrap();

    // What clients were told.
    let recorded = check_export_file(&export, &told).unwrap();
    assert_eq!((recorded.decisions, recorded.untold), (10, 0));
    let falsified = |change: &dyn Fn(&mut Acknowledged)| {
        let mut told = told.clone();
        change(&mut told[3]);
        check_export_file(&export, &told).unwrap_err()
    };
    let other_event = EventId::from_parts(1, 1);
    let lost = falsified(&|told| told.action = ActionId::from_bytes([1; 16]));
    assert!(matches!(lost, Violation::Lost { .. }), "{lost}");
    let other = falsified(&|told| told.event = other_event);
    assert!(matches!(other, Violation::OtherEvent { .. }), "{other}");
    let verdict = falsified(&|told| told.verdict = Some(Verdict::Deny));
    assert!(matches!(verdict, Violation::OtherVerdict { .. }), "{verdict}");
    let twice = [told.clone(), vec![Acknowledged { event: other_event, ..told[0] }]].concat();
    let twice = check_export_file(&export, &twice).unwrap_err();
    assert!(matches!(twice, Violation::ToldTwice { .. }), "{twice}");

    // What policies say.
    let action = |text: &str| serde_json::from_str::<Action>(text).unwrap();
    let asked = action(r#"{"kind":"tool_call","tool":"web_search"}"#);
    let denied = action(r#"{"kind":"tool_call","tool":"bash"}"#);
    let replayed = Replay::run(&export, &sources, |_| Some(asked.clone()), LAG).unwrap();
    assert_eq!((replayed.again, replayed.stricter, replayed.changes), (10, 0, 2));
    let lenient = Replay::run(&export, &sources, |_| Some(denied.clone()), LAG).unwrap_err();
    assert!(matches!(lenient, Violation::AgainstPolicy { due: Verdict::Deny, .. }), "{lenient}");
    let mut changed = sources.clone();
    changed.insert(("rules".to_owned(), 1), b"scope: global".to_vec());
    let source = Replay::run(&export, &changed, |_| None, LAG).err().unwrap();
    assert!(matches!(source, Violation::Source { .. }), "{source}");

    // What the store says of its shards.
    let store = RedbStore::open(data.join("store.redb"), RedbOptions::default()).unwrap();
    let states = shard_states(&store, workspace).await.unwrap().unwrap();
    assert_eq!(states.iter().map(|state| state.end).sum::<u64>(), recorded.entries);
    let falsified = |change: &dyn Fn(&mut ShardState)| {
        let mut watch = ShardWatch::default();
        watch.look(states.clone()).unwrap();
        watch.look(states.clone()).unwrap();
        let mut states = states.clone();
        states.iter_mut().for_each(change);
        watch.look(states)
    };
    falsified(&|state| state.epoch += 1).unwrap();
    let back = falsified(&|state| state.epoch -= 1).unwrap_err();
    assert!(matches!(back, Violation::Epoch { .. }), "{back}");
    let two = falsified(&|state| state.owner.push('2')).unwrap_err();
    assert!(matches!(two, Violation::Epoch { .. }), "{two}");
    let shrunk = falsified(&|state| state.end = state.end.saturating_sub(1)).unwrap_err();
    assert!(matches!(shrunk, Violation::Shrunk { .. }), "{shrunk}");
}
