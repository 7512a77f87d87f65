//! Messages in Slack, and the answers that people give by button.
//!
//! Formats: incoming webhooks (<https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks>), Block Kit
//! (<https://docs.slack.dev/reference/block-kit>), `block_actions` payloads
//! (<https://docs.slack.dev/reference/interaction-payloads/block_actions-payload>) and signatures of requests
//! (<https://docs.slack.dev/authentication/verifying-requests-from-slack>).

use std::{fmt, time::Duration};

use aa_protocol::{ApprovalId, Timestamp, parse_json};
use aa_vault::SecretValue;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::Url;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::{
    destination::is_slack_user,
    event::{EventKind, Severity},
    message::Message,
    text::{bounded, plain},
    webhook::{NotVerified, check_time},
};

/// The header with the time of a request from Slack.
pub const TIMESTAMP: &str = "x-slack-request-timestamp";
/// The header with its signature.
pub const SIGNATURE: &str = "x-slack-signature";
/// How far the time of a request may be from now.
pub const TOLERANCE: Duration = Duration::from_secs(300);
/// The longest body of a request that is read, in bytes.
pub const MAX_REQUEST_BYTES: usize = 128 * 1024;

/// Block Kit's bounds, in characters; ours are in bytes, which are no fewer.
const MAX_SECTION: usize = 2_900;
const MAX_HEADER: usize = 140;

/// Somebody pressed a button.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interaction {
    /// The person's Slack member id.
    pub user: String,
    /// The request for approval.
    pub approval: ApprovalId,
    /// The answer.
    pub answer: Answer,
    /// Where to say what became of it.
    pub response_url: ResponseUrl,
    /// When the button was pressed, to the microsecond, in Slack's text form; the same when Slack repeats the request.
    pub action_ts: String,
}

/// What a button says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This action may go on, once.
    Approve,
    /// Calls like it may go on for as long as the agent's process runs.
    ApproveForSession,
    /// It may not.
    Deny,
}

/// Where Slack takes what follows on an interaction: a URL of `hooks.slack.com`. Whoever knows it can write there for
/// half an hour, so it is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct ResponseUrl(Url);

