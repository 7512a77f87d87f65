//! What sends a node's calls to the others.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use aa_runtime::{
    Clock, ClusterOptions, Fault, Frame, Frames, PROTOCOLS, Peer, Protocols, Request, Transport,
    relay::ANSWER_WITHIN,
};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::{
    connect::AbortOnDrop,
    limits::{LinkLimits, Load, MAX_MESSAGE},
    link::Link,
    stats::{Counters, RelayLinkStats, add},
    tls::NodeTls,
};

/// How a node talks to others.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// The program's version, for people.
    pub version: String,
    /// The protocols that are spoken.
    pub protocols: Protocols,
    /// How far clocks may be apart: a call counts as late only that long after its deadline.
    pub max_skew: Duration,
    /// How much may be under way.
    pub limits: LinkLimits,
}

/// Carries calls to other nodes over gRPC. It takes part in a tokio runtime: [`Transport::call`] is called within
/// one. Links come up with the first call for them, and down with the transport.
pub struct GrpcTransport {
    context: Arc<Context>,
    peers: ArcSwap<BTreeMap<Peer, Arc<PeerLinks>>>,
    /// Held while `peers` is changed.
    changing: Mutex<()>,
}

/// What both directions share.
pub(crate) struct Context {
    pub(crate) tls: Arc<NodeTls>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: RelayOptions,
    pub(crate) counters: Counters,
}

/// The links to one node.
struct PeerLinks {
    load: Arc<Load>,
    links: Vec<Arc<Link>>,
    _keepers: Vec<AbortOnDrop>,
}

/// What a call has besides its body, at the most.
const MAX_AROUND: usize = 64 << 10;

// === impl RelayOptions ===

impl RelayOptions {
    /// What this program speaks, within the limits that nodes have unless told otherwise.
    pub fn new(version: impl Into<String>) -> Self {
        Self {
            version: version.into(),
            protocols: PROTOCOLS,
            max_skew: ClusterOptions::MAX_SKEW,
            limits: LinkLimits::default(),
        }
    }
}

// === impl GrpcTransport ===

impl GrpcTransport {
    /// A transport of the node that `tls` names, without any link yet.
    pub fn new(tls: Arc<NodeTls>, clock: Arc<dyn Clock>, options: RelayOptions) -> Self {
        let counters = Counters::default();
        let context = Arc::new(Context { tls, clock, options, counters });
        Self { context, peers: ArcSwap::default(), changing: Mutex::default() }
    }

    /// What went over links so far, those from other nodes included.
    pub fn stats(&self) -> RelayLinkStats {
        self.context.counters.read()
    }

    /// Why links to other nodes did not come up when that was last tried, by the node's name.
    pub fn problems(&self) -> BTreeMap<String, String> {
        let peers = self.peers.load();
        let problems = peers.iter().filter_map(|(peer, links)| {
            let problem = links.links.iter().find_map(|link| link.problem())?;
            Some((peer.name.to_string(), problem))
        });
        problems.collect()
    }

    pub(crate) const fn context(&self) -> &Arc<Context> {
        &self.context
    }

    fn links(&self, peer: &Peer) -> Arc<PeerLinks> {
        if let Some(links) = self.peers.load().get(peer) {
            return Arc::clone(links);
        }
        let _changing = self.changing.lock();
        let known = self.peers.load_full();
        if let Some(links) = known.get(peer) {
            return Arc::clone(links);
        }
        // Nobody goes back to an earlier life of a node.
        let is_over = |other: &Peer, links: &PeerLinks| other.name == peer.name && links.is_idle();
        let mut peers = BTreeMap::clone(&known);
        peers.retain(|other, links| !is_over(other, links));
        let links = Arc::new(PeerLinks::new(peer, &self.context));
        peers.insert(peer.clone(), Arc::clone(&links));
        self.peers.store(Arc::new(peers));
        links
    }
}

impl Transport for GrpcTransport {
    fn call(&self, to: &Peer, request: Request) -> Frames {
        let (frames, answers) = mpsc::unbounded_channel();
        let refuse = |fault| {
            // The receiver is right here.
            let _ = frames.send(Frame::Refused(fault));
        };
        let around = request.kind.len() + request.id.len() + request.verb.len();
        let bytes = around + request.body.len();
        if around > MAX_AROUND || bytes > MAX_MESSAGE - MAX_AROUND {
            let verb: String = request.verb.chars().take(64).collect();
            refuse(Fault::Unreadable(format!(
                "`{verb}` has {bytes} bytes, more than a link carries"
            )));
            return answers;
        }
        let links = self.links(to);
        let limits = &self.context.options.limits;
        let Some(claim) = links.load.claim(bytes, limits) else {
            add(&self.context.counters.congested, 1);
            refuse(Fault::Congested { node: to.name.to_string() });
            return answers;
        };
        let now = self.context.clock.now().as_micros() / 1_000;
        let deadline_ms = now + ANSWER_WITHIN.as_millis() as i64;
        let link = &links.links[usize::from(request.shard.0) % links.links.len()];
        link.call(request, frames, claim, deadline_ms);
        answers
    }
}

impl fmt::Debug for GrpcTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcTransport")
            .field("tls", &self.context.tls)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

// === impl PeerLinks ===

impl PeerLinks {
    fn new(peer: &Peer, context: &Arc<Context>) -> Self {
        let count = context.options.limits.links.max(1);
        let link = |_| Arc::new(Link::new(peer.clone(), Arc::clone(context)));
        let links: Vec<_> = (0..count).map(link).collect();
        let keep =
            |link: &Arc<Link>| AbortOnDrop(tokio::spawn(Arc::clone(link).keep()).abort_handle());
        let keepers = links.iter().map(keep).collect();
        Self { load: Arc::default(), links, _keepers: keepers }
    }

    fn is_idle(&self) -> bool {
        self.links.iter().all(|link| link.is_idle())
    }
}

impl Drop for PeerLinks {
    fn drop(&mut self) {
        self.links.iter().for_each(|link| link.close());
    }
}
