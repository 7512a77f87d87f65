//! Getting a message to its destination, once. When to try again is the [`crate::RetrySchedule`]'s to say.

mod http_post;
mod smtp;

use std::{borrow::Cow, collections::BTreeMap, fmt, io, sync::Arc, time::Duration};

use aa_protocol::Timestamp;
use aa_vault::{SecretName, SecretValue};
use reqwest::{Client, Url, redirect::Policy};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde::{Deserialize, Serialize};

use crate::{
    destination::{Channel, SlackChannel, WebhookChannel},
    email,
    guard::{Guard, GuardError, GuardedLookup, Lookup},
    message::Message,
    slack,
    text::plain,
    webhook::{self, WebhookKey},
};

/// Delivers messages. It follows no redirect and uses no proxy, dials what its guard admits, and remembers nothing but
/// open connections; cheap to share behind an [`Arc`]. How many deliveries run at a time is its caller's to bound.
pub struct Sender {
    guard: Arc<Guard>,
    lookup: Arc<dyn Lookup>,
    tls: Arc<ClientConfig>,
    client: Client,
    limits: SendLimits,
}

/// How long a delivery may take, from the look-up of the name to the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendLimits {
    /// Of an HTTP request.
    pub http: Duration,
    /// Of a mail; some servers let strangers wait on purpose.
    pub mail: Duration,
}

/// Whose certificates are trusted.
#[derive(Clone, Debug)]
pub enum Roots {
    /// Those that the operating system trusts.
    System,
    /// These only.
    Only(Vec<CertificateDer<'static>>),
}

/// The secrets of a channel, by name. Its debug form shows the names only.
#[derive(Default)]
pub struct Secrets(BTreeMap<SecretName, SecretValue>);

/// A sender cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SenderError {
    /// There is no certificate to trust.
    #[error("no certificate to trust was found: {0}")]
    Roots(String),
    /// The HTTP client or TLS refuses.
    #[error("could not prepare deliveries: {0}")]
    Client(String),
}

/// A message was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// What the receiver answered: the status of HTTP, or the reply code of SMTP.
    pub code: u16,
}

/// A message was not delivered, or nobody knows whether it was. It holds no secret and no URL, only host and port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{place} {problem}; {remedy}")]
pub struct SendError {
    /// Who was to get it, such as `the webhook at hooks.example.com`.
    pub place: String,
    /// What went wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: Cow<'static, str>,
    /// Whether to try again.
    pub failure: Failure,
}

/// Whether a failed delivery is worth another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// It is, no earlier than the receiver wishes.
    ForNow {
        /// How long the receiver wants to be left alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<Duration>,
    },
    /// It would fail again until somebody changes something.
    ForGood,
    /// The receiver wants nothing more, ever (410).
    Gone,
}

// === impl Sender ===

