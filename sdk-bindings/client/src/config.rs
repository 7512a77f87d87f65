//! What a client needs to be told, read once and checked at the edge.

use std::{env, fmt, net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use aa_protocol::WorkspaceId;
use secrecy::{ExposeSecret, SecretString};

/// Everything a [`Client`](crate::Client) needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The workspace the agents belong to.
    pub workspace_id: WorkspaceId,
    /// The workspace's API key; it is used to register agents and for nothing else.
    pub api_key: ApiKey,
    /// Where the gateway listens.
    pub gateway_url: GatewayUrl,
    /// PEM certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// What happens with an action while no gateway can be reached.
    pub on_unreachable: OnUnreachable,
    /// The longest a caller waits for one answer, retries included.
    pub request_timeout: Duration,
    /// The longest one attempt to connect takes, TLS handshake included.
    pub connect_timeout: Duration,
}

/// An API key. It can be sent and not printed.
#[derive(Clone)]
pub struct ApiKey(SecretString);

/// The gateway's address: `https://host[:port]`, or `http://` on a loopback host.
#[derive(Clone, PartialEq, Eq)]
pub struct GatewayUrl {
    tls: bool,
    host: String,
    port: u16,
}

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
const GATEWAY_URL: &str = "AAA_GATEWAY_URL";
const CA_FILE: &str = "AAA_CA_FILE";
const ON_UNREACHABLE: &str = "AAA_ON_UNREACHABLE";

const DEFAULT_GATEWAY_URL: &str = "https://127.0.0.1:7443";
const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const MAX_API_KEY_BYTES: usize = 1024;

// === impl Config ===

impl Config {
    /// Reads `AAA_WORKSPACE_ID`, `AAA_API_KEY`, `AAA_GATEWAY_URL` (default `https://127.0.0.1:7443`),
    /// `AAA_CA_FILE` (default: the system's trust) and `AAA_ON_UNREACHABLE` (`deny`, the default, or
    /// `allow`). A caller waits 5 s for an answer and 3 s for a connection.
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
        let gateway_url = read(GATEWAY_URL).unwrap_or_else(|| DEFAULT_GATEWAY_URL.to_owned());
        let on_unreachable =
            read(ON_UNREACHABLE).map_or(Ok(OnUnreachable::Deny), |text| text.parse())?;
        Ok(Self {
            workspace_id: workspace_id.trim().parse().map_err(|error: aa_protocol::IdError| {
                ConfigError::Malformed { variable: WORKSPACE_ID, problem: error.to_string() }
            })?,
            api_key: ApiKey::new(api_key.trim())?,
            gateway_url: gateway_url.trim().parse()?,
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

// === impl GatewayUrl ===

impl GatewayUrl {
    pub(crate) const fn tls(&self) -> bool {
        self.tls
    }

    /// The host without the brackets of an IPv6 literal.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl FromStr for GatewayUrl {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let malformed = |problem: String| ConfigError::Malformed { variable: GATEWAY_URL, problem };
        let wrong_form = || {
            malformed(format!("write it as https://host:port, for example {DEFAULT_GATEWAY_URL}"))
        };
        let uri: http::Uri = text.parse().map_err(|_| wrong_form())?;
        let authority = uri.authority().ok_or_else(wrong_form)?;
        let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        if !bare || authority.as_str().contains('@') {
            return Err(wrong_form());
        }
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong_form()),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(wrong_form());
        }
        if !tls && !is_loopback(&host) {
            return Err(malformed(format!(
                "http:// would send the API key to `{host}` in the clear; write https://"
            )));
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { tls, host, port })
    }
}

impl fmt::Display for GatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

impl fmt::Debug for GatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
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
        assert_eq!(config.gateway_url.to_string(), "https://127.0.0.1:7443");
        assert_eq!(config.ca_file, None);
    }

    #[test]
    fn plaintext_is_for_loopback_only() {
        for accepted in [
            "http://127.0.0.1:1",
            "http://localhost:1",
            "http://[::1]:1",
            "https://[2001:db8::1]:1",
        ] {
            assert_eq!(accepted.parse::<GatewayUrl>().unwrap().to_string(), accepted);
        }
        let error = "http://gateway.example:1".parse::<GatewayUrl>().unwrap_err().to_string();
        assert!(error.contains("write https://"), "{error}");
        for refused in ["gateway:1", "ftp://a:1", "https://", "https://a/path", "https://u:p@a:1"] {
            assert!(refused.parse::<GatewayUrl>().is_err(), "{refused}");
        }
    }

    #[test]
    fn the_api_key_is_not_printed() {
        let config = settings(&[(WORKSPACE_ID, WORKSPACE), (API_KEY, "sk-hidden")]).unwrap();
        assert!(!format!("{config:?}").contains("sk-hidden"));
        let error = ApiKey::new("sk-hidden key").unwrap_err();
        assert!(!error.to_string().contains("sk-hidden"));
    }
}
