//! Messages as plain-text mail (RFC 5322).

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use aa_protocol::Timestamp;
use lettre::{
    Message as Mail,
    message::{
        Mailbox,
        header::{ContentType, Header, HeaderName, HeaderValue, MIME_VERSION_1_0},
    },
};

use crate::{
    destination::{EmailChannel, address},
    message::Message,
    text::plain,
};

/// The longest subject, in bytes.
const MAX_SUBJECT: usize = 200;

/// Says that no person wrote it, so that no machine answers (RFC 3834 §5).
#[derive(Clone)]
struct AutoSubmitted;

/// A mail that could not be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the mail could not be written: {0}")]
pub struct MailError(String);

/// The mail of a message. Its Message-ID is the message's id at the sender's domain, the same for every attempt, by
/// which a mailbox that got two can tell.
///
/// # Errors
/// An address is none.
pub fn to_mail(
    message: &Message,
    channel: &EmailChannel,
    now: Timestamp,
) -> Result<Mail, MailError> {
    let from = address(&channel.from).map_err(MailError)?;
    let domain = from.domain().to_owned();
    let headline = message.headline();
    let subject = format!("[{}] {headline}", message.event.severity);
    let since_epoch = Duration::from_micros(now.as_micros().max(0).unsigned_abs());
    let mut builder = Mail::builder()
        .from(Mailbox::new(Some("Agent Assembly".to_owned()), from))
        .subject(plain(&subject, MAX_SUBJECT))
        .date(SystemTime::UNIX_EPOCH + since_epoch)
        .message_id(Some(format!("<{}@{domain}>", message.id)))
        .header(AutoSubmitted)
        .header(MIME_VERSION_1_0)
        .header(ContentType::TEXT_PLAIN);
    for to in &channel.to {
        builder = builder.to(Mailbox::new(None, address(to).map_err(MailError)?));
    }
    let mut body = format!("{headline}\n\n");
    for (name, value) in message.particulars() {
        // Writing to a string does not fail.
        let _ = writeln!(body, "{:<16}{}", format!("{name}:"), plain(&value, 1_024));
    }
    if let Some(approval) = message.event.approval {
        let _ = writeln!(body, "\nTo answer: aasm approval show {approval}");
    }
    builder.body(body).map_err(|error| MailError(error.to_string()))
}

// === impl AutoSubmitted ===

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}
