//! Sealing and opening the secrets of one workspace, and the changes of its keys.

use std::collections::{BTreeMap, BTreeSet};

use aa_protocol::{Timestamp, WorkspaceId};

use crate::{
    DataKey, DataKeyId, KeyRing, KeyState, MAX_WRAPPED_BYTES, MasterKey, MasterKeyError,
    MasterKeyId, SealedSecret, SecretName, SecretValue, TooManyKeys, WrapContext, WrappedKey,
    cipher, random::RandomError, sealed_secret::binding,
};

/// The open key ring of a workspace.
///
/// A vault changes nothing by itself. What has to last is given back as a value, [`KeyRing`] or
/// [`SealedSecret`]; its keeper makes it durable, each in one write, and only then hands a changed ring to
/// [`Vault::adopt`]. So no secret is ever sealed under a key that a crash could lose.
pub struct Vault {
    ring: KeyRing,
    /// The live keys of the ring.
    keys: BTreeMap<DataKeyId, DataKey>,
}

/// A key ring that is to take the place of the present one, once it is durable.
#[must_use = "make `ring()` durable, then let the vault adopt the change"]
#[derive(Debug)]
pub struct RingChange {
    ring: KeyRing,
    /// The key that the change brings.
    fresh: Option<DataKey>,
}

/// Why a vault did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The master key did not wrap or open a data key.
    #[error(transparent)]
    MasterKey(#[from] MasterKeyError),
    /// No randomness.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The secret is of another workspace.
    #[error(transparent)]
    Foreign(#[from] ForeignSecret),
    /// The secret is not the one that was asked for.
    #[error(transparent)]
    Mismatch(#[from] SecretMismatch),
    /// The secret's key is not in the ring.
    #[error(transparent)]
    UnknownKey(#[from] UnknownDataKey),
    /// The secret does not open.
    #[error(transparent)]
    Unopenable(#[from] UnopenableSecret),
    /// The ring is full.
    #[error(transparent)]
    TooManyKeys(#[from] TooManyKeys),
    /// The change was made of another ring.
    #[error(transparent)]
    Stale(#[from] StaleChange),
    /// The master key is not the one that a rotation is under way to.
    #[error(transparent)]
    OtherTarget(#[from] OtherMasterKey),
    /// A fresh wrapping does not give back its key.
    #[error(transparent)]
    Unfaithful(#[from] UnfaithfulWrapping),
}

/// See [`VaultError::Foreign`].
#[derive(Debug, thiserror::Error)]
#[error(
    "secret `{name}` belongs to {owner}, and the vault of {workspace} was asked for it; nothing was opened"
)]
pub struct ForeignSecret {
    /// The secret.
    pub name: SecretName,
    /// Whose it is.
    pub owner: WorkspaceId,
    /// Whose vault was asked.
    pub workspace: WorkspaceId,
}

/// See [`VaultError::Mismatch`].
#[derive(Debug, thiserror::Error)]
#[error(
    "the record of secret `{name}`, version {version}, holds `{found}`, version {found_version}: the store \
     was changed from outside; restore the record from a backup"
)]
pub struct SecretMismatch {
    /// What was asked for.
    pub name: SecretName,
    /// Its version.
    pub version: u64,
    /// What was found.
    pub found: SecretName,
    /// Its version.
    pub found_version: u64,
}

/// See [`VaultError::UnknownKey`].
#[derive(Debug, thiserror::Error)]
#[error(
    "secret `{name}` is sealed under data key {key}, which {state}; restore secret and key ring from the \
     same backup"
)]
pub struct UnknownDataKey {
    /// The secret.
    pub name: SecretName,
    /// Its key.
    pub key: DataKeyId,
    /// What the ring says of the key.
    pub state: &'static str,
}

/// See [`VaultError::Unopenable`].
#[derive(Debug, thiserror::Error)]
#[error(
    "secret `{name}`, version {version}, does not open under data key {key}: it was made for another place \
     or is damaged; restore it from a backup or set it anew (`aasm secret set {name}`)"
)]
pub struct UnopenableSecret {
    /// The secret.
    pub name: SecretName,
    /// Its version.
    pub version: u64,
    /// Its key.
    pub key: DataKeyId,
}

/// See [`VaultError::Stale`].
#[derive(Debug, thiserror::Error)]
#[error(
    "a key ring of revision {offered} cannot follow revision {present} of {workspace}; make the change anew"
)]
pub struct StaleChange {
    /// Whose ring it is.
    pub workspace: WorkspaceId,
    /// The vault's revision.
    pub present: u64,
    /// The change's revision.
    pub offered: u64,
}

/// See [`VaultError::OtherTarget`].
#[derive(Debug, thiserror::Error)]
#[error(
    "the keys of {workspace} are {under_way}, but the master key configured now is {configured}; begin a \
     rotation to that one (`aasm secret rotate-master`)"
)]
pub struct OtherMasterKey {
    /// Whose ring it is.
    pub workspace: WorkspaceId,
    /// What is under way.
    pub under_way: String,
    /// The key that would wrap.
    pub configured: MasterKeyId,
}

