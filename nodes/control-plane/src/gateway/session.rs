//! A session: one stream with many actions in flight.
//!
//! Every frame that goes out holds one of the session's slots until the peer's flow control lets it out,
//! and no frame is read without a free slot. So a peer that floods, or does not read, is held back by its
//! own stream, and what it costs here is bounded.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use aa_governance::{
    agent::{Answer, Check, NotRegistered},
    notice::Notice,
};
use aa_protocol::{EventId, wire::v1};
use aa_runtime::{Fault, Reply};
use futures::{FutureExt, Stream};
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc};
use tonic::{Status, Streaming};

use super::{
    Caller, Gateway, ServerFrames, decision_message,
    decoding::{bounded, decoding_failure},
    refusal::{frame, overload_status},
    settled,
};
use crate::{admission::CallerGauges, drain::drained};

/// How long a draining session waits for its client to go.
const DRAIN: Duration = Duration::from_secs(5);

/// How long it waits once nothing is owed: for actions sent before the client heard of the draining.
const GRACE: Duration = Duration::from_millis(250);

/// The most actions that go to the agent's actor as one message, which it handles in one go.
const MAX_BATCH: usize = 32;
/// With this many bytes of actions a batch is closed.
const MAX_BATCH_BYTES: usize = 64 << 10;

/// A frame on its way out. It is put into words only when it leaves, on the session's own task and not on
/// the journal's.
struct Outgoing {
    tag: u64,
    body: Body,
    _slot: Option<OwnedSemaphorePermit>,
}

enum Body {
    Decision(Result<Answer, Status>),
    Recorded(Result<EventId, Status>),
    Frame(v1::server_frame::Body),
    End(Status),
}

/// The frames of one session, as the peer takes them.
struct Frames(mpsc::UnboundedReceiver<Outgoing>);

struct Session {
    gateway: Gateway,
    caller: Caller,
    gauges: CallerGauges,
    slots: Arc<Semaphore>,
    out: mpsc::UnboundedSender<Outgoing>,
    /// Actions taken and not yet handed on: those that arrived together go together.
    checks: Vec<Check>,
    checked_bytes: usize,
}

/// Whether a session goes on.
#[derive(PartialEq, Eq)]
enum Next {
    GoOn,
    End,
}

/// Serves `frames` of `caller` until either side ends.
pub(super) fn open(
    gateway: Gateway,
    caller: Caller,
    frames: Streaming<v1::ClientFrame>,
) -> ServerFrames {
    let (out, outgoing) = mpsc::unbounded_channel();
    let session = Session {
        gauges: gateway.inner.admission.caller(&caller.id),
        slots: Arc::new(Semaphore::new(gateway.inner.admission.limits().per_session)),
        gateway,
        caller,
        out,
        checks: Vec::new(),
        checked_bytes: 0,
    };
    tokio::spawn(session.run(frames));
    Box::pin(Frames(outgoing))
}

// === impl Session ===

impl Session {
    async fn run(mut self, mut frames: Streaming<v1::ClientFrame>) {
        let mut notices = self.gateway.inner.governance.notices(self.caller.id.workspace);
        let mut draining = self.gateway.inner.draining.clone();
        loop {
            let slots = Arc::clone(&self.slots);
            let Ok(slot) = slots.acquire_owned().await else { return };
            tokio::select! {
                // The peer that stopped reading altogether is gone.
                () = self.out.closed() => return,
                frame = frames.message() => {
                    let next = self.take_ready(frame, slot, &mut frames).await;
                    self.send_checks();
                    if next == Next::End {
                        return;
                    }
                }
                notice = notices.recv() => self.tell(notice, slot),
                () = drained(&mut draining) => {
                    self.send(0, Body::Frame(v1::server_frame::Body::Draining(v1::Draining {})), slot);
                    break;
                }
            }
        }
        self.drain(frames).await;
    }

    /// Takes a frame and those behind it that have arrived already, up to a batch.
    async fn take_ready(
        &mut self,
        first: Result<Option<v1::ClientFrame>, Status>,
        slot: OwnedSemaphorePermit,
        frames: &mut Streaming<v1::ClientFrame>,
    ) -> Next {
        let (mut frame, mut slot) = (first, slot);
        loop {
            match frame {
                Ok(Some(frame)) => {
                    if self.take(frame, slot).await == Next::End {
                        return Next::End;
                    }
                }
                // A half-closed session still gets the answers it waits for.
                Ok(None) => return Next::End,
                Err(error) => {
                    self.send_checks();
                    self.broken(&error).await;
                    return Next::End;
                }
            }
            if self.checks.len() >= MAX_BATCH || self.checked_bytes >= MAX_BATCH_BYTES {
                return Next::GoOn;
            }
            let Ok(free) = Arc::clone(&self.slots).try_acquire_owned() else { return Next::GoOn };
            let Some(arrived) = frames.message().now_or_never() else { return Next::GoOn };
            (frame, slot) = (arrived, free);
        }
    }

