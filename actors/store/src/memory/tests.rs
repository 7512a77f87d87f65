use std::sync::Arc;

use futures::FutureExt;

use super::*;
use crate::{MAX_TRANSACTION_AGE, ManualClock};

crate::conformance_suite!((Arc::new(MemoryStore::new()) as Arc<dyn Store>, ()));

fn faulty() -> (MemoryStore, ManualClock) {
    let clock = ManualClock::new();
    (MemoryStore::with(Arc::new(clock.clone()), Faults::none()), clock)
}

async fn write(store: &MemoryStore, value: &'static str) -> Result<Version, CommitError> {
    let mut transaction = store.begin().await.unwrap();
    transaction.put(Bytes::from("key"), Bytes::from(value));
    transaction.commit().await
}

async fn value(store: &MemoryStore) -> Option<Bytes> {
    store.begin().await.unwrap().get(b"key").await.unwrap()
}

#[tokio::test]
async fn scripted_faults_strike_in_their_order() {
    let (store, _clock) = faulty();
    store.faults().script([
        Some(Fault::Conflict),
        Some(Fault::UnknownLost),
        Some(Fault::Unavailable),
        Some(Fault::Full),
        None,
        Some(Fault::UnknownApplied),
    ]);
    assert!(matches!(write(&store, "1").await, Err(CommitError::Conflict)));
    assert!(matches!(write(&store, "2").await, Err(CommitError::UnknownResult(_))));
    let unavailable = write(&store, "3").await.unwrap_err();
    assert!(matches!(&unavailable, CommitError::Store(StoreError::Unavailable { .. })));
    assert!(unavailable.is_retryable());
    let full = write(&store, "4").await.unwrap_err();
    assert!(matches!(&full, CommitError::Store(StoreError::Full { .. })));
    assert!(!full.is_retryable());
    assert_eq!(value(&store).await, None, "none of them was applied");
    write(&store, "5").await.unwrap();
    assert!(matches!(write(&store, "6").await, Err(CommitError::UnknownResult(_))));
    assert_eq!(value(&store).await, Some(Bytes::from("6")), "applied, though nobody was told");
    write(&store, "7").await.unwrap();
}

#[tokio::test]
async fn a_stalled_commit_waits_for_its_release() {
    let (store, _clock) = faulty();
    store.faults().script([Some(Fault::Stall)]);
    let mut stalled = Box::pin(write(&store, "late"));
    assert!((&mut stalled).now_or_never().is_none());
    assert_eq!(store.faults().stalled(), 1);
    write(&store, "early").await.unwrap();
    store.faults().release();
    stalled.now_or_never().expect("released").unwrap();
    assert_eq!(store.faults().stalled(), 0);
    assert_eq!(value(&store).await, Some(Bytes::from("late")));
}

#[tokio::test]
async fn a_timed_stall_ends_on_the_clock_of_the_store() {
    let (store, clock) = faulty();
    store.faults().script([Some(Fault::StallFor(Duration::from_millis(100)))]);
    let mut stalled = Box::pin(write(&store, "late"));
    assert!((&mut stalled).now_or_never().is_none());
    clock.advance(Duration::from_millis(99));
    assert!((&mut stalled).now_or_never().is_none());
    clock.advance(Duration::from_millis(1));
    stalled.now_or_never().expect("the time has come").unwrap();
}

#[tokio::test]
async fn an_outage_fails_everything_until_it_ends() {
    let (store, _clock) = faulty();
    write(&store, "1").await.unwrap();
    let mut open = store.begin().await.unwrap();
    store.faults().set_unavailable(true);
    assert!(matches!(store.begin().await.err(), Some(StoreError::Unavailable { .. })));
    assert!(open.get(b"key").await.is_err());
    open.put(Bytes::from("key"), Bytes::from("2"));
    assert!(open.commit().await.is_err());
    store.faults().set_unavailable(false);
    assert_eq!(value(&store).await, Some(Bytes::from("1")));
}

#[tokio::test]
async fn the_same_seed_gives_the_same_faults() {
    let rates = FaultRates { conflict: 0.3, unknown_lost: 0.2, full: 0.1, ..FaultRates::default() };
    let mut histories = Vec::new();
    for seed in [7, 7, 8] {
        let store = MemoryStore::with(Arc::new(ManualClock::new()), Faults::seeded(seed, rates));
        let mut history = String::new();
        for _ in 0..200 {
            history.push(match write(&store, "v").await {
                Ok(_) => '.',
                Err(CommitError::Conflict) => 'c',
                Err(CommitError::UnknownResult(_)) => 'u',
                Err(_) => 'f',
            });
        }
        histories.push(history);
    }
    assert_eq!(histories[0], histories[1]);
    assert_ne!(histories[0], histories[2]);
    for fault in ['.', 'c', 'u', 'f'] {
        assert!(histories[0].contains(fault), "{fault}");
    }
}

#[tokio::test]
async fn a_transaction_past_its_age_can_neither_read_nor_commit_what_it_read() {
    let (store, clock) = faulty();
    let mut reader = store.begin().await.unwrap();
    let mut blind = store.begin().await.unwrap();
    reader.get(b"key").await.unwrap();
    clock.advance(MAX_TRANSACTION_AGE + Duration::from_millis(1));
    let error = reader.get(b"key").await.unwrap_err();
    assert!(matches!(error, StoreError::TooOld { .. }) && error.is_retryable(), "{error}");
    reader.put(Bytes::from("key"), Bytes::from("1"));
    assert!(matches!(reader.commit().await, Err(CommitError::Conflict)));
    blind.put(Bytes::from("key"), Bytes::from("2"));
    blind.commit().await.unwrap();
}

#[tokio::test]
async fn a_watch_fails_when_the_store_closes() {
    let (store, _clock) = faulty();
    let watch = store.watch(b"key");
    drop(store);
    assert!(matches!(watch.await, Err(StoreError::Unavailable { .. })));
}

#[tokio::test]
async fn a_version_whose_later_commits_are_forgotten_conflicts() {
    let (store, clock) = faulty();
    let known = write(&store, "1").await.unwrap();
    write(&store, "2").await.unwrap();
    clock.advance(MAX_TRANSACTION_AGE * 2);
    // Remembering this one forgets those before.
    let latest = write(&store, "3").await.unwrap();
    for (known, conflicts) in [(known, true), (latest, false)] {
        let mut transaction = store.begin_after(known).await.unwrap();
        transaction.add_read_conflict(KeyRange::single(b"other"));
        transaction.put(Bytes::from("result"), Bytes::new());
        assert_eq!(matches!(transaction.commit().await, Err(CommitError::Conflict)), conflicts);
    }
}

#[tokio::test]
async fn a_version_of_the_future_hides_no_conflict() {
    let (store, _clock) = faulty();
    let mut transaction = store.begin_after(Version::from_u64(1_000)).await.unwrap();
    transaction.add_read_conflict(KeyRange::single(b"key"));
    transaction.put(Bytes::from("result"), Bytes::new());
    write(&store, "1").await.unwrap();
    assert!(matches!(transaction.commit().await, Err(CommitError::Conflict)));
}
