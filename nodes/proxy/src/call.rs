//! A call of a model or a tool: made, its answer read while it streams, screened, and settled by what it did cost.
//!
//! It goes on when its client goes away: the upstream is listened to up to a bound, for what the call did cost.

use std::time::{Duration, Instant};

use aa_dialect::{Answer, AnswerReader, Asked, Operation, Refusal, RefusalCode};
use aa_protocol::{
    Action, ActionId, CallEnd, MAX_FINISH_REASON_CHARS, MAX_PROVIDER_ID_CHARS, Observed,
};
use aa_scan::decode::{Decoder, UnknownEncoding};
use bytes::{Bytes, BytesMut};
use http::{
    Request, Response, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_LENGTH},
    response::Parts,
};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot},
    time::{timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    body::{Body, BodyError, Stalled, full},
    exchange::{Exchange, answer_of},
    headers,
    intake::content_encoding,
    refusal,
    screen::Screen,
};

/// A call that may be made.
pub(crate) struct Call {
    pub(crate) exchange: Exchange,
    pub(crate) operation: Operation,
    pub(crate) asked: Asked,
    /// What was allowed, and under which ids.
    pub(crate) allowed: Vec<(Action, ActionId)>,
}

/// An answer on its way to its client.
struct Passage {
    call: Call,
    reader: AnswerReader,
    decoder: Option<Decoder>,
    screen: Screen,
    sink: Sink,
    /// Bytes that may be held.
    room: usize,
    status: StatusCode,
    sent_at: Instant,
    first_token: Option<Duration>,
}

/// Whoever waits for an answer.
enum Sink {
    /// It waits for the whole.
    Held { head: oneshot::Sender<Response<Body>>, parts: Box<Parts>, body: BytesMut },
    /// It reads while the answer comes.
    Client(mpsc::Sender<Result<Frame<Bytes>, BodyError>>),
    /// Nobody does any more.
    Gone,
}

/// An answer ends here because of what is in it.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a sensitive pattern of the policy matched in the answer")]
struct Cut;

/// How an answer's bytes ended.
enum Ending {
    /// With the upstream's own end.
    Complete,
    /// Before it.
    Broken(BodyError),
}

/// Frames between upstream and client; the upstream is not read further while they wait.
const IN_BETWEEN: usize = 4;
/// A client that reads nothing for so long is gone.
const CLIENT_PATIENCE: Duration = Duration::from_secs(120);

/// What was allowed is not done: what was reserved is free again.
pub(crate) fn not_made(exchange: &Exchange, allowed: &[(Action, ActionId)]) {
    for (action, id) in allowed {
        if let Action::LlmCall { model, .. } = action {
            let result = Action::LlmResult {
                model: model.clone(),
                content: Value::Null,
                usage: None,
                call: Some(*id),
                end: CallEnd::NotCharged,
                observed: None,
            };
            exchange.report(&result);
        }
    }
}

// === impl Call ===

impl Call {
    /// Makes the call in a task of its own, for its end is to be told even if nobody waits for it, and returns the
    /// answer's head with a body that follows.
    pub(crate) async fn make(self, request: Request<Body>) -> Response<Body> {
        let (head, answered) = oneshot::channel();
        let tasks = self.exchange.proxy.tasks.clone();
        let operation = self.operation.clone();
        tasks.spawn(self.run(request, head));
        answered.await.unwrap_or_else(|_| answer_of(operation.refuse(None, &refusal::internal())))
    }

