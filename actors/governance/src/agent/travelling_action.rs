//! An action on its way between nodes.
//!
//! What people write of an action is tagged inside and strict (see [`Action`]). Between nodes of different versions it is
//! tagged outside: only so can a reader pass over the fields that it does not know.

use aa_protocol::{Action, ActionId, CallEnd, Observed, Usage};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The form that an action has on its way. The compiler holds it against the original.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Action", rename_all = "snake_case")]
pub(super) enum TravellingAction {
    ToolCall {
        tool: String,
        #[serde(default)]
        args: Map<String, Value>,
    },
    ToolResult {
        tool: String,
        #[serde(default)]
        content: Value,
    },
    LlmCall {
        model: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        #[serde(default)]
        messages: Value,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_output_tokens: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        choices: Option<u64>,
    },
    LlmResult {
        model: String,
        #[serde(default)]
        content: Value,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        call: Option<ActionId>,
        #[serde(default, skip_serializing_if = "CallEnd::is_complete")]
        end: CallEnd,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        observed: Option<Box<Observed>>,
    },
    NetworkConnect {
        host: String,
        port: u16,
    },
    NetworkListen {
        port: u16,
    },
    FileRead {
        path: String,
    },
    FileWrite {
        path: String,
    },
    ProcessExec {
        argv: Vec<String>,
    },
    AgentSpawn {
        child: String,
    },
}
