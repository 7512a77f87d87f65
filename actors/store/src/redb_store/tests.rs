mod damage;
mod faults;
mod small;
mod stamps;

use std::{fs, io, os::unix::fs::PermissionsExt, path::PathBuf};

use bytes::Bytes;
use futures::FutureExt;
use redb::{Database, TableDefinition};
use tempfile::TempDir;

use super::*;
use crate::{KeyRange, Order};

crate::conformance_suite!({
    let directory = TempDir::new().unwrap();
    let store = open(&directory).unwrap();
    (Arc::new(store) as Arc<dyn Store>, directory)
});

fn file(directory: &TempDir) -> PathBuf {
    directory.path().join("store.redb")
}

fn open(directory: &TempDir) -> Result<RedbStore, OpenError> {
    RedbStore::open(file(directory), RedbOptions::default())
}

fn open_error(directory: &TempDir) -> OpenError {
    open(directory).expect_err("this file must not open")
}

async fn write(store: &RedbStore, key: impl Into<Bytes>) -> Result<Version, CommitError> {
    let mut transaction = store.begin().await.unwrap();
    transaction.put(key.into(), Bytes::from("value"));
    transaction.commit().await
}

#[tokio::test]
async fn what_was_committed_is_there_after_reopening() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).unwrap();
    write(&store, "key").await.unwrap();
    drop(store);
    for verify in [Verify::AfterCrash, Verify::Always] {
        let options = RedbOptions { verify, ..RedbOptions::default() };
        let store = RedbStore::open(file(&directory), options).unwrap();
        let found = store.begin().await.unwrap().get(b"key").await.unwrap();
        assert_eq!(found, Some(Bytes::from("value")));
    }
}

#[tokio::test]
async fn who_commits_alone_does_so_on_its_own_thread_and_durably() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).unwrap();
    for number in 0..50_u32 {
        // However slow this disk is.
        for _ in 0..20 {
            store.engine.shared.pace.note(1, Duration::ZERO);
        }
        write(&store, Bytes::copy_from_slice(&number.to_be_bytes())).await.unwrap();
    }
    let stats = store.stats();
    assert_eq!((stats.transactions, stats.by_caller), (50, 50));
    drop(store);
    let store = open(&directory).unwrap();
    let mut reader = store.begin().await.unwrap();
    let found = reader.range_snapshot(&KeyRange::all(), usize::MAX, Order::Forward).await.unwrap();
    assert_eq!(found.len(), 50);
}

#[test]
fn company_and_slow_disks_send_commits_to_the_thread() {
    let brief = Duration::from_micros(200);
    let pace = Pace::default();
    let may = |pace: &Pace| pace.enter().1;
    for _ in 0..20 {
        pace.note(1, brief);
    }
    assert!(may(&pace));
    let (first, alone) = pace.enter();
    assert!(alone && !may(&pace), "another is outstanding");
    drop(first);
    for (transactions, taken) in [(2, brief), (1, 10 * brief)] {
        pace.note(transactions, taken);
        assert!(!may(&pace));
        for _ in 0..20 {
            pace.note(1, brief);
        }
        assert!(may(&pace));
    }
}

#[test]
fn a_new_store_is_a_file_and_a_log_for_their_owner_only() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(store.path()), 0o600);
    let log = recovery::directory_of(store.path());
    assert_eq!(mode(&log), 0o700);
    for segment in fs::read_dir(&log).unwrap() {
        assert_eq!(mode(&segment.unwrap().path()), 0o600);
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
}

#[test]
fn a_second_opening_is_refused_until_the_first_is_closed() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).unwrap();
    let error = open_error(&directory);
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("store.redb"), "{error}");
    drop(store);
    open(&directory).unwrap();
}

#[tokio::test]
async fn an_open_transaction_keeps_the_store_open() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).unwrap();
    let mut transaction = store.begin().await.unwrap();
    drop(store);
    transaction.put(Bytes::from("key"), Bytes::from("value"));
    transaction.commit().await.unwrap();
    let store = open(&directory).unwrap();
    assert!(store.begin().await.unwrap().get(b"key").await.unwrap().is_some());
}

