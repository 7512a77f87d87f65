//! What becomes of a shard's actors when their supervisor dies, which only the inside can bring about.

use std::{sync::Arc, time::Duration};

use aa_store::MemoryStore;

use super::*;
use crate::{LoadError, ManualClock, NodeOptions, Outgoing, Reply, SeededEntropy, WireError};

/// Answers with the epoch it lives in.
struct Echo(Arc<LiveShard>);

enum Ask {
    Epoch(Reply<u64>),
    /// Never answered by itself.
    Never(Reply<u64>),
}

impl Remote for Ask {
    fn pack(self) -> Option<Outgoing> {
        None
    }

    fn unpack(incoming: &mut Incoming) -> Result<Self, WireError> {
        incoming.unknown()
    }

    fn fail(self, fault: Fault) {
        let (Self::Epoch(reply) | Self::Never(reply)) = self;
        reply.send(Err(fault));
    }
}

impl Entity for Echo {
    type Id = String;
    type Message = Ask;
    type Context = ();

    const KIND: &'static str = "echo";

    fn shard_key(id: &String) -> Vec<u8> {
        id.clone().into_bytes()
    }

    async fn load(_id: String, shard: Arc<LiveShard>, (): ()) -> Result<Self, LoadError> {
        Ok(Self(shard))
    }

    async fn handle(&mut self, ask: Ask) -> Flow {
        match ask {
            Ask::Epoch(reply) => reply.send(Ok(self.0.epoch)),
            Ask::Never(reply) => {
                let _held = reply;
                std::future::pending::<()>().await;
            }
        }
        Flow::Continue
    }
}

/// Makes its supervisor panic.
struct Deadly;

impl ChildExit for Deadly {
    fn exited(&self, _failure: Option<ActorProcessingErr>) {
        panic!("the supervisor's own");
    }

    fn is_busy(&self) -> bool {
        false
    }
}

struct World {
    node: Node,
    clock: ManualClock,
    directory: Arc<Directory<Echo>>,
}

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

async fn world() -> World {
    let clock = ManualClock::new(aa_protocol::Timestamp::from_micros(1_000_000));
    let options = NodeOptions { name: "a".into(), shards: 1, cluster: None };
    let entropy = Arc::new(SeededEntropy::new(7));
    let store = Arc::new(MemoryStore::new());
    let node = Node::start(store, Arc::new(clock.clone()), entropy, options).await;
    let node = node.expect("the node starts");
    let directory = Directory::new(node.clone(), (), DirectoryOptions::default());
    World { node, clock, directory }
}

impl World {
    async fn ask(&self, id: &str, ask: impl FnOnce(Reply<u64>) -> Ask) -> Result<u64, Fault> {
        let (reply, answer) = Reply::channel();
        self.directory.send(&id.to_owned(), ask(reply));
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        answer.expect("every message is answered").unwrap_or(Err(Fault::Gone))
    }

    /// Asks until the shard is back.
    async fn epoch(&self, id: &str) -> u64 {
        let asking = async {
            loop {
                match self.ask(id, Ask::Epoch).await {
                    Ok(epoch) => return epoch,
                    Err(fault) => assert!(fault.is_retryable(), "{fault}"),
                }
                self.clock.advance(Duration::from_millis(10));
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.expect("the shard comes back")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_supervisor_that_is_killed_takes_its_actors_along_and_the_shard_comes_back() {
    let world = world().await;
    let first = world.epoch("a").await;
    let live = world.node.live(ShardId(0)).expect("the shard is held");
    let (reply, never) = Reply::channel();
    world.directory.send(&"busy".to_owned(), Ask::Never(reply));
    live.supervisor.kill();
    let left = tokio::time::timeout(PATIENCE, never).await.expect("nobody is left waiting");
    assert!(matches!(left, Ok(Err(Fault::Gone))), "{left:?}");
    assert!(world.epoch("a").await > first, "a new tenure fences off the old");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_supervisor_that_panics_ends_its_tenure_and_the_shard_comes_back() {
    let world = world().await;
    let first = world.epoch("a").await;
    let live = world.node.live(ShardId(0)).expect("the shard is held");
    let child = {
        let mut exits = live.children.exits.lock();
        exits.values_mut().for_each(|exit| *exit = Arc::new(Deadly));
        exits.len()
    };
    assert_eq!(child, 1);
    let slots = world.directory.rooms[0].slots.read().clone();
    slots.values().for_each(|slot| slot.actor.stop(None));
    let mut standing = live.standing.subscribe();
    // What it returns holds a lock on the flag.
    let failed = standing.wait_for(|standing| *standing == crate::shard::Standing::Failed);
    let ended = tokio::time::timeout(PATIENCE, failed).await.is_ok();
    assert!(ended, "the tenure ends with its supervisor");
    assert!(world.epoch("a").await > first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn actors_whose_end_nobody_heard_of_are_swept_away() {
    let world = world().await;
    world.epoch("a").await;
    let live = world.node.live(ShardId(0)).expect("the shard is held");
    // Its end is told to a supervisor that is no more.
    live.children.exits.lock().clear();
    live.supervisor.kill();
    let sweeping = async {
        while world.directory.stats().active > 0 {
            world.clock.advance(Duration::from_secs(75));
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, sweeping).await.expect("the dead are not kept");
}
