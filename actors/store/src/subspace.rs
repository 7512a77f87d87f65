//! Parts of the keyspace, named by the tuple all their keys begin with.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    KeyRange,
    tuple::{Element, Reader, TupleError},
};

/// All keys that begin with the same tuple. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subspace {
    prefix: Bytes,
}

/// Room for the usual last element of a key: an integer or a UUID.
const ELEMENT_ROOM: usize = 17;

// === impl Subspace ===

impl Subspace {
    /// All keys.
    pub const fn root() -> Self {
        Self { prefix: Bytes::new() }
    }

    /// The part whose next element is this one.
    #[must_use]
    pub fn with(&self, element: impl Element) -> Self {
        Self { prefix: self.key(element) }
    }

    /// The key of this tuple and one element more.
    pub fn key(&self, element: impl Element) -> Bytes {
        let mut key = BytesMut::with_capacity(self.prefix.len() + ELEMENT_ROOM);
        key.put_slice(&self.prefix);
        element.encode(&mut key);
        key.freeze()
    }

    /// The key of this tuple alone.
    pub fn to_key(&self) -> Bytes {
        self.prefix.clone()
    }

    /// The keys of all longer tuples, without the key of this tuple alone.
    pub fn range(&self) -> KeyRange {
        let bound = |byte| {
            let mut bound = BytesMut::with_capacity(self.prefix.len() + 1);
            bound.put_slice(&self.prefix);
            bound.put_u8(byte);
            bound.freeze()
        };
        KeyRange::new(bound(0x00), bound(0xff))
    }

    /// The keys from this tuple with `begin`, included, to it with `end`, excluded.
    pub fn between(&self, begin: impl Element, end: impl Element) -> KeyRange {
        KeyRange::new(self.key(begin), self.key(end))
    }

    /// Reads what follows this tuple in a key.
    ///
    /// # Errors
    /// [`TupleError::Outside`] for a key of another subspace.
    pub fn unpack<'a>(&self, key: &'a [u8]) -> Result<Reader<'a>, TupleError> {
        key.strip_prefix(&self.prefix[..]).map(Reader::new).ok_or(TupleError::Outside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subspace_holds_its_own_keys_and_no_neighbours() {
        let agents = Subspace::root().with("agent");
        let key = agents.with(7u64).key("status");
        assert!(agents.range().contains(&key));
        assert!(!agents.range().contains(&agents.to_key()));
        assert!(!agents.range().contains(&Subspace::root().with("agents").key(7u64)));
        let mut reader = agents.unpack(&key).unwrap();
        assert_eq!(reader.u64(), Ok(7));
        assert_eq!(reader.str().unwrap(), "status");
        assert_eq!(reader.end(), Ok(()));
        assert_eq!(Subspace::root().with("team").unpack(&key).unwrap_err(), TupleError::Outside);
    }

    #[test]
    fn a_range_between_two_elements_excludes_the_last() {
        let log = Subspace::root().with("log");
        let range = log.between(3u64, 300u64);
        assert!(range.contains(&log.key(3u64)) && range.contains(&log.with(299u64).key("part")));
        assert!(!range.contains(&log.key(300u64)) && !range.contains(&log.key(2u64)));
    }
}
