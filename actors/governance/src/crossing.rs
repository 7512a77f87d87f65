//! Two nodes of one cluster, for tests of what crosses from one to the other: packed, sent, unpacked, and answered.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fmt::Debug, sync::Arc, time::Duration};

use aa_protocol::{AgentId, Timestamp, WorkspaceId};
use aa_runtime::{
    ClusterOptions, Directory, DirectoryOptions, Entity, Fault, Flow, LiveShard, LoadError, Node,
    PROTOCOLS, Remote, Reply, SeededEntropy,
    sim::{SimClock, SimNet},
};
use aa_store::{MemoryStore, Store};
use tokio::sync::mpsc;

pub(crate) const NOW: Timestamp = Timestamp::from_micros(1_795_435_200_123_456);

/// An actor that passes on what it is sent.
struct Mirror<M>(mpsc::UnboundedSender<M>);

/// The way of messages from one node to the other.
pub(crate) struct Crossing<M: Remote> {
    here: Arc<Directory<Mirror<M>>>,
    _there: Arc<Directory<Mirror<M>>>,
    _net: SimNet,
    id: String,
    arrivals: mpsc::UnboundedReceiver<M>,
}

/// Far more than anything takes here; time is simulated.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn workspace() -> WorkspaceId {
    "ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890".parse().unwrap()
}

pub(crate) fn agent() -> AgentId {
    AgentId::of_name(workspace(), "a")
}

impl<M: Remote> Entity for Mirror<M> {
    type Id = String;
    type Message = M;
    type Context = mpsc::UnboundedSender<M>;

    const KIND: &'static str = "mirror";

    fn shard_key(id: &String) -> Vec<u8> {
        id.clone().into_bytes()
    }

    async fn load(
        _id: String,
        _shard: Arc<LiveShard>,
        arrivals: mpsc::UnboundedSender<M>,
    ) -> Result<Self, LoadError> {
        Ok(Self(arrivals))
    }

    async fn handle(&mut self, message: M) -> Flow {
        let _ = self.0.send(message);
        Flow::Continue
    }
}

async fn join(name: &str, seed: u64, store: &Arc<dyn Store>, net: &SimNet) -> Node {
    let options = ClusterOptions {
        cluster: "prod".to_owned(),
        identity: "authority".to_owned(),
        address: format!("{name}:7100"),
        zone: String::new(),
        version: "1.0.0".to_owned(),
        protocols: PROTOCOLS,
        lease: ClusterOptions::LEASE,
        max_skew: ClusterOptions::MAX_SKEW,
    };
    let node = Node::join(
        Arc::clone(store),
        Arc::new(SimClock::new(NOW)),
        Arc::new(SeededEntropy::new(seed)),
        name.to_owned(),
        options,
        net.transport(name),
    );
    let node = node.await.unwrap();
    net.plug_in(name, node.incarnation(), node.relay().clone());
    node
}

impl<M: Remote + Debug> Crossing<M> {
    pub(crate) async fn new() -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let net = SimNet::new(7);
        let (sender, arrivals) = mpsc::unbounded_channel();
        let options = DirectoryOptions::default();
        let here = Directory::new(join("here", 1, &store, &net).await, sender.clone(), options);
        let there = Directory::new(join("there", 2, &store, &net).await, sender, options);
        let away = |id: &String| !here.is_here(id) && there.is_here(id);
        let finding = async {
            loop {
                match (0..64).map(|number| number.to_string()).find(away) {
                    Some(id) => return id,
                    None => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        let id = tokio::time::timeout(PATIENCE, finding).await.expect("the nodes share the shards");
        Self { here, _there: there, _net: net, id, arrivals }
    }

    /// The message as the other node's actor gets it.
    pub(crate) async fn carry(&mut self, message: M) -> M {
        self.here.send(&self.id, message);
        let arrival = tokio::time::timeout(PATIENCE, self.arrivals.recv()).await;
        arrival.expect("the message arrives").unwrap()
    }

    /// A message that stays where it is, and whose replies are answered all the same.
    pub(crate) fn stays(&self, message: M) {
        assert!(message.pack().is_none());
    }

    /// The message arrives as it was sent, and so does each of these answers.
    pub(crate) async fn is_answered<T: Debug + Send + 'static>(
        &mut self,
        message: impl Fn(Reply<T>) -> M,
        reply_of: impl Fn(M) -> Option<Reply<T>>,
        answers: impl IntoIterator<Item = T>,
    ) {
        let fault = Fault::NotDurable("the disk is full".to_owned());
        for answer in answers.into_iter().map(Ok).chain([Err(fault)]) {
            let (reply, received) = Reply::channel();
            let sent = message(reply);
            let shown = format!("{sent:?}");
            let arrived = self.carry(sent).await;
            assert_eq!(format!("{arrived:?}"), shown);
            let expected = format!("{answer:?}");
            let reply = reply_of(arrived).expect("it is the message that was sent");
            reply.send(answer);
            let received = tokio::time::timeout(PATIENCE, received).await;
            let received = received.expect("the answer arrives").unwrap();
            assert_eq!(format!("{received:?}"), expected);
        }
        // One that is not handled is answered too.
        let (reply, received) = Reply::channel();
        message(reply).fail(Fault::Gone);
        assert_eq!(received.await.unwrap().unwrap_err(), Fault::Gone);
    }
}

/// The reply of a message of this form.
macro_rules! reply_of {
    ($form:pat => $reply:ident) => {
        |message| match message {
            $form => Some($reply),
            _ => None,
        }
    };
}
pub(crate) use reply_of;
