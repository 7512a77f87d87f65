//! Which transactions may commit side by side.

use super::{TestStore, assert_conflict, begin, bytes, get, set, span};

/// The basic conflict.
pub async fn a_read_of_a_key_written_since_conflicts(store: TestStore) {
    set(&store, &[("key", "old")]).await;
    let mut transaction = begin(&store).await;
    transaction.get(b"key").await.unwrap();
    transaction.put(bytes("result"), bytes("1"));
    set(&store, &[("key", "new")]).await;
    assert_conflict(transaction.commit().await);
}

/// Seeing that there is nothing is a read too.
pub async fn a_read_of_an_absent_key_written_since_conflicts(store: TestStore) {
    let mut transaction = begin(&store).await;
    assert_eq!(transaction.get(b"key").await.unwrap(), None);
    transaction.put(bytes("key"), bytes("mine"));
    set(&store, &[("key", "theirs")]).await;
    assert_conflict(transaction.commit().await);
    assert_eq!(get(&store, "key").await, Some(bytes("theirs")));
}

/// Removing is writing.
pub async fn a_delete_conflicts_with_its_readers(store: TestStore) {
    set(&store, &[("key", "old")]).await;
    let mut reader = begin(&store).await;
    reader.get(b"key").await.unwrap();
    reader.put(bytes("result"), bytes("1"));
    let mut remover = begin(&store).await;
    remover.delete(bytes("key"));
    remover.commit().await.unwrap();
    assert_conflict(reader.commit().await);
}

/// A conflict leaves no trace, and the next try sees what it conflicted with.
pub async fn a_refused_transaction_applies_nothing_and_succeeds_when_run_again(store: TestStore) {
    let mut first = begin(&store).await;
    first.get(b"key").await.unwrap();
    first.put(bytes("a"), bytes("1"));
    first.delete_range(span("k", "l"));
    set(&store, &[("key", "theirs")]).await;
    assert_conflict(first.commit().await);
    assert_eq!(get(&store, "a").await, None);
    assert_eq!(get(&store, "key").await, Some(bytes("theirs")));
    let mut again = begin(&store).await;
    assert_eq!(again.get(b"key").await.unwrap(), Some(bytes("theirs")));
    again.put(bytes("a"), bytes("1"));
    again.commit().await.unwrap();
}

/// A write that asks for no conflict has none, is seen all the same, and does not take away the conflict of
/// an earlier write of the same key.
pub async fn a_put_without_conflict_does_not_conflict(store: TestStore) {
    let mut reader = begin(&store).await;
    reader.get(b"quiet").await.unwrap();
    reader.put(bytes("result"), bytes("1"));
    let mut writer = begin(&store).await;
    writer.put_without_conflict(bytes("quiet"), bytes("new"));
    assert_eq!(writer.get(b"quiet").await.unwrap(), Some(bytes("new")));
    writer.commit().await.unwrap();
    reader.commit().await.unwrap();
    assert_eq!(get(&store, "quiet").await, Some(bytes("new")));

    let mut reader = begin(&store).await;
    reader.get(b"loud").await.unwrap();
    reader.put(bytes("result"), bytes("2"));
    let mut writer = begin(&store).await;
    writer.put(bytes("loud"), bytes("old"));
    writer.put_without_conflict(bytes("loud"), bytes("new"));
    writer.commit().await.unwrap();
    assert_eq!(get(&store, "loud").await, Some(bytes("new")));
    assert_conflict(reader.commit().await);
}

/// Reads that ask for no conflict have none.
pub async fn snapshot_reads_do_not_conflict(store: TestStore) {
    let mut transaction = begin(&store).await;
    transaction.get_snapshot(b"key").await.unwrap();
    let all = crate::KeyRange::all();
    transaction.range_snapshot(&all, 10, crate::Order::Forward).await.unwrap();
    transaction.put(bytes("result"), bytes("1"));
    set(&store, &[("key", "new")]).await;
    transaction.commit().await.unwrap();
}

/// The last of two blind writes wins.
pub async fn blind_writes_do_not_conflict(store: TestStore) {
    let mut first = begin(&store).await;
    first.put(bytes("key"), bytes("first"));
    set(&store, &[("key", "second")]).await;
    first.commit().await.unwrap();
    assert_eq!(get(&store, "key").await, Some(bytes("first")));
}

/// What a transaction wrote itself depends on nobody.
pub async fn reading_an_own_write_does_not_conflict(store: TestStore) {
    let mut transaction = begin(&store).await;
    transaction.put(bytes("key"), bytes("mine"));
    transaction.get(b"key").await.unwrap();
    set(&store, &[("key", "theirs")]).await;
    transaction.commit().await.unwrap();
}

/// Conflicts are per key, not per store.
pub async fn reads_of_other_keys_do_not_conflict(store: TestStore) {
    let mut transaction = begin(&store).await;
    transaction.get(b"key").await.unwrap();
    transaction.range(&span("a", "b"), 10, crate::Order::Forward).await.unwrap();
    transaction.put(bytes("result"), bytes("1"));
    set(&store, &[("kez", "new"), ("key\0", "new"), ("b", "new")]).await;
    transaction.commit().await.unwrap();
}

/// A snapshot is consistent in itself.
pub async fn what_only_reads_always_commits(store: TestStore) {
    let mut transaction = begin(&store).await;
    transaction.get(b"key").await.unwrap();
    set(&store, &[("key", "new")]).await;
    transaction.commit().await.unwrap();
}

/// Two transactions that each read what the other writes cannot both commit.
pub async fn write_skew_is_impossible(store: TestStore) {
    set(&store, &[("alice", "on call"), ("bob", "on call")]).await;
    let mut alice = begin(&store).await;
    let mut bob = begin(&store).await;
    alice.get(b"bob").await.unwrap();
    bob.get(b"alice").await.unwrap();
    alice.put(bytes("alice"), bytes("off"));
    bob.put(bytes("bob"), bytes("off"));
    alice.commit().await.unwrap();
    assert_conflict(bob.commit().await);
}

/// Conflicts can be claimed without reading or writing.
pub async fn added_conflict_ranges_count_as_reads_and_writes(store: TestStore) {
    let mut reader = begin(&store).await;
    reader.add_read_conflict(span("a", "c"));
    reader.put(bytes("result"), bytes("1"));
    set(&store, &[("b", "new")]).await;
    assert_conflict(reader.commit().await);

    let mut reader = begin(&store).await;
    reader.get(b"b").await.unwrap();
    reader.put(bytes("result"), bytes("1"));
    let mut claimant = begin(&store).await;
    claimant.add_write_conflict(span("a", "c"));
    claimant.commit().await.unwrap();
    assert_conflict(reader.commit().await);
    assert_eq!(get(&store, "b").await, Some(bytes("new")), "a claim writes nothing");
}
