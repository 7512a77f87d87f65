//! One kind of call of one provider.

use http::{HeaderMap, StatusCode};

use crate::{
    dialects::DialectName,
    head::Head,
    reader::AnswerReader,
    refusal::{self, Refusal, Refused, Shape},
    request::{Asked, Unreadable},
    wire::{Counter, Wire},
};

/// A call that was recognised: its provider, its form, and what the path tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    dialect: DialectName,
    wire: Wire,
    model: Option<Box<str>>,
    /// Whether the path asks for a stream.
    streams: bool,
}

/// The name of a call with its dialect before it.
macro_rules! name {
    ($dialect:expr, $call:literal) => {
        match $dialect {
            DialectName::OpenAi => concat!("openai.", $call),
            DialectName::Azure => concat!("azure.", $call),
            DialectName::Anthropic => concat!("anthropic.", $call),
            DialectName::Gemini => concat!("gemini.", $call),
            DialectName::Bedrock => concat!("bedrock.", $call),
            DialectName::Mistral => concat!("mistral.", $call),
            DialectName::Cohere => concat!("cohere.", $call),
            DialectName::Compatible => concat!("compatible.", $call),
            DialectName::Mcp => concat!("mcp.", $call),
        }
    };
}

// === impl Operation ===

impl Operation {
    pub(crate) fn new(dialect: DialectName, wire: Wire) -> Self {
        Self { dialect, wire, model: None, streams: false }
    }

    /// The same for a model that the path names, and perhaps for a stream.
    pub(crate) fn of_model(self, model: String, streams: bool) -> Self {
        Self { model: Some(model.into_boxed_str()), streams, ..self }
    }

    /// The name of the call, such as `openai.chat`, `anthropic.messages` or `mcp`: the dialect of the host, and
    /// the kind of call.
    pub fn name(&self) -> &'static str {
        match self.wire {
            Wire::Chat | Wire::CohereChat => name!(self.dialect, "chat"),
            Wire::Responses => name!(self.dialect, "responses"),
            Wire::Completions => name!(self.dialect, "completions"),
            Wire::Embeddings | Wire::GeminiEmbed | Wire::CohereEmbed => {
                name!(self.dialect, "embeddings")
            }
            Wire::Images => name!(self.dialect, "images"),
            Wire::Speech => name!(self.dialect, "speech"),
            Wire::MessageBatch => name!(self.dialect, "batches"),
            Wire::Messages => name!(self.dialect, "messages"),
            Wire::Generate => name!(self.dialect, "generate"),
            Wire::Converse => name!(self.dialect, "converse"),
            Wire::Invoke => name!(self.dialect, "invoke"),
            Wire::Count(Counter::Anthropic | Counter::Gemini | Counter::Bedrock) => {
                name!(self.dialect, "count_tokens")
            }
            Wire::Mcp => "mcp",
            Wire::McpListen => "mcp.listen",
        }
    }

    /// Whose dialect it is.
    pub const fn dialect(&self) -> DialectName {
        self.dialect
    }

    /// The model that the path names.
    pub(crate) fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// Whether the path asks for a stream.
    pub(crate) const fn streams(&self) -> bool {
        self.streams
    }

    /// Whether streams tell their usage unasked.
    pub(crate) const fn always_tells_usage(&self) -> bool {
        matches!(self.dialect, DialectName::Mistral)
    }

    pub(crate) const fn wire(&self) -> Wire {
        self.wire
    }

    /// Reads a whole request body, decoded; the caller bounds it.
    ///
    /// # Errors
    /// The body is not what the provider's API takes, or two readers could read it in two ways. The request must
    /// not be passed on.
    pub fn read_request(&self, head: &Head<'_>, body: &[u8]) -> Result<Asked, Unreadable> {
        self.wire.read_request(self, head, body)
    }

    /// A reader for the answer to what was asked.
    pub fn answer(&self, asked: &Asked, status: StatusCode, headers: &HeaderMap) -> AnswerReader {
        AnswerReader::new(self, asked, status, headers)
    }

    /// A refusal that an SDK of the provider understands: its error shape with an `agent_assembly` object for
    /// programs, and a status that no SDK tries again when the no is final. `asked` is what was read of the
    /// request, if it could be: an MCP request is refused under its own ids.
    pub fn refuse(&self, asked: Option<&Asked>, refusal: &Refusal) -> Refused {
        match (self.shape(), asked) {
            (Shape::Mcp, Some(asked)) if !asked.rpc.answers_elsewhere => {
                let ids: Vec<_> = asked.rpc.calls.iter().map(|(id, _)| id.clone()).collect();
                refusal::refuse_rpc(&ids, asked.rpc.is_batch, refusal)
            }
            (shape, _) => refusal::refuse(shape, refusal),
        }
    }

    pub(crate) const fn shape(&self) -> Shape {
        match (self.dialect, self.wire.shape()) {
            (DialectName::Mistral, Shape::OpenAi) => Shape::Mistral,
            (_, shape) => shape,
        }
    }
}
