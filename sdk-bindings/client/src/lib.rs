//! The client every language SDK is built on: registers agents with the gateway, asks it to decide each
//! action before it happens, and reports how actions ended.
//!
//! It refuses to know any policy: it never decides. Without a decision it fails closed, unless its owner
//! chose [`OnUnreachable::Allow`]; then it lets the action pass, keeps a record and delivers that later.
//!
//! The path of a value: a caller gives an action to [`Agent::check`]; it goes as one frame over the
//! agent's [`Session`](aa_protocol::wire::v1::gateway_client::GatewayClient::session) stream, next to
//! many others in flight; the answer wakes the caller as a [`Checked`]. A stream that breaks is replaced
//! behind the caller's back, at the next gateway where there are several, and unanswered actions are sent
//! again under the same id, which any gateway answers with the decision that was recorded, if one was.
//!
//! [`blocking`] is the same for languages that are not written around a Rust runtime.

mod agent;
mod backlog;
mod backoff;
pub mod blocking;
mod client;
mod config;
mod decided;
mod error;
mod exchange;
mod gateway_url;
mod gateways;
mod link;
mod released;
mod rounds;
mod session;
mod token;
mod transport;

pub use agent::{Agent, Approval, Checked, Event, Options, Outcome};
pub use client::{AgentSpec, Client};
pub use config::{ApiKey, Config, ConfigError, OnUnreachable};
pub use error::ClientError;
pub use gateway_url::{GatewayUrl, GatewayUrls};
pub use link::News;
pub use released::{Released, SecretBytes};
pub use session::MAX_FRAME_BYTES;