/// See [`VaultError::Unfaithful`].
#[derive(Debug, thiserror::Error)]
#[error(
    "{provider} made a wrapping of data key {key} that {problem}; it is not used and what was stored before \
     still holds; check the key service before anything relies on it"
)]
pub struct UnfaithfulWrapping {
    /// What wrapped it.
    pub provider: String,
    /// The key.
    pub key: DataKeyId,
    /// What is wrong with the wrapping.
    pub problem: &'static str,
}

// === impl Vault ===

impl Vault {
    /// The first ring of a workspace, with one data key.
    ///
    /// # Errors
    /// The master key did not wrap the data key or does not give it back, or there is no randomness.
    pub async fn create(
        workspace: WorkspaceId,
        now: Timestamp,
        master: &dyn MasterKey,
    ) -> Result<RingChange, VaultError> {
        let key = DataKey::random(now)?;
        let id = key.id();
        let context = WrapContext { workspace, data_key: id };
        let wrapped = master.wrap(&key, &context).await?;
        verify(master, &wrapped, &context, &key).await?;
        Ok(RingChange { ring: KeyRing::new(workspace, id, now, wrapped), fresh: Some(key) })
    }

    /// The vault of a first ring that is durable.
    pub fn found(first: RingChange) -> Self {
        let keys = first.fresh.into_iter().map(|key| (key.id(), key)).collect();
        Self { ring: first.ring, keys }
    }

    /// Opens a stored ring.
    ///
    /// # Errors
    /// The master key did not open one of its keys.
    pub async fn open_ring(ring: KeyRing, master: &dyn MasterKey) -> Result<Self, VaultError> {
        let mut keys = BTreeMap::new();
        for (id, wrapped) in ring.live() {
            keys.insert(id, master.unwrap(wrapped, &ring.context(id)).await?);
        }
        Ok(Self { ring, keys })
    }

    /// The ring as it is now.
    pub const fn ring(&self) -> &KeyRing {
        &self.ring
    }

    /// Whether the system keeps all keys out of swap.
    pub fn is_locked(&self) -> bool {
        self.keys.values().all(DataKey::is_locked)
    }

