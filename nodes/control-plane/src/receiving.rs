//! Messages on their way in: how large, how many bytes at once, how slow.
//!
//! A message is held in memory from its first byte to its last, before any handler sees it. So the gateway
//! looks at the length that stands before each (gRPC over HTTP/2, "Length-Prefixed-Message"): above
//! [`SMALL`] it takes a valid token and room within the bounds of its agent and of all; and every message
//! must arrive in time. Without room a call is refused, and a session is read no further until there is.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use aa_governance::agent::AgentKeyId;
use aa_runtime::Clock;
use bytes::Bytes;
use http::{HeaderValue, Request, header::AUTHORIZATION};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Sleep;
use tonic::Status;
use tower::{Layer, Service};

use crate::{
    admission::RETRY_AFTER_MS,
    gateway::{self, MAX_MESSAGE},
    token::TokenKey,
};

/// How much may be arriving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveLimits {
    /// Bytes of larger messages at once, of one agent.
    pub per_agent: usize,
    /// Of all agents.
    pub total: usize,
    /// How long one message may take from its first byte to its last.
    pub within: Duration,
}

/// Puts [`Receiving`] around a service.
#[derive(Clone)]
pub struct ReceiveLayer(Arc<Shared>);

/// A service whose requests arrive within the limits.
#[derive(Clone)]
pub struct Receiving<S> {
    inner: S,
    shared: Arc<Shared>,
}

struct Shared {
    limits: ReceiveLimits,
    tokens: TokenKey,
    clock: Arc<dyn Clock>,
    claimed: Mutex<Claimed>,
}

#[derive(Default)]
struct Claimed {
    total: usize,
    agents: HashMap<AgentKeyId, usize>,
    /// Sessions that wait for room.
    waiting: Vec<Waker>,
}

/// Room for one message. Dropping it gives the room back.
struct Claim {
    shared: Arc<Shared>,
    agent: AgentKeyId,
    bytes: usize,
}

/// The body of a request, followed from message to message.
struct Followed<B> {
    inner: B,
    shared: Arc<Shared>,
    authorization: Option<HeaderValue>,
    agent: Option<AgentKeyId>,
    position: Position,
    claim: Arc<Mutex<Option<Claim>>>,
    /// Whether the request has one message, which stays in memory until it is answered.
    is_unary: bool,
    deadline: Option<Pin<Box<Sleep>>>,
    waiting: Option<Waiting>,
}

/// A frame of a session that is kept back until there is room for the message whose prefix is in it.
struct Waiting {
    frame: Frame<Bytes>,
    /// Where in the frame the message begins.
    at: usize,
    length: usize,
}

/// How far a frame was followed.
enum Progress {
    Whole,
    /// Up to the beginning of a message of this length for which there is no room.
    NoRoom {
        at: usize,
        length: usize,
        refusal: Status,
    },
}

#[derive(Clone, Copy)]
enum Position {
    Prefix { bytes: [u8; PREFIX], have: usize },
    Message { left: usize },
}

/// The largest message that is received without a valid token and without counting, in bytes.
pub const SMALL: usize = 64 << 10;

/// One byte of flags and four of length stand before each message.
const PREFIX: usize = 5;

// === impl ReceiveLimits ===

impl Default for ReceiveLimits {
    fn default() -> Self {
        Self {
            // JSON takes up to sixteen times its length once it is parsed, and calls keep their claim
            // until they are answered.
            per_agent: 16 << 20,
            total: 64 << 20,
            within: Duration::from_secs(30),
        }
    }
}

// === impl ReceiveLayer ===

impl ReceiveLayer {
    /// A layer that tells agents by `tokens`.
    pub fn new(limits: ReceiveLimits, tokens: TokenKey, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Shared { limits, tokens, clock, claimed: Mutex::default() }))
    }
}

impl<S> Layer<S> for ReceiveLayer {
    type Service = Receiving<S>;

    fn layer(&self, inner: S) -> Receiving<S> {
        Receiving { inner, shared: Arc::clone(&self.0) }
    }
}

// === impl Receiving ===

