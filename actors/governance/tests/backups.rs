//! What who takes a backup of a workspace, and restores it, can rely on.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use std::{collections::BTreeMap, io::Write, sync::Arc, time::Duration};

use aa_budget::{Limits, Period};
use aa_governance::{
    GovernanceError, Grant,
    agent::AgentKeyId,
    api_key::ApiKey,
    approval_record::ApprovalScope,
    backup::{
        BackupError, Contents, FileError, Phase, RestoreError, Restored, Standing, Trust,
        VerifiedFile, restore, undo, verify,
    },
    budget_book::{BudgetTerms, OnExceeded},
    keys::{self, Space},
    prices::PriceTerms,
    spender::Spender,
};
use aa_ledger::{Entry, Keys, Kind, PinnedCheckpoint};
use aa_notify::{Channel, Destination, Rule, WebhookChannel};
use aa_protocol::{ActionId, ApprovalId, EventId, NanoUsd, WorkspaceId};
use aa_runtime::SystemEntropy;
use aa_store::{
    CommitError, Fault, FaultRates, KeyRange, Order, Store, StoreError, Transaction, Version, Watch,
};
use aa_vault::SecretValue;
use bytes::Bytes;
use proptest::{prelude::*, test_runner::FileFailurePersistence};
use tempfile::NamedTempFile;
use world::{BASH, PATIENCE, World, new_store};

const ASK_FOR_RM: &str = "\
apiVersion: agent-assembly/v1
kind: Policy
metadata: {name: ask, version: '1'}
spec:
  tools:
    rm: {requires_approval_if: 'true'}
    curl: {allow: false}
    bash: {limit_per_hour: 900}
  approval: {timeout_seconds: 3600}
";
const RM: &str = r#"{"kind":"tool_call","tool":"rm","args":{"path":"/tmp/x"}}"#;
const CURL: &str = r#"{"kind":"tool_call","tool":"curl","args":{}}"#;

fn call(output: u64) -> String {
    format!(
        r#"{{"kind":"llm_call","model":"test-model","messages":[],"max_output_tokens":{output}}}"#
    )
}

fn result(call: u128, tokens: u64) -> String {
    let id = ActionId::from_bytes(call.to_be_bytes());
    format!(
        r#"{{"kind":"llm_result","model":"test-model","content":"x","call":"{id}","usage":{{"input_tokens":0,"output_tokens":{tokens}}}}}"#
    )
}

/// A backup as a file.
async fn back_up(world: &World) -> NamedTempFile {
    let mut backup = world.governance.back_up(&world.permit(), "0.0.0").await.unwrap();
    assert_eq!(backup.workspace, world.workspace);
    let mut file = NamedTempFile::new().unwrap();
    while let Some(chunk) = backup.chunks.recv().await {
        let chunk = chunk.unwrap();
        assert!(chunk.len() <= 64 << 10, "chunks are bounded");
        file.write_all(&chunk).unwrap();
    }
    file
}

fn verified(file: &NamedTempFile) -> Contents {
    verify(std::io::BufReader::new(file.reopen().unwrap()), None, None).unwrap()
}

async fn restore_into(
    file: &NamedTempFile,
    store: &dyn Store,
    shards: u16,
) -> Result<Restored, RestoreError> {
    // A new store has to be told what its first workspace is.
    let mut txn = store.begin().await.unwrap();
    let others = txn.range_snapshot(&keys::workspaces(), 1, Order::Forward).await.unwrap();
    let standing = others.is_empty().then_some(Standing::Home);
    restore_as(file, store, shards, standing).await
}

async fn restore_as(
    file: &NamedTempFile,
    store: &dyn Store,
    shards: u16,
    standing: Option<Standing>,
) -> Result<Restored, RestoreError> {
    let verified = VerifiedFile::open(file.path(), None)?;
    restore(verified, store, shards, standing, &SystemEntropy, |_| {}).await
}

/// The workspace in another store, and a process over that.
async fn restored(file: &NamedTempFile, shards: u16, from: &World) -> World {
    let (store, faults) = new_store();
    let restored = restore_into(file, &*store, shards).await.unwrap();
    assert_eq!(restored.shards, shards);
    World::over(store, faults, from.clock.clone()).await
}