/// A body that is no press of one of our buttons. It repeats nothing of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request is no press of an approval button: {0}")]
pub struct NotAnInteraction(&'static str);

// === impl Message ===

/// The JSON of a message for an incoming webhook. With `buttons`, a request for approval can be answered in place.
pub fn to_blocks(message: &Message, buttons: bool) -> Vec<u8> {
    let headline = message.headline();
    let event = &message.event;
    let mark = match event.severity {
        Severity::Info => "",
        Severity::Warning => "⚠ ",
        Severity::Critical => "🚨 ",
    };
    let mut kind = event.kind.words().to_owned();
    if let Some(first) = kind.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    let mut particulars = String::new();
    for (name, value) in message.particulars() {
        let line = format!("*{}:* {}\n", escape(&name), escape(&value));
        if particulars.len() + line.len() > MAX_SECTION {
            break;
        }
        particulars.push_str(&line);
    }
    let mut blocks = vec![
        json!({ "type": "header", "text": {
            "type": "plain_text", "emoji": false, "text": bounded(&format!("{mark}{kind}"), MAX_HEADER) } }),
        section(&format!("*{}*", escape(&bounded(&headline, 1_000)))),
        section(particulars.trim_end()),
    ];
    let asks = matches!(event.kind, EventKind::ApprovalNeeded | EventKind::ApprovalEscalated);
    if let (true, Some(approval)) = (buttons && asks && message.folded.is_none(), event.approval) {
        let buttons: Vec<_> =
            Answer::ALL.into_iter().map(|answer| answer.button(approval)).collect();
        blocks.push(json!({ "type": "actions", "elements": buttons }));
    }
    let text = escape(&bounded(&headline, 1_000));
    let body =
        json!({ "text": text, "blocks": blocks, "unfurl_links": false, "unfurl_media": false });
    body.to_string().into_bytes()
}

fn section(text: &str) -> Value {
    // `verbatim` keeps Slack from making links of addresses and names in it.
    json!({ "type": "section", "text": { "type": "mrkdwn", "verbatim": true, "text": text } })
}

/// The three characters that control Slack's text
/// (<https://docs.slack.dev/messaging/formatting-message-text#escaping>), so that no text can mention or link.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The JSON that follows on an interaction: a `text` for everybody in the channel in place of the message with the
/// buttons, or for the person alone beside it.
pub fn follow_up(text: &str, replaces_message: bool) -> Vec<u8> {
    let to = if replaces_message { "in_channel" } else { "ephemeral" };
    let text = escape(&plain(text, 2_000));
    let body = json!({ "response_type": to, "replace_original": replaces_message, "text": text });
    body.to_string().into_bytes()
}

/// Checks that a request is Slack's, and was sent within [`TOLERANCE`] of `now`. The comparison takes constant time.
///
/// # Errors
/// A header is not of the form it must have, the time is too far away, or the signature is of another.
pub fn verify_request(
    signing_secret: &SecretValue,
    timestamp: &str,
    signature: &str,
    body: &[u8],
    now: Timestamp,
) -> Result<(), NotVerified> {
    check_time(timestamp, now, TOLERANCE).ok_or(NotVerified::Header(TIMESTAMP))??;
    let code = signature.strip_prefix("v0=").and_then(read_hex);
    let code = code.ok_or(NotVerified::Header(SIGNATURE))?;
    let mut expected = Hmac::<Sha256>::new_from_slice(signing_secret.expose().trim_ascii())
        .map_err(|_| NotVerified::Signature)?;
    for part in [b"v0:", timestamp.as_bytes(), b":", body] {
        expected.update(part);
    }
    expected.verify_slice(&code).map_err(|_| NotVerified::Signature)
}

fn read_hex(text: &str) -> Option<[u8; 32]> {
    let bytes = text.as_bytes();
    let mut code = [0; 32];
    if bytes.len() != 64 {
        return None;
    }
    for (byte, [high, low]) in code.iter_mut().zip(bytes.as_chunks::<2>().0) {
        let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(code)
}

// === impl Interaction ===

impl Interaction {
    /// Reads the body of a request that [`verify_request`] found to be Slack's.
    ///
    /// # Errors
    /// It is not the form of a press of one of the buttons of [`to_blocks`].
    pub fn parse(body: &[u8]) -> Result<Self, NotAnInteraction> {
        if body.len() > MAX_REQUEST_BYTES {
            return Err(NotAnInteraction("it is longer than any"));
        }
        let mut fields = form_urlencoded::parse(body);
        let payload = fields.next().filter(|(name, _)| name == "payload");
        let (Some((_, payload)), None) = (payload, fields.next()) else {
            return Err(NotAnInteraction("it has not the one field `payload`"));
        };
        let payload =
            parse_json(&payload).map_err(|_| NotAnInteraction("`payload` is not JSON"))?;
        let text = |pointer: &str| payload.pointer(pointer).and_then(Value::as_str);
        if text("/type") != Some("block_actions") {
            return Err(NotAnInteraction("`type` is not `block_actions`"));
        }
        let actions = payload.pointer("/actions").and_then(Value::as_array);
        if actions.is_none_or(|actions| actions.len() != 1) {
            return Err(NotAnInteraction("`actions` has not one entry"));
        }
        let user = text("/user/id").filter(|id| is_slack_user(id));
        let user = user.ok_or(NotAnInteraction("`user.id` is no member id"))?;
        let answer = text("/actions/0/action_id").and_then(Answer::of_action_id);
        let answer = answer.ok_or(NotAnInteraction("the button is none of ours"))?;
        let approval = text("/actions/0/value").and_then(|id| id.parse().ok());
        let approval = approval.ok_or(NotAnInteraction("the button has no request's id"))?;
        let is_time = |ts: &&str| {
            (1..=32).contains(&ts.len()) && ts.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        };
        let action_ts = text("/actions/0/action_ts").filter(is_time);
        let action_ts = action_ts.ok_or(NotAnInteraction("`action_ts` is no time"))?;
        let response_url = text("/response_url").and_then(ResponseUrl::parse);
        let response_url = response_url.ok_or(NotAnInteraction("`response_url` is not Slack's"))?;
        let (user, action_ts) = (user.to_owned(), action_ts.to_owned());
        Ok(Self { user, approval, answer, response_url, action_ts })
    }
}

// === impl Answer ===

impl Answer {
    /// Every answer, in the order of the buttons.
    pub const ALL: [Self; 3] = [Self::Approve, Self::ApproveForSession, Self::Deny];

    const fn action_id(self) -> &'static str {
        match self {
            Self::Approve => "aa_approve",
            Self::ApproveForSession => "aa_approve_session",
            Self::Deny => "aa_deny",
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Approve => "Approve",
            Self::ApproveForSession => "Approve for session",
            Self::Deny => "Deny",
        }
    }

    fn of_action_id(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|answer| answer.action_id() == id)
    }

    fn button(self, approval: ApprovalId) -> Value {
        let mut button = json!({
            "type": "button",
            "action_id": self.action_id(),
            "value": approval.to_string(),
            "text": { "type": "plain_text", "emoji": false, "text": self.label() },
        });
        match self {
            Self::Approve => button["style"] = "primary".into(),
            Self::Deny => button["style"] = "danger".into(),
            Self::ApproveForSession => {}
        }
        button
    }
}

// === impl ResponseUrl ===

impl ResponseUrl {
    fn parse(text: &str) -> Option<Self> {
        let url = crate::guard::parse_url(text).ok().filter(|_| text.len() <= 1_024)?;
        let is_slack = url.scheme() == "https"
            && url.host_str() == Some("hooks.slack.com")
            && url.port().is_none();
        is_slack.then_some(Self(url))
    }

    pub(crate) const fn url(&self) -> &Url {
        &self.0
    }
}

impl fmt::Debug for ResponseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseUrl").finish_non_exhaustive()
    }
}
