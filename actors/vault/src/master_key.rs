//! Keys that wrap data keys, and where they are kept.

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc};

use aa_protocol::{Timestamp, WorkspaceId};
use async_trait::async_trait;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

pub use self::file_keeper::FileKeeper;
use crate::{
    DataKey, DataKeyId,
    encoding::{associated_data, base64url},
    random::RandomError,
};

#[cfg(feature = "aws-kms")]
pub mod aws_kms;
pub mod env;
pub mod file;
mod file_keeper;
#[cfg(any(feature = "aws-kms", feature = "transit"))]
pub mod key_service;
mod local;
#[cfg(feature = "pkcs11")]
pub mod pkcs11;
#[cfg(feature = "transit")]
pub mod transit;

/// The longest id of a master key, in bytes.
pub const MAX_MASTER_KEY_ID: usize = 256;

/// The longest wrapping of a data key, in bytes; AWS KMS, whose are the longest, stays below 1 KiB.
pub const MAX_WRAPPED_BYTES: usize = 2048;

/// Names a master key: its provider, a colon, and its name there. 3 to [`MAX_MASTER_KEY_ID`] printable
/// ASCII characters, no spaces.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MasterKeyId(Box<str>);

/// A text that is not the form of a master key's id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a master key id; it has the form provider:name, of at most {MAX_MASTER_KEY_ID} \
     printable characters without spaces"
)]
pub struct MasterKeyIdError(String);

/// What a wrapping is bound to: it opens for this data key of this workspace only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrapContext {
    /// Whose key it is.
    pub workspace: WorkspaceId,
    /// Which key it is.
    pub data_key: DataKeyId,
}

/// A data key under a master key. It may be stored and shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrappedKey {
    /// The master key that opens it.
    pub master: MasterKeyId,
    /// What its provider made; only the provider can read it.
    #[serde(with = "base64url")]
    pub ciphertext: Vec<u8>,
}

/// Wraps data keys and opens their wrappings.
///
/// A contract for providers: `open(wrap(key, context), context)` gives the key; any other context, a changed
/// wrapping or one of another key gives [`MasterKeyError::Unopenable`]. A call ends within a bound of the
/// provider's own. An error holds neither the key nor what gives access to the provider.
#[async_trait]
pub trait MasterKey: Send + Sync {
    /// The key that [`MasterKey::wrap`] uses now.
    fn id(&self) -> MasterKeyId;

    /// Whether [`MasterKey::unwrap`] can open what `id` wrapped.
    fn opens(&self, id: &MasterKeyId) -> bool {
        self.id() == *id
    }

    /// Where the key is kept, for people: one line, nothing secret.
    fn describe(&self) -> String;

    /// Wraps `key` for storage.
    ///
    /// # Errors
    /// The provider refuses, does not answer or answers nonsense.
    async fn wrap(
        &self,
        key: &DataKey,
        context: &WrapContext,
    ) -> Result<WrappedKey, MasterKeyError>;

    /// Opens a wrapping.
    ///
    /// # Errors
    /// As [`MasterKey::wrap`]; and the wrapping is of another master key, of another context, or damaged.
    async fn unwrap(
        &self,
        wrapped: &WrappedKey,
        context: &WrapContext,
    ) -> Result<DataKey, MasterKeyError>;

    /// Makes the next key, which wraps from now on. Without effect where the provider's own operators do that:
    /// then they have, or wrapping anew under the same key is what is wanted.
    ///
    /// # Errors
    /// The key could not be made or kept; the present one goes on.
    fn renew(&self, _now: Timestamp) -> Result<(), MasterKeyNotRenewed> {
        Ok(())
    }

    /// Forgets keys that another took the place of before `replaced_before` and that are not among `in_use`, the
    /// master keys that the key rings of **all** workspaces name. The time must be early enough that whatever was
    /// being wrapped then is in its ring by the time the rings are read.
    ///
    /// # Errors
    /// A key could not be removed from where it is kept.
    fn forget_unused(
        &self,
        _in_use: &BTreeSet<MasterKeyId>,
        _replaced_before: Timestamp,
    ) -> Result<(), MasterKeyNotRenewed> {
        Ok(())
    }
}

