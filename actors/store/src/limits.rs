//! FoundationDB's limits, kept by every store so that what works on one works on all: its own, less room
//! for the prefix under which a deployment's keys are kept, and for what it counts beside the bytes written.

use std::time::Duration;

use crate::{KeyRange, STAMP_BYTES};

/// The longest key, in bytes: 10 000 is FoundationDB's, of which a deployment's prefix takes up to 100.
pub const MAX_KEY_BYTES: usize = 9_900;
/// The longest value, in bytes.
pub const MAX_VALUE_BYTES: usize = 100_000;
/// The largest transaction, in bytes: keys and values written, and the bounds of conflict ranges.
/// FoundationDB counts about 100 bytes more for each write, up to 10 000 000: it may refuse one of very many
/// small writes earlier, with the same error.
pub const MAX_TRANSACTION_BYTES: usize = 9_000_000;
/// What a transaction should stay under to commit fast, in bytes, counted the same way.
pub const RECOMMENDED_TRANSACTION_BYTES: usize = 1_000_000;
/// How many keys one transaction stamps: their number is two bytes of the stamp.
pub const MAX_STAMPED: usize = 1 << 16;
/// How long after its begin a transaction may still read, and commit what it read.
pub const MAX_TRANSACTION_AGE: Duration = Duration::from_secs(5);
/// How many watches one store holds at once.
pub const MAX_WATCHES: usize = 10_000;

/// The first byte of keys that FoundationDB keeps to itself.
const RESERVED_PREFIX: u8 = 0xff;

/// A key, value or transaction past its limit. Shows lengths only, never contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// A key longer than [`MAX_KEY_BYTES`].
    #[error("a key of {bytes} bytes is over the limit of {MAX_KEY_BYTES}; shorten it")]
    Key {
        /// Its length in bytes.
        bytes: usize,
    },
    /// A value longer than [`MAX_VALUE_BYTES`].
    #[error(
        "a value of {bytes} bytes is over the limit of {MAX_VALUE_BYTES}; split it over several keys"
    )]
    Value {
        /// Its length in bytes.
        bytes: usize,
    },
    /// A transaction larger than [`MAX_TRANSACTION_BYTES`].
    #[error(
        "a transaction of {bytes} bytes is over the limit of {MAX_TRANSACTION_BYTES}; split it"
    )]
    Transaction {
        /// Its size in bytes.
        bytes: usize,
    },
    /// A transaction that stamps more than [`MAX_STAMPED`] keys.
    #[error("a transaction stamps at most {MAX_STAMPED} keys; split it")]
    Stamped,
    /// A key that begins with `0xff`.
    #[error("keys that begin with 0xff are reserved; choose another prefix")]
    Reserved,
}

pub(crate) fn check_key(key: &[u8]) -> Result<(), LimitError> {
    if key.len() > MAX_KEY_BYTES {
        return Err(LimitError::Key { bytes: key.len() });
    }
    if key.first() == Some(&RESERVED_PREFIX) {
        return Err(LimitError::Reserved);
    }
    Ok(())
}

pub(crate) fn check_stamped(prefix: &[u8], value: &[u8]) -> Result<(), LimitError> {
    let bytes = prefix.len() + STAMP_BYTES;
    if bytes > MAX_KEY_BYTES {
        return Err(LimitError::Key { bytes });
    }
    check_key(prefix)?;
    check_value(value)
}

pub(crate) fn check_value(value: &[u8]) -> Result<(), LimitError> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(LimitError::Value { bytes: value.len() });
    }
    Ok(())
}

/// A bound may be one byte longer than a key, so that it can stand right after the longest one, and
/// may be `0xff` itself, the end of all keys.
pub(crate) fn check_range(range: &KeyRange) -> Result<(), LimitError> {
    for bound in [range.begin(), range.end()] {
        if bound.len() > MAX_KEY_BYTES + 1 {
            return Err(LimitError::Key { bytes: bound.len() });
        }
        if bound.first() == Some(&RESERVED_PREFIX) && bound.len() > 1 {
            return Err(LimitError::Reserved);
        }
    }
    Ok(())
}