impl<S> Service<Request<tonic::body::Body>> for Receiving<S>
where
    S: Service<Request<tonic::body::Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let authorization = request.headers().get(AUTHORIZATION).cloned();
        let is_unary = !request.uri().path().ends_with("/Session");
        let claim = Arc::default();
        let held = Arc::clone(&claim);
        let shared = Arc::clone(&self.shared);
        let request = request.map(|inner| {
            let position = Position::Prefix { bytes: [0; PREFIX], have: 0 };
            tonic::body::Body::new(Followed {
                inner,
                shared,
                authorization,
                agent: None,
                position,
                claim,
                is_unary,
                deadline: None,
                waiting: None,
            })
        });
        let answering = self.inner.call(request);
        Box::pin(async move {
            let answer = answering.await;
            if is_unary {
                held.lock().take();
            }
            answer
        })
    }
}

// === impl Shared ===

impl Shared {
    /// Room for a message; without it, `waker` is woken when it is worth asking again.
    fn claim(
        self: &Arc<Self>,
        agent: AgentKeyId,
        bytes: usize,
        waker: Option<&Waker>,
    ) -> Result<Claim, Status> {
        let mut claimed = self.claimed.lock();
        let of_agent = claimed.agents.get(&agent).copied().unwrap_or_default();
        let refusal = if of_agent + bytes > self.limits.per_agent {
            Some(too_much("this agent", self.limits.per_agent))
        } else if claimed.total + bytes > self.limits.total {
            Some(too_much("all agents", self.limits.total))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            claimed.waiting.extend(waker.cloned());
            return Err(refusal);
        }
        claimed.total += bytes;
        claimed.agents.insert(agent, of_agent + bytes);
        Ok(Claim { shared: Arc::clone(self), agent, bytes })
    }
}

fn too_much(of: &str, limit: usize) -> Status {
    let message = format!(
        "messages of {of} with {limit} bytes are arriving, the most there may be; wait for answers"
    );
    gateway::with_retry(Status::resource_exhausted(message), RETRY_AFTER_MS)
}

// === impl Claim ===

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claimed = self.shared.claimed.lock();
        claimed.total -= self.bytes;
        if let Some(of_agent) = claimed.agents.get_mut(&self.agent) {
            *of_agent -= self.bytes;
            if *of_agent == 0 {
                claimed.agents.remove(&self.agent);
            }
        }
        let waiting = std::mem::take(&mut claimed.waiting);
        drop(claimed);
        for waker in waiting {
            waker.wake();
        }
    }
}

// === impl Followed ===

impl<B> Followed<B> {
    /// Follows a frame's data from `at` on.
    fn follow(&mut self, data: &[u8], mut at: usize) -> Result<Progress, Status> {
        while at < data.len() {
            match &mut self.position {
                Position::Prefix { bytes, have } => {
                    let taken = (data.len() - at).min(PREFIX - *have);
                    bytes[*have..*have + taken].copy_from_slice(&data[at..at + taken]);
                    *have += taken;
                    at += taken;
                    if *have == PREFIX {
                        let [_flags, length @ ..] = *bytes;
                        let length = u32::from_be_bytes(length) as usize;
                        if let Err(refusal) = self.begin(length)? {
                            return Ok(Progress::NoRoom { at, length, refusal });
                        }
                    }
                }
                Position::Message { left } => {
                    let taken = (data.len() - at).min(*left);
                    *left -= taken;
                    at += taken;
                    if *left == 0 {
                        self.end();
                    }
                }
            }
        }
        Ok(Progress::Whole)
    }

    /// Begins a message. The inner error says that there is no room for it now.
    fn begin(&mut self, length: usize) -> Result<Result<(), Status>, Status> {
        self.position = Position::Message { left: length };
        if length == 0 {
            self.end();
        }
        // The codec refuses what is too large for anybody as soon as it has seen the length.
        if !(SMALL + 1..=MAX_MESSAGE).contains(&length) {
            return Ok(Ok(()));
        }
        let agent = self.agent()?;
        Ok(self.shared.claim(agent, length, None).map(|claim| *self.claim.lock() = Some(claim)))
    }

