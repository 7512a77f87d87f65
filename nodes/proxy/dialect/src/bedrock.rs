//! Amazon Bedrock: `POST /model/<id>/converse`, `…/converse-stream`, `…/invoke` and
//! `…/invoke-with-response-stream`.

use aa_protocol::{Action, Usage};
use http::HeaderMap;

use crate::{
    answer::Draft,
    anthropic, failure,
    head::{Head, Route},
    json::tree::Node,
    openai::chat,
    operation::Operation,
    request::{Asked, Body, Unreadable},
};

const NAMES: [&str; 9] = [
    "messages",
    "system",
    "max_tokens",
    "maxTokens",
    "inferenceConfig",
    "toolConfig",
    "prompt",
    "inputText",
    "additionalModelRequestFields",
];

/// Where models of different vendors are told the longest answer.
const LIMITS: [&[&str]; 9] = [
    &["max_tokens"],
    &["max_completion_tokens"],
    &["max_tokens_to_sample"],
    &["max_gen_len"],
    &["inferenceConfig", "maxTokens"],
    &["inferenceConfig", "max_new_tokens"],
    &["textGenerationConfig", "maxTokenCount"],
    &["additionalModelRequestFields", "max_tokens"],
    &["additionalModelRequestFields", "max_completion_tokens"],
];

const CONVERSATION: [&[&str]; 5] = [
    &["requestMetadata", "conversation_id"],
    &["requestMetadata", "conversationId"],
    &["requestMetadata", "session_id"],
    &["requestMetadata", "sessionId"],
    &["metadata", "user_id"],
];

/// Tokens that the head of an answer tells.
const COUNTED_INPUT: &str = "x-amzn-bedrock-input-token-count";
const COUNTED_OUTPUT: &str = "x-amzn-bedrock-output-token-count";

/// The model and the call of a path; a model's id may be an ARN with slashes in it.
pub(crate) fn target(route: &Route) -> Option<(String, &str)> {
    match route.segments() {
        [first, model @ .., call] if first.eq_ignore_ascii_case("model") && !model.is_empty() => {
            Some((model.join("/"), call))
        }
        _ => None,
    }
}

/// Reads a request of any of the calls.
pub(crate) fn read(
    operation: &Operation,
    head: &Head<'_>,
    body: &[u8],
) -> Result<Asked, Unreadable> {
    let body = Body::read(operation.name(), body, &NAMES)?;
    let mut max_output_tokens = None;
    for path in LIMITS {
        max_output_tokens = max_output_tokens.max(match path {
            [name] => body.count(name)?,
            [object, name] => body.count_in(&[object], &[name])?,
            _ => None,
        });
    }
    let conversation = body.conversation(&CONVERSATION).map(str::to_owned);
    let action = Action::LlmCall {
        model: operation.model().unwrap_or_default().to_owned(),
        host: Some(head.host.to_owned()),
        messages: body.into_prompt(head),
        max_output_tokens,
        choices: None,
    };
    Ok(Asked::call(action, operation.streams(), conversation.as_deref()))
}

/// Reads what the head of an answer tells.
pub(crate) fn head(draft: &mut Draft, headers: &HeaderMap) {
    let count = |name| headers.get(name)?.to_str().ok()?.parse().ok();
    let (input, output) = (count(COUNTED_INPUT), count(COUNTED_OUTPUT));
    if input.is_some() || output.is_some() {
        draft.answer.usage = Some(Usage {
            input_tokens: input.unwrap_or(0),
            output_tokens: output.unwrap_or(0),
            ..Usage::default()
        });
    }
    let id = headers.get("x-amzn-requestid").and_then(|id| id.to_str().ok());
    draft.identify(id, None);
    let error = headers.get("x-amzn-errortype").and_then(|kind| kind.to_str().ok());
    if let Some(kind) = error.and_then(|kind| kind.split(':').next()) {
        draft.fail(Some(kind));
    }
}

