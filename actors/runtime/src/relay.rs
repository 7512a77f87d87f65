//! From node to node: finds the owner of a shard, and carries messages there and answers back.
//!
//! The relay knows neither actors nor networks. Directories register under their kind and take what comes
//! in; a [`Transport`] carries [`Request`]s. What this adds is patience: a shard that is moving is waited
//! for, and a message that reached the wrong node is sent on once the owner is known.
//!
//! A message is taken by at most one actor: it goes elsewhere only after the node it was sent to has said
//! that it did not take it. If that node falls silent instead, the caller is told so and decides.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::mpsc;

use crate::{
    clock::Clock,
    fault::{Fault, Reply},
    placement::{Peer, Place, ShardTable},
    shard::ShardId,
    wire::{Incoming, Outgoing},
};

/// The kind of what nodes tell each other.
const CLUSTER: &str = "cluster";

/// How long a message waits for its shard to have an owner that takes it.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long an answer from another node is waited for. Actors answer once a commit is done; nothing that
/// waits for people holds an answer back.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Messages that wait for the owner of a shard at one time. Past it they are refused at once.
pub const MAX_WAITING: u64 = 65_536;

/// A message for an actor of another node.
#[derive(Clone, Debug)]
pub struct Request {
    /// The shard that the actor lives in.
    pub shard: ShardId,
    /// The actor's kind.
    pub kind: String,
    /// Its id, as its directory wrote it.
    pub id: Bytes,
    /// What is asked.
    pub verb: String,
    /// With which data.
    pub body: Bytes,
    /// How many answers there will be.
    pub replies: u16,
}

/// What comes back for a [`Request`].
#[derive(Clone, Debug)]
pub enum Frame {
    /// The node did not take the message: it may be sent elsewhere. Nothing follows.
    Refused(Fault),
    /// One of the answers.
    Answer {
        /// Which, from 0.
        index: u16,
        /// The answer.
        answer: Result<Bytes, Fault>,
    },
}

/// The frames of one request, in the order of their arrival. It ends with the connection, or once there is
/// nothing more to come.
pub type Frames = mpsc::UnboundedReceiver<Frame>;

/// Carries requests to other nodes.
pub trait Transport: Send + Sync + 'static {
    /// Sends a request. Requests of one caller to one node arrive in their order. It does not wait: what
    /// cannot be sent is answered by a frame, or by the end of the frames when it is not known whether it
    /// arrived.
    fn call(&self, to: &Peer, request: Request) -> Frames;
}

/// Takes messages for the actors of one kind.
pub(crate) trait Taker: Send + Sync {
    /// Whether this node has the shard, and may answer for it.
    fn serves(&self, shard: ShardId) -> bool;

    /// Gives a message to an actor of this node. Its replies are answered, whatever happens.
    fn take(&self, id: &[u8], incoming: Incoming);
}

/// Counts of what went between this node and others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayStats {
    /// Messages sent to other nodes.
    pub sent: u64,
    /// Messages taken from other nodes.
    pub taken: u64,
    /// Messages from other nodes that were not for this one.
    pub misdirected: u64,
    /// Messages sent on after a node refused them, or after their shard had moved.
    pub sent_again: u64,
    /// Messages whose answer never came.
    pub lost: u64,
    /// Messages that wait for their shard to have an owner.
    pub waiting: u64,
}

/// Sends messages to where their shard lives. Cheap to clone.
#[derive(Clone)]
pub struct Relay {
    inner: Arc<Inner>,
}

struct Inner {
    /// The name of this node.
    node: String,
    table: Arc<ShardTable>,
    transport: Option<Arc<dyn Transport>>,
    clock: Arc<dyn Clock>,
    takers: RwLock<BTreeMap<&'static str, Weak<dyn Taker>>>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    taken: AtomicU64,
    misdirected: AtomicU64,
    sent_again: AtomicU64,
    lost: AtomicU64,
    waiting: AtomicU64,
}

/// One message on its way, with its ways back.
struct Journey {
    request: Request,
    /// By the index of the answer; `None` once it is answered.
    replies: Vec<Option<Reply<Bytes>>>,
}

/// Counts a waiting message for as long as it waits.
struct Waiting<'c>(&'c AtomicU64);

// === impl Relay ===

