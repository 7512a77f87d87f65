//! The Model Context Protocol: JSON-RPC 2.0 over Streamable HTTP, and over the older transport with SSE.

use aa_protocol::Action;
use serde_json::{Map, Value};

use crate::{
    answer::{Draft, ToolResultSeen},
    head::Head,
    json::{string::unescape, tree::Node},
    operation::Operation,
    request::{Asked, Body, Unreadable, read_value},
};

/// The JSON-RPC ids of a request, to answer them with an error.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RpcIds {
    /// The ids, each with the tool that is called under it.
    pub(crate) calls: Vec<(Value, Option<String>)>,
    pub(crate) is_batch: bool,
    /// Whether the answer comes on another exchange: the older transport.
    pub(crate) answers_elsewhere: bool,
}

/// What is in a request's message that is no notification.
struct Message {
    call: Option<(Value, Option<String>)>,
    action: Option<Action>,
}

const NAMES: [&str; 6] = ["jsonrpc", "id", "method", "params", "result", "error"];
const PARAMS: [&str; 2] = ["name", "arguments"];

/// The most messages of a batch.
const MAX_BATCH: usize = 256;

/// The most results of one answer that are kept.
const MAX_RESULTS: usize = 1024;

/// Whether a head says that the request is MCP's.
pub(crate) fn is_told(head: &Head<'_>) -> bool {
    head.headers.contains_key("mcp-protocol-version") || head.headers.contains_key("mcp-session-id")
}

/// Whether a body that begins like this is a JSON-RPC message, or a batch of them.
pub(crate) fn is_message(start: &[u8]) -> bool {
    let start = start.trim_ascii_start();
    let depth_of_keys = match start.first() {
        Some(b'{') => 1,
        Some(b'[') => 2,
        _ => return false,
    };
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(byte) = start.get(at) {
        at += 1;
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let Some(length) = crate::json::strings::length_of_inside(&start[at..]) else {
                    return false;
                };
                let after = start[at + length + 1..].trim_ascii_start();
                let is_key = depth == depth_of_keys && after.first() == Some(&b':');
                if is_key && unescape(&start[at..at + length]) == "jsonrpc" {
                    return true;
                }
                at += length + 1;
            }
            _ => {}
        }
    }
    false
}

/// Reads a request.
pub(crate) fn read(
    operation: &Operation,
    head: &Head<'_>,
    body: &[u8],
) -> Result<Asked, Unreadable> {
    let name = operation.name();
    let value = read_value(name, body)?;
    let (messages, is_batch) = match value {
        Value::Array(messages) if messages.is_empty() || messages.len() > MAX_BATCH => {
            return Err(Unreadable::member(name, "(the batch)", "none or too many messages"));
        }
        Value::Array(messages) => (messages, true),
        message => (vec![message], false),
    };
    let mut asked = Asked::nothing();
    asked.rpc.is_batch = is_batch;
    for message in messages {
        let Message { call, action } = Message::read(name, message)?;
        if let Some((id, tool)) = call {
            if asked.rpc.calls.iter().any(|(other, _)| *other == id) {
                return Err(Unreadable::member(name, "id", "an id that is given twice"));
            }
            asked.rpc.calls.push((id, tool));
        }
        asked.actions.extend(action);
    }
    let accepted = head.header("accept").unwrap_or_default();
    asked.streams = accepted.contains("text/event-stream");
    // Streamable HTTP's clients accept both; the older transport answers on its own stream.
    asked.rpc.answers_elsewhere = !asked.streams && !accepted.contains("application/json");
    asked.conversation = head.header("mcp-session-id").map(crate::answer::clipped);
    Ok(asked)
}

/// A stream that an agent listens on.
pub(crate) fn listen(head: &Head<'_>) -> Asked {
    Asked {
        streams: true,
        conversation: head.header("mcp-session-id").map(crate::answer::clipped),
        ..Asked::nothing()
    }
}

/// Reads a message of a server, or a batch of them.
pub(crate) fn message(draft: &mut Draft, message: &Node<'_>) {
    if let Node::Array(messages) = message {
        messages.iter().for_each(|one| answer(draft, one));
    } else {
        answer(draft, message);
    }
    draft.has_ended = draft.calls.is_empty();
}

fn answer(draft: &mut Draft, message: &Node<'_>) {
    let result = message.get("result");
    let error = message.get("error").filter(|error| !error.is_null());
    let Some(content) = error.or(result) else { return };
    draft.answer.has_content = true;
    let id = message.get("id").map_or(Value::Null, Node::to_value);
    let at = draft.calls.iter().position(|(other, _)| *other == id);
    let tool = match at {
        Some(at) => draft.calls.remove(at).1,
        None => None,
    };
    let is_result = tool.is_some()
        || result.is_some_and(|result| {
            result.get("structuredContent").is_some()
                || matches!(result.get("content"), Some(Node::Array(_)))
        });
    if !is_result {
        return;
    }
    if draft.answer.tool_results.len() >= MAX_RESULTS {
        draft.answer.is_content_cut = true;
        return;
    }
    let is_error = error.is_some() || matches!(content.get("isError"), Some(Node::Bool(true)));
    let content = content.to_value();
    draft.answer.tool_results.push(ToolResultSeen { id, tool, content, is_error });
}

// === impl Message ===

impl Message {
    fn read(operation: &'static str, message: Value) -> Result<Self, Unreadable> {
        let body = Body::of(operation, message, &NAMES)?;
        if body.text("jsonrpc")? != Some("2.0") {
            return Err(body.refuse("jsonrpc", "something other than \"2.0\""));
        }
        let id = match body.get("id") {
            None => None,
            Some(id @ (Value::String(_) | Value::Number(_))) => Some(id.clone()),
            Some(_) => return Err(body.refuse("id", "neither string nor number")),
        };
        let Some(method) = body.text("method")? else {
            if body.get("result").is_none() && body.get("error").is_none() {
                return Err(body.refuse("method", "nothing"));
            }
            // What the agent answers a server.
            return Ok(Self { call: None, action: None });
        };
        if method != "tools/call" {
            return Ok(Self { call: id.map(|id| (id, None)), action: None });
        }
        let params = body.object("params")?.cloned().unwrap_or_default();
        let params = Body::of(operation, Value::Object(params), &PARAMS)?;
        let tool = params.text("name")?.filter(|tool| !tool.is_empty());
        let tool = tool.ok_or_else(|| body.refuse("params.name", "nothing"))?.to_owned();
        let args = params.object("arguments")?.cloned().unwrap_or_else(Map::new);
        let call = id.map(|id| (id, Some(tool.clone())));
        Ok(Self { call, action: Some(Action::ToolCall { tool, args }) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_known_by_its_outermost_keys() {
        for message in [
            r#"{"jsonrpc":"2.0","method":"x"}"#,
            r#" {"params":{"a":["b}"]},"json\u0072pc":"2.0"}"#,
            r#"[{"method":"x", "jsonrpc" : "2.0"}]"#,
            r#"{"method":"x","jsonrpc":"2.0","params":{"cut":"o"#,
        ] {
            assert!(is_message(message.as_bytes()), "{message}");
        }
        for other in ["", "jsonrpc", "{}", r#"{"a":"jsonrpc"}"#, r#"{"a":{"jsonrpc":1}}"#, "[1]"] {
            assert!(!is_message(other.as_bytes()), "{other}");
        }
    }
}
