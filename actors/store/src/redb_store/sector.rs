//! The log's unit of writing: a sector of 512 bytes, the most that a disk writes whole or not at all.
//!
//! Each carries its own checksum, so that what a crash leaves can be told from damage: a write that
//! was cut leaves sectors that are each old or new, but all valid; a sector that is neither was
//! damaged after it was written. The checksum covers the sector's place and the log's identity too,
//! so one that strayed does not pass.
//!
//! Layout, little-endian: checksum (CRC-32 of the rest), 4; kind, 1; zero, 1; bytes of payload, 2;
//! sequence, 8; payload, 496.

use super::aligned::AlignedBuffer;

/// Bytes of a sector.
pub(super) const SECTOR: usize = 512;
/// Bytes of a sector that a record can use.
pub(super) const PAYLOAD: usize = SECTOR - HEADER;

const HEADER: usize = 16;

/// What a sector holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The segment's own description, in its first sector. The sequence is the segment's number.
    Segment = 1,
    /// The start of a record.
    First = 2,
    /// More of a record.
    Next = 3,
    /// The end of a segment's records; names the segment that goes on.
    Seal = 4,
}

/// What stands in a sector's place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sector<'a> {
    /// Zeros: never written.
    Blank,
    /// Neither zeros nor a sector as it was written.
    Damaged,
    /// A sector as it was written, now or earlier.
    Whole { kind: Kind, sequence: u64, payload: &'a [u8] },
}

/// The start value of a log's checksums.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seed(u32);

/// Sectors on their way to the log: payload first, framed once their place is known.
#[derive(Debug, Default)]
pub(super) struct SectorBuffer {
    bytes: AlignedBuffer,
    /// Bytes of payload in the last sector.
    last: usize,
}

// === impl Kind ===

impl Kind {
    const fn of(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Segment),
            2 => Some(Self::First),
            3 => Some(Self::Next),
            4 => Some(Self::Seal),
            _ => None,
        }
    }
}

// === impl Seed ===

impl Seed {
    /// For descriptions of segments, which must be readable whosesoever they are.
    pub(super) const ANY_LOG: Self = Self(0);

    pub(super) fn of_log(id: u64) -> Self {
        Self(crc32fast::hash(&id.to_le_bytes()))
    }

    fn checksum(self, index: u32, rest: &[u8]) -> u32 {
        // CRC maps different start values to different checksums of the same bytes.
        let mut hasher = crc32fast::Hasher::new_with_initial(self.0 ^ index);
        hasher.update(rest);
        hasher.finalize()
    }

    /// Reads the sector at `index` of a segment. `bytes` are [`SECTOR`] long.
    pub(super) fn read(self, index: u32, bytes: &[u8]) -> Sector<'_> {
        let Some((checksum, rest)) = bytes.split_first_chunk::<4>() else { return Sector::Damaged };
        let Some((header, payload)) = rest.split_first_chunk::<12>() else {
            return Sector::Damaged;
        };
        if u32::from_le_bytes(*checksum) != self.checksum(index, rest) {
            let blank = bytes.iter().all(|&byte| byte == 0);
            return if blank { Sector::Blank } else { Sector::Damaged };
        }
        let [kind, _, low, high, sequence @ ..] = *header;
        let length = usize::from(u16::from_le_bytes([low, high]));
        match (Kind::of(kind), payload.get(..length)) {
            (Some(kind), Some(payload)) => {
                Sector::Whole { kind, sequence: u64::from_le_bytes(sequence), payload }
            }
            _ => Sector::Damaged,
        }
    }
}

// === impl SectorBuffer ===

impl SectorBuffer {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.last = PAYLOAD;
    }

    /// Sectors filled or begun.
    pub(super) fn sectors(&self) -> usize {
        self.bytes.len() / SECTOR
    }

    /// Appends payload.
    pub(super) fn put(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.last == PAYLOAD || self.bytes.is_empty() {
                self.bytes.grow(SECTOR);
                self.last = 0;
            }
            let count = data.len().min(PAYLOAD - self.last);
            let place = self.bytes.len() - PAYLOAD + self.last;
            self.bytes[place..place + count].copy_from_slice(&data[..count]);
            self.last += count;
            data = &data[count..];
        }
    }

    /// Writes over the first payload.
    pub(super) fn patch(&mut self, data: &[u8]) {
        self.bytes[HEADER..HEADER + data.len()].copy_from_slice(data);
    }

    /// Frames the sectors for their place from `index` on; the first is of `kind`.
    pub(super) fn frame(&mut self, seed: Seed, index: u32, kind: Kind, sequence: u64) -> &[u8] {
        let count = self.sectors();
        let mut kind = kind;
        for ((nth, sector), place) in self.bytes.chunks_exact_mut(SECTOR).enumerate().zip(index..) {
            // At most 496.
            let length = if nth + 1 == count { self.last } else { PAYLOAD } as u16;
            sector[4] = kind as u8;
            sector[6..8].copy_from_slice(&length.to_le_bytes());
            sector[8..HEADER].copy_from_slice(&sequence.to_le_bytes());
            let checksum = seed.checksum(place, &sector[4..]);
            sector[..4].copy_from_slice(&checksum.to_le_bytes());
            kind = Kind::Next;
        }
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_sector_is_found() {
        let seed = Seed::of_log(7);
        let mut buffer = SectorBuffer::default();
        buffer.put(b"payload");
        let mut bytes = buffer.frame(seed, 3, Kind::First, 9).to_vec();
        let whole = Sector::Whole { kind: Kind::First, sequence: 9, payload: b"payload" };
        assert_eq!(seed.read(3, &bytes), whole);
        assert_eq!(seed.read(4, &bytes), Sector::Damaged, "it strayed");
        assert_eq!(Seed::of_log(8).read(3, &bytes), Sector::Damaged, "it is another log's");
        for bit in 0..SECTOR * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(seed.read(3, &bytes), Sector::Damaged, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(seed.read(3, &[0; SECTOR]), Sector::Blank);
    }

    #[test]
    fn payload_runs_over_as_many_sectors_as_it_needs() {
        for length in [1, PAYLOAD - 1, PAYLOAD, PAYLOAD + 1, 3 * PAYLOAD, 10_000] {
            let data: Vec<u8> = (0..length).map(|index| index as u8).collect();
            let mut buffer = SectorBuffer::default();
            for piece in data.chunks(97) {
                buffer.put(piece);
            }
            assert_eq!(buffer.sectors(), length.div_ceil(PAYLOAD));
            let seed = Seed::of_log(1);
            let mut read = Vec::new();
            for (index, bytes) in (5..).zip(buffer.frame(seed, 5, Kind::First, 1).chunks(SECTOR)) {
                let Sector::Whole { kind, payload, .. } = seed.read(index, bytes) else {
                    panic!("sector {index} is not whole")
                };
                assert_eq!(kind == Kind::First, index == 5);
                read.extend_from_slice(payload);
            }
            assert_eq!(read, data);
        }
    }
}
