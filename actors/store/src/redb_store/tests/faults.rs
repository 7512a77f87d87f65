//! What is promised of a commit holds wherever the disk fails or the machine stops.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    CommitError, DiskFault, KeyRange, Loss, OpenError, Order, RedbOptions, RedbStore, SimDisk,
    Store, StoreError, Verify,
};

pub(super) const PATH: &str = "/sim/store.redb";

/// One blind transaction.
#[derive(Clone, Debug)]
enum Write {
    Put(u8, usize),
    PutMany(u8, u8, usize),
    Delete(u8),
    DeleteRange(u8, u8),
}

pub(super) type Model = BTreeMap<Bytes, Bytes>;

/// How a script went.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// What the store holds after each transaction that was begun, the first entry before any.
    states: Vec<Model>,
    /// Transactions that were answered as committed: all up to this.
    acknowledged: usize,
    /// The first failure.
    pub(super) failure: Option<CommitError>,
}

/// Layers and segments so small that a short script switches, flushes and reuses them.
pub(super) fn options() -> RedbOptions {
    RedbOptions {
        memtable_bytes: 3_000,
        segment_bytes: 4_096,
        blob_file_bytes: 8_192,
        cache_bytes: 1 << 20,
        verify: Verify::Always,
        ..RedbOptions::default()
    }
}

pub(super) fn open(disk: &SimDisk) -> Result<RedbStore, OpenError> {
    RedbStore::open_simulated(disk, PATH, options())
}

/// Transactions that grow, shrink and clear; the larger do not fit one segment.
fn script(seed: u64, length: usize) -> Vec<Write> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut key = || random.u8(..40);
    let keys: Vec<(u8, u8)> = (0..length).map(|_| (key(), key())).collect();
    keys.into_iter()
        .map(|(key, other)| match random.u8(..10) {
            0 => Write::Delete(key),
            // Never empty: a transaction without writes needs no store to commit.
            1 => Write::DeleteRange(key.min(other), key.max(other) + 1),
            2 => Write::PutMany(key, 8, 700),
            3 => Write::Put(key, 3_000),
            _ => Write::Put(key, random.usize(..900)),
        })
        .collect()
}

fn value(number: usize, length: usize) -> Bytes {
    let mut value = vec![number as u8; length + 8];
    value[..8].copy_from_slice(&number.to_be_bytes());
    Bytes::from(value)
}

fn key(number: u8) -> Bytes {
    Bytes::from(vec![b'k', number])
}

impl Write {
    fn apply(&self, number: usize, model: &mut Model) {
        match *self {
            Self::Put(at, length) => {
                model.insert(key(at), value(number, length));
            }
            Self::PutMany(at, count, length) => {
                model.extend((at..at + count).map(|at| (key(at), value(number, length))));
            }
            Self::Delete(at) => {
                model.remove(&key(at));
            }
            Self::DeleteRange(begin, end) => {
                model.retain(|at, _| !KeyRange::new(key(begin), key(end)).contains(at));
            }
        }
    }

