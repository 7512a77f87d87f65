//! The promise of durability: a process killed at any instant loses nothing that it acknowledged and
//! leaves nothing half-written.
//!
//! The test starts itself again as a writer, kills it with `SIGKILL` after a random number of
//! acknowledgements, and looks at what is on the disk.

#![allow(clippy::unwrap_used)] // A failed unwrap is a failed test.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use aa_store::{KeyRange, Order, RedbOptions, RedbStore, Store, Subspace};
use bytes::Bytes;

const ROUNDS: u32 = 60;
const SEED: u64 = 0x5eed;
const WRITERS: u64 = 8;
/// Keys that one transaction writes, all with its number.
const PARTS: u64 = 4;
const MOST_ACKNOWLEDGED: u64 = 250;
/// Ends a writer whose parent died.
const MOST_WRITTEN: u64 = 20_000;

const PATH_VARIABLE: &str = "AA_STORE_CRASH_PATH";
const OPENING: &str = "opening";

/// So small that the kill often meets a flush or a switch of segments.
fn open(path: &Path) -> RedbStore {
    let options =
        RedbOptions { memtable_bytes: 100_000, segment_bytes: 50_000, ..RedbOptions::default() };
    RedbStore::open(path, options).unwrap()
}

/// Where a writer keeps its parts, by transaction number and part.
fn parts(writer: u64) -> Subspace {
    Subspace::root().with("parts").with(writer)
}

/// Where a writer keeps the number of its last transaction.
fn last(writer: u64) -> Bytes {
    Subspace::root().with("last").key(writer)
}

fn number(value: &[u8]) -> u64 {
    u64::from_be_bytes(value[..8].try_into().unwrap())
}

fn say(line: &str) {
    // One write per line: what arrives is whole.
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Not a test of its own: the writer that gets killed.
#[test]
fn the_writer_process() {
    let Some(path) = env::var_os(PATH_VARIABLE).map(PathBuf::from) else { return };
    say(OPENING);
    let store = open(&path);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let writers = (0..WRITERS).map(|writer| tokio::spawn(write(store.clone(), writer)));
        futures::future::join_all(writers).await;
    });
}

async fn write(store: RedbStore, writer: u64) {
    for _ in 0..MOST_WRITTEN {
        let mut transaction = store.begin().await.unwrap();
        let before = transaction.get(&last(writer)).await.unwrap();
        let next = before.map_or(0, |value| number(&value) + 1);
        let value = Bytes::copy_from_slice(&next.to_be_bytes());
        for part in 0..PARTS {
            // Of every second part so large that it is kept beside the database file.
            let large = [&value[..], &[part as u8; 400]].concat();
            let stored = if part % 2 == 0 { value.clone() } else { large.into() };
            transaction.put(parts(writer).with(next).key(part), stored);
        }
        transaction.put(last(writer), value);
        transaction.commit().await.unwrap();
        say(&format!("ack {writer} {next}"));
    }
}

#[test]
fn a_killed_process_loses_nothing_acknowledged_and_leaves_nothing_half_written() {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("store.redb");
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut acknowledged: [Option<u64>; WRITERS as usize] = [None; WRITERS as usize];
    for round in 0..ROUNDS {
        // Every fourth is killed while it opens the file and recovers what the last one left.
        let kill_after = if round % 4 == 3 { 0 } else { random.u64(1..MOST_ACKNOWLEDGED) };
        run_and_kill(&path, kill_after, &mut acknowledged);
        // A look closes the file cleanly; without one, the next process finds it as it fell.
        if round % 4 != 2 && path.exists() {
            check(&path, &acknowledged);
        }
    }
    check(&path, &acknowledged);
    let total: u64 = acknowledged.iter().flatten().map(|last| last + 1).sum();
    assert!(total > u64::from(ROUNDS), "only {total} transactions were acknowledged");
}

fn run_and_kill(path: &Path, kill_after: u64, acknowledged: &mut [Option<u64>]) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "the_writer_process", "--nocapture"])
        .env(PATH_VARIABLE, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut seen = 0;
    let mut killed = false;
    // After the kill, what was still in the pipe was acknowledged too.
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let opening = line == OPENING;
        let mut words = line.split(' ');
        if words.next() == Some("ack") {
            let mut field = || words.next().unwrap().parse::<u64>().unwrap();
            let (writer, number) = (field(), field());
            acknowledged[writer as usize] = acknowledged[writer as usize].max(Some(number));
            seen += 1;
        }
        if !killed && (opening || seen > 0) && seen >= kill_after {
            child.kill().unwrap();
            killed = true;
        }
    }
    let status = child.wait().unwrap();
    assert!(killed, "the writer ended by itself: {status}");
}

fn check(path: &Path, acknowledged: &[Option<u64>]) {
    let store = open(path);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for (writer, &acknowledged) in (0..).zip(acknowledged) {
            let mut reader = store.begin().await.unwrap();
            let last = reader.get(&last(writer)).await.unwrap().map(|value| number(&value));
            assert!(last >= acknowledged, "writer {writer} lost {acknowledged:?}, has {last:?}");
            let range: KeyRange = parts(writer).range();
            let found = reader.range_snapshot(&range, usize::MAX, Order::Forward).await.unwrap();
            let expected = (0..last.map_or(0, |last| last + 1))
                .flat_map(|number| (0..PARTS).map(move |part| (number, part, number)));
            let found = found.iter().map(|(key, value)| {
                let mut key = parts(writer).unpack(key).unwrap();
                (key.u64().unwrap(), key.u64().unwrap(), number(value))
            });
            assert!(found.eq(expected), "writer {writer} has a gap or a half-written transaction");
        }
    });
}
