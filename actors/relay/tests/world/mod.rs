//! Clusters of nodes in one process over one store in memory, each node on a runtime of its own, so that it can be
//! killed; with links over loopback and real certificates.

#![allow(dead_code, reason = "every test uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

pub(crate) mod authority;
pub(crate) mod counter;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use aa_relay::{GrpcTransport, LinkLimits, NodeTls, RelayOptions, RelayServer};
use aa_runtime::{
    ClusterOptions, Directory, DirectoryOptions, Fault, Node, PROTOCOLS, Reply, ShardId,
    SystemClock, SystemEntropy, cluster,
};
use aa_store::{MemoryStore, Store};
use bytes::Bytes;
use tokio::{
    net::TcpListener,
    runtime::{Builder, Handle, Runtime},
};

use self::{
    authority::Authority,
    counter::{Ask, Counter, Held, Shared},
};

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const LEASE: Duration = Duration::from_millis(1_500);

/// The cluster's shards. Few, so that every node has a look at all of them.
pub(crate) const SHARDS: u16 = 8;

pub(crate) struct World {
    pub(crate) store: MemoryStore,
    pub(crate) authority: Authority,
}

pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) node: Node,
    pub(crate) transport: Arc<GrpcTransport>,
    pub(crate) tls: Arc<NodeTls>,
    pub(crate) directory: Arc<Directory<Counter>>,
    pub(crate) held: Held,
    pub(crate) address: SocketAddr,
    server: Option<RelayServer>,
    runtime: Option<Runtime>,
}

impl World {
    /// A store for a cluster named `test`, and no node yet.
    pub(crate) async fn new() -> Self {
        let store = MemoryStore::new();
        let mut txn = store.begin().await.unwrap();
        txn.put(
            Bytes::from_static(b"layout/shards"),
            Bytes::copy_from_slice(&SHARDS.to_be_bytes()),
        );
        txn.commit().await.unwrap();
        Self { store, authority: Authority::new() }
    }

    /// A cluster of these nodes, in which the first has every shard.
    pub(crate) async fn of(names: &[&str]) -> (Self, Vec<Member>) {
        let world = Self::new().await;
        let mut members = Vec::new();
        for name in names {
            members.push(world.join(name).await);
            world.settle(&members).await;
        }
        (world, members)
    }

    pub(crate) async fn join(&self, name: &str) -> Member {
        self.join_within(name, LinkLimits::default()).await
    }

    /// Another node, within limits of its own.
    pub(crate) async fn join_within(&self, name: &str, limits: LinkLimits) -> Member {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let tls = Arc::new(self.authority.node("test", name));
        let options = RelayOptions { limits, ..RelayOptions::new("1.0.0") };
        let joining = join(self.store.clone(), name.to_owned(), Arc::clone(&tls), options);
        let joined = runtime.handle().spawn(tokio::time::timeout(PATIENCE, joining));
        let (node, transport, server, directory, held) = joined.await.unwrap().expect("it joins");
        Member {
            name: name.to_owned(),
            node,
            transport,
            tls,
            directory,
            held,
            address: server.address(),
            server: Some(server),
            runtime: Some(runtime),
        }
    }

    /// Waits until every node knows where every shard is.
    pub(crate) async fn settle(&self, members: &[Member]) {
        let sees_all = |member: &Member| {
            let view = member.node.view();
            let alive = view.nodes.iter().filter(|node| node.is_alive).count();
            let is_settled = |shard: &cluster::ShardStatus| {
                let known = shard.ownership.as_ref();
                shard.is_served && known.is_some_and(|known| known.successor.is_none())
            };
            alive >= members.len()
                && view.shards.len() == usize::from(SHARDS)
                && view.shards.iter().all(is_settled)
        };
        until("every shard is served", || members.iter().all(sees_all)).await;
    }

    /// Moves the shard of `id` to a node, and waits until all know.
    pub(crate) async fn give(&self, id: &str, to: &str, members: &[Member]) {
        let shard = shard_of(id);
        cluster::order_moves(&self.store, &[(shard, to)]).await.unwrap();
        let is_there = |member: &Member| {
            let view = member.node.view();
            let shard = view.shards.iter().find(|known| known.shard == shard);
            let known = shard.and_then(|known| known.ownership.clone());
            known.is_some_and(|known| known.owner.node == to && known.successor.is_none())
        };
        until("the shard is moved", || members.iter().all(is_there)).await;
        let owner = members.iter().find(|member| member.name == to).unwrap();
        until("the shard is taken", || owner.directory.is_here(&id.to_owned())).await;
    }
}

