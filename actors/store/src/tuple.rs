//! FoundationDB's tuple encoding: keys whose byte order is the order of the values they are made of.
//!
//! The format is FoundationDB's `design/tuple.md`; of its types, byte strings (`0x01`), Unicode strings
//! (`0x02`), integers of up to 64 bits (`0x0c` to `0x1c`) and UUIDs (`0x30`) are used. Values of
//! different types sort by type, in this order, so a place in a key should keep to one type.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};
use uuid::Uuid;

const BYTES: u8 = 0x01;
const STRING: u8 = 0x02;
const INT_ZERO: u8 = 0x14;
const UUID: u8 = 0x30;
/// Follows a zero byte within a string; a zero byte followed by anything else ends the string.
const ESCAPE: u8 = 0xff;
const MAX_INT_BYTES: usize = 8;

/// A value that can stand in a key.
pub trait Element {
    /// Appends the value's encoding.
    fn encode(&self, key: &mut BytesMut);
}

/// Reads the values of a key back, in the order they were written.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

/// A key that does not hold what was asked of it. Shows no contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TupleError {
    /// The key is of another subspace.
    #[error("the key is outside the subspace")]
    Outside,
    /// There is another type, or nothing.
    #[error("the key does not hold {expected} here")]
    Expected {
        /// The type asked for.
        expected: &'static str,
    },
    /// The value is cut short or not in its one form.
    #[error("the key holds a malformed {kind}")]
    Malformed {
        /// The type of the value.
        kind: &'static str,
    },
    /// The integer does not fit the type asked for.
    #[error("the key holds an integer that does not fit {asked}")]
    OutOfRange {
        /// The type asked for.
        asked: &'static str,
    },
    /// There is more than was asked for.
    #[error("the key goes on for {bytes} more bytes")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}

// === impl Element ===

impl Element for [u8] {
    fn encode(&self, key: &mut BytesMut) {
        key.put_u8(BYTES);
        put_escaped(key, self);
    }
}

impl<const N: usize> Element for [u8; N] {
    fn encode(&self, key: &mut BytesMut) {
        self.as_slice().encode(key);
    }
}

impl Element for str {
    fn encode(&self, key: &mut BytesMut) {
        key.put_u8(STRING);
        put_escaped(key, self.as_bytes());
    }
}

impl Element for String {
    fn encode(&self, key: &mut BytesMut) {
        self.as_str().encode(key);
    }
}

impl Element for u64 {
    fn encode(&self, key: &mut BytesMut) {
        let length = int_bytes(*self);
        key.put_u8(INT_ZERO + length as u8);
        key.put_slice(&self.to_be_bytes()[MAX_INT_BYTES - length..]);
    }
}

impl Element for u32 {
    fn encode(&self, key: &mut BytesMut) {
        u64::from(*self).encode(key);
    }
}

impl Element for i64 {
    fn encode(&self, key: &mut BytesMut) {
        let magnitude = self.unsigned_abs();
        if *self >= 0 {
            return magnitude.encode(key);
        }
        // One's complement, so that a larger magnitude sorts first.
        let length = int_bytes(magnitude);
        key.put_u8(INT_ZERO - length as u8);
        key.put_slice(&(!magnitude).to_be_bytes()[MAX_INT_BYTES - length..]);
    }
}

impl Element for Uuid {
    fn encode(&self, key: &mut BytesMut) {
        key.put_u8(UUID);
        key.put_slice(self.as_bytes());
    }
}

impl<T: Element + ?Sized> Element for &T {
    fn encode(&self, key: &mut BytesMut) {
        (**self).encode(key);
    }
}

// === impl Reader ===

impl<'a> Reader<'a> {
    /// Reads from the start of a key.
    pub const fn new(key: &'a [u8]) -> Self {
        Self { rest: key }
    }

