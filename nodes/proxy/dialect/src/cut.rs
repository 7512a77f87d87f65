//! The last words of a stream that is cut.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    framing::event_stream,
    operation::Operation,
    refusal::{Refusal, Shape},
    request::Asked,
};

/// The framing of the stream.
pub(crate) enum Framed {
    Sse { is_mid_event: bool },
    EventStream,
    Element { before: &'static str, after: &'static str },
}

// === impl Framed ===

impl Framed {
    /// The error as the end of the stream.
    pub(crate) fn end(self, operation: &Operation, asked: &Asked, refusal: &Refusal) -> Bytes {
        let shape = operation.shape();
        match self {
            Self::EventStream => {
                let headers = [
                    (":message-type", "exception"),
                    (":exception-type", refusal.code.amazon_in_stream()),
                    (":content-type", "application/json"),
                ];
                let body = refusal.body(shape, Value::Null).to_string();
                event_stream::message(&headers, body.as_bytes()).into()
            }
            Self::Element { before, after } => {
                format!("{before}{}{after}", event(operation, asked, refusal).1).into()
            }
            Self::Sse { is_mid_event } => {
                // What has begun is ended first; it is no JSON, so nobody takes it for an event.
                let start = if is_mid_event { "\n\n" } else { "" };
                let (name, body) = event(operation, asked, refusal);
                let name = name.map(|name| format!("event: {name}\n")).unwrap_or_default();
                format!("{start}{name}data: {body}\n\n").into()
            }
        }
    }
}

/// The name and the data of the event that tells the error.
fn event(operation: &Operation, asked: &Asked, refusal: &Refusal) -> (Option<&'static str>, Value) {
    let shape = match operation.shape() {
        // In a stream Mistral's error is a member of an event, like OpenAI's.
        Shape::Mistral => Shape::OpenAi,
        shape => shape,
    };
    let body = refusal.body(shape, Value::Null);
    match shape {
        Shape::Anthropic => (Some("error"), body),
        Shape::OpenAi if operation.wire().has_typed_events() => {
            let code = body["error"]["code"].clone();
            let typed = json!({
                "type": "error",
                "code": code,
                "message": refusal.sentence(),
                "param": null,
                "error": body["error"],
            });
            (Some("error"), typed)
        }
        Shape::Cohere => {
            // The names of both versions of the API.
            let end = json!({
                "type": "message-end",
                "event_type": "stream-end",
                "is_finished": true,
                "finish_reason": "ERROR",
                "delta": { "finish_reason": "ERROR", "error": refusal.sentence() },
                "agent_assembly": body["agent_assembly"],
            });
            (Some("message-end"), end)
        }
        Shape::Mcp => {
            let id = asked.rpc.calls.first().map_or(Value::Null, |(id, _)| id.clone());
            (Some("message"), refusal.body(shape, id))
        }
        _ => (None, body),
    }
}
