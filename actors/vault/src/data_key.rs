//! The keys that secrets are sealed under.

use std::{fmt, str::FromStr};

use aa_protocol::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use ulid::Ulid;
use zeroize::Zeroizing;

use crate::{
    locked_key::LockedKey,
    random::{self, RandomError},
};

/// Names a data key. Text form `dk_<ulid>`, the ULID in lower case, so ids sort by time of creation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataKeyId(Ulid);

/// A 256-bit key of one workspace. It is wiped on drop, kept out of swap where the system allows it, and
/// leaves the process only wrapped; its debug form shows the id.
pub struct DataKey {
    id: DataKeyId,
    key: LockedKey,
}

/// A text that is not the form of a data key's id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a data key id (dk_<ulid>, lower case)")]
pub struct DataKeyIdError(String);

// === impl DataKeyId ===

impl DataKeyId {
    /// A new id: the time in milliseconds and 80 random bits.
    pub(crate) fn random(now: Timestamp) -> Result<Self, RandomError> {
        let mut bits = [0; 16];
        random::fill(&mut bits)?;
        Ok(Self(Ulid::from_parts(now.unix_millis(), u128::from_be_bytes(bits) >> 48)))
    }

    /// The 16 bytes of the ULID, most significant first; their order is the order of the ids.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.0.to_be_bytes()
    }
}

impl fmt::Display for DataKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dk_{}", self.0.to_string().to_ascii_lowercase())
    }
}

impl fmt::Debug for DataKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for DataKeyId {
    type Err = DataKeyIdError;

    fn from_str(text: &str) -> Result<Self, DataKeyIdError> {
        text.strip_prefix("dk_")
            .and_then(read_ulid)
            .map(Self)
            .ok_or_else(|| DataKeyIdError(text.chars().take(64).collect()))
    }
}

impl Serialize for DataKeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DataKeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

// === impl DataKey ===

impl DataKey {
    /// A fresh key from the operating system's randomness.
    pub(crate) fn random(now: Timestamp) -> Result<Self, RandomError> {
        Ok(Self { id: DataKeyId::random(now)?, key: LockedKey::random()? })
    }

    /// The key of a master key's answer, for a provider that opened its wrapping.
    pub fn from_bytes(id: DataKeyId, bytes: &Zeroizing<[u8; 32]>) -> Self {
        Self { id, key: LockedKey::new(bytes) }
    }

    /// Its id.
    pub const fn id(&self) -> DataKeyId {
        self.id
    }

    /// The key itself, for a provider that wraps it. Whoever asks answers for where it goes.
    pub fn expose(&self) -> &[u8; 32] {
        self.key.expose()
    }

    /// Whether the system keeps it out of swap. It does not once `RLIMIT_MEMLOCK` is spent: each key takes
    /// a page of it.
    pub const fn is_locked(&self) -> bool {
        self.key.is_locked()
    }

    pub(crate) const fn key(&self) -> &LockedKey {
        &self.key
    }

    /// Whether both are the same key, in constant time.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        self.key.equals(&other.key)
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A ULID in lower case.
pub(crate) fn read_ulid(text: &str) -> Option<Ulid> {
    let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    lower.then(|| Ulid::from_string(text).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_text_form() {
        let id = DataKeyId::random(Timestamp::from_micros(1_000)).unwrap();
        assert_eq!(id.to_string().parse::<DataKeyId>().unwrap(), id);
        let text = "dk_00000000000000000000000001";
        assert_eq!(text.parse::<DataKeyId>().unwrap().to_string(), text);
        for text in
            ["", "dk_", "dk_0", "00000000000000000000000001", "dk_0000000000000000000000000A"]
        {
            assert!(text.parse::<DataKeyId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_key_shows_its_id_only() {
        let id: DataKeyId = "dk_00000000000000000000000001".parse().unwrap();
        let key = DataKey::from_bytes(id, &Zeroizing::new([0x41; 32]));
        assert_eq!(format!("{key:?}"), "DataKey { id: dk_00000000000000000000000001, .. }");
    }

    #[test]
    fn keys_are_kept_out_of_swap() {
        // A page each; every system grants that many.
        let keys: Vec<DataKey> =
            (0..8).map(|_| DataKey::random(Timestamp::from_micros(0)).unwrap()).collect();
        let locked = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        assert!(keys.iter().all(DataKey::is_locked));
        assert!(locked() >= 32, "{} kB", locked());
    }
}