async fn pairs(store: &dyn Store, mut range: KeyRange) -> Vec<(Bytes, Bytes)> {
    let mut all = Vec::new();
    loop {
        let mut txn = store.begin().await.unwrap();
        let page = txn.range_snapshot(&range, 500, Order::Forward).await.unwrap();
        let Some((last, _)) = page.last() else { return all };
        range = range.after(last);
        all.extend(page);
    }
}

/// What there is of a workspace, but for what follows from the layout.
async fn state(world: &World) -> BTreeMap<&'static str, Vec<(Bytes, Bytes)>> {
    let mut state = BTreeMap::new();
    for space in Space::ALL {
        if !matches!(
            space,
            Space::Recent | Space::Segment | Space::Tree | Space::Head | Space::AlertCursor
        ) {
            let rows = pairs(&*world.store, space.rows(world.workspace)).await;
            state.insert(space.name(), rows);
        }
    }
    state
}

fn lines(export: &[u8]) -> Vec<&[u8]> {
    let lines = export.split(|byte| *byte == b'\n');
    lines.filter(|line| line.starts_with(b"{\"v\":")).collect()
}

/// What a workload did, as its callers know it.
#[derive(Default)]
struct Done {
    answers: Vec<(AgentKeyId, u128, String, EventId)>,
    calls: Vec<(AgentKeyId, u128)>,
    asked: Vec<ApprovalId>,
    keys: Vec<(String, ApiKey)>,
    secrets: BTreeMap<String, String>,
    actions: u128,
}

#[derive(Clone, Debug)]
enum Step {
    Act(u8),
    Deny(u8),
    Ask(u8),
    Approve,
    Call(u8),
    Settle,
    Secret(u8),
    Key,
    Revoke,
    Policy(u8),
    Suspend(u8),
    Checkpoint,
    Pass,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..5_u8).prop_map(Step::Act),
        1 => (0..5_u8).prop_map(Step::Deny),
        2 => (0..5_u8).prop_map(Step::Ask),
        1 => Just(Step::Approve),
        3 => (0..5_u8).prop_map(Step::Call),
        2 => Just(Step::Settle),
        1 => (0..3_u8).prop_map(Step::Secret),
        1 => Just(Step::Key),
        1 => Just(Step::Revoke),
        1 => any::<u8>().prop_map(Step::Policy),
        1 => (0..5_u8).prop_map(Step::Suspend),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Pass),
    ]
}

/// A workspace in which everything there is can happen.
async fn furnished() -> World {
    let world = World::new().await;
    let prices = serde_json::json!({"overrides": [
        {"model": "test-model", "price": {"input": "0", "output": "1000"}},
    ]});
    let terms: PriceTerms = serde_json::from_value(prices).unwrap();
    world.governance.set_prices(&world.permit(), terms).await.unwrap();
    let budget = BudgetTerms {
        spender: Spender::Team("platform".into()),
        period: Period::Daily,
        limits: Limits::of_cost(NanoUsd::from_usd(1.0).unwrap()),
        action: OnExceeded::Deny,
        alert_at: None,
    };
    world.governance.set_budget(&world.permit(), budget).await.unwrap();
    world.apply(ASK_FOR_RM).await;
    let secret = SecretValue::copy_of(b"whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz").unwrap();
    let name = "alerts/key".parse().unwrap();
    world.governance.set_secret(&world.permit(), name, secret, None).await.unwrap();
    // Nobody listens there: messages stay.
    let channel = WebhookChannel {
        url: "http://127.0.0.1:9/".into(),
        secret: "alerts/key".parse().unwrap(),
        previous_secret: None,
    };
    let destination = Destination::new("ops", Channel::Webhook(channel));
    world.governance.set_alert_destination(&world.permit(), destination).await.unwrap();
    world.governance.set_alert_rule(&world.permit(), Rule::all("all", "ops")).await.unwrap();
    world
}

