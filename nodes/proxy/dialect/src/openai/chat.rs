//! Chat completions: `POST …/chat/completions`.

use aa_protocol::Action;

use crate::{
    answer::Draft,
    failure,
    head::Head,
    json::tree::Node,
    operation::Operation,
    request::{Asked, Body, Unreadable},
    usage,
};

/// Where callers name the conversation.
pub(super) const CONVERSATION: [&[&str]; 8] = [
    &["conversation_id"],
    &["session_id"],
    &["metadata", "conversation_id"],
    &["metadata", "session_id"],
    &["metadata", "thread_id"],
    &["prompt_cache_key"],
    &["safety_identifier"],
    &["user"],
];

const LIMITS: [&str; 2] = ["max_completion_tokens", "max_tokens"];

const NAMES: [&str; 11] = [
    "model",
    "models",
    "messages",
    "prompt",
    "stream",
    "stream_options",
    "n",
    "max_completion_tokens",
    "max_tokens",
    "tools",
    "functions",
];

/// The key of the one call of the API's first years, which had no list of them.
const FUNCTION_CALL: u64 = u64::MAX;

/// Reads a request.
pub(crate) fn read(
    operation: &Operation,
    head: &Head<'_>,
    body: &[u8],
) -> Result<Asked, Unreadable> {
    let body = Body::read(operation.name(), body, &NAMES)?;
    let model = match operation.model() {
        Some(model) => model.to_owned(),
        None if body.get("model").is_none() && body.get("agent_id").is_some() => {
            body.text("agent_id")?.unwrap_or_default().to_owned()
        }
        None => body.model()?,
    };
    only_this_model(&body, &model)?;
    if body.get("messages").is_none() && body.get("prompt").is_none() {
        return Err(body.refuse("messages", "nothing"));
    }
    let streams = body.flag("stream")?;
    let options = body.object("stream_options")?;
    let tells_usage = options.and_then(|options| options.get("include_usage"));
    let lacks_usage = streams && tells_usage.is_none_or(|tells| *tells != true);
    let conversation = body.conversation(&CONVERSATION).map(str::to_owned);
    let max_output_tokens = body.largest(&LIMITS)?;
    let choices = body.count("n")?;
    let action = Action::LlmCall {
        model,
        host: Some(head.host.to_owned()),
        messages: body.into_prompt(head),
        max_output_tokens,
        choices,
    };
    let asked = Asked::call(action, streams, conversation.as_deref());
    Ok(Asked { lacks_usage: lacks_usage && !operation.always_tells_usage(), ..asked })
}

/// Refuses fallbacks: a router would send the request to a model that nobody decided on.
pub(crate) fn only_this_model(body: &Body, model: &str) -> Result<(), Unreadable> {
    let Some(models) = body.get("models") else { return Ok(()) };
    let others = models.as_array().is_none_or(|models| models.iter().any(|other| other != model));
    if others {
        return Err(body.refuse("models", "further models than `model`, which are not decided on"));
    }
    Ok(())
}

/// Reads an event of a stream.
pub(crate) fn event(draft: &mut Draft, event: &Node<'_>) {
    draft.identify(event.text("id"), event.text("model"));
    if let Some(kind) = failure::of_event(event) {
        draft.fail(kind);
    }
    // Groq tells it in a member of its own.
    let told = event.get("usage").or_else(|| event.at(&["x_groq", "usage"]));
    if let Some(usage) = told.and_then(usage::openai) {
        draft.answer.usage = Some(usage);
    }
    for (position, choice) in event.list("choices").iter().enumerate() {
        let index = choice.count("index").unwrap_or(position as u64);
        if let Some(delta) = choice.get("delta") {
            calls(draft, index, delta);
        }
        if let Some(reason) = choice.text("finish_reason") {
            draft.finish_reason(Some(reason));
            draft.end(index);
        }
    }
}

fn calls(draft: &mut Draft, choice: u64, delta: &Node<'_>) {
    for (position, call) in delta.list("tool_calls").iter().enumerate() {
        let key = (choice, call.count("index").unwrap_or(position as u64));
        let function = call.get("function").or_else(|| call.get("custom"));
        let name = function.and_then(|function| function.text("name"));
        let args = function
            .and_then(|function| function.text("arguments").or_else(|| function.text("input")));
        draft.tool_piece(key, call.text("id"), name, args);
        // Mistral's arguments may be an object already.
        if let Some(args @ Node::Object(_)) = function.and_then(|called| called.get("arguments")) {
            draft.tool_args(key, &args.to_value().to_string());
        }
    }
    if let Some(call) = delta.get("function_call").filter(|call| !call.is_null()) {
        let key = (choice, FUNCTION_CALL);
        draft.tool_piece(key, None, call.text("name"), call.text("arguments"));
    }
}

/// The stream's last word, `[DONE]`.
pub(crate) fn done(draft: &mut Draft) {
    draft.has_ended = true;
}

/// Reads an answer in one piece.
pub(crate) fn document(draft: &mut Draft, document: &Node<'_>) {
    draft.identify(document.text("id"), document.text("model"));
    draft.answer.usage = document.get("usage").and_then(usage::openai);
    for choice in document.list("choices") {
        draft.finish_reason(choice.text("finish_reason"));
        let Some(message) = choice.get("message") else { continue };
        for call in message.list("tool_calls") {
            let function = call.get("function").or_else(|| call.get("custom"));
            let name = function.and_then(|function| function.text("name"));
            let args = function
                .and_then(|function| function.get("arguments").or_else(|| function.get("input")));
            draft.tool_call_with_text(call.text("id"), name, args);
        }
        if let Some(call) = message.get("function_call").filter(|call| !call.is_null()) {
            draft.tool_call_with_text(None, call.text("name"), call.get("arguments"));
        }
    }
}