    fn end(&mut self) {
        self.position = Position::Prefix { bytes: [0; PREFIX], have: 0 };
        self.deadline = None;
        if !self.is_unary {
            self.claim.lock().take();
        }
    }

    /// Lets a frame through, or keeps it back until there is room.
    fn pass(
        &mut self,
        frame: Frame<Bytes>,
        at: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let progress = match frame.data_ref() {
            Some(data) => self.follow(data, at),
            None => Ok(Progress::Whole),
        };
        match progress {
            Ok(Progress::Whole) => Poll::Ready(Some(Ok(frame))),
            Ok(Progress::NoRoom { refusal, .. }) if self.is_unary => {
                Poll::Ready(Some(Err(refusal)))
            }
            Ok(Progress::NoRoom { at, length, .. }) => {
                self.waiting = Some(Waiting { frame, at, length });
                self.poll_room(cx)
            }
            Err(status) => Poll::Ready(Some(Err(status))),
        }
    }

    /// Goes on with the frame that was kept back.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(Waiting { frame, at, length }) = self.waiting.take() else { return Poll::Pending };
        let claimed = self.agent().map(|agent| self.shared.claim(agent, length, Some(cx.waker())));
        match claimed {
            Ok(Ok(claim)) => {
                *self.claim.lock() = Some(claim);
                self.pass(frame, at, cx)
            }
            Ok(Err(_no_room)) => {
                self.waiting = Some(Waiting { frame, at, length });
                self.poll_deadline(cx)
            }
            Err(status) => Poll::Ready(Some(Err(status))),
        }
    }

    fn poll_deadline<T>(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, Status>>> {
        let within = self.shared.limits.within;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(within)));
        std::task::ready!(deadline.as_mut().poll(cx));
        let message = format!("the message did not arrive within {within:?}");
        Poll::Ready(Some(Err(Status::deadline_exceeded(message))))
    }

    /// The agent of the request's token. A session that began under a valid token stays its agent's.
    fn agent(&mut self) -> Result<AgentKeyId, Status> {
        if let Some(agent) = self.agent {
            return Ok(agent);
        }
        let token = self.authorization.as_ref().and_then(gateway::presented);
        let claims = token
            .and_then(|token| self.shared.tokens.verify(token, self.shared.clock.now()).ok())
            .ok_or_else(|| {
                let bytes = SMALL;
                Status::unauthenticated(format!(
                    "a message of more than {bytes} bytes takes a valid agent token; register again"
                ))
            })?;
        let agent = AgentKeyId { workspace: claims.ws, agent: claims.sub };
        self.agent = Some(agent);
        Ok(agent)
    }

    const fn is_between_messages(&self) -> bool {
        matches!(self.position, Position::Prefix { have: 0, .. })
    }
}