    /// Hands the actions taken so far to the agent's actor.
    fn send_checks(&mut self) {
        self.checked_bytes = 0;
        if !self.checks.is_empty() {
            let checks = std::mem::take(&mut self.checks);
            self.gateway.inner.governance.check_all(&self.caller.id, checks);
        }
    }

    async fn take(&mut self, frame: v1::ClientFrame, slot: OwnedSemaphorePermit) -> Next {
        use v1::client_frame::Body as Client;
        let v1::ClientFrame { tag, body } = frame;
        if tag == 0 {
            return self.misused(slot, "`tag` is 0, which is the gateway's own").await;
        }
        if !matches!(body, Some(Client::Check(_))) {
            // What a client sends in order is taken in order.
            self.send_checks();
        }
        if let Some(Client::Token(token)) = body {
            return self.renew(tag, &token, slot).await;
        }
        if self.caller.expires <= self.gateway.inner.clock.now() {
            return self.expired(slot).await;
        }
        match body {
            Some(Client::Check(action)) => self.check(tag, action, slot).await,
            Some(Client::Record(event)) => self.record(tag, event, slot).await,
            Some(Client::Token(_)) | None => {
                return self.misused(slot, "a frame has neither an action nor an event").await;
            }
        }
        Next::GoOn
    }

    async fn check(&mut self, tag: u64, action: v1::Action, slot: OwnedSemaphorePermit) {
        let received = self.gateway.inner.clock.now();
        let bytes = action.encoded_len();
        let admitted = match self.gauges.admit(bytes) {
            Ok(admitted) => admitted,
            Err(overload) => return self.refuse(tag, &overload_status(overload), slot),
        };
        let parsed = match self.gateway.parse(&self.caller, action).await {
            Ok(parts) => parts,
            Err(status) => return self.refuse(tag, &status, slot),
        };
        let out = self.out.clone();
        let reply = Reply::new(move |answer: Result<Result<Answer, NotRegistered>, Fault>| {
            drop(admitted);
            let body = Body::Decision(settled(answer));
            // A session that ended takes no answers; the decision is recorded all the same.
            let _ = out.send(Outgoing { tag, body, _slot: Some(slot) });
        });
        let request = parsed.received(received, self.caller.session);
        self.checked_bytes += bytes;
        self.checks.push(Check { request, reply });
    }

    async fn record(&mut self, tag: u64, event: v1::Event, slot: OwnedSemaphorePermit) {
        let admitted = match self.gauges.admit(event.encoded_len()) {
            Ok(admitted) => admitted,
            Err(overload) => return self.refuse(tag, &overload_status(overload), slot),
        };
        let report = match self.gateway.report(&self.caller, event).await {
            Ok(report) => report,
            Err(status) => return self.refuse(tag, &status, slot),
        };
        let out = self.out.clone();
        let reply = Reply::new(move |answer: Result<Result<EventId, NotRegistered>, Fault>| {
            drop(admitted);
            let body = Body::Recorded(settled(answer));
            let _ = out.send(Outgoing { tag, body, _slot: Some(slot) });
        });
        self.gateway.inner.governance.record(&self.caller.id, report, reply);
    }

    async fn renew(&mut self, tag: u64, token: &str, slot: OwnedSemaphorePermit) -> Next {
        let renewed = match self.gateway.caller_of(token).await {
            Ok(renewed) => renewed,
            Err(status) => {
                self.refuse(tag, &status, slot);
                return Next::GoOn;
            }
        };
        if renewed.id != self.caller.id {
            let message = "the token on the session is of another agent";
            self.gateway.audit_refusal(&self.caller.id, "token_of_other", message.into()).await;
            self.refuse(tag, &Status::permission_denied(message), slot);
            return Next::GoOn;
        }
        self.caller = renewed;
        let expires_at_unix_seconds = self.caller.expires.unix_seconds();
        let accepted = v1::TokenAccepted { expires_at_unix_seconds };
        self.send(tag, Body::Frame(v1::server_frame::Body::TokenAccepted(accepted)), slot);
        Next::GoOn
    }

    async fn expired(&mut self, slot: OwnedSemaphorePermit) -> Next {
        let message = format!("the session's token expired at {}", self.caller.expires);
        self.gateway.audit_refusal(&self.caller.id, "token_expired", message.clone()).await;
        self.send(0, Body::End(Status::unauthenticated(message)), slot);
        Next::End
    }

