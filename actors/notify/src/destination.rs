//! Where people are told.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use aa_vault::SecretName;
use lettre::Address;
use serde::{Deserialize, Serialize};

use crate::{fold::DEFAULT_WINDOW, guard};

/// A place where people are told, under the name that rules call it by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// 1 to [`MAX_NAME`] of `a`–`z`, `0`–`9`, `_`, `-` and `.`, beginning with a letter or a digit.
    pub name: String,
    /// How it is reached.
    pub channel: Channel,
    /// How long equal events are counted before they are told as one: 0 (each is told) to [`MAX_FOLD_SECONDS`].
    #[serde(default = "default_fold_seconds")]
    pub fold_seconds: u32,
}

/// How a destination is reached. Secrets are named here; their values are the vault's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Channel {
    /// Signed HTTP requests; see [`crate::webhook`].
    Webhook(WebhookChannel),
    /// Messages in a Slack channel; see [`crate::slack`].
    Slack(SlackChannel),
    /// Mail; see [`crate::email`].
    Email(EmailChannel),
}

/// A webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookChannel {
    /// Where requests go: `https://`, or `http://` where an operator allowed the host. It is shown to whoever may read
    /// destinations, so it should hold no token; the signature is what proves a request.
    pub url: String,
    /// What requests are signed with: `whsec_` and 24 to 64 bytes in base64.
    pub secret: SecretName,
    /// What they were signed with before; while it is set, each request has both signatures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_secret: Option<SecretName>,
}

/// A Slack channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlackChannel {
    /// The URL of the incoming webhook, which is a secret: whoever knows it can write to the channel.
    pub url_secret: SecretName,
    /// The signing secret of the Slack app. With it, requests for approval have buttons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_secret: Option<SecretName>,
    /// Who may answer by button: by the person's Slack id (`U…` or `W…`), the id of the API key that answers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub approvers: BTreeMap<String, String>,
}

/// Mail by SMTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmailChannel {
    /// The host of the mail server that takes the mail on.
    pub server: String,
    /// Its port: 25, 465, 587 or 2525, or any where an operator allowed the host.
    pub port: u16,
    /// How the connection is encrypted.
    pub security: Security,
    /// The account, where the server wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Its password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretName>,
    /// The sender's address.
    pub from: String,
    /// The recipients' addresses, 1 to [`MAX_RECIPIENTS`].
    pub to: Vec<String>,
}

/// How a connection to a mail server is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Security {
    /// It begins in the clear and is encrypted before anything is said (RFC 3207); a server that cannot is not used.
    Starttls,
    /// It is encrypted from the start (RFC 8314).
    Tls,
    /// It is not encrypted; only to a host that an operator allowed, and without an account.
    None,
}

/// A destination that cannot be used as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("destination `{destination}`: `{field}` {problem}")]
pub struct DestinationError {
    /// Its name, as far as it is one.
    pub destination: String,
    /// The field.
    pub field: Cow<'static, str>,
    /// What is wrong with it, and what would be right. It repeats no value that may be secret.
    pub problem: String,
}

/// The longest name of a destination or a rule, in characters.
pub const MAX_NAME: usize = 64;
/// The longest time that equal events are counted.
pub const MAX_FOLD_SECONDS: u32 = 3_600;
/// The most recipients of a mail.
pub const MAX_RECIPIENTS: usize = 20;
/// The most people who may answer in a Slack channel.
pub const MAX_APPROVERS: usize = 100;
/// The longest URL, in bytes.
pub const MAX_URL: usize = 2_048;

const MAX_ADDRESS: usize = 254;
const MAX_USERNAME: usize = 256;

const fn default_fold_seconds() -> u32 {
    DEFAULT_WINDOW.as_secs() as u32
}

// === impl Destination ===

impl Destination {
    /// A destination whose equal events are told together for [`DEFAULT_WINDOW`].
    pub fn new(name: impl Into<String>, channel: Channel) -> Self {
        Self { name: name.into(), channel, fold_seconds: default_fold_seconds() }
    }

    /// For how long equal events are counted.
    pub const fn window(&self) -> Duration {
        Duration::from_secs(self.fold_seconds as u64)
    }

    /// Whether it is of the form it must have. Whether it may be reached at all is the guard's to say
    /// ([`crate::Guard::admit`]).
    ///
    /// # Errors
    /// The first field that is not.
    pub fn validate(&self) -> Result<(), DestinationError> {
        let refused = |(field, problem): (&'static str, String)| DestinationError {
            destination: crate::text::plain(&self.name, MAX_NAME),
            field: field.into(),
            problem,
        };
        check_name(&self.name).map_err(|problem| refused(("name", problem)))?;
        if self.fold_seconds > MAX_FOLD_SECONDS {
            let problem = format!("is {}; use 0 to {MAX_FOLD_SECONDS}", self.fold_seconds);
            return Err(refused(("fold_seconds", problem)));
        }
        let checked = match &self.channel {
            Channel::Webhook(webhook) => webhook.check(),
            Channel::Slack(slack) => slack.check(),
            Channel::Email(email) => email.check(),
        };
        checked.map_err(refused)
    }
}

