//! Completions, the API before chat: `POST …/completions`.

use aa_protocol::Action;
use serde_json::Value;

use super::{chat, refuse_tokens};
use crate::{
    answer::Draft,
    failure,
    head::Head,
    json::tree::Node,
    operation::Operation,
    request::{Asked, Body, Unreadable},
    usage,
};

const NAMES: [&str; 8] =
    ["model", "models", "prompt", "stream", "stream_options", "n", "best_of", "max_tokens"];

/// Reads a request.
pub(crate) fn read(
    operation: &Operation,
    head: &Head<'_>,
    body: &[u8],
) -> Result<Asked, Unreadable> {
    let body = Body::read(operation.name(), body, &NAMES)?;
    let model = operation.model().map_or_else(|| body.model(), |model| Ok(model.to_owned()))?;
    chat::only_this_model(&body, &model)?;
    refuse_tokens(&body, "prompt")?;
    let streams = body.flag("stream")?;
    let options = body.object("stream_options")?;
    let tells_usage = options.and_then(|options| options.get("include_usage"));
    let lacks_usage = streams && tells_usage.is_none_or(|tells| *tells != true);
    let conversation = body.conversation(&chat::CONVERSATION).map(str::to_owned);
    let max_output_tokens = body.largest(&["max_tokens"])?;
    // Every prompt of a list is answered as often.
    let prompts = body.get("prompt").and_then(Value::as_array).map_or(1, |list| list.len() as u64);
    let each = body.largest(&["n", "best_of"])?;
    let choices = match (each, prompts) {
        (None, 0 | 1) => None,
        (each, prompts) => Some(each.unwrap_or(1).saturating_mul(prompts.max(1))),
    };
    let action = Action::LlmCall {
        model,
        host: Some(head.host.to_owned()),
        messages: body.into_prompt(head),
        max_output_tokens,
        choices,
    };
    Ok(Asked { lacks_usage, ..Asked::call(action, streams, conversation.as_deref()) })
}

/// Reads an event of a stream, or an answer in one piece: both have the same form.
pub(crate) fn event(draft: &mut Draft, event: &Node<'_>) {
    draft.identify(event.text("id"), event.text("model"));
    if let Some(kind) = failure::of_event(event) {
        draft.fail(kind);
    }
    if let Some(usage) = event.get("usage").and_then(usage::openai) {
        draft.answer.usage = Some(usage);
    }
    for (position, choice) in event.list("choices").iter().enumerate() {
        if let Some(reason) = choice.text("finish_reason") {
            draft.finish_reason(Some(reason));
            draft.end(choice.count("index").unwrap_or(position as u64));
        }
    }
}
