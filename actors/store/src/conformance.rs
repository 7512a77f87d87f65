//! What every store must do, as one suite that runs over each: see [`conformance_suite!`].
//!
//! Each function takes an empty store and panics with the law it broke.
#![allow(clippy::unwrap_used)] // A failed unwrap is a failed test.

mod conflicts;
mod fdb_server;
mod ranges;
mod stamps;
mod waiting;

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

pub use self::{conflicts::*, fdb_server::FdbServer, ranges::*, stamps::*, waiting::*};
use crate::{
    CommitError, KeyRange, LimitError, MAX_KEY_BYTES, MAX_TRANSACTION_BYTES, MAX_VALUE_BYTES,
    Store, StoreError, Transaction,
};

/// Makes one test of each law over the store that the expression opens: a pair of an empty
/// `Arc<dyn Store>` and whatever must live as long as it.
#[macro_export]
macro_rules! conformance_suite {
    ($open:expr) => {
        $crate::conformance_suite! { @all (@tests $open) }
    };
    (@all ($($then:tt)+)) => {
        $crate::conformance_suite! { $($then)+;
            a_transaction_reads_its_own_writes,
            a_snapshot_does_not_see_later_commits,
            a_commit_is_seen_by_whoever_begins_after_it,
            a_dropped_transaction_leaves_nothing,
            an_empty_transaction_commits,
            limits_are_exact,
            versions_grow_with_commits,
            a_read_of_a_key_written_since_conflicts,
            a_read_of_an_absent_key_written_since_conflicts,
            a_delete_conflicts_with_its_readers,
            a_refused_transaction_applies_nothing_and_succeeds_when_run_again,
            snapshot_reads_do_not_conflict,
            blind_writes_do_not_conflict,
            a_put_without_conflict_does_not_conflict,
            reading_an_own_write_does_not_conflict,
            reads_of_other_keys_do_not_conflict,
            what_only_reads_always_commits,
            write_skew_is_impossible,
            added_conflict_ranges_count_as_reads_and_writes,
            ranges_read_in_both_orders_and_stop_at_the_limit,
            ranges_page_by_what_remains,
            ranges_are_ordered_by_bytes,
            ranges_merge_own_writes_and_deletes,
            a_deleted_range_is_gone_and_the_rest_stays,
            a_deleted_range_conflicts_with_its_readers,
            a_phantom_conflicts,
            a_limited_range_conflicts_only_on_what_it_read,
            stamped_keys_are_in_the_order_of_commits,
            stamped_keys_of_one_transaction_are_distinct_and_in_order,
            a_stamped_key_conflicts_with_readers_of_its_range_only,
            stamped_keys_come_after_the_other_writes,
            the_limits_of_stamped_keys_are_exact,
            what_begins_after_a_version_conflicts_with_commits_since,
            a_watch_fires_once_its_key_is_written,
            a_watch_fires_when_its_range_is_deleted,
            a_watch_of_another_key_stays,
            too_many_watches_are_refused_and_dropped_ones_make_room,
            concurrent_increments_are_all_counted,
            a_dropped_commit_harms_nobody,
        }
    };
    (@tests $open:expr; $($law:ident),+ $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $law() {
            let (store, _kept) = $open;
            $crate::conformance::$law(store).await;
        }
    )+};
    (@list; $($law:ident),+ $(,)?) => {
        vec![$(Law {
            name: stringify!($law),
            check: |store| Box::pin($crate::conformance::$law(store)),
        }),+]
    };
}

/// One law, for suites with a harness of their own.
#[derive(Clone, Copy, Debug)]
pub struct Law {
    /// The law as a sentence.
    pub name: &'static str,
    /// Takes an empty store and panics if the law is broken.
    pub check: fn(TestStore) -> BoxFuture<'static, ()>,
}

/// All laws.
pub fn laws() -> Vec<Law> {
    conformance_suite! { @all (@list) }
}

/// A store under test.
pub type TestStore = Arc<dyn Store>;

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn span(begin: &'static str, end: &'static str) -> KeyRange {
    KeyRange::new(bytes(begin), bytes(end))
}

async fn begin(store: &TestStore) -> Box<dyn Transaction> {
    store.begin().await.unwrap()
}

async fn set(store: &TestStore, pairs: &[(&'static str, &'static str)]) {
    let mut transaction = begin(store).await;
    for (key, value) in pairs {
        transaction.put(bytes(key), bytes(value));
    }
    transaction.commit().await.unwrap();
}

async fn get(store: &TestStore, key: &str) -> Option<Bytes> {
    begin(store).await.get(key.as_bytes()).await.unwrap()
}

#[track_caller]
fn assert_conflict<T: std::fmt::Debug>(result: Result<T, CommitError>) {
    assert!(matches!(result, Err(CommitError::Conflict)), "expected a conflict, got {result:?}");
}

