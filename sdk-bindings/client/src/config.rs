//! What a client needs to be told, read once and checked at the edge.

use std::{env, fmt, path::PathBuf, str::FromStr, time::Duration};

use aa_protocol::WorkspaceId;
use secrecy::{ExposeSecret, SecretString};

use crate::gateway_url::{DEFAULT_GATEWAY_URL, GATEWAY_URL, GatewayUrls};

/// Everything a [`Client`](crate::Client) needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The workspace the agents belong to.
    pub workspace_id: WorkspaceId,
    /// The workspace's API key; it is used to register agents and for nothing else.
    pub api_key: ApiKey,
    /// Where the gateways listen: one address, or several that serve the same workspace. An agent keeps to
    /// one and goes on at the next when that fails; see [`GatewayUrls`].
    pub gateway_urls: GatewayUrls,
    /// PEM certificates to trust instead of the system's, for every gateway. Each gateway's certificate must
    /// name the host of its own address.
    pub ca_file: Option<PathBuf>,
    /// What happens with an action while no gateway can be reached.
    pub on_unreachable: OnUnreachable,
    /// The longest a caller waits for one answer, retries included. With several gateways, one that keeps an
    /// agent waiting for two fifths of this, or for a second if that is longer, is left for the next.
    pub request_timeout: Duration,
    /// The longest one attempt to connect takes, TLS handshake included.
    pub connect_timeout: Duration,
}

/// An API key. It can be sent and not printed.
#[derive(Clone)]
pub struct ApiKey(SecretString);

/// What happens with an action while no gateway can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnUnreachable {
    /// It does not happen.
    #[default]
    Deny,
    /// It happens; a record of it is kept in memory and delivered, marked, once a gateway answers.
    /// A gateway that answers with a refusal is reachable, so this lets nothing past it.
    Allow,
}

/// Why a configuration was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A setting without a default is absent.
    #[error("{variable} is not set: {help}")]
    Missing {
        /// The environment variable.
        variable: &'static str,
        /// Where its value is found.
        help: &'static str,
    },
    /// A setting cannot be read.
    #[error("{variable} is not usable: {problem}")]
    Malformed {
        /// The environment variable.
        variable: &'static str,
        /// What is wrong and what to write; never the value of a secret.
        problem: String,
    },
}

const WORKSPACE_ID: &str = "AAA_WORKSPACE_ID";
const API_KEY: &str = "AAA_API_KEY";
const CA_FILE: &str = "AAA_CA_FILE";
const ON_UNREACHABLE: &str = "AAA_ON_UNREACHABLE";

const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const MAX_API_KEY_BYTES: usize = 1024;

// === impl Config ===

impl Config {
    /// Reads `AAA_WORKSPACE_ID`, `AAA_API_KEY`, `AAA_GATEWAY_URL` (default `https://127.0.0.1:7443`; several
    /// are separated by commas or whitespace), `AAA_CA_FILE` (default: the system's trust) and
    /// `AAA_ON_UNREACHABLE` (`deny`, the default, or `allow`). A caller waits 5 s for an answer and 3 s for a
    /// connection.
    ///
    /// # Errors
    /// The first variable that is missing or malformed.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_settings(|variable| env::var(variable).ok())
    }

    /// Reads the variables of [`Config::from_env`] from elsewhere, so that a program's own arguments can
    /// stand before the environment. An empty value counts as absent.
    ///
    /// # Errors
    /// The first setting that is missing or malformed.
    pub fn from_settings(
        setting: impl Fn(&'static str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let read = |name| setting(name).filter(|value| !value.trim().is_empty());
        let workspace_id = read(WORKSPACE_ID).ok_or(ConfigError::Missing {
            variable: WORKSPACE_ID,
            help: "set it to your workspace's id, ws-…, from Settings → Workspace or the exports \
                   printed by `aasm up`",
        })?;
        let api_key = read(API_KEY).ok_or(ConfigError::Missing {
            variable: API_KEY,
            help: "set it to an API key of your workspace, from Settings → API Keys or the exports \
                   printed by `aasm up`",
        })?;
        let gateway_urls = read(GATEWAY_URL).unwrap_or_else(|| DEFAULT_GATEWAY_URL.to_owned());
        let on_unreachable =
            read(ON_UNREACHABLE).map_or(Ok(OnUnreachable::Deny), |text| text.parse())?;
        Ok(Self {
            workspace_id: workspace_id.trim().parse().map_err(|error: aa_protocol::IdError| {
                ConfigError::Malformed { variable: WORKSPACE_ID, problem: error.to_string() }
            })?,
            api_key: ApiKey::new(api_key.trim())?,
            gateway_urls: gateway_urls.parse()?,
            ca_file: read(CA_FILE).map(PathBuf::from),
            on_unreachable,
            request_timeout: DEFAULT_REQUEST_TIMEOUT,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
        })
    }
}

// === impl ApiKey ===

impl ApiKey {
    /// Wraps a key.
    ///
    /// # Errors
    /// It is empty, longer than 1,024 bytes, or holds anything but visible ASCII.
    pub fn new(key: &str) -> Result<Self, ConfigError> {
        let acceptable = !key.is_empty()
            && key.len() <= MAX_API_KEY_BYTES
            && key.bytes().all(|byte| byte.is_ascii_graphic());
        if !acceptable {
            return Err(ConfigError::Malformed {
                variable: API_KEY,
                problem: format!("a key is 1 to {MAX_API_KEY_BYTES} visible ASCII characters"),
            });
        }
        Ok(Self(key.into()))
    }

    pub(crate) fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

// === impl OnUnreachable ===

impl FromStr for OnUnreachable {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text.trim() {
            "deny" => Ok(Self::Deny),
            "allow" => Ok(Self::Allow),
            other => Err(ConfigError::Malformed {
                variable: ON_UNREACHABLE,
                problem: format!(
                    "`{}` is neither `deny` nor `allow`",
                    other.chars().take(32).collect::<String>()
                ),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKSPACE: &str = "ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890";

    fn settings(pairs: &[(&'static str, &str)]) -> Result<Config, ConfigError> {
        Config::from_settings(|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn an_error_names_the_variable_and_what_to_do() {
        let error = settings(&[]).unwrap_err().to_string();
        assert!(error.starts_with("AAA_WORKSPACE_ID is not set: set it to"), "{error}");
        let error = settings(&[(WORKSPACE_ID, WORKSPACE)]).unwrap_err().to_string();
        assert!(error.starts_with("AAA_API_KEY is not set"), "{error}");
        let error =
            settings(&[(WORKSPACE_ID, WORKSPACE), (API_KEY, "k"), (ON_UNREACHABLE, "maybe")]);
        assert!(error.unwrap_err().to_string().contains("`maybe` is neither"));
    }

    #[test]
    fn the_defaults_fail_closed_and_point_at_this_machine() {
        let config = settings(&[(WORKSPACE_ID, WORKSPACE), (API_KEY, "k")]).unwrap();
        assert_eq!(config.on_unreachable, OnUnreachable::Deny);
        assert_eq!(config.gateway_urls.to_string(), "https://127.0.0.1:7443");
        assert_eq!(config.ca_file, None);
    }

    #[test]
    fn the_api_key_is_not_printed() {
        let config = settings(&[(WORKSPACE_ID, WORKSPACE), (API_KEY, "sk-hidden")]).unwrap();
        assert!(!format!("{config:?}").contains("sk-hidden"));
        let error = ApiKey::new("sk-hidden key").unwrap_err();
        assert!(!error.to_string().contains("sk-hidden"));
    }
}
