//! One link from another node: takes its calls, and sends their answers back.
//!
//! Calls are read only while there is nothing to send: a node that does not take its answers gives no more to do.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context as TaskContext, Poll},
};

use aa_protocol::wire::relay::{Call, FromCaller, Leaving, ToCaller, from_caller, to_caller};
use aa_runtime::{Fault, Frame, Relay};
use futures::{Stream, task::AtomicWaker};
use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};

use crate::{message, stats::add, transport::Context};

/// The frames that go back on a link. It ends once the caller has said all and heard all.
pub(crate) struct Serving {
    context: Arc<Context>,
    relay: Relay,
    caller: String,
    /// `None` once the caller has said all.
    calls: Option<Streaming<FromCaller>>,
    welcome: Option<ToCaller>,
    leaving: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    answers: mpsc::UnboundedReceiver<ToCaller>,
    answer: mpsc::UnboundedSender<ToCaller>,
    open: Arc<OpenCalls>,
}

/// The calls of one link that are not answered yet.
struct OpenCalls {
    context: Arc<Context>,
    count: AtomicUsize,
    /// Whether the stream waits for the count to fall.
    is_awaited: AtomicBool,
    stream: AtomicWaker,
}

/// One of them.
struct OpenCall(Arc<OpenCalls>);

/// Calls taken in one go before others have a turn.
const TURN: usize = 128;

// === impl Serving ===

impl Serving {
    pub(crate) fn new(
        context: Arc<Context>,
        relay: Relay,
        caller: String,
        calls: Streaming<FromCaller>,
        welcome: ToCaller,
        mut leaving: watch::Receiver<bool>,
    ) -> Self {
        add(&context.counters.links_in, 1);
        let (answer, answers) = mpsc::unbounded_channel();
        let open = Arc::new(OpenCalls {
            context: Arc::clone(&context),
            count: AtomicUsize::new(0),
            is_awaited: AtomicBool::new(false),
            stream: AtomicWaker::new(),
        });
        let leaving = async move {
            // A server that is gone without a word has closed the connection too.
            let _ = leaving.wait_for(|leaving| *leaving).await;
        };
        Self {
            context,
            relay,
            caller,
            calls: Some(calls),
            welcome: Some(welcome),
            leaving: Some(Box::pin(leaving)),
            answers,
            answer,
            open,
        }
    }

    fn take(&self, call: Call) -> Result<(), Status> {
        let counters = &self.context.counters;
        add(&counters.calls_in, 1);
        add(&counters.bytes_in, call.body.len());
        let (id, deadline_ms) = (call.id, call.deadline_ms);
        let request =
            message::request(call).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let wants_answers = request.replies > 0;
        let open = Arc::new(OpenCall::enter(&self.open));
        let answer = self.answer.clone();
        let deliver = move |frame: Frame| {
            // It lives as long as the last way back.
            let _open = &open;
            if wants_answers {
                // A link that has ended needs no answer.
                let _ = answer.send(message::frame(id, frame));
            }
        };
        if deadline_ms > 0 && self.is_late(deadline_ms) {
            add(&counters.late, 1);
            deliver(Frame::Refused(Fault::Gone));
            return Ok(());
        }
        self.relay.take_with(request, deliver);
        Ok(())
    }

    /// Whether nobody waits any more, however far the clocks are apart.
    fn is_late(&self, deadline_ms: i64) -> bool {
        let now = self.context.clock.now().as_micros() / 1_000;
        now.saturating_sub(deadline_ms) > self.context.options.max_skew.as_millis() as i64
    }

    fn sent(&self, frame: &ToCaller) {
        use aa_protocol::wire::relay::answer::Outcome;
        let counters = &self.context.counters;
        add(&counters.frames_out, 1);
        if let Some(to_caller::Frame::Answer(answer)) = &frame.frame
            && let Some(Outcome::Ok(body)) = &answer.outcome
        {
            add(&counters.bytes_out, body.len());
        }
    }
}

impl Stream for Serving {
    type Item = Result<ToCaller, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<ToCaller, Status>>> {
        if let Some(welcome) = self.welcome.take() {
            return Poll::Ready(Some(Ok(welcome)));
        }
        for _ in 0..TURN {
            if let Poll::Ready(Some(frame)) = self.answers.poll_recv(cx) {
                self.sent(&frame);
                return Poll::Ready(Some(Ok(frame)));
            }
            if let Some(leaving) = &mut self.leaving
                && leaving.as_mut().poll(cx).is_ready()
            {
                self.leaving = None;
                let leaving = to_caller::Frame::Leaving(Leaving {});
                return Poll::Ready(Some(Ok(message::to_caller(leaving))));
            }
            let most = self.context.options.limits.open_calls;
            if self.calls.is_none() {
                let is_done = self.open.falls_below(1, cx) && self.answers.is_empty();
                return if is_done { Poll::Ready(None) } else { Poll::Pending };
            }
            if !self.open.falls_below(most, cx) {
                return Poll::Pending;
            }
            let Some(calls) = &mut self.calls else { continue };
            let Poll::Ready(received) = Pin::new(calls).poll_next(cx) else { return Poll::Pending };
            match received {
                Some(Ok(FromCaller { frame: Some(from_caller::Frame::Call(call)) })) => {
                    if let Err(status) = self.take(call) {
                        tracing::warn!(node = self.caller, %status, "a link is ended");
                        return Poll::Ready(Some(Err(status)));
                    }
                }
                // What a later version says beside calls is not for this one.
                Some(Ok(_)) => {}
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => self.calls = None,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.context.counters.links_in.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl OpenCalls ===

impl OpenCalls {
    /// Whether fewer than `bound` are open. If not, the stream is woken when one ends.
    fn falls_below(&self, bound: usize, cx: &TaskContext<'_>) -> bool {
        if self.count.load(Ordering::SeqCst) < bound {
            return true;
        }
        self.stream.register(cx.waker());
        self.is_awaited.store(true, Ordering::SeqCst);
        // One may have ended before it was noted that its end is awaited.
        self.count.load(Ordering::SeqCst) < bound
    }
}

// === impl OpenCall ===

impl OpenCall {
    fn enter(calls: &Arc<OpenCalls>) -> Self {
        calls.count.fetch_add(1, Ordering::SeqCst);
        add(&calls.context.counters.open_in, 1);
        Self(Arc::clone(calls))
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.context.counters.open_in.fetch_sub(1, Ordering::Relaxed);
        self.0.count.fetch_sub(1, Ordering::SeqCst);
        if self.0.is_awaited.swap(false, Ordering::SeqCst) {
            self.0.stream.wake();
        }
    }
}
