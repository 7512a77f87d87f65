//! One kind of call of one provider.

use http::{HeaderMap, StatusCode};

use crate::{
    dialects::DialectName,
    head::Head,
    reader::AnswerReader,
    refusal::{self, Refusal, Refused, Shape},
    request::{Asked, Unreadable},
    wire::Wire,
};

/// A call that was recognised: its provider, its form, and what the path tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    provider: DialectName,
    wire: Wire,
    model: Option<Box<str>>,
}

// === impl Operation ===

impl Operation {
    pub(crate) fn new(provider: DialectName, wire: Wire, model: Option<String>) -> Self {
        Self { provider, wire, model: model.map(String::into_boxed_str) }
    }

    /// The name of the call, such as `openai.chat`, `anthropic.messages` or `mcp`.
    pub fn name(&self) -> &'static str {
        match (self.provider, self.wire) {
            (DialectName::OpenAi, Wire::Chat) => "openai.chat",
        }
    }

    /// Whose dialect it is.
    pub const fn dialect(&self) -> DialectName {
        self.provider
    }

    /// The model that the path names.
    pub(crate) fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// Whether streams tell their usage unasked.
    pub(crate) fn always_tells_usage(&self) -> bool {
        false
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

    pub(crate) fn shape(&self) -> Shape {
        self.wire.shape()
    }
}
