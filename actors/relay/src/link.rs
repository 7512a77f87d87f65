//! One link to one node: the queue before it, the calls on it, and the task that brings it up again.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll, Waker},
    time::Duration,
};

use aa_protocol::wire::relay::{FromCaller, ToCaller, to_caller};
use aa_runtime::{Fault, Frame, Peer, Request};
use futures::Stream;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc::UnboundedSender},
    time::{Instant, MissedTickBehavior},
};

use crate::{
    connect::{self, Connection},
    limits::{Backoff, Claim},
    message,
    report::Report,
    stats::{Gauge, add},
    transport::Context,
};

/// A link to one node, up or down.
pub(crate) struct Link {
    peer: Peer,
    context: Arc<Context>,
    state: Mutex<State>,
    /// There is something to send and nobody to send it.
    work: Notify,
    report: Report,
}

struct State {
    phase: Phase,
    /// Counts the connections: the stream of an earlier one takes nothing any more.
    connection: u64,
    queue: VecDeque<Queued>,
    /// What was sent and has answers to come, by its number.
    open: HashMap<u64, Open>,
    next_id: u64,
    /// Wakes the stream that found nothing to send.
    stream: Option<Waker>,
    /// Why it did not come up the last time.
    problem: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No connection.
    Down,
    /// The other side has not greeted yet.
    Greeting,
    Up,
    /// The other side goes: nothing more is sent on this connection.
    Leaving,
    /// Nobody will bring it up again.
    Closed,
}

/// A call that was not sent yet.
struct Queued {
    request: Request,
    frames: UnboundedSender<Frame>,
    claim: Claim,
    deadline_ms: i64,
}

/// A call whose answers are to come.
struct Open {
    frames: UnboundedSender<Frame>,
    /// How many.
    left: u16,
    _claim: Claim,
}

/// What one connection sends.
struct Outbound {
    link: Arc<Link>,
    connection: u64,
    hello: Option<FromCaller>,
}

/// A link that was up this long is brought up again at once.
const STEADY: Duration = Duration::from_secs(1);

/// How often calls are looked for whose callers have given up.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// After how long a link that did not come up is tried again, though nobody has anything to send.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// How often, one after the other: for an hour, after which a node that is gone is forgotten.
const MOST_PROBES: u32 = 720;

// === impl Link ===

impl Link {
    pub(crate) fn new(peer: Peer, context: Arc<Context>) -> Self {
        let state = State {
            phase: Phase::Down,
            connection: 0,
            queue: VecDeque::new(),
            open: HashMap::new(),
            next_id: 1,
            stream: None,
            problem: None,
        };
        let (work, report) = (Notify::new(), Report::default());
        Self { peer, context, state: Mutex::new(state), work, report }
    }

    /// Puts a call into the queue.
    pub(crate) fn call(
        &self,
        request: Request,
        frames: UnboundedSender<Frame>,
        claim: Claim,
        deadline_ms: i64,
    ) {
        let mut state = self.state.lock();
        if matches!(state.phase, Phase::Leaving | Phase::Closed) {
            drop(state);
            return refuse(&request, &frames);
        }
        state.queue.push_back(Queued { request, frames, claim, deadline_ms });
        let stream = state.stream.take();
        let is_down = state.phase == Phase::Down;
        drop(state);
        match stream {
            Some(stream) => stream.wake(),
            None if is_down => self.work.notify_one(),
            None => {}
        }
    }

