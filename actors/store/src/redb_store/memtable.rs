//! What was committed and is not in the database file yet.
//!
//! One writer inserts while readers read, without locks: each write of a key is an entry of its own,
//! ordered by key and then from the latest version down, and a reader skips what is later than its
//! snapshot. So a snapshot costs a pointer and a number, and publishing a group costs no copy.

use std::{
    borrow::Borrow,
    cmp::Ordering,
    ops::Bound,
    sync::{
        Arc,
        atomic::{self, AtomicUsize},
    },
};

use bytes::Bytes;
use crossbeam_skiplist::{SkipMap, map::Range};

use super::cleared::Cleared;
use crate::{KeyRange, Order, Version};

/// Memory that an entry takes beside its key and value, about, in bytes.
const ENTRY_BYTES: usize = 160;

/// The writes of a stretch of the log.
#[derive(Debug, Default)]
pub(super) struct Memtable {
    entries: SkipMap<Place, Option<Bytes>>,
    bytes: AtomicUsize,
}

/// Where an entry stands: keys ascending, the versions of each descending.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    key: Bytes,
    version: std::cmp::Reverse<Version>,
}

/// A place whose key is borrowed.
trait AsPlace {
    fn place(&self) -> (&[u8], std::cmp::Reverse<Version>);
}

struct Borrowed<'a>(&'a [u8], Version);

/// A memtable and the ranges cleared in it, as of one commit.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    pub(super) table: Arc<Memtable>,
    pub(super) cleared: Arc<Cleared>,
}

/// What a layer says about a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    Set(Bytes),
    Removed,
    /// An older layer may know.
    Nothing,
}

/// The newest visible entry of each key of a range, in reading order.
pub(super) struct LayerScan<'a> {
    entries: Entries<'a>,
    /// The first entry of the next key, met when the last key ended.
    ahead: Option<(Bytes, Version, Option<Bytes>)>,
    cleared: &'a Cleared,
    version: Version,
    order: Order,
}

type Entries<'a> = Range<'a, Place, (Bound<Place>, Bound<Place>), Place, Option<Bytes>>;

// === impl Place ===

impl AsPlace for Place {
    fn place(&self) -> (&[u8], std::cmp::Reverse<Version>) {
        (&self.key, self.version)
    }
}

impl<'a> Borrow<dyn AsPlace + 'a> for Place {
    fn borrow(&self) -> &(dyn AsPlace + 'a) {
        self
    }
}

// === impl Borrowed ===

impl AsPlace for Borrowed<'_> {
    fn place(&self) -> (&[u8], std::cmp::Reverse<Version>) {
        (self.0, std::cmp::Reverse(self.1))
    }
}

impl PartialEq for dyn AsPlace + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for dyn AsPlace + '_ {}

impl PartialOrd for dyn AsPlace + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn AsPlace + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

// === impl Memtable ===

impl Memtable {
    /// Notes a write; nothing means that the key was removed. Each key at most once per version.
    pub(super) fn insert(&self, key: Bytes, version: Version, value: Option<Bytes>) {
        let bytes = ENTRY_BYTES + key.len() + value.as_ref().map_or(0, Bytes::len);
        self.add_bytes(bytes);
        self.entries.insert(Place { key, version: std::cmp::Reverse(version) }, value);
    }

    /// Counts memory that the layer takes beside its entries.
    pub(super) fn add_bytes(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, atomic::Ordering::Relaxed);
    }

    /// Memory taken, about, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(atomic::Ordering::Relaxed)
    }

    /// The newest entry of `key` not later than `version`.
    fn newest(&self, key: &[u8], version: Version) -> Option<(Version, Option<Bytes>)> {
        let place = Borrowed(key, version);
        let entry = self.entries.lower_bound(Bound::Included(&place as &dyn AsPlace))?;
        let found = entry.key();
        (found.key == key).then(|| (found.version.0, entry.value().clone()))
    }
}

// === impl Layer ===

impl Layer {
    pub(super) fn clear(&mut self, range: &KeyRange, version: Version) {
        self.table.add_bytes(ENTRY_BYTES + range.begin().len() + range.end().len());
        Arc::make_mut(&mut self.cleared).insert(range, version);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.entries.is_empty() && self.cleared.len() == 0
    }

    pub(super) fn get(&self, key: &[u8], version: Version) -> Known {
        let cleared = self.cleared.version_of(key);
        match self.table.newest(key, version) {
            // What a transaction sets, it sets after what it clears.
            Some((written, Some(value))) if Some(written) >= cleared => Known::Set(value),
            Some(_) => Known::Removed,
            None if cleared.is_some() => Known::Removed,
            None => Known::Nothing,
        }
    }

    /// The entries of a range that is not empty, as of `version`.
    pub(super) fn scan(&self, range: &KeyRange, version: Version, order: Order) -> LayerScan<'_> {
        let first_of = |key: &Bytes| Place {
            key: key.clone(),
            version: std::cmp::Reverse(Version::from_u64(u64::MAX)),
        };
        let bounds =
            (Bound::Included(first_of(range.begin())), Bound::Excluded(first_of(range.end())));
        let entries = self.table.entries.range(bounds);
        LayerScan { entries, ahead: None, cleared: &self.cleared, version, order }
    }

    /// Every key that was written, ascending, with what became of it.
    pub(super) fn outcome(&self) -> LayerScan<'_> {
        self.scan(&KeyRange::all(), Version::from_u64(u64::MAX), Order::Forward)
    }
}

// === impl LayerScan ===

impl LayerScan<'_> {
    fn entry(&mut self) -> Option<(Bytes, Version, Option<Bytes>)> {
        if let Some(ahead) = self.ahead.take() {
            return Some(ahead);
        }
        loop {
            let entry = match self.order {
                Order::Forward => self.entries.next(),
                Order::Reverse => self.entries.next_back(),
            }?;
            let place = entry.key();
            if place.version.0 <= self.version {
                return Some((place.key.clone(), place.version.0, entry.value().clone()));
            }
        }
    }
}

impl Iterator for LayerScan<'_> {
    /// A key and its value; none if it was removed.
    type Item = (Bytes, Option<Bytes>);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, mut version, mut value) = self.entry()?;
        while let Some(next) = self.entry() {
            if next.0 != key {
                self.ahead = Some(next);
                break;
            }
            if next.1 > version {
                (version, value) = (next.1, next.2);
            }
        }
        if Some(version) < self.cleared.version_of(&key) {
            value = None;
        }
        Some((key, value))
    }
}
