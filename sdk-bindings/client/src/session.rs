//! One `Session` stream: frames go out, answers find the caller that waits for them.

use std::{collections::HashMap, future, sync::Arc, time::Duration};

use aa_protocol::ApprovalId;
use aa_protocol::wire::v1::{self, client_frame, server_frame};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

use crate::{
    decided::Decided,
    error::{may_pass, status_problem},
    gateways::Way,
    link::News,
    token::Token,
};

/// The largest frame that is sent, in bytes: what a gRPC server takes by default. A larger one would end
/// the stream for every action on it, so it is refused before it leaves.
pub const MAX_FRAME_BYTES: usize = 4 << 20;

/// How many frames may wait for the connection.
const OUTBOUND: usize = 64;

/// An open stream. Dropping the last handle ends it.
#[derive(Debug)]
pub(crate) struct Session {
    outbound: mpsc::Sender<v1::ClientFrame>,
    waiting: Arc<Waiting>,
    /// Its drop tells the reader that nobody waits any more.
    _alive: oneshot::Sender<()>,
}

#[derive(Debug)]
struct Waiting {
    callers: Mutex<Callers>,
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct Callers {
    next_tag: u64,
    by_tag: HashMap<u64, oneshot::Sender<Answer>>,
    /// Since when the gateway owes an answer and gives none. That the caller gave it up changes nothing.
    owed_since: Option<Instant>,
}

/// What a stream still does.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Answers still come, new frames are for the next stream.
    Draining,
    Ended(Closed),
}

/// Why a stream takes no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Closed {
    pub(crate) problem: String,
    /// Whether it is the gateway, or the way to it, that failed, and not this agent.
    pub(crate) of_gateway: bool,
}

/// What came back for a frame.
#[derive(Debug)]
pub(crate) enum Answer {
    Decision(v1::Decision),
    Recorded(v1::Recorded),
    TokenAccepted,
    Refusal(v1::Refusal),
}

/// The stream ended before the answer came; whether the gateway acted is unknown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost;

/// A caller's place in the line; leaving it early gives the place up.
struct Ticket<'s> {
    waiting: &'s Waiting,
    tag: u64,
    answer: oneshot::Receiver<Answer>,
}

struct Reader {
    inbound: Streaming<v1::ServerFrame>,
    waiting: Arc<Waiting>,
    news: watch::Sender<News>,
    decided: Decided,
    abandoned: oneshot::Receiver<()>,
    /// How long an answer may be owed before the stream is given up; `None` for as long as it takes.
    silence: Option<Duration>,
}

// === impl Session ===

impl Session {
    /// Opens a stream under a token and starts reading from it, until an answer is owed for as long as
    /// `silence`.
    pub(crate) async fn open(
        way: &mut Way,
        token: &Token,
        silence: Option<Duration>,
        news: watch::Sender<News>,
        decided: Decided,
    ) -> Result<Self, Status> {
        let (outbound, frames) = mpsc::channel(OUTBOUND);
        let mut request = Request::new(ReceiverStream::new(frames));
        let bearer = token.bearer().map_err(|error| Status::internal(error.to_string()))?;
        request.metadata_mut().insert("authorization", bearer);
        let inbound = way.grpc.session(request).await?.into_inner();
        let (alive, abandoned) = oneshot::channel();
        let waiting =
            Arc::new(Waiting { callers: Mutex::default(), state: watch::Sender::new(State::Open) });
        let of_stream = Arc::clone(&waiting);
        let reader = Reader { inbound, waiting: of_stream, news, decided, abandoned, silence };
        tokio::spawn(reader.run());
        Ok(Self { outbound, waiting, _alive: alive })
    }

    /// Whether new frames may go out on it.
    pub(crate) fn is_open(&self) -> bool {
        *self.waiting.state.borrow() == State::Open
    }

    /// Waits until no new frame may go out, and says why.
    pub(crate) async fn closed(&self) -> Closed {
        let mut state = self.waiting.state.subscribe();
        let closed = state.wait_for(|state| *state != State::Open).await;
        match closed.as_deref() {
            Ok(State::Ended(closed)) => closed.clone(),
            _ => Closed::by_gateway("the gateway is draining"),
        }
    }

    /// Sends one frame and waits for its answer. Dropping the future gives the answer up.
    pub(crate) async fn exchange(&self, body: client_frame::Body) -> Result<Answer, Lost> {
        let ticket = self.waiting.line_up()?;
        let frame = v1::ClientFrame { tag: ticket.tag, body: Some(body) };
        self.outbound.send(frame).await.map_err(|_| Lost)?;
        ticket.wait().await
    }
}

// === impl Closed ===

impl Closed {
    pub(crate) fn by_gateway(problem: &str) -> Self {
        Self { problem: problem.to_owned(), of_gateway: true }
    }

