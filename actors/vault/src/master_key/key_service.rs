//! Calls to a key service over HTTPS, bounded in time, tries and size.

use std::{net::IpAddr, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use reqwest::{Certificate, Client, Request, StatusCode, Url, redirect::Policy};
use rustls::crypto::CryptoProvider;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{MasterKey, MasterKeyAnswer, MasterKeyError, MasterKeyUnavailable};

/// The longest answer that is read, in bytes.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// How long and how often a key service is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallLimits {
    /// How often it is asked when it is overloaded or has failed: 1 to 10.
    pub tries: u32,
    /// The pause before the second try. Each later one is twice as long; up to half of each is left out at
    /// random.
    pub first_pause: Duration,
    /// How long one try may take.
    pub per_try: Duration,
    /// How long all tries with their pauses may take.
    pub in_all: Duration,
}

/// Why a key service cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum KeyServiceError {
    /// The address is not one of HTTPS, or of HTTP on this machine.
    #[error(
        "`{address}` is no address of a key service; use https://host[:port], or http:// for this machine \
         only, without a user name, query or fragment"
    )]
    Address {
        /// The address, without what may be secret in it.
        address: String,
    },
    /// The certificates are not PEM.
    #[error("the certificates for {address} are not PEM: {problem}")]
    Certificates {
        /// The service.
        address: String,
        /// What is wrong.
        problem: String,
    },
    /// No TLS library was chosen for the process.
    #[error("no TLS provider is installed; the program installs one before it opens a key service")]
    NoTlsProvider,
    /// The client could not be made.
    #[error("could not prepare calls to {address}: {problem}")]
    Client {
        /// The service.
        address: String,
        /// What is wrong.
        problem: String,
    },
    /// A setting cannot be used.
    #[error("`{setting}` of the key service is not usable: {problem}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// What is wrong with it; never the value of a secret.
        problem: &'static str,
    },
}

pub(crate) struct KeyService {
    client: Client,
    address: Url,
    limits: CallLimits,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

/// Why there is no answer.
enum CallError {
    Unanswered(String),
    TooLong,
}

// === impl CallLimits ===

impl Default for CallLimits {
    /// 4 tries of 5 s each, the first pause 200 ms, 20 s in all.
    fn default() -> Self {
        Self {
            tries: 4,
            first_pause: Duration::from_millis(200),
            per_try: Duration::from_secs(5),
            in_all: Duration::from_secs(20),
        }
    }
}

impl CallLimits {
    fn check(&self) -> Result<(), KeyServiceError> {
        let problem = match self {
            Self { tries: 0 | 11.., .. } => "tries must be 1 to 10",
            Self { per_try: Duration::ZERO, .. } | Self { in_all: Duration::ZERO, .. } => {
                "times must be more than zero"
            }
            _ => return Ok(()),
        };
        Err(KeyServiceError::Setting { setting: "limits", problem })
    }
}

// === impl KeyService ===

impl KeyService {
    /// A client for the service at `address`. It trusts `authorities` (PEM) only, or the system's when there
    /// are none; it follows no redirect and uses no proxy, for both would pass keys on.
    pub(crate) fn new(
        address: &str,
        authorities: Option<&[u8]>,
        limits: CallLimits,
    ) -> Result<Self, KeyServiceError> {
        limits.check()?;
        let address = parse_address(address)?;
        let shown = || address.to_string();
        // The client library panics without one.
        if CryptoProvider::get_default().is_none() {
            return Err(KeyServiceError::NoTlsProvider);
        }
        let mut builder = Client::builder()
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .connect_timeout(limits.per_try)
            .timeout(limits.per_try);
        if let Some(pem) = authorities {
            let problem =
                |problem: String| KeyServiceError::Certificates { address: shown(), problem };
            let certificates =
                Certificate::from_pem_bundle(pem).map_err(|error| problem(causes(&error)))?;
            if certificates.is_empty() {
                return Err(problem("there is none".to_owned()));
            }
            builder = builder.tls_certs_only(certificates);
        }
        let client = builder.build().map_err(|error| KeyServiceError::Client {
            address: shown(),
            problem: causes(&error),
        })?;
        Ok(Self { client, address, limits })
    }

    pub(crate) const fn address(&self) -> &Url {
        &self.address
    }

