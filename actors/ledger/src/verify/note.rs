//! Signed checkpoints as a verifier reads them (C2SP `signed-note` and `tlog-checkpoint`).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};

use super::grammar::{hex, is_time};
use crate::format::{ED25519, TIME_LINE};

/// The public key of a log.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct LogVerifier {
    pub(super) name: String,
    id: [u8; 4],
    key: VerifyingKey,
}

/// A checkpoint whose signature has not been looked at.
#[derive(Clone)]
pub(super) struct SignedCheckpoint {
    pub(super) origin: String,
    pub(super) size: u64,
    pub(super) root: [u8; 32],
    /// Canonical text.
    pub(super) time: String,
    text: String,
    signatures: Vec<NoteSignature>,
}

#[derive(Clone)]
struct NoteSignature {
    name: String,
    id: [u8; 4],
    signature: Vec<u8>,
}

/// Why no trusted key vouches for a checkpoint.
pub(super) enum SignatureProblem {
    /// No signature is by one of the keys; the names of the signers.
    Unknown(Vec<String>),
    /// The signature by the named key is wrong.
    Forged(String),
}

// A note bears the log's signature and perhaps those of witnesses.
const MAX_SIGNATURES: usize = 16;

// === impl LogVerifier ===

impl LogVerifier {
    /// Reads `<name>+<id>+<key>`; `None` when it has another form or the id is not the key's.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (name, rest) = text.split_once('+')?;
        let (id, key) = rest.split_once('+')?;
        let id: [u8; 4] = hex(id)?;
        let typed = STANDARD.decode(key).ok()?;
        let key: &[u8; 32] = typed.strip_prefix(&[ED25519])?.try_into().ok()?;
        let mut digest = Sha256::new();
        digest.update(name.as_bytes());
        digest.update(b"\n");
        digest.update(&typed);
        let expected: [u8; 32] = digest.finalize().into();
        let key = VerifyingKey::from_bytes(key).ok()?;
        let named = !name.is_empty() && !name.contains(char::is_whitespace);
        (named && expected.starts_with(&id)).then(|| Self { name: name.to_owned(), id, key })
    }
}

// === impl SignedCheckpoint ===

impl SignedCheckpoint {
    /// Reads a note; `Err` says which part has another form.
    pub(super) fn parse(note: &str) -> Result<Self, &'static str> {
        let (body, signatures) = note.rsplit_once("\n\n").ok_or("blank line")?;
        let signatures = signatures.strip_suffix('\n').ok_or("end")?;
        let signatures: Vec<_> = signatures
            .split('\n')
            .map(NoteSignature::parse)
            .collect::<Option<_>>()
            .filter(|signatures: &Vec<_>| signatures.len() <= MAX_SIGNATURES)
            .ok_or("signature line")?;
        let mut lines = body.split('\n');
        let origin = lines.next().filter(|origin| !origin.is_empty()).ok_or("origin")?;
        let size = lines.next().ok_or("size")?;
        let size = size.parse::<u64>().ok().filter(|n| n.to_string() == size).ok_or("size")?;
        let root = lines.next().and_then(|root| STANDARD.decode(root).ok());
        let root = root.and_then(|root| root.try_into().ok()).ok_or("root")?;
        let time = lines.next().and_then(|line| line.strip_prefix(TIME_LINE));
        let time = time.filter(|time| is_time(time)).ok_or("time")?;
        if lines.next().is_some() {
            return Err("end");
        }
        Ok(Self {
            origin: origin.to_owned(),
            size,
            root,
            time: time.to_owned(),
            text: format!("{body}\n"),
            signatures,
        })
    }

    /// The first of `keys` that signed this. A wrong signature by any of them refuses the whole.
    pub(super) fn signer<'k>(
        &self,
        keys: impl Iterator<Item = &'k LogVerifier> + Clone,
    ) -> Result<&'k LogVerifier, SignatureProblem> {
        let mut signer = None;
        for signature in &self.signatures {
            let known = |key: &&LogVerifier| key.name == signature.name && key.id == signature.id;
            let Some(key) = keys.clone().find(known) else { continue };
            let valid = Signature::from_slice(&signature.signature)
                .and_then(|signature| key.key.verify_strict(self.text.as_bytes(), &signature));
            if valid.is_err() {
                return Err(SignatureProblem::Forged(key.name.clone()));
            }
            signer = signer.or(Some(key));
        }
        let names = || self.signatures.iter().map(|signature| signature.name.clone()).collect();
        signer.ok_or_else(|| SignatureProblem::Unknown(names()))
    }
}

// === impl NoteSignature ===

impl NoteSignature {
    fn parse(line: &str) -> Option<Self> {
        let (name, encoded) = line.strip_prefix("— ")?.split_once(' ')?;
        let bytes = STANDARD.decode(encoded).ok()?;
        let (id, signature) = bytes.split_first_chunk::<4>()?;
        let (name, signature) = (name.to_owned(), signature.to_vec());
        (!name.is_empty()).then_some(Self { name, id: *id, signature })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_key_is_read_and_its_manglings_are_not() {
        // The example of golang.org/x/mod/sumdb/note.
        let text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        assert!(LogVerifier::parse(text).is_some());
        for index in 0..text.len() {
            let mut mangled = text.as_bytes().to_vec();
            mangled[index] += 1;
            assert!(LogVerifier::parse(&String::from_utf8(mangled).unwrap()).is_none());
        }
    }
}