impl Sender {
    /// Prepares deliveries; makes none.
    ///
    /// # Errors
    /// No certificate can be trusted, or the HTTP client refuses.
    pub fn new(
        guard: Guard,
        lookup: Arc<dyn Lookup>,
        roots: &Roots,
        limits: SendLimits,
    ) -> Result<Self, SenderError> {
        let tls = roots.config()?;
        let guard = Arc::new(guard);
        let guarded = GuardedLookup { guard: Arc::clone(&guard), lookup: Arc::clone(&lookup) };
        let client = Client::builder()
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .referer(false)
            .http1_only()
            .pool_max_idle_per_host(2)
            .pool_idle_timeout(Duration::from_secs(30))
            .timeout(limits.http)
            .dns_resolver(Arc::new(guarded))
            .user_agent(concat!("agent-assembly/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(tls.clone())
            .build()
            .map_err(|error| SenderError::Client(http_post::causes(&error)))?;
        Ok(Self { guard, lookup, tls: Arc::new(tls), client, limits })
    }

    /// What it may dial.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Delivers a message over a channel with the [`Channel::secrets`] it takes. A receiver can get it twice, when its
    /// answer is lost; the message's id tells.
    ///
    /// # Errors
    /// [`SendError`], which says whether to try again.
    pub async fn send(
        &self,
        channel: &Channel,
        secrets: &Secrets,
        message: &Message,
        now: Timestamp,
    ) -> Result<Sent, SendError> {
        match channel {
            Channel::Webhook(webhook) => self.send_webhook(webhook, secrets, message, now).await,
            Channel::Slack(slack) => self.send_slack(slack, secrets, message, now).await,
            Channel::Email(channel) => {
                let place = format!("the mail server {}:{}", channel.server, channel.port);
                let mail = email::to_mail(message, channel, now)
                    .map_err(|error| SendError::for_good(&place, error.to_string(), SET_ANEW))?;
                let host = self.guard.admit_mail(&channel.server, channel.port, channel.security);
                let host = host.map_err(|error| SendError::guarded(&place, &error))?;
                let password = match &channel.password {
                    Some(name) => Some(secrets.get(name, &place)?),
                    None => None,
                };
                let delivery =
                    smtp::Delivery { sender: self, channel, host: &host, place: &place, password };
                // One future that is polled on its own stack would be as large as all its states.
                let sending = Box::pin(delivery.run(&mail));
                tokio::time::timeout(self.limits.mail, sending)
                    .await
                    .unwrap_or_else(|_| Err(SendError::late(&place, self.limits.mail)))
            }
        }
    }

    /// Says in Slack what became of a button that was pressed: the JSON of [`slack::follow_up`].
    ///
    /// # Errors
    /// [`SendError`]. Slack takes it for half an hour after the press.
    pub async fn follow_up(
        &self,
        to: &slack::ResponseUrl,
        body: Vec<u8>,
        now: Timestamp,
    ) -> Result<Sent, SendError> {
        let place = "Slack's answer to a button".to_owned();
        self.post(to.url().clone(), http::HeaderMap::new(), body, &place, now, true).await
    }

    async fn send_webhook(
        &self,
        webhook: &WebhookChannel,
        secrets: &Secrets,
        message: &Message,
        now: Timestamp,
    ) -> Result<Sent, SendError> {
        let place = format!("the webhook at {}", shown_host(&webhook.url));
        let url = self.guard.admit_url(&webhook.url);
        let url = url.map_err(|error| SendError::guarded(&place, &error))?;
        let mut keys = Vec::with_capacity(2);
        for (name, is_needed) in
            [(Some(&webhook.secret), true), (webhook.previous_secret.as_ref(), false)]
        {
            let Some(name) = name else { continue };
            // A previous secret that was deleted has served its time.
            let secret = match secrets.get(name, &place) {
                Err(_) if !is_needed => continue,
                secret => secret?,
            };
            let key = WebhookKey::read(secret).map_err(|error| {
                SendError::for_good(&place, format!("has no key `{name}`: {error}"), SET_SECRET)
            })?;
            keys.push(key);
        }
        let body = message.to_json();
        let signatures = webhook::signatures(&keys, &message.id, now, &body);
        let mut headers = http::HeaderMap::new();
        let seconds = now.unix_seconds().to_string();
        for (name, value) in [
            (webhook::ID, message.id.as_str()),
            (webhook::TIMESTAMP, &seconds),
            (webhook::SIGNATURE, &signatures),
        ] {
            let value = http::HeaderValue::from_str(value).map_err(|_| {
                SendError::for_good(&place, format!("cannot get the header `{name}`"), SET_ANEW)
            })?;
            headers.insert(name, value);
        }
        self.post(url, headers, body, &place, now, false).await
    }

    async fn send_slack(
        &self,
        channel: &SlackChannel,
        secrets: &Secrets,
        message: &Message,
        now: Timestamp,
    ) -> Result<Sent, SendError> {
        let place = "the Slack channel".to_owned();
        let name = &channel.url_secret;
        let secret = secrets.get(name, &place)?;
        let text = secret.expose_text().map(str::trim);
        let admitted = text
            .ok_or(GuardError::Url("it is no text".into()))
            .and_then(|text| self.guard.admit_url(text));
        let url = admitted.map_err(|error| {
            SendError::guarded(&format!("{place}, whose URL is the secret `{name}`,"), &error)
        })?;
        let body = slack::to_blocks(message, channel.signing_secret.is_some());
        self.post(url, http::HeaderMap::new(), body, &place, now, true).await
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { guard, limits, .. } = self;
        f.debug_struct("Sender")
            .field("guard", guard)
            .field("limits", limits)
            .finish_non_exhaustive()
    }
}

// === impl SendLimits ===

impl Default for SendLimits {
    /// 10 s for HTTP, 30 s for mail.
    fn default() -> Self {
        Self { http: Duration::from_secs(10), mail: Duration::from_secs(30) }
    }
}

// === impl Roots ===

impl Roots {
    /// The certificates of a PEM text, and no others.
    ///
    /// # Errors
    /// It is not PEM, or has no certificate.
    pub fn from_pem(pem: &[u8]) -> Result<Self, SenderError> {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        match read {
            Ok(certificates) if !certificates.is_empty() => Ok(Self::Only(certificates)),
            Ok(_) => Err(SenderError::Roots("the PEM text has none".to_owned())),
            Err(error) => Err(SenderError::Roots(format!("the text is not PEM: {error}"))),
        }
    }

    fn config(&self) -> Result<ClientConfig, SenderError> {
        let mut store = RootCertStore::empty();
        match self {
            Self::System => {
                let found = rustls_native_certs::load_native_certs();
                let (added, _) = store.add_parsable_certificates(found.certs);
                if added == 0 {
                    let why = found.errors.first().map(ToString::to_string);
                    let why = why.unwrap_or_else(|| "the system trusts none".to_owned());
                    return Err(SenderError::Roots(why));
                }
            }
            Self::Only(certificates) => {
                for certificate in certificates {
                    let added = store.add(certificate.clone());
                    added.map_err(|error| SenderError::Roots(error.to_string()))?;
                }
            }
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| SenderError::Client(error.to_string()))?;
        Ok(config.with_root_certificates(store).with_no_client_auth())
    }
}

// === impl Secrets ===

impl Secrets {
    /// Adds a secret.
    pub fn insert(&mut self, name: SecretName, value: SecretValue) {
        self.0.insert(name, value);
    }

    fn get(&self, name: &SecretName, place: &str) -> Result<&SecretValue, SendError> {
        self.0.get(name).ok_or_else(|| SendError {
            place: place.to_owned(),
            problem: format!("needs the secret `{name}`, which is not in the vault"),
            remedy: SET_SECRET.into(),
            failure: Failure::ForNow { retry_after: None },
        })
    }
}

impl FromIterator<(SecretName, SecretValue)> for Secrets {
    fn from_iter<I: IntoIterator<Item = (SecretName, SecretValue)>>(all: I) -> Self {
        Self(all.into_iter().collect())
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

// === impl SendError ===

const SET_ANEW: &str = "change the destination, then replay what was not delivered";
const SET_SECRET: &str = "set it with `aasm secret set`";
const CHECK_RECEIVER: &str = "see that it runs and that its certificate is valid";
const WAIT: &str = "it is tried again";

impl SendError {
    fn for_now(place: &str, problem: String, remedy: &'static str) -> Self {
        let failure = Failure::ForNow { retry_after: None };
        Self { place: place.to_owned(), problem, remedy: remedy.into(), failure }
    }

    fn for_good(place: &str, problem: String, remedy: &'static str) -> Self {
        Self { place: place.to_owned(), problem, remedy: remedy.into(), failure: Failure::ForGood }
    }

    fn late(place: &str, limit: Duration) -> Self {
        Self::for_now(place, format!("did not answer within {} s", limit.as_secs_f64()), WAIT)
    }

    fn guarded(place: &str, error: &GuardError) -> Self {
        let problem = format!("is not dialled: {error}");
        match error {
            GuardError::Unresolved { .. } => Self::for_now(place, problem, WAIT),
            _ => Self::for_good(place, problem, SET_ANEW),
        }
    }

    fn unreachable(place: &str, error: &io::Error) -> Self {
        let problem = format!("could not be reached: {}", plain(&error.to_string(), 200));
        Self::for_now(place, problem, CHECK_RECEIVER)
    }

    /// Whether another attempt is of no use until somebody changes something.
    pub const fn is_permanent(&self) -> bool {
        !matches!(self.failure, Failure::ForNow { .. })
    }

    /// How long the receiver wants to be left alone.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self.failure {
            Failure::ForNow { retry_after } => retry_after,
            Failure::ForGood | Failure::Gone => None,
        }
    }
}

/// Host and port of a URL; the rest may be secret.
fn shown_host(url: &str) -> String {
    let url = Url::parse(url).ok();
    let host = url.as_ref().and_then(|url| Some((url.host_str()?, url.port())));
    match host {
        Some((host, Some(port))) => format!("{host}:{port}"),
        Some((host, None)) => host.to_owned(),
        None => "an address that is none".to_owned(),
    }
}