async fn join(
    store: MemoryStore,
    name: String,
    tls: Arc<NodeTls>,
    options: RelayOptions,
) -> (Node, Arc<GrpcTransport>, RelayServer, Arc<Directory<Counter>>, Held) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let transport = Arc::new(GrpcTransport::new(tls, Arc::new(SystemClock), options));
    let cluster = ClusterOptions {
        cluster: "test".to_owned(),
        identity: "sha256:test".to_owned(),
        address,
        zone: "here".to_owned(),
        version: "1.0.0".to_owned(),
        protocols: PROTOCOLS,
        lease: LEASE,
        max_skew: ClusterOptions::MAX_SKEW,
    };
    let store: Arc<dyn Store> = Arc::new(store);
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
    let carrying = Arc::clone(&transport) as _;
    let node = Node::join(store, clock, entropy, name, cluster, carrying).await.expect("it joins");
    let held = Held::default();
    let shared = Shared { store: node.store(), held: Held::clone(&held) };
    let directory = Directory::new(node.clone(), shared, DirectoryOptions::default());
    let server = RelayServer::start(listener, &transport, node.relay().clone()).unwrap();
    (node, transport, server, directory, held)
}

impl Member {
    /// Where the node's tasks run.
    pub(crate) fn handle(&self) -> Handle {
        self.runtime.as_ref().expect("the node lives").handle().clone()
    }

    pub(crate) fn asker(&self) -> Asker {
        Asker { handle: self.handle(), directory: Arc::clone(&self.directory) }
    }

    pub(crate) async fn add(&self, id: &str, op: u64) -> Result<u64, Fault> {
        self.asker().ask(id, move |reply| Ask::Add(op, reply)).await
    }

    /// Ends everything of the node at once, as `kill -9` would.
    pub(crate) fn kill(mut self) -> Arc<GrpcTransport> {
        self.server = None;
        let runtime = self.runtime.take().expect("the node lives");
        runtime.shutdown_background();
        Arc::clone(&self.transport)
    }

    /// Ends the node as planned.
    pub(crate) async fn stop(mut self) {
        let (node, server) = (self.node.clone(), self.server.take().expect("the node lives"));
        let stopping = self.handle().spawn(async move {
            node.stop().await;
            server.stop(Duration::from_secs(10)).await;
        });
        tokio::time::timeout(PATIENCE, stopping).await.expect("it stops").unwrap();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.server = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Asks counters as a node would.
#[derive(Clone)]
pub(crate) struct Asker {
    handle: Handle,
    directory: Arc<Directory<Counter>>,
}

impl Asker {
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        id: &str,
        message: impl FnOnce(Reply<T>) -> Ask + Send + 'static,
    ) -> Result<T, Fault> {
        let (directory, id) = (Arc::clone(&self.directory), id.to_owned());
        let asking = self.handle.spawn(async move {
            let (reply, answer) = Reply::channel();
            directory.send(&id, message(reply));
            answer.await.unwrap_or(Err(Fault::Gone))
        });
        tokio::time::timeout(PATIENCE, asking)
            .await
            .expect("every message is answered")
            .unwrap_or(Err(Fault::Gone))
    }

    /// Adds, again and again with the same number, until it is known that it is done.
    pub(crate) async fn add_surely(&self, id: &str, op: u64) -> u64 {
        let adding = async {
            loop {
                match self.ask(id, move |reply| Ask::Add(op, reply)).await {
                    Ok(count) => return count,
                    Err(fault) => assert!(fault.is_retryable(), "{fault}"),
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, adding).await.expect("it is done at last")
    }
}

pub(crate) fn shard_of(id: &str) -> ShardId {
    ShardId::of("counter", id.as_bytes(), SHARDS)
}

/// Ids of counters, the first on shard 0, and so on around.
pub(crate) fn ids(count: usize) -> Vec<String> {
    let on = |shard: u16| {
        let names = (0..).map(move |number| format!("c{number}"));
        names.filter(move |name| shard_of(name).0 == shard)
    };
    let mut by_shard: Vec<_> = (0..SHARDS).map(on).collect();
    (0..count).map(|at| by_shard[at % usize::from(SHARDS)].next().unwrap()).collect()
}

/// Waits until `reached`: bounded.
pub(crate) async fn until(what: &str, reached: impl Fn() -> bool) {
    let waiting = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("not reached: {what}"));
}
