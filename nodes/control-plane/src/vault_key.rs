//! The master key that the secrets of all workspaces are kept under: which provider has it, and how it is reached.
//!
//! It is said in `vault.toml` of the data directory; without that file it is a file beside the other secrets of the
//! machine, made on first start. What gives access to a provider is itself in a file that only this user can read, or
//! in the environment, and never in `vault.toml`.

mod aws_credentials;
mod token_file;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aa_protocol::Timestamp;
use aa_runtime::Clock;
use aa_vault::{
    FileKeeper, MasterKey, MasterKeys, SecretLengthError, SecretValue,
    master_key::{
        aws_kms::{AwsKmsConfig, AwsKmsMasterKey},
        env::{EnvKeyError, EnvMasterKey},
        file::FileKeyError,
        key_service::{CallLimits, KeyServiceError},
        pkcs11::{Pkcs11MasterKey, TokenKeyConfig, TokenKeyError},
        transit::{TransitBinding, TransitConfig, TransitMasterKey},
    },
};
use serde::Deserialize;

use self::aws_credentials::Credentials;
use crate::secrets::{SecretError, read_secret};

/// `vault.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultConfig {
    /// What wraps data keys.
    #[serde(default)]
    pub master_key: Provider,
    /// What still opens the data keys that it wrapped, until `aasm secret rotate-master` has wrapped them anew.
    #[serde(default)]
    pub former: Vec<Provider>,
}

/// Where a master key is kept.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "provider", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Provider {
    /// A file of this machine.
    File {
        /// Its path; `secrets/master-key.json` in the data directory when absent.
        #[serde(default)]
        path: Option<PathBuf>,
    },
    /// A variable of the environment.
    Env {
        /// Its name: 32 random bytes in base64url, 43 characters.
        variable: String,
        /// The name of the variable that holds the key before it.
        #[serde(default)]
        previous: Option<String>,
    },
    /// A key in a PKCS#11 token.
    Pkcs11 {
        /// The module of the token's maker, a shared library.
        module: PathBuf,
        /// The token's label.
        token: String,
        /// The key's label.
        key: String,
        /// The file with the user's PIN.
        pin_file: PathBuf,
    },
    /// A key in the transit engine of HashiCorp Vault.
    Transit {
        /// The server, `https://…`.
        address: String,
        /// Certificates to trust in place of the system's, PEM.
        #[serde(default)]
        ca_file: Option<PathBuf>,
        /// The namespace, where the server has them.
        #[serde(default)]
        namespace: Option<String>,
        /// Where the engine is mounted.
        #[serde(default = "transit_mount")]
        mount: String,
        /// The key.
        key: String,
        /// Whether the key was made with `derived=true`.
        #[serde(default)]
        derived: bool,
        /// The file with the token; it is read again every minute.
        token_file: PathBuf,
    },
    /// A key in AWS KMS.
    AwsKms {
        /// `arn:aws:kms:<region>:<account>:key/<id>`.
        key_arn: String,
        /// The address, for a VPC endpoint.
        #[serde(default)]
        endpoint: Option<String>,
        /// Certificates to trust in place of the system's, PEM.
        #[serde(default)]
        ca_file: Option<PathBuf>,
        /// A credentials file as the AWS tools write it, read anew for every call; `AWS_ACCESS_KEY_ID`,
        /// `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN` of the environment without it.
        #[serde(default)]
        credentials_file: Option<PathBuf>,
        /// The profile in that file.
        #[serde(default = "default_profile")]
        profile: String,
    },
}

