//! What a transaction has written so far: an overlay over its snapshot, then the commit's payload.

use std::{
    collections::{BTreeMap, btree_map},
    iter::Peekable,
};

use bytes::{BufMut, Bytes, BytesMut};

use crate::{KeyRange, Order, STAMP_BYTES, Version};

/// The buffered writes of one transaction.
///
/// INVARIANT: applying `cleared` first and `keys` after it gives the same as the calls in their order.
#[derive(Debug, Default)]
pub(crate) struct WriteSet {
    /// The last write of each key.
    keys: BTreeMap<Bytes, Written>,
    /// Ranges removed before `keys` apply.
    cleared: RangeSet,
    /// What becomes keys once the version is known: prefix and value, in the order of the calls.
    stamped: Vec<(Bytes, Bytes)>,
}

#[derive(Debug)]
struct Written {
    /// `None` removes the key.
    value: Option<Bytes>,
    /// Whether readers of the key conflict with it.
    conflicts: bool,
}

/// A set of keys as disjoint ranges that do not touch, each begin with its end.
#[derive(Debug, Default)]
struct RangeSet(BTreeMap<Bytes, Bytes>);

/// What the overlay says about a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Overlay<'a> {
    /// The transaction set it.
    Set(&'a Bytes),
    /// The transaction removed it.
    Removed,
    /// The transaction did not touch it.
    Untouched,
}

/// The own writes of a range in reading order, to be merged with the snapshot's pairs.
pub(crate) struct OverlayCursor<'a> {
    set: &'a WriteSet,
    keys: Peekable<InOrder<'a>>,
    order: Order,
}

enum InOrder<'a> {
    Forward(btree_map::Range<'a, Bytes, Written>),
    Reverse(std::iter::Rev<btree_map::Range<'a, Bytes, Written>>),
    Empty,
}

// === impl WriteSet ===

impl WriteSet {
    pub(crate) fn put(&mut self, key: Bytes, value: Bytes) {
        self.keys.insert(key, Written { value: Some(value), conflicts: true });
    }

    /// Sets a key without a conflict, unless the transaction wrote it with one before.
    pub(crate) fn put_quietly(&mut self, key: Bytes, value: Bytes) {
        match self.keys.entry(key) {
            btree_map::Entry::Vacant(entry) => {
                entry.insert(Written { value: Some(value), conflicts: false });
            }
            btree_map::Entry::Occupied(mut entry) => entry.get_mut().value = Some(value),
        }
    }

    /// Notes a key to be stamped. At most [`MAX_STAMPED`](crate::MAX_STAMPED) of them.
    pub(crate) fn put_stamped(&mut self, prefix: Bytes, value: Bytes) {
        self.stamped.push((prefix, value));
    }

    pub(crate) fn stamped(&self) -> usize {
        self.stamped.len()
    }

    /// Turns what is to be stamped into keys of the commit with this version.
    pub(crate) fn stamp(&mut self, version: Version) {
        for (index, (prefix, value)) in (0u16..=u16::MAX).zip(std::mem::take(&mut self.stamped)) {
            let mut key = BytesMut::with_capacity(prefix.len() + STAMP_BYTES);
            key.put_slice(&prefix);
            key.put_u64(version.as_u64());
            // A version is one commit's here; a cluster store tells those of one version apart.
            key.put_u16(0);
            key.put_u16(index);
            self.put(key.freeze(), value);
        }
    }

    pub(crate) fn delete(&mut self, key: Bytes) {
        self.keys.insert(key, Written { value: None, conflicts: true });
    }

    pub(crate) fn delete_range(&mut self, range: &KeyRange) {
        if range.is_empty() {
            return;
        }
        // What was written into the range before is removed with it.
        let written = self.keys.range::<[u8], _>(range.bounds());
        let written: Vec<Bytes> = written.map(|(key, _)| key.clone()).collect();
        for key in &written {
            self.keys.remove(key);
        }
        self.cleared.insert(range);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.cleared.0.is_empty() && self.stamped.is_empty()
    }

    pub(crate) fn get(&self, key: &[u8]) -> Overlay<'_> {
        match self.keys.get(key) {
            Some(Written { value: Some(value), .. }) => Overlay::Set(value),
            Some(Written { value: None, .. }) => Overlay::Removed,
            None if self.cleared.contains(key) => Overlay::Removed,
            None => Overlay::Untouched,
        }
    }

    /// The keys to write after the cleared ranges are removed, ascending.
    pub(crate) fn keys(&self) -> impl ExactSizeIterator<Item = (&Bytes, Option<&Bytes>)> {
        self.keys.iter().map(|(key, written)| (key, written.value.as_ref()))
    }

    /// The keys whose readers conflict with the transaction, ascending.
    pub(crate) fn conflict_keys(&self) -> impl Iterator<Item = &Bytes> {
        self.keys.iter().filter_map(|(key, written)| written.conflicts.then_some(key))
    }

    /// The ranges to remove before the keys are written, ascending and disjoint.
    pub(crate) fn cleared(&self) -> impl Iterator<Item = KeyRange> {
        self.cleared.0.iter().map(|(begin, end)| KeyRange::new(begin.clone(), end.clone()))
    }

    pub(crate) fn overlay(&self, range: &KeyRange, order: Order) -> OverlayCursor<'_> {
        let keys = if range.is_empty() {
            InOrder::Empty
        } else {
            let keys = self.keys.range::<[u8], _>(range.bounds());
            match order {
                Order::Forward => InOrder::Forward(keys),
                Order::Reverse => InOrder::Reverse(keys.rev()),
            }
        };
        OverlayCursor { set: self, keys: keys.peekable(), order }
    }
}

