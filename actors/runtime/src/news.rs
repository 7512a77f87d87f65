//! News: what every node of a cluster has to hear of, durable and in the order in which it became true.
//!
//! It is committed together with what it tells ([`Record::news`](crate::Record)), under keys stamped with the place
//! of that commit. Every node reads on in its beats, and its record says how far its readers have taken note, so
//! whoever must not go on before all know ([`Node::until_all_know`](crate::Node::until_all_know)) can wait for it.

use std::{fmt, time::Duration};

use aa_store::{KeyRange, Order, STAMP_BYTES, StoreError, Transaction};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Where news are stored: this, then the stamp.
pub(crate) const NEWS: &[u8] = b"news/";

/// The most that is read in one beat. More is read at once in the next.
pub(crate) const AT_ONCE: usize = 512;

/// How long news are kept for nodes that do not beat.
pub(crate) const KEPT_FOR: Duration = Duration::from_secs(600);

/// The longest news, in bytes.
pub const MAX_NEWS: usize = 4_096;

/// The place of something in the order of all commits of a store.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp([u8; STAMP_BYTES]);

/// What a node's reader is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// One piece of news.
    News {
        /// Its place.
        stamp: Stamp,
        /// What was written.
        body: Bytes,
    },
    /// The node was away for longer than news are kept: whatever it holds may be out of date.
    Missed,
}

// === impl Stamp ===

impl Stamp {
    fn of_key(key: &[u8]) -> Option<Self> {
        key.strip_prefix(NEWS)?.try_into().ok().map(Self)
    }

    /// The key of what has this stamp.
    pub(crate) fn key(self) -> Bytes {
        [NEWS, &self.0].concat().into()
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Stamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Stamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; STAMP_BYTES];
        if text.len() != 2 * STAMP_BYTES || !text.is_ascii() {
            return Err(serde::de::Error::custom("a stamp has 24 hex digits"));
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16)
                .map_err(serde::de::Error::custom)?;
        }
        Ok(Self(bytes))
    }
}

/// The end of the news so far.
///
/// # Errors
/// The store does not answer.
pub(crate) async fn latest(txn: &mut dyn Transaction) -> Result<Stamp, StoreError> {
    let last = txn.range_snapshot(&KeyRange::prefix(NEWS), 1, Order::Reverse).await?;
    Ok(last.first().and_then(|(key, _)| Stamp::of_key(key)).unwrap_or_default())
}

/// The news after `cursor`, at most [`AT_ONCE`].
///
/// # Errors
/// The store does not answer.
pub(crate) async fn read_on(
    txn: &mut dyn Transaction,
    cursor: Stamp,
) -> Result<Vec<(Stamp, Bytes)>, StoreError> {
    let range = KeyRange::prefix(NEWS).after(&cursor.key());
    let stored = txn.range_snapshot(&range, AT_ONCE, Order::Forward).await?;
    let news = stored.into_iter().filter_map(|(key, body)| Some((Stamp::of_key(&key)?, body)));
    Ok(news.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_reads_back_and_orders_as_its_key() {
        let stamp = Stamp(std::array::from_fn(|at| 0xf0 + at as u8));
        let text = serde_json::to_string(&stamp).unwrap();
        assert_eq!(text, "\"f0f1f2f3f4f5f6f7f8f9fafb\"");
        assert_eq!(serde_json::from_str::<Stamp>(&text).unwrap(), stamp);
        assert_eq!(Stamp::of_key(&stamp.key()), Some(stamp));
        assert!(Stamp::default() < stamp && Stamp::default().key() < stamp.key());
        for wrong in ["\"f0\"", "\"zzf1f2f3f4f5f6f7f8f9fafb\"", "7"] {
            assert!(serde_json::from_str::<Stamp>(wrong).is_err(), "{wrong}");
        }
    }
}
