//! Responses: `POST …/responses`.

use aa_protocol::Action;

use super::chat;
use crate::{
    answer::Draft,
    failure,
    head::Head,
    json::tree::Node,
    operation::Operation,
    request::{Asked, Body, Unreadable},
    usage,
};

const NAMES: [&str; 11] = [
    "model",
    "models",
    "input",
    "instructions",
    "prompt",
    "stream",
    "max_output_tokens",
    "tools",
    "conversation",
    "previous_response_id",
    "background",
];

/// Reads a request.
pub(crate) fn read(
    operation: &Operation,
    head: &Head<'_>,
    body: &[u8],
) -> Result<Asked, Unreadable> {
    let body = Body::read(operation.name(), body, &NAMES)?;
    let model = operation.model().map_or_else(|| body.model(), |model| Ok(model.to_owned()))?;
    chat::only_this_model(&body, &model)?;
    let streams = body.flag("stream")?;
    let own: [&[&str]; 3] = [&["conversation", "id"], &["conversation"], &["previous_response_id"]];
    let conversation = body
        .conversation(&own)
        .or_else(|| body.conversation(&chat::CONVERSATION))
        .map(str::to_owned);
    let max_output_tokens = body.count("max_output_tokens")?;
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
    let kind = event.text("type").unwrap_or_default();
    let item = event.count("output_index").unwrap_or(0);
    if let Some(response) = event.get("response") {
        response_so_far(draft, response);
    }
    match kind {
        "response.output_item.added" => {
            if let Some(added) = event.get("item").filter(|added| is_call(added)) {
                let name = added.text("name").or_else(|| added.text("type"));
                draft.tool_piece((item, 0), call_id(added), name, None);
            }
        }
        "response.output_item.done" => {
            if let Some(done) = event.get("item").filter(|done| is_call(done)) {
                let name = done.text("name").or_else(|| done.text("type"));
                draft.tool_piece((item, 0), call_id(done), name, None);
                if let Some(args) = arguments(done) {
                    let args =
                        args.str().map_or_else(|| args.to_value().to_string(), str::to_owned);
                    draft.tool_args((item, 0), &args);
                }
            }
            draft.end(item);
        }
        "response.function_call_arguments.delta"
        | "response.custom_tool_call_input.delta"
        | "response.mcp_call_arguments.delta" => {
            draft.tool_piece((item, 0), None, None, event.text("delta"));
        }
        "response.completed" | "response.incomplete" => draft.has_ended = true,
        "response.failed" => {
            draft.has_ended = true;
            draft.fail(event.get("response").and_then(failure::kind));
        }
        "error" => draft.fail(failure::kind(event)),
        _ => {}
    }
}

/// Reads an answer in one piece.
pub(crate) fn document(draft: &mut Draft, document: &Node<'_>) {
    response_so_far(draft, document);
    if let Some(kind) = failure::of_event(document) {
        draft.fail(kind);
    }
    for item in document.list("output").iter().filter(|item| is_call(item)) {
        let name = item.text("name").or_else(|| item.text("type"));
        draft.tool_call_with_text(call_id(item), name, arguments(item));
    }
}

fn response_so_far(draft: &mut Draft, response: &Node<'_>) {
    draft.identify(response.text("id"), response.text("model"));
    draft.converse(response.at(&["conversation", "id"]).and_then(Node::str));
    if let Some(usage) = response.get("usage").and_then(usage::openai) {
        draft.answer.usage = Some(usage);
    }
    let reason = response.at(&["incomplete_details", "reason"]).and_then(Node::str);
    let is_under_way = matches!(response.text("status"), Some("in_progress"));
    draft.finish_reason(reason.or_else(|| response.text("status")).filter(|_| !is_under_way));
}

/// Whether an item of the output is a call of a tool.
fn is_call(item: &Node<'_>) -> bool {
    let kind = item.text("type").unwrap_or_default();
    matches!(
        kind,
        "function_call"
            | "custom_tool_call"
            | "mcp_call"
            | "computer_call"
            | "local_shell_call"
            | "shell_call"
            | "apply_patch_call"
    )
}

fn call_id<'n>(item: &'n Node<'_>) -> Option<&'n str> {
    item.text("call_id").or_else(|| item.text("id"))
}

fn arguments<'n, 't>(item: &'n Node<'t>) -> Option<&'n Node<'t>> {
    ["arguments", "input", "action", "operation"].iter().find_map(|name| item.get(name))
}
