//! Signed notes (C2SP `signed-note`) with Ed25519, the writer's side.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

use crate::{
    format::ED25519,
    hash::{read_hex, write_hex},
};

/// The key that signs a log's checkpoints. Its secret is wiped on drop and shown nowhere.
#[derive(Clone)]
pub struct LogKey {
    verifier: VerifierKey,
    signing: SigningKey,
}

/// The public part of a [`LogKey`]. Text form: `<name>+<key id in hex>+<base64 of type and key>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: [u8; 4],
    key: VerifyingKey,
}

/// A text that is not a verifier key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifierKeyError {
    /// The name is empty or holds white space, a control character or `+`.
    #[error("`{0}` is not a key name: it must not be empty or hold white space or `+`")]
    Name(String),
    /// It does not have the three parts of a verifier key.
    #[error("the verifier key is not of the form <name>+<8 hex digits>+<base64 of an Ed25519 key>")]
    Form,
    /// The key id is not the one of name and key.
    #[error("the id in the verifier key of `{0}` does not belong to its name and key")]
    Id(String),
}

/// Why a note is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// There is no blank line followed by signature lines.
    #[error("the text is not a signed note")]
    Form,
    /// No signature is by the wanted key.
    #[error("the note is not signed by the key `{0}`")]
    Unsigned(String),
    /// The key's signature is wrong.
    #[error("the signature by the key `{0}` does not match the note's text")]
    Forged(String),
}

// === impl LogKey ===

impl LogKey {
    /// Makes the key of a name and an Ed25519 seed (RFC 8032 §5.1.5). The name should be the origin of
    /// the log's checkpoints.
    ///
    /// # Errors
    /// The name is empty or holds white space, a control character or `+`.
    pub fn new(name: &str, seed: &[u8; 32]) -> Result<Self, VerifierKeyError> {
        let signing = SigningKey::from_bytes(seed);
        let verifier = VerifierKey::new(name, signing.verifying_key())?;
        Ok(Self { verifier, signing })
    }

    /// The public part.
    pub const fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// Signs a text, which must end in a line feed, and returns the note: text, blank line, signature.
    pub fn sign(&self, text: &str) -> String {
        let signature = self.signing.sign(text.as_bytes());
        let mut bytes = self.verifier.id.to_vec();
        bytes.extend_from_slice(&signature.to_bytes());
        format!("{text}\n— {} {}\n", self.verifier.name, STANDARD.encode(bytes))
    }
}

impl fmt::Debug for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogKey").field("name", &self.verifier.name).finish_non_exhaustive()
    }
}

// === impl VerifierKey ===

impl VerifierKey {
    fn new(name: &str, key: VerifyingKey) -> Result<Self, VerifierKeyError> {
        let forbidden = |c: char| c.is_whitespace() || c.is_control() || c == '+';
        if name.is_empty() || name.contains(forbidden) {
            return Err(VerifierKeyError::Name(name.chars().take(64).collect()));
        }
        let mut digest = Sha256::new();
        digest.update(name);
        digest.update([b'\n', ED25519]);
        digest.update(key.as_bytes());
        let hash: [u8; 32] = digest.finalize().into();
        let [a, b, c, d, ..] = hash;
        Ok(Self { name: name.to_owned(), id: [a, b, c, d], key })
    }

    /// The key's name, as signature lines carry it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text of a note signed by this key, its final line feed included.
    ///
    /// # Errors
    /// The note is malformed, not signed by this key, or forged.
    pub fn open<'n>(&self, note: &'n str) -> Result<&'n str, NoteError> {
        let split = note.rfind("\n\n").ok_or(NoteError::Form)?;
        let (text, signatures) = (&note[..=split], &note[split + 2..]);
        let prefix = format!("— {} ", self.name);
        for line in signatures.strip_suffix('\n').ok_or(NoteError::Form)?.split('\n') {
            let Some(encoded) = line.strip_prefix(prefix.as_str()) else { continue };
            let bytes = STANDARD.decode(encoded).map_err(|_| NoteError::Form)?;
            let Some(signature) = bytes.strip_prefix(&self.id) else { continue };
            let forged = || NoteError::Forged(self.name.clone());
            let signature = Signature::from_slice(signature).map_err(|_| forged())?;
            let valid = self.key.verify_strict(text.as_bytes(), &signature);
            return valid.map(|()| text).map_err(|_| forged());
        }
        Err(NoteError::Unsigned(self.name.clone()))
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut id = Vec::with_capacity(8);
        write_hex(&self.id, &mut id);
        let mut key = vec![ED25519];
        key.extend_from_slice(self.key.as_bytes());
        write!(f, "{}+{}+{}", self.name, String::from_utf8_lossy(&id), STANDARD.encode(key))
    }
}

impl FromStr for VerifierKey {
    type Err = VerifierKeyError;

    fn from_str(text: &str) -> Result<Self, VerifierKeyError> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(VerifierKeyError::Form);
        };
        let id = read_hex::<4>(id).ok_or(VerifierKeyError::Form)?;
        let bytes = STANDARD.decode(key).map_err(|_| VerifierKeyError::Form)?;
        let key = bytes
            .strip_prefix(&[ED25519])
            .and_then(|key| <&[u8; 32]>::try_from(key).ok())
            .and_then(|key| VerifyingKey::from_bytes(key).ok())
            .ok_or(VerifierKeyError::Form)?;
        let verifier = Self::new(name, key)?;
        if verifier.id != id {
            return Err(VerifierKeyError::Id(verifier.name));
        }
        Ok(verifier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The example of golang.org/x/mod/sumdb/note.
    const TEXT: &str = "If you think cryptography is the answer to your problem,\n\
                        then you don't know what your problem is.\n";
    const SEED: &str = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    const VERIFIER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const SIGNATURE: &str = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    fn peter() -> LogKey {
        let bytes = STANDARD.decode(SEED).unwrap();
        LogKey::new("PeterNeumann", &bytes[1..].try_into().unwrap()).unwrap()
    }

    #[test]
    fn the_published_note_is_reproduced_and_opened() {
        let note = format!("{TEXT}\n{SIGNATURE}");
        assert_eq!(peter().sign(TEXT), note);
        assert_eq!(peter().verifier().to_string(), VERIFIER);
        let verifier: VerifierKey = VERIFIER.parse().unwrap();
        assert_eq!(verifier.open(&note).unwrap(), TEXT);
    }

    #[test]
    fn a_changed_text_and_a_foreign_key_are_refused() {
        let note = peter().sign(TEXT);
        let forged = note.replace("cryptography", "cryptographY");
        let verifier = peter().verifier().clone();
        assert_eq!(verifier.open(&forged), Err(NoteError::Forged("PeterNeumann".into())));
        let other = LogKey::new("PeterNeumann", &[9; 32]).unwrap();
        let unsigned = Err(NoteError::Unsigned("PeterNeumann".into()));
        assert_eq!(other.verifier().open(&note), unsigned);
        assert_eq!(verifier.open(TEXT), Err(NoteError::Form));
    }

    #[test]
    fn a_verifier_key_with_any_character_changed_is_refused() {
        for index in 0..VERIFIER.len() {
            let mut text = VERIFIER.as_bytes().to_vec();
            text[index] += 1;
            let text = String::from_utf8(text).unwrap();
            assert!(text.parse::<VerifierKey>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_key_shows_its_name_and_never_its_seed() {
        assert_eq!(format!("{:?}", peter()), "LogKey { name: \"PeterNeumann\", .. }");
    }
}
