//! Reading the log when the store is opened.
//!
//! Records are synced one after another, so only the last can be incomplete, and if it is it was never
//! acknowledged. What a crash leaves of it are sectors that are each as before or as written. So:
//!
//! - a record whose sectors are all there counts, acknowledged or not;
//! - one that lacks some ends the log, if nothing later was written;
//! - a damaged sector where a record is due, a missing segment, or a gap before a later record means
//!   that something acknowledged may be gone: the store does not open.
//!
//! What is read last may stand in the page cache only: a failed sync drops what it could not write,
//! yet reads go on showing it until the machine restarts. It is written again before the store goes on.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};

use super::{
    RedbOptions,
    disk::{self, Disk},
    log::{self, Log, LogPosition},
    memtable::Layer,
    record::{self, LENGTH_BYTES, Mutation},
    sector::{Kind, PAYLOAD, SECTOR, Sector, Seed},
    segment::{Found, Segment},
    segment_pool::SegmentPool,
};
use crate::{OpenError, Version};

/// The log, ready to take commits, and what it held.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) log: Log,
    pub(super) pool: SegmentPool,
    pub(super) pool_thread: std::thread::JoinHandle<()>,
    /// What is not in the database file yet.
    pub(super) layer: Layer,
    /// The version of the last transaction in it, or before it.
    pub(super) version: Version,
}

/// Where a segment's reading ended.
enum End {
    /// It goes on in the segment with this number.
    Sealed(u64),
    /// At this sector.
    Open(u32),
}

/// The reading of a log.
struct Replay {
    seed: Seed,
    /// Of the next record.
    sequence: u64,
    layer: Layer,
    version: Version,
    /// The last thing written: its segment among those read, its sector and its sectors' bytes.
    last: Option<(usize, u32, Bytes)>,
}

/// What became of a record.
enum Unit {
    Record {
        sectors: u32,
        body: Bytes,
    },
    Seal {
        next: u64,
    },
    /// It is not there, or not all of it.
    Incomplete,
}

/// The directory of the log of the store at `path`.
pub(super) fn directory_of(path: &Path) -> PathBuf {
    disk::beside(path, "wal")
}

/// Reads the log that begins at `position`, or begins a new one, and makes it ready. `position` is that
/// of the database file, whose lock is held.
pub(super) fn recover(
    disk: &Arc<dyn Disk>,
    path: &Path,
    position: Option<LogPosition>,
    options: &RedbOptions,
) -> Result<Recovered, OpenError> {
    let directory = directory_of(path);
    let io = |source| OpenError::Io { path: directory.clone(), source };
    let position = match position {
        Some(position) => position,
        None => {
            let (id, version) = (random_id(), options.first_version);
            LogPosition { id, segment: 0, sequence: 1, in_use: false, version }
        }
    };
    let found = match disk.list(&directory) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !position.in_use => {
            disk.create_directory(&directory).map_err(io)?;
            Vec::new()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(corrupt(&directory, "the directory of the log is missing".to_owned()));
        }
        Err(error) => return Err(io(error)),
    };
    // An earlier run may have failed to make the names durable that this one sees and relies on.
    disk.sync_directory(disk::parent(&directory)).map_err(io)?;
    disk.sync_directory(&directory).map_err(io)?;
    let mut segments = sort_out(&**disk, found, &position)?;
    let last_number = segments.iter().map(|segment| segment.number).max().unwrap_or(0);
    let last_number = last_number.max(position.segment);
    let mut replay = Replay::new(&position);
    let mut read = Vec::new();
    let mut open_at = None;
    if position.in_use {
        let mut due = position.segment;
        loop {
            let place = segments.iter().position(|segment| segment.number == due);
            let Some(segment) = place.and_then(|place| segments.remove(place)) else {
                let what = format!("segment {due} of the log is missing");
                return Err(corrupt(&directory, what));
            };
            let end = replay.segment(read.len(), &segment)?;
            read.push(segment);
            match end {
                End::Sealed(next) if next > due => due = next,
                End::Sealed(_) => {
                    let what = format!("segment {due} of the log names one before it as the next");
                    return Err(corrupt(&directory, what));
                }
                End::Open(sector) => {
                    open_at = Some(sector);
                    break;
                }
            }
        }
    }
    for segment in &segments {
        replay.expect_no_records(segment)?;
    }
    let keep = 2 + 4 * options.memtable_bytes.div_ceil(options.segment_bytes.max(1));
    let (id, disk) = (position.id, Arc::clone(disk));
    let pool = SegmentPool::new(
        disk,
        directory.clone(),
        id,
        options.segment_bytes,
        keep,
        segments,
        last_number,
    );
    let pool_thread = pool.start().map_err(io)?;
    let log = replay.go_on(&pool, id, read, open_at);
    match log {
        Ok(log) => {
            let Replay { layer, version, .. } = replay;
            Ok(Recovered { log, pool, pool_thread, layer, version })
        }
        Err(source) => {
            pool.close();
            // It was told to end and holds nothing that its panic could harm.
            let _ = pool_thread.join();
            Err(io(source))
        }
    }
}