/// The master key in use and the ones before it, which still open what they wrapped. For moving from one
/// provider or key to another.
pub struct MasterKeys {
    current: Arc<dyn MasterKey>,
    former: Vec<Arc<dyn MasterKey>>,
}

/// Why a master key did not wrap or open a data key.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    /// The wrapping is of a master key that is not at hand.
    #[error(transparent)]
    Unknown(#[from] UnknownMasterKey),
    /// The wrapping does not open for this data key of this workspace.
    #[error(transparent)]
    Unopenable(#[from] UnopenableWrapping),
    /// The provider said no, and will say so again.
    #[error(transparent)]
    Refused(#[from] MasterKeyRefused),
    /// The provider did not answer; it may later.
    #[error(transparent)]
    Unavailable(#[from] MasterKeyUnavailable),
    /// The provider's answer is not of its interface.
    #[error(transparent)]
    Answer(#[from] MasterKeyAnswer),
    /// No randomness.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The provider has no next key.
    #[error(transparent)]
    NotRenewed(#[from] MasterKeyNotRenewed),
}

/// A master key could not be renewed, or one that nothing uses not be removed.
#[derive(Debug, thiserror::Error)]
#[error("{provider} was not renewed: {problem}")]
pub struct MasterKeyNotRenewed {
    /// What was asked.
    pub provider: String,
    /// What kept it, and what to do.
    pub problem: String,
}

/// See [`MasterKeyError::Unknown`].
#[derive(Debug, thiserror::Error)]
#[error(
    "a data key is wrapped under the master key {wanted}, which {provider} does not have; configure that \
     key beside the current one until `aasm secret rotate-master` has re-wrapped all data keys"
)]
pub struct UnknownMasterKey {
    /// The key that wrapped it.
    pub wanted: MasterKeyId,
    /// What was asked.
    pub provider: String,
}

/// See [`MasterKeyError::Unopenable`].
#[derive(Debug, thiserror::Error)]
#[error(
    "the wrapping of data key {data_key} of {workspace} does not open under {master}: it was made for \
     another key or workspace, or is damaged; restore the key ring from a backup"
)]
pub struct UnopenableWrapping {
    /// The master key it names.
    pub master: MasterKeyId,
    /// The data key it was stored for.
    pub data_key: DataKeyId,
    /// The workspace it was stored for.
    pub workspace: WorkspaceId,
}

/// See [`MasterKeyError::Refused`].
#[derive(Debug, thiserror::Error)]
#[error("{provider} refused to {attempt} a data key: {problem}; {remedy}")]
pub struct MasterKeyRefused {
    /// What was asked.
    pub provider: String,
    /// `wrap` or `unwrap`.
    pub attempt: &'static str,
    /// The provider's reason.
    pub problem: String,
    /// What to do.
    pub remedy: &'static str,
}

/// See [`MasterKeyError::Unavailable`].
#[derive(Debug, thiserror::Error)]
#[error("{provider} could not {attempt} a data key: {problem}; try again when it answers")]
pub struct MasterKeyUnavailable {
    /// What was asked.
    pub provider: String,
    /// `wrap` or `unwrap`.
    pub attempt: &'static str,
    /// What happened instead.
    pub problem: String,
}

/// See [`MasterKeyError::Answer`].
#[derive(Debug, thiserror::Error)]
#[error(
    "{provider} was asked to {attempt} a data key and answered what it never should: {problem}; check \
     that the address is that of the key service"
)]
pub struct MasterKeyAnswer {
    /// What was asked.
    pub provider: String,
    /// `wrap` or `unwrap`.
    pub attempt: &'static str,
    /// What is wrong with the answer.
    pub problem: String,
}

// === impl MasterKeyId ===

impl MasterKeyId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MasterKeyId {
    type Err = MasterKeyIdError;