    fn by_client() -> Self {
        Self { problem: "closed by this client".to_owned(), of_gateway: false }
    }

    /// With the status that a stream or a call ended with.
    pub(crate) fn with(status: &Status) -> Self {
        Self { problem: status_problem(status), of_gateway: may_pass(status.code()) }
    }
}

// === impl Answer ===

impl Answer {
    /// Whether the gateway cannot do at the moment what it was asked for; another one may.
    fn is_unavailable(&self) -> bool {
        matches!(self, Self::Refusal(refusal) if Code::from_i32(refusal.code) == Code::Unavailable)
    }
}

// === impl Waiting ===

impl Waiting {
    fn line_up(&self) -> Result<Ticket<'_>, Lost> {
        let (sender, answer) = oneshot::channel();
        let mut callers = self.callers.lock();
        // Looked at under the lock: the reader sets the state before it empties the line.
        if *self.state.borrow() != State::Open {
            return Err(Lost);
        }
        callers.next_tag += 1;
        let tag = callers.next_tag;
        callers.by_tag.insert(tag, sender);
        callers.owed_since.get_or_insert_with(Instant::now);
        Ok(Ticket { waiting: self, tag, answer })
    }

    fn answer(&self, tag: u64, answer: Answer) {
        let mut callers = self.callers.lock();
        let caller = callers.by_tag.remove(&tag);
        if !answer.is_unavailable() {
            callers.owed_since = (!callers.by_tag.is_empty()).then(Instant::now);
        }
        drop(callers);
        if let Some(caller) = caller {
            // A caller that just left needs no answer.
            let _ = caller.send(answer);
        }
    }

    /// Completes once an answer has been owed for so long.
    async fn silent_for(&self, bound: Option<Duration>) -> Duration {
        let Some(bound) = bound else { return future::pending().await };
        loop {
            let now = Instant::now();
            let owed_until = self.callers.lock().owed_since.unwrap_or(now) + bound;
            if owed_until <= now {
                return bound;
            }
            sleep_until(owed_until).await;
        }
    }

    fn drain(&self) {
        self.state.send_if_modified(|state| {
            let was_open = *state == State::Open;
            if was_open {
                *state = State::Draining;
            }
            was_open
        });
    }

    fn end(&self, closed: Closed) {
        self.state.send_replace(State::Ended(closed));
        self.callers.lock().by_tag.clear();
    }
}

// === impl Ticket ===

impl Ticket<'_> {
    async fn wait(mut self) -> Result<Answer, Lost> {
        (&mut self.answer).await.map_err(|_| Lost)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.waiting.callers.lock().by_tag.remove(&self.tag);
    }
}

// === impl Reader ===

impl Reader {
    async fn run(mut self) {
        let waiting = Arc::clone(&self.waiting);
        let silent = waiting.silent_for(self.silence);
        tokio::pin!(silent);
        let closed = loop {
            let frame = tokio::select! {
                // What has arrived is read before the gateway counts as silent.
                biased;
                frame = self.inbound.message() => frame,
                _ = &mut self.abandoned => break Closed::by_client(),
                bound = &mut silent => {
                    let bound = bound.as_millis();
                    break Closed::by_gateway(&format!("the gateway owed an answer for {bound} ms"));
                }
            };
            match frame {
                Ok(Some(frame)) => self.take(frame),
                Ok(None) => break Closed::by_gateway("the gateway closed the stream"),
                Err(status) => break Closed::with(&status),
            }
        };
        self.waiting.end(closed);
    }

    fn take(&self, frame: v1::ServerFrame) {
        use server_frame::Body;
        let tag = frame.tag;
        match frame.body {
            Some(Body::Decision(decision)) => self.waiting.answer(tag, Answer::Decision(decision)),
            Some(Body::Recorded(recorded)) => self.waiting.answer(tag, Answer::Recorded(recorded)),
            Some(Body::Refusal(refusal)) => self.waiting.answer(tag, Answer::Refusal(refusal)),
            Some(Body::TokenAccepted(_)) => self.waiting.answer(tag, Answer::TokenAccepted),
            Some(Body::PolicyChanged(changed)) => {
                // A generation of 0 tells of changes that were too many to tell one by one.
                self.news.send_modify(|news| {
                    news.policy_generation = news.policy_generation.max(changed.generation);
                });
            }
            Some(Body::StatusChanged(changed)) => {
                self.news.send_modify(|news| news.suspended = changed.suspended);
            }
            Some(Body::ApprovalDecided(decided)) => {
                if let Ok(id) = decided.approval_id.as_ref().try_into() {
                    self.decided.note(ApprovalId::from_bytes(id));
                }
            }
            Some(Body::Draining(_)) => self.waiting.drain(),
            // News of a later version.
            None => {}
        }
    }
}
