//! What the store holds of a secret, and what may be told of it.

use std::borrow::Cow;

use aa_protocol::Timestamp;
use aa_vault::{DataKeyId, MasterKeyId, SealedSecret, SecretName, rotation::RotationProgress};
use serde::{Deserialize, Serialize};

use crate::release::Release;

/// A secret as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretRecord {
    /// The value, sealed.
    pub sealed: SealedSecret,
    /// When the name was first used.
    pub created_at: Timestamp,
    /// When it was last set.
    pub updated_at: Timestamp,
    /// Who did: `key:<id>`.
    pub updated_by: String,
    /// Where proxies may send it; nowhere without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
}

/// What may be told of a secret: all but what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretStatus {
    /// What it is called.
    pub name: SecretName,
    /// Which value it has: numbers grow with every value that is set in the workspace.
    pub version: u64,
    /// The data key it is sealed under.
    pub key: DataKeyId,
    /// When the name was first used.
    pub created_at: Timestamp,
    /// When it was last set.
    pub updated_at: Timestamp,
    /// Who did: `key:<id>`.
    pub updated_by: String,
    /// Where proxies may send it; nowhere without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
}

/// What may be told of a data key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataKeyStatus {
    /// The key.
    pub id: DataKeyId,
    /// `active`, `decrypt-only` or `retired`.
    pub state: Cow<'static, str>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The master key that it is wrapped under, unless it is retired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<MasterKeyId>,
}

/// The secrets of a workspace and the keys they are kept under.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VaultStatus {
    /// By name.
    pub secrets: Vec<SecretStatus>,
    /// The oldest first; none before the first secret.
    pub keys: Vec<DataKeyStatus>,
    /// What rotations have still to do.
    pub progress: RotationProgress,
    /// Where the master key is kept.
    pub master: String,
}

/// The most secrets of a workspace.
pub const MAX_SECRETS: usize = 1_000;

/// The most that all secrets of a workspace have together, sealed, in bytes.
pub const MAX_SECRETS_BYTES: usize = 8 << 20;

// === impl SecretRecord ===

impl SecretRecord {
    /// What may be told of it.
    pub fn status(&self) -> SecretStatus {
        let Self { sealed, created_at, updated_at, updated_by, release } = self;
        SecretStatus {
            name: sealed.name().clone(),
            version: sealed.version(),
            key: sealed.key(),
            created_at: *created_at,
            updated_at: *updated_at,
            updated_by: updated_by.clone(),
            release: release.clone(),
        }
    }
}
