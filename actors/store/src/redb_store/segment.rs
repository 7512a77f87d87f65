//! The log's files. A segment is written from its first sector to its last, then reused under a
//! higher number once what it holds is in the database file; so its blocks are allocated once, and a
//! commit's sync need not touch the file system's own journal.
//!
//! The first sector describes the segment. Payload, little-endian: magic, 8; log id, 8; sectors in
//! all, 4.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    disk::{Disk, DiskFile},
    sector::{Kind, SECTOR, Sector, SectorBuffer, Seed},
};

const MAGIC: &[u8; 8] = b"AALOG\0\0\x01";
/// How files of segments are named; the number is of their birth and says nothing later.
const EXTENSION: &str = "wal";
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// An open segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
    /// Its place in the order of all segments, from 1.
    pub(super) number: u64,
    /// Sectors in all, the description included.
    pub(super) sectors: u32,
}

/// What a file in the log's directory is.
#[derive(Debug)]
pub(super) enum Found {
    /// A segment, of the log with this id.
    Segment(Segment, u64),
    /// Its making was not finished, so nothing can be in it.
    Unborn(PathBuf),
    /// It was a segment once.
    Damaged(PathBuf, &'static str),
}

// === impl Segment ===

impl Segment {
    /// Makes a segment with room for `sectors`, its blocks allocated and durable.
    pub(super) fn create(
        disk: &dyn Disk,
        directory: &Path,
        log: u64,
        number: u64,
        sectors: u32,
    ) -> io::Result<Self> {
        let path = directory.join(format!("{number:010}.{EXTENSION}"));
        let file = disk.create(&path)?;
        let length = u64::from(sectors) * SECTOR as u64;
        let mut offset = 0;
        while offset < length {
            let count = (length - offset).min(ZEROS.len() as u64);
            // At most the length of ZEROS.
            file.write_at(offset, &ZEROS[..count as usize])?;
            offset += count;
        }
        // The description comes after its contents, so that it never stands over missing ones.
        file.sync()?;
        let segment = Self { path, file, number, sectors };
        segment.describe(log)?;
        disk.sync_directory(directory)?;
        Ok(segment)
    }

    /// Gives a segment that is no longer needed a new number.
    pub(super) fn renew(mut self, log: u64, number: u64) -> io::Result<Self> {
        self.number = number;
        self.describe(log)?;
        Ok(self)
    }

    fn describe(&self, log: u64) -> io::Result<()> {
        let mut buffer = SectorBuffer::default();
        buffer.put(MAGIC);
        buffer.put(&log.to_le_bytes());
        buffer.put(&self.sectors.to_le_bytes());
        self.file.write_at(0, buffer.frame(Seed::ANY_LOG, 0, Kind::Segment, self.number))?;
        self.file.sync()
    }

    /// Looks at a file of the log's directory; nothing if it is not the log's.
    pub(super) fn open(disk: &dyn Disk, path: PathBuf) -> io::Result<Option<Found>> {
        if path.extension().is_none_or(|extension| extension != EXTENSION) {
            return Ok(None);
        }
        let file = disk.open(&path)?;
        let length = file.len()?;
        if length < SECTOR as u64 {
            return Ok(Some(Found::Unborn(path)));
        }
        let mut sector = [0; SECTOR];
        file.read_at(0, &mut sector)?;
        let (sequence, payload) = match Seed::ANY_LOG.read(0, &sector) {
            Sector::Whole { kind: Kind::Segment, sequence, payload } => (sequence, payload),
            Sector::Blank => return Ok(Some(Found::Unborn(path))),
            _ => return Ok(Some(Found::Damaged(path, "its first sector is damaged"))),
        };
        let described = payload.strip_prefix(MAGIC).and_then(|rest| {
            let (log, rest) = rest.split_first_chunk()?;
            let sectors = rest.try_into().ok()?;
            Some((u64::from_le_bytes(*log), u32::from_le_bytes(sectors)))
        });
        let Some((log, sectors)) = described else {
            return Ok(Some(Found::Damaged(path, "its description is of an unknown form")));
        };
        if length < u64::from(sectors) * SECTOR as u64 {
            return Ok(Some(Found::Damaged(path, "it is cut short")));
        }
        Ok(Some(Found::Segment(Self { path, file, number: sequence, sectors }, log)))
    }

    /// Reads `out` from the start of a sector.
    pub(super) fn read(&self, sector: u32, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(u64::from(sector) * SECTOR as u64, out)
    }

    /// Writes sectors and makes them durable.
    pub(super) fn write(&self, sector: u32, bytes: &[u8]) -> io::Result<()> {
        self.file.write_durably(u64::from(sector) * SECTOR as u64, bytes)
    }
}