/// Own writes and deletes are read before they commit.
pub async fn a_transaction_reads_its_own_writes(store: TestStore) {
    set(&store, &[("kept", "1"), ("gone", "1")]).await;
    let mut transaction = begin(&store).await;
    transaction.put(bytes("new"), bytes("2"));
    transaction.put(bytes("new"), bytes("3"));
    transaction.delete(bytes("gone"));
    assert_eq!(transaction.get(b"new").await.unwrap(), Some(bytes("3")));
    assert_eq!(transaction.get_snapshot(b"gone").await.unwrap(), None);
    assert_eq!(transaction.get(b"kept").await.unwrap(), Some(bytes("1")));
    assert_eq!(get(&store, "new").await, None, "nobody else sees it yet");
    transaction.commit().await.unwrap();
    assert_eq!(get(&store, "new").await, Some(bytes("3")));
    assert_eq!(get(&store, "gone").await, None);
}

/// A transaction reads what was there when it began.
pub async fn a_snapshot_does_not_see_later_commits(store: TestStore) {
    set(&store, &[("key", "old")]).await;
    let mut transaction = begin(&store).await;
    set(&store, &[("key", "new"), ("other", "new")]).await;
    assert_eq!(transaction.get(b"key").await.unwrap(), Some(bytes("old")));
    assert_eq!(transaction.get(b"other").await.unwrap(), None);
}

/// The order of commits respects the order in which callers see them.
pub async fn a_commit_is_seen_by_whoever_begins_after_it(store: TestStore) {
    for value in ["1", "2", "3", "4", "5"] {
        set(&store, &[("key", value)]).await;
        assert_eq!(get(&store, "key").await, Some(bytes(value)));
    }
}

/// What does not commit never happened.
pub async fn a_dropped_transaction_leaves_nothing(store: TestStore) {
    let mut transaction = begin(&store).await;
    transaction.put(bytes("key"), bytes("value"));
    drop(transaction);
    assert_eq!(get(&store, "key").await, None);
}

/// A transaction may do nothing at all.
pub async fn an_empty_transaction_commits(store: TestStore) {
    begin(&store).await.commit().await.unwrap();
    let mut transaction = begin(&store).await;
    transaction.delete_range(span("b", "a"));
    assert_eq!(transaction.range(&span("b", "a"), 9, crate::Order::Forward).await.unwrap(), []);
    transaction.commit().await.unwrap();
}

/// Each limit admits its last byte and refuses the next, and a refused transaction applies nothing.
pub async fn limits_are_exact(store: TestStore) {
    let longest = Bytes::from(vec![b'k'; MAX_KEY_BYTES]);
    let largest = Bytes::from(vec![b'v'; MAX_VALUE_BYTES]);
    let mut transaction = begin(&store).await;
    transaction.put(longest.clone(), largest.clone());
    transaction.commit().await.unwrap();
    let mut transaction = begin(&store).await;
    assert_eq!(transaction.get(&longest).await.unwrap(), Some(largest.clone()));
    let only = transaction.range(&KeyRange::single(&longest), 2, crate::Order::Forward).await;
    assert_eq!(only.unwrap().len(), 1);

    let too_long = Bytes::from(vec![b'k'; MAX_KEY_BYTES + 1]);
    let error = transaction.get(&too_long).await.unwrap_err();
    let expected = LimitError::Key { bytes: MAX_KEY_BYTES + 1 };
    assert!(matches!(error, StoreError::Limit(limit) if limit == expected), "{error}");
    let too_large = Bytes::from(vec![b'v'; MAX_VALUE_BYTES + 1]);
    let refused = [
        (too_long, bytes("v"), expected),
        (bytes("k"), too_large, LimitError::Value { bytes: MAX_VALUE_BYTES + 1 }),
        (Bytes::from_static(b"\xffk"), bytes("v"), LimitError::Reserved),
    ];
    for (key, value, expected) in refused {
        let mut transaction = begin(&store).await;
        transaction.put(bytes("beside"), bytes("v"));
        transaction.put(key, value);
        let error = transaction.commit().await.unwrap_err();
        assert!(matches!(&error, CommitError::TooLarge(limit) if *limit == expected), "{error}");
        assert_eq!(get(&store, "beside").await, None);
    }

    let key_bytes = 5;
    let fitting = MAX_TRANSACTION_BYTES / (MAX_VALUE_BYTES + key_bytes);
    let room = MAX_TRANSACTION_BYTES - fitting * (MAX_VALUE_BYTES + key_bytes) - key_bytes;
    for (last, fits) in [(room, true), (room + 1, false)] {
        let mut transaction = begin(&store).await;
        for index in 0..fitting {
            transaction.put(Bytes::from(format!("{index:05}")), largest.clone());
        }
        transaction.put(bytes("99999"), largest.slice(..last));
        assert_eq!(transaction.commit().await.is_ok(), fits, "{last}");
    }
}

/// Commit versions order the commits.
pub async fn versions_grow_with_commits(store: TestStore) {
    let mut versions = Vec::new();
    for _ in 0..4 {
        let mut transaction = begin(&store).await;
        transaction.put(bytes("key"), bytes("value"));
        versions.push(transaction.commit().await.unwrap());
    }
    assert!(versions.is_sorted_by(|left, right| left < right), "{versions:?}");
    // Of a cluster, versions go on without commits.
    assert!(begin(&store).await.commit().await.unwrap() >= versions[3]);
}