impl Done {
    async fn run(&mut self, world: &World, step: &Step) {
        let agent = |number: u8| format!("agent-{number}");
        match step {
            Step::Act(number) => self.check(world, &agent(*number), BASH).await,
            Step::Deny(number) => self.check(world, &agent(*number), CURL).await,
            Step::Ask(number) => self.check(world, &agent(*number), RM).await,
            Step::Call(number) => {
                let id = world.register(&agent(*number)).await;
                self.check(world, &agent(*number), &call(7)).await;
                self.calls.push((id, self.actions));
            }
            Step::Settle => {
                if let Some((id, call)) = self.calls.pop() {
                    self.actions += 1;
                    world.check(&id, self.actions, &result(call, 3)).await.unwrap();
                }
            }
            Step::Approve => {
                if let Some(id) = self.asked.pop() {
                    let permit = world.permit_of("somebody", Grant::Owner);
                    let once = ApprovalScope::Once;
                    // It may have been answered, as the same request of an earlier action.
                    let _ = world.governance.answer_approval(&permit, id, true, once, "").await;
                }
            }
            Step::Secret(number) => {
                let (name, value) = (format!("s{number}"), format!("value-{}", self.actions));
                let sealed = SecretValue::copy_of(value.as_bytes()).unwrap();
                let at = name.parse().unwrap();
                world.governance.set_secret(&world.permit(), at, sealed, None).await.unwrap();
                self.secrets.insert(name, value);
            }
            Step::Key => {
                let permit = world.permit();
                let made = world.governance.create_key(&permit, "k".into(), Grant::Viewer);
                let (record, key) = made.await.unwrap();
                self.keys.push((record.id, key));
            }
            Step::Revoke => {
                if let Some((id, _)) = self.keys.pop() {
                    world.governance.revoke_key(&world.permit(), id).await.unwrap();
                }
            }
            Step::Policy(number) => {
                let limit = format!("{}", 800 + u32::from(*number));
                world.apply(&ASK_FOR_RM.replace("900", &limit)).await;
            }
            Step::Suspend(number) => {
                let id = world.register(&agent(*number)).await;
                let permit = world.permit();
                let changed =
                    world.governance.set_agent_status(&permit, id.agent, *number == 0, "x".into());
                changed.await.unwrap();
            }
            Step::Checkpoint => {
                world.governance.checkpoint(&world.permit()).await.unwrap();
            }
            Step::Pass => world.clock.advance(Duration::from_millis(700)),
        }
    }

    async fn check(&mut self, world: &World, name: &str, action: &str) {
        let id = world.register(name).await;
        self.actions += 1;
        let answer = world.check(&id, self.actions, action).await.unwrap();
        self.asked.extend(answer.approval);
        self.answers.push((id, self.actions, action.to_owned(), answer.event));
    }

    /// Everything that was answered is as it was.
    async fn holds_in(&self, world: &World) {
        for (id, action, json, event) in &self.answers {
            let again = world.check(id, *action, json).await.unwrap();
            assert!(again.repeated, "action {action}");
            assert_eq!(again.event, *event);
        }
        for (name, value) in &self.secrets {
            let name = name.parse().unwrap();
            let opened = world.governance.open_secret(world.workspace, name).await.unwrap();
            assert_eq!(opened.expose_text().unwrap(), value);
        }
        for (id, key) in &self.keys {
            let known = world.governance.authenticate(key).await.unwrap();
            assert_eq!(known.map(|principal| principal.key_id).as_ref(), Some(id));
        }
    }
}