    /// Seals a value under the active key. `version` counts the values of a name; a name and version are
    /// sealed with one value only.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn seal(
        &self,
        name: &SecretName,
        version: u64,
        value: &SecretValue,
    ) -> Result<SealedSecret, VaultError> {
        let (workspace, id) = (self.ring.workspace(), self.ring.active());
        let key = self.keys.get(&id).expect("INVARIANT: a vault holds the live keys of its ring");
        let data = binding(workspace, name, version, id);
        let sealed = cipher::seal(key.key(), &data, value.expose())?;
        Ok(SealedSecret::new(workspace, name.clone(), version, id, sealed))
    }

    /// Opens what was stored as `version` of `name`.
    ///
    /// # Errors
    /// The record is of another workspace, name or version, its key is not in the ring, or it does not open.
    pub fn open(
        &self,
        name: &SecretName,
        version: u64,
        secret: &SealedSecret,
    ) -> Result<SecretValue, VaultError> {
        if secret.name() != name || secret.version() != version {
            let (found, found_version) = (secret.name().clone(), secret.version());
            return Err(SecretMismatch { name: name.clone(), version, found, found_version }.into());
        }
        self.check_owner(secret)?;
        let id = secret.key();
        let Some(key) = self.keys.get(&id) else {
            let state = match self.ring.key(id).map(|record| &record.state) {
                Some(KeyState::Retired(_)) => "is retired",
                _ => "its key ring does not know",
            };
            return Err(UnknownDataKey { name: name.clone(), key: id, state }.into());
        };
        let unopenable = || UnopenableSecret { name: name.clone(), version, key: id };
        let data = binding(self.ring.workspace(), name, version, id);
        let value = cipher::open(key.key(), &data, secret.sealed()).map_err(|_| unopenable())?;
        Ok(SecretValue::from_zeroizing(value).map_err(|_| unopenable())?)
    }

    /// The same value of the same name and version under the active key; `None` when it is that already.
    ///
    /// # Errors
    /// As [`Vault::open`] and [`Vault::seal`].
    pub fn reseal(&self, secret: &SealedSecret) -> Result<Option<SealedSecret>, VaultError> {
        self.check_owner(secret)?;
        if secret.key() == self.ring.active() {
            return Ok(None);
        }
        let value = self.open(secret.name(), secret.version(), secret)?;
        self.seal(secret.name(), secret.version(), &value).map(Some)
    }

    /// A ring with a fresh active key; the one before it only opens from now on.
    ///
    /// # Errors
    /// The ring is full, the master key did not wrap the fresh key or does not give it back, or there is no
    /// randomness.
    pub async fn rotate(
        &self,
        now: Timestamp,
        master: &dyn MasterKey,
    ) -> Result<RingChange, VaultError> {
        let key = DataKey::random(now)?;
        let id = key.id();
        let context = self.ring.context(id);
        let wrapped = master.wrap(&key, &context).await?;
        verify(master, &wrapped, &context, &key).await?;
        Ok(RingChange { ring: self.ring.with_active(id, now, wrapped)?, fresh: Some(key) })
    }

    /// A ring in which all live keys are to be wrapped anew, under the key that `master` wraps with. Asked for
    /// while that is under way, it begins again.
    ///
    /// Whoever had the old master key and the old ring has the data keys too. After a compromise follow it
    /// with [`Vault::rotate`].
    pub fn rotate_master(&self, master: &dyn MasterKey) -> RingChange {
        RingChange { ring: self.ring.with_rewrap(master.id()), fresh: None }
    }

    /// A ring in which `id` is wrapped anew; `None` when it need not be.
    ///
    /// # Errors
    /// `master` is not the key that the rotation is to, did not wrap the key or does not give it back.
    pub async fn rewrap(
        &self,
        id: DataKeyId,
        master: &dyn MasterKey,
    ) -> Result<Option<RingChange>, VaultError> {
        let Some(rewrap) = self.ring.rewrap() else { return Ok(None) };
        let (true, Some(key)) = (rewrap.pending.contains(&id), self.keys.get(&id)) else {
            return Ok(None);
        };
        let other = |configured: MasterKeyId| OtherMasterKey {
            workspace: self.ring.workspace(),
            under_way: format!("on their way to {}", rewrap.target),
            configured,
        };
        if master.id() != rewrap.target {
            return Err(other(master.id()).into());
        }
        let context = self.ring.context(id);
        let wrapped = master.wrap(key, &context).await?;
        if wrapped.master != rewrap.target {
            return Err(other(wrapped.master).into());
        }
        verify(master, &wrapped, &context, key).await?;
        Ok(Some(RingChange { ring: self.ring.with_wrapping(id, wrapped), fresh: None }))
    }

    /// A ring without the keys that opened nothing of `secrets`, which must be **all** stored secrets of the
    /// workspace; `None` when each key is needed.
    ///
    /// # Errors
    /// A secret is of another workspace: the list is not what it should be.
    pub fn retire<'a>(
        &self,
        now: Timestamp,
        secrets: impl IntoIterator<Item = &'a SealedSecret>,
    ) -> Result<Option<RingChange>, VaultError> {
        let mut unused: BTreeSet<_> = self.keys.keys().copied().collect();
        unused.remove(&self.ring.active());
        for secret in secrets {
            self.check_owner(secret)?;
            unused.remove(&secret.key());
        }
        if unused.is_empty() {
            return Ok(None);
        }
        Ok(Some(RingChange { ring: self.ring.with_retired(&unused, now), fresh: None }))
    }

    /// Goes on with a changed ring that is durable.
    ///
    /// # Errors
    /// The change was not made of the present ring. The vault stays as it was.
    pub fn adopt(&mut self, change: RingChange) -> Result<(), VaultError> {
        let (present, offered) = (self.ring.revision(), change.ring.revision());
        let workspace = self.ring.workspace();
        if change.ring.workspace() != workspace || offered != present + 1 {
            return Err(StaleChange { workspace, present, offered }.into());
        }
        self.keys.extend(change.fresh.map(|key| (key.id(), key)));
        let ring = change.ring;
        self.keys.retain(|id, _| ring.key(*id).is_some_and(|key| key.state.wrapped().is_some()));
        self.ring = ring;
        Ok(())
    }

    fn check_owner(&self, secret: &SealedSecret) -> Result<(), ForeignSecret> {
        let (owner, workspace) = (secret.workspace(), self.ring.workspace());
        if owner == workspace {
            return Ok(());
        }
        Err(ForeignSecret { name: secret.name().clone(), owner, workspace })
    }
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("ring", &self.ring).finish_non_exhaustive()
    }
}

// === impl RingChange ===

impl RingChange {
    /// What has to be durable before the change is adopted.
    pub const fn ring(&self) -> &KeyRing {
        &self.ring
    }
}

/// A wrapping is relied on only once it gave the key back: after the write it may be the only one.
async fn verify(
    master: &dyn MasterKey,
    wrapped: &WrappedKey,
    context: &WrapContext,
    key: &DataKey,
) -> Result<(), VaultError> {
    let problem = if wrapped.ciphertext.len() > MAX_WRAPPED_BYTES {
        "is longer than any should be"
    } else if master.unwrap(wrapped, context).await?.equals(key) {
        return Ok(());
    } else {
        "opens as another key"
    };
    Err(UnfaithfulWrapping { provider: master.describe(), key: key.id(), problem }.into())
}
