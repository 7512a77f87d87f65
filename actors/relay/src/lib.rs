//! The relay between nodes over gRPC: one long-lived stream for each direction of each link, on which calls and
//! answers of many actors go side by side, under mutual TLS.
//!
//! It refuses to know actors, shards and the store: `aa-runtime` says where a message goes and when it is sent
//! again. What is decided here is who is talked to ([`NodeTls`]), how much may be under way
//! ([`LinkLimits`]), and that no call is ever sent twice.
//!
//! The path of a call: [`GrpcTransport::call`](aa_runtime::Transport::call) puts it into the queue of one of
//! the peer's links; the link's stream takes what is queued, many calls to one write, and notes whose answers are
//! owed; the peer's [`RelayServer`] hands it to [`aa_runtime::Relay`], whose answers go back on the same stream in
//! the order in which they come. When a link ends, so do the frames of every call that was sent on it; what was
//! not sent is refused, or goes out on the next one.

mod connect;
mod identity;
mod limits;
mod link;
mod message;
mod report;
mod server;
mod serving;
mod stats;
mod tls;
mod transport;

pub use connect::LinkError;
pub use identity::{MAX_NAME, NameError, NodeIdentity};
pub use limits::LinkLimits;
pub use server::RelayServer;
pub use stats::{HandshakeFailure, RelayLinkStats};
pub use tls::{NodeTls, TlsError};
pub use transport::{GrpcTransport, RelayOptions};
