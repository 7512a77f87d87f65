//! Reading and removing ranges.

use super::{TestStore, assert_conflict, begin, bytes, get, set, span};
use crate::{KeyRange, Order, Transaction};

const ALPHABET: [(&str, &str); 5] = [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5")];

async fn keys(
    transaction: &mut Box<dyn Transaction>,
    range: KeyRange,
    limit: usize,
    order: Order,
) -> String {
    let pairs = transaction.range(&range, limit, order).await.unwrap();
    let snapshot = transaction.range_snapshot(&range, limit, order).await.unwrap();
    assert_eq!(pairs, snapshot, "both kinds of read see the same");
    let keys = pairs.iter().map(|(key, _)| String::from_utf8(key.to_vec()).unwrap());
    keys.collect::<Vec<_>>().join(" ")
}

/// The start is included, the end is not.
pub async fn ranges_read_in_both_orders_and_stop_at_the_limit(store: TestStore) {
    set(&store, &ALPHABET).await;
    let mut transaction = begin(&store).await;
    let read = &mut transaction;
    assert_eq!(keys(read, span("b", "e"), 10, Order::Forward).await, "b c d");
    assert_eq!(keys(read, span("b", "e"), 10, Order::Reverse).await, "d c b");
    assert_eq!(keys(read, span("b", "e"), 2, Order::Forward).await, "b c");
    assert_eq!(keys(read, span("b", "e"), 2, Order::Reverse).await, "d c");
    assert_eq!(keys(read, span("b", "e"), 0, Order::Forward).await, "");
    assert_eq!(keys(read, span("e", "b"), 10, Order::Forward).await, "");
    assert_eq!(keys(read, KeyRange::all(), 10, Order::Reverse).await, "e d c b a");
}

/// A long range is read page by page, without loss or repeat.
pub async fn ranges_page_by_what_remains(store: TestStore) {
    set(&store, &ALPHABET).await;
    let mut transaction = begin(&store).await;
    for order in [Order::Forward, Order::Reverse] {
        let mut rest = KeyRange::all();
        let mut seen = Vec::new();
        loop {
            let page = transaction.range(&rest, 2, order).await.unwrap();
            let Some((last, _)) = page.last() else { break };
            rest = match order {
                Order::Forward => rest.after(last),
                Order::Reverse => rest.before(last),
            };
            seen.extend(page.into_iter().map(|(key, _)| key));
        }
        let mut expected: Vec<_> = ALPHABET.iter().map(|(key, _)| bytes(key)).collect();
        if order == Order::Reverse {
            expected.reverse();
        }
        assert_eq!(seen, expected);
    }
}

/// Byte order, the shorter first, not the order of anything the bytes mean.
pub async fn ranges_are_ordered_by_bytes(store: TestStore) {
    let ordered: [&[u8]; 7] = [b"", b"\0", b"\0\xff", b"\x01", b"a", b"a\0", b"\xfe\xff"];
    let mut transaction = begin(&store).await;
    for key in ordered.iter().rev() {
        transaction.put(bytes::Bytes::from_static(key), bytes("v"));
    }
    transaction.commit().await.unwrap();
    let found = begin(&store).await.range(&KeyRange::all(), 10, Order::Forward).await.unwrap();
    assert_eq!(found.iter().map(|(key, _)| &key[..]).collect::<Vec<_>>(), ordered);
}

/// Own writes take their places among the snapshot's pairs, and own deletes leave none.
pub async fn ranges_merge_own_writes_and_deletes(store: TestStore) {
    set(&store, &ALPHABET).await;
    let mut transaction = begin(&store).await;
    transaction.delete_range(span("b", "d"));
    transaction.put(bytes("bb"), bytes("own"));
    transaction.put(bytes("c"), bytes("own"));
    transaction.put(bytes("0"), bytes("own"));
    transaction.put(bytes("z"), bytes("own"));
    transaction.delete(bytes("e"));
    let read = &mut transaction;
    assert_eq!(keys(read, KeyRange::all(), 10, Order::Forward).await, "0 a bb c d z");
    assert_eq!(keys(read, KeyRange::all(), 10, Order::Reverse).await, "z d c bb a 0");
    assert_eq!(keys(read, KeyRange::all(), 3, Order::Forward).await, "0 a bb");
    assert_eq!(keys(read, KeyRange::all(), 3, Order::Reverse).await, "z d c");
    assert_eq!(keys(read, span("a", "c"), 2, Order::Forward).await, "a bb");
    assert_eq!(read.get(b"c").await.unwrap(), Some(bytes("own")));
    transaction.commit().await.unwrap();
    let mut after = begin(&store).await;
    assert_eq!(keys(&mut after, KeyRange::all(), 10, Order::Forward).await, "0 a bb c d z");
}

/// Removing a range removes it, and what is written into it later stays.
pub async fn a_deleted_range_is_gone_and_the_rest_stays(store: TestStore) {
    set(&store, &ALPHABET).await;
    let mut transaction = begin(&store).await;
    transaction.put(bytes("bb"), bytes("before"));
    transaction.delete_range(span("b", "d"));
    transaction.put(bytes("c"), bytes("after"));
    transaction.commit().await.unwrap();
    let mut after = begin(&store).await;
    assert_eq!(keys(&mut after, KeyRange::all(), 10, Order::Forward).await, "a c d e");
    assert_eq!(get(&store, "c").await, Some(bytes("after")));
}

/// A removed range conflicts with whoever read a key or a range in it, there or not.
pub async fn a_deleted_range_conflicts_with_its_readers(store: TestStore) {
    set(&store, &ALPHABET).await;
    let mut of_key = begin(&store).await;
    of_key.get(b"cc").await.unwrap();
    of_key.put(bytes("result"), bytes("1"));
    let mut of_range = begin(&store).await;
    of_range.range(&span("cx", "cz"), 10, Order::Forward).await.unwrap();
    of_range.put(bytes("result"), bytes("1"));
    let mut outside = begin(&store).await;
    outside.range(&span("d", "e"), 10, Order::Forward).await.unwrap();
    outside.put(bytes("result"), bytes("1"));
    let mut remover = begin(&store).await;
    remover.delete_range(span("b", "d"));
    remover.commit().await.unwrap();
    assert_conflict(of_key.commit().await);
    assert_conflict(of_range.commit().await);
    outside.commit().await.unwrap();
}

/// A pair that appears where a range was read conflicts.
pub async fn a_phantom_conflicts(store: TestStore) {
    let mut transaction = begin(&store).await;
    assert!(transaction.range(&span("a", "z"), 10, Order::Forward).await.unwrap().is_empty());
    transaction.put(bytes("result"), bytes("1"));
    set(&store, &[("m", "new")]).await;
    assert_conflict(transaction.commit().await);
}

/// Past the last pair of a page nothing was read.
pub async fn a_limited_range_conflicts_only_on_what_it_read(store: TestStore) {
    set(&store, &ALPHABET).await;
    for (order, written, conflicts) in [
        (Order::Forward, "bb", false),
        (Order::Forward, "ab", true),
        (Order::Reverse, "cc", false),
        (Order::Reverse, "dd", true),
    ] {
        let mut transaction = begin(&store).await;
        transaction.range(&span("a", "f"), 2, order).await.unwrap();
        transaction.put(bytes("result"), bytes("1"));
        let mut other = begin(&store).await;
        other.put(bytes(written), bytes("new"));
        other.commit().await.unwrap();
        let committed = transaction.commit().await;
        assert_eq!(committed.is_err(), conflicts, "{order:?} {written}");
        let mut cleaner = begin(&store).await;
        cleaner.delete(bytes(written));
        cleaner.commit().await.unwrap();
    }
}
