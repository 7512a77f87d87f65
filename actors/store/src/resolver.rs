//! Optimistic concurrency control: may a transaction commit, given what was committed since it read?
//!
//! The rule is FoundationDB's resolver: a transaction conflicts if a key or range it read was written by
//! a commit after its read version. Since its writes take effect at its commit, and everything it read
//! is then still what it was, the order of commits is a serial order of all transactions.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;

use crate::{KeyRange, MAX_TRANSACTION_AGE, Version, write_set::WriteSet};

/// How much of the past the resolver remembers. A transaction that read before it conflicts.
#[derive(Clone, Copy, Debug)]
pub struct HistoryBounds {
    /// Keys and ranges written, over all remembered commits.
    pub max_writes: usize,
    /// Bytes of these keys and ranges.
    pub max_bytes: usize,
}

/// What a transaction depends on.
#[derive(Debug, Default)]
pub(crate) struct ReadConflicts {
    pub(crate) keys: Vec<Bytes>,
    pub(crate) ranges: Vec<KeyRange>,
}

/// A transaction that asks to commit.
#[derive(Debug)]
pub(crate) struct CommitRequest {
    /// What was committed after this version conflicts with what it read: that of its snapshot, or an
    /// earlier one.
    pub(crate) read_version: Version,
    /// When it began, on the store's clock.
    pub(crate) begun: Duration,
    pub(crate) reads: ReadConflicts,
    pub(crate) writes: WriteSet,
    /// Ranges that count as written beside the writes.
    pub(crate) write_conflicts: Vec<KeyRange>,
    /// Its size as [`MAX_TRANSACTION_BYTES`](crate::MAX_TRANSACTION_BYTES) counts it.
    pub(crate) bytes: usize,
}

/// The transaction must not commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conflict;

/// The recent writes, and the check against them.
///
/// INVARIANT: every write of a version above `forgotten` is in `log`; `last_write` holds each key of
/// `log` with the latest version that wrote it.
#[derive(Debug)]
pub(crate) struct Resolver {
    bounds: HistoryBounds,
    log: VecDeque<Committed>,
    last_write: HashMap<Bytes, Version, foldhash::fast::RandomState>,
    /// Writes of whole ranges, in the order of their versions; few, and scanned from the latest.
    ranges: VecDeque<(Version, KeyRange)>,
    /// The latest version whose writes are no longer known.
    forgotten: Version,
    writes: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Committed {
    version: Version,
    at: Duration,
    keys: Vec<Bytes>,
    ranges: usize,
    bytes: usize,
}

// === impl HistoryBounds ===

impl Default for HistoryBounds {
    /// About one second of a store at full speed.
    fn default() -> Self {
        Self { max_writes: 250_000, max_bytes: 64 << 20 }
    }
}

// === impl ReadConflicts ===

impl ReadConflicts {
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.ranges.is_empty()
    }
}

// === impl Resolver ===

impl Resolver {
    /// A resolver that knows no commit yet, all before `latest` being forgotten.
    pub(crate) fn new(bounds: HistoryBounds, latest: Version) -> Self {
        Self {
            bounds,
            log: VecDeque::new(),
            last_write: HashMap::default(),
            ranges: VecDeque::new(),
            forgotten: latest,
            writes: 0,
            bytes: 0,
        }
    }

    /// Decides over one transaction and, when it may commit, remembers its writes under `version`,
    /// which must be above all versions before it.
    pub(crate) fn resolve(
        &mut self,
        request: &CommitRequest,
        version: Version,
        now: Duration,
    ) -> Result<(), Conflict> {
        self.check(request, now)?;
        self.remember(request, version, now);
        self.forget(now);
        Ok(())
    }

    fn check(&self, request: &CommitRequest, now: Duration) -> Result<(), Conflict> {
        let CommitRequest { read_version, begun, reads, .. } = request;
        // Blind writes depend on nothing, so no age of theirs matters.
        if reads.is_empty() {
            return Ok(());
        }
        if *read_version < self.forgotten || now.saturating_sub(*begun) > MAX_TRANSACTION_AGE {
            return Err(Conflict);
        }
        let conflicts = reads.keys.iter().any(|key| self.key_written_since(key, *read_version))
            || reads.ranges.iter().any(|range| self.range_written_since(range, *read_version));
        if conflicts { Err(Conflict) } else { Ok(()) }
    }

    fn key_written_since(&self, key: &Bytes, version: Version) -> bool {
        self.last_write.get(key).is_some_and(|&written| written > version)
            || self.ranges_since(version).any(|range| range.contains(key))
    }