/// Reads an event of a Converse stream, named by its header.
pub(crate) fn converse_event(draft: &mut Draft, name: &str, event: &Node<'_>) {
    let block = event.count("contentBlockIndex").unwrap_or(0);
    match name {
        "contentBlockStart" => {
            if let Some(tool) = event.at(&["start", "toolUse"]) {
                draft.tool_piece((block, 0), tool.text("toolUseId"), tool.text("name"), None);
            }
        }
        "contentBlockDelta" => {
            if let Some(tool) = event.at(&["delta", "toolUse"]) {
                draft.tool_piece((block, 0), None, None, tool.text("input"));
            }
        }
        "contentBlockStop" => draft.end(block),
        "messageStop" => draft.finish_reason(event.text("stopReason")),
        "metadata" => {
            draft.answer.usage = event.get("usage").and_then(usage).or(draft.answer.usage);
            draft.has_ended = true;
        }
        _ => {}
    }
}

/// Reads an answer of Converse in one piece.
pub(crate) fn converse_document(draft: &mut Draft, document: &Node<'_>) {
    draft.finish_reason(document.text("stopReason"));
    draft.answer.usage = document.get("usage").and_then(usage).or(draft.answer.usage);
    let message = document.at(&["output", "message"]);
    for block in message.map_or(&[][..], |message| message.list("content")) {
        if let Some(tool) = block.get("toolUse") {
            let (id, name) = (tool.text("toolUseId"), tool.text("name"));
            draft.tool_call_with_text(id, name, tool.get("input"));
        }
    }
}

/// Reads an event that a model wrote in its own form.
pub(crate) fn invoke_event(draft: &mut Draft, event: &Node<'_>) {
    if event.get("type").is_some() {
        anthropic::event(draft, event);
    } else if event.get("choices").is_some() {
        chat::event(draft, event);
    } else if let Node::Object(members) = event {
        // Nova's events are those of Converse, each below its name.
        for (name, member) in members {
            converse_event(draft, &name.text, member);
        }
        let reason = event.text("stop_reason").or_else(|| event.text("completionReason"));
        draft.finish_reason(reason);
    }
    if let Some(metrics) = event.get("amazon-bedrock-invocationMetrics") {
        if draft.answer.usage.is_none() {
            draft.answer.usage = Some(Usage {
                input_tokens: metrics.count("inputTokenCount").unwrap_or(0),
                output_tokens: metrics.count("outputTokenCount").unwrap_or(0),
                ..Usage::default()
            });
        }
        draft.has_ended = true;
    }
    if let Some(kind) = failure::of_event(event) {
        draft.fail(kind);
    }
}

/// Reads an answer that a model wrote in its own form.
pub(crate) fn invoke_document(draft: &mut Draft, document: &Node<'_>) {
    let counted = draft.answer.usage.take();
    if document.text("type") == Some("message") {
        anthropic::document(draft, document);
    } else if document.get("choices").is_some() {
        chat::document(draft, document);
    } else {
        converse_document(draft, document);
        draft.finish_reason(document.text("stop_reason"));
    }
    draft.answer.usage = draft.answer.usage.or(counted);
}

/// Tokens from and to a cache are counted beside `inputTokens`.
fn usage(told: &Node<'_>) -> Option<Usage> {
    let (fresh, output) = (told.count("inputTokens"), told.count("outputTokens"));
    if fresh.is_none() && output.is_none() {
        return None;
    }
    let read = told.count("cacheReadInputTokens").unwrap_or(0);
    let written = told.count("cacheWriteInputTokens").unwrap_or(0);
    Some(Usage {
        input_tokens: fresh.unwrap_or(0).saturating_add(read).saturating_add(written),
        output_tokens: output.unwrap_or(0),
        cached_input_tokens: read,
        cache_write_tokens: written,
        reasoning_tokens: 0,
    })
}
