//! The simulated network between nodes.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::later::with_more_fields;
use crate::{
    fault::Fault,
    placement::Peer,
    relay::{Frame, Frames, Relay, Request, Transport},
    signal::Signal,
};

/// The network. Clones are the same network.
#[derive(Clone)]
pub struct SimNet {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    chance: fastrand::Rng,
    nodes: BTreeMap<String, Plugged>,
    links: BTreeMap<(String, String), Link>,
    pipes: BTreeMap<(String, String), mpsc::UnboundedSender<Parcel>>,
    /// Nodes of a later version.
    later: BTreeSet<String>,
    delivered: u64,
}

/// A node that is plugged in.
struct Plugged {
    incarnation: u64,
    relay: Relay,
    /// Ends the connections to a node that is pulled out.
    pulled: Arc<Signal>,
}

/// What one direction between two nodes is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether nothing passes. What is sent is lost, and connections end once their silence is noticed.
    pub is_cut: bool,
    /// The shortest time on the way.
    pub shortest: Duration,
    /// The longest.
    pub longest: Duration,
}

/// Something on its way in one direction. A connection keeps its order.
struct Parcel {
    due: tokio::time::Instant,
    deliver: Box<dyn FnOnce() + Send>,
}

/// After how much silence a connection is given up.
const NOTICED_AFTER: Duration = Duration::from_secs(4);

/// The network as one node uses it.
struct Port {
    from: String,
    net: Weak<Mutex<Inner>>,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            is_cut: false,
            shortest: Duration::from_micros(100),
            longest: Duration::from_micros(500),
        }
    }
}

// === impl SimNet ===

impl SimNet {
    /// A network whose delays come from `seed`.
    pub fn new(seed: u64) -> Self {
        let inner = Inner {
            chance: fastrand::Rng::with_seed(seed),
            nodes: BTreeMap::new(),
            links: BTreeMap::new(),
            pipes: BTreeMap::new(),
            later: BTreeSet::new(),
            delivered: 0,
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// The network for the node of this name.
    pub fn transport(&self, node: &str) -> Arc<dyn Transport> {
        Arc::new(Port { from: node.to_owned(), net: Arc::downgrade(&self.inner) })
    }

    /// From now on, what is sent to `node` reaches `relay`. An earlier life of the node is pulled out.
    pub fn plug_in(&self, node: &str, incarnation: u64, relay: Relay) {
        self.pull_out(node);
        let plugged = Plugged { incarnation, relay, pulled: Arc::default() };
        self.inner.lock().nodes.insert(node.to_owned(), plugged);
    }

    /// The node is gone: its connections end at once.
    pub fn pull_out(&self, node: &str) {
        let pulled = self.inner.lock().nodes.remove(node);
        if let Some(plugged) = pulled {
            plugged.pulled.raise();
        }
    }

    /// From now on, what `node` sends and answers has fields that nobody knows, as from a later version.
    pub fn set_later(&self, node: &str) {
        self.inner.lock().later.insert(node.to_owned());
    }

    /// Changes one direction between two nodes.
    pub fn set_link(&self, from: &str, to: &str, link: Link) {
        self.inner.lock().links.insert((from.to_owned(), to.to_owned()), link);
    }

    /// Everything passes again, as fast as ever.
    pub fn heal(&self) {
        self.inner.lock().links.clear();
    }

    /// How many messages and answers were delivered.
    pub fn delivered(&self) -> u64 {
        self.inner.lock().delivered
    }
}

impl fmt::Debug for SimNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimNet").field("delivered", &self.delivered()).finish_non_exhaustive()
    }
}

// === impl Inner ===

impl Inner {
    fn link(&self, from: &str, to: &str) -> Link {
        let key = (from.to_owned(), to.to_owned());
        self.links.get(&key).copied().unwrap_or_default()
    }

