//! Embeddings: `POST …/embeddings`. What comes back says nothing but what it cost.

use aa_protocol::Action;
use serde_json::{Map, Value};

use super::{chat, refuse_tokens};
use crate::{
    answer::Draft,
    head::Head,
    json::tree::Node,
    operation::Operation,
    request::{Asked, Body, Unreadable},
    usage,
};

/// Reads a request.
pub(crate) fn read(
    operation: &Operation,
    head: &Head<'_>,
    body: &[u8],
) -> Result<Asked, Unreadable> {
    let body = Body::read(operation.name(), body, &["model", "models", "input"])?;
    let model = operation.model().map_or_else(|| body.model(), |model| Ok(model.to_owned()))?;
    chat::only_this_model(&body, &model)?;
    refuse_tokens(&body, "input")?;
    let conversation = body.conversation(&chat::CONVERSATION).map(str::to_owned);
    let action = Action::LlmCall {
        model,
        host: Some(head.host.to_owned()),
        messages: body.into_prompt(head),
        max_output_tokens: None,
        choices: None,
    };
    Ok(Asked::call(action, false, conversation.as_deref()))
}

/// Reads the answer.
pub(crate) fn document(draft: &mut Draft, document: &Node<'_>) {
    draft.identify(document.text("id"), document.text("model"));
    draft.answer.usage = document.get("usage").and_then(usage::openai);
}

/// The answer with the number of vectors in the place of them.
pub(crate) fn without_vectors(value: Value) -> Value {
    let Value::Object(members) = value else { return value };
    let members = members.into_iter().map(|(name, member)| match member {
        Value::Array(vectors) if matches!(name.as_str(), "data" | "embeddings") => {
            (name, vectors.len().into())
        }
        member => (name, member),
    });
    Value::Object(members.collect::<Map<_, _>>())
}