    /// Sends what `request` makes to `attempt` something for `provider`, again after a pause while the answer
    /// is `temporary`; the last answer if it stays so.
    pub(crate) async fn call(
        &self,
        provider: &dyn MasterKey,
        attempt: &'static str,
        request: impl Fn() -> Result<Request, MasterKeyError>,
        temporary: impl Fn(&Answer) -> bool,
    ) -> Result<Answer, MasterKeyError> {
        let send = async || {
            let sent = self.send(request()?).await;
            sent.map_err(|error| error.of(provider, attempt))
        };
        let tries = async {
            let mut pause = self.limits.first_pause;
            for _ in 1..self.limits.tries {
                let answer = send().await?;
                if !temporary(&answer) {
                    return Ok(answer);
                }
                // Callers that failed together shall not come back together.
                tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                pause *= 2;
            }
            send().await
        };
        let late = |_| {
            let seconds = self.limits.in_all.as_secs_f64();
            CallError::Unanswered(format!("no lasting answer within {seconds} s"))
                .of(provider, attempt)
        };
        tokio::time::timeout(self.limits.in_all, tries).await.map_err(late)?
    }

    async fn send(&self, request: Request) -> Result<Answer, CallError> {
        let unanswered = |error: reqwest::Error| CallError::Unanswered(causes(&error));
        let mut response = self.client.execute(request).await.map_err(unanswered)?;
        let status = response.status();
        // Room for all of it, so that growing leaves no copy behind.
        let mut body = Zeroizing::new(Vec::with_capacity(MAX_ANSWER_BYTES));
        while let Some(chunk) = response.chunk().await.map_err(unanswered)? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(CallError::TooLong);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, body })
    }
}

// === impl CallError ===

impl CallError {
    fn of(self, provider: &dyn MasterKey, attempt: &'static str) -> MasterKeyError {
        let provider = provider.describe();
        match self {
            Self::Unanswered(problem) => MasterKeyUnavailable { provider, attempt, problem }.into(),
            Self::TooLong => {
                let problem = format!("more than {MAX_ANSWER_BYTES} bytes");
                MasterKeyAnswer { provider, attempt, problem }.into()
            }
        }
    }
}

/// Whether a status says that the service is overloaded or has failed.
pub(crate) fn is_temporary(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// A JSON body that is wiped when it is sent.
pub(crate) fn wiped_json(body: &impl Serialize) -> Option<Bytes> {
    // Room for all of it, so that growing leaves no copy behind.
    let mut text = Zeroizing::new(Vec::with_capacity(16 * 1024));
    serde_json::to_writer(&mut *text, body).ok()?;
    Some(Bytes::from_owner(text))
}

pub(crate) fn write_base64(bytes: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(bytes.len() * 4 / 3 + 8));
    STANDARD.encode_string(bytes, &mut text);
    text
}

pub(crate) fn read_base64(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    STANDARD.decode_vec(text, &mut bytes).ok()?;
    Some(bytes)
}

fn parse_address(text: &str) -> Result<Url, KeyServiceError> {
    // A user name or a query may hold a password.
    let shown = text.split(['?', '#']).next().unwrap_or_default();
    let shown = shown.rsplit('@').next().unwrap_or_default().chars().take(128).collect();
    let refused = || KeyServiceError::Address { address: shown };
    let Ok(address) = Url::parse(text) else { return Err(refused()) };
    let plain_parts = address.username().is_empty()
        && address.password().is_none()
        && address.query().is_none()
        && address.fragment().is_none();
    let safe = match address.scheme() {
        "https" => address.has_host(),
        "http" => address.host_str().is_some_and(is_this_machine),
        _ => false,
    };
    if plain_parts && safe { Ok(address) } else { Err(refused()) }
}

fn is_this_machine(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// An error with what caused it, and without the address, which stands elsewhere in the message.
fn causes(error: &reqwest::Error) -> String {
    let mut text = if error.is_timeout() { "no answer in time" } else { "no answer" }.to_owned();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_travel_encrypted_or_not_at_all() {
        for address in [
            "https://vault.example:8200",
            "https://10.0.0.1",
            "http://127.0.0.1:8200",
            "http://[::1]:8200",
            "http://localhost",
        ] {
            assert!(parse_address(address).is_ok(), "{address}");
        }
        for address in [
            "",
            "vault.example",
            "http://vault.example",
            "http://10.0.0.1",
            "http://localhost.example",
            "ftp://127.0.0.1",
            "unix:///run/vault",
            "https://user:hunter2@vault.example",
            "https://vault.example/?token=hunter2",
        ] {
            let error = parse_address(address).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
