//! How records are stored: JSON, because they are few, read by people in an emergency, and grow fields.

use aa_store::{StoreError, Transaction};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

/// A stored value that does not read. The data is not trusted, and nothing is repaired silently.
#[derive(Debug, thiserror::Error)]
#[error("the value at `{key}` is damaged; restore the store from a backup")]
pub struct Damaged {
    key: String,
}

/// A record was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The value does not read.
    #[error(transparent)]
    Damaged(#[from] Damaged),
}

impl Damaged {
    /// Names the value under `key`.
    pub fn at(key: &[u8]) -> Self {
        Self { key: key.escape_ascii().to_string() }
    }
}

/// The stored form of a record.
pub fn encode<T: Serialize>(record: &T) -> Bytes {
    // The records of this crate are structs of strings, numbers and lists: they always serialize.
    serde_json::to_vec(record).expect("a record serializes").into()
}

/// Reads the stored form.
///
/// # Errors
/// [`Damaged`] when it is not one.
pub fn decode<T: DeserializeOwned>(key: &[u8], stored: &[u8]) -> Result<T, Damaged> {
    serde_json::from_slice(stored).map_err(|_| Damaged::at(key))
}

/// The record under `key`, if there is one; the read does not conflict with later writes.
///
/// # Errors
/// What the store says, or a damaged value.
pub async fn read<T: DeserializeOwned>(
    txn: &mut dyn Transaction,
    key: &[u8],
) -> Result<Option<T>, ReadError> {
    match txn.get_snapshot(key).await? {
        Some(stored) => Ok(Some(decode(key, &stored)?)),
        None => Ok(None),
    }
}
