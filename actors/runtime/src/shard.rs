//! Shards: what a node owns. An id hashes to one shard; a shard lives on one node at a time.

use std::{collections::HashMap, fmt, hash::Hasher, sync::Arc};

use parking_lot::Mutex;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::watch;

use crate::{journal::Journal, lease::NodeLife, placement::Peer};

/// The number of a shard.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct ShardId(pub u16);

/// One tenure of a shard on this node: from taking its epoch to losing it or failing.
#[derive(Debug)]
pub struct LiveShard {
    /// Which shard.
    pub id: ShardId,
    /// The fencing epoch of this tenure.
    pub epoch: u64,
    /// The shard's journal.
    pub journal: Journal,
    pub(crate) supervisor: ActorRef<SupervisorMessage>,
    pub(crate) children: Arc<Children>,
    pub(crate) standing: watch::Sender<Standing>,
}

/// How a tenure stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It serves.
    Serves,
    /// It failed: the node takes the shard anew.
    Failed,
    /// The shard is another node's now.
    Lost,
    /// The shard is to be handed over.
    Leaves(Heir),
}

/// Who takes a shard over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heir {
    pub(crate) life: NodeLife,
    pub(crate) peer: Peer,
}

/// Supervises the actors of one shard: hears of every end and passes it to the directory that started
/// the actor.
pub(crate) struct ShardSupervisor;

/// The supervisor takes no messages, only supervision events.
#[derive(Debug)]
pub(crate) enum SupervisorMessage {}

/// The living actors of a shard and who wants to hear of their end. An actor is spawned and entered
/// under one lock, so that its end cannot be heard of before it is known.
#[derive(Default)]
pub(crate) struct Children {
    pub(crate) exits: Mutex<HashMap<ActorId, Arc<dyn ChildExit>>>,
}

/// Who wants to hear of an actor's end.
pub(crate) trait ChildExit: Send + Sync {
    /// The actor ended; `failure` says why when it did not end on its own accord.
    fn exited(&self, failure: Option<ActorProcessingErr>);

    /// Whether the actor has something to do, or somebody waits for what it holds.
    fn is_busy(&self) -> bool;
}

// === impl ShardId ===

impl ShardId {
    /// The shard of an actor among `shards`: FNV-1a of kind and key, which is stable across versions
    /// because stored data is laid out by it.
    pub fn of(kind: &str, key: &[u8], shards: u16) -> Self {
        let mut hash = Fnv1a(0xcbf2_9ce4_8422_2325);
        hash.write(kind.as_bytes());
        hash.write(&[0]);
        hash.write(key);
        Self((hash.finish() % u64::from(shards.max(1))) as u16)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

struct Fnv1a(u64);

impl Hasher for Fnv1a {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        // FNV's low bits mix worst; fold the high half in before taking a remainder.
        self.0 ^ (self.0 >> 32)
    }
}

// === impl LiveShard ===

impl LiveShard {
    /// Ends this tenure: its actors are dropped and the node takes the shard anew.
    pub fn fail(&self) {
        self.end(Standing::Failed);
    }

    /// Ends this tenure, unless it is ending already.
    pub(crate) fn end(&self, how: Standing) {
        self.standing.send_if_modified(|standing| {
            let serves = *standing == Standing::Serves;
            if serves {
                *standing = how;
            }
            serves
        });
    }
}

// === impl Children ===

impl Children {
    /// Whether any of them has something to do.
    pub(crate) fn are_busy(&self) -> bool {
        // Asked without the lock: an actor that ends meanwhile takes it.
        let exits: Vec<_> = self.exits.lock().values().cloned().collect();
        exits.iter().any(|exit| exit.is_busy())
    }
}

impl fmt::Debug for Children {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Children({})", self.exits.lock().len())
    }
}

// === impl ShardSupervisor ===

impl Actor for ShardSupervisor {
    type Msg = SupervisorMessage;
    type State = Arc<Children>;
    type Arguments = Arc<Children>;

    async fn pre_start(
        &self,
        _myself: ActorRef<SupervisorMessage>,
        children: Arc<Children>,
    ) -> Result<Arc<Children>, ActorProcessingErr> {
        Ok(children)
    }

    /// A child's failure never ends the supervisor: the child is loaded again when it is next needed.
    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<SupervisorMessage>,
        event: SupervisionEvent,
        children: &mut Arc<Children>,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, failure) = match event {
            SupervisionEvent::ActorTerminated(cell, _, _) => (cell, None),
            SupervisionEvent::ActorFailed(cell, error) => (cell, Some(error)),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {
                return Ok(());
            }
        };
        let exit = children.exits.lock().remove(&cell.get_id());
        if let Some(exit) = exit {
            exit.exited(failure);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_spread_evenly_and_stay_where_they_are() {
        let mut counts = [0_u32; 8];
        for id in 0..8_000_u32 {
            counts[usize::from(ShardId::of("agent", &id.to_be_bytes(), 8).0)] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
        assert_eq!(ShardId::of("agent", b"golden", 256), ShardId(95));
    }
}
