//! Setting the places where people are told.

use std::collections::BTreeMap;

use aa_control_plane::rest::{
    alerts::{AlertDestination, SetDestinationRequest},
    secrets::Secret,
};
use aa_notify::{
    Channel, EmailChannel, Security, SlackChannel, WebhookChannel, webhook::WebhookKey,
};
use aa_vault::SecretName;
use clap::{Args, ValueEnum};
use reqwest::Method;
use zeroize::Zeroizing;

use super::say;
use crate::{
    api::Api,
    connection::ApiArguments,
    outcome::{Exit, Failure},
    policy::remote_help,
    terminal::{Format, Terminal},
};

#[derive(Args, Debug)]
#[command(after_help = remote_help(
    "aasm alert webhook ops --url https://hooks.example.com/aaa --new-secret alerts/ops\n  \
     aasm alert webhook ops --url https://hooks.example.com/aaa --new-secret alerts/ops-2 --previous-secret alerts/ops"
))]
pub(crate) struct WebhookArguments {
    #[command(flatten)]
    common: Common,
    /// Where requests go
    #[arg(long, value_name = "URL")]
    url: String,
    #[command(flatten)]
    key: WebhookSecret,
    /// The secret before that one: while it is named, requests carry both signatures
    #[arg(long, value_name = "SECRET")]
    previous_secret: Option<SecretName>,
}

/// What requests are signed with.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct WebhookSecret {
    /// The secret they are signed with, named alerts/…: whsec_ and base64
    #[arg(long, value_name = "SECRET")]
    secret: Option<SecretName>,
    /// Make a new one, keep it under this name, alerts/…, and print it once, for the receiver
    #[arg(long, value_name = "SECRET")]
    new_secret: Option<SecretName>,
}

#[derive(Args, Debug)]
#[command(after_help = remote_help(
    "aasm secret set alerts/slack          # the incoming webhook's URL\n  \
     aasm alert slack team --url-secret alerts/slack\n  \
     aasm alert slack team --url-secret alerts/slack --signing-secret alerts/signing --approver U012AB3CD=k3y1d0000a"
))]
pub(crate) struct SlackArguments {
    #[command(flatten)]
    common: Common,
    /// The secret that holds the URL of the incoming webhook; secrets of alerts have names that begin with alerts/
    #[arg(long, value_name = "SECRET")]
    url_secret: SecretName,
    /// The secret that holds the app's signing secret; with it, requests for approval have buttons, and the app's
    /// interactivity URL is …/api/v1/slack/WORKSPACE/NAME
    #[arg(long, value_name = "SECRET")]
    signing_secret: Option<SecretName>,
    /// Who may answer: a Slack member id and the id of the API key that answers for it
    #[arg(long = "approver", value_name = "MEMBER=KEY", value_parser = approver)]
    approvers: Vec<(String, String)>,
}

#[derive(Args, Debug)]
#[command(after_help = remote_help(
    "aasm alert email night --server mail.example.com --username aaa --password-secret alerts/mail \\\n      \
     --from aaa@example.com --to ops@example.com"
))]
pub(crate) struct EmailArguments {
    #[command(flatten)]
    common: Common,
    /// The mail server
    #[arg(long, value_name = "HOST")]
    server: String,
    /// Its port [default: 587, or 465 with --security tls, or 25 with none]
    #[arg(long)]
    port: Option<u16>,
    /// How the connection is encrypted
    #[arg(long, value_enum, default_value = "starttls")]
    security: MailSecurity,
    /// The account, where the server wants one
    #[arg(long)]
    username: Option<String>,
    /// The secret that holds its password
    #[arg(long, value_name = "SECRET")]
    password_secret: Option<SecretName>,
    /// The sender's address
    #[arg(long, value_name = "ADDRESS")]
    from: String,
    /// A recipient's address
    #[arg(long, value_name = "ADDRESS", required = true)]
    to: Vec<String>,
}

#[derive(Args, Debug)]
struct Common {
    /// Its name: a-z, 0-9, _, - and .
    name: String,
    /// For how many seconds equal events are counted and then told as one; 0 tells each [default: 60]
    #[arg(long, value_name = "SECONDS")]
    fold: Option<u32>,
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum MailSecurity {
    /// Encrypted before anything is said
    Starttls,
    /// Encrypted from the start
    Tls,
    /// In the clear, to hosts that the control plane allows only
    None,
}

pub(super) fn webhook(
    arguments: WebhookArguments,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let WebhookArguments { common, url, key, previous_secret } = arguments;
    let api = Api::open(&common.api)?;
    let (secret, made) = match key {
        WebhookSecret { new_secret: Some(name), .. } => {
            let text = new_secret(&api, &name)?;
            (name, Some(text))
        }
        WebhookSecret { secret: Some(name), .. } => (name, None),
        WebhookSecret { .. } => return Err(Failure::bad_input("name a secret")),
    };
    let channel = Channel::Webhook(WebhookChannel { url, secret, previous_secret });
    let exit = set(&api, &common, channel, terminal)?;
    if let Some(text) = made {
        terminal.flush()?;
        terminal.note("requests are signed with this; it is not shown again:");
        terminal.note(&*text);
    }
    Ok(exit)
}

pub(super) fn slack(arguments: SlackArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let SlackArguments { common, url_secret, signing_secret, approvers } = arguments;
    let api = Api::open(&common.api)?;
    let approvers: BTreeMap<_, _> = approvers.into_iter().collect();
    let channel = Channel::Slack(SlackChannel { url_secret, signing_secret, approvers });
    set(&api, &common, channel, terminal)
}

pub(super) fn email(arguments: EmailArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let EmailArguments { common, server, port, security, username, password_secret, from, to } =
        arguments;
    let api = Api::open(&common.api)?;
    let (security, usual) = match security {
        MailSecurity::Starttls => (Security::Starttls, 587),
        MailSecurity::Tls => (Security::Tls, 465),
        MailSecurity::None => (Security::None, 25),
    };
    let (port, password) = (port.unwrap_or(usual), password_secret);
    let channel = EmailChannel { server, port, security, username, password, from, to };
    set(&api, &common, Channel::Email(channel), terminal)
}

fn set(
    api: &Api,
    common: &Common,
    channel: Channel,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let Common { name, fold, format, .. } = common;
    let request = SetDestinationRequest { channel, fold_seconds: *fold };
    let segments = ["alerts", "destinations", name.as_str()];
    let set: AlertDestination = api.request(Method::PUT, &segments).json(&request)?.read()?;
    let said = format!("set the destination {}; try it with `aasm alert test {0}`", set.name);
    say(&set, &said, *format, terminal)
}

/// Makes a secret that requests are signed with, and keeps it.
fn new_secret(api: &Api, name: &SecretName) -> Result<Zeroizing<String>, Failure> {
    let mut key = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *key).map_err(Failure::refused)?;
    let secret = WebhookKey::text_form(&key);
    let request = api.request(Method::PUT, &["secrets", name.as_str()]);
    let _kept: Secret = request.bytes_body(secret.expose()).read()?;
    Ok(Zeroizing::new(secret.expose_text().unwrap_or_default().to_owned()))
}

fn approver(text: &str) -> Result<(String, String), &'static str> {
    const FORM: &str = "write MEMBER=KEY, such as U012AB3CD=k3y1d0000a";
    let (member, key) = text.split_once('=').ok_or(FORM)?;
    if key.starts_with("aak_") {
        return Err("take the id of the key, not the key: the part after `aak_`, 10 characters");
    }
    Ok((member.to_owned(), key.to_owned()))
}