    fn range_written_since(&self, range: &KeyRange, version: Version) -> bool {
        let mut since = self.log.iter().rev().take_while(|commit| commit.version > version);
        since.any(|commit| commit.keys.iter().any(|key| range.contains(key)))
            || self.ranges_since(version).any(|written| written.overlaps(range))
    }

    fn ranges_since(&self, version: Version) -> impl Iterator<Item = &KeyRange> {
        let since = self.ranges.iter().rev().take_while(move |(written, _)| *written > version);
        since.map(|(_, range)| range)
    }

    fn remember(&mut self, request: &CommitRequest, version: Version, now: Duration) {
        let keys: Vec<Bytes> = request.writes.conflict_keys().cloned().collect();
        let mut bytes = 0;
        for key in &keys {
            bytes += key.len();
            self.last_write.insert(key.clone(), version);
        }
        let before = self.ranges.len();
        for range in request.writes.cleared().chain(request.write_conflicts.iter().cloned()) {
            bytes += range.begin().len() + range.end().len();
            self.ranges.push_back((version, range));
        }
        let ranges = self.ranges.len() - before;
        self.writes += keys.len() + ranges;
        self.bytes += bytes;
        self.log.push_back(Committed { version, at: now, keys, ranges, bytes });
    }

    fn forget(&mut self, now: Duration) {
        while let Some(oldest) = self.log.front() {
            let expired = now.saturating_sub(oldest.at) > MAX_TRANSACTION_AGE;
            let over = self.writes > self.bounds.max_writes || self.bytes > self.bounds.max_bytes;
            if !expired && !over {
                return;
            }
            let Some(oldest) = self.log.pop_front() else { return };
            for key in &oldest.keys {
                if self.last_write.get(key) == Some(&oldest.version) {
                    self.last_write.remove(key);
                }
            }
            self.ranges.drain(..oldest.ranges);
            self.writes -= oldest.keys.len() + oldest.ranges;
            self.bytes -= oldest.bytes;
            self.forgotten = oldest.version;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(key: &'static str) -> CommitRequest {
        let mut writes = WriteSet::default();
        writes.put(Bytes::from(key), Bytes::new());
        request(Version::default(), ReadConflicts::default(), writes)
    }

    fn reader(version: u64, key: &'static str) -> CommitRequest {
        let reads = ReadConflicts { keys: vec![Bytes::from(key)], ranges: vec![] };
        request(Version::from_u64(version), reads, WriteSet::default())
    }

    fn request(read_version: Version, reads: ReadConflicts, writes: WriteSet) -> CommitRequest {
        let write_conflicts = vec![];
        CommitRequest {
            read_version,
            begun: Duration::ZERO,
            reads,
            writes,
            write_conflicts,
            bytes: 0,
        }
    }

    #[test]
    fn a_read_conflicts_only_with_writes_after_its_version() {
        let mut resolver = Resolver::new(HistoryBounds::default(), Version::default());
        resolver.resolve(&writer("a"), Version::from_u64(1), Duration::ZERO).unwrap();
        assert_eq!(resolver.check(&reader(0, "a"), Duration::ZERO), Err(Conflict));
        assert_eq!(resolver.check(&reader(1, "a"), Duration::ZERO), Ok(()));
        assert_eq!(resolver.check(&reader(0, "b"), Duration::ZERO), Ok(()));
    }

    #[test]
    fn what_is_forgotten_conflicts_rather_than_passes() {
        let bounds = HistoryBounds { max_writes: 2, max_bytes: 1 << 20 };
        let mut resolver = Resolver::new(bounds, Version::default());
        for (version, key) in [(1, "a"), (2, "b"), (3, "c"), (4, "d")] {
            resolver.resolve(&writer(key), Version::from_u64(version), Duration::ZERO).unwrap();
        }
        assert_eq!(resolver.forgotten, Version::from_u64(2));
        assert_eq!(resolver.check(&reader(1, "unwritten"), Duration::ZERO), Err(Conflict));
        assert_eq!(resolver.check(&reader(2, "unwritten"), Duration::ZERO), Ok(()));
        assert_eq!(resolver.check(&reader(2, "c"), Duration::ZERO), Err(Conflict));
        assert_eq!(resolver.last_write.len(), 2);
    }

    #[test]
    fn a_reader_past_the_age_limit_conflicts_and_a_blind_writer_does_not() {
        let mut resolver = Resolver::new(HistoryBounds::default(), Version::default());
        let late = MAX_TRANSACTION_AGE + Duration::from_millis(1);
        assert_eq!(resolver.check(&reader(0, "a"), late), Err(Conflict));
        resolver.resolve(&writer("a"), Version::from_u64(1), late).unwrap();
        resolver.resolve(&writer("b"), Version::from_u64(2), late * 3).unwrap();
        assert_eq!(resolver.log.len(), 1, "history past the age limit is dropped");
    }
}