/// Why there is no master key.
#[derive(Debug, thiserror::Error)]
pub enum VaultKeyError {
    /// `vault.toml` cannot be read.
    #[error("could not read {path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// `vault.toml` does not say what it should.
    #[error("{path} is not a configuration of the vault: {problem}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where in the file.
        problem: String,
    },
    /// The key file is gone, but secrets are kept under it.
    #[error(
        "there are secrets, but no master key file {0}; restore it from a backup, for without it no secret can be read"
    )]
    Lost(PathBuf),
    /// The file of the key.
    #[error(transparent)]
    File(#[from] FileKeyError),
    /// The environment.
    #[error(transparent)]
    Env(#[from] EnvKeyError),
    /// The token.
    #[error(transparent)]
    Token(#[from] TokenKeyError),
    /// The key service.
    #[error(transparent)]
    Service(#[from] KeyServiceError),
    /// A file with what gives access to the provider.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Such a file does not exist.
    #[error("there is no file {0}; put there what gives access to the master key's provider")]
    NoAccess(PathBuf),
    /// Such a file is empty or too long.
    #[error("{path}: {error}")]
    Length {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: SecretLengthError,
    },
}

/// The configuration in the data directory.
pub(crate) const CONFIG: &str = "vault.toml";

/// The key file in the directory of the machine's secrets.
const KEY_FILE: &str = "master-key.json";

/// The most of a configuration that is read.
const MAX_CONFIG: u64 = 64 << 10;

/// How long one call to a token may take.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(10);

fn transit_mount() -> String {
    "transit".to_owned()
}

fn default_profile() -> String {
    "default".to_owned()
}

// === impl VaultConfig ===

impl VaultConfig {
    /// Reads `vault.toml` of a data directory.
    ///
    /// # Errors
    /// It cannot be read, or does not say what it should.
    pub fn read(data: &Path) -> Result<Self, VaultKeyError> {
        let path = data.join(CONFIG);
        let text = match read_text(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            text => text.map_err(|error| VaultKeyError::Io { path: path.clone(), error })?,
        };
        toml::from_str(&text)
            .map_err(|error| VaultKeyError::Config { path, problem: error.to_string() })
    }

    /// Opens the master key. A key file is made where there is none and no secret is kept yet.
    ///
    /// # Errors
    /// The provider, or what gives access to it, cannot be used.
    pub async fn open(
        self,
        data: &Path,
        has_secrets: bool,
        clock: &Arc<dyn Clock>,
    ) -> Result<Arc<dyn MasterKey>, VaultKeyError> {
        let current = self.master_key.open(data, !has_secrets, clock).await?;
        if self.former.is_empty() {
            return Ok(current);
        }
        let mut former = Vec::with_capacity(self.former.len());
        for provider in self.former {
            former.push(provider.open(data, false, clock).await?);
        }
        Ok(Arc::new(MasterKeys::new(current, former)))
    }
}

// === impl Provider ===

impl Default for Provider {
    fn default() -> Self {
        Self::File { path: None }
    }
}

impl Provider {
    async fn open(
        self,
        data: &Path,
        may_create: bool,
        clock: &Arc<dyn Clock>,
    ) -> Result<Arc<dyn MasterKey>, VaultKeyError> {
        Ok(match self {
            Self::File { path } => {
                let path = path.unwrap_or_else(|| data.join("secrets").join(KEY_FILE));
                Arc::new(open_file(path, may_create, clock.now())?)
            }
            Self::Env { variable, previous } => {
                Arc::new(EnvMasterKey::from_env(&variable, previous.as_deref())?)
            }
            Self::Pkcs11 { module, token, key, pin_file } => {
                let pin = access(&pin_file)?;
                let timeout = TOKEN_TIMEOUT;
                let config = TokenKeyConfig { module, token, key, pin, timeout };
                Arc::new(Pkcs11MasterKey::open(config).await?)
            }
            Self::Transit { address, ca_file, namespace, mount, key, derived, token_file } => {
                let binding = match derived {
                    true => TransitBinding::DerivedKey,
                    false => TransitBinding::AssociatedData,
                };
                let key = Arc::new(TransitMasterKey::new(TransitConfig {
                    address,
                    authorities: authorities(ca_file)?,
                    namespace,
                    mount,
                    key,
                    binding,
                    token: access(&token_file)?,
                    limits: CallLimits::default(),
                })?);
                tokio::spawn(token_file::follow(token_file, Arc::downgrade(&key)));
                key
            }
            Self::AwsKms { key_arn, endpoint, ca_file, credentials_file, profile } => {
                let clock = Arc::clone(clock);
                Arc::new(AwsKmsMasterKey::new(AwsKmsConfig {
                    key_arn,
                    endpoint,
                    authorities: authorities(ca_file)?,
                    credentials: Arc::new(Credentials::new(credentials_file, profile)),
                    now: Arc::new(move || clock.now()),
                    limits: CallLimits::default(),
                })?)
            }
        })
    }
}

fn open_file(path: PathBuf, may_create: bool, now: Timestamp) -> Result<FileKeeper, VaultKeyError> {
    match FileKeeper::open(path.clone()) {
        Err(FileKeyError::Missing { .. }) if may_create => Ok(FileKeeper::create(path, now)?),
        Err(FileKeyError::Missing { path }) => Err(VaultKeyError::Lost(path)),
        opened => Ok(opened?),
    }
}

/// What gives access to a provider, from a file that only this user can read. One line end is not part of it.
fn access(path: &Path) -> Result<SecretValue, VaultKeyError> {
    let stored = read_secret(path)?.ok_or_else(|| VaultKeyError::NoAccess(path.to_owned()))?;
    let text = stored.strip_suffix(b"\n").unwrap_or(&stored);
    SecretValue::copy_of(text)
        .map_err(|error| VaultKeyError::Length { path: path.to_owned(), error })
}

fn authorities(path: Option<PathBuf>) -> Result<Option<Vec<u8>>, VaultKeyError> {
    let read = |path: PathBuf| {
        std::fs::read(&path).map_err(|error| VaultKeyError::Io { path: path.clone(), error })
    };
    path.map(read).transpose()
}

fn read_text(path: &Path) -> io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_CONFIG).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use aa_runtime::SystemClock;

    use super::*;

    fn read(text: &str) -> Result<VaultConfig, VaultKeyError> {
        let data = tempfile::tempdir().unwrap();
        std::fs::write(data.path().join(CONFIG), text).unwrap();
        VaultConfig::read(data.path())
    }

    #[test]
    fn the_configuration_names_a_provider_and_those_before_it() {
        let config = read(
            "[master_key]\nprovider = \"transit\"\naddress = \"https://vault:8200\"\nkey = \"k\"\n\
             token_file = \"/run/token\"\n\n[[former]]\nprovider = \"file\"\n",
        )
        .unwrap();
        assert!(matches!(
            &config.master_key,
            Provider::Transit { mount, derived: false, .. } if mount == "transit"
        ));
        assert_eq!(config.former, [Provider::default()]);
        assert_eq!(read("").unwrap(), VaultConfig::default());
        for (text, problem) in [
            ("[master_key]\nprovider = \"fiel\"", "fiel"),
            ("[master_key]\nprovider = \"file\"\npin = \"1234\"", "pin"),
            ("master_kye = 1", "master_kye"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("vault.toml") && error.contains(problem), "{error}");
        }
    }

    #[tokio::test]
    async fn a_key_file_is_made_once_and_never_when_secrets_are_kept_under_a_lost_one() {
        let data = tempfile::tempdir().unwrap();
        crate::secrets::make_private_directory(data.path()).unwrap();
        crate::secrets::make_private_directory(&data.path().join("secrets")).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let open = |has_secrets| VaultConfig::default().open(data.path(), has_secrets, &clock);
        let error = open(true).await.err().unwrap().to_string();
        assert!(error.contains("restore it from a backup"), "{error}");
        let first = open(false).await.unwrap().id();
        assert_eq!(open(true).await.unwrap().id(), first);
    }
}
