//! Counters that live on the nodes of a cluster, in this process and on simulated time.

#![allow(dead_code, reason = "no test needs all of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aa_protocol::Timestamp;
use aa_runtime::{
    ClusterOptions, Directory, DirectoryOptions, Entity, Fault, Flow, Incoming, LiveShard,
    LoadError, Node, NodeError, Outgoing, PROTOCOLS, Record, Remote, Reply, SeededEntropy,
    WireError,
    sim::{SimClock, SimNet, SimStore},
};
use aa_store::{MemoryStore, Store};
use bytes::Bytes;

pub(crate) struct Counter {
    pub(crate) id: String,
    pub(crate) shard: Arc<LiveShard>,
    pub(crate) count: u64,
}

#[derive(Debug)]
pub(crate) enum Ask {
    Add(Reply<u64>),
    Get(Reply<u64>),
    /// Tells all nodes.
    Shout(Reply<u64>),
}

impl Remote for Ask {
    fn pack(self) -> Option<Outgoing> {
        Some(match self {
            Self::Add(reply) => Outgoing::new("add", &()).answering(reply),
            Self::Get(reply) => Outgoing::new("get", &()).answering(reply),
            Self::Shout(reply) => Outgoing::new("shout", &()).answering(reply),
        })
    }

    fn unpack(incoming: &mut Incoming) -> Result<Self, WireError> {
        match incoming.verb() {
            "add" => Ok(Self::Add(incoming.reply()?)),
            "get" => Ok(Self::Get(incoming.reply()?)),
            "shout" => Ok(Self::Shout(incoming.reply()?)),
            _ => incoming.unknown(),
        }
    }

    fn fail(self, fault: Fault) {
        let (Self::Add(reply) | Self::Get(reply) | Self::Shout(reply)) = self;
        reply.send(Err(fault));
    }
}

impl Entity for Counter {
    type Id = String;
    type Message = Ask;
    type Context = Arc<dyn Store>;

    const KIND: &'static str = "counter";

    fn shard_key(id: &String) -> Vec<u8> {
        id.clone().into_bytes()
    }

    async fn load(
        id: String,
        shard: Arc<LiveShard>,
        store: Arc<dyn Store>,
    ) -> Result<Self, LoadError> {
        let failed = |error| LoadError::new::<Self>(&id, error);
        let mut txn = store.begin().await.map_err(failed)?;
        let stored = txn.get_snapshot(id.as_bytes()).await.map_err(failed)?;
        let count =
            stored.map_or(0, |bytes| u64::from_be_bytes(bytes.as_ref().try_into().unwrap()));
        Ok(Self { id, shard, count })
    }

    async fn handle(&mut self, ask: Ask) -> Flow {
        match ask {
            Ask::Get(reply) => self.shard.journal.answer_after(reply, self.count),
            Ask::Shout(reply) => {
                let done = reply.map(|()| 0);
                let news = vec![Bytes::copy_from_slice(self.id.as_bytes())];
                let record = Record { news, ..Record::of_state(Vec::new(), done) };
                let _ = self.shard.journal.append(record);
            }
            Ask::Add(reply) => {
                self.count += 1;
                let count = self.count;
                let key = Bytes::copy_from_slice(self.id.as_bytes());
                let write = (key, Bytes::copy_from_slice(&count.to_be_bytes()));
                let done = Reply::new(move |committed: Result<(), Fault>| {
                    reply.send(committed.map(|()| count));
                });
                let _ = self.shard.journal.append(Record::of_state(vec![write], done));
            }
        }
        Flow::Continue
    }
}

/// A cluster in this process.
pub(crate) struct World {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) net: SimNet,
    pub(crate) clock: SimClock,
    pub(crate) nodes: BTreeMap<&'static str, Member>,
}

pub(crate) struct Member {
    pub(crate) node: Node,
    pub(crate) directory: Arc<Directory<Counter>>,
    pub(crate) store: SimStore,
}

pub(crate) const START: Timestamp = Timestamp::from_micros(1_790_000_000_000_000);