#[tokio::test]
async fn a_file_cut_short_anywhere_is_refused_and_left_alone() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).unwrap();
    for index in 0..2_000u32 {
        // One group each would be slow; one transaction fills as many pages.
        if index % 500 == 0 {
            let mut transaction = store.begin().await.unwrap();
            for part in 0..500u32 {
                let key = Bytes::from((index + part).to_be_bytes().to_vec());
                transaction.put(key, Bytes::from(vec![7; 300]));
            }
            transaction.commit().await.unwrap();
        }
    }
    drop(store);
    let whole = fs::read(file(&directory)).unwrap();
    for eighths in 0..8 {
        let cut = &whole[..whole.len() * eighths / 8];
        fs::write(file(&directory), cut).unwrap();
        let error = open_error(&directory);
        assert!(matches!(error, OpenError::Corrupt { .. }), "{eighths}/8: {error:?}");
        assert!(error.to_string().contains("restore a backup"), "{error}");
        assert_eq!(fs::read(file(&directory)).unwrap(), cut, "{eighths}/8 was changed");
    }
    fs::write(file(&directory), &whole).unwrap();
    open(&directory).unwrap();
}

#[test]
fn what_is_no_store_is_refused_and_left_alone() {
    let directory = TempDir::new().unwrap();
    for contents in [&b"#!/bin/sh\n"[..], &[0; 100_000], &[0xa5; 100_000]] {
        fs::write(file(&directory), contents).unwrap();
        let error = open_error(&directory);
        assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
        assert_eq!(fs::read(file(&directory)).unwrap(), contents);
    }
}

#[tokio::test]
async fn a_flipped_byte_in_the_pages_is_found_when_verifying() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).unwrap();
    let marker = Bytes::from(vec![0xc3; blobs::BLOB_BYTES - 1]);
    let mut transaction = store.begin().await.unwrap();
    transaction.put(Bytes::from("key"), marker.clone());
    transaction.commit().await.unwrap();
    drop(store);
    let mut contents = fs::read(file(&directory)).unwrap();
    let places: Vec<usize> = contents
        .windows(marker.len())
        .enumerate()
        .filter(|(_, window)| *window == marker)
        .map(|(place, _)| place)
        .collect();
    assert!(!places.is_empty());
    for place in places {
        contents[place + 100] ^= 1;
    }
    fs::write(file(&directory), contents).unwrap();
    let options = RedbOptions { verify: Verify::Always, ..RedbOptions::default() };
    let error = RedbStore::open(file(&directory), options).expect_err("it is damaged");
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn a_flipped_byte_of_a_large_value_is_found_when_verifying_and_when_reading() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).unwrap();
    let mut transaction = store.begin().await.unwrap();
    transaction.put(Bytes::from("key"), Bytes::from(vec![0xc3; blobs::BLOB_BYTES]));
    transaction.commit().await.unwrap();
    drop(store);
    let blobs = fs::read_dir(blobs::directory_of(&file(&directory))).unwrap();
    let path = blobs.map(|entry| entry.unwrap().path()).next().unwrap();
    let mut contents = fs::read(&path).unwrap();
    contents[100] ^= 1;
    fs::write(&path, contents).unwrap();
    let options = RedbOptions { verify: Verify::Always, ..RedbOptions::default() };
    let error = RedbStore::open(file(&directory), options).expect_err("it is damaged");
    assert!(matches!(&error, OpenError::Corrupt { path: at, .. } if *at == path), "{error:?}");
    let read = open(&directory).unwrap().begin().await.unwrap().get(b"key").await;
    assert!(matches!(&read, Err(StoreError::Corrupt { path: at, .. }) if *at == path), "{read:?}");
}

#[test]
fn another_programs_database_is_refused() {
    let directory = TempDir::new().unwrap();
    let database = Database::create(file(&directory)).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(TableDefinition::<u64, u64>::new("theirs")).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = open_error(&directory);
    assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
}

#[test]
fn another_format_is_refused_with_what_to_do() {
    let directory = TempDir::new().unwrap();
    drop(open(&directory).unwrap());
    for (format, advice) in [(file::FORMAT + 1, "newer version"), (0, "import the export")] {
        file::set_format(&file(&directory), format);
        let error = open_error(&directory);
        assert!(matches!(error, OpenError::Format { found, .. } if found == format), "{error:?}");
        assert!(error.to_string().contains(advice), "{error}");
    }
}