/// Opens the segments among the files; removes those whose making was not finished, and those that a
/// first opening left before it was recorded.
fn sort_out(
    disk: &dyn Disk,
    files: Vec<PathBuf>,
    position: &LogPosition,
) -> Result<VecDeque<Segment>, OpenError> {
    let mut segments = VecDeque::new();
    for path in files {
        let io = |source| OpenError::Io { path: path.clone(), source };
        let remove = |path: &Path| disk.remove(path).map_err(io);
        match Segment::open(disk, path.clone()).map_err(io)? {
            None => {}
            Some(Found::Unborn(path)) => remove(&path)?,
            Some(Found::Damaged(path, what)) => return Err(corrupt(&path, what.to_owned())),
            Some(Found::Segment(segment, id)) if id == position.id => segments.push_back(segment),
            Some(Found::Segment(segment, id)) => {
                let empty = matches!(first_record(&segment, Seed::of_log(id)), Ok(None));
                if position.segment > 0 || !empty {
                    let what = "it holds the log of another store; \
                                bring the store's file and its log from the same backup";
                    return Err(corrupt(&segment.path, what.to_owned()));
                }
                remove(&segment.path)?;
            }
        }
    }
    Ok(segments)
}

/// The sequence number of the first record that a segment holds or held.
fn first_record(segment: &Segment, seed: Seed) -> io::Result<Option<u64>> {
    let mut sector = [0; SECTOR];
    segment.read(1, &mut sector)?;
    Ok(match seed.read(1, &sector) {
        Sector::Whole { sequence, .. } => Some(sequence),
        Sector::Blank | Sector::Damaged => None,
    })
}

fn corrupt(path: &Path, what: String) -> OpenError {
    OpenError::Corrupt { path: path.to_owned(), what }
}

/// An id for a new log.
fn random_id() -> u64 {
    // Tells logs apart; nobody need be kept from guessing it.
    fastrand::u64(1..)
}

// === impl Replay ===

impl Replay {
    fn new(position: &LogPosition) -> Self {
        Self {
            seed: Seed::of_log(position.id),
            sequence: position.sequence,
            layer: Layer::default(),
            version: position.version,
            last: None,
        }
    }

    /// Applies a segment's records.
    fn segment(&mut self, place: usize, segment: &Segment) -> Result<End, OpenError> {
        let mut bytes = BytesMut::zeroed(segment.sectors as usize * SECTOR);
        let failed = |source| OpenError::Io { path: segment.path.clone(), source };
        segment.read(0, &mut bytes).map_err(failed)?;
        let bytes = bytes.freeze();
        let mut sector = 1;
        while sector < segment.sectors {
            let unit = self.unit(segment, &bytes, sector)?;
            let (sectors, sealed) = match unit {
                Unit::Incomplete => break,
                Unit::Seal { next } => (1, Some(next)),
                Unit::Record { sectors, body } => {
                    self.apply(body)
                        .map_err(|malformed| damaged(segment, sector, &malformed.to_string()))?;
                    (sectors, None)
                }
            };
            self.sequence += 1;
            let written = sector as usize * SECTOR..(sector + sectors) as usize * SECTOR;
            // A copy, so that the segment's bytes can go.
            self.last = Some((place, sector, Bytes::copy_from_slice(&bytes[written])));
            if let Some(next) = sealed {
                return Ok(End::Sealed(next));
            }
            sector += sectors;
        }
        self.expect_nothing_later(segment, &bytes, sector)?;
        Ok(End::Open(sector))
    }

