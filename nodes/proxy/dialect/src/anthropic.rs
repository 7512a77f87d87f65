//! Anthropic's messages: `POST …/v1/messages`, and the same bodies where clouds sell them.

use aa_protocol::{Action, Usage};
use serde_json::Value;

use crate::{
    answer::Draft,
    failure,
    head::Head,
    json::tree::Node,
    openai::chat,
    operation::Operation,
    request::{Asked, Body, Unreadable},
};

const NAMES: [&str; 8] =
    ["model", "models", "messages", "system", "max_tokens", "stream", "tools", "metadata"];

const CONVERSATION: [&[&str]; 6] = [
    &["metadata", "conversation_id"],
    &["metadata", "session_id"],
    &["metadata", "thread_id"],
    &["container", "id"],
    &["container"],
    &["metadata", "user_id"],
];

/// The most requests of a batch.
const MAX_BATCH: usize = 1000;

/// Reads a request.
pub(crate) fn read(
    operation: &Operation,
    head: &Head<'_>,
    body: &[u8],
) -> Result<Asked, Unreadable> {
    message(operation, head, Body::read(operation.name(), body, &NAMES)?)
}

/// Reads a batch of requests, `POST …/v1/messages/batches`: a call for each. What they cost is told elsewhere, hours
/// later.
pub(crate) fn read_batch(
    operation: &Operation,
    head: &Head<'_>,
    body: &[u8],
) -> Result<Asked, Unreadable> {
    let body = Body::read(operation.name(), body, &["requests"])?;
    let Some(Value::Array(requests)) = body.get("requests") else {
        return Err(body.refuse("requests", "no list"));
    };
    if requests.is_empty() || requests.len() > MAX_BATCH {
        return Err(Unreadable {
            next: "split it into batches of 1 to 1000 requests",
            ..body.refuse("requests", "none, or too many")
        });
    }
    let mut asked = Asked::nothing();
    for request in requests {
        let request = Body::of(operation.name(), request.clone(), &["custom_id", "params"])?;
        let params = request.object("params")?.cloned().unwrap_or_default();
        let params = Body::of(operation.name(), Value::Object(params), &NAMES)?;
        asked.actions.extend(message(operation, head, params)?.actions);
    }
    Ok(asked)
}

fn message(operation: &Operation, head: &Head<'_>, body: Body) -> Result<Asked, Unreadable> {
    let model = operation.model().map_or_else(|| body.model(), |model| Ok(model.to_owned()))?;
    chat::only_this_model(&body, &model)?;
    if body.get("messages").is_none() {
        return Err(body.refuse("messages", "nothing"));
    }
    // At a cloud the path tells it as well.
    let streams = body.flag("stream")? || operation.streams();
    let conversation = body.conversation(&CONVERSATION).map(str::to_owned);
    let max_output_tokens = body.count("max_tokens")?;
    let action = Action::LlmCall {
        model,
        host: Some(head.host.to_owned()),
        messages: body.into_prompt(head),
        max_output_tokens,
        choices: None,
    };
    Ok(Asked::call(action, streams, conversation.as_deref()))
}

/// Reads an event of a stream.
pub(crate) fn event(draft: &mut Draft, event: &Node<'_>) {
    let block = event.count("index").unwrap_or(0);
    match event.text("type").unwrap_or_default() {
        "message_start" => {
            if let Some(message) = event.get("message") {
                draft.identify(message.text("id"), message.text("model"));
                usage(draft, message);
            }
        }
        "content_block_start" => {
            if let Some(begun) = event.get("content_block").filter(|begun| is_call(begun)) {
                draft.tool_piece((block, 0), begun.text("id"), begun.text("name"), None);
                // Usually empty, the pieces follow.
                let input = begun.get("input");
                let has_input = matches!(input, Some(Node::Object(members)) if !members.is_empty());
                if let Some(input) = input.filter(|_| has_input) {
                    draft.tool_args((block, 0), &input.to_value().to_string());
                }
            }
        }
        "content_block_delta" => {
            let delta = event.get("delta");
            if let Some(piece) = delta.and_then(|delta| delta.text("partial_json")) {
                draft.tool_piece((block, 0), None, None, Some(piece));
            }
        }
        "content_block_stop" => draft.end(block),
        "message_delta" => {
            let reason = event.at(&["delta", "stop_reason"]).and_then(Node::str);
            draft.finish_reason(reason);
            usage(draft, event);
        }
        "message_stop" => draft.has_ended = true,
        "error" => draft.fail(failure::kind(event)),
        _ => {}
    }
}

/// Reads an answer in one piece.
pub(crate) fn document(draft: &mut Draft, document: &Node<'_>) {
    draft.identify(document.text("id"), document.text("model"));
    draft.finish_reason(document.text("stop_reason"));
    usage(draft, document);
    for block in document.list("content").iter().filter(|block| is_call(block)) {
        draft.tool_call_with_text(block.text("id"), block.text("name"), block.get("input"));
    }
}

fn is_call(block: &Node<'_>) -> bool {
    let kind = block.text("type");
    matches!(kind, Some("tool_use" | "server_tool_use" | "mcp_tool_use"))
}

/// Takes over what the `usage` below tells; what it leaves out stays as it was. What was read from or written to
/// a cache is counted beside `input_tokens`.
fn usage(draft: &mut Draft, holder: &Node<'_>) {
    let Some(told) = holder.get("usage").filter(|told| !told.is_null()) else { return };
    let before = draft.answer.usage.unwrap_or_default();
    let cached = before.cached_input_tokens.saturating_add(before.cache_write_tokens);
    let fresh = before.input_tokens.saturating_sub(cached);
    let read = told.count("cache_read_input_tokens").unwrap_or(before.cached_input_tokens);
    let written = told.count("cache_creation_input_tokens").unwrap_or(before.cache_write_tokens);
    let fresh = told.count("input_tokens").unwrap_or(fresh);
    draft.answer.usage = Some(Usage {
        input_tokens: fresh.saturating_add(read).saturating_add(written),
        output_tokens: told.count("output_tokens").unwrap_or(before.output_tokens),
        cached_input_tokens: read,
        cache_write_tokens: written,
        reasoning_tokens: 0,
    });
}