#[test]
fn a_missing_directory_is_named() {
    let error = RedbStore::open("/nonexistent/store.redb", RedbOptions::default())
        .expect_err("there is no such directory");
    assert!(matches!(error, OpenError::Io { .. }));
    assert!(error.to_string().contains("/nonexistent/store.redb"), "{error}");
}

#[tokio::test]
async fn after_a_failed_fsync_the_result_is_unknown_and_the_store_stops() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).unwrap();
    write(&store, "before").await.unwrap();
    let mut open_transaction = store.begin().await.unwrap();
    let disk = &store.engine.shared.meters.disk;
    *disk.failure.lock() = Some(io::ErrorKind::Other);
    let unknown = write(&store, "unknown").await.unwrap_err();
    assert!(matches!(&unknown, CommitError::UnknownResult(StoreError::Stopped { .. })));
    assert!(!unknown.is_retryable());
    // Even if the disk recovers, what the process holds in memory may not be trusted.
    *disk.failure.lock() = None;
    assert!(matches!(store.begin().await.err(), Some(StoreError::Stopped { .. })));
    assert!(store.health().is_err());
    open_transaction.put(Bytes::from("later"), Bytes::from("value"));
    let refused = open_transaction.commit().await.unwrap_err();
    assert!(matches!(&refused, CommitError::Store(StoreError::Stopped { .. })), "{refused}");
    assert!(refused.to_string().contains("restart"), "{refused}");
    drop(store);
    let store = open(&directory).unwrap();
    let mut reader = store.begin().await.unwrap();
    assert!(reader.get(b"before").await.unwrap().is_some());
    assert!(reader.get(b"later").await.unwrap().is_none());
}

#[tokio::test]
async fn a_commit_given_up_on_its_way_is_applied_whole() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).unwrap();
    let busy = store.engine.shared.meters.disk.sync.lock();
    assert!(write(&store, "given up").now_or_never().is_none());
    drop(busy);
    write(&store, "next").await.unwrap();
    assert!(store.begin().await.unwrap().get(b"given up").await.unwrap().is_some());
}

#[tokio::test]
async fn a_full_or_read_only_disk_stops_the_store_and_says_what_to_do() {
    for (kind, advice) in [
        (io::ErrorKind::StorageFull, "free some"),
        (io::ErrorKind::ReadOnlyFilesystem, "make its file system writable"),
    ] {
        let directory = TempDir::new().unwrap();
        let store = open(&directory).unwrap();
        *store.engine.shared.meters.disk.failure.lock() = Some(kind);
        let error = write(&store, "key").await.unwrap_err();
        assert!(!error.is_retryable() && error.to_string().contains(advice), "{error}");
        let refused = store.begin().await.err().expect("it stopped");
        assert!(refused.to_string().contains(advice), "{refused}");
    }
}

#[tokio::test]
async fn transactions_that_wait_together_share_an_fsync() {
    const TRANSACTIONS: u64 = 200;
    let directory = TempDir::new().unwrap();
    let store = open(&directory).unwrap();
    let before = store.stats();
    let keys = (0..TRANSACTIONS).map(|index| index.to_be_bytes().to_vec());
    let mut writes = futures::future::join_all(keys.map(|key| write(&store, key)));
    // The disk is busy until all are on their way.
    let busy = store.engine.shared.meters.disk.sync.lock();
    assert!((&mut writes).now_or_never().is_none());
    drop(busy);
    for result in writes.await {
        result.unwrap();
    }
    let after = store.stats();
    assert_eq!(after.transactions, TRANSACTIONS);
    assert_eq!(after.bytes, TRANSACTIONS * 13);
    assert!(after.commits <= 2, "those that came first, then all the others: {after:?}");
    let fsyncs = after.log_fsyncs - before.log_fsyncs;
    assert_eq!(fsyncs, after.commits, "one fsync per group: {after:?}");
    assert!(after.file_bytes > after.bytes);
}
