//! Where in a text a pattern could match at all.
//!
//! At every second place of the text, the next four bytes are folded to a gram and looked up in a table of
//! bits. Few grams of common text are in it; for those that are, a list tells the factors that they belong
//! to, and those are compared whole. It is a search for q-grams (Wu and Manber, "A fast algorithm for
//! multi-pattern searching", 1994) over classes of bytes, with the branch-free first stage of Hyperscan's FDR
//! (Wang et al., NSDI 2019): no look-up waits for the one before it, so a processor has many in flight.
//! Factors with more grams than the table should hold are looked for by a rare byte or by a long stretch of
//! one class, in passes of their own.

use memchr::{memchr, memchr2, memchr3};

use super::{
    byte_set::ByteSet,
    factor::{Factor, Finder},
    window::{GRAM, STEP, bit, fold, mask_at},
};

/// The factors of many patterns.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    entries: Vec<Entry>,
    grams: Grams,
    bytes: Bytes,
    stretches: Stretches,
}

/// What filters may still hold.
#[derive(Clone, Debug)]
pub(super) struct Room {
    grams: usize,
    bytes: Vec<u8>,
    stretches: usize,
}

/// A factor that stands in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    pub(super) pattern: u32,
    /// The last place where a match around it can start.
    pub(super) latest: usize,
    /// The first place where a match around it can start.
    pub(super) earliest: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    pattern: u32,
    factor: Factor,
}

/// A byte of an entry's factor, by which it is found.
#[derive(Clone, Copy, Debug)]
struct Probe {
    entry: u32,
    /// Which byte of the factor; before or behind it where a window is longer.
    place: i16,
}

/// The factors that are found by their grams.
#[derive(Clone, Debug)]
struct Grams {
    /// One bit for each hash of a gram: whether a window has a gram with that hash.
    table: Box<[u32; WORDS]>,
    /// One bit for each hash: whether a window that begins so is followed by any gram.
    alone: Box<Bits>,
    /// One bit for each hash: whether a gram with that hash follows a window.
    followers: Box<Bits>,
    /// Where in `grams` those of a bucket start; one more than there are buckets.
    starts: Vec<u32>,
    grams: Vec<Gram>,
    windows: Vec<Around>,
}

/// One gram of one window.
#[derive(Clone, Copy, Debug)]
struct Gram {
    value: u32,
    window: u32,
}

/// A window and what may stand around it, folded.
#[derive(Clone, Copy, Debug)]
struct Around {
    probe: Probe,
    before: u64,
    after: u64,
}

/// A set of hashes, by their upper bits.
#[derive(Clone, Debug)]
struct Bits([u32; 1 << (BITS - 5)]);

/// The factors that are found by one byte.
#[derive(Clone, Debug, Default)]
struct Bytes {
    wanted: Vec<u8>,
    probes: Vec<(u8, Probe)>,
}

/// The factors that are found by a stretch of bytes of one set.
#[derive(Clone, Debug)]
struct Stretches {
    /// For each byte, whether any of them takes it.
    taken: Box<[bool; 256]>,
    /// The bytes of the shortest.
    least: usize,
    probes: Vec<Start>,
}

/// The first byte of a stretch, and what may stand before it, folded.
#[derive(Clone, Copy, Debug)]
struct Start {
    probe: Probe,
    before: u64,
}

/// 128 KiB.
const TABLE_BITS: u32 = 20;
const WORDS: usize = 1 << (TABLE_BITS - 5);
/// 32 KiB each.
const BITS: u32 = 18;
const BUCKET_BITS: u32 = 14;
/// Of all windows together: 512 KiB. More would leave the table no selectivity.
const MAX_GRAMS: usize = 1 << 16;
/// Bytes that are looked for in one pass.
const MAX_BYTES: usize = 3;
/// A stretch is compared with every factor at every place.
const MAX_STRETCHES: usize = 16;
/// Places that are looked up before it is asked whether any was in the table.
const LOOKUPS: usize = 64;
const BLOCK: usize = LOOKUPS * STEP;
/// A block, the rest of its last gram and what follows it.
const READ: usize = BLOCK + GRAM;

// === impl Filter ===

impl Filter {
    /// Builds the tables for the factors of patterns.
    pub(super) fn new(factors: impl IntoIterator<Item = (u32, Factor)>) -> Self {
        let entries: Vec<Entry> =
            factors.into_iter().map(|(pattern, factor)| Entry { pattern, factor }).collect();
        let grams = Grams::of(&entries);
        let mut bytes = Bytes::default();
        let mut stretches = Stretches::new();
        for (entry, Entry { factor, .. }) in (0..).zip(&entries) {
            match *factor.finder() {
                Finder::Grams(_) => {}
                Finder::Byte(byte, place) => bytes.add(byte, Probe::new(entry, place as isize)),
                Finder::Stretch(set, start, length) => {
                    let start = start as isize;
                    let before = mask_at(factor.bytes(), start - 1);
                    let probe = Probe::new(entry, start);
                    stretches.add(set, length, Start { probe, before });
                }
            }
        }
        Self { entries, grams, bytes, stretches }
    }

