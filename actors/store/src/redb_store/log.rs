//! The log as its writer sees it: append a record, go on in the next segment.

use std::io;

use super::{
    record,
    sector::{Kind, PAYLOAD, SECTOR, SectorBuffer, Seed},
    segment::Segment,
    segment_pool::SegmentPool,
};
use crate::{Version, write_set::WriteSet};

/// A place in the log: all records before it are in the database file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogPosition {
    /// Which log; random.
    pub(super) id: u64,
    /// The first segment that is needed.
    pub(super) segment: u64,
    /// The sequence number of its first record.
    pub(super) sequence: u64,
    /// Whether there may be records; if not, no segment is needed at all.
    pub(super) in_use: bool,
    /// The version of the last transaction before it, of all openings of the store.
    pub(super) version: Version,
}

/// The writing end of the log.
#[derive(Debug)]
pub(super) struct Log {
    id: u64,
    seed: Seed,
    pool: SegmentPool,
    segment: Segment,
    /// Where the next record goes.
    sector: u32,
    /// Of the next record. Never used twice within one log, so that what a reused segment still holds
    /// is always told apart.
    sequence: u64,
    /// Full segments whose records are not in the database file yet.
    full: Vec<Segment>,
    buffer: SectorBuffer,
}

/// A record that was not made durable.
#[derive(Debug)]
pub(super) struct AppendError {
    pub(super) error: io::Error,
    /// Whether it may be durable nevertheless.
    pub(super) unknown: bool,
}

// === impl Log ===

impl Log {
    /// A log that goes on in `segment`, which holds no records yet.
    pub(super) fn new(
        id: u64,
        pool: SegmentPool,
        segment: Segment,
        sequence: u64,
        full: Vec<Segment>,
    ) -> Self {
        let buffer = SectorBuffer::default();
        Self { id, seed: Seed::of_log(id), pool, segment, sector: 1, sequence, full, buffer }
    }

    /// Makes a group durable: one write, one sync.
    pub(super) fn append<'a>(
        &mut self,
        group: impl ExactSizeIterator<Item = &'a WriteSet>,
    ) -> Result<(), AppendError> {
        self.buffer.clear();
        record::encode(group, &mut self.buffer);
        // The writer bounds groups far below 2^32 sectors.
        let sectors = self.buffer.sectors() as u32;
        // One more for the seal.
        if self.sector + sectors + 1 > self.segment.sectors {
            self.next_segment(sectors).map_err(|error| AppendError { error, unknown: false })?;
        }
        let bytes = self.buffer.frame(self.seed, self.sector, Kind::First, self.sequence);
        self.segment
            .write(self.sector, bytes)
            .map_err(|error| AppendError { error, unknown: true })?;
        self.sector += sectors;
        self.sequence += 1;
        if self.sector > self.segment.sectors / 2 {
            self.prepare();
        }
        Ok(())
    }

    /// Whether a group whose body has at most `bytes` fits the present segment.
    pub(super) fn has_room_for(&self, bytes: usize) -> bool {
        let free = self.segment.sectors.saturating_sub(self.sector + 1);
        sectors_of(bytes) < free as usize
    }

    /// Has the next segment made ready.
    pub(super) fn prepare(&self) {
        self.pool.prepare();
    }

    /// Seals the segment and goes on in the next, which has room for `sectors`.
    fn next_segment(&mut self, sectors: u32) -> io::Result<()> {
        // Its description and its seal.
        let next = self.pool.take(sectors + 2)?;
        seal(self.seed, &self.segment, self.sector, self.sequence, next.number)?;
        self.sequence += 1;
        self.sector = 1;
        self.full.push(std::mem::replace(&mut self.segment, next));
        Ok(())
    }

    /// Goes on in a fresh segment, and gives its place and the segments before it: once the place is
    /// in the database file together with all that was appended before, up to `version`, they can be
    /// reused.
    pub(super) fn cut(&mut self, version: Version) -> io::Result<(LogPosition, Vec<Segment>)> {
        if self.sector > 1 {
            self.next_segment(0)?;
        }
        Ok((self.position(true, version), std::mem::take(&mut self.full)))
    }

    pub(super) fn position(&self, in_use: bool, version: Version) -> LogPosition {
        let Self { id, sequence, .. } = *self;
        LogPosition { id, segment: self.segment.number, sequence, in_use, version }
    }

    /// Ends the making of segments.
    pub(super) fn close(&self) {
        self.pool.close();
    }

    /// Waits until the next segment is at hand.
    pub(super) fn settle(&self) {
        self.pool.settle();
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.close();
    }
}

/// Ends a segment's records durably: they go on in the segment with number `next`.
pub(super) fn seal(
    seed: Seed,
    segment: &Segment,
    sector: u32,
    sequence: u64,
    next: u64,
) -> io::Result<()> {
    let mut buffer = SectorBuffer::default();
    buffer.put(&next.to_le_bytes());
    segment.write(sector, buffer.frame(seed, sector, Kind::Seal, sequence))
}

/// How many sectors a record with a body of `bytes` takes.
pub(super) const fn sectors_of(bytes: usize) -> usize {
    (bytes + record::LENGTH_BYTES).div_ceil(PAYLOAD)
}

const _: () = assert!(SECTOR > PAYLOAD);
