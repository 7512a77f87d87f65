//! The actor cluster: shards with leases and fencing epochs, the journal that makes state and audit
//! entries durable together, supervised actors that are started on demand, and the clock.
//!
//! It refuses to know what the actors decide. An actor is an [`Entity`]: it is loaded from the store,
//! handles one message at a time without waiting for the disk, and answers through the journal.
//!
//! The path of a message: [`Directory::send`] finds or starts the actor on the shard its id hashes to;
//! the actor hands a [`Record`] with its answer to the shard's [`Journal`]; the journal commits what is
//! waiting in one transaction that also reads the shard's fencing epoch, and only then lets the answer
//! go. An actor that panics, or a shard that loses its epoch, is dropped and loaded again from the store.

mod balance;
pub mod clock;
pub mod cluster;
pub mod directory;
pub mod entity;
pub mod fault;
pub mod journal;
pub mod lease;
pub mod membership;
pub mod news;
pub mod node;
mod placement;
pub mod relay;
pub mod shard;
mod signal;
#[cfg(feature = "sim")]
pub mod sim;
mod tenure;
pub mod wire;

pub use clock::{Clock, Entropy, ManualClock, SeededEntropy, SystemClock, SystemEntropy};
pub use cluster::{ClusterView, NodeStatus, ShardStatus};
pub use directory::{Directory, DirectoryOptions, DirectoryStats};
pub use entity::{Entity, Flow, LoadError};
pub use fault::{Fault, Reply};
pub use journal::{Journal, JournalStats, LogTail, Record};
pub use lease::LeaseError;
pub use membership::{ClusterOptions, NodeRecord, PROTOCOLS, Protocols};
pub use news::{Heard, Stamp};
pub use node::{HeldShard, Node, NodeError, NodeOptions, OffloadError, layout};
pub use placement::Peer;
pub use relay::{Frame, Frames, Relay, RelayStats, Request, Transport};
pub use shard::{LiveShard, ShardId};
pub use wire::{Incoming, Outgoing, Remote, WireError};
