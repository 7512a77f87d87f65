//! A counter that is durable through the journal, and counts every numbered addition once.

use std::{collections::BTreeSet, sync::Arc};

use aa_runtime::{
    Entity, Fault, Flow, Incoming, LiveShard, LoadError, Outgoing, Record, Remote, Reply, WireError,
};
use aa_store::Store;
use bytes::Bytes;
use parking_lot::Mutex;

pub(crate) struct Counter {
    id: String,
    shard: Arc<LiveShard>,
    shared: Shared,
    done: BTreeSet<u64>,
}

pub(crate) enum Ask {
    /// Counts the number, unless it was counted before; answered with the count so far.
    Add(u64, Reply<u64>),
    /// The count.
    Get(Reply<u64>),
    /// Answered with its length, at once and from memory.
    Echo(String, Reply<u64>),
    /// Answered when the test says so.
    Hold(Reply<u64>),
}

/// Ways back that the test holds.
pub(crate) type Held = Arc<Mutex<Vec<Reply<u64>>>>;

#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) held: Held,
}

impl Remote for Ask {
    fn pack(self) -> Option<Outgoing> {
        Some(match self {
            Self::Add(op, reply) => Outgoing::new("add", &op).answering(reply),
            Self::Get(reply) => Outgoing::new("get", &()).answering(reply),
            Self::Echo(text, reply) => Outgoing::new("echo", &text).answering(reply),
            Self::Hold(reply) => Outgoing::new("hold", &()).answering(reply),
        })
    }

    fn unpack(incoming: &mut Incoming) -> Result<Self, WireError> {
        Ok(match incoming.verb() {
            "add" => Self::Add(incoming.body()?, incoming.reply()?),
            "get" => Self::Get(incoming.reply()?),
            "echo" => Self::Echo(incoming.body()?, incoming.reply()?),
            "hold" => Self::Hold(incoming.reply()?),
            _ => return incoming.unknown(),
        })
    }

    fn fail(self, fault: Fault) {
        let (Self::Add(_, reply) | Self::Get(reply) | Self::Echo(_, reply) | Self::Hold(reply)) =
            self;
        reply.send(Err(fault));
    }
}

impl Entity for Counter {
    type Id = String;
    type Message = Ask;
    type Context = Shared;

    const KIND: &'static str = "counter";

    fn shard_key(id: &String) -> Vec<u8> {
        id.clone().into_bytes()
    }

    async fn load(id: String, shard: Arc<LiveShard>, shared: Shared) -> Result<Self, LoadError> {
        let failed = |error| LoadError::new::<Self>(&id, error);
        let mut txn = shared.store.begin().await.map_err(failed)?;
        let stored = txn.get_snapshot(&key(&id)).await.map_err(failed)?;
        let done = stored.map_or_else(BTreeSet::new, |done| serde_json::from_slice(&done).unwrap());
        Ok(Self { id, shard, shared, done })
    }

    async fn handle(&mut self, ask: Ask) -> Flow {
        match ask {
            Ask::Get(reply) => reply.send(Ok(self.done.len() as u64)),
            Ask::Echo(text, reply) => reply.send(Ok(text.len() as u64)),
            Ask::Hold(reply) => self.shared.held.lock().push(reply),
            Ask::Add(op, reply) => {
                self.done.insert(op);
                let count = self.done.len() as u64;
                let stored = serde_json::to_vec(&self.done).unwrap();
                let done = Reply::new(move |committed: Result<(), Fault>| {
                    reply.send(committed.map(|()| count));
                });
                let record = Record::of_state(vec![(key(&self.id), stored.into())], done);
                let _ = self.shard.journal.append(record);
            }
        }
        Flow::Continue
    }
}

fn key(id: &str) -> Bytes {
    Bytes::from(format!("counter/{id}"))
}
