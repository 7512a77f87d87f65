//! Watches and concurrency.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt;

use super::{TestStore, begin, bytes, get, set, span};
use crate::{CommitError, MAX_WATCHES, StoreError, Watch};

/// Far above what any store takes; reached only by a watch that is lost.
const PATIENCE: Duration = Duration::from_secs(10);

const TASKS: usize = 16;
const INCREMENTS: usize = 10;

async fn fired(watch: Watch) {
    tokio::time::timeout(PATIENCE, watch).await.expect("the watch fires").unwrap();
}

/// A watch resolves after a write of its key, to a reader that sees it.
pub async fn a_watch_fires_once_its_key_is_written(store: TestStore) {
    let first = store.watch(b"key");
    let second = store.watch(b"key");
    set(&store, &[("key", "1")]).await;
    fired(first).await;
    fired(second).await;
    assert_eq!(get(&store, "key").await, Some(bytes("1")));
    let mut later = store.watch(b"key");
    assert!((&mut later).now_or_never().is_none(), "what was written before does not count");
    set(&store, &[("key", "2")]).await;
    fired(later).await;
}

/// Removing a range is a write of all its keys.
pub async fn a_watch_fires_when_its_range_is_deleted(store: TestStore) {
    set(&store, &[("key", "1")]).await;
    let watch = store.watch(b"key");
    let mut transaction = begin(&store).await;
    transaction.delete_range(span("k", "l"));
    transaction.commit().await.unwrap();
    fired(watch).await;
}

/// Other keys, and transactions that do not commit, leave a watch alone.
pub async fn a_watch_of_another_key_stays(store: TestStore) {
    let mut watch = store.watch(b"key");
    set(&store, &[("kex", "1"), ("key\0", "1")]).await;
    let mut dropped = begin(&store).await;
    dropped.put(bytes("key"), bytes("1"));
    drop(dropped);
    // Fires happen in the order of commits, so this one would come after a wrong one.
    let last = store.watch(b"last");
    set(&store, &[("last", "1")]).await;
    fired(last).await;
    assert!((&mut watch).now_or_never().is_none());
}

/// The number of watches is bounded.
pub async fn too_many_watches_are_refused_and_dropped_ones_make_room(store: TestStore) {
    let mut watches: Vec<Watch> = (0..MAX_WATCHES).map(|_| store.watch(b"key")).collect();
    let refused = store.watch(b"key").now_or_never().expect("a refusal is immediate");
    assert!(matches!(refused, Err(StoreError::TooManyWatches)), "{refused:?}");
    watches.truncate(MAX_WATCHES - 1);
    assert!(store.watch(b"key").now_or_never().is_none());
}

/// No increment is lost and none is counted twice.
pub async fn concurrent_increments_are_all_counted(store: TestStore) {
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for _ in 0..INCREMENTS {
                    while !increment(&store).await {}
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let expected = Bytes::from((TASKS * INCREMENTS).to_string());
    assert_eq!(get(&store, "counter").await, Some(expected));
}

async fn increment(store: &TestStore) -> bool {
    let mut transaction = begin(store).await;
    let counter = transaction.get(b"counter").await.unwrap();
    let counter: usize =
        counter.map_or(0, |text| String::from_utf8(text.to_vec()).unwrap().parse().unwrap());
    // Let the others read the same.
    tokio::task::yield_now().await;
    transaction.put(bytes("counter"), Bytes::from((counter + 1).to_string()));
    match transaction.commit().await {
        Ok(_) => true,
        Err(CommitError::Conflict) => false,
        Err(error) => panic!("{error}"),
    }
}

/// A caller that gives up its commit half-way leaves it whole or undone, and the store goes on.
pub async fn a_dropped_commit_harms_nobody(store: TestStore) {
    for index in 0..50u32 {
        let mut transaction = begin(&store).await;
        for part in 0..3u32 {
            transaction.put(Bytes::from(format!("dropped/{index}/{part}")), bytes("v"));
        }
        // Polled once, so that it is on its way, then dropped.
        let _ = transaction.commit().now_or_never();
    }
    set(&store, &[("after", "1")]).await;
    assert_eq!(get(&store, "after").await, Some(bytes("1")));
    let mut reader = begin(&store).await;
    for index in 0..50u32 {
        let all = crate::KeyRange::prefix(format!("dropped/{index}/").as_bytes());
        let parts = reader.range(&all, 10, crate::Order::Forward).await.unwrap();
        assert!(parts.is_empty() || parts.len() == 3, "{parts:?}");
    }
}