/// Far more than anything takes here.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn options(name: &str) -> ClusterOptions {
    ClusterOptions {
        cluster: "prod".to_owned(),
        identity: "authority".to_owned(),
        address: format!("{name}:7100"),
        zone: String::new(),
        version: "1.0.0".to_owned(),
        protocols: PROTOCOLS,
        lease: ClusterOptions::LEASE,
        max_skew: ClusterOptions::MAX_SKEW,
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            store: Arc::new(MemoryStore::new()),
            net: SimNet::new(7),
            clock: SimClock::new(START),
            nodes: BTreeMap::new(),
        }
    }

    pub(crate) async fn of(names: &[&'static str]) -> Self {
        let mut world = Self::new();
        for name in names {
            world.start(name, options(name)).await.unwrap();
        }
        world.settle().await;
        world
    }

    pub(crate) async fn start(
        &mut self,
        name: &'static str,
        options: ClusterOptions,
    ) -> Result<(), NodeError> {
        let clock = self.clock.another();
        self.start_with(name, options, clock).await
    }

    pub(crate) async fn start_with(
        &mut self,
        name: &'static str,
        options: ClusterOptions,
        clock: SimClock,
    ) -> Result<(), NodeError> {
        let seed = self.nodes.len() as u64 + 1;
        let store = SimStore::new(Arc::clone(&self.store), seed);
        let node = Node::join(
            Arc::new(store.clone()),
            Arc::new(clock),
            Arc::new(SeededEntropy::new(seed)),
            name.to_owned(),
            options,
            self.net.transport(name),
        )
        .await?;
        let context: Arc<dyn Store> = Arc::new(store.clone());
        let directory = Directory::new(node.clone(), context, DirectoryOptions::default());
        self.net.plug_in(name, node.incarnation(), node.relay().clone());
        self.nodes.insert(name, Member { node, directory, store });
        Ok(())
    }

    /// Waits until every shard is served and nobody wants to move one.
    pub(crate) async fn settle(&self) {
        self.until("the cluster settles", |world| {
            let shares = world.shares();
            let fair = 256 / world.nodes.len().max(1);
            shares.values().sum::<usize>() == 256
                && shares.values().all(|share| *share * 6 / 5 >= fair * 4 / 5)
        })
        .await;
    }

    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !is_so(self) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "{what}: {:?}", self.shares());
    }

    /// How many shards each node serves.
    pub(crate) fn shares(&self) -> BTreeMap<&'static str, usize> {
        let serves = |member: &Member| {
            (0..256).filter(|shard| member.node.live(aa_runtime::ShardId(*shard)).is_some()).count()
        };
        self.nodes.iter().map(|(name, member)| (*name, serves(member))).collect()
    }

    pub(crate) async fn ask(
        &self,
        at: &str,
        id: &str,
        message: impl FnOnce(Reply<u64>) -> Ask,
    ) -> Result<u64, Fault> {
        let (reply, answer) = Reply::channel();
        self.nodes[at].directory.send(&id.to_owned(), message(reply));
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        answer.expect("every message is answered").unwrap_or(Err(Fault::Gone))
    }

    /// Asks until somebody answers.
    pub(crate) async fn insist(
        &self,
        at: &str,
        id: &str,
        message: impl Fn(Reply<u64>) -> Ask,
    ) -> u64 {
        loop {
            match self.ask(at, id, &message).await {
                Ok(answer) => return answer,
                Err(fault) => assert!(fault.is_retryable(), "{fault}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) fn owner_of(&self, id: &str) -> Option<&'static str> {
        let here = |member: &Member| member.directory.is_here(&id.to_owned());
        self.nodes.iter().find(|(_, member)| here(member)).map(|(name, _)| *name)
    }

    pub(crate) fn crash(&mut self, name: &str) {
        let member = self.nodes.remove(name).unwrap();
        member.store.set_cut(true);
        self.net.pull_out(name);
        member.node.crash();
    }
}

pub(crate) fn ids() -> impl Iterator<Item = String> {
    (0..40).map(|number| format!("counter-{number}"))
}