async fn goes_on(before: &[Step], after: &[Step], shards: u16) {
    let source = furnished().await;
    let mut done = Done::default();
    for step in before {
        done.run(&source, step).await;
    }
    let pin = source.governance.checkpoint(&source.permit()).await.unwrap().note;
    let file = back_up(&source).await;
    let contents = verified(&file);
    assert_eq!(contents.workspace, source.workspace);
    let target = restored(&file, shards, &source).await;
    let (was, is) = (state(&source).await, state(&target).await);
    for (space, rows) in &was {
        // The tenant has told where it came from, and may have signed a checkpoint since; those who are told of what
        // happens are told meanwhile.
        let goes_on = ["checkpoint", "tile", "restored", "alert_folder", "delivery", "dead_letter"];
        if !goes_on.contains(space) && *space != "next_delivery" {
            assert_eq!(rows, &is[space], "{space}");
        }
    }
    done.holds_in(&target).await;
    let budgets = |world: &World| {
        let (governance, permit) = (world.governance.clone(), world.permit());
        async move { governance.budgets(&permit, None, 10).await.unwrap()[0].span }
    };
    assert_eq!(budgets(&source).await, budgets(&target).await);
    for step in after {
        done.run(&target, step).await;
    }
    done.holds_in(&target).await;
    let (old, new) = (source.export().await, target.export().await);
    let report = world::verify(&new);
    assert!(report.intact, "{report}");
    let (old, new) = (lines(&old), lines(&new));
    assert_eq!(new[..old.len()], old, "the log goes on after what it was");
    let since = new[old.len()..].iter().map(|line| Entry::parse(line).unwrap());
    let seam: Vec<_> = since
        .filter(|entry| entry.detail.get("change").is_some_and(|change| change == "restored"))
        .map(|entry| (entry.kind, entry.detail["backup"].clone()))
        .collect();
    assert_eq!(seam, [(Kind::Workspace, contents.sha256)]);
    contains_checkpoint(&target, &pin).await;
    // What was restored can be taken and restored again.
    let target = target.restarted().await;
    let again = back_up(&target).await;
    let back = restored(&again, 2, &target).await;
    done.holds_in(&back).await;
    back.verified_entries().await;
}

async fn contains_checkpoint(world: &World, note: &str) {
    let text = world.export().await;
    let mut reader = std::io::Cursor::new(text);
    let mut exports = [aa_ledger::Export { name: "export", reader: &mut reader }];
    let pinned = PinnedCheckpoint { name: "before", note };
    let report = aa_ledger::verify(&mut exports, None, Some(&pinned)).unwrap();
    assert!(report.intact, "{report}");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 8,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_restored_workspace_answers_as_before_and_goes_on_in_any_number_of_shards(
        before in prop::collection::vec(step(), 1..60),
        after in prop::collection::vec(step(), 0..20),
        shards in prop_oneof![Just(1_u16), Just(2), Just(3), Just(64)],
    ) {
        runtime().block_on(goes_on(&before, &after, shards));
    }
}

#[tokio::test]
async fn in_as_many_shards_every_entry_is_where_it_was() {
    let source = furnished().await;
    let mut done = Done::default();
    for number in 0..40 {
        done.run(&source, &Step::Act(number % 5)).await;
        done.run(&source, &Step::Call(number % 3)).await;
    }
    let file = back_up(&source).await;
    let (store, _) = new_store();
    restore_into(&file, &*store, 2).await.unwrap();
    for range in [keys::entries(source.workspace), Space::Head.rows(source.workspace)] {
        assert_eq!(pairs(&*source.store, range.clone()).await, pairs(&*store, range).await);
    }
}