// === impl RangeSet ===

impl RangeSet {
    fn insert(&mut self, range: &KeyRange) {
        let (mut begin, mut end) = (range.begin().clone(), range.end().clone());
        // Ranges are disjoint, so those that touch the new one are neighbours, the last first.
        while let Some((known_begin, known_end)) = self.0.range(..=end.clone()).next_back() {
            if *known_end < begin {
                break;
            }
            let known_begin = known_begin.clone();
            end = end.max(known_end.clone());
            self.0.remove(&known_begin);
            begin = begin.min(known_begin);
        }
        self.0.insert(begin, end);
    }

    fn contains(&self, key: &[u8]) -> bool {
        let up_to_key = (std::ops::Bound::Unbounded, std::ops::Bound::Included(key));
        self.0.range::<[u8], _>(up_to_key).next_back().is_some_and(|(_, end)| key < &end[..])
    }
}

// === impl OverlayCursor ===

impl OverlayCursor<'_> {
    /// The next pair set by the transaction that stands before `key` in reading order, or the next at
    /// all when there is no `key`.
    pub(crate) fn next_before(&mut self, key: Option<&[u8]>) -> Option<(Bytes, Bytes)> {
        loop {
            let order = self.order;
            let (own, value) = self.keys.next_if(|(own, _)| match (key, order) {
                (None, _) => true,
                (Some(key), Order::Forward) => &own[..] < key,
                (Some(key), Order::Reverse) => &own[..] > key,
            })?;
            if let Some(value) = &value.value {
                return Some((own.clone(), value.clone()));
            }
        }
    }

    /// What the transaction says about a pair of the snapshot: what it set, or nothing if it removed
    /// it. Call after [`OverlayCursor::next_before`] gave up.
    pub(crate) fn resolve(&mut self, key: Bytes, value: Bytes) -> Option<(Bytes, Bytes)> {
        if let Some((_, own)) = self.keys.next_if(|(own, _)| **own == key) {
            return own.value.clone().map(|own| (key, own));
        }
        let removed = self.set.cleared.contains(&key);
        (!removed).then_some((key, value))
    }
}

// === impl InOrder ===

impl<'a> Iterator for InOrder<'a> {
    type Item = (&'a Bytes, &'a Written);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Forward(keys) => keys.next(),
            Self::Reverse(keys) => keys.next(),
            Self::Empty => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Write {
        Put(u8),
        Delete(u8),
        DeleteRange(u8, u8),
    }

    fn write() -> impl Strategy<Value = Write> {
        prop_oneof![
            3 => (0..20u8).prop_map(Write::Put),
            1 => (0..20u8).prop_map(Write::Delete),
            2 => (0..20u8, 0..21u8).prop_map(|(begin, end)| Write::DeleteRange(begin, end)),
        ]
    }

    proptest! {
        #[test]
        fn the_overlay_is_the_calls_in_their_order(writes in prop::collection::vec(write(), 0..30)) {
            let mut set = WriteSet::default();
            let mut expected: BTreeMap<u8, Option<u8>> = BTreeMap::new();
            for (value, write) in (0u8..).zip(&writes) {
                match *write {
                    Write::Put(key) => {
                        set.put(Bytes::from(vec![key]), Bytes::from(vec![value]));
                        expected.insert(key, Some(value));
                    }
                    Write::Delete(key) => {
                        set.delete(Bytes::from(vec![key]));
                        expected.insert(key, None);
                    }
                    Write::DeleteRange(begin, end) => {
                        set.delete_range(&KeyRange::new(vec![begin], vec![end]));
                        expected.extend((begin..end).map(|key| (key, None)));
                    }
                }
            }
            for key in 0..22u8 {
                let known = match set.get(&[key]) {
                    Overlay::Set(value) => Some(Some(value[0])),
                    Overlay::Removed => Some(None),
                    Overlay::Untouched => None,
                };
                prop_assert_eq!(known, expected.get(&key).copied());
            }
            let cleared: Vec<_> = set.cleared().collect();
            prop_assert!(cleared.windows(2).all(|pair| pair[0].end() < pair[1].begin()));
        }
    }
}
