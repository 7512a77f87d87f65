//! SHA-256 hashes as RFC 6962 combines them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest, Sha256};

use crate::format::{LEAF_PREFIX, NODE_PREFIX};

/// A SHA-256 hash. Text form: 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; 32]);

/// The hash of a leaf whose bytes come piece by piece.
pub(crate) struct LeafHasher(Sha256);

/// A text that is not 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a hash (64 lower-case hex digits)")]
pub struct HashError(String);

// === impl Hash ===

impl Hash {
    /// The `prev` of a stream's first entry.
    pub const ZERO: Self = Self([0; 32]);

    /// Wraps 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The hash of a leaf, SHA-256(0x00 ‖ data) (RFC 6962 §2.1).
    pub fn of_leaf(data: &[u8]) -> Self {
        let mut leaf = LeafHasher::new();
        leaf.update(data);
        leaf.finish()
    }

    /// The hash of an inner node, SHA-256(0x01 ‖ left ‖ right) (RFC 6962 §2.1).
    pub fn of_node(left: &Self, right: &Self) -> Self {
        let mut block = [NODE_PREFIX; 65];
        block[1..33].copy_from_slice(&left.0);
        block[33..].copy_from_slice(&right.0);
        Self(Sha256::digest(block).into())
    }

    /// The root of the tree without leaves, SHA-256 of nothing (RFC 6962 §2.1).
    pub fn of_empty_tree() -> Self {
        Self(Sha256::digest([]).into())
    }

    pub(crate) fn write_hex(&self, out: &mut Vec<u8>) {
        write_hex(&self.0, out);
    }
}

// === impl LeafHasher ===

impl LeafHasher {
    pub(crate) fn new() -> Self {
        let mut digest = Sha256::new();
        digest.update([LEAF_PREFIX]);
        Self(digest)
    }

    #[inline]
    pub(crate) fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    pub(crate) fn finish(self) -> Hash {
        Hash(self.0.finalize().into())
    }
}

/// Appends lower-case hex.
#[inline]
pub(crate) fn write_hex<const N: usize>(bytes: &[u8; N], out: &mut Vec<u8>) {
    let mut text = [[0; 2]; N];
    for (pair, byte) in text.iter_mut().zip(bytes) {
        *pair = PAIRS[usize::from(*byte)];
    }
    out.extend_from_slice(text.as_flattened());
}

/// The two digits of every byte.
static PAIRS: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 0x0f]];
        byte += 1;
    }
    pairs
};

/// Reads exactly `N` bytes of lower-case hex.
pub(crate) fn read_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        read_hex(text).map(Self).ok_or_else(|| HashError(text.chars().take(64).collect()))
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_rfc_6962() {
        // The vectors of certificate-transparency's `merkle_tree_test.cc`.
        assert_eq!(
            Hash::of_empty_tree().to_string(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        let empty_leaf = Hash::of_leaf(b"");
        assert_eq!(
            empty_leaf.to_string(),
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
        );
        assert_eq!(
            Hash::of_node(&empty_leaf, &Hash::of_leaf(&[0])).to_string(),
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
        );
    }

    #[test]
    fn only_lower_case_hex_of_full_length_is_read() {
        let hash = Hash::of_leaf(b"x");
        assert_eq!(hash.to_string().parse::<Hash>().unwrap(), hash);
        assert!(hash.to_string().to_uppercase().parse::<Hash>().is_err());
        assert!(hash.to_string()[2..].parse::<Hash>().is_err());
    }
}