    async fn run(self, request: Request<Body>, head: oneshot::Sender<Response<Body>>) {
        let sent_at = Instant::now();
        let exchange = &self.exchange;
        let upstream = &exchange.origin.authority;
        let response = match exchange.governed.upstreams.send(upstream, request).await {
            Ok(response) => response,
            Err(error) => {
                let refused = exchange.upstream_failed(&error);
                if error.is_unsent() {
                    not_made(exchange, &self.allowed);
                } else {
                    // It may have been taken on: what it did cost nobody knows.
                    self.settle(&Answer::default(), CallEnd::CutOff, None);
                }
                let _ = head.send(self.refuse(&refused));
                return;
            }
        };
        let (mut parts, body) = response.into_parts();
        headers::end_hop(&mut parts.headers);
        let decoder = match decoder(&self.exchange, &parts) {
            Ok(decoder) => decoder,
            Err(error) => {
                self.settle(&Answer::default(), CallEnd::CutOff, None);
                let refused = refusal::upstream_unreadable(error.to_string());
                let _ = head.send(self.refuse(&refused));
                return;
            }
        };
        let reader = self.operation.answer(&self.asked, parts.status, &parts.headers);
        let screen = self.exchange.screen();
        if decoder.is_some() {
            parts.headers.remove(CONTENT_ENCODING);
        }
        if decoder.is_some() || screen.may_change() {
            parts.headers.remove(CONTENT_LENGTH);
        }
        let status = parts.status;
        // A stream is passed on while it comes. What is asked for as a whole is of no use before its end, so the
        // gateway looks at it first.
        let room = (!self.asked.streams).then_some(self.exchange.settings.limits.held_bytes);
        let mut sink = Sink::Held { head, parts: Box::new(parts), body: BytesMut::new() };
        if room.is_none() {
            sink = sink.begin();
        }
        let passage = Passage {
            call: self,
            reader,
            decoder,
            screen,
            sink,
            room: room.unwrap_or_default(),
            status,
            sent_at,
            first_token: None,
        };
        passage.run(body).await;
    }

    fn refuse(&self, refused: &Refusal) -> Response<Body> {
        answer_of(self.operation.refuse(Some(&self.asked), refused))
    }

    fn report(&self, results: &[Action]) {
        for result in results {
            self.exchange.report(result);
        }
    }

    /// Has the gateway look at the results before the client sees any of them. What it gave no decision on is still
    /// reported.
    async fn looked_at(&self, results: Vec<Action>) -> Result<(), Box<Refusal>> {
        let mut outcome = Ok(());
        for result in results {
            if let Err(refused) = self.exchange.decided(&result).await {
                if matches!(refused.code, RefusalCode::Unavailable | RefusalCode::TooLarge) {
                    self.exchange.report(&result);
                }
                outcome = Err(refused);
            }
        }
        outcome
    }

    /// Reports how everything that was allowed has ended.
    fn settle(&self, answer: &Answer, end: CallEnd, observed: Option<&Observed>) {
        self.report(&self.results(answer, end, observed));
    }

    fn results(&self, answer: &Answer, end: CallEnd, observed: Option<&Observed>) -> Vec<Action> {
        let of = |(action, id): &(Action, ActionId)| match action {
            Action::LlmCall { model, .. } => Some(Action::LlmResult {
                model: answer.model.clone().unwrap_or_else(|| model.clone()),
                content: answer.content.clone(),
                usage: answer.usage,
                call: Some(*id),
                end,
                observed: observed.cloned().map(Box::new),
            }),
            Action::ToolCall { tool, .. } => {
                let found = answer
                    .tool_results
                    .iter()
                    .find(|result| result.tool.as_deref().is_none_or(|named| named == tool));
                let content = found.map_or(Value::Null, |result| result.content.clone());
                Some(Action::ToolResult { tool: tool.clone(), content })
            }
            _ => None,
        };
        self.allowed.iter().filter_map(of).collect()
    }
}

// === impl Sink ===

impl Sink {
    /// Has the answer's head go out, and what was held after it.
    fn begin(self) -> Self {
        let Self::Held { head, parts, body } = self else { return self };
        let (client, frames) = mpsc::channel(IN_BETWEEN);
        if !body.is_empty() {
            // There is room for it: nothing else was sent yet.
            let _ = client.try_send(Ok(Frame::data(body.freeze())));
        }
        let follows = StreamBody::new(ReceiverStream::new(frames)).boxed_unsync();
        match head.send(Response::from_parts(*parts, follows)) {
            Ok(()) => Self::Client(client),
            Err(_) => Self::Gone,
        }
    }

