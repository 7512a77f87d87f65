//! Cohere: `POST /v2/chat` and `/v2/embed`, and their first versions.

use aa_protocol::{Action, Usage};

use crate::{
    answer::Draft,
    head::Head,
    json::tree::Node,
    operation::Operation,
    request::{Asked, Body, Unreadable},
};

const NAMES: [&str; 8] =
    ["model", "messages", "message", "chat_history", "stream", "max_tokens", "texts", "tools"];

const CONVERSATION: [&[&str]; 1] = [&["conversation_id"]];

/// Reads a request for a chat or for embeddings.
pub(crate) fn read(
    operation: &Operation,
    head: &Head<'_>,
    body: &[u8],
) -> Result<Asked, Unreadable> {
    let body = Body::read(operation.name(), body, &NAMES)?;
    let model = body.model()?;
    let streams = body.flag("stream")?;
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
    let index = event.count("index").unwrap_or(0);
    let delta = event.get("delta");
    let call = event.at(&["delta", "message", "tool_calls"]);
    let function = call.and_then(|call| call.get("function"));
    let args = function.and_then(|function| function.text("arguments"));
    match event.text("type").or_else(|| event.text("event_type")).unwrap_or_default() {
        "message-start" => draft.identify(event.text("id"), None),
        "tool-call-start" => {
            let id = call.and_then(|call| call.text("id"));
            let name = function.and_then(|function| function.text("name"));
            draft.tool_piece((index, 0), id, name, args);
        }
        "tool-call-delta" => draft.tool_piece((index, 0), None, None, args),
        // Texts and calls are numbered apart, so a block's end ends no text of another kind.
        "tool-call-end" => draft.end_tool((index, 0)),
        "message-end" => {
            let Some(delta) = delta else { return };
            draft.finish_reason(delta.text("finish_reason"));
            if delta.get("error").is_some_and(|error| !error.is_null()) {
                draft.fail(delta.text("finish_reason"));
            }
            draft.answer.usage = delta.get("usage").and_then(usage).or(draft.answer.usage);
            draft.has_ended = true;
        }
        "stream-start" => draft.identify(event.text("generation_id"), None),
        "stream-end" => {
            if let Some(response) = event.get("response") {
                document(draft, response);
            }
            draft.finish_reason(event.text("finish_reason"));
            draft.has_ended = true;
        }
        _ => {}
    }
}

/// Reads an answer in one piece.
pub(crate) fn document(draft: &mut Draft, document: &Node<'_>) {
    draft.identify(document.text("id").or_else(|| document.text("response_id")), None);
    draft.converse(document.text("conversation_id"));
    draft.finish_reason(document.text("finish_reason"));
    let told = document.get("usage").or_else(|| document.get("meta"));
    draft.answer.usage = told.and_then(usage).or(draft.answer.usage);
    let message = document.get("message").unwrap_or(document);
    for call in message.list("tool_calls") {
        let function = call.get("function").unwrap_or(call);
        let args = function.get("arguments").or_else(|| function.get("parameters"));
        draft.tool_call_with_text(call.text("id"), function.text("name"), args);
    }
}

/// What is charged; without it, what was counted.
fn usage(told: &Node<'_>) -> Option<Usage> {
    let counts = |group: &str| {
        let group = told.get(group)?;
        let (input, output) = (group.count("input_tokens"), group.count("output_tokens"));
        (input.is_some() || output.is_some()).then_some((input.unwrap_or(0), output.unwrap_or(0)))
    };
    let (input, output) = counts("billed_units").or_else(|| counts("tokens"))?;
    let cached = told.count("cached_tokens").unwrap_or(0).min(input);
    Some(Usage {
        input_tokens: input,
        output_tokens: output,
        cached_input_tokens: cached,
        ..Usage::default()
    })
}