    /// Reports every factor that stands in the text.
    pub(super) fn scan(&self, text: &[u8], found: &mut impl FnMut(Candidate)) {
        let mut compare = |at: usize, probe: Probe| {
            let entry = self.entries.get(probe.entry as usize);
            if let Some(candidate) = entry.and_then(|entry| entry.compare(text, at, probe.place)) {
                found(candidate);
            }
        };
        self.grams.scan(text, &mut compare);
        self.bytes.scan(text, &mut compare);
        self.stretches.scan(text, &mut compare);
    }
}

// === impl Room ===

impl Room {
    pub(super) const fn new() -> Self {
        Self { grams: MAX_GRAMS, bytes: Vec::new(), stretches: MAX_STRETCHES }
    }

    /// Takes the room of a pattern's factors; `false` when there is not enough.
    pub(super) fn take(&mut self, factors: &[Factor]) -> bool {
        let mut after = self.clone();
        for factor in factors {
            match factor.finder() {
                Finder::Grams(windows) => {
                    let grams: usize = windows.iter().map(|window| window.grams).sum();
                    let Some(left) = after.grams.checked_sub(grams) else { return false };
                    after.grams = left;
                }
                Finder::Byte(byte, _) if after.bytes.contains(byte) => {}
                Finder::Byte(byte, _) if after.bytes.len() < MAX_BYTES => after.bytes.push(*byte),
                Finder::Byte(..) => return false,
                Finder::Stretch(..) => {
                    let Some(left) = after.stretches.checked_sub(1) else { return false };
                    after.stretches = left;
                }
            }
        }
        *self = after;
        true
    }
}

// === impl Grams ===

impl Grams {
    fn of(entries: &[Entry]) -> Self {
        let mut table = Box::new([0; WORDS]);
        let mut alone = Box::new(Bits::none());
        let mut followers = Box::new(Bits::none());
        let mut grams = Vec::new();
        let mut windows_of_all = Vec::new();
        for (number, Entry { factor, .. }) in (0..).zip(entries) {
            let Finder::Grams(windows) = factor.finder() else { continue };
            for window in windows {
                let probe = Probe::new(number, window.offset);
                let before = mask_at(factor.bytes(), window.offset - 1);
                let after = mask_at(factor.bytes(), window.offset + GRAM as isize);
                window.visit_grams(factor.bytes(), &mut |value| {
                    let hash = hash(value);
                    table[hash >> 5] |= 1 << (hash & 31);
                    grams.push(Gram { value, window: windows_of_all.len() as u32 });
                    if !window.is_followed {
                        alone.add(hash);
                    }
                });
                window
                    .visit_followers(factor.bytes(), &mut |value| followers.add(self::hash(value)));
                windows_of_all.push(Around { probe, before, after });
            }
        }
        grams.sort_by_key(|gram| bucket(gram.value));
        let starts = (0..=1 << BUCKET_BITS)
            .map(|number| grams.partition_point(|gram| bucket(gram.value) < number) as u32)
            .collect();
        Self { table, alone, followers, starts, grams, windows: windows_of_all }
    }

    fn scan(&self, text: &[u8], compare: &mut impl FnMut(usize, Probe)) {
        if self.grams.is_empty() {
            return;
        }
        let mut at = 0;
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            let mut padded = [0; READ];
            let block = rest.first_chunk().unwrap_or_else(|| {
                padded[..rest.len()].copy_from_slice(rest);
                &padded
            });
            let folded = block.map(fold);
            let mut hits = self.look_up(&folded);
            while hits != 0 {
                let place = hits.trailing_zeros() as usize * STEP;
                hits &= hits - 1;
                let value = gram(&folded, place);
                let follower = hash(gram(&folded, place + STEP));
                if self.followers.has(follower) || self.alone.has(hash(value)) {
                    self.list(text, at + place, value, compare);
                }
            }
            at += BLOCK;
        }
    }

    /// A bit for every second place of a block: whether the hash of its gram is in the table.
    #[inline]
    fn look_up(&self, folded: &[u8; READ]) -> u64 {
        let mut hits = 0;
        for number in 0..LOOKUPS {
            let hash = hash(gram(folded, number * STEP));
            let bit = self.table[hash >> 5] >> (hash & 31) & 1;
            hits |= u64::from(bit) << number;
        }
        hits
    }

    /// Compares the factors of a gram for which what stands around it is right.
    fn list(&self, text: &[u8], at: usize, value: u32, compare: &mut impl FnMut(usize, Probe)) {
        let bucket = bucket(value);
        let (Some(start), Some(end)) = (self.starts.get(bucket), self.starts.get(bucket + 1))
        else {
            return;
        };
        let before = folded_bit(text, at.checked_sub(1));
        let after = folded_bit(text, at.checked_add(GRAM));
        for gram in self.grams.get(*start as usize..*end as usize).unwrap_or_default() {
            if gram.value != value {
                continue;
            }
            let Some(window) = self.windows.get(gram.window as usize) else { continue };
            if window.before & before != 0 && window.after & after != 0 {
                compare(at, window.probe);
            }
        }
    }
}

