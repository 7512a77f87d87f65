//! The order of stamped keys outlives the openings of the store.

use bytes::Bytes;

use super::faults::open;
use crate::{DiskFault, KeyRange, Loss, Order, RedbStore, SimDisk, Store};

const PREFIX: &[u8] = b"log/";

/// Commits numbered stamped keys until `until` or a failure, and gives the number after the last that
/// was acknowledged.
async fn stamp(store: &RedbStore, from: u64, until: u64) -> u64 {
    for number in from..until {
        let mut transaction = store.begin().await.unwrap();
        let value = [&number.to_be_bytes()[..], &[b'v'; 300]].concat();
        transaction.put_stamped(Bytes::from_static(PREFIX), Bytes::from(value));
        if transaction.commit().await.is_err() {
            return number;
        }
    }
    until
}

/// The numbers in the order of their keys.
async fn numbers(store: &RedbStore) -> Vec<u64> {
    let range = KeyRange::prefix(PREFIX);
    let mut transaction = store.begin().await.unwrap();
    let pairs = transaction.range(&range, usize::MAX, Order::Forward).await.unwrap();
    pairs.iter().map(|(_, value)| u64::from_be_bytes(value[..8].try_into().unwrap())).collect()
}

#[tokio::test]
async fn a_later_opening_stamps_higher_keys_whichever_way_the_one_before_ended() {
    let disk = SimDisk::new(7);
    let mut next = 0;
    let mut acknowledged = Vec::new();
    // Closed, crashed while idle, crashed on the way; a few commits and many, with flushes between.
    for (opening, count) in (0..).zip([1, 0, 3, 40, 0, 0, 2, 60, 1, 25, 30, 5]) {
        let store = open(&disk).unwrap();
        if opening % 3 == 2 {
            disk.fail_at(disk.operations() + count, DiskFault::Crash);
        }
        let until = stamp(&store, next, next + count).await;
        acknowledged.extend(next..until);
        // A number whose commit failed may have been stored.
        next = next.max(until) + 1;
        match opening % 3 {
            0 => drop(store),
            _ => {
                disk.crash(if opening % 2 == 0 { Loss::Some } else { Loss::Everything });
                drop(store);
            }
        }
    }
    let found = numbers(&open(&disk).unwrap()).await;
    assert!(found.is_sorted_by(|left, right| left < right), "{found:?}");
    let lost: Vec<_> = acknowledged.iter().filter(|number| !found.contains(number)).collect();
    assert!(lost.is_empty(), "{lost:?} of {found:?}");
}

#[tokio::test]
async fn a_version_of_an_earlier_opening_conflicts() {
    let disk = SimDisk::new(8);
    let store = open(&disk).unwrap();
    stamp(&store, 0, 3).await;
    let known = store.begin().await.unwrap().commit().await.unwrap();
    stamp(&store, 3, 4).await;
    drop(store);
    let store = open(&disk).unwrap();
    let mut transaction = store.begin_after(known).await.unwrap();
    transaction.add_read_conflict(KeyRange::single(b"key"));
    transaction.put(Bytes::from_static(b"result"), Bytes::new());
    assert!(matches!(transaction.commit().await, Err(crate::CommitError::Conflict)));
}