// === impl Channel ===

impl Channel {
    /// The name of its type.
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Webhook(_) => "webhook",
            Self::Slack(_) => "slack",
            Self::Email(_) => "email",
        }
    }

    /// The secrets that sending takes.
    pub fn secrets(&self) -> Vec<&SecretName> {
        match self {
            Self::Webhook(WebhookChannel { secret, previous_secret, .. }) => {
                std::iter::once(secret).chain(previous_secret).collect()
            }
            Self::Slack(SlackChannel { url_secret, .. }) => vec![url_secret],
            Self::Email(EmailChannel { password, .. }) => password.iter().collect(),
        }
    }

    /// Every secret it names: those of [`Channel::secrets`], and the one that answers are checked with.
    pub fn all_secrets(&self) -> Vec<&SecretName> {
        let mut all = self.secrets();
        if let Self::Slack(slack) = self {
            all.extend(&slack.signing_secret);
        }
        all
    }
}

type Checked = Result<(), (&'static str, String)>;

// === impl WebhookChannel ===

impl WebhookChannel {
    fn check(&self) -> Checked {
        if self.url.len() > MAX_URL {
            return Err(("url", format!("is longer than {MAX_URL} bytes")));
        }
        guard::parse_url(&self.url).map_err(|error| ("url", error.to_string()))?;
        if self.previous_secret.as_ref() == Some(&self.secret) {
            return Err(("previous_secret", "is the same as `secret`; name another".to_owned()));
        }
        Ok(())
    }
}

// === impl SlackChannel ===

impl SlackChannel {
    fn check(&self) -> Checked {
        if self.approvers.len() > MAX_APPROVERS {
            return Err(("approvers", format!("has more than {MAX_APPROVERS} people")));
        }
        if !self.approvers.is_empty() && self.signing_secret.is_none() {
            let problem = "needs `signing_secret`: nobody can answer without a checked signature";
            return Err(("approvers", problem.to_owned()));
        }
        for (person, key) in &self.approvers {
            if !is_slack_user(person) {
                let problem = "has a person that is no Slack member id; use one such as U012AB3CD";
                return Err(("approvers", problem.to_owned()));
            }
            let is_key = (1..=32).contains(&key.len())
                && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
            if !is_key {
                // Not repeated: who mixes things up writes the key itself here.
                let problem =
                    format!("has no API key's id for {person}; use the id, not the key itself");
                return Err(("approvers", problem));
            }
        }
        Ok(())
    }
}

// === impl EmailChannel ===

impl EmailChannel {
    fn check(&self) -> Checked {
        guard::parse_host(&self.server).map_err(|error| ("server", error.to_string()))?;
        if self.port == 0 {
            return Err(("port", "is 0; use 587 for STARTTLS or 465 for TLS".to_owned()));
        }
        match (&self.username, &self.password) {
            (Some(_), None) => return Err(("password", "is missing beside `username`".to_owned())),
            (None, Some(_)) => return Err(("username", "is missing beside `password`".to_owned())),
            (Some(_), Some(_)) if self.security == Security::None => {
                let problem =
                    "is `none` beside `password`, which would go in the clear; use starttls or tls";
                return Err(("security", problem.to_owned()));
            }
            (Some(name), _) if name.is_empty() || name.len() > MAX_USERNAME => {
                return Err(("username", format!("has not 1 to {MAX_USERNAME} bytes")));
            }
            (Some(name), _) if name.chars().any(char::is_control) => {
                return Err(("username", "has control characters".to_owned()));
            }
            _ => {}
        }
        address(&self.from).map_err(|problem| ("from", problem))?;
        if !(1..=MAX_RECIPIENTS).contains(&self.to.len()) {
            let problem = format!("has {} addresses; use 1 to {MAX_RECIPIENTS}", self.to.len());
            return Err(("to", problem));
        }
        for to in &self.to {
            address(to).map_err(|problem| ("to", problem))?;
        }
        Ok(())
    }
}

/// Reads a mail address without a display name.
pub(crate) fn address(text: &str) -> Result<Address, String> {
    let parsed = text.parse::<Address>().ok();
    let fits = text.len() <= MAX_ADDRESS && !text.chars().any(char::is_control);
    parsed.filter(|_| fits).ok_or_else(|| {
        let shown = crate::text::plain(text, 64);
        format!("has `{shown}`, which is no mail address; use one such as ops@example.com")
    })
}

/// Whether a text is a name for a destination or a rule, and what is wrong otherwise.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = (1..=MAX_NAME).contains(&name.len())
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|byte| plain(byte) || b"_-.".contains(&byte));
    fits.then_some(()).ok_or_else(|| {
        format!(
            "is not a name; use 1 to {MAX_NAME} of a-z, 0-9, `_`, `-` and `.`, beginning with a letter or a \
             digit"
        )
    })
}

pub(crate) fn is_slack_user(id: &str) -> bool {
    (3..=21).contains(&id.len())
        && id.starts_with(['U', 'W'])
        && id.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}
