//! The part of the cluster's keys that is ours: all that begin with the deployment's prefix.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{KeyRange, STAMP_BYTES};

/// Puts the prefix before keys on their way out and takes it off on their way back.
#[derive(Clone, Debug)]
pub(super) struct Keyspace {
    prefix: Bytes,
}

/// The cluster's part of a stamp; the rest is ours.
const VERSIONSTAMP_BYTES: usize = 10;

// === impl Keyspace ===

impl Keyspace {
    pub(super) const fn new(prefix: Bytes) -> Self {
        Self { prefix }
    }

    /// The cluster's key for ours. Of a range's end it is the end: none of our keys begins with `0xff`.
    pub(super) fn key(&self, key: &[u8]) -> Vec<u8> {
        [&self.prefix[..], key].concat()
    }

    pub(super) fn range(&self, range: &KeyRange) -> (Vec<u8>, Vec<u8>) {
        (self.key(range.begin()), self.key(range.end()))
    }

    /// Our key for the cluster's. None for a key of somebody else.
    pub(super) fn own(&self, key: &[u8]) -> Option<Bytes> {
        key.strip_prefix(&self.prefix[..]).map(Bytes::copy_from_slice)
    }

    /// The key as the cluster takes it to stamp it: with room for its stamp, the `index`, and where the room
    /// is (4, little-endian).
    pub(super) fn stamped(&self, prefix: &[u8], index: u16) -> Vec<u8> {
        let place = self.prefix.len() + prefix.len();
        let mut key = BytesMut::with_capacity(place + STAMP_BYTES + size_of::<u32>());
        key.put_slice(&self.prefix);
        key.put_slice(prefix);
        key.put_bytes(0, VERSIONSTAMP_BYTES);
        key.put_u16(index);
        // INVARIANT: keys are bounded to some thousand bytes before.
        key.put_u32_le(place as u32);
        key.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_stay_within_the_prefix() {
        let keyspace = Keyspace::new(Bytes::from_static(b"ours/"));
        let all = keyspace.range(&KeyRange::all());
        assert_eq!(all, (b"ours/".to_vec(), b"ours/\xff".to_vec()));
        assert_eq!(keyspace.own(b"ours/key").unwrap(), &b"key"[..]);
        assert_eq!(keyspace.own(b"theirs/key"), None);
    }

    #[test]
    fn a_stamp_stands_after_both_prefixes() {
        let keyspace = Keyspace::new(Bytes::from_static(b"ours/"));
        let expected = b"ours/log/\0\0\0\0\0\0\0\0\0\0\x01\x02\x09\0\0\0";
        assert_eq!(keyspace.stamped(b"log/", 0x0102), expected);
    }
}
