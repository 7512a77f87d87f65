//! The law of the store: whatever the interleaving, the transactions that commit did so as if one
//! after another, in the order of their versions.

#![allow(clippy::unwrap_used)] // A failed unwrap is a failed test.

use std::{collections::BTreeMap, sync::Arc};

use aa_store::{
    CommitError, KeyRange, MemoryStore, Order, RedbOptions, RedbStats, RedbStore, Store, Subspace,
    Transaction, Version,
};
use bytes::Bytes;
use proptest::{prelude::*, sample::Index};

const KEYS: u8 = 6;

#[derive(Clone, Debug)]
enum Step {
    Get(u8),
    GetSnapshot(u8),
    Range { begin: u8, end: u8, limit: usize, order: Order },
    Put(u8),
    Delete(u8),
    DeleteRange { begin: u8, end: u8 },
}

type Script = Vec<Step>;
type Model = BTreeMap<u8, Bytes>;

/// What a step read: pairs, whichever way it asked. Nothing for writes.
type Seen = Vec<(u8, Bytes)>;

/// One transaction as it went.
struct Run {
    script: usize,
    transaction: Option<Box<dyn Transaction>>,
    seen: Vec<Seen>,
    committed: Option<Version>,
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..KEYS;
    let order = prop_oneof![Just(Order::Forward), Just(Order::Reverse)];
    prop_oneof![
        4 => key().prop_map(Step::Get),
        1 => key().prop_map(Step::GetSnapshot),
        2 => (key(), 0..=KEYS, 1..4usize, order)
            .prop_map(|(begin, end, limit, order)| Step::Range { begin, end, limit, order }),
        4 => key().prop_map(Step::Put),
        1 => key().prop_map(Step::Delete),
        1 => (key(), 0..=KEYS).prop_map(|(begin, end)| Step::DeleteRange { begin, end }),
    ]
}

fn scripts() -> impl Strategy<Value = Vec<Script>> {
    prop::collection::vec(prop::collection::vec(step(), 1..6), 2..6)
}

fn schedule() -> impl Strategy<Value = Vec<Index>> {
    prop::collection::vec(any::<Index>(), 40)
}

/// Writes of one step of one script carry a value of their own.
fn written(script: usize, step: usize) -> Bytes {
    Bytes::from(format!("{script}.{step}"))
}

async fn take(step: &Step, value: Bytes, space: &Subspace, run: &mut dyn Transaction) -> Seen {
    let key = |key: u8| space.key(u64::from(key));
    let range = |begin: u8, end: u8| KeyRange::new(key(begin), key(end));
    let one = |at: u8, found: Option<Bytes>| found.map(|value| (at, value)).into_iter().collect();
    match *step {
        Step::Get(at) => return one(at, run.get(&key(at)).await.unwrap()),
        Step::GetSnapshot(at) => return one(at, run.get_snapshot(&key(at)).await.unwrap()),
        Step::Range { begin, end, limit, order } => {
            let pairs = run.range(&range(begin, end), limit, order).await.unwrap();
            let number = |key: &Bytes| space.unpack(key).unwrap().u64().unwrap() as u8;
            return pairs.into_iter().map(|(key, value)| (number(&key), value)).collect();
        }
        Step::Put(at) => run.put(key(at), value),
        Step::Delete(at) => run.delete(key(at)),
        Step::DeleteRange { begin, end } => run.delete_range(range(begin, end)),
    }
    Seen::new()
}

/// The same step on a plain map.
fn replay(step: &Step, value: Bytes, model: &mut Model) -> Seen {
    match *step {
        Step::Get(at) | Step::GetSnapshot(at) => {
            return model.get(&at).map(|value| (at, value.clone())).into_iter().collect();
        }
        Step::Range { begin, end, limit, order } => {
            let inside = |(key, _): &(&u8, &Bytes)| (begin..end).contains(*key);
            let mut pairs: Seen =
                model.iter().filter(inside).map(|(key, value)| (*key, value.clone())).collect();
            if order == Order::Reverse {
                pairs.reverse();
            }
            pairs.truncate(limit);
            return pairs;
        }
        Step::Put(at) => {
            model.insert(at, value);
        }
        Step::Delete(at) => {
            model.remove(&at);
        }
        Step::DeleteRange { begin, end } => model.retain(|key, _| !(begin..end).contains(key)),
    }
    Seen::new()
}

