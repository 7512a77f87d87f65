//! The forms of calls: what is sent and answered, whoever the provider is.

use http::HeaderMap;

use crate::{
    answer::Draft,
    channels::Pieces,
    head::Head,
    json::tree::Node,
    openai::chat,
    operation::Operation,
    refusal::Shape,
    request::{Asked, Unreadable},
};

/// A form of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// OpenAI's chat completions.
    Chat,
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
        }
    }

    /// Which strings of a stream's events are pieces.
    pub(crate) const fn pieces(self) -> Pieces {
        match self {
            Self::Chat => Pieces::Delta,
        }
    }

    /// Reads an event of a stream; `name` is its type where the framing tells one.
    pub(crate) fn event(self, draft: &mut Draft, _name: Option<&str>, event: &Node<'_>) {
        match self {
            Self::Chat => chat::event(draft, event),
        }
    }

    /// Reads the word that ends a stream, `[DONE]`.
    pub(crate) fn done(self, draft: &mut Draft) {
        match self {
            Self::Chat => chat::done(draft),
        }
    }

    /// Reads an answer in one piece.
    pub(crate) fn document(self, draft: &mut Draft, document: &Node<'_>) {
        match self {
            Self::Chat => chat::document(draft, document),
        }
    }

    /// Reads what the head of an answer tells.
    pub(crate) fn head(self, _draft: &mut Draft, _asked: &Asked, _headers: &HeaderMap) {}

    /// At the end of a stream that did not say that it ends.
    pub(crate) fn finish(self, draft: &mut Draft) {
        match self {
            Self::Chat => {
                // Some servers leave out `[DONE]`; nothing comes after the usage.
                draft.has_ended |= draft.answer.finish_reason.is_some()
                    && draft.answer.usage.is_some()
                    && draft.is_all_ended();
            }
        }
    }

    /// Whether the events of an event stream are wrapped in base64.
    pub(crate) const fn is_wrapped(self) -> bool {
        false
    }

    /// Whether a stream is a JSON array unless it is asked for as events.
    pub(crate) const fn streams_elements(self) -> bool {
        false
    }

    /// Whether events of a stream have a `type` that tells what they are.
    pub(crate) const fn has_typed_events(self) -> bool {
        false
    }

    /// Whether answers are mostly numbers.
    pub(crate) const fn has_vectors(self) -> bool {
        false
    }

    /// The shape of its errors.
    pub(crate) const fn shape(self) -> Shape {
        match self {
            Self::Chat => Shape::OpenAi,
        }
    }
}
