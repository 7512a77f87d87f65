//! What an actor of this system is.

use std::{fmt, future::Future, hash::Hash, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use crate::{shard::LiveShard, wire::Remote};

/// A persistent actor: one per id in the whole cluster, started on demand, dropped when idle.
///
/// Its state is what [`Entity::load`] reads plus the records it has handed to the journal since. It
/// must not keep anything else that matters: after a panic, a failed commit or a move it is loaded
/// again.
pub trait Entity: Sized + Send + 'static {
    /// What identifies it.
    type Id: Clone + Eq + Hash + fmt::Display + Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What it is asked. Messages carry their own [`Reply`](crate::Reply).
    type Message: Remote;
    /// What all of its kind share.
    type Context: Clone + Send + Sync + 'static;

    /// The kind's name in logs, and the domain of its ids in shard hashing.
    const KIND: &'static str;

    /// The bytes of an id that decide its shard.
    fn shard_key(id: &Self::Id) -> Vec<u8>;

    /// Reads the state. It runs after everything earlier in the shard's journal is committed.
    ///
    /// # Errors
    /// What keeps it from serving; its callers are told to try again.
    fn load(
        id: Self::Id,
        shard: Arc<LiveShard>,
        context: Self::Context,
    ) -> impl Future<Output = Result<Self, LoadError>> + Send;

    /// Handles one message. It must not wait for its own commits: durable answers go through the
    /// journal. Work longer than a millisecond belongs on a blocking thread.
    fn handle(&mut self, message: Self::Message) -> impl Future<Output = Flow> + Send;

    /// Whether somebody waits for what it holds and has handed to no one: then it does not leave memory, however
    /// long it has been idle.
    fn is_waiting(&self) -> bool {
        false
    }
}

/// Whether an actor goes on after a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Take the next message.
    Continue,
    /// Drop the state; the next message loads it again.
    Reload,
    /// Take the next message if one comes at once; without, be among the first to leave memory.
    Rest,
}

/// Why an actor could not be loaded.
#[derive(Debug, thiserror::Error)]
#[error("{kind} {id} could not be loaded: {reason}")]
pub struct LoadError {
    /// The kind of actor.
    pub kind: &'static str,
    /// Its id.
    pub id: String,
    /// What went wrong.
    pub reason: String,
}

impl LoadError {
    /// Names the actor that `reason` kept from loading.
    pub fn new<E: Entity>(id: &E::Id, reason: impl fmt::Display) -> Self {
        Self { kind: E::KIND, id: id.to_string(), reason: reason.to_string() }
    }
}
