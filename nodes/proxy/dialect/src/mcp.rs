//! The Model Context Protocol: JSON-RPC 2.0 over Streamable HTTP, and over the older transport with SSE.

use serde_json::Value;

/// The JSON-RPC ids of a request, to answer them with an error.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RpcIds {
    /// The ids, each with the tool that is called under it.
    pub(crate) calls: Vec<(Value, Option<String>)>,
    pub(crate) is_batch: bool,
    /// Whether the answer comes on another exchange: the older transport.
    pub(crate) answers_elsewhere: bool,
}