    /// Whether nothing is under way, and nothing is connected.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.phase == Phase::Down && state.queue.is_empty() && state.open.is_empty()
    }

    /// Why the link did not come up, if that is how it stands.
    pub(crate) fn problem(&self) -> Option<String> {
        self.state.lock().problem.clone()
    }

    /// Takes no calls any more; those under way end.
    pub(crate) fn close(&self) {
        self.end(Phase::Closed);
        self.refuse_queued();
    }

    /// Keeps the link up for as long as there are calls. One that did not come up is tried again without: what is told
    /// of it ([`Self::problem`]) shall not outlive its cause. Ends only from outside.
    pub(crate) async fn keep(self: Arc<Self>) {
        let limits = &self.context.options.limits;
        let counters = &self.context.counters;
        let mut backoff = Backoff::new(limits);
        let mut was_up = false;
        let mut probes = 0;
        loop {
            let has_work = self.wait_for_work(probes < MOST_PROBES).await;
            probes = if has_work { 0 } else { probes + 1 };
            let connected = {
                let outbound = self.begin();
                connect::connect(&self.context, &self.peer, outbound).await
            };
            match connected {
                Ok(connection) => {
                    if was_up {
                        add(&counters.reconnects, 1);
                    }
                    was_up = true;
                    let since = Instant::now();
                    let _up = Gauge::enter(&counters.links_out);
                    self.greeted();
                    let why = self.listen(connection).await;
                    self.end(Phase::Down);
                    tracing::info!(node = %self.peer.name, why, "a link to another node ended");
                    if since.elapsed() >= STEADY {
                        backoff = Backoff::new(limits);
                        continue;
                    }
                }
                Err(error) => {
                    self.end(Phase::Down);
                    counters.failed(error.reason());
                    let text = error.to_string();
                    if self.report.is_due(&text) {
                        tracing::warn!(node = %self.peer.name, "no link to another node: {text}");
                    }
                    self.state.lock().problem = Some(text);
                    self.refuse_queued();
                }
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    /// True once there is a call to send; false when it is time to see whether a link that did not come up does so now.
    async fn wait_for_work(&self, may_probe: bool) -> bool {
        let probe = tokio::time::sleep(PROBE_EVERY);
        tokio::pin!(probe);
        loop {
            let has_problem = {
                let state = self.state.lock();
                if !state.queue.is_empty() {
                    return true;
                }
                state.problem.is_some()
            };
            tokio::select! {
                biased;
                () = self.work.notified() => {}
                () = &mut probe, if may_probe && has_problem => return false,
            }
        }
    }

    /// A new connection begins.
    fn begin(self: &Arc<Self>) -> Outbound {
        let mut state = self.state.lock();
        state.connection += 1;
        state.phase = Phase::Greeting;
        let hello = Some(connect::hello(&self.context, &self.peer));
        Outbound { link: Arc::clone(self), connection: state.connection, hello }
    }

    fn greeted(&self) {
        let mut state = self.state.lock();
        state.phase = Phase::Up;
        state.problem = None;
        if let Some(stream) = state.stream.take() {
            stream.wake();
        }
    }

    /// The connection has ended: what was sent on it has no more answers to come.
    fn end(&self, phase: Phase) {
        let mut state = self.state.lock();
        if state.phase != Phase::Closed {
            state.phase = phase;
        }
        let ended = std::mem::take(&mut state.open);
        let stream = state.stream.take();
        drop(state);
        drop(ended);
        if let Some(stream) = stream {
            stream.wake();
        }
    }

    fn refuse_queued(&self) {
        let queued = std::mem::take(&mut self.state.lock().queue);
        queued.iter().for_each(|queued| refuse(&queued.request, &queued.frames));
    }

    /// Hands answers back until the connection ends, and says why it did.
    async fn listen(&self, mut connection: Connection) -> String {
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let received = tokio::select! {
                biased;
                received = connection.inbound.message() => received,
                _ = sweep.tick() => {
                    self.state.lock().open.retain(|_, open| !open.frames.is_closed());
                    continue;
                }
            };
            match received {
                Ok(Some(frame)) => self.receive(frame),
                Ok(None) => return "the other side closed it".to_owned(),
                Err(status) => return status.message().to_owned(),
            }
        }
    }

    fn receive(&self, frame: ToCaller) {
        let node = &*self.peer.name;
        match frame.frame {
            Some(to_caller::Frame::Answer(answer)) => {
                self.deliver(answer.id, message::answer(answer, node));
            }
            Some(to_caller::Frame::Refused(refused)) => {
                self.deliver(refused.id, message::refusal(refused, node));
            }
            Some(to_caller::Frame::Leaving(_)) => {
                let mut state = self.state.lock();
                state.phase = Phase::Leaving;
                let stream = state.stream.take();
                drop(state);
                if let Some(stream) = stream {
                    stream.wake();
                }
                self.refuse_queued();
            }
            // A greeting again, or what a later version says beside.
            Some(to_caller::Frame::Welcome(_)) | None => {}
        }
    }

    fn deliver(&self, id: u64, frame: Frame) {
        let counters = &self.context.counters;
        add(&counters.frames_in, 1);
        add(&counters.bytes_in, message::payload(&frame));
        let mut state = self.state.lock();
        let Entry::Occupied(mut entry) = state.open.entry(id) else { return };
        let is_refusal = matches!(frame, Frame::Refused(_));
        let open = entry.get_mut();
        open.left = if is_refusal { 0 } else { open.left.saturating_sub(1) };
        // A caller that stopped waiting needs no answer.
        let _ = open.frames.send(frame);
        if open.left == 0 {
            entry.remove();
        }
    }
}

/// The call was not sent.
fn refuse(request: &Request, frames: &UnboundedSender<Frame>) {
    let _ = frames.send(Frame::Refused(Fault::ShardAway { shard: request.shard.0 }));
}

// === impl Outbound ===

impl Stream for Outbound {
    type Item = FromCaller;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<FromCaller>> {
        if let Some(hello) = self.hello.take() {
            return Poll::Ready(Some(hello));
        }
        let mut state = self.link.state.lock();
        if state.connection != self.connection {
            return Poll::Ready(None);
        }
        match state.phase {
            Phase::Greeting | Phase::Up => {}
            Phase::Down | Phase::Leaving | Phase::Closed => return Poll::Ready(None),
        }
        while state.phase == Phase::Up
            && let Some(queued) = state.queue.pop_front()
        {
            let Queued { request, frames, claim, deadline_ms } = queued;
            let has_given_up = request.replies > 0 && frames.is_closed();
            if has_given_up {
                continue;
            }
            let id = state.next_id;
            state.next_id += 1;
            if request.replies > 0 {
                let open = Open { frames, left: request.replies, _claim: claim };
                state.open.insert(id, open);
            }
            drop(state);
            let counters = &self.link.context.counters;
            add(&counters.calls_out, 1);
            add(&counters.bytes_out, request.body.len());
            return Poll::Ready(Some(message::call(id, request, deadline_ms)));
        }
        state.stream = Some(cx.waker().clone());
        Poll::Pending
    }
}
