//! Telling people: what they are told of, whom, how often, in which form, and how it gets there.
//!
//! It refuses to know where anything is stored, who may set it and what time it is: it has no store, no actor, no
//! clock and no randomness. Its only I/O is in [`Sender`], which dials what a [`Guard`] admits.
//!
//! The path of a value: an audit entry becomes an [`Event`] ([`Event::of_entry`]); the workspace's [`AlertBook`] routes
//! it to [`Destination`]s by [`Rule`]s; each destination's [`Folder`] makes [`Message`]s of events, one of many when
//! they are equal; a [`Sender`] delivers a message over its [`Channel`], and a [`RetrySchedule`] says when to try again.

pub mod destination;
pub mod email;
pub mod event;
pub mod fold;
pub mod guard;
pub mod message;
pub mod retry;
pub mod rule;
pub mod sender;
pub mod slack;
mod text;
pub mod webhook;

pub use destination::{
    Channel, Destination, DestinationError, EmailChannel, Security, SlackChannel, WebhookChannel,
};
pub use event::{Event, EventKind, Facts, Severity, UnknownName};
pub use fold::Folder;
pub use guard::{AllowedDestination, Guard, GuardError, Lookup, SystemLookup};
pub use message::{Folded, Message};
pub use retry::RetrySchedule;
pub use rule::{AlertBook, BookError, Rule};
pub use sender::{Failure, Roots, Secrets, SendError, SendLimits, Sender, SenderError, Sent};
