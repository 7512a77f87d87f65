//! Keys in the order of commits, and conflicts that count from an earlier one.

use bytes::Bytes;

use super::{TestStore, assert_conflict, begin, bytes, get, set, span};
use crate::{
    CommitError, KeyRange, LimitError, MAX_KEY_BYTES, MAX_STAMPED, Order, STAMP_BYTES, Version,
};

/// Commits one stamped key.
async fn stamp(store: &TestStore, prefix: &'static str, value: impl Into<Bytes>) -> Version {
    let mut transaction = begin(store).await;
    transaction.put_stamped(bytes(prefix), value.into());
    transaction.commit().await.unwrap()
}

async fn stamped(store: &TestStore, prefix: &'static str) -> Vec<(Bytes, Bytes)> {
    let range = KeyRange::prefix(prefix.as_bytes());
    let pairs = begin(store).await.range(&range, MAX_STAMPED, Order::Forward).await.unwrap();
    for (key, _) in &pairs {
        assert_eq!(key.len(), prefix.len() + STAMP_BYTES);
    }
    pairs
}

/// Whoever commits later comes later, whichever way the commits overlap.
pub async fn stamped_keys_are_in_the_order_of_commits(store: TestStore) {
    let mut late = begin(&store).await;
    late.put_stamped(bytes("log/"), bytes("5"));
    for value in ["0", "1", "2", "3", "4"] {
        stamp(&store, "log/", value).await;
        // Commits of another kind take their places too.
        set(&store, &[("key", value)]).await;
    }
    late.commit().await.unwrap();
    let pairs = stamped(&store, "log/").await;
    let values: Vec<_> = pairs.iter().map(|(_, value)| value.clone()).collect();
    assert_eq!(values, ["0", "1", "2", "3", "4", "5"].map(bytes));
}

/// Several stamps of one commit differ, also over prefixes, and ascend.
pub async fn stamped_keys_of_one_transaction_are_distinct_and_in_order(store: TestStore) {
    let mut transaction = begin(&store).await;
    for index in 0..300u32 {
        let prefix = if index % 2 == 0 { "even/" } else { "odd/" };
        transaction.put_stamped(bytes(prefix), Bytes::from(index.to_string()));
    }
    transaction.commit().await.unwrap();
    let mut stamps = Vec::new();
    for (prefix, first) in [("even/", 0), ("odd/", 1)] {
        let pairs = stamped(&store, prefix).await;
        let expected: Vec<_> =
            (first..300u32).step_by(2).map(|index| Bytes::from(index.to_string())).collect();
        let values: Vec<_> = pairs.iter().map(|(_, value)| value.clone()).collect();
        assert_eq!(values, expected);
        stamps.extend(pairs.iter().map(|(key, _)| key.slice(prefix.len()..)));
    }
    stamps.sort_unstable();
    stamps.dedup();
    assert_eq!(stamps.len(), 300);
}

/// A stamped key is new: who read the range without it must not go on as if it were not there.
pub async fn a_stamped_key_conflicts_with_readers_of_its_range_only(store: TestStore) {
    let mut reader = begin(&store).await;
    assert!(reader.range(&span("log/", "log0"), 10, Order::Forward).await.unwrap().is_empty());
    reader.put(bytes("result"), bytes("1"));
    let mut elsewhere = begin(&store).await;
    elsewhere.get(b"log/").await.unwrap();
    elsewhere.range(&span("log0", "logs"), 10, Order::Forward).await.unwrap();
    elsewhere.put(bytes("result"), bytes("2"));
    let mut blind = begin(&store).await;
    blind.put_stamped(bytes("log/"), bytes("blind"));
    stamp(&store, "log/", "first").await;
    assert_conflict(reader.commit().await);
    elsewhere.commit().await.unwrap();
    blind.commit().await.unwrap();
    let values: Vec<_> = stamped(&store, "log/").await.into_iter().map(|pair| pair.1).collect();
    assert_eq!(values, ["first", "blind"].map(bytes));
}

/// The key exists with the commit and not before.
pub async fn stamped_keys_come_after_the_other_writes(store: TestStore) {
    stamp(&store, "log/", "old").await;
    let mut transaction = begin(&store).await;
    transaction.put_stamped(bytes("log/"), bytes("new"));
    transaction.range(&span("log/", "log0"), 10, Order::Forward).await.unwrap();
    transaction.delete_range(span("log/", "log0"));
    transaction.put(bytes("beside"), bytes("1"));
    transaction.commit().await.unwrap();
    let values: Vec<_> = stamped(&store, "log/").await.into_iter().map(|pair| pair.1).collect();
    assert_eq!(values, ["new"].map(bytes));
    assert_eq!(get(&store, "beside").await, Some(bytes("1")));
}

/// The stamp counts as part of the key.
pub async fn the_limits_of_stamped_keys_are_exact(store: TestStore) {
    let longest = Bytes::from(vec![b'k'; MAX_KEY_BYTES - STAMP_BYTES]);
    let too_long = Bytes::from(vec![b'k'; MAX_KEY_BYTES - STAMP_BYTES + 1]);
    let mut transaction = begin(&store).await;
    transaction.put_stamped(longest, bytes("1"));
    transaction.commit().await.unwrap();
    let mut transaction = begin(&store).await;
    transaction.put(bytes("beside"), bytes("1"));
    transaction.put_stamped(too_long, bytes("1"));
    let error = transaction.commit().await.unwrap_err();
    let expected = LimitError::Key { bytes: MAX_KEY_BYTES + 1 };
    assert!(matches!(&error, CommitError::TooLarge(limit) if *limit == expected), "{error}");
    assert_eq!(get(&store, "beside").await, None);

    let mut transaction = begin(&store).await;
    for _ in 0..=MAX_STAMPED {
        transaction.put_stamped(Bytes::new(), Bytes::new());
    }
    let error = transaction.commit().await.unwrap_err();
    assert!(matches!(error, CommitError::TooLarge(LimitError::Stamped)), "{error}");
}

/// What was written between the known version and the begin counts; what was written before does not.
pub async fn what_begins_after_a_version_conflicts_with_commits_since(store: TestStore) {
    set(&store, &[("before", "1"), ("since", "1")]).await;
    let known = stamp(&store, "log/", "1").await;
    set(&store, &[("since", "2")]).await;

    let mut transaction = store.begin_after(known).await.unwrap();
    transaction.add_read_conflict(KeyRange::single(b"since"));
    transaction.put(bytes("result"), bytes("1"));
    assert_conflict(transaction.commit().await);

    let mut transaction = store.begin_after(known).await.unwrap();
    transaction.add_read_conflict(KeyRange::single(b"before"));
    transaction.put(bytes("result"), bytes("2"));
    let latest = transaction.commit().await.unwrap();
    assert!(latest > known);
    assert_eq!(get(&store, "result").await, Some(bytes("2")));

    // A version that was read serves as well as one that was committed.
    let read = begin(&store).await.commit().await.unwrap();
    let mut transaction = store.begin_after(read).await.unwrap();
    transaction.get(b"since").await.unwrap();
    transaction.put(bytes("result"), bytes("3"));
    transaction.commit().await.unwrap();

    let mut transaction = store.begin_after(read).await.unwrap();
    transaction.get(b"result").await.unwrap();
    transaction.put(bytes("result"), bytes("4"));
    assert_conflict(transaction.commit().await);
}