    fn is_gone(&self) -> bool {
        match self {
            Self::Held { head, .. } => head.is_closed(),
            Self::Client(_) => false,
            Self::Gone => true,
        }
    }
}

/// What undoes the answer's encoding, if it has one.
fn decoder(exchange: &Exchange, parts: &Parts) -> Result<Option<Decoder>, UnknownEncoding> {
    let encoding = content_encoding(&parts.headers)?;
    Ok((!encoding.is_identity())
        .then(|| Decoder::new(&encoding, exchange.settings.limits.decoding())))
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

// === impl Passage ===

impl Passage {
    async fn run(mut self, mut body: Incoming) {
        let ending = self.pass(&mut body).await;
        let mut ending = match ending {
            Ok(ending) => ending,
            Err(error) => Ending::Broken(error),
        };
        if let Ending::Complete = ending
            && let Err(error) = self.pass_last().await
        {
            ending = Ending::Broken(error);
        }
        self.end(ending).await;
    }

    /// Passes the body on until it ends, or until nobody waits for the rest.
    async fn pass(&mut self, body: &mut Incoming) -> Result<Ending, BodyError> {
        let silence = self.call.exchange.settings.timeouts.silence;
        let drain = self.call.exchange.settings.timeouts.drain;
        let mut drained_until = None;
        loop {
            if self.sink.is_gone() && drained_until.is_none() {
                self.call.exchange.proxy.metrics.clients_gone.increment();
                drained_until = Some(tokio::time::Instant::now() + drain);
            }
            let next = match drained_until {
                None => timeout(silence, body.frame()).await,
                Some(until) => timeout_at(until, body.frame()).await,
            };
            let frame = match next {
                Err(_) => return Err(Stalled::after(silence).into()),
                Ok(None) => return Ok(Ending::Complete),
                Ok(Some(frame)) => frame?,
            };
            match frame.into_data() {
                Ok(data) => self.take(data).await?,
                Err(trailers) => self.send(trailers).await,
            }
        }
    }

    async fn take(&mut self, data: Bytes) -> Result<(), BodyError> {
        match &mut self.decoder {
            None => self.read(data).await,
            Some(decoder) => {
                for piece in decoder.push(data)? {
                    self.read(piece).await;
                }
            }
        }
        Ok(())
    }

    async fn read(&mut self, data: Bytes) {
        let frames = self.reader.push(data);
        if self.first_token.is_none() && self.reader.answer().has_content {
            self.first_token = Some(self.sent_at.elapsed());
        }
        let leaving = self.screen.take(frames);
        self.let_go(leaving).await;
    }

    /// What was held back for more to come that will not.
    async fn pass_last(&mut self) -> Result<(), BodyError> {
        if let Some(decoder) = &mut self.decoder {
            decoder.finish()?;
        }
        let frames = self.reader.finish();
        let mut leaving = self.screen.take(frames);
        leaving.extend(self.screen.finish());
        self.let_go(leaving).await;
        Ok(())
    }

    async fn let_go(&mut self, leaving: Vec<Bytes>) {
        for piece in leaving {
            if !piece.is_empty() {
                self.send(Frame::data(piece)).await;
            }
        }
        if self.screen.is_cut() && !self.sink.is_gone() {
            self.cut().await;
        }
    }

    /// Ends what the client gets; what the rest costs is still listened for.
    async fn cut(&mut self) {
        let refused = refusal::cut();
        match std::mem::replace(&mut self.sink, Sink::Gone) {
            Sink::Held { head, .. } => {
                let _ = head.send(self.call.refuse(&refused));
            }
            Sink::Client(client) => {
                let last = match self.reader.cut(&refused) {
                    Some(last) => Ok(Frame::data(last)),
                    // Nobody is to take the part for the whole.
                    None => Err(Cut.into()),
                };
                // A client that reads no more has gone anyway.
                let _ = timeout(CLIENT_PATIENCE, client.send(last)).await;
            }
            Sink::Gone => {}
        }
        self.call.exchange.proxy.metrics.calls_cut.increment();
        tracing::info!(
            agent = %self.call.exchange.governed.name,
            upstream = %self.call.exchange.origin,
            "answer cut: a sensitive pattern matched"
        );
    }

    async fn send(&mut self, frame: Frame<Bytes>) {
        if let Sink::Held { body, .. } = &mut self.sink {
            let Ok(data) = frame.into_data() else { return };
            if body.len() + data.len() <= self.room {
                body.extend_from_slice(&data);
                return;
            }
            self.sink = std::mem::replace(&mut self.sink, Sink::Gone).begin();
            return self.send_on(Frame::data(data)).await;
        }
        self.send_on(frame).await;
    }

    async fn send_on(&mut self, frame: Frame<Bytes>) {
        let Sink::Client(client) = &self.sink else { return };
        let sent = timeout(CLIENT_PATIENCE, client.send(Ok(frame))).await;
        if !sent.is_ok_and(|sent| sent.is_ok()) {
            self.sink = Sink::Gone;
        }
    }

    fn observed(&self) -> Observed {
        let answer = self.reader.answer();
        let shortened = |text: Option<&String>, most| {
            text.map(|text| text.chars().take(most).collect::<String>())
        };
        let conversation = answer.conversation.as_ref().or(self.call.asked.conversation.as_ref());
        Observed {
            latency_us: micros(self.sent_at.elapsed()),
            first_token_us: self.first_token.map(micros),
            status: Some(self.status.as_u16()),
            finish_reason: shortened(answer.finish_reason.as_ref(), MAX_FINISH_REASON_CHARS),
            conversation: shortened(conversation, MAX_PROVIDER_ID_CHARS),
            response_id: shortened(answer.id.as_ref(), MAX_PROVIDER_ID_CHARS),
        }
    }

    async fn end(mut self, ending: Ending) {
        let metrics = &self.call.exchange.proxy.metrics;
        metrics.call_time.observe(self.sent_at.elapsed());
        if let Some(took) = self.first_token {
            metrics.first_token_time.observe(took);
        }
        metrics.matches.add(self.screen.matches() as u64);
        let answer = self.reader.answer();
        if let Some(usage) = &answer.usage {
            metrics.input_tokens.add(usage.input_tokens);
            metrics.output_tokens.add(usage.output_tokens);
        } else if self.status.is_success() {
            metrics.without_usage.increment();
        }
        let end = match &ending {
            // Providers do not charge for what they refuse.
            _ if self.status.is_client_error() || self.status.is_server_error() => {
                CallEnd::NotCharged
            }
            Ending::Complete if answer.is_complete => CallEnd::Complete,
            _ => CallEnd::CutOff,
        };
        let results = self.call.results(answer, end, Some(&self.observed()));
        match (std::mem::replace(&mut self.sink, Sink::Gone), ending) {
            (Sink::Held { head, parts, body }, Ending::Complete) => {
                let response = match self.call.looked_at(results).await {
                    Ok(()) => Response::from_parts(*parts, full(body.freeze())),
                    Err(refused) => self.call.refuse(&refused),
                };
                // Who does not wait any more has its call settled.
                let _ = head.send(response);
            }
            (Sink::Held { head, .. }, Ending::Broken(error)) => {
                self.call.report(&results);
                self.broke_off(&*error);
                let _ = head.send(self.call.refuse(&refusal::answer_broke_off(&*error)));
            }
            (Sink::Client(client), Ending::Broken(error)) => {
                self.call.report(&results);
                self.broke_off(&*error);
                // The client is to see that the answer is not whole.
                let _ = timeout(CLIENT_PATIENCE, client.send(Err(error))).await;
            }
            (_, ending) => {
                self.call.report(&results);
                if let Ending::Broken(error) = ending {
                    self.broke_off(&*error);
                }
            }
        }
    }

    fn broke_off(&self, error: &dyn std::error::Error) {
        tracing::warn!(
            agent = %self.call.exchange.governed.name,
            upstream = %self.call.exchange.origin,
            %error,
            "answer broke off"
        );
    }
}