impl<B> Body for Followed<B>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.waiting.is_some() {
            return self.poll_room(cx);
        }
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => self.pass(frame, 0, cx),
            Poll::Pending if !self.is_between_messages() => self.poll_deadline(cx),
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use aa_protocol::{AgentId, WorkspaceId};
    use aa_runtime::SystemClock;
    use futures::FutureExt;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    const LARGE: usize = SMALL + 1;

    fn shared() -> Arc<Shared> {
        let limits = ReceiveLimits { per_agent: 2 * LARGE, total: 3 * LARGE, ..Default::default() };
        let (tokens, clock) = (TokenKey::new(&[7; 32]), Arc::new(SystemClock));
        Arc::new(Shared { limits, tokens, clock, claimed: Mutex::default() })
    }

    fn bearer(shared: &Shared, name: &str) -> HeaderValue {
        let workspace: WorkspaceId = "ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890".parse().unwrap();
        let agent = AgentId::of_name(workspace, name);
        let (token, _) =
            shared.tokens.issue(workspace, agent, shared.clock.now(), uuid::Uuid::nil());
        format!("Bearer {token}").parse().unwrap()
    }

    fn followed<B>(
        shared: &Arc<Shared>,
        authorization: Option<HeaderValue>,
        inner: B,
    ) -> Followed<B> {
        Followed {
            inner,
            shared: Arc::clone(shared),
            authorization,
            agent: None,
            position: Position::Prefix { bytes: [0; PREFIX], have: 0 },
            claim: Arc::default(),
            is_unary: true,
            deadline: None,
            waiting: None,
        }
    }

    /// A message's prefix and as much of it as is given.
    fn begun(length: usize, sent: usize) -> Vec<u8> {
        let length = u32::try_from(length).unwrap();
        [&[0], length.to_be_bytes().as_slice(), &vec![7; sent]].concat()
    }

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        let shared = shared();
        let text = [begun(3, 3), begun(0, 0), begun(LARGE, LARGE), begun(1, 1)].concat();
        for step in [1, 2, 4, 5, 7, 1_000, text.len()] {
            let mut body = followed(&shared, Some(bearer(&shared, "a")), ());
            for part in text.chunks(step) {
                assert!(matches!(body.follow(part, 0), Ok(Progress::Whole)));
            }
            assert!(body.is_between_messages(), "in steps of {step}");
            drop(body);
            assert_eq!(shared.claimed.lock().total, 0, "in steps of {step}");
        }
    }

    #[test]
    fn a_large_message_takes_a_valid_token_and_room() {
        let shared = shared();
        let refused = followed(&shared, None, ()).follow(&begun(LARGE, 0), 0).err().unwrap();
        assert_eq!(refused.code(), tonic::Code::Unauthenticated);
        followed(&shared, None, ()).follow(&begun(SMALL, 0), 0).unwrap();

        let begin = |name: &str| {
            let mut body = followed(&shared, Some(bearer(&shared, name)), ());
            match body.follow(&begun(LARGE, 100), 0).unwrap() {
                Progress::Whole => Ok(body),
                Progress::NoRoom { refusal, .. } => Err(refusal),
            }
        };
        let held = [begin("a").unwrap(), begin("a").unwrap()];
        let refused = begin("a").err().unwrap();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(refused.message().contains("of this agent"), "{refused}");
        let other = begin("b").unwrap();
        assert!(begin("c").err().unwrap().message().contains("of all agents"));
        drop((held, other));
        assert!(shared.claimed.lock().agents.is_empty());
        begin("c").unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_stays_away_is_given_up_and_silence_between_messages_is_not() {
        let shared = shared();
        for (sent, is_given_up) in [(begun(3, 2), true), (vec![0, 0], true), (begun(3, 3), false)] {
            let first = futures::stream::iter([Ok::<_, Status>(Frame::data(sent.into()))]);
            let frames = futures::StreamExt::chain(first, futures::stream::pending());
            let mut body = followed(&shared, None, StreamBody::new(Box::pin(frames)));
            body.frame().await.unwrap().unwrap();
            let next = tokio::time::timeout(shared.limits.within * 2, body.frame()).await;
            assert_eq!(next.is_ok(), is_given_up);
            if let Ok(Some(Err(status))) = next {
                assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_waits_for_room_and_goes_on() {
        let shared = shared();
        let other = bearer(&shared, "a");
        let mut holding = followed(&shared, Some(other), ());
        holding.follow(&begun(LARGE, 0), 0).unwrap();
        let mut holding_too = followed(&shared, Some(bearer(&shared, "a")), ());
        holding_too.follow(&begun(LARGE, 0), 0).unwrap();

        let sent = [begun(3, 3), begun(LARGE, LARGE), begun(3, 1)].concat();
        let frames = futures::stream::iter([Ok::<_, Status>(Frame::data(sent.clone().into()))]);
        let mut session = followed(&shared, Some(bearer(&shared, "a")), StreamBody::new(frames));
        session.is_unary = false;
        let mut received = Box::pin(session.frame());
        assert!(received.as_mut().now_or_never().is_none(), "there is no room");
        drop(holding);
        let frame = received.await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), sent);
        drop(session);
        drop(holding_too);
        assert_eq!(shared.claimed.lock().total, 0);
    }
}
