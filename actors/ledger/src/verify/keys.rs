//! The keys an auditor was given.

use aa_protocol::{JsonError, Timestamp};
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use super::{grammar::EntryView, note::LogVerifier};
use crate::format::LEAF_PREFIX;

/// Trusted keys, read from a keys file:
/// `{"log_keys":[{"key":"<verifier key>","not_before":…,"not_after":…}],
/// "mac_keys":[{"id":"k1","secret":"<hex>","not_before":…,"not_after":…}]}`.
///
/// Times are RFC 3339 and optional; a secret is optional too, since who holds it can forge entries. Of a
/// MAC key without one, only id and times are checked.
pub struct Keys {
    pub(super) log: Vec<LogKeyEntry>,
    pub(super) mac: Vec<MacKeyEntry>,
}

/// Why a keys file is not accepted. It never shows a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// It is not JSON of the form above.
    #[error("the keys file is malformed: {0}")]
    Json(#[from] JsonError),
    /// An entry of `log_keys` is not a verifier key.
    #[error("log_keys[{0}].key is not a verifier key (<name>+<id>+<base64>)")]
    LogKey(usize),
    /// A secret is not hex.
    #[error("the secret of mac_keys[{0}] is not lower-case hex")]
    Secret(usize),
    /// Two entries have the same id.
    #[error("mac_keys[{0}] repeats an id")]
    Repeated(usize),
}

pub(super) struct LogKeyEntry {
    pub(super) verifier: LogVerifier,
    pub(super) validity: Validity,
}

pub(super) struct MacKeyEntry {
    pub(super) id: String,
    keyed: Option<Hmac<Sha256>>,
    pub(super) validity: Validity,
}

/// When a key may have been used; canonical texts, both ends included.
pub(super) struct Validity {
    not_before: Option<String>,
    not_after: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    log_keys: Vec<LogKeyLine>,
    #[serde(default)]
    mac_keys: Vec<MacKeyLine>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogKeyLine {
    key: String,
    not_before: Option<Timestamp>,
    not_after: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MacKeyLine {
    id: String,
    secret: Option<String>,
    not_before: Option<Timestamp>,
    not_after: Option<Timestamp>,
}

// === impl Keys ===

impl Keys {
    /// Reads a keys file.
    ///
    /// # Errors
    /// The text is not such JSON, a key is malformed or an id repeats.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        // The derived reader takes an array for a structure, too.
        if !text.trim_start().starts_with('{') {
            let problem = "an object is expected".to_owned();
            return Err(JsonError { problem, line: 1, column: 1 }.into());
        }
        let file: File =
            serde_json::from_str(text).map_err(|error| JsonError::from_serde(&error))?;
        let mut log = Vec::with_capacity(file.log_keys.len());
        for (index, line) in file.log_keys.into_iter().enumerate() {
            let verifier = LogVerifier::parse(&line.key).ok_or(KeysError::LogKey(index))?;
            let validity = Validity::new(line.not_before, line.not_after);
            log.push(LogKeyEntry { verifier, validity });
        }
        let mut mac: Vec<MacKeyEntry> = Vec::with_capacity(file.mac_keys.len());
        for (index, line) in file.mac_keys.into_iter().enumerate() {
            let secret = line.secret.map(Zeroizing::new);
            let keyed = secret.map(|secret| keyed(&secret).ok_or(KeysError::Secret(index)));
            if mac.iter().any(|key| key.id == line.id) {
                return Err(KeysError::Repeated(index));
            }
            let validity = Validity::new(line.not_before, line.not_after);
            mac.push(MacKeyEntry { id: line.id, keyed: keyed.transpose()?, validity });
        }
        Ok(Self { log, mac })
    }

    /// Whether the log key `verifier`, in its text form, is among the trusted ones and was in use at `time`.
    ///
    /// # Errors
    /// Why it is not to be believed.
    pub fn check_log_key(&self, verifier: &str, time: Timestamp) -> Result<(), String> {
        let wanted = LogVerifier::parse(verifier)
            .ok_or_else(|| format!("`{verifier}` is not a verifier key"))?;
        let known = self.log.iter().find(|key| key.verifier == wanted);
        let known =
            known.ok_or_else(|| format!("the keys file does not have the key {verifier}"))?;
        let problem = known.validity.problem(&time.to_string());
        problem.map_or(Ok(()), |problem| Err(format!("the key {verifier} {problem}")))
    }

    pub(super) fn mac_key(&self, id: &str) -> Option<&MacKeyEntry> {
        self.mac.iter().find(|key| key.id == id)
    }
}

fn keyed(secret: &str) -> Option<Hmac<Sha256>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).filter(|_| !byte.is_ascii_uppercase());
    let (pairs, odd) = secret.as_bytes().as_chunks::<2>();
    let mut bytes = Zeroizing::new(Vec::with_capacity(pairs.len()));
    for &[high, low] in pairs {
        let mut byte = digit(high)? << 4 | digit(low)?;
        bytes.push(byte as u8);
        byte.zeroize();
    }
    let usable = odd.is_empty() && !bytes.is_empty();
    if usable { Hmac::new_from_slice(&bytes).ok() } else { None }
}

// === impl MacKeyEntry ===

impl MacKeyEntry {
    /// Whether the entry's MAC is its code, and its leaf hash; `None` without the secret.
    pub(super) fn authenticates(
        &self,
        line: &[u8],
        view: &EntryView<'_>,
    ) -> Option<(bool, [u8; 32])> {
        const BLOCK: usize = 64;
        let mut hmac = self.keyed.clone()?;
        // Both hashes take a block in turn, the leaf's one byte earlier for its prefix: the processor
        // works on the two at once.
        let (body, tail) = line.split_at(view.authenticated);
        let (lead, rest) = body.split_at(body.len().min(BLOCK - 1));
        let mut leaf = Sha256::new_with_prefix([LEAF_PREFIX]);
        Digest::update(&mut leaf, lead);
        let mut leaf_blocks = rest.chunks(BLOCK);
        for block in body.chunks(BLOCK) {
            Mac::update(&mut hmac, block);
            if let Some(block) = leaf_blocks.next() {
                Digest::update(&mut leaf, block);
            }
        }
        Mac::update(&mut hmac, b"}");
        Digest::update(&mut leaf, tail);
        let expected: [u8; 32] = hmac.finalize().into_bytes().into();
        Some((expected.ct_eq(&view.mac).into(), leaf.finalize().into()))
    }
}

// === impl Validity ===

impl Validity {
    fn new(not_before: Option<Timestamp>, not_after: Option<Timestamp>) -> Self {
        let text = |time: Timestamp| time.to_string();
        Self { not_before: not_before.map(text), not_after: not_after.map(text) }
    }

    /// What is wrong with a use at `time`, a canonical text.
    pub(super) fn problem(&self, time: &str) -> Option<String> {
        let early = self.not_before.as_deref().filter(|start| time < *start);
        self.retired_before(time)
            .or_else(|| early.map(|start| format!("is valid from {start}, after {time}")))
    }

    /// What is wrong with a use that cannot have been before `time`.
    pub(super) fn retired_before(&self, time: &str) -> Option<String> {
        let end = self.not_after.as_deref().filter(|end| time > *end);
        end.map(|end| format!("was retired at {end}, before {time}"))
    }
}
