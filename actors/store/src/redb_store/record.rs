//! The body of a log record: the mutations of one group of transactions, in the order of their
//! commits.
//!
//! Numbers are unsigned LEB128. A body is its length in bytes (4, little-endian, not counting itself),
//! then the number of transactions, then for each: the number of cleared ranges and for each the two
//! bounds; the number of keys and for each the key and its value. A byte string is its length and its
//! bytes; a value's length is one more than it is, and 0 means that the key is removed.

use bytes::{Buf, Bytes};

use super::sector::SectorBuffer;
use crate::{KeyRange, write_set::WriteSet};

/// Bytes before the body proper.
pub(super) const LENGTH_BYTES: usize = 4;

/// A body whose sectors are whole but which is no group: it was not written by this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record with a valid checksum is malformed")]
pub(super) struct Malformed;

/// One mutation of a group, with the transaction it belongs to, counted from 0.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mutation {
    Clear(KeyRange),
    Put(Bytes, Bytes),
    Delete(Bytes),
}

/// Puts a group into an empty buffer.
pub(super) fn encode<'a>(
    group: impl ExactSizeIterator<Item = &'a WriteSet>,
    buffer: &mut SectorBuffer,
) {
    buffer.put(&[0; LENGTH_BYTES]);
    let mut body = Body { buffer, bytes: 0 };
    body.number(group.len());
    for writes in group {
        body.number(writes.cleared().count());
        for range in writes.cleared() {
            body.string(range.begin(), 0);
            body.string(range.end(), 0);
        }
        let keys = writes.keys();
        body.number(keys.len());
        for (key, value) in keys {
            body.string(key, 0);
            match value {
                Some(value) => body.string(value, 1),
                None => body.number(0),
            }
        }
    }
    // INVARIANT: a group is bounded far below 4 GiB by the writer.
    let length = body.bytes as u32;
    buffer.patch(&length.to_le_bytes());
}

/// Reads a group and gives its mutations to `apply`, with the number of their transaction.
pub(super) fn decode(
    mut body: Bytes,
    mut apply: impl FnMut(u64, Mutation),
) -> Result<u64, Malformed> {
    let transactions = number(&mut body)?;
    for transaction in 0..transactions {
        for _ in 0..number(&mut body)? {
            let (begin, end) = (string(&mut body)?, string(&mut body)?);
            apply(transaction, Mutation::Clear(KeyRange::new(begin, end)));
        }
        for _ in 0..number(&mut body)? {
            let key = string(&mut body)?;
            apply(
                transaction,
                match number(&mut body)?.checked_sub(1) {
                    Some(length) => Mutation::Put(key, take(&mut body, length)?),
                    None => Mutation::Delete(key),
                },
            );
        }
    }
    if body.is_empty() { Ok(transactions) } else { Err(Malformed) }
}

fn number(body: &mut Bytes) -> Result<u64, Malformed> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = body.try_get_u8().map_err(|_| Malformed)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Malformed)
}

fn string(body: &mut Bytes) -> Result<Bytes, Malformed> {
    let length = number(body)?;
    take(body, length)
}

fn take(body: &mut Bytes, length: u64) -> Result<Bytes, Malformed> {
    let length = usize::try_from(length).map_err(|_| Malformed)?;
    if length > body.len() { Err(Malformed) } else { Ok(body.split_to(length)) }
}

/// A body being written.
struct Body<'a> {
    buffer: &'a mut SectorBuffer,
    bytes: usize,
}

// === impl Body ===

impl Body<'_> {
    fn put(&mut self, data: &[u8]) {
        self.bytes += data.len();
        self.buffer.put(data);
    }

    fn number(&mut self, number: usize) {
        let mut left = number;
        let mut encoded = [0; 10];
        let mut length = 0;
        loop {
            let more = left > 0x7f;
            encoded[length] = (left & 0x7f) as u8 | if more { 0x80 } else { 0 };
            length += 1;
            left >>= 7;
            if !more {
                break;
            }
        }
        self.put(&encoded[..length]);
    }

    /// `added` is added to the length that is written.
    fn string(&mut self, string: &[u8], added: usize) {
        self.number(string.len() + added);
        self.put(string);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::redb_store::sector::{Kind, SECTOR, Sector, Seed};

    fn body(buffer: &mut SectorBuffer) -> Bytes {
        let seed = Seed::of_log(0);
        let mut body = Vec::new();
        for (index, sector) in (0..).zip(buffer.frame(seed, 0, Kind::First, 0).chunks(SECTOR)) {
            let Sector::Whole { payload, .. } = seed.read(index, sector) else { panic!() };
            body.extend_from_slice(payload);
        }
        let mut body = Bytes::from(body);
        assert_eq!(body.get_u32_le() as usize, body.len());
        body
    }

    proptest! {
        #[test]
        fn a_group_reads_back_as_it_was_written(
            transactions in prop::collection::vec(
                prop::collection::btree_map(
                    prop::collection::vec(any::<u8>(), 0..40),
                    prop::option::of(prop::collection::vec(any::<u8>(), 0..900)),
                    0..5,
                ),
                0..5,
            ),
        ) {
            let mut sets = Vec::new();
            let mut expected = Vec::new();
            for (number, keys) in (0..).zip(transactions) {
                let mut set = WriteSet::default();
                let range = KeyRange::new(&b"a"[..], &b"b"[..]);
                set.delete_range(&range);
                expected.push((number, Mutation::Clear(range)));
                for (key, value) in keys {
                    let key = Bytes::from(key);
                    match value.map(Bytes::from) {
                        Some(value) => {
                            set.put(key.clone(), value.clone());
                            expected.push((number, Mutation::Put(key, value)));
                        }
                        None => {
                            set.delete(key.clone());
                            expected.push((number, Mutation::Delete(key)));
                        }
                    }
                }
                sets.push(set);
            }
            let mut buffer = SectorBuffer::default();
            encode(sets.iter(), &mut buffer);
            let mut found = Vec::new();
            let count = decode(body(&mut buffer), |number, mutation| found.push((number, mutation)));
            prop_assert_eq!(count, Ok(sets.len() as u64));
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn no_input_makes_the_decoder_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(Bytes::from(body), |_, _| {});
        }
    }
}
