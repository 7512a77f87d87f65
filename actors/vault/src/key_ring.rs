//! The data keys of a workspace and their states: what a vault stores beside the secrets.
//!
//! ```text
//!           rotate               nothing is sealed under it
//! active ──────────► decrypt-only ──────────► retired (its wrapping is gone)
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use aa_protocol::{Timestamp, WorkspaceId};
use serde::{Deserialize, Serialize};

use crate::{DataKeyId, MAX_WRAPPED_BYTES, MasterKeyId, WrapContext, WrappedKey, encoding::Format};

/// How long one data key seals before the next should take over (the specification's cadence for the
/// vault, after NIST SP 800-57).
pub const DATA_KEY_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3_600);

/// The most keys of a ring that still open something.
pub const MAX_LIVE_KEYS: usize = 16;

/// The most retired keys that a ring remembers; older ones are forgotten.
pub const MAX_RETIRED_KEYS: usize = 32;

/// The longest stored form of a ring, in bytes: base64 of the longest wrappings, and room for the rest. It
/// stays below the 100 kB that a value of the store may have.
pub const MAX_RING_BYTES: usize = MAX_LIVE_KEYS * (MAX_WRAPPED_BYTES * 4 / 3 + 1024) + 16 * 1024;
const _: () = assert!(MAX_RING_BYTES < 100_000);

/// The data keys of a workspace. A value: every change makes a new one, one revision higher.
///
/// INVARIANT: exactly one key is active; live keys have a wrapping and retired ones none; keys to be
/// re-wrapped are live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StoredRing", into = "StoredRing")]
pub struct KeyRing {
    workspace: WorkspaceId,
    revision: u64,
    keys: BTreeMap<DataKeyId, KeyRecord>,
    rewrap: Option<Rewrap>,
}

/// A data key of a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// When it was made.
    pub created_at: Timestamp,
    /// What it is good for.
    pub state: KeyState,
}

/// What a data key is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// It seals and opens.
    Active(WrappedKey),
    /// It opens what it sealed, until that is sealed anew.
    DecryptOnly(WrappedKey),
    /// Nothing is sealed under it, and its wrapping is gone.
    Retired(Timestamp),
}

/// A rotation of the master key that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rewrap {
    /// The key to wrap under.
    pub target: MasterKeyId,
    /// The data keys that are not re-wrapped yet.
    pub pending: BTreeSet<DataKeyId>,
}

/// Stored text that is not a key ring.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored key ring is damaged: {problem}; restore it from a backup")]
pub struct KeyRingError {
    /// What is wrong.
    pub problem: String,
}

