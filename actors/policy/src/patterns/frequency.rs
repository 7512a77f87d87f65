//! How often runs of bytes stand in common text.
//!
//! The model: a chain over six kinds of bytes, and each byte's share of its kind. The figures are counted
//! over equal parts of source code, documentation and JSON, TOML and YAML files, and somewhat less of base64
//! and hexadecimal digits. Kinds in a chain, because what follows a digit is a digit again four times out
//! of ten and not one time out of ten: neighbours taken as independent make dates and numbers look rare.

use super::byte_set::ByteSet;

/// The probability that a text at one place has certain bytes in a row, by the kind of the last one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chance([f32; KINDS]);

/// The share of each kind's bytes that a set holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shares([f32; KINDS]);

/// Small letters, capitals, digits, white space, other ASCII, what is not ASCII.
const KINDS: usize = 6;
const OF_KIND: [f32; KINDS] = [0.524, 0.078, 0.092, 0.164, 0.141, 0.001];
/// Per kind, what kinds come next.
const NEXT: [[f32; KINDS]; KINDS] = [
    [0.728, 0.040, 0.051, 0.084, 0.097, 0.0001],
    [0.389, 0.423, 0.093, 0.019, 0.077, 0.0001],
    [0.283, 0.083, 0.430, 0.035, 0.168, 0.0001],
    [0.281, 0.053, 0.030, 0.447, 0.188, 0.0005],
    [0.284, 0.053, 0.094, 0.297, 0.270, 0.0003],
    [0.067, 0.018, 0.005, 0.160, 0.065, 0.685],
];
/// Per mille of the letters, from `a` and from `A`.
const SMALL: [u8; 26] = [
    75, 26, 46, 44, 118, 31, 21, 27, 62, 5, 10, 42, 28, 58, 61, 32, 5, 62, 64, 85, 35, 11, 13, 19,
    17, 6,
];
const CAPITAL: [u8; 26] = [
    56, 38, 50, 45, 56, 35, 30, 29, 53, 25, 24, 49, 41, 41, 41, 39, 24, 47, 55, 54, 37, 28, 28, 24,
    26, 25,
];
const DIGIT: [u8; 10] = [194, 124, 106, 93, 83, 78, 79, 76, 84, 83];

// === impl Chance ===

impl Chance {
    /// Of bytes that are all in the next set.
    pub(super) fn first(shares: &Shares) -> Self {
        Self(std::array::from_fn(|kind| OF_KIND[kind] * shares.0[kind]))
    }

    /// Of those bytes and one more.
    pub(super) fn then(self, shares: &Shares) -> Self {
        let mut next = [0.0; KINDS];
        for (before, row) in self.0.iter().zip(&NEXT) {
            for ((next, follows), share) in next.iter_mut().zip(row).zip(&shares.0) {
                *next += before * follows * share;
            }
        }
        Self(next)
    }

    /// Of a run that has one byte of each of these.
    pub(super) fn of_run(run: &[Shares]) -> f32 {
        let Some((first, rest)) = run.split_first() else { return 1.0 };
        let chance = rest.iter().fold(Self::first(first), Self::then);
        // Letters in a row may be a word, and words are commoner than their letters in a row would be.
        let is_word = run.iter().all(|shares| shares.0[0] > 0.0);
        let word = if is_word { 10_f32.powf(-3.0 - run.len() as f32 / 4.0) } else { 0.0 };
        word + chance.0.iter().sum::<f32>()
    }
}

// === impl Shares ===

impl Shares {
    pub(super) fn of(set: ByteSet) -> Self {
        let mut shares = [0.0; KINDS];
        for byte in set.iter() {
            let (kind, share) = share(byte);
            shares[kind] += share;
        }
        Self(shares)
    }
}

/// The kind of a byte and its share of that kind.
fn share(byte: u8) -> (usize, f32) {
    let (kind, per_mille) = match byte {
        b'a'..=b'z' => (0, f32::from(SMALL[usize::from(byte - b'a')])),
        b'A'..=b'Z' => (1, f32::from(CAPITAL[usize::from(byte - b'A')])),
        b'0'..=b'9' => (2, f32::from(DIGIT[usize::from(byte - b'0')])),
        b' ' => (3, 825.0),
        b'\n' => (3, 160.0),
        b'\t' | b'\r' => (3, 7.0),
        b',' | b'"' | b'/' => (4, 100.0),
        b'_' | b'-' | b':' | b'.' => (4, 72.0),
        b'=' | b'(' | b')' | b'`' | b'[' | b']' | b'#' => (4, 40.0),
        b'{' | b'}' | b'\\' | b';' | b'+' | b'*' | b'>' | b'\'' | b'<' => (4, 14.0),
        0x21..=0x7e => (4, 5.0),
        0x80..=0xbf => (5, 11.0),
        0xc0..=0xff => (5, 5.0),
        _ => (4, 0.1),
    };
    (kind, per_mille / 1000.0)
}