impl Relay {
    pub(crate) fn new(
        node: String,
        table: Arc<ShardTable>,
        transport: Option<Arc<dyn Transport>>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let takers = RwLock::default();
        let counts = Counts::default();
        Self { inner: Arc::new(Inner { node, table, transport, clock, takers, counts }) }
    }

    /// From now on, messages for `kind` that come in are given to `taker`.
    pub(crate) fn register(&self, kind: &'static str, taker: Weak<dyn Taker>) {
        self.inner.takers.write().insert(kind, taker);
    }

    /// Sends a message to the node that owns `shard`. Its replies are answered, whatever happens.
    pub(crate) fn send(&self, shard: ShardId, kind: &'static str, id: Bytes, outgoing: Outgoing) {
        let Outgoing { verb, body, replies } = outgoing;
        let body = match body {
            Ok(body) => body,
            Err(error) => {
                let fault = Fault::Unreadable(error.to_string());
                return replies.into_iter().for_each(|reply| reply.send(Err(fault.clone())));
            }
        };
        let request = Request {
            shard,
            kind: kind.to_owned(),
            id,
            verb: verb.to_owned(),
            body,
            replies: replies.len() as u16,
        };
        let journey = Journey { request, replies: replies.into_iter().map(Some).collect() };
        // On its way before this returns, when the owner is known: what one caller sends to one actor
        // arrives in its order.
        let frames = match (self.inner.table.find(shard), &self.inner.transport) {
            (Place::At(peer), Some(transport)) => {
                self.inner.counts.sent.fetch_add(1, Ordering::Relaxed);
                Some((transport.call(&peer, journey.request.clone()), peer))
            }
            _ => None,
        };
        tokio::spawn(self.clone().carry(journey, frames));
    }

    /// Tells another node to look at the store's records now.
    pub(crate) fn nudge(&self, peer: &Peer) {
        if let Some(transport) = &self.inner.transport {
            let request = Request {
                shard: ShardId(0),
                kind: CLUSTER.to_owned(),
                id: Bytes::new(),
                verb: "look".to_owned(),
                body: Bytes::new(),
                replies: 0,
            };
            // If it does not arrive, the node looks by itself soon.
            drop(transport.call(peer, request));
        }
    }

    /// Takes a request from another node. Its frames go to `frames`.
    pub fn take(&self, request: Request, frames: &mpsc::UnboundedSender<Frame>) {
        let frames = frames.clone();
        self.take_with(request, move |frame| {
            // A node that hung up needs no answer.
            let _ = frames.send(frame);
        });
    }

    /// Takes a request from another node. Its frames are given to `deliver`, which must not block or panic; once
    /// the last clone of it is dropped, no more will come.
    pub fn take_with<D>(&self, request: Request, deliver: D)
    where
        D: Fn(Frame) + Clone + Send + 'static,
    {
        let counts = &self.inner.counts;
        if request.kind == CLUSTER {
            return self.inner.table.look_again();
        }
        let Request { shard, kind, id, verb, body, replies } = request;
        let (taker, has_actors) = {
            let takers = self.inner.takers.read();
            (takers.get(kind.as_str()).and_then(Weak::upgrade), !takers.is_empty())
        };
        // A node that has no actors at all is about to start them.
        if taker.is_none() && has_actors && self.inner.table.live(shard).is_some() {
            // Whoever was told that the shard is elsewhere would ask again and again.
            let fault = Fault::NotUnderstood { node: self.inner.node.clone(), verb };
            tracing::warn!(kind, %fault, "a message for actors of a later version was refused");
            return deliver(Frame::Refused(fault));
        }
        let Some(taker) = taker.filter(|taker| taker.serves(shard)) else {
            counts.misdirected.fetch_add(1, Ordering::Relaxed);
            return deliver(Frame::Refused(Fault::ShardAway { shard: shard.0 }));
        };
        let reply = |index| {
            let deliver = deliver.clone();
            Reply::new(move |answer| deliver(Frame::Answer { index, answer }))
        };
        counts.taken.fetch_add(1, Ordering::Relaxed);
        taker.take(&id, Incoming::new(verb, body, (0..replies).map(reply).collect()));
    }

    /// What went between this node and others so far.
    pub fn stats(&self) -> RelayStats {
        let Counts { sent, taken, misdirected, sent_again, lost, waiting } = &self.inner.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        RelayStats {
            sent: read(sent),
            taken: read(taken),
            misdirected: read(misdirected),
            sent_again: read(sent_again),
            lost: read(lost),
            waiting: read(waiting),
        }
    }

