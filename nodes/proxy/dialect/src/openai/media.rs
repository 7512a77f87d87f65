//! Images and speech: `POST …/images/generations` and `…/audio/speech`.

use aa_protocol::Action;

use super::chat;
use crate::{
    head::Head,
    operation::Operation,
    request::{Asked, Body, Unreadable},
};

/// Reads a request for either.
pub(crate) fn read(
    operation: &Operation,
    head: &Head<'_>,
    body: &[u8],
) -> Result<Asked, Unreadable> {
    let body = Body::read(operation.name(), body, &["model", "models", "prompt", "input", "n"])?;
    let model = operation.model().map_or_else(|| body.model(), |model| Ok(model.to_owned()))?;
    chat::only_this_model(&body, &model)?;
    let streams = body.get("stream").is_some_and(|stream| *stream == true);
    let conversation = body.conversation(&chat::CONVERSATION).map(str::to_owned);
    let choices = body.count("n")?;
    let action = Action::LlmCall {
        model,
        host: Some(head.host.to_owned()),
        messages: body.into_prompt(head),
        max_output_tokens: None,
        choices,
    };
    Ok(Asked::call(action, streams, conversation.as_deref()))
}
