//! Where in a text a pattern could match at all.
//!
//! At every place, the next [`PROBE`] bytes each look up which of 64 buckets of factors have such a byte
//! there; where the four answers agree on a bucket, its factors are compared whole. It is the search of
//! Teddy (Hyperscan's, and the `aho-corasick` crate's for literals) over classes of bytes instead of
//! literals, and with tables instead of vector registers: four loads per byte, none of which waits for
//! another.

use super::factor::{Factor, PROBE};

/// The factors of many patterns.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    /// For each probed place and byte, the buckets with a factor that takes it.
    tables: Box<[[u64; 256]; PROBE]>,
    buckets: Vec<Vec<Entry>>,
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

const BUCKETS: usize = 64;
/// Places that are probed before it is asked whether any probe succeeded.
const STRIDE: usize = 8;
const BLOCK: usize = STRIDE + PROBE - 1;

// === impl Filter ===

impl Filter {
    /// Builds the tables for the factors of patterns.
    pub(super) fn new(factors: impl IntoIterator<Item = (u32, Factor)>) -> Self {
        let mut entries: Vec<Entry> =
            factors.into_iter().map(|(pattern, factor)| Entry { pattern, factor }).collect();
        // Alike factors share a bucket, so that what the bucket takes stays narrow.
        entries.sort_by(|a, b| a.factor.probed().cmp(b.factor.probed()));
        let size = entries.len().div_ceil(BUCKETS).max(1);
        let mut tables = Box::new([[0; 256]; PROBE]);
        let mut buckets = Vec::new();
        for (number, bucket) in entries.chunks(size).enumerate() {
            let bit = 1 << number;
            for entry in bucket {
                for (place, table) in tables.iter_mut().enumerate() {
                    let set = entry.factor.probed().get(place);
                    for (byte, mask) in (0..=u8::MAX).zip(table) {
                        if set.is_none_or(|set| set.contains(byte)) {
                            *mask |= bit;
                        }
                    }
                }
            }
            buckets.push(bucket.to_vec());
        }
        Self { tables, buckets }
    }

    /// Reports every factor that stands in the text.
    pub(super) fn scan(&self, text: &[u8], found: &mut impl FnMut(Candidate)) {
        if self.buckets.is_empty() {
            return;
        }
        let [first, second, third, fourth] = &*self.tables;
        let probe = |a: u8, b: u8, c: u8, d: u8| {
            first[usize::from(a)]
                & second[usize::from(b)]
                & third[usize::from(c)]
                & fourth[usize::from(d)]
        };
        let mut at = 0;
        while let Some(block) = text.get(at..at + BLOCK) {
            let mut masks = [0; STRIDE];
            for (mask, place) in masks.iter_mut().zip(block.windows(PROBE)) {
                if let [a, b, c, d] = *place {
                    *mask = probe(a, b, c, d);
                }
            }
            if masks.iter().fold(0, |any, mask| any | mask) != 0 {
                for (place, mask) in masks.iter().enumerate() {
                    self.compare(text, at + place, *mask, found);
                }
            }
            at += STRIDE;
        }
        // Past the end of the text every byte is taken: whole factors are compared within it.
        for at in at..text.len() {
            let mask = self
                .tables
                .iter()
                .zip(&text[at..])
                .fold(u64::MAX, |mask, (table, byte)| mask & table[usize::from(*byte)]);
            self.compare(text, at, mask, found);
        }
    }

    fn compare(&self, text: &[u8], at: usize, mut mask: u64, found: &mut impl FnMut(Candidate)) {
        while mask != 0 {
            let number = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            for entry in self.buckets.get(number).into_iter().flatten() {
                if let Some(candidate) = entry.compare(text, at) {
                    found(candidate);
                }
            }
        }
    }
}

// === impl Entry ===

impl Entry {
    /// Whether the whole factor stands where its probe succeeded.
    fn compare(&self, text: &[u8], probed: usize) -> Option<Candidate> {
        let factor = &self.factor;
        let at = probed.checked_sub(factor.probe)?;
        let bytes = text.get(at..at + factor.bytes.len())?;
        let stands = factor.bytes.iter().zip(bytes).all(|(set, byte)| set.contains(*byte));
        // A match has that much before the factor, so without it there is none.
        let latest = at.checked_sub(factor.least_before).filter(|_| stands)?;
        let earliest = factor.most_before.map_or(0, |most| at.saturating_sub(most));
        Some(Candidate { pattern: self.pattern, latest, earliest })
    }
}