/// A ring has no room for another live key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{workspace} has {MAX_LIVE_KEYS} data keys that still open secrets; let the rotations under way finish \
     before you begin another"
)]
pub struct TooManyKeys {
    /// Whose ring it is.
    pub workspace: WorkspaceId,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRing {
    format: Format,
    workspace: WorkspaceId,
    revision: u64,
    keys: Vec<StoredKey>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rewrap: Option<Rewrap>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKey {
    id: DataKeyId,
    created_at: Timestamp,
    state: StoredState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wrapped: Option<WrappedKey>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retired_at: Option<Timestamp>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StoredState {
    Active,
    DecryptOnly,
    Retired,
}

// === impl KeyRing ===

impl KeyRing {
    pub(crate) fn new(
        workspace: WorkspaceId,
        id: DataKeyId,
        created_at: Timestamp,
        wrapped: WrappedKey,
    ) -> Self {
        let record = KeyRecord { created_at, state: KeyState::Active(wrapped) };
        Self { workspace, revision: 1, keys: BTreeMap::from([(id, record)]), rewrap: None }
    }

    /// Whose ring it is.
    pub const fn workspace(&self) -> WorkspaceId {
        self.workspace
    }

    /// How many changes made it; 1 for a new ring.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// All keys it remembers, oldest first.
    pub fn keys(&self) -> impl Iterator<Item = (DataKeyId, &KeyRecord)> {
        self.keys.iter().map(|(id, record)| (*id, record))
    }

    /// A key it remembers.
    pub fn key(&self, id: DataKeyId) -> Option<&KeyRecord> {
        self.keys.get(&id)
    }

    /// The key that seals.
    pub fn active(&self) -> DataKeyId {
        let active = |(id, record): (&DataKeyId, &KeyRecord)| {
            matches!(record.state, KeyState::Active(_)).then_some(*id)
        };
        self.keys.iter().find_map(active).expect("INVARIANT: exactly one key is active")
    }

    /// Whether the active key has served [`DATA_KEY_LIFETIME`] and another should take over.
    pub fn is_due(&self, now: Timestamp) -> bool {
        let active = self.keys.get(&self.active());
        active.is_some_and(|record| now.since(record.created_at) >= DATA_KEY_LIFETIME)
    }

    /// The rotation of the master key that is under way.
    pub const fn rewrap(&self) -> Option<&Rewrap> {
        self.rewrap.as_ref()
    }

    /// Whether a rotation, of either kind, is under way.
    pub fn is_rotating(&self) -> bool {
        let decrypt_only = |record: &KeyRecord| matches!(record.state, KeyState::DecryptOnly(_));
        self.rewrap.is_some() || self.keys.values().any(decrypt_only)
    }

    /// The keys that open something, with their wrappings, oldest first.
    pub fn live(&self) -> impl Iterator<Item = (DataKeyId, &WrappedKey)> {
        self.keys.iter().filter_map(|(id, record)| Some((*id, record.state.wrapped()?)))
    }

    /// The master keys without which some data key is lost.
    pub fn master_keys(&self) -> BTreeSet<MasterKeyId> {
        let used = self.live().map(|(_, wrapped)| wrapped.master.clone());
        used.chain(self.rewrap.as_ref().map(|rewrap| rewrap.target.clone())).collect()
    }

    pub(crate) const fn context(&self, data_key: DataKeyId) -> WrapContext {
        WrapContext { workspace: self.workspace, data_key }
    }

    /// A fresh key takes over; the one before it only opens from now on.
    pub(crate) fn with_active(
        &self,
        id: DataKeyId,
        created_at: Timestamp,
        wrapped: WrappedKey,
    ) -> Result<Self, TooManyKeys> {
        if self.live().count() >= MAX_LIVE_KEYS {
            return Err(TooManyKeys { workspace: self.workspace });
        }
        let mut next = self.successor();
        for record in next.keys.values_mut() {
            if let KeyState::Active(wrapped) = &record.state {
                record.state = KeyState::DecryptOnly(wrapped.clone());
            }
        }
        let record = KeyRecord { created_at, state: KeyState::Active(wrapped) };
        next.keys.insert(id, record);
        Ok(next)
    }

    /// All live keys are to be wrapped under `target`.
    pub(crate) fn with_rewrap(&self, target: MasterKeyId) -> Self {
        let mut next = self.successor();
        next.rewrap = Some(Rewrap { target, pending: self.live().map(|(id, _)| id).collect() });
        next
    }

    /// `id` is wrapped anew, and no longer among those that are to be.
    pub(crate) fn with_wrapping(&self, id: DataKeyId, wrapped: WrappedKey) -> Self {
        let mut next = self.successor();
        if let Some(record) = next.keys.get_mut(&id) {
            record.state = match record.state {
                KeyState::Active(_) => KeyState::Active(wrapped),
                KeyState::DecryptOnly(_) => KeyState::DecryptOnly(wrapped),
                KeyState::Retired(at) => KeyState::Retired(at),
            };
        }
        next.no_longer_pending(&BTreeSet::from([id]));
        next
    }

    /// The decrypt-only keys among `unused` are retired.
    pub(crate) fn with_retired(&self, unused: &BTreeSet<DataKeyId>, now: Timestamp) -> Self {
        let mut next = self.successor();
        for id in unused {
            if let Some(record) = next.keys.get_mut(id)
                && matches!(record.state, KeyState::DecryptOnly(_))
            {
                record.state = KeyState::Retired(now);
            }
        }
        next.no_longer_pending(unused);
        let retired = |(id, record): (&DataKeyId, &KeyRecord)| {
            matches!(record.state, KeyState::Retired(_)).then_some(*id)
        };
        let retired: Vec<_> = next.keys.iter().filter_map(retired).collect();
        for id in retired.iter().take(retired.len().saturating_sub(MAX_RETIRED_KEYS)) {
            next.keys.remove(id);
        }
        next
    }

    fn no_longer_pending(&mut self, ids: &BTreeSet<DataKeyId>) {
        if let Some(rewrap) = &mut self.rewrap {
            rewrap.pending.retain(|id| !ids.contains(id));
        }
        self.rewrap = self.rewrap.take().filter(|rewrap| !rewrap.pending.is_empty());
    }

    fn successor(&self) -> Self {
        Self { revision: self.revision + 1, ..self.clone() }
    }

    /// The stored form.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a struct of strings and numbers has a JSON form")
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// The text is longer than [`MAX_RING_BYTES`], not that of [`KeyRing::to_json`], or breaks an invariant.
    pub fn from_json(text: &[u8]) -> Result<Self, KeyRingError> {
        if text.len() > MAX_RING_BYTES {
            let problem = format!("it has {} bytes, at most {MAX_RING_BYTES} are read", text.len());
            return Err(KeyRingError { problem });
        }
        serde_json::from_slice(text).map_err(|error| KeyRingError { problem: error.to_string() })
    }
}

impl From<KeyRing> for StoredRing {
    fn from(ring: KeyRing) -> Self {
        let keys = ring.keys.into_iter().map(|(id, KeyRecord { created_at, state })| {
            let (state, wrapped, retired_at) = match state {
                KeyState::Active(wrapped) => (StoredState::Active, Some(wrapped), None),
                KeyState::DecryptOnly(wrapped) => (StoredState::DecryptOnly, Some(wrapped), None),
                KeyState::Retired(at) => (StoredState::Retired, None, Some(at)),
            };
            StoredKey { id, created_at, state, wrapped, retired_at }
        });
        Self {
            format: Format,
            workspace: ring.workspace,
            revision: ring.revision,
            keys: keys.collect(),
            rewrap: ring.rewrap,
        }
    }
}

impl TryFrom<StoredRing> for KeyRing {
    type Error = String;

    fn try_from(stored: StoredRing) -> Result<Self, String> {
        let StoredRing { format: Format, workspace, revision, keys: stored_keys, rewrap } = stored;
        if stored_keys.len() > MAX_LIVE_KEYS + MAX_RETIRED_KEYS {
            return Err(format!("it has {} keys", stored_keys.len()));
        }
        // The next change counts on.
        if revision == 0 || revision == u64::MAX {
            return Err(format!("its revision is {revision}"));
        }
        let mut keys = BTreeMap::new();
        for StoredKey { id, created_at, state, wrapped, retired_at } in stored_keys {
            let state = match (state, wrapped, retired_at) {
                (StoredState::Active, Some(wrapped), None) => KeyState::Active(wrapped),
                (StoredState::DecryptOnly, Some(wrapped), None) => KeyState::DecryptOnly(wrapped),
                (StoredState::Retired, None, Some(at)) => KeyState::Retired(at),
                _ => return Err(format!("the state of {id} does not fit its other fields")),
            };
            if state.wrapped().is_some_and(|wrapped| wrapped.ciphertext.len() > MAX_WRAPPED_BYTES) {
                return Err(format!(
                    "the wrapping of {id} has more than {MAX_WRAPPED_BYTES} bytes"
                ));
            }
            if keys.insert(id, KeyRecord { created_at, state }).is_some() {
                return Err(format!("{id} is in it twice"));
            }
        }
        let is_active = |record: &&KeyRecord| matches!(record.state, KeyState::Active(_));
        let active = keys.values().filter(is_active).count();
        if active != 1 {
            return Err(format!("{active} of its keys are active"));
        }
        let live = |id: &DataKeyId| keys.get(id).is_some_and(|key| key.state.wrapped().is_some());
        if let Some(rewrap) = &rewrap
            && (rewrap.pending.is_empty() || !rewrap.pending.iter().all(live))
        {
            return Err("it is to re-wrap keys that it does not have".to_owned());
        }
        Ok(Self { workspace, revision, keys, rewrap })
    }
}

// === impl KeyState ===

impl KeyState {
    /// The wrapping of a key that opens something.
    pub const fn wrapped(&self) -> Option<&WrappedKey> {
        match self {
            Self::Active(wrapped) | Self::DecryptOnly(wrapped) => Some(wrapped),
            Self::Retired(_) => None,
        }
    }

    /// The state as the stored form has it: `active`, `decrypt-only` or `retired`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Active(_) => "active",
            Self::DecryptOnly(_) => "decrypt-only",
            Self::Retired(_) => "retired",
        }
    }
}
