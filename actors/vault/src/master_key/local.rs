//! A master key whose bytes are in this process.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{MasterKeyError, MasterKeyId, WrapContext, WrappedKey};
use crate::{DataKey, cipher, locked_key::LockedKey};

/// A 256-bit key and its name.
pub(crate) struct LocalKey {
    id: MasterKeyId,
    key: LockedKey,
}

// === impl LocalKey ===

impl LocalKey {
    pub(crate) fn new(id: MasterKeyId, bytes: &Zeroizing<[u8; 32]>) -> Self {
        Self { id, key: LockedKey::new(bytes) }
    }

    pub(crate) const fn id(&self) -> &MasterKeyId {
        &self.id
    }

    pub(crate) fn wrap(
        &self,
        key: &DataKey,
        context: &WrapContext,
    ) -> Result<WrappedKey, MasterKeyError> {
        let data = context.associated_data(&self.id);
        let ciphertext = cipher::seal(&self.key, &data, key.expose())?;
        Ok(WrappedKey { master: self.id.clone(), ciphertext })
    }

    pub(crate) fn unwrap(
        &self,
        wrapped: &WrappedKey,
        context: &WrapContext,
    ) -> Result<DataKey, MasterKeyError> {
        let data = context.associated_data(&self.id);
        let bytes = cipher::open(&self.key, &data, &wrapped.ciphertext)
            .map_err(|_| context.unopenable(&self.id))?;
        let mut key = Zeroizing::new([0; 32]);
        if bytes.len() != key.len() {
            return Err(context.unopenable(&self.id));
        }
        key.copy_from_slice(&bytes);
        Ok(DataKey::from_bytes(context.data_key, &key))
    }
}

impl fmt::Debug for LocalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// 64 bits that tell one key from another and say nothing of it: HMAC-SHA256 under the key.
pub(crate) fn fingerprint(key: &[u8; 32]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(b"agent-assembly master key id");
    mac.finalize().into_bytes()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}