    /// Sends something from one node to another; false when it is lost.
    fn send(&mut self, from: &str, to: &str, deliver: Box<dyn FnOnce() + Send>) -> bool {
        let link = self.link(from, to);
        if link.is_cut {
            return false;
        }
        let span = link.longest.saturating_sub(link.shortest);
        let delay = link.shortest + span.mul_f64(self.chance.f64());
        let due = tokio::time::Instant::now() + delay;
        let pipe = self.pipes.entry((from.to_owned(), to.to_owned())).or_insert_with(|| {
            let (pipe, parcels) = mpsc::unbounded_channel();
            tokio::spawn(carry(parcels));
            pipe
        });
        self.delivered += 1;
        pipe.send(Parcel { due, deliver }).is_ok()
    }
}

async fn carry(mut parcels: mpsc::UnboundedReceiver<Parcel>) {
    let mut queue = VecDeque::new();
    while let Some(parcel) = parcels.recv().await {
        queue.push_back(parcel);
        while let Some(Parcel { due, deliver }) = queue.pop_front() {
            tokio::time::sleep_until(due).await;
            deliver();
            while let Ok(parcel) = parcels.try_recv() {
                queue.push_back(parcel);
            }
        }
    }
}

// === impl Port ===

impl Transport for Port {
    fn call(&self, to: &Peer, mut request: Request) -> Frames {
        let (back, frames) = mpsc::unbounded_channel();
        let Some(net) = self.net.upgrade() else { return frames };
        let (from, to_name) = (self.from.clone(), to.name.to_string());
        let mut inner = net.lock();
        if inner.later.contains(&from) {
            request.body = with_more_fields(&request.body);
        }
        let pulled = match inner.nodes.get(&to_name) {
            Some(plugged) if plugged.incarnation == to.incarnation => Arc::clone(&plugged.pulled),
            // Nobody listens there: the connection is refused, and nothing was sent.
            _ => {
                let _ = back.send(Frame::Refused(Fault::ShardAway { shard: request.shard.0 }));
                return frames;
            }
        };
        // What the other node answers, before it is on its way back.
        let (answers, answered) = mpsc::unbounded_channel();
        let arrival = {
            let (net, to_name) = (Arc::downgrade(&net), to_name.clone());
            move || {
                let relay = net.upgrade().and_then(|net| {
                    net.lock().nodes.get(&to_name).map(|plugged| plugged.relay.clone())
                });
                if let Some(relay) = relay {
                    relay.take(request, &answers);
                }
            }
        };
        let arrives = inner.send(&from, &to_name, Box::new(arrival));
        drop(inner);
        let connection = Connection { net: self.net.clone(), near: from, far: to_name };
        tokio::spawn(connection.bring_back(arrives, answered, back, pulled));
        frames
    }
}

/// The way back of one call.
struct Connection {
    net: Weak<Mutex<Inner>>,
    near: String,
    far: String,
}

impl Connection {
    /// Brings answers back until there are no more, or the connection ends.
    async fn bring_back(
        self,
        arrives: bool,
        mut answered: mpsc::UnboundedReceiver<Frame>,
        back: mpsc::UnboundedSender<Frame>,
        pulled: Arc<Signal>,
    ) {
        if !arrives {
            tokio::time::sleep(NOTICED_AFTER).await;
            return;
        }
        loop {
            let frame = tokio::select! {
                biased;
                () = pulled.wait() => return,
                frame = answered.recv() => frame,
            };
            let Some(frame) = frame else { return };
            let Some(net) = self.net.upgrade() else { return };
            let sent = self.answer(&mut net.lock(), frame, back.clone());
            if !sent {
                tokio::time::sleep(NOTICED_AFTER).await;
                return;
            }
        }
    }

    /// Sends an answer back; false when it is lost.
    fn answer(
        &self,
        net: &mut Inner,
        mut frame: Frame,
        back: mpsc::UnboundedSender<Frame>,
    ) -> bool {
        if let Frame::Answer { answer: Ok(body), .. } = &mut frame
            && net.later.contains(&self.far)
        {
            *body = with_more_fields(body);
        }
        let deliver = move || {
            // Who hung up does not listen.
            let _ = back.send(frame);
        };
        net.send(&self.far, &self.near, Box::new(deliver))
    }
}
