//! The wire formats of LLM providers and of MCP: which call a request is, what it asks for, and what its answer
//! turns out to be, read while it passes.
//!
//! Requests are read strictly, answers leniently. A request that two readers could read in two ways is
//! [`Unreadable`], since what is decided on must be what the provider does. An answer never fails: what makes no
//! sense is passed on, and [`Answer::is_complete`] and [`Answer::unread_bytes`] tell so.
//!
//! The path of the main value: [`Dialects::recognise`] → [`Operation::read_request`] → [`Asked`] →
//! [`Operation::answer`] → [`AnswerReader::push`] → [`Frame`]s, and an [`Answer`] at the end.
//!
//! This crate knows no socket, no clock, no policy and no tokenizer. It refuses to know what is done with a text:
//! it says where each stands ([`Text`]), and writes another in its place ([`Frame::with_texts`]).
//!
//! # What is not seen
//!
//! - Texts are unescaped once. The arguments of a tool call are JSON within JSON, whose own escapes stay in
//!   [`Text::text`]; [`ToolCallAsked::args`] and [`Answer::content`] hold them decoded.
//! - A count of tokens spends nothing and yields no action: what its prompt says is for the caller to look at.
//! - The text of an event's name, its id and its comments, and the bytes of sound and images.
//! - WebSockets, multipart bodies, batches of requests by file, and other endpoints of a provider are no operation:
//!   [`Dialects::speaks`] tells that a host is a provider's all the same.

mod answer;
mod anthropic;
mod bedrock;
mod channels;
mod cohere;
mod compatible;
mod cut;
mod dialects;
mod document;
mod failure;
mod frame;
mod framing;
mod gemini;
mod head;
mod json;
mod mcp;
mod openai;
mod operation;
mod reader;
mod refusal;
mod request;
mod usage;
mod wire;

pub use answer::{Answer, ToolCallAsked, ToolResultSeen};
pub use dialects::{DialectName, Dialects, HostRuleError, UnknownDialect};
pub use frame::{Frame, Text, TextForm};
pub use head::Head;
pub use operation::Operation;
pub use reader::AnswerReader;
pub use refusal::{Refusal, RefusalCode, Refused, refuse_plain};
pub use request::{Asked, Unreadable};