    /// The next value, a byte string.
    ///
    /// # Errors
    /// [`TupleError::Expected`] or [`TupleError::Malformed`].
    pub fn bytes(&mut self) -> Result<Cow<'a, [u8]>, TupleError> {
        self.escaped(BYTES, "a byte string")
    }

    /// The next value, a Unicode string.
    ///
    /// # Errors
    /// [`TupleError::Expected`] or [`TupleError::Malformed`].
    pub fn str(&mut self) -> Result<Cow<'a, str>, TupleError> {
        let kind = "a string";
        let malformed = TupleError::Malformed { kind };
        match self.escaped(STRING, kind)? {
            Cow::Borrowed(bytes) => {
                std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| malformed)
            }
            Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).map_err(|_| malformed),
        }
    }

    /// The next value, an integer that is not negative.
    ///
    /// # Errors
    /// [`TupleError::Expected`], [`TupleError::Malformed`] or [`TupleError::OutOfRange`].
    pub fn u64(&mut self) -> Result<u64, TupleError> {
        u64::try_from(self.integer()?).map_err(|_| TupleError::OutOfRange { asked: "u64" })
    }

    /// The next value, an integer.
    ///
    /// # Errors
    /// [`TupleError::Expected`], [`TupleError::Malformed`] or [`TupleError::OutOfRange`].
    pub fn i64(&mut self) -> Result<i64, TupleError> {
        i64::try_from(self.integer()?).map_err(|_| TupleError::OutOfRange { asked: "i64" })
    }

    /// The next value, a UUID.
    ///
    /// # Errors
    /// [`TupleError::Expected`] or [`TupleError::Malformed`].
    pub fn uuid(&mut self) -> Result<Uuid, TupleError> {
        let kind = "a UUID";
        let rest = self.tagged(UUID, kind)?;
        let Some((uuid, rest)) = rest.split_first_chunk::<16>() else {
            return Err(TupleError::Malformed { kind });
        };
        self.rest = rest;
        Ok(Uuid::from_bytes(*uuid))
    }

    /// Checks that the key ends here.
    ///
    /// # Errors
    /// [`TupleError::Trailing`].
    pub const fn end(self) -> Result<(), TupleError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(TupleError::Trailing { bytes: self.rest.len() })
    }

    /// What is not read yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn tagged(&self, tag: u8, expected: &'static str) -> Result<&'a [u8], TupleError> {
        match self.rest.split_first() {
            Some((&found, rest)) if found == tag => Ok(rest),
            _ => Err(TupleError::Expected { expected }),
        }
    }

    fn escaped(&mut self, tag: u8, kind: &'static str) -> Result<Cow<'a, [u8]>, TupleError> {
        let text = self.tagged(tag, kind)?;
        let malformed = TupleError::Malformed { kind };
        let mut unescaped: Option<Vec<u8>> = None;
        let mut from = 0;
        loop {
            let zero = text[from..].iter().position(|&byte| byte == 0).ok_or(malformed)? + from;
            if text.get(zero + 1) == Some(&ESCAPE) {
                unescaped.get_or_insert_default().extend_from_slice(&text[from..=zero]);
                from = zero + 2;
                continue;
            }
            self.rest = &text[zero + 1..];
            return Ok(match unescaped {
                None => Cow::Borrowed(&text[..zero]),
                Some(mut bytes) => {
                    bytes.extend_from_slice(&text[from..zero]);
                    Cow::Owned(bytes)
                }
            });
        }
    }

    fn integer(&mut self) -> Result<i128, TupleError> {
        let kind = "an integer";
        let expected = TupleError::Expected { expected: kind };
        let malformed = TupleError::Malformed { kind };
        let (&tag, rest) = self.rest.split_first().ok_or(expected)?;
        let length = usize::from(tag.abs_diff(INT_ZERO));
        if length > MAX_INT_BYTES {
            return Err(expected);
        }
        let (digits, rest) = rest.split_at_checked(length).ok_or(malformed)?;
        let negative = tag < INT_ZERO;
        let mut magnitude = [0; MAX_INT_BYTES];
        for (place, &digit) in magnitude[MAX_INT_BYTES - length..].iter_mut().zip(digits) {
            *place = if negative { !digit } else { digit };
        }
        let magnitude = u64::from_be_bytes(magnitude);
        // Only the shortest form keeps the order, so only it is written.
        if int_bytes(magnitude) != length {
            return Err(malformed);
        }
        self.rest = rest;
        let magnitude = i128::from(magnitude);
        Ok(if negative { -magnitude } else { magnitude })
    }
}

fn put_escaped(key: &mut BytesMut, text: &[u8]) {
    key.reserve(text.len() + 1);
    let mut parts = text.split(|&byte| byte == 0);
    key.put_slice(parts.next().unwrap_or_default());
    for part in parts {
        key.put_slice(&[0, ESCAPE]);
        key.put_slice(part);
    }
    key.put_u8(0);
}

/// Bytes that a magnitude needs; none for zero.
const fn int_bytes(magnitude: u64) -> usize {
    MAX_INT_BYTES - magnitude.leading_zeros() as usize / 8
}

#[cfg(test)]
mod tests;
