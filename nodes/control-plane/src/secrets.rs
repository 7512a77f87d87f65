//! The machine's secrets: files below the data directory that nobody else may read.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use aa_governance::AuditKeys;
use aa_ledger::{MacKey, MacKeyError};
use aa_protocol::Timestamp;
use aa_runtime::{Clock, Entropy};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::token::TokenKey;

/// How long one key authenticates audit entries before the next takes over.
pub const MAC_KEY_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3_600);

/// Everything the control plane keeps secret.
pub struct Secrets {
    /// For the audit log.
    pub audit: AuditKeys,
    /// For agents' tokens.
    pub token: TokenKey,
}

/// Why a secret could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file system refused.
    #[error("could not {what} {path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        error: io::Error,
    },
    /// Others can read the file.
    #[error("{path} can be read by others (mode {mode:o}); run `chmod 600 {path}`")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file does not hold what it should.
    #[error("{path} is damaged: {problem}; restore it from a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A key of the file is not usable.
    #[error("{path} is damaged: {problem}; restore it from a backup")]
    MacKeys {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: MacKeysError,
    },
}

/// The keys that authenticate audit entries, oldest first. All are kept: auditors need them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MacKeys {
    keys: Vec<StoredMacKey>,
}

/// Stored keys that are not usable.
#[derive(Debug, thiserror::Error)]
pub enum MacKeysError {
    /// They do not read.
    #[error("{0}")]
    Unreadable(String),
    /// The newest is no key.
    #[error("key {0} is not in hexadecimal")]
    NotHex(String),
    /// There is none.
    #[error("it holds no key")]
    None,
    /// The newest is too short, or has no usable id.
    #[error(transparent)]
    Key(#[from] MacKeyError),
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
struct StoredMacKey {
    #[zeroize(skip)]
    id: String,
    #[zeroize(skip)]
    created_at: Timestamp,
    secret: String,
}

/// The directory of secrets in the data directory.
pub(crate) const SECRETS: &str = "secrets";

/// The file with the keys that authenticate audit entries.
pub(crate) const MAC_KEYS: &str = "audit-mac.json";

/// The file with the seed of the audit log's signatures.
pub(crate) const LOG_SEED: &str = "audit-log.seed";

/// The file with the seed of agents' tokens.
pub(crate) const TOKEN_SEED: &str = "token.seed";

/// The largest secret file that is read.
const MAX_BYTES: u64 = 1 << 20;

impl Secrets {
    /// Reads the secrets below `directory`, making those that are missing.
    ///
    /// # Errors
    /// A file cannot be read or written, is exposed to others, or is damaged.
    pub fn open(
        directory: &Path,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
    ) -> Result<Self, SecretError> {
        let directory = directory.join(SECRETS);
        make_private_directory(&directory)?;
        let log_seed = seed(&directory.join(LOG_SEED), entropy)?;
        let mac = mac_key(&directory.join(MAC_KEYS), clock.now(), entropy)?;
        let token = TokenKey::new(&*seed(&directory.join(TOKEN_SEED), entropy)?);
        Ok(Self { audit: AuditKeys { log_seed, mac }, token })
    }
}

/// The key that authenticates audit entries from now on: the newest below `directory`, or the next one when
/// that has served its time.
///
/// # Errors
/// The file cannot be read or written, is exposed to others, or is damaged.
pub fn current_mac_key(
    directory: &Path,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<MacKey, SecretError> {
    mac_key(&directory.join(SECRETS).join(MAC_KEYS), clock.now(), entropy)
}

fn seed(path: &Path, entropy: &dyn Entropy) -> Result<Zeroizing<[u8; 32]>, SecretError> {
    let mut bytes = Zeroizing::new([0; 32]);
    match read_secret(path)? {
        Some(stored) if stored.len() == 32 => bytes.copy_from_slice(&stored),
        Some(stored) => {
            let problem = format!("it has {} bytes, not 32", stored.len());
            return Err(SecretError::Damaged { path: path.to_owned(), problem });
        }
        None => {
            entropy.fill(&mut *bytes);
            write_secret(path, &*bytes)?;
        }
    }
    Ok(bytes)
}

/// The newest key, after adding one when there is none or it has served its time.
fn mac_key(path: &Path, now: Timestamp, entropy: &dyn Entropy) -> Result<MacKey, SecretError> {
    let damaged = |problem| SecretError::MacKeys { path: path.to_owned(), problem };
    let mut keys = match read_secret(path)? {
        Some(stored) => MacKeys::from_json(&stored).map_err(damaged)?,
        None => MacKeys::none(),
    };
    if keys.add_when_due(now, entropy) {
        write_secret(path, &keys.to_json().map_err(damaged)?)?;
    }
    keys.newest().map_err(damaged)
}

// === impl MacKeys ===

impl MacKeys {
    pub(crate) const fn none() -> Self {
        Self { keys: Vec::new() }
    }

    pub(crate) fn from_json(text: &[u8]) -> Result<Self, MacKeysError> {
        serde_json::from_slice(text).map_err(|error| MacKeysError::Unreadable(error.to_string()))
    }

    pub(crate) fn to_json(&self) -> Result<Zeroizing<Vec<u8>>, MacKeysError> {
        let text = serde_json::to_vec_pretty(self);
        text.map(Zeroizing::new).map_err(|error| MacKeysError::Unreadable(error.to_string()))
    }

    /// Adds a key when there is none or the newest has served its time, and says whether it did.
    pub(crate) fn add_when_due(&mut self, now: Timestamp, entropy: &dyn Entropy) -> bool {
        let is_current = |key: &StoredMacKey| now.since(key.created_at) < MAC_KEY_LIFETIME;
        if self.keys.last().is_some_and(is_current) {
            return false;
        }
        let mut secret = Zeroizing::new([0; 32]);
        entropy.fill(&mut *secret);
        let id = format!("k{}", self.keys.len() + 1);
        let secret = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        self.keys.push(StoredMacKey { id, created_at: now, secret });
        true
    }

    /// The key that authenticates entries now.
    pub(crate) fn newest(&self) -> Result<MacKey, MacKeysError> {
        let newest = self.keys.last().ok_or(MacKeysError::None)?;
        let secret = decode_hex(&newest.secret).map(Zeroizing::new);
        let secret = secret.ok_or_else(|| MacKeysError::NotHex(newest.id.clone()))?;
        Ok(MacKey::new(&newest.id, &secret)?)
    }
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    let pairs = (0..text.len()).step_by(2);
    pairs.map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// Makes `path` a directory that only its owner can enter.
pub(crate) fn make_private_directory(path: &Path) -> Result<(), SecretError> {
    let failed = |what| move |error| SecretError::Io { path: path.to_owned(), what, error };
    fs::create_dir_all(path).map_err(failed("create"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed("protect"))
}

/// Reads a secret file; `None` when there is none.
pub(crate) fn read_secret(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, SecretError> {
    let failed = |error| SecretError::Io { path: path.to_owned(), what: "read", error };
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        metadata => metadata.map_err(failed)?,
    };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SecretError::Exposed { path: path.to_owned(), mode });
    }
    if metadata.len() > MAX_BYTES {
        let problem = format!("it has {} bytes", metadata.len());
        return Err(SecretError::Damaged { path: path.to_owned(), problem });
    }
    fs::read(path).map(|bytes| Some(Zeroizing::new(bytes))).map_err(failed)
}

/// Writes a secret file, whole or not at all, readable by its owner only.
pub(crate) fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), SecretError> {
    write_whole(path, bytes, 0o600)
}

/// The same for what everybody may read.
pub(crate) fn write_public(path: &Path, bytes: &[u8]) -> Result<(), SecretError> {
    write_whole(path, bytes, 0o644)
}

fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> Result<(), SecretError> {
    let failed = |error| SecretError::Io { path: path.to_owned(), what: "write", error };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let draft = path.with_file_name(name);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    let mut file = options.open(&draft).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&draft, path).map_err(failed)?;
    // The name must outlive a crash too.
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use aa_runtime::{ManualClock, SystemEntropy};

    use super::*;

    #[test]
    fn secrets_are_made_once_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(Timestamp::from_micros(0));
        let first = Secrets::open(directory.path(), &clock, &SystemEntropy).unwrap();
        let again = Secrets::open(directory.path(), &clock, &SystemEntropy).unwrap();
        assert_eq!(*first.audit.log_seed, *again.audit.log_seed);
        assert_eq!(again.audit.mac.id(), "k1");
        for file in fs::read_dir(directory.path().join("secrets")).unwrap() {
            let mode = file.unwrap().metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600);
        }
    }

    #[test]
    fn the_entry_key_rotates_after_its_time() {
        let directory = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(Timestamp::from_micros(0));
        Secrets::open(directory.path(), &clock, &SystemEntropy).unwrap();
        clock.advance(MAC_KEY_LIFETIME);
        let running = current_mac_key(directory.path(), &clock, &SystemEntropy).unwrap();
        assert_eq!(running.id(), "k2", "while the process runs");
        let later = Secrets::open(directory.path(), &clock, &SystemEntropy).unwrap();
        assert_eq!(later.audit.mac.id(), "k2", "and after it starts again");
    }

    #[test]
    fn an_exposed_secret_is_refused_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(Timestamp::from_micros(0));
        Secrets::open(directory.path(), &clock, &SystemEntropy).unwrap();
        let path = directory.path().join("secrets").join("token.seed");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = Secrets::open(directory.path(), &clock, &SystemEntropy).err().unwrap();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
}
