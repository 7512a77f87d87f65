//! The forms of calls: what is sent and answered, whoever the provider is.

use http::HeaderMap;
use serde_json::Value;

use crate::{
    answer::Draft,
    anthropic, bedrock,
    channels::Pieces,
    cohere, gemini,
    head::Head,
    json::tree::Node,
    mcp,
    openai::{chat, completions, embeddings, media, responses},
    operation::Operation,
    refusal::Shape,
    request::{Asked, Unreadable},
};

/// A form of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// OpenAI's chat completions.
    Chat,
    /// OpenAI's responses.
    Responses,
    /// OpenAI's completions.
    Completions,
    /// OpenAI's embeddings.
    Embeddings,
    /// OpenAI's images.
    Images,
    /// OpenAI's speech, whose answer is sound.
    Speech,
    /// Anthropic's messages.
    Messages,
    /// A batch of them, answered elsewhere.
    MessageBatch,
    /// Gemini's generateContent, in one piece or streamed.
    Generate,
    /// Gemini's embedContent and batchEmbedContents.
    GeminiEmbed,
    /// Bedrock's Converse and ConverseStream.
    Converse,
    /// Bedrock's InvokeModel, and the same streamed.
    Invoke,
    /// Cohere's chat.
    CohereChat,
    /// Cohere's embeddings.
    CohereEmbed,
    /// A count of tokens, which spends nothing.
    Count(Counter),
    /// A message to an MCP server.
    Mcp,
    /// A stream of messages from an MCP server.
    McpListen,
}

/// Who counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counter {
    Anthropic,
    Gemini,
    Bedrock,
}

// === impl Wire ===

impl Wire {
    pub(crate) fn read_request(
        self,
        operation: &Operation,
        head: &Head<'_>,
        body: &[u8],
    ) -> Result<Asked, Unreadable> {
        match self {
            Self::Chat => chat::read(operation, head, body),
            Self::Responses => responses::read(operation, head, body),
            Self::Completions => completions::read(operation, head, body),
            Self::Embeddings => embeddings::read(operation, head, body),
            Self::Images | Self::Speech => media::read(operation, head, body),
            Self::Messages => anthropic::read(operation, head, body),
            Self::MessageBatch => anthropic::read_batch(operation, head, body),
            Self::Generate | Self::GeminiEmbed => gemini::read(operation, head, body),
            Self::Converse | Self::Invoke => bedrock::read(operation, head, body),
            Self::CohereChat | Self::CohereEmbed => cohere::read(operation, head, body),
            Self::Count(_) => Ok(Asked::nothing()),
            Self::Mcp => mcp::read(operation, head, body),
            Self::McpListen => Ok(mcp::listen(head)),
        }
    }

    /// Which strings of a stream's events are pieces.
    pub(crate) const fn pieces(self) -> Pieces {
        match self {
            Self::Chat | Self::Messages | Self::Converse => Pieces::Delta,
            Self::CohereChat => Pieces::Cohere,
            Self::Responses => Pieces::TypedDelta,
            Self::Completions => Pieces::ChoiceText,
            Self::Generate => Pieces::Parts,
            Self::Invoke => Pieces::Invoke,
            Self::Embeddings
            | Self::Images
            | Self::Speech
            | Self::MessageBatch
            | Self::GeminiEmbed
            | Self::CohereEmbed
            | Self::Count(_)
            | Self::Mcp
            | Self::McpListen => Pieces::None,
        }
    }

    /// Reads what the head of an answer tells.
    pub(crate) fn head(self, draft: &mut Draft, asked: &Asked, headers: &HeaderMap) {
        match self {
            Self::Converse | Self::Invoke => bedrock::head(draft, headers),
            Self::Mcp => draft.calls.clone_from(&asked.rpc.calls),
            _ => {}
        }
    }