/// Agents act all the time: every answer that was there before is in it, none is in it by half, and all chains hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_busy_workspace_is_one_moment_of_it() {
    let source = Arc::new(furnished().await);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let agents: Vec<_> = (0..4_u8)
        .map(|number| {
            let (world, stop) = (Arc::clone(&source), Arc::clone(&stop));
            tokio::spawn(async move {
                let name = format!("agent-{number}");
                let id = world.register(&name).await;
                let mut action = u128::from(number) << 64;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    action += 2;
                    world.check(&id, action, BASH).await.unwrap();
                    world.check(&id, action + 1, &call(1)).await.unwrap();
                }
                action >> 1
            })
        })
        .collect();
    let mut last = 0;
    for shards in [2, 3, 5] {
        let known = source.governance.checkpoint(&source.permit()).await.unwrap();
        let file = back_up(&source).await;
        let contents = verified(&file);
        assert!(contents.entries > last && contents.checkpoint.size >= known.checkpoint.size);
        last = contents.entries;
        let target = restored(&file, shards, &source).await;
        // What windows hold reserved is what open calls have reserved.
        let budgets = target.governance.budgets(&target.permit(), None, 10).await.unwrap();
        let calls = pairs(&*target.store, Space::Call.rows(target.workspace)).await.len() as i64;
        let reserved = budgets[0].span.reserved.cost().0;
        let each = NanoUsd::from_usd(0.001).unwrap().0;
        let most_on_their_way = 4;
        assert!((0..=most_on_their_way).contains(&(reserved / each - calls)), "{reserved} {calls}");
        target.verified_entries().await;
        contains_checkpoint(&target, &known.note).await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for agent in agents {
        tokio::time::timeout(PATIENCE, agent).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_backup_has_nothing_of_another_workspace_and_a_restore_touches_none() {
    let source = furnished().await;
    let mut done = Done::default();
    for number in 0..10 {
        done.run(&source, &Step::Act(number % 3)).await;
    }
    let other: WorkspaceId = "ws-11111111-e5f6-7890-abcd-ef1234567890".parse().unwrap();
    source.governance.set_up_workspace(other, "neighbour-7f3a").await.unwrap();
    let made = source.governance.set_up_key(other, "key-of-the-neighbour", Grant::Owner).await;
    let (_, key) = made.unwrap();
    let file = back_up(&source).await;
    let bytes = std::fs::read(file.path()).unwrap();
    let has = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    for needle in [&b"neighbour"[..], other.as_uuid().as_bytes(), other.to_string().as_bytes()] {
        assert!(!has(needle), "{}", needle.escape_ascii());
    }
    // What the deployment keeps for itself is not in it either.
    assert!(!has(&world::MAC_SECRET) && !has(&[9; 32]));

    // Into the store of a deployment that has another workspace only.
    let (store, faults) = new_store();
    let world = World::over(Arc::clone(&store), faults.clone(), source.clock.clone()).await;
    world.governance.set_up_workspace(other, "neighbour-7f3a").await.unwrap();
    let made = world.governance.set_up_key(other, "key", Grant::Owner).await.unwrap();
    world.node.stop().await;
    let ranges = || {
        let rows = Space::ALL.iter().map(|space| space.rows(other));
        [keys::entries(other)].into_iter().chain(rows)
    };
    let mut before = Vec::new();
    for range in ranges() {
        before.extend(pairs(&*store, range).await);
    }
    restore_into(&file, &*store, 4).await.unwrap();
    let mut after = Vec::new();
    for range in ranges() {
        after.extend(pairs(&*store, range).await);
    }
    assert_eq!(before, after);
    let world = World::over(store, faults, source.clock.clone()).await;
    done.holds_in(&world).await;
    let neighbour = world.governance.authenticate(&made.1).await.unwrap().unwrap();
    assert_eq!(neighbour.workspace, other);
    assert!(world.governance.authenticate(&key).await.unwrap().is_none());
}

/// A kind of keys that is forgotten would be missing from every backup.
#[tokio::test]
async fn whatever_is_stored_of_a_workspace_is_in_one_of_its_spaces() {
    let world = furnished().await;
    let mut done = Done::default();
    let steps = [
        Step::Act(1),
        Step::Ask(1),
        Step::Ask(2),
        Step::Approve,
        Step::Call(3),
        Step::Call(3),
        Step::Settle,
        Step::Secret(1),
        Step::Key,
        Step::Suspend(4),
        Step::Checkpoint,
    ];
    for step in &steps {
        done.run(&world, step).await;
    }
    let deployment = ["layout/", "shard/", "shard_owner/", "node/", "news/"];
    let api_keys = keys::api_key(&[0; 32]);
    for (key, _) in pairs(&*world.store, KeyRange::all()).await {
        let is_own = keys::entries(world.workspace).contains(&key)
            || Space::ALL.iter().any(|space| space.rows(world.workspace).contains(&key));
        let is_known = key.starts_with(&api_keys[..8])
            || deployment.iter().any(|prefix| key.starts_with(prefix.as_bytes()));
        assert!(is_own || is_known, "{}", key.escape_ascii());
    }
}

#[tokio::test]
async fn a_workspace_that_is_there_is_not_overwritten() {
    let source = furnished().await;
    let file = back_up(&source).await;
    let before = state(&source).await;
    let refused = restore_into(&file, &*source.store, 2).await.unwrap_err();
    assert!(matches!(refused, RestoreError::Exists(_)), "{refused}");
    assert_eq!(before, state(&source).await);
    // Nor are remains that nobody knows the origin of.
    let (store, _) = new_store();
    let mut txn = store.begin().await.unwrap();
    let at = keys::policy(source.workspace, "a");
    txn.put(at.clone(), Bytes::from_static(b"x"));
    txn.commit().await.unwrap();
    let refused = restore_into(&file, &*store, 2).await.unwrap_err();
    assert!(matches!(refused, RestoreError::Remains(_)), "{refused}");
    assert!(store.begin().await.unwrap().get(&at).await.unwrap().is_some());
    let nothing = undo(source.workspace, &*store, &SystemEntropy).await.unwrap_err();
    assert!(matches!(nothing, RestoreError::NothingToUndo(_)), "{nothing}");
}

/// Whatever was written when it ended, nothing of it is served, and the next restore is whole.
#[tokio::test(start_paused = true)]
async fn an_interrupted_restore_shows_nothing_and_is_done_again_or_undone() {
    let source = furnished().await;
    let mut done = Done::default();
    for number in 0..600_u32 {
        done.run(&source, &[Step::Act(1), Step::Call(2), Step::Key][number as usize % 3]).await;
    }
    let file = back_up(&source).await;
    // Commits: the layout, the mark, the rows in several, the last.
    for commits in 1..6 {
        let (store, faults) = new_store();
        faults.script(std::iter::repeat_n(None, commits).chain([Some(Fault::Full)]));
        let ended = restore_into(&file, &*store, 3).await;
        let Err(RestoreError::Commit(_)) = ended else { panic!("{ended:?}") };
        let world = World::over(Arc::clone(&store), faults.clone(), source.clock.clone()).await;
        assert!(world.governance.workspaces().await.unwrap().is_empty());
        let (_, key) = &done.keys[0];
        assert!(world.governance.authenticate(key).await.unwrap().is_none());
        world.clock.advance(Duration::from_secs(3_600));
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        world.node.stop().await;
        let entries = pairs(&*store, keys::entries(source.workspace)).await;
        assert!(entries.len() <= verified(&file).entries as usize, "nobody has gone on with it");
        if commits % 2 == 0 {
            undo(source.workspace, &*store, &SystemEntropy).await.unwrap();
            assert!(pairs(&*store, keys::entries(source.workspace)).await.is_empty());
            assert!(state(&world).await.values().all(Vec::is_empty));
        }
        restore_into(&file, &*store, 4).await.unwrap();
        let world = World::over(store, faults, source.clock.clone()).await;
        done.holds_in(&world).await;
        world.verified_entries().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_restore_bears_conflicts_and_commits_of_which_nothing_is_known() {
    let source = furnished().await;
    let mut done = Done::default();
    for number in 0..400_u32 {
        done.run(&source, &[Step::Act(1), Step::Call(2)][number as usize % 2]).await;
    }
    let file = back_up(&source).await;
    for seed in 0..8 {
        let rates = FaultRates {
            conflict: 0.05,
            unknown_applied: 0.05,
            unknown_lost: 0.05,
            unavailable: 0.05,
            ..FaultRates::default()
        };
        let (store, faults) = world::faulty_store(seed);
        aa_runtime::layout(&*store, 3).await.unwrap();
        faults.set_rates(rates);
        let restored = restore_into(&file, &*store, 3).await;
        assert!(restored.is_ok(), "seed {seed}: {:?}", restored.err());
        faults.set_rates(FaultRates::default());
        let world = World::over(store, faults, source.clock.clone()).await;
        done.holds_in(&world).await;
        world.verified_entries().await;
    }
}

#[tokio::test]
async fn two_restores_at_a_time_do_not_mix() {
    let source = furnished().await;
    let file = back_up(&source).await;
    let (store, _) = new_store();
    // The first is held where everything is written, and the second takes the store over.
    let (mut second, mut is_second) = (None, false);
    let verified = VerifiedFile::open(file.path(), None).unwrap();
    let first = restore(verified, &*store, 3, Some(Standing::Home), &SystemEntropy, |phase| {
        if matches!(phase, Phase::ReadBack(_)) && !std::mem::replace(&mut is_second, true) {
            second = Some(futures::executor::block_on(restore_into(&file, &*store, 3)));
        }
    });
    let first = first.await.unwrap_err();
    assert!(matches!(first, RestoreError::Overtaken(_) | RestoreError::Differs { .. }), "{first}");
    second.unwrap().unwrap();
}

#[tokio::test]
async fn only_who_owns_the_workspace_takes_it_away_and_the_log_says_who_did() {
    let world = furnished().await;
    for grant in [Grant::Admin, Grant::Developer, Grant::Viewer, Grant::Agent] {
        let refused = world.principal(grant).authorize::<aa_governance::permission::BackUp>();
        assert!(refused.unwrap_err().to_string().contains("it takes owner"));
    }
    let file = back_up(&world).await;
    let entries = world.verified_entries().await;
    let noted = entries.iter().filter(|entry| {
        entry.kind == Kind::Workspace
            && entry.detail.get("change").is_some_and(|c| c == "backed_up")
    });
    let by: Vec<_> = noted.map(|entry| entry.actor.as_deref()).collect();
    assert_eq!(by, [Some("key:test")]);
    // It is in the backup itself.
    let bytes = std::fs::read(file.path()).unwrap();
    assert!(bytes.windows(9).any(|window| window == b"backed_up"));
}

#[tokio::test]
async fn one_backup_is_taken_at_a_time_and_an_unread_one_keeps_nobody_out_for_ever() {
    let world = furnished().await;
    let first = world.governance.back_up(&world.permit(), "0").await.unwrap();
    let busy = world.governance.back_up(&world.permit(), "0").await.err().unwrap();
    assert!(matches!(busy, GovernanceError::Backup(BackupError::Busy)), "{busy}");
    drop(first);
    let again = async {
        while world.governance.back_up(&world.permit(), "0").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("its place is free again");
}

#[tokio::test]
async fn who_has_the_key_or_an_older_checkpoint_proves_more() {
    let world = furnished().await;
    let mut done = Done::default();
    done.run(&world, &Step::Act(1)).await;
    let pin = world.governance.checkpoint(&world.permit()).await.unwrap().note;
    done.run(&world, &Step::Act(2)).await;
    let file = back_up(&world).await;
    let late = world.governance.checkpoint(&world.permit()).await.unwrap().note;
    done.run(&world, &Step::Act(3)).await;
    let later = world.governance.checkpoint(&world.permit()).await.unwrap().note;
    let open = || std::io::BufReader::new(file.reopen().unwrap());
    let contents = verified(&file);
    assert_eq!((contents.trust, contents.contains_pinned), (Trust::OnFirstUse, None));
    let keys = |key: &str| {
        let file = serde_json::json!({"log_keys": [{"key": key}]});
        Keys::parse(&file.to_string()).unwrap()
    };
    let known = verify(open(), Some(&keys(&contents.log_key)), Some(&pin)).unwrap();
    assert_eq!((known.trust, known.contains_pinned), (Trust::Pinned, Some(true)));
    verify(open(), None, Some(&late)).unwrap();
    let older = verify(open(), None, Some(&later)).unwrap_err();
    assert!(older.to_string().contains("it is older"), "{older}");
    let origin = aa_ledger::Checkpoint::origin(world.workspace);
    let other = aa_ledger::LogKey::new(&origin, &[1; 32]).unwrap();
    let stranger = verify(open(), Some(&keys(&other.verifier().to_string())), None).unwrap_err();
    assert!(matches!(stranger, FileError::Untrusted(_)), "{stranger}");
}

/// A store whose transactions grow old after so many range reads.
struct Hasty {
    store: Arc<dyn Store>,
    reads: usize,
}

struct HastyTransaction {
    txn: Box<dyn Transaction>,
    left: usize,
}

#[async_trait::async_trait]
impl Store for Hasty {
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        Ok(Box::new(HastyTransaction { txn: self.store.begin().await?, left: self.reads }))
    }

    async fn begin_after(&self, known: Version) -> Result<Box<dyn Transaction>, StoreError> {
        self.store.begin_after(known).await
    }

    fn watch(&self, key: &[u8]) -> Watch {
        self.store.watch(key)
    }

    fn kind(&self) -> &'static str {
        self.store.kind()
    }
}

#[async_trait::async_trait]
impl Transaction for HastyTransaction {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.txn.get(key).await
    }

    async fn get_snapshot(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.txn.get_snapshot(key).await
    }

    async fn range(
        &mut self,
        range: &KeyRange,
        limit: usize,
        order: Order,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.txn.range(range, limit, order).await
    }

    async fn range_snapshot(
        &mut self,
        range: &KeyRange,
        limit: usize,
        order: Order,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let age = Duration::from_millis(5_001);
        self.left = self.left.checked_sub(1).ok_or(StoreError::TooOld { age })?;
        self.txn.range_snapshot(range, limit, order).await
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        self.txn.put(key, value);
    }

    fn put_without_conflict(&mut self, key: Bytes, value: Bytes) {
        self.txn.put_without_conflict(key, value);
    }

    fn put_stamped(&mut self, prefix: Bytes, value: Bytes) {
        self.txn.put_stamped(prefix, value);
    }

    fn delete(&mut self, key: Bytes) {
        self.txn.delete(key);
    }

    fn delete_range(&mut self, range: KeyRange) {
        self.txn.delete_range(range);
    }

    fn add_read_conflict(&mut self, range: KeyRange) {
        self.txn.add_read_conflict(range);
    }

    fn add_write_conflict(&mut self, range: KeyRange) {
        self.txn.add_write_conflict(range);
    }

    async fn commit(self: Box<Self>) -> Result<Version, CommitError> {
        self.txn.commit().await
    }
}

#[tokio::test]
async fn a_workspace_that_changes_too_much_for_a_snapshot_is_refused_with_why() {
    let world = furnished().await;
    let mut done = Done::default();
    for number in 0..20 {
        done.run(&world, &Step::Act(number % 5)).await;
    }
    world.node.stop().await;
    let store = Arc::new(Hasty { store: Arc::clone(&world.store), reads: 30 });
    let world = World::over(store, world.faults, world.clock).await;
    let mut backup = world.governance.back_up(&world.permit(), "0").await.unwrap();
    let (mut file, mut failure) = (Vec::new(), None);
    while let Some(chunk) = backup.chunks.recv().await {
        match chunk {
            Ok(chunk) => file.extend_from_slice(&chunk),
            Err(error) => failure = Some(error),
        }
    }
    let failure = failure.unwrap();
    let GovernanceError::Backup(BackupError::TooLarge { rows, .. }) = &failure else {
        panic!("{failure}")
    };
    assert!(*rows > 5, "{failure}");
    // Who has only the file is told as well.
    let told = verify(&file[..], None, None).unwrap_err().to_string();
    assert!(told.contains("aasm store copy"), "{told}");
}

#[tokio::test]
async fn who_runs_the_deployment_of_a_new_store_is_not_for_a_backup_to_say() {
    let world = World::new().await;
    let file = back_up(&world).await;
    let workspace = world.workspace;
    let home_of = async |store: &Arc<dyn Store>, faults| {
        let there = World::over(Arc::clone(store), faults, world.clock.clone()).await;
        let (home, _) = there.governance.home_workspace().await.unwrap();
        there.node.stop().await;
        home
    };

    let (store, faults) = new_store();
    let unsaid = restore_as(&file, &*store, 4, None).await.unwrap_err();
    assert!(matches!(unsaid, RestoreError::NoHome(of) if of == workspace), "{unsaid}");
    assert!(unsaid.to_string().contains("--home"), "{unsaid}");
    let restored = restore_as(&file, &*store, 4, Some(Standing::Home)).await.unwrap();
    assert!(restored.is_home);
    assert_eq!(home_of(&store, faults).await, workspace);

    // Somebody else's workspace runs nothing, though it is the only one there.
    let (store, faults) = new_store();
    let restored = restore_as(&file, &*store, 4, Some(Standing::Tenant)).await.unwrap();
    assert!(!restored.is_home);
    let home = home_of(&store, faults.clone()).await;
    assert_ne!(home, workspace);
    assert_eq!(home_of(&store, faults).await, home);

    // Nor does it where there is a home already.
    let (store, faults) = new_store();
    let home = home_of(&store, faults.clone()).await;
    let refused = restore_as(&file, &*store, 4, Some(Standing::Home)).await.unwrap_err();
    assert!(matches!(refused, RestoreError::OtherHome(of) if of == home), "{refused}");
    assert!(!restore_as(&file, &*store, 4, None).await.unwrap().is_home);
    assert_eq!(home_of(&store, faults).await, home);
}
