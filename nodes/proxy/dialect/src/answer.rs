//! What an answer turned out to be, put together while it passes.

use std::fmt;

use aa_protocol::action::Usage;
use serde_json::{Value, json};

use crate::{
    channels::{Channels, Pieces, decoded},
    json::tree::Node,
};

/// What is known of an answer so far.
#[derive(Clone, Default, PartialEq)]
pub struct Answer {
    /// The model that answered, as the provider names it.
    pub model: Option<String>,
    /// Tokens as the provider reported them, the newest report. Its totals include their parts.
    pub usage: Option<Usage>,
    /// What the answer says, as an `LlmResult` carries it: a JSON answer as it is, with the arguments of tool
    /// calls decoded; of a stream the texts, each put together from its pieces, then the tool calls. At most
    /// about 8 MiB. Null until the answer was finished.
    pub content: Value,
    /// Whether `content` lacks something: a stream's texts past 4 MiB, a JSON answer past 8 MiB.
    pub is_content_cut: bool,
    /// Bytes of the texts that the model produced, reasoning and arguments of tool calls included.
    pub produced_text_bytes: u64,
    /// The tool calls that the model asks for, each once it is whole; the last, perhaps cut off, at the end.
    pub tool_calls: Vec<ToolCallAsked>,
    /// The results of tools that an MCP server returned.
    pub tool_results: Vec<ToolResultSeen>,
    /// Why the model stopped, in the provider's words.
    pub finish_reason: Option<String>,
    /// The provider's id of the answer.
    pub id: Option<String>,
    /// The conversation that the answer belongs to, when the provider tells it.
    pub conversation: Option<String>,
    /// Whether some of the answer's own words have come: what time to first token is measured to.
    pub has_content: bool,
    /// Whether the answer came to the end that its provider gives it, all of it made sense, and it tells of no
    /// error.
    pub is_complete: bool,
    /// The kind of the error that the provider told, in its words; never its message.
    pub error: Option<String>,
    /// Bytes that went by and could not be looked into: what claims to be this provider's and is not, or is too
    /// long to be. Where texts must be looked at, a stream with such bytes is better cut.
    pub unread_bytes: u64,
}

/// A tool call that a model asks for.
#[derive(Clone, PartialEq)]
pub struct ToolCallAsked {
    /// The provider's id of the call; empty where it has none.
    pub id: String,
    /// The tool.
    pub name: String,
    /// Its arguments: a string where the model's text is no JSON.
    pub args: Value,
}

/// What a tool of an MCP server returned.
#[derive(Clone, PartialEq)]
pub struct ToolResultSeen {
    /// The JSON-RPC id of the call.
    pub id: Value,
    /// The tool, when its call was in the request that is answered.
    pub tool: Option<String>,
    /// The result, or the `error` in its place.
    pub content: Value,
    /// Whether the tool failed.
    pub is_error: bool,
}

/// An answer that is being read.
pub(crate) struct Draft {
    pub(crate) answer: Answer,
    pub(crate) channels: Channels,
    /// Whether the answer came to its end.
    pub(crate) has_ended: bool,
    /// Whether something made no sense.
    pub(crate) is_broken: bool,
    /// Groups of texts that the last event ended.
    pub(crate) ended: Vec<u64>,
    /// The JSON-RPC calls that are answered.
    pub(crate) calls: Vec<(Value, Option<String>)>,
    tools: Vec<(ToolKey, ToolDraft)>,
    tool_bytes: usize,
}

/// Which tool call a piece belongs to: the choice, block or item, and the position in it.
pub(crate) type ToolKey = (u64, u64);

/// A tool call of which pieces have come.
#[derive(Default)]
pub(crate) struct ToolDraft {
    pub(crate) id: String,
    pub(crate) name: String,
    args: String,
}

/// The most tool calls of one answer that are kept.
const MAX_TOOL_CALLS: usize = 1024;

/// The most of the arguments of all tool calls of one answer that is kept, in bytes.
const MAX_TOOL_BYTES: usize = 4 << 20;

/// The longest id or name that is kept, in bytes.
const MAX_NAME: usize = 512;

// === impl Draft ===

impl Draft {
    pub(crate) fn new(pieces: Pieces) -> Self {
        Self {
            answer: Answer::default(),
            channels: Channels::new(pieces),
            has_ended: false,
            is_broken: false,
            ended: Vec::new(),
            calls: Vec::new(),
            tools: Vec::new(),
            tool_bytes: 0,
        }
    }

    /// Keeps the first id and model that are told.
    pub(crate) fn identify(&mut self, id: Option<&str>, model: Option<&str>) {
        keep(&mut self.answer.id, id);
        keep(&mut self.answer.model, model);
    }

    pub(crate) fn converse(&mut self, conversation: Option<&str>) {
        keep(&mut self.answer.conversation, conversation);
    }

    pub(crate) fn finish_reason(&mut self, reason: Option<&str>) {
        if let Some(reason) = reason.filter(|reason| !reason.is_empty()) {
            self.answer.finish_reason = Some(clipped(reason));
        }
    }

    /// The provider told of an error; `kind` is its word for it.
    pub(crate) fn fail(&mut self, kind: Option<&str>) {
        match kind {
            Some(kind) => self.answer.error = Some(clipped(kind)),
            None => {
                self.answer.error.get_or_insert_with(|| "error".to_owned());
            }
        }
    }

