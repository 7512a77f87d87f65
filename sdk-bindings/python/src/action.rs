//! Actions as Python builds them: names, and payloads that are JSON text already.

use aa_protocol::wire::v1::{self, action::Kind};
use pyo3::prelude::*;

use crate::answer::Checked;

/// Tokens of the prompt, of the answer, and of them those read from a cache, written to one, and of reasoning.
type UsageCounts = (u64, u64, u64, u64, u64);

/// One action, ready to be sent. Its payload is not shown by `repr`.
#[pyclass(module = "agent_assembly._native", frozen)]
pub(crate) struct Action {
    pub(crate) kind: Kind,
}

#[pymethods]
impl Action {
    #[staticmethod]
    fn tool_call(tool: String, args_json: String) -> Self {
        Self { kind: Kind::ToolCall(v1::ToolCall { tool, args_json }) }
    }

    #[staticmethod]
    fn tool_result(tool: String, content_json: String) -> Self {
        Self { kind: Kind::ToolResult(v1::ToolResult { tool, content_json }) }
    }

    #[staticmethod]
    #[pyo3(signature = (model, host, messages_json, max_output_tokens=None, choices=None))]
    fn llm_call(
        model: String,
        host: String,
        messages_json: String,
        max_output_tokens: Option<u64>,
        choices: Option<u64>,
    ) -> Self {
        Self {
            kind: Kind::LlmCall(v1::LlmCall {
                model,
                host,
                messages_json,
                max_output_tokens,
                choices,
            }),
        }
    }

    #[staticmethod]
    #[pyo3(signature = (model, content_json, usage=None, call=None, charged=true))]
    fn llm_result(
        model: String,
        content_json: String,
        usage: Option<UsageCounts>,
        call: Option<&Checked>,
        charged: bool,
    ) -> Self {
        let usage =
            usage.map(|(input_tokens, output_tokens, cached, written, reasoning)| v1::Usage {
                input_tokens,
                output_tokens,
                cached_input_tokens: cached,
                cache_write_tokens: written,
                reasoning_tokens: reasoning,
            });
        let call_id =
            call.map_or_else(Default::default, |call| call.action_id().to_bytes().to_vec().into());
        let end = if charged { v1::CallEnd::Complete } else { v1::CallEnd::NotCharged };
        let end = end.into();
        let observed = None;
        let result = v1::LlmResult { model, content_json, usage, call_id, end, observed };
        Self { kind: Kind::LlmResult(result) }
    }

    #[staticmethod]
    fn network_connect(host: String, port: u16) -> Self {
        Self { kind: Kind::NetworkConnect(v1::NetworkConnect { host, port: port.into() }) }
    }

    #[staticmethod]
    fn agent_spawn(child: String) -> Self {
        Self { kind: Kind::AgentSpawn(v1::AgentSpawn { child }) }
    }
}

/// The same action without its payload: what an outcome is about.
pub(crate) fn without_payload(kind: &Kind) -> Kind {
    match kind {
        Kind::ToolCall(call) => {
            Kind::ToolCall(v1::ToolCall { tool: call.tool.clone(), args_json: String::new() })
        }
        Kind::ToolResult(result) => Kind::ToolResult(v1::ToolResult {
            tool: result.tool.clone(),
            content_json: String::new(),
        }),
        Kind::LlmCall(call) => Kind::LlmCall(v1::LlmCall {
            model: call.model.clone(),
            host: call.host.clone(),
            messages_json: String::new(),
            max_output_tokens: call.max_output_tokens,
            choices: call.choices,
        }),
        Kind::LlmResult(result) => Kind::LlmResult(v1::LlmResult {
            model: result.model.clone(),
            content_json: String::new(),
            usage: result.usage,
            call_id: result.call_id.clone(),
            end: result.end,
            observed: result.observed.clone(),
        }),
        other => other.clone(),
    }
}
