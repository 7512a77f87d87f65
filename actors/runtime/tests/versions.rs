//! Nodes of different versions in one cluster, as they are while it is upgraded.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod counters;

use std::{sync::Arc, time::Duration};

use aa_runtime::{
    ClusterOptions, Directory, DirectoryOptions, Entity, Fault, Flow, Incoming, LiveShard,
    LoadError, Node, NodeError, Outgoing, Protocols, Remote, Reply, SeededEntropy, WireError,
    cluster,
};
use aa_store::Store;

use self::counters::{Ask, Counter, PATIENCE, World, ids, options};

/// The same counters in a later version.
struct LaterCounter(Counter);

#[derive(Debug)]
enum LaterAsk {
    Known(Ask),
    Double(Reply<u64>),
}

impl Remote for LaterAsk {
    fn pack(self) -> Option<Outgoing> {
        match self {
            Self::Known(ask) => ask.pack(),
            Self::Double(reply) => Some(Outgoing::new("double", &()).answering(reply)),
        }
    }

    fn unpack(incoming: &mut Incoming) -> Result<Self, WireError> {
        match incoming.verb() {
            "double" => Ok(Self::Double(incoming.reply()?)),
            _ => Ask::unpack(incoming).map(Self::Known),
        }
    }

    fn fail(self, fault: Fault) {
        match self {
            Self::Known(ask) => ask.fail(fault),
            Self::Double(reply) => reply.send(Err(fault)),
        }
    }
}

impl Entity for LaterCounter {
    type Id = String;
    type Message = LaterAsk;
    type Context = Arc<dyn Store>;

    const KIND: &'static str = Counter::KIND;

    fn shard_key(id: &String) -> Vec<u8> {
        Counter::shard_key(id)
    }

    async fn load(
        id: String,
        shard: Arc<LiveShard>,
        store: Arc<dyn Store>,
    ) -> Result<Self, LoadError> {
        Counter::load(id, shard, store).await.map(Self)
    }

    async fn handle(&mut self, ask: LaterAsk) -> Flow {
        match ask {
            LaterAsk::Known(ask) => self.0.handle(ask).await,
            LaterAsk::Double(reply) => {
                let doubled = 2 * self.0.count;
                self.0.shard.journal.answer_after(reply, doubled);
                Flow::Continue
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_older_node_does_not_know_is_refused_until_it_is_replaced() {
    let speaks = |name, lowest, highest| ClusterOptions {
        protocols: Protocols { lowest, highest },
        ..options(name)
    };
    let mut world = World::new();
    world.start("a", speaks("a", 1, 1)).await.unwrap();
    world.start("b", speaks("b", 1, 2)).await.unwrap();
    world.settle().await;
    let id = ids().find(|id| world.owner_of(id) == Some("a")).unwrap();
    let own = ids().find(|id| world.owner_of(id) == Some("b")).unwrap();
    assert_eq!(world.ask("b", &id, Ask::Add).await, Ok(1));
    // From here on, `b` runs the later program.
    let member = &world.nodes["b"];
    let store: Arc<dyn Store> = Arc::new(member.store.clone());
    let later: Arc<Directory<LaterCounter>> =
        Directory::new(member.node.clone(), store, DirectoryOptions::default());
    let double = async |id: &String| {
        let (reply, answer) = Reply::channel();
        later.send(id, LaterAsk::Double(reply));
        tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap()
    };
    assert_eq!(double(&own).await, Ok(0));
    let refused = double(&id).await.unwrap_err();
    let expected = Fault::NotUnderstood { node: "a".to_owned(), verb: "double".to_owned() };
    assert_eq!(refused, expected);
    assert!(refused.is_retryable() && refused.to_string().contains("one version"), "{refused}");
    // What both know goes on in either direction, and whoever asks first is told what all know.
    assert_eq!(world.ask("a", &own, Ask::Add).await, Ok(1));
    assert_eq!(world.ask("b", &id, Ask::Add).await, Ok(2));
    assert_eq!(world.nodes["b"].node.protocol(), 1);

    world.nodes["a"].node.stop().await;
    world.nodes.remove("a");
    world.net.pull_out("a");
    world.start("a", speaks("a", 1, 2)).await.unwrap();
    world.until("both speak 2", |world| world.nodes.values().all(|m| m.node.protocol() == 2)).await;
    let answered = async {
        // It comes to `b`, or back to an `a` that knows no more than before.
        cluster::order_drain(&*world.store, "a", true).await.unwrap();
        loop {
            match double(&id).await {
                Ok(doubled) => return doubled,
                Err(fault) => assert!(fault.is_retryable(), "{fault}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, answered).await.unwrap(), 4);
}

/// Actors of a kind that there is only in the later version.
struct Gauge(Counter);

impl Entity for Gauge {
    type Id = String;
    type Message = Ask;
    type Context = Arc<dyn Store>;

    const KIND: &'static str = "gauge";

    fn shard_key(id: &String) -> Vec<u8> {
        Counter::shard_key(id)
    }

    async fn load(
        id: String,
        shard: Arc<LiveShard>,
        store: Arc<dyn Store>,
    ) -> Result<Self, LoadError> {
        Counter::load(id, shard, store).await.map(Self)
    }

    async fn handle(&mut self, ask: Ask) -> Flow {
        self.0.handle(ask).await
    }
}

#[tokio::test(start_paused = true)]
async fn actors_that_an_older_node_does_not_have_are_not_looked_for_elsewhere() {
    let world = World::of(&["a", "b"]).await;
    let member = &world.nodes["b"];
    let store: Arc<dyn Store> = Arc::new(member.store.clone());
    let gauges: Arc<Directory<Gauge>> =
        Directory::new(member.node.clone(), store, DirectoryOptions::default());
    let id = ids().find(|id| !gauges.is_here(id)).unwrap();
    let asked = tokio::time::Instant::now();
    let (reply, answer) = Reply::channel();
    gauges.send(&id, Ask::Get(reply));
    let refused = tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(&refused, Fault::NotUnderstood { node, .. } if node == "a"), "{refused}");
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn of_two_nodes_that_join_at_once_and_cannot_talk_one_is_refused() {
    let mut world = World::new();
    let speaks = |name: &'static str, protocol| ClusterOptions {
        protocols: Protocols { lowest: protocol, highest: protocol },
        ..options(name)
    };
    let join = |name: &'static str, protocol: u32| {
        Node::join(
            Arc::clone(&world.store),
            Arc::new(world.clock.another()),
            Arc::new(SeededEntropy::new(u64::from(protocol))),
            name.to_owned(),
            speaks(name, protocol),
            world.net.transport(name),
        )
    };
    let (older, later) = tokio::join!(join("a", 1), join("b", 2));
    let joined = [&older, &later].into_iter().filter(|joined| joined.is_ok()).count();
    assert!(joined <= 1, "they could not talk");
    for refused in [older.err(), later.err()].into_iter().flatten() {
        assert!(matches!(&refused, NodeError::NoCommonProtocol { .. }), "{refused}");
    }
    // One that was refused leaves nothing behind that keeps others out.
    tokio::time::sleep(2 * ClusterOptions::LEASE).await;
    if joined == 0 {
        world.start("c", speaks("c", 2)).await.unwrap();
    }
}