    /// The tool call of this key, begun when it is new. `None` when there are too many.
    pub(crate) fn tool(&mut self, key: ToolKey) -> Option<&mut ToolDraft> {
        if let Some(at) = self.tools.iter().position(|(other, _)| *other == key) {
            return Some(&mut self.tools[at].1);
        }
        if self.tools.len() + self.answer.tool_calls.len() >= MAX_TOOL_CALLS {
            self.answer.is_content_cut = true;
            return None;
        }
        self.answer.has_content = true;
        self.tools.push((key, ToolDraft::default()));
        self.tools.last_mut().map(|(_, tool)| tool)
    }

    /// A piece of a tool call: its id and name when they are told, and what its arguments go on with.
    pub(crate) fn tool_piece(
        &mut self,
        key: ToolKey,
        id: Option<&str>,
        name: Option<&str>,
        args: Option<&str>,
    ) {
        let room = MAX_TOOL_BYTES.saturating_sub(self.tool_bytes);
        let Some(tool) = self.tool(key) else { return };
        if let Some(id) = id.filter(|id| !id.is_empty()) {
            tool.id = clipped(id);
        }
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            tool.name = clipped(name);
        }
        let args = args.unwrap_or_default();
        if args.len() <= room {
            tool.args.push_str(args);
            self.tool_bytes += args.len();
        } else {
            self.answer.is_content_cut = true;
        }
    }

    /// The arguments of a tool call as a whole, whatever pieces of them came before.
    pub(crate) fn tool_args(&mut self, key: ToolKey, args: &str) {
        let Some(tool) = self.tool(key) else { return };
        let before = std::mem::take(&mut tool.args);
        self.tool_bytes -= before.len();
        self.tool_piece(key, None, None, Some(args));
    }

    /// A tool call that came in one piece.
    pub(crate) fn tool_call(&mut self, id: Option<&str>, name: Option<&str>, args: Value) {
        if self.tools.len() + self.answer.tool_calls.len() >= MAX_TOOL_CALLS {
            self.answer.is_content_cut = true;
            return;
        }
        self.answer.has_content = true;
        let id = id.map(clipped).unwrap_or_default();
        let name = name.map(clipped).unwrap_or_default();
        self.answer.tool_calls.push(ToolCallAsked { id, name, args });
    }

    /// A tool call whose arguments are a text of JSON.
    pub(crate) fn tool_call_with_text(
        &mut self,
        id: Option<&str>,
        name: Option<&str>,
        args: Option<&Node<'_>>,
    ) {
        let args = args.map_or(Value::Null, |args| match args.str() {
            Some(text) => arguments(text.to_owned()),
            None => args.to_value(),
        });
        self.tool_call(id, name, args);
    }

    /// What was begun in this group is whole.
    pub(crate) fn end(&mut self, group: u64) {
        self.ended.push(group);
        self.end_tools(|key| key.0 == group);
    }

    /// A tool call is whole.
    pub(crate) fn end_tool(&mut self, key: ToolKey) {
        self.end_tools(|other| other == key);
    }

    /// Whether every text and tool call that was begun has ended.
    pub(crate) fn is_all_ended(&self) -> bool {
        self.tools.is_empty() && self.channels.is_all_ended()
    }

    /// The end of the answer, that came or not.
    pub(crate) fn finish_stream(&mut self) {
        self.end_tools(|_| true);
        let mut content = self.channels.content();
        let calls = self.answer.tool_calls.iter();
        content.extend(calls.map(|call| json!({ "tool": call.name, "args": call.args })));
        self.answer.is_content_cut |= self.channels.is_cut;
        self.answer.content = Value::Array(content);
    }

    /// Brings the answer up to date with what was read.
    pub(crate) fn refresh(&mut self) {
        self.answer.produced_text_bytes = self.channels.produced;
        self.answer.has_content |= self.channels.produced > 0;
        let is_sound = !self.is_broken && self.answer.error.is_none();
        self.answer.is_complete =
            self.has_ended && is_sound && self.answer.unread_bytes + self.channels.late == 0;
    }

    fn end_tools(&mut self, is_whole: impl Fn(ToolKey) -> bool) {
        let mut rest = Vec::new();
        for (key, tool) in self.tools.drain(..) {
            if is_whole(key) {
                let args = arguments(tool.args);
                self.answer.tool_calls.push(ToolCallAsked { id: tool.id, name: tool.name, args });
            } else {
                rest.push((key, tool));
            }
        }
        self.tools = rest;
    }
}

/// What a model wrote as arguments; nothing is an empty object.
fn arguments(text: String) -> Value {
    if text.trim().is_empty() { Value::Object(serde_json::Map::new()) } else { decoded(text) }
}

fn keep(slot: &mut Option<String>, text: Option<&str>) {
    if slot.is_none() {
        *slot = text.filter(|text| !text.is_empty()).map(clipped);
    }
}

pub(crate) fn clipped(text: &str) -> String {
    let mut end = text.len().min(MAX_NAME);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

// === impl Answer ===

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("model", &self.model)
            .field("usage", &self.usage)
            .field("produced_text_bytes", &self.produced_text_bytes)
            .field("tool_calls", &self.tool_calls)
            .field("tool_results", &self.tool_results)
            .field("finish_reason", &self.finish_reason)
            .field("has_content", &self.has_content)
            .field("is_complete", &self.is_complete)
            .field("error", &self.error)
            .field("unread_bytes", &self.unread_bytes)
            .finish_non_exhaustive()
    }
}

// === impl ToolCallAsked ===

impl fmt::Debug for ToolCallAsked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolCallAsked").field("name", &self.name).finish_non_exhaustive()
    }
}

// === impl ToolResultSeen ===

impl fmt::Debug for ToolResultSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolResultSeen")
            .field("tool", &self.tool)
            .field("is_error", &self.is_error)
            .finish_non_exhaustive()
    }
}
