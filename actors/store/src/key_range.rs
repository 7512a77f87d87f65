//! Half-open ranges of keys.

use std::ops::Bound;

use bytes::{BufMut, Bytes, BytesMut};

/// The keys from `begin`, included, to `end`, excluded. Empty when `begin >= end`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyRange {
    begin: Bytes,
    end: Bytes,
}

/// The end of all keys: none begins with `0xff`.
const END: &[u8] = b"\xff";

// === impl KeyRange ===

impl KeyRange {
    /// From `begin`, included, to `end`, excluded.
    pub fn new(begin: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self { begin: begin.into(), end: end.into() }
    }

    /// Every key.
    pub const fn all() -> Self {
        Self { begin: Bytes::new(), end: Bytes::from_static(END) }
    }

    /// Just one key.
    pub fn single(key: &[u8]) -> Self {
        // One buffer serves both bounds.
        let end = successor(key);
        Self { begin: end.slice(..key.len()), end }
    }

    /// Every key that begins with `prefix`. No key begins with `0xff`, so such a prefix is empty.
    pub fn prefix(prefix: &[u8]) -> Self {
        let end = match prefix.iter().rposition(|&byte| byte != 0xff) {
            _ if prefix.first() == Some(&0xff) => Bytes::from_static(END),
            None => Bytes::from_static(END),
            Some(last) => {
                let mut end = BytesMut::from(&prefix[..=last]);
                end[last] += 1;
                end.freeze()
            }
        };
        Self { begin: Bytes::copy_from_slice(prefix), end }
    }

    /// What remains of the range after `key`: the next page of a forward read.
    pub fn after(&self, key: &[u8]) -> Self {
        Self { begin: successor(key).max(self.begin.clone()), end: self.end.clone() }
    }

    /// What remains of the range before `key`: the next page of a reverse read.
    pub fn before(&self, key: &[u8]) -> Self {
        Self { begin: self.begin.clone(), end: Bytes::copy_from_slice(key).min(self.end.clone()) }
    }

    /// The first key that may be in the range.
    pub const fn begin(&self) -> &Bytes {
        &self.begin
    }

    /// The first key past the range.
    pub const fn end(&self) -> &Bytes {
        &self.end
    }

    /// Whether no key can be in the range.
    pub fn is_empty(&self) -> bool {
        self.begin >= self.end
    }

    /// Whether `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        &self.begin[..] <= key && key < &self.end[..]
    }

    /// Whether some key can be in both ranges.
    pub fn overlaps(&self, other: &Self) -> bool {
        !self.is_empty() && !other.is_empty() && self.begin < other.end && other.begin < self.end
    }

    /// The bounds as ordered maps take them.
    pub(crate) fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (Bound::Included(&self.begin), Bound::Excluded(&self.end))
    }
}

/// The first key after `key`.
fn successor(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_range_holds_exactly_the_keys_with_that_prefix() {
        let range = KeyRange::prefix(b"ab");
        assert!(range.contains(b"ab") && range.contains(b"ab\xff\xff") && range.contains(b"abc"));
        assert!(!range.contains(b"ac") && !range.contains(b"aa\xff") && !range.contains(b"a"));
        assert_eq!(KeyRange::prefix(b"a\xff").end(), &b"b"[..]);
        assert!(KeyRange::prefix(b"\xff").is_empty());
        assert_eq!(KeyRange::prefix(b""), KeyRange::all());
    }

    #[test]
    fn a_single_range_holds_one_key() {
        let range = KeyRange::single(b"k");
        assert!(range.contains(b"k") && !range.contains(b"k\0") && !range.contains(b"j"));
    }

    #[test]
    fn ranges_that_touch_do_not_overlap() {
        let left = KeyRange::new(&b"a"[..], &b"c"[..]);
        assert!(left.overlaps(&KeyRange::new(&b"b"[..], &b"d"[..])));
        assert!(!left.overlaps(&KeyRange::new(&b"c"[..], &b"d"[..])));
        assert!(!left.overlaps(&KeyRange::new(&b"b"[..], &b"b"[..])));
    }
}