    /// Stays with a message until it is answered.
    async fn carry(self, mut journey: Journey, mut under_way: Option<(Frames, Peer)>) {
        let shard = journey.request.shard;
        let patience = self.inner.clock.sleep(PATIENCE);
        tokio::pin!(patience);
        loop {
            if let Some((frames, peer)) = under_way.take() {
                match self.listen(&mut journey, frames, &peer).await {
                    Ended::Answered => return,
                    Ended::Refused => {
                        self.inner.counts.sent_again.fetch_add(1, Ordering::Relaxed);
                        self.inner.table.doubt(shard, &peer);
                    }
                }
            }
            let Some(_waiting) = Waiting::enter(&self.inner.counts.waiting) else {
                return journey.fail(&Fault::ShardAway { shard: shard.0 });
            };
            let place = tokio::select! {
                biased;
                place = self.inner.table.wait_for(shard) => place,
                () = &mut patience => return journey.fail(&Fault::ShardAway { shard: shard.0 }),
            };
            match (place, &self.inner.transport) {
                (Place::Here, _) => return self.hand_over(journey),
                (Place::At(peer), Some(transport)) => {
                    self.inner.counts.sent.fetch_add(1, Ordering::Relaxed);
                    under_way = Some((transport.call(&peer, journey.request.clone()), peer));
                }
                _ => return journey.fail(&Fault::ShardAway { shard: shard.0 }),
            }
        }
    }

    /// Hands answers back as they come.
    async fn listen(&self, journey: &mut Journey, mut frames: Frames, peer: &Peer) -> Ended {
        let node = || peer.name.to_string();
        let too_long = self.inner.clock.sleep(ANSWER_WITHIN);
        tokio::pin!(too_long);
        let gone = self.inner.table.wait_until_gone(peer);
        tokio::pin!(gone);
        let why = loop {
            if journey.replies.iter().all(Option::is_none) {
                return Ended::Answered;
            }
            let frame = tokio::select! {
                biased;
                frame = frames.recv() => frame,
                () = &mut gone => break "its lease ended".to_owned(),
                () = &mut too_long => break format!("no answer within {ANSWER_WITHIN:?}"),
            };
            match frame {
                Some(Frame::Answer { index, answer }) => {
                    let reply = journey.replies.get_mut(usize::from(index));
                    // One that nobody asked for, or asked for twice, is dropped.
                    if let Some(reply) = reply.and_then(Option::take) {
                        reply.send(answer);
                    }
                }
                Some(Frame::Refused(Fault::ShardAway { .. })) => return Ended::Refused,
                Some(Frame::Refused(fault)) => {
                    journey.answer_rest(&fault);
                    return Ended::Answered;
                }
                None => break "the connection was lost".to_owned(),
            }
        };
        self.inner.counts.lost.fetch_add(1, Ordering::Relaxed);
        journey.answer_rest(&Fault::Unreachable { node: node(), why });
        Ended::Answered
    }

    /// The shard came to this node while the message was on its way.
    fn hand_over(&self, journey: Journey) {
        let Journey { request, replies } = journey;
        let taker = self.inner.takers.read().get(request.kind.as_str()).and_then(Weak::upgrade);
        // Only a message that nobody took is handed over, so all of its replies are there.
        let replies: Vec<_> = replies.into_iter().flatten().collect();
        match taker {
            Some(taker) => {
                taker.take(&request.id, Incoming::new(request.verb, request.body, replies));
            }
            None => replies.into_iter().for_each(|reply| reply.send(Err(Fault::Gone))),
        }
    }
}

/// How listening for the answers of a message ended.
enum Ended {
    /// Everybody who waited has heard.
    Answered,
    /// The node did not take it.
    Refused,
}

// === impl Journey ===

impl Journey {
    fn fail(mut self, fault: &Fault) {
        self.answer_rest(fault);
    }

    fn answer_rest(&mut self, fault: &Fault) {
        for reply in self.replies.iter_mut().filter_map(Option::take) {
            reply.send(Err(fault.clone()));
        }
    }
}

// === impl Waiting ===

impl<'c> Waiting<'c> {
    /// `None` when as many wait as may.
    fn enter(count: &'c AtomicU64) -> Option<Self> {
        let entered = Self(count);
        let before = count.fetch_add(1, Ordering::Relaxed);
        (before < MAX_WAITING).then_some(entered)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