    async fn misused(&mut self, slot: OwnedSemaphorePermit, message: &'static str) -> Next {
        self.gateway.audit_refusal(&self.caller.id, "malformed_frame", message.to_owned()).await;
        self.send(0, Body::End(Status::invalid_argument(message)), slot);
        Next::End
    }

    /// The stream itself failed: an undecodable or oversized frame is the agent's doing and audited, a
    /// lost connection is not.
    async fn broken(&mut self, error: &Status) {
        let status = match decoding_failure(error) {
            Some((status, code)) => {
                let message = bounded(status.message());
                self.gateway.audit_refusal(&self.caller.id, code, message).await;
                status
            }
            None => Status::new(error.code(), error.message()),
        };
        let _ = self.out.send(Outgoing { tag: 0, body: Body::End(status), _slot: None });
    }

    fn tell(
        &self,
        notice: Result<Notice, broadcast::error::RecvError>,
        slot: OwnedSemaphorePermit,
    ) {
        use v1::server_frame::Body::{ApprovalDecided, PolicyChanged, StatusChanged};
        let body = match notice {
            Ok(Notice::PolicyChanged { generation }) => {
                PolicyChanged(v1::PolicyChanged { generation })
            }
            Ok(Notice::StatusChanged { agent, suspended }) if agent == self.caller.id.agent => {
                StatusChanged(v1::StatusChanged { suspended })
            }
            Ok(Notice::ApprovalDecided { agent, approval, approved })
                if agent == self.caller.id.agent =>
            {
                let approval_id = approval.to_bytes().to_vec().into();
                ApprovalDecided(v1::ApprovalDecided { approval_id, approved })
            }
            Ok(Notice::StatusChanged { .. } | Notice::ApprovalDecided { .. })
            | Err(broadcast::error::RecvError::Closed) => return,
            // Too slow for every single notice: all that matters is that something changed.
            Err(broadcast::error::RecvError::Lagged(_)) => {
                PolicyChanged(v1::PolicyChanged { generation: 0 })
            }
        };
        self.send(0, Body::Frame(body), slot);
    }

    /// Answers what is in flight and refuses what is new, until the client goes, nothing is owed to it any
    /// more, or the time is up.
    async fn drain(self, mut frames: Streaming<v1::ClientFrame>) {
        let Self { gateway, slots, out, .. } = self;
        // At most a few hundred.
        let all = gateway.inner.admission.limits().per_session as u32;
        let refusing = async {
            loop {
                let quiet = async {
                    drop(slots.acquire_many(all).await);
                    tokio::time::sleep(GRACE).await;
                };
                let next = tokio::select! {
                    frame = frames.message() => frame,
                    () = quiet => return,
                };
                let Ok(Some(v1::ClientFrame { tag, .. })) = next else { return };
                let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
                let status = Status::unavailable("the gateway is shutting down; connect again");
                let body = Body::Frame(v1::server_frame::Body::Refusal(frame(&status)));
                // A session that ended takes no frames.
                let _ = out.send(Outgoing { tag, body, _slot: Some(slot) });
            }
        };
        // Whether the client went or the time ran out, the session is over.
        let _ = tokio::time::timeout(DRAIN, refusing).await;
    }

    fn refuse(&self, tag: u64, status: &Status, slot: OwnedSemaphorePermit) {
        self.send(tag, Body::Frame(v1::server_frame::Body::Refusal(frame(status))), slot);
    }

    fn send(&self, tag: u64, body: Body, slot: OwnedSemaphorePermit) {
        // A session that ended takes no frames.
        let _ = self.out.send(Outgoing { tag, body, _slot: Some(slot) });
    }
}

// === impl Frames ===

impl Stream for Frames {
    type Item = Result<v1::ServerFrame, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        use v1::server_frame::Body as Server;
        self.0.poll_recv(cx).map(|outgoing| {
            let Outgoing { tag, body, .. } = outgoing?;
            let body = match body {
                Body::Decision(Ok(answer)) => Server::Decision(decision_message(&answer)),
                Body::Recorded(Ok(event)) => {
                    Server::Recorded(v1::Recorded { event_id: event.to_string() })
                }
                Body::Decision(Err(status)) | Body::Recorded(Err(status)) => {
                    Server::Refusal(frame(&status))
                }
                Body::Frame(body) => body,
                Body::End(status) => return Some(Err(status)),
            };
            Some(Ok(v1::ServerFrame { tag, body: Some(body) }))
        })
    }
}