    async fn commit(&self, number: usize, store: &RedbStore) -> Result<(), CommitError> {
        let mut transaction = store.begin().await?;
        match *self {
            Self::Put(at, length) => transaction.put(key(at), value(number, length)),
            Self::PutMany(at, count, length) => {
                for at in at..at + count {
                    transaction.put(key(at), value(number, length));
                }
            }
            Self::Delete(at) => transaction.delete(key(at)),
            Self::DeleteRange(begin, end) => {
                transaction.delete_range(KeyRange::new(key(begin), key(end)));
            }
        }
        transaction.commit().await.map(|_| ())
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

pub(super) fn contents(store: &RedbStore) -> Result<Model, StoreError> {
    runtime().block_on(async {
        let mut reader = store.begin().await?;
        let all = KeyRange::all();
        let pairs = reader.range_snapshot(&all, usize::MAX, Order::Forward).await?;
        let mut back = reader.range_snapshot(&all, usize::MAX, Order::Reverse).await?;
        back.reverse();
        assert_eq!(pairs, back, "both orders read the same");
        for (key, value) in &pairs {
            assert_eq!(reader.get_snapshot(key).await?.as_ref(), Some(value));
        }
        Ok(pairs.into_iter().collect())
    })
}

/// Runs a script on a store that holds `before`, three transactions at a time, until it ends or fails.
pub(super) fn run(store: &RedbStore, seed: u64, length: usize, before: Model) -> Progress {
    let script = script(seed, length);
    let mut progress = Progress { states: vec![before], ..Progress::default() };
    for group in script.chunks(3) {
        let first = progress.states.len() - 1;
        for (number, write) in (first..).zip(group) {
            let mut next = progress.states[number].clone();
            write.apply(number, &mut next);
            progress.states.push(next);
        }
        let commits = (first..).zip(group).map(|(number, write)| write.commit(number, store));
        let results = runtime().block_on(futures::future::join_all(commits));
        for (number, result) in (first..).zip(results) {
            match result {
                Ok(()) => progress.acknowledged = number + 1,
                Err(error) => {
                    progress.failure.get_or_insert(error);
                }
            }
        }
        if progress.failure.is_some() {
            break;
        }
    }
    progress
}

impl Progress {
    /// Checks that a store holds what was acknowledged, and of the rest a prefix; gives what it holds.
    pub(super) fn check(&self, store: &RedbStore, what: &str) -> Model {
        let found = contents(store).unwrap();
        self.check_found(&found, what);
        found
    }

    pub(super) fn check_found(&self, found: &Model, what: &str) {
        let possible = &self.states[self.acknowledged..];
        assert!(
            possible.contains(found),
            "{what}: {} of {} were acknowledged; the store holds {}",
            self.acknowledged,
            self.states.len() - 1,
            match self.states.iter().rposition(|state| state == found) {
                Some(fewer) => format!("only {fewer}"),
                None => format!("what never was: {:?}", found.keys()),
            },
        );
    }

    fn nothing() -> Self {
        Self { states: vec![Model::new()], ..Self::default() }
    }
}

/// How many seeds the exhaustive tests walk; more for a longer look.
fn seeds() -> u64 {
    std::env::var("AA_FAULT_SEEDS").map_or(1, |seeds| seeds.parse().unwrap())
}

const LENGTH: usize = 27;

/// Operations of a whole script, from the creation of the store to its closing.
fn operations(seed: u64) -> u64 {
    let disk = SimDisk::new(seed);
    let store = open(&disk).unwrap();
    let progress = run(&store, seed, LENGTH, Model::new());
    assert!(progress.failure.is_none(), "{progress:?}");
    let stats = store.stats();
    assert!(stats.flushes >= 3 && stats.flushed_pairs > 10, "{stats:?}");
    drop(store);
    disk.operations()
}

#[test]
fn a_script_leaves_what_it_says() {
    let disk = SimDisk::new(1);
    let store = open(&disk).unwrap();
    let progress = run(&store, 1, 300, Model::new());
    assert!(progress.failure.is_none(), "{progress:?}");
    progress.check(&store, "while open");
    drop(store);
    disk.crash(Loss::Everything);
    progress.check(&open(&disk).unwrap(), "closed, then the power failed");
    let segments = disk.files().len() - 1;
    assert!(segments < 40, "segments are reused or removed: {segments}");
}

#[test]
fn wherever_the_machine_stops_what_was_acknowledged_is_there() {
    for seed in 0..seeds() {
        for operation in 0..operations(seed) {
            for loss in [Loss::Some, Loss::Everything, Loss::Nothing] {
                // Both of these are cheap variants of the first.
                if loss != Loss::Some && operation % 3 != 0 {
                    continue;
                }
                crash_twice(seed, operation, loss);
            }
        }
    }
}

/// Stops the machine at an operation, goes on, and stops it again.
fn crash_twice(seed: u64, operation: u64, loss: Loss) {
    let what = format!("seed {seed}, operation {operation}, {loss:?} lost");
    let disk = SimDisk::new(seed ^ (operation << 8));
    disk.fail_at(operation, DiskFault::Crash);
    let first = match open(&disk) {
        Ok(store) => run(&store, seed, LENGTH, Model::new()),
        Err(_) => Progress::nothing(),
    };
    disk.crash(loss);
    // Again while it recovers, or soon after.
    let again = disk.operations() + operation % 29;
    disk.fail_at(again, DiskFault::Crash);
    let mut second = None;
    if let Ok(store) = open(&disk)
        && let Ok(found) = contents(&store)
    {
        first.check_found(&found, &what);
        second = Some(run(&store, seed + 1, LENGTH / 2, found));
    }
    disk.crash(loss);
    let store = open(&disk).unwrap_or_else(|error| panic!("{what}, again at {again}: {error}"));
    let found = second.as_ref().unwrap_or(&first).check(&store, &what);
    let third = run(&store, seed + 2, 6, found);
    assert!(third.failure.is_none(), "{what}: it does not go on: {third:?}");
    drop(store);
    third.check(&open(&disk).unwrap(), &what);
}

#[test]
fn wherever_the_disk_fails_the_store_stops_and_loses_nothing_acknowledged() {
    for seed in 0..seeds() {
        for operation in 0..operations(seed) {
            for (nth, fault) in (0..).zip([DiskFault::Full, DiskFault::ReadOnly, DiskFault::Io]) {
                if seeds() > 1 || operation % 3 == nth {
                    fail(seed, operation, fault);
                }
            }
        }
    }
}

/// Lets one operation fail, restarts the process, then stops the machine.
fn fail(seed: u64, operation: u64, fault: DiskFault) {
    let what = format!("seed {seed}, {fault:?} at operation {operation}");
    let disk = SimDisk::new(seed ^ (operation << 8));
    disk.fail_at(operation, fault);
    let first = match open(&disk) {
        Ok(store) => {
            let progress = run(&store, seed, LENGTH, Model::new());
            if let Some(failure) = &progress.failure {
                expect_stopped(&store, failure, fault, &what);
            }
            progress
        }
        Err(error) => {
            assert!(matches!(error, OpenError::Io { .. }), "{what}: {error:?}");
            Progress::nothing()
        }
    };
    // The page cache shows what a failed sync has dropped.
    disk.restart();
    let store = open(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = first.check(&store, &what);
    // Sometimes the machine stops while what was recovered is still on its way into the file.
    let soon = operation.is_multiple_of(2);
    if soon {
        disk.fail_at(disk.operations() + operation % 13, DiskFault::Crash);
    }
    let second = run(&store, seed + 1, LENGTH / 3, found);
    assert!(soon || second.failure.is_none(), "{what}: it does not go on: {second:?}");
    disk.crash(Loss::Everything);
    drop(store);
    let store = open(&disk).unwrap_or_else(|error| panic!("{what}, after a crash: {error}"));
    second.check(&store, &what);
}

fn expect_stopped(store: &RedbStore, failure: &CommitError, fault: DiskFault, what: &str) {
    assert!(!failure.is_retryable(), "{what}: {failure:?}");
    let Err(StoreError::Stopped { cause }) = store.health() else {
        panic!("{what}: the store goes on after {failure:?}");
    };
    let as_expected = match fault {
        DiskFault::Full => matches!(*cause, StoreError::Full { .. }),
        DiskFault::ReadOnly => matches!(*cause, StoreError::ReadOnly { .. }),
        DiskFault::Io | DiskFault::Crash => matches!(*cause, StoreError::Io { .. }),
    };
    assert!(as_expected, "{what}: {cause:?}");
}
