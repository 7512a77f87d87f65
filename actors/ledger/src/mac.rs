//! The message authentication code of entries: HMAC-SHA256 under a key with a rotating id.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::{
    format::MAX_MAC_KEY_ID,
    hash::{LeafHasher, read_hex},
};

/// The fewest bytes of a secret: the output length of the hash (RFC 2104 §3).
pub const MIN_SECRET_BYTES: usize = 32;

/// A key that authenticates entries. Its secret is wiped on drop and shown nowhere.
#[derive(Clone)]
pub struct MacKey {
    id: String,
    /// The state after the key block, so that each entry saves hashing it; its memory is as secret as
    /// the key's and wiped like it.
    keyed: Hmac<Sha256>,
}

/// Why a key was not accepted. It never shows the secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacKeyError {
    /// The id is not of the form that entries carry.
    #[error("`{0}` is not a MAC key id; use 1 to 32 of a-z, 0-9, `_` and `-`")]
    Id(String),
    /// The secret is shorter than [`MIN_SECRET_BYTES`].
    #[error("the secret of MAC key `{id}` has {bytes} bytes; it needs at least {MIN_SECRET_BYTES}")]
    Short {
        /// The key's id.
        id: String,
        /// The length of the secret.
        bytes: usize,
    },
}

// === impl MacKey ===

impl MacKey {
    /// Makes a key of an id (1 to 32 of `a`–`z`, `0`–`9`, `_`, `-`) and a secret.
    ///
    /// # Errors
    /// The id has another form, or the secret has fewer than [`MIN_SECRET_BYTES`] bytes.
    pub fn new(id: &str, secret: &[u8]) -> Result<Self, MacKeyError> {
        let well_formed = (1..=MAX_MAC_KEY_ID).contains(&id.len())
            && id.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
        if !well_formed {
            return Err(MacKeyError::Id(id.chars().take(64).collect()));
        }
        let short = || MacKeyError::Short { id: id.to_owned(), bytes: secret.len() };
        if secret.len() < MIN_SECRET_BYTES {
            return Err(short());
        }
        let keyed = Hmac::new_from_slice(secret).map_err(|_| short())?;
        Ok(Self { id: id.to_owned(), keyed })
    }

    /// The id that entries carry.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether `line`, an entry without its line feed, carries this key's id and its right code.
    pub fn authenticates(&self, line: &[u8]) -> bool {
        const HEX: usize = 64;
        let Some(tail) = line.len().checked_sub(HEX + self.id.len() + 11) else { return false };
        let (body, mac) = line.split_at(tail);
        let Some(code) = std::str::from_utf8(mac)
            .ok()
            .and_then(|mac| mac.strip_prefix(",\"mac\":\""))
            .and_then(|mac| mac.strip_prefix(self.id.as_str()))
            .and_then(|mac| mac.strip_prefix(':'))
            .and_then(|mac| mac.strip_suffix("\"}"))
            .and_then(read_hex::<32>)
        else {
            return false;
        };
        self.code_and_leaf(body).0.ct_eq(&code).into()
    }

    /// The code of an entry of which `body` is all before `,"mac":`, and the leaf hash of the entry, which
    /// has taken in the body.
    pub(crate) fn code_and_leaf(&self, body: &[u8]) -> ([u8; 32], LeafHasher) {
        /// The block of SHA-256.
        const BLOCK: usize = 64;
        let mut mac = self.keyed.clone();
        let mut leaf = LeafHasher::new();
        // Each step of a hash waits for the one before. Of two independent hashes that take a block in
        // turn, the processor overlaps the steps; blocks that begin where the hash's own do are not
        // copied, and the leaf's are one byte ahead by its prefix.
        let (lead, rest) = body.split_at(body.len().min(BLOCK - 1));
        leaf.update(lead);
        let mut leaf_blocks = rest.chunks(BLOCK);
        for block in body.chunks(BLOCK) {
            mac.update(block);
            if let Some(block) = leaf_blocks.next() {
                leaf.update(block);
            }
        }
        mac.update(b"}");
        (mac.finalize().into_bytes().into(), leaf)
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MacKey").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_shows_its_id_and_never_its_secret() {
        let key = MacKey::new("k1", &[0x41; 32]).unwrap();
        assert_eq!(format!("{key:?}"), "MacKey { id: \"k1\", .. }");
    }

    #[test]
    fn a_short_secret_and_an_odd_id_are_refused() {
        assert_eq!(
            MacKey::new("k1", &[1; 31]).unwrap_err(),
            MacKeyError::Short { id: "k1".into(), bytes: 31 }
        );
        for id in ["", "K1", "a:b", &"k".repeat(33)] {
            assert_eq!(MacKey::new(id, &[1; 32]).unwrap_err(), MacKeyError::Id(id.into()));
        }
    }
}