    fn from_str(text: &str) -> Result<Self, MasterKeyIdError> {
        let well_formed = text.len() <= MAX_MASTER_KEY_ID
            && text.bytes().all(|byte| byte.is_ascii_graphic())
            && text
                .split_once(':')
                .is_some_and(|(kind, name)| !kind.is_empty() && !name.is_empty());
        if well_formed {
            Ok(Self(text.into()))
        } else {
            Err(MasterKeyIdError(text.chars().take(64).collect()))
        }
    }
}

impl fmt::Display for MasterKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MasterKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for MasterKeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for MasterKeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

// === impl WrapContext ===

impl WrapContext {
    /// The context as associated data of a provider that takes bytes.
    pub(crate) fn associated_data(&self, master: &MasterKeyId) -> Vec<u8> {
        associated_data(
            "agent-assembly data key",
            &[
                master.as_str().as_bytes(),
                &self.workspace.to_ascii(),
                self.data_key.to_string().as_bytes(),
            ],
        )
    }

    pub(crate) fn unopenable(&self, master: &MasterKeyId) -> MasterKeyError {
        let (workspace, data_key) = (self.workspace, self.data_key);
        UnopenableWrapping { master: master.clone(), data_key, workspace }.into()
    }
}

// === impl WrappedKey ===

impl fmt::Debug for WrappedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WrappedKey").field("master", &self.master).finish_non_exhaustive()
    }
}

// === impl MasterKeys ===

impl MasterKeys {
    /// Wraps under `current`; opens with it and with `former`.
    pub fn new(current: Arc<dyn MasterKey>, former: Vec<Arc<dyn MasterKey>>) -> Self {
        Self { current, former }
    }
}

#[async_trait]
impl MasterKey for MasterKeys {
    fn id(&self) -> MasterKeyId {
        self.current.id()
    }

    fn opens(&self, id: &MasterKeyId) -> bool {
        self.current.opens(id) || self.former.iter().any(|former| former.opens(id))
    }

    fn describe(&self) -> String {
        let mut text = self.current.describe();
        for former in &self.former {
            text.push_str(", formerly ");
            text.push_str(&former.describe());
        }
        text
    }

    async fn wrap(
        &self,
        key: &DataKey,
        context: &WrapContext,
    ) -> Result<WrappedKey, MasterKeyError> {
        self.current.wrap(key, context).await
    }

    async fn unwrap(
        &self,
        wrapped: &WrappedKey,
        context: &WrapContext,
    ) -> Result<DataKey, MasterKeyError> {
        let mut all = std::iter::once(&self.current).chain(&self.former);
        match all.find(|provider| provider.opens(&wrapped.master)) {
            Some(provider) => provider.unwrap(wrapped, context).await,
            None => Err(unknown(self, &wrapped.master)),
        }
    }

    fn renew(&self, now: Timestamp) -> Result<(), MasterKeyNotRenewed> {
        self.current.renew(now)
    }

    fn forget_unused(
        &self,
        in_use: &BTreeSet<MasterKeyId>,
        replaced_before: Timestamp,
    ) -> Result<(), MasterKeyNotRenewed> {
        self.current.forget_unused(in_use, replaced_before)
    }
}

// === impl MasterKeyError ===

impl MasterKeyError {
    /// Whether the same call may succeed later without anybody changing anything.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

pub(crate) fn unknown(provider: &dyn MasterKey, wanted: &MasterKeyId) -> MasterKeyError {
    UnknownMasterKey { wanted: wanted.clone(), provider: provider.describe() }.into()
}

/// The key that a provider gave, if it is one.
#[cfg(any(feature = "aws-kms", feature = "pkcs11", feature = "transit"))]
pub(crate) fn data_key(context: &WrapContext, bytes: &[u8]) -> Option<DataKey> {
    let mut key = zeroize::Zeroizing::new([0; 32]);
    if bytes.len() != key.len() {
        return None;
    }
    key.copy_from_slice(bytes);
    Some(DataKey::from_bytes(context.data_key, &key))
}
