//! API keys: how applications and operators prove who they are.

use std::fmt;

use aa_protocol::{Timestamp, WorkspaceId};
use aa_runtime::Entropy;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::permission::Grant;

/// Keys in use per workspace at most.
pub const MAX_KEYS: usize = 1_000;

/// Keys per workspace that are listed, revoked ones included.
pub(crate) const MAX_KEYS_EVER: usize = 100_000;

/// An API key: `aak_<id>_<secret>`, the id 10 lower-case letters and digits, the secret 256 random bits in
/// base64url. It is shown once, when it is made; only its SHA-256 is stored, which for 256 random bits
/// needs no stretching.
#[derive(Clone)]
pub struct ApiKey(Zeroizing<String>);

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// The part of the key that may be shown.
    pub id: String,
    /// The workspace it opens.
    pub workspace: WorkspaceId,
    /// What it is for, in its maker's words.
    pub name: String,
    /// What it may do.
    pub grant: Grant,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it: `key:<id>`, or `setup`.
    pub created_by: String,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
    /// SHA-256 of the key, lower-case hex.
    pub digest: String,
}

/// The longest text that is looked at as a key.
const MAX_LENGTH: usize = 128;

// === impl ApiKey ===

impl ApiKey {
    /// A new key and its id.
    pub fn generate(entropy: &dyn Entropy) -> (String, Self) {
        const ALPHABET: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz023456789";
        let mut random = [0; 10];
        entropy.fill(&mut random);
        let id: String =
            random.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect();
        let mut secret = Zeroizing::new([0; 32]);
        entropy.fill(&mut *secret);
        let encoded = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(*secret));
        let key = Zeroizing::new(format!("aak_{id}_{}", encoded.as_str()));
        (id, Self(key))
    }

    /// Reads a key as a caller presents it; `None` when it cannot be one.
    pub fn parse(text: &str) -> Option<Self> {
        let plausible = text.len() <= MAX_LENGTH && text.starts_with("aak_");
        plausible.then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// What a key is stored and found under. The search is by this digest, so its timing tells nothing
    /// of the key.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }

    /// The whole key, to be shown to its owner once.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub(crate) fn digest_hex(&self) -> String {
        self.digest().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

// === impl KeyRecord ===

impl KeyRecord {
    pub(crate) fn digest_bytes(&self) -> Option<[u8; 32]> {
        if self.digest.len() != 64 || !self.digest.is_ascii() {
            return None;
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&self.digest[2 * index..2 * index + 2], 16).ok()?;
        }
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use aa_runtime::SystemEntropy;

    use super::*;

    #[test]
    fn a_key_reads_back_and_never_prints() {
        let (id, key) = ApiKey::generate(&SystemEntropy);
        assert!(key.expose().starts_with(&format!("aak_{id}_")));
        assert_eq!(ApiKey::parse(key.expose()).unwrap().digest(), key.digest());
        assert_eq!(format!("{key:?}"), "ApiKey(…)");
        assert!(ApiKey::parse("sk-something").is_none());
        assert!(ApiKey::parse(&"aak_".repeat(100)).is_none());
    }
}
