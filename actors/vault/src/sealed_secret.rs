//! A secret as it is stored.

use aa_protocol::WorkspaceId;
use serde::{Deserialize, Serialize};

use crate::{
    DataKeyId, MAX_SECRET_BYTES, SecretName, cipher,
    encoding::{Format, associated_data, base64url},
};

/// A secret under a data key: what may be stored, backed up and shown.
///
/// Associated data binds it to its format, workspace, name, version and data key: moved to another place it
/// does not open. Its length tells the length of the secret. Whoever can write to the store can put an older
/// version in the place of a newer; the keeper of the vault says which version it expects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedSecret {
    format: Format,
    workspace: WorkspaceId,
    name: SecretName,
    version: u64,
    key: DataKeyId,
    /// Nonce, ciphertext and tag.
    #[serde(rename = "box", with = "base64url")]
    sealed: Vec<u8>,
}

/// Stored text that is not a sealed secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stored secret is damaged: {problem}; restore it from a backup")]
pub struct SealedSecretError {
    /// What is wrong, and where in the text.
    pub problem: String,
}

/// The longest stored form, in bytes: base64 of the longest secret, and 1 KiB for the rest. It stays below
/// the 100 kB that a value of the store may have.
pub const MAX_SEALED_BYTES: usize = (MAX_SECRET_BYTES + cipher::OVERHEAD).div_ceil(3) * 4 + 1024;
const _: () = assert!(MAX_SEALED_BYTES < 100_000);

// === impl SealedSecret ===

impl SealedSecret {
    pub(crate) fn new(
        workspace: WorkspaceId,
        name: SecretName,
        version: u64,
        key: DataKeyId,
        sealed: Vec<u8>,
    ) -> Self {
        Self { format: Format, workspace, name, version, key, sealed }
    }

    /// Whose it is.
    pub const fn workspace(&self) -> WorkspaceId {
        self.workspace
    }

    /// What it is called.
    pub const fn name(&self) -> &SecretName {
        &self.name
    }

    /// Which value of that name it is.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The data key that opens it.
    pub const fn key(&self) -> DataKeyId {
        self.key
    }

    pub(crate) fn sealed(&self) -> &[u8] {
        &self.sealed
    }

    /// The stored form.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a struct of strings and numbers has a JSON form")
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// The text is longer than [`MAX_SEALED_BYTES`], or not that of [`SealedSecret::to_json`].
    pub fn from_json(text: &[u8]) -> Result<Self, SealedSecretError> {
        if text.len() > MAX_SEALED_BYTES {
            let problem =
                format!("it has {} bytes, at most {MAX_SEALED_BYTES} are read", text.len());
            return Err(SealedSecretError { problem });
        }
        serde_json::from_slice(text)
            .map_err(|error| SealedSecretError { problem: error.to_string() })
    }
}

/// What binds a sealed secret to its place.
pub(crate) fn binding(
    workspace: WorkspaceId,
    name: &SecretName,
    version: u64,
    key: DataKeyId,
) -> Vec<u8> {
    associated_data(
        "agent-assembly secret",
        &[&workspace.to_ascii(), name.as_str().as_bytes(), &version.to_be_bytes(), &key.to_bytes()],
    )
}