/// Runs the scripts interleaved as the schedule says, then checks them against a serial replay.
async fn check(store: &dyn Store, space: &Subspace, scripts: &[Script], schedule: &[Index]) {
    // Something to read and to remove from the start.
    let mut model: Model = (0..KEYS).step_by(2).map(|key| (key, Bytes::from("first"))).collect();
    let mut first = store.begin().await.unwrap();
    for (key, value) in &model {
        first.put(space.key(u64::from(*key)), value.clone());
    }
    first.commit().await.unwrap();

    let new = |script| Run { script, transaction: None, seen: Vec::new(), committed: None };
    let mut running: Vec<Run> = (0..scripts.len()).map(new).collect();
    let mut done = Vec::new();
    let mut turns = schedule.iter().cycle();
    while !running.is_empty() {
        let turn = turns.next().expect("a cycle does not end").index(running.len());
        let run = &mut running[turn];
        let mut transaction = match run.transaction.take() {
            Some(transaction) => transaction,
            None => store.begin().await.unwrap(),
        };
        let next = run.seen.len();
        if let Some(step) = scripts[run.script].get(next) {
            let value = written(run.script, next);
            run.seen.push(take(step, value, space, transaction.as_mut()).await);
            run.transaction = Some(transaction);
            continue;
        }
        run.committed = match transaction.commit().await {
            Ok(version) => Some(version),
            Err(CommitError::Conflict) => None,
            Err(error) => panic!("{error}"),
        };
        done.push(running.remove(turn));
    }

    // What only read has the version it read, and comes after the writer of that version.
    let only_reads = |run: &Run| {
        let reads = |step: &Step| {
            matches!(step, Step::Get(_) | Step::GetSnapshot(_) | Step::Range { .. })
                || matches!(step, Step::DeleteRange { begin, end } if begin >= end)
        };
        scripts[run.script].iter().all(reads)
    };
    done.retain(|run| run.committed.is_some());
    done.sort_by_key(|run| (run.committed, only_reads(run)));
    for run in &done {
        for (number, step) in scripts[run.script].iter().enumerate() {
            let seen = replay(step, written(run.script, number), &mut model);
            if !matches!(step, Step::GetSnapshot(_)) {
                assert_eq!(run.seen[number], seen, "script {} step {number}", run.script);
            }
        }
    }
    let everything = Step::Range { begin: 0, end: KEYS, limit: usize::MAX, order: Order::Forward };
    let mut reader = store.begin().await.unwrap();
    let stored = take(&everything, Bytes::new(), space, reader.as_mut()).await;
    assert_eq!(stored, model.into_iter().collect::<Seen>(), "the final state");
    assert!(!done.is_empty(), "someone always commits first");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn every_interleaving_in_memory_is_a_serial_order(
        scripts in scripts(),
        schedule in schedule(),
    ) {
        let store = MemoryStore::new();
        runtime().block_on(check(&store, &Subspace::root(), &scripts, &schedule));
    }
}

#[test]
fn every_interleaving_on_disk_is_a_serial_order() {
    on_disk(RedbOptions::default(), 100);
}

#[test]
fn every_interleaving_is_a_serial_order_while_commits_move_to_the_file() {
    let small =
        RedbOptions { memtable_bytes: 4_000, segment_bytes: 16_000, ..RedbOptions::default() };
    let stats = on_disk(small, 100);
    assert!(stats.flushes > 5, "{stats:?}");
}

fn on_disk(options: RedbOptions, cases: u32) -> RedbStats {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("store.redb");
    let store = Arc::new(RedbStore::open(path, options).unwrap());
    let runtime = runtime();
    let case = std::cell::Cell::new(0u64);
    proptest!(ProptestConfig::with_cases(cases), |(scripts in scripts(), schedule in schedule())| {
        // One store serves all cases, each in a part of its own.
        case.set(case.get() + 1);
        let space = Subspace::root().with(case.get());
        runtime.block_on(check(store.as_ref(), &space, &scripts, &schedule));
    });
    store.stats()
}