    /// Reads the record that is due at `sector`.
    fn unit(&self, segment: &Segment, bytes: &[u8], sector: u32) -> Result<Unit, OpenError> {
        let (kind, payload) = match self.sector(bytes, sector) {
            Sector::Whole { kind, sequence, payload } if sequence == self.sequence => {
                (kind, payload)
            }
            Sector::Whole { .. } | Sector::Blank => return Ok(Unit::Incomplete),
            Sector::Damaged => {
                return Err(damaged(segment, sector, "a sector fails its checksum"));
            }
        };
        match kind {
            Kind::Seal => {
                let next = <[u8; 8]>::try_from(payload).map(u64::from_le_bytes);
                let next = next.map_err(|_| damaged(segment, sector, "a seal is malformed"))?;
                return Ok(Unit::Seal { next });
            }
            // What is left of a record whose start was not written.
            Kind::Next => return Ok(Unit::Incomplete),
            Kind::Segment => return Err(damaged(segment, sector, "a description is out of place")),
            Kind::First => {}
        }
        let Some((length, _)) = payload.split_first_chunk::<LENGTH_BYTES>() else {
            return Err(damaged(segment, sector, "a record is malformed"));
        };
        let length = u32::from_le_bytes(*length) as usize;
        let sectors = log::sectors_of(length);
        // The writer leaves room for a seal.
        if sectors as u64 >= u64::from(segment.sectors - sector) {
            return Err(damaged(segment, sector, "a record is longer than its segment"));
        }
        // Fits, for the segment's sectors do.
        let sectors = sectors as u32;
        let mut body = BytesMut::with_capacity(sectors as usize * PAYLOAD);
        let mut incomplete = false;
        for place in sector..sector + sectors {
            match self.sector(bytes, place) {
                Sector::Whole { sequence, payload, .. } if sequence == self.sequence => {
                    body.extend_from_slice(payload);
                }
                Sector::Whole { .. } | Sector::Blank => incomplete = true,
                Sector::Damaged => {
                    return Err(damaged(segment, place, "a sector fails its checksum"));
                }
            }
        }
        if incomplete {
            return Ok(Unit::Incomplete);
        }
        if body.len() != LENGTH_BYTES + length {
            return Err(damaged(segment, sector, "a record's length contradicts its sectors"));
        }
        Ok(Unit::Record { sectors, body: body.freeze().slice(LENGTH_BYTES..) })
    }

    fn sector<'a>(&self, bytes: &'a [u8], sector: u32) -> Sector<'a> {
        let start = sector as usize * SECTOR;
        bytes
            .get(start..start + SECTOR)
            .map_or(Sector::Damaged, |bytes| self.seed.read(sector, bytes))
    }

    fn apply(&mut self, body: Bytes) -> Result<(), record::Malformed> {
        let before = self.version;
        let layer = &mut self.layer;
        let transactions = record::decode(body, |transaction, mutation| {
            let version = Version::from_u64(before.as_u64() + transaction + 1);
            match mutation {
                Mutation::Clear(range) => layer.clear(&range, version),
                Mutation::Put(key, value) => layer.table.insert(key, version, Some(value)),
                Mutation::Delete(key) => layer.table.insert(key, version, None),
            }
        })?;
        self.version = Version::from_u64(before.as_u64() + transactions);
        Ok(())
    }

    /// After the log's end nothing may have been written, or what is missing was acknowledged.
    fn expect_nothing_later(
        &self,
        segment: &Segment,
        bytes: &[u8],
        end: u32,
    ) -> Result<(), OpenError> {
        for place in end..segment.sectors {
            if let Sector::Whole { sequence, .. } = self.sector(bytes, place)
                && sequence > self.sequence
            {
                let what = format!("a record is gone before the one at byte {}", byte(place));
                return Err(damaged(segment, end, &what));
            }
        }
        Ok(())
    }

    /// A segment that the log does not lead to must not hold records that are due.
    fn expect_no_records(&self, segment: &Segment) -> Result<(), OpenError> {
        let failed = |source| OpenError::Io { path: segment.path.clone(), source };
        match first_record(segment, self.seed).map_err(failed)? {
            Some(sequence) if sequence >= self.sequence => {
                Err(damaged(segment, 1, "its records follow on others that are gone"))
            }
            _ => Ok(()),
        }
    }

    /// Makes what was read durable and goes on in a fresh segment.
    fn go_on(
        &self,
        pool: &SegmentPool,
        id: u64,
        read: Vec<Segment>,
        open_at: Option<u32>,
    ) -> io::Result<Log> {
        if let Some((place, sector, bytes)) = &self.last {
            read[*place].write(*sector, bytes)?;
        }
        let next = pool.take(0)?;
        let mut sequence = self.sequence;
        if let (Some(last), Some(sector)) = (read.last(), open_at) {
            log::seal(self.seed, last, sector, sequence, next.number)?;
            sequence += 1;
        }
        Ok(Log::new(id, pool.clone(), next, sequence, read))
    }
}

fn byte(sector: u32) -> u64 {
    u64::from(sector) * SECTOR as u64
}

fn damaged(segment: &Segment, sector: u32, what: &str) -> OpenError {
    let number = segment.number;
    let what = format!("segment {number} of the log, at byte {}: {what}", byte(sector));
    corrupt(&segment.path, what)
}