    /// Reads an event of a stream; `name` is its type where the framing tells one.
    pub(crate) fn event(self, draft: &mut Draft, name: Option<&str>, event: &Node<'_>) {
        match self {
            Self::Chat => chat::event(draft, event),
            Self::Responses => responses::event(draft, event),
            Self::Completions => completions::event(draft, event),
            Self::Messages => anthropic::event(draft, event),
            Self::Generate => gemini::event(draft, event),
            Self::Converse => bedrock::converse_event(draft, name.unwrap_or_default(), event),
            Self::Invoke => bedrock::invoke_event(draft, event),
            Self::CohereChat => cohere::event(draft, event),
            Self::Mcp | Self::McpListen => mcp::message(draft, event),
            // The last event of a stream of images.
            Self::Images if event.get("usage").is_some() => {
                embeddings::document(draft, event);
                draft.has_ended = true;
            }
            _ => {}
        }
    }

    /// Reads the word that ends a stream, `[DONE]`.
    pub(crate) fn done(self, draft: &mut Draft) {
        if matches!(self, Self::Chat | Self::Completions) {
            chat::done(draft);
        }
    }

    /// At the end of a stream that did not say that it ends.
    pub(crate) fn finish(self, draft: &mut Draft) {
        if matches!(self, Self::Chat | Self::Completions) {
            // Some servers leave out `[DONE]`; nothing comes after the usage.
            draft.has_ended |= draft.answer.finish_reason.is_some()
                && draft.answer.usage.is_some()
                && draft.is_all_ended();
        }
    }

    /// Reads an answer in one piece.
    pub(crate) fn document(self, draft: &mut Draft, document: &Node<'_>) {
        match self {
            Self::Chat => chat::document(draft, document),
            Self::Responses => responses::document(draft, document),
            Self::Completions => completions::event(draft, document),
            Self::Embeddings | Self::Images => embeddings::document(draft, document),
            Self::Messages => anthropic::document(draft, document),
            Self::Generate | Self::GeminiEmbed => gemini::event(draft, document),
            Self::Converse => bedrock::converse_document(draft, document),
            Self::Invoke => bedrock::invoke_document(draft, document),
            Self::CohereChat | Self::CohereEmbed => cohere::document(draft, document),
            Self::Mcp | Self::McpListen => mcp::message(draft, document),
            Self::MessageBatch => draft.identify(document.text("id"), None),
            Self::Speech | Self::Count(_) => {}
        }
    }

    /// What an answer in one piece says, without what is no content.
    pub(crate) fn content(self, document: Value) -> Value {
        if self.has_vectors() { embeddings::without_vectors(document) } else { document }
    }

    /// Whether the events of an event stream are wrapped in base64.
    pub(crate) const fn is_wrapped(self) -> bool {
        matches!(self, Self::Invoke)
    }

    /// Whether a stream is a JSON array unless it is asked for as events.
    pub(crate) const fn streams_elements(self) -> bool {
        matches!(self, Self::Generate)
    }

    /// Whether events of a stream have a `type` that tells what they are.
    pub(crate) const fn has_typed_events(self) -> bool {
        matches!(self, Self::Responses)
    }

    /// Whether answers are mostly numbers.
    pub(crate) const fn has_vectors(self) -> bool {
        matches!(self, Self::Embeddings | Self::Images | Self::GeminiEmbed | Self::CohereEmbed)
    }

    /// Whether answers are sound.
    pub(crate) const fn is_sound(self) -> bool {
        matches!(self, Self::Speech)
    }

    /// The shape of its errors.
    pub(crate) const fn shape(self) -> Shape {
        match self {
            Self::Chat
            | Self::Responses
            | Self::Completions
            | Self::Embeddings
            | Self::Images
            | Self::Speech => Shape::OpenAi,
            Self::Messages | Self::MessageBatch | Self::Count(Counter::Anthropic) => {
                Shape::Anthropic
            }
            Self::Generate | Self::GeminiEmbed | Self::Count(Counter::Gemini) => Shape::Google,
            Self::Converse | Self::Invoke | Self::Count(Counter::Bedrock) => Shape::Bedrock,
            Self::CohereChat | Self::CohereEmbed => Shape::Cohere,
            Self::Mcp | Self::McpListen => Shape::Mcp,
        }
    }
}
