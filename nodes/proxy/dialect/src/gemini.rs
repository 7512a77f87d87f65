//! Google's Gemini: `POST …/models/<model>:generateContent` and its kin, in AI Studio and in Vertex AI.

use aa_protocol::{Action, Usage};

use crate::{
    answer::Draft,
    failure,
    head::{Head, Route},
    json::tree::Node,
    operation::Operation,
    request::{Asked, Body, Unreadable},
};

/// What a path names: the model, and what it is to do.
pub(crate) struct Target {
    pub(crate) publisher: Option<String>,
    pub(crate) model: String,
    pub(crate) method: String,
}

const CONFIG: [&str; 2] = ["generationConfig", "generation_config"];
const LIMIT: [&str; 2] = ["maxOutputTokens", "max_output_tokens"];
const CHOICES: [&str; 2] = ["candidateCount", "candidate_count"];

/// Reads a request.
pub(crate) fn read(
    operation: &Operation,
    head: &Head<'_>,
    body: &[u8],
) -> Result<Asked, Unreadable> {
    let body = Body::read(operation.name(), body, &["contents", "model"])?;
    let model = operation.model().unwrap_or_default().to_owned();
    let other = body.text("model")?;
    if other.is_some_and(|other| other.rsplit('/').next() != model.rsplit('/').next()) {
        return Err(body.refuse("model", "another model than the path names"));
    }
    let max_output_tokens = body.count_in(&CONFIG, &LIMIT)?;
    let choices = body.count_in(&CONFIG, &CHOICES)?;
    let action = Action::LlmCall {
        model,
        host: Some(head.host.to_owned()),
        messages: body.into_prompt(head),
        max_output_tokens,
        choices,
    };
    Ok(Asked::call(action, operation.streams(), None))
}

/// Reads an event of a stream, or an answer in one piece: both have the same form. Counts are totals so far.
pub(crate) fn event(draft: &mut Draft, event: &Node<'_>) {
    // An error that ends a JSON array stands in it like an answer.
    if let Some(kind) = failure::of_event(event) {
        draft.fail(kind);
    }
    draft.identify(event.text("responseId"), event.text("modelVersion"));
    if let Some(told) = event.get("usageMetadata") {
        draft.answer.usage = usage(told).or(draft.answer.usage);
    }
    if let Some(reason) = event.at(&["promptFeedback", "blockReason"]).and_then(Node::str) {
        draft.finish_reason(Some(reason));
        draft.has_ended = true;
    }
    for (position, candidate) in event.list("candidates").iter().enumerate() {
        let parts = candidate.get("content").map_or(&[][..], |content| content.list("parts"));
        for call in parts.iter().filter_map(|part| part.get("functionCall")) {
            draft.tool_call_with_text(call.text("id"), call.text("name"), call.get("args"));
        }
        if let Some(reason) = candidate.text("finishReason") {
            draft.finish_reason(Some(reason));
            draft.end(candidate.count("index").unwrap_or(position as u64));
            draft.has_ended = true;
        }
    }
}

/// Thoughts are counted beside the candidates, and what tools that Google runs put into the prompt beside it.
fn usage(told: &Node<'_>) -> Option<Usage> {
    let prompt = told.count("promptTokenCount");
    let answer = told.count("candidatesTokenCount");
    let thoughts = told.count("thoughtsTokenCount").unwrap_or(0);
    if prompt.is_none() && answer.is_none() && thoughts == 0 {
        return None;
    }
    let tools = told.count("toolUsePromptTokenCount").unwrap_or(0);
    Some(Usage {
        input_tokens: prompt.unwrap_or(0).saturating_add(tools),
        output_tokens: answer.unwrap_or(0).saturating_add(thoughts),
        cached_input_tokens: told.count("cachedContentTokenCount").unwrap_or(0),
        cache_write_tokens: 0,
        reasoning_tokens: thoughts,
    })
}

// === impl Target ===

impl Target {
    /// From the last segments: `[publishers/<publisher>/]models/<model>:<method>`, `tunedModels/…` or
    /// `endpoints/…`.
    pub(crate) fn of(route: &Route) -> Option<Self> {
        let (last, before) = route.segments().split_last()?;
        let (id, method) = last.rsplit_once(':')?;
        let (collection, before) = before.split_last()?;
        let publisher = match before {
            [.., publishers, publisher] if publishers == "publishers" => Some(publisher.clone()),
            _ => None,
        };
        let model = match (collection.as_str(), publisher.as_deref()) {
            ("models", None | Some("google" | "anthropic")) => id.to_owned(),
            ("models", Some(publisher)) => format!("publishers/{publisher}/models/{id}"),
            ("tunedModels" | "endpoints", _) => format!("{collection}/{id}"),
            _ => return None,
        };
        Some(Self { publisher, model, method: method.to_owned() })
    }
}