/// The bit of the folded byte at a place; all bits where there is none.
fn folded_bit(text: &[u8], place: Option<usize>) -> u64 {
    place.and_then(|place| text.get(place)).map_or(u64::MAX, |byte| bit(fold(*byte)))
}

fn gram(folded: &[u8; READ], at: usize) -> u32 {
    u32::from_le_bytes([folded[at], folded[at + 1], folded[at + 2], folded[at + 3]])
}

/// Multiplicative hashing (Knuth, vol. 3, §6.4); the upper bits are the good ones.
fn hash(gram: u32) -> usize {
    (gram.wrapping_mul(0x9e37_79b1) >> (u32::BITS - TABLE_BITS)) as usize
}

fn bucket(gram: u32) -> usize {
    hash(gram) >> (TABLE_BITS - BUCKET_BITS)
}

// === impl Bits ===

impl Bits {
    const fn none() -> Self {
        Self([0; 1 << (BITS - 5)])
    }

    fn add(&mut self, hash: usize) {
        let number = hash >> (TABLE_BITS - BITS);
        self.0[number >> 5] |= 1 << (number & 31);
    }

    fn has(&self, hash: usize) -> bool {
        let number = hash >> (TABLE_BITS - BITS);
        self.0[number >> 5] >> (number & 31) & 1 == 1
    }
}

// === impl Bytes ===

impl Bytes {
    fn add(&mut self, byte: u8, probe: Probe) {
        if !self.wanted.contains(&byte) {
            self.wanted.push(byte);
        }
        self.probes.push((byte, probe));
    }

    fn scan(&self, text: &[u8], compare: &mut impl FnMut(usize, Probe)) {
        let next = |rest: &[u8]| match *self.wanted {
            [a] => memchr(a, rest),
            [a, b] => memchr2(a, b, rest),
            [a, b, c] => memchr3(a, b, c, rest),
            _ => None,
        };
        let mut from = 0;
        while let Some(at) = text.get(from..).and_then(next).map(|next| from + next) {
            from = at + 1;
            for (_, probe) in self.probes.iter().filter(|(byte, _)| text.get(at) == Some(byte)) {
                compare(at, *probe);
            }
        }
    }
}

// === impl Stretches ===

impl Stretches {
    fn new() -> Self {
        Self { taken: Box::new([false; 256]), least: usize::MAX, probes: Vec::new() }
    }

    fn add(&mut self, set: ByteSet, length: usize, probe: Start) {
        set.iter().for_each(|byte| self.taken[usize::from(byte)] = true);
        self.least = self.least.min(length);
        self.probes.push(probe);
    }

    /// Looks at the end of where a stretch could be, and skips what it cannot be in (Boyer and Moore 1977).
    fn scan(&self, text: &[u8], compare: &mut impl FnMut(usize, Probe)) {
        if self.probes.is_empty() {
            return;
        }
        let is_taken = |byte: &u8| self.taken[usize::from(*byte)];
        let mut start = 0;
        while let Some(bytes) = text.get(start..start + self.least) {
            if let Some(other) = bytes.iter().rposition(|byte| !is_taken(byte)) {
                start += other + 1;
                continue;
            }
            // As long as the stretch goes on, one may start a byte later.
            loop {
                let before = folded_bit(text, start.checked_sub(1));
                for Start { probe, .. } in
                    self.probes.iter().filter(|probe| probe.before & before != 0)
                {
                    compare(start, *probe);
                }
                start += 1;
                let next = text.get(start + self.least - 1);
                if next.is_none_or(|byte| !is_taken(byte)) {
                    break;
                }
            }
            start += self.least;
        }
    }
}

// === impl Entry ===

impl Entry {
    /// Whether the whole factor stands where a byte of it is found.
    fn compare(&self, text: &[u8], at: usize, place: i16) -> Option<Candidate> {
        let at = self.factor.stands(text, at, place.into())?;
        // A match has that much before the factor, so without it there is none.
        let latest = at.checked_sub(self.factor.least_before)?;
        let earliest = self.factor.most_before.map_or(0, |most| at.saturating_sub(most));
        Some(Candidate { pattern: self.pattern, latest, earliest })
    }
}

// === impl Probe ===

impl Probe {
    /// The places of a factor are few (`factor::MAX_LENGTH`).
    const fn new(entry: u32, place: isize) -> Self {
        Self { entry, place: place as i16 }
    }
}
