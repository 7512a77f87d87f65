//! Between protobuf messages and the vocabulary. Everything from outside is checked here, once.

use serde_json::{Map, Value};

use super::v1;
use crate::{
    action::{Action, CallEnd, MAX_FINISH_REASON_CHARS, MAX_PROVIDER_ID_CHARS, Observed, Usage},
    decision::{ApprovalTerms, BudgetStanding, Decision, Reason, ReasonCode, Verdict},
    id::{ActionId, ApprovalId, EventId},
    json::{JsonError, parse_json},
    money::NanoUsd,
    time::Timestamp,
};

/// The longest name, host, path or argument that is accepted, in bytes.
pub const MAX_STRING: usize = 4096;

/// Why a message was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A required field is empty.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// An id is not 16 bytes long.
    #[error("`{field}` must be 16 bytes, not {length}")]
    IdLength {
        /// The field.
        field: &'static str,
        /// Its length.
        length: usize,
    },
    /// A string is longer than [`MAX_STRING`].
    #[error("`{field}` is {length} bytes long; at most {MAX_STRING} are accepted")]
    TooLong {
        /// The field.
        field: &'static str,
        /// Its length.
        length: usize,
    },
    /// A name is longer than it may be.
    #[error("`{field}` has {chars} characters; at most {limit} are accepted")]
    TooManyChars {
        /// The field.
        field: &'static str,
        /// How many it has.
        chars: usize,
        /// How many it may have.
        limit: usize,
    },
    /// A span id is not 8 bytes long.
    #[error("`action.parent_span` must be 8 bytes, not {0}")]
    SpanLength(usize),
    /// A number is no HTTP status.
    #[error("`llm_result.observed.status` is {0}; a status has three digits, 100 to 999")]
    Status(u32),
    /// A string holds a NUL byte, which truncates it for some readers and not for others.
    #[error("`{0}` holds a NUL byte")]
    Nul(&'static str),
    /// A port is past 65,535.
    #[error("port {0} does not exist; the highest is 65535")]
    Port(u32),
    /// A JSON field does not parse.
    #[error("`{field}` is not acceptable JSON: {error}")]
    Json {
        /// The field.
        field: &'static str,
        /// Why.
        error: JsonError,
    },
    /// A JSON field holds another type than it must.
    #[error("`{0}` must be a JSON object")]
    NotAnObject(&'static str),
    /// A message from the gateway names something this version does not know.
    #[error("`{field}` has the unknown value `{value}`")]
    Unknown {
        /// The field.
        field: &'static str,
        /// The value.
        value: String,
    },
}

impl v1::Action {
    /// Takes the message apart into its id, trace id and action.
    ///
    /// # Errors
    /// Whatever is missing, too long or malformed; see [`WireError`].
    pub fn into_parts(self) -> Result<(ActionId, Option<[u8; 16]>, Action), WireError> {
        let id = id_bytes("action.id", &self.id)?;
        let trace = match self.trace_id.len() {
            0 => None,
            _ => Some(id_bytes("action.trace_id", &self.trace_id)?),
        };
        let kind = self.kind.ok_or(WireError::Missing("action.kind"))?;
        Ok((ActionId::from_bytes(id), trace, kind.try_into()?))
    }

    /// The request for approval that the action refers to.
    ///
    /// # Errors
    /// It is not 16 bytes.
    pub fn approval(&self) -> Result<Option<ApprovalId>, WireError> {
        match self.approval_id.len() {
            0 => Ok(None),
            _ => id_bytes("action.approval_id", &self.approval_id)
                .map(|bytes| Some(ApprovalId::from_bytes(bytes))),
        }
    }

    /// The W3C span that the action is a child of.
    ///
    /// # Errors
    /// It is not 8 bytes.
    pub fn parent_span(&self) -> Result<Option<[u8; 8]>, WireError> {
        match self.parent_span.as_ref() {
            [] => Ok(None),
            span => span.try_into().map(Some).map_err(|_| WireError::SpanLength(span.len())),
        }
    }

    /// Composes the message.
    pub fn from_parts(id: ActionId, trace: Option<[u8; 16]>, action: &Action) -> Self {
        Self {
            id: id.to_bytes().to_vec().into(),
            trace_id: trace.map_or_else(Default::default, |trace| trace.to_vec().into()),
            kind: Some(action.into()),
            ..Self::default()
        }
    }
}

impl TryFrom<v1::action::Kind> for Action {
    type Error = WireError;

    fn try_from(kind: v1::action::Kind) -> Result<Self, WireError> {
        use v1::action::Kind;
        Ok(match kind {
            Kind::ToolCall(call) => Self::ToolCall {
                tool: required("tool_call.tool", call.tool)?,
                args: object("tool_call.args_json", &call.args_json)?,
            },
            Kind::ToolResult(result) => Self::ToolResult {
                tool: required("tool_result.tool", result.tool)?,
                content: json("tool_result.content_json", &result.content_json)?,
            },
            Kind::LlmCall(call) => Self::LlmCall {
                model: required("llm_call.model", call.model)?,
                host: optional("llm_call.host", call.host)?,
                messages: json("llm_call.messages_json", &call.messages_json)?,
                max_output_tokens: call.max_output_tokens,
                choices: call.choices,
            },
            Kind::LlmResult(result) => Self::LlmResult {
                model: required("llm_result.model", result.model)?,
                content: json("llm_result.content_json", &result.content_json)?,
                usage: result.usage.map(|usage| Usage {
                    input_tokens: usage.input_tokens,
                    output_tokens: usage.output_tokens,
                    cached_input_tokens: usage.cached_input_tokens,
                    cache_write_tokens: usage.cache_write_tokens,
                    reasoning_tokens: usage.reasoning_tokens,
                }),
                call: match result.call_id.len() {
                    0 => None,
                    _ => {
                        Some(ActionId::from_bytes(id_bytes("llm_result.call_id", &result.call_id)?))
                    }
                },
                end: match v1::CallEnd::try_from(result.end) {
                    Ok(v1::CallEnd::Complete) => CallEnd::Complete,
                    Ok(v1::CallEnd::CutOff) => CallEnd::CutOff,
                    Ok(v1::CallEnd::NotCharged) => CallEnd::NotCharged,
                    Err(_) => {
                        let value = result.end.to_string();
                        return Err(WireError::Unknown { field: "llm_result.end", value });
                    }
                },
                observed: match result.observed {
                    None => None,
                    Some(observed) => Some(Box::new(observed.try_into()?)),
                },
            },
            Kind::NetworkConnect(connect) => Self::NetworkConnect {
                host: required("network_connect.host", connect.host)?,
                port: port(connect.port)?,
            },
            Kind::NetworkListen(listen) => Self::NetworkListen { port: port(listen.port)? },
            Kind::FileRead(file) => Self::FileRead { path: required("file_read.path", file.path)? },
            Kind::FileWrite(file) => {
                Self::FileWrite { path: required("file_write.path", file.path)? }
            }
            Kind::ProcessExec(exec) => {
                if exec.argv.is_empty() {
                    return Err(WireError::Missing("process_exec.argv"));
                }
                if exec.argv.iter().any(|argument| argument.contains('\0')) {
                    return Err(WireError::Nul("process_exec.argv"));
                }
                Self::ProcessExec { argv: exec.argv }
            }
            Kind::AgentSpawn(spawn) => {
                Self::AgentSpawn { child: required("agent_spawn.child", spawn.child)? }
            }
        })
    }
}

impl From<&Action> for v1::action::Kind {
    fn from(action: &Action) -> Self {
        match action.clone() {
            Action::ToolCall { tool, args } => {
                Self::ToolCall(v1::ToolCall { tool, args_json: Value::Object(args).to_string() })
            }
            Action::ToolResult { tool, content } => {
                Self::ToolResult(v1::ToolResult { tool, content_json: content.to_string() })
            }
            Action::LlmCall { model, host, messages, max_output_tokens, choices } => {
                Self::LlmCall(v1::LlmCall {
                    model,
                    host: host.unwrap_or_default(),
                    messages_json: messages.to_string(),
                    max_output_tokens,
                    choices,
                })
            }
            Action::LlmResult { model, content, usage, call, end, observed } => {
                Self::LlmResult(v1::LlmResult {
                    model,
                    content_json: content.to_string(),
                    usage: usage.map(|usage| v1::Usage {
                        input_tokens: usage.input_tokens,
                        output_tokens: usage.output_tokens,
                        cached_input_tokens: usage.cached_input_tokens,
                        cache_write_tokens: usage.cache_write_tokens,
                        reasoning_tokens: usage.reasoning_tokens,
                    }),
                    call_id: call
                        .map_or_else(Default::default, |call| call.to_bytes().to_vec().into()),
                    end: match end {
                        CallEnd::Complete => v1::CallEnd::Complete,
                        CallEnd::CutOff => v1::CallEnd::CutOff,
                        CallEnd::NotCharged => v1::CallEnd::NotCharged,
                    }
                    .into(),
                    observed: observed.map(|observed| (*observed).into()),
                })
            }
            Action::NetworkConnect { host, port } => {
                Self::NetworkConnect(v1::NetworkConnect { host, port: port.into() })
            }
            Action::NetworkListen { port } => {
                Self::NetworkListen(v1::NetworkListen { port: port.into() })
            }
            Action::FileRead { path } => Self::FileRead(v1::FileRead { path }),
            Action::FileWrite { path } => Self::FileWrite(v1::FileWrite { path }),
            Action::ProcessExec { argv } => Self::ProcessExec(v1::ProcessExec { argv }),
            Action::AgentSpawn { child } => Self::AgentSpawn(v1::AgentSpawn { child }),
        }
    }
}

impl TryFrom<v1::Observed> for Observed {
    type Error = WireError;

    fn try_from(observed: v1::Observed) -> Result<Self, WireError> {
        let v1::Observed {
            latency_us,
            first_token_us,
            status,
            finish_reason,
            conversation,
            response_id,
        } = observed;
        let status = status.map(|status| match u16::try_from(status) {
            Ok(status @ 100..=999) => Ok(status),
            _ => Err(WireError::Status(status)),
        });
        Ok(Self {
            latency_us,
            first_token_us,
            status: status.transpose()?,
            finish_reason: named(
                "llm_result.observed.finish_reason",
                finish_reason,
                MAX_FINISH_REASON_CHARS,
            )?,
            conversation: named(
                "llm_result.observed.conversation",
                conversation,
                MAX_PROVIDER_ID_CHARS,
            )?,
            response_id: named(
                "llm_result.observed.response_id",
                response_id,
                MAX_PROVIDER_ID_CHARS,
            )?,
        })
    }
}

impl From<Observed> for v1::Observed {
    fn from(observed: Observed) -> Self {
        let Observed {
            latency_us,
            first_token_us,
            status,
            finish_reason,
            conversation,
            response_id,
        } = observed;
        Self {
            latency_us,
            first_token_us,
            status: status.map(u32::from),
            finish_reason: finish_reason.unwrap_or_default(),
            conversation: conversation.unwrap_or_default(),
            response_id: response_id.unwrap_or_default(),
        }
    }
}

impl v1::Decision {
    /// Composes the message that answers an action.
    pub fn from_parts(decision: &Decision, event: EventId, latency_us: u64, repeat: bool) -> Self {
        let verdict = match decision.verdict {
            Verdict::Allow => v1::Verdict::Allow,
            Verdict::RequireApproval => v1::Verdict::RequireApproval,
            Verdict::Deny => v1::Verdict::Deny,
        };
        Self {
            verdict: verdict.into(),
            reasons: decision.reasons.iter().map(Into::into).collect(),
            event_id: event.to_string(),
            latency_us,
            approval: decision.approval.as_ref().map(|terms| v1::Approval {
                timeout_seconds: terms.timeout_seconds,
                roles: terms.roles.clone(),
                id: Default::default(),
            }),
            repeated_action: repeat,
            charge: None,
        }
    }

    /// Reads the verdict, reasons and terms. Findings do not travel.
    ///
    /// # Errors
    /// A verdict or code this version does not know; the caller fails closed.
    pub fn to_decision(&self) -> Result<Decision, WireError> {
        let verdict = match self.verdict() {
            v1::Verdict::Allow => Verdict::Allow,
            v1::Verdict::RequireApproval => Verdict::RequireApproval,
            v1::Verdict::Deny => Verdict::Deny,
            v1::Verdict::Unspecified => {
                let value = self.verdict.to_string();
                return Err(WireError::Unknown { field: "decision.verdict", value });
            }
        };
        let reasons = self.reasons.iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        let approval = self.approval.as_ref().map(|terms| ApprovalTerms {
            timeout_seconds: terms.timeout_seconds,
            roles: terms.roles.clone(),
        });
        Ok(Decision { verdict, reasons, approval, findings: Vec::new() })
    }
}

impl From<&Reason> for v1::Reason {
    fn from(reason: &Reason) -> Self {
        Self {
            code: reason.code.as_str().to_owned(),
            policy: reason.policy.clone().unwrap_or_default(),
            revision: reason.revision.unwrap_or_default(),
            version: reason.version.clone().unwrap_or_default(),
            path: reason.path.clone().unwrap_or_default(),
            line: reason.line.unwrap_or_default(),
            column: reason.column.unwrap_or_default(),
            budget: reason.budget.as_deref().map(Into::into),
            message: reason.message.clone(),
        }
    }
}

impl TryFrom<&v1::Reason> for Reason {
    type Error = WireError;

    fn try_from(reason: &v1::Reason) -> Result<Self, WireError> {
        let code = ReasonCode::from_name(&reason.code).ok_or_else(|| WireError::Unknown {
            field: "reason.code",
            value: reason.code.clone(),
        })?;
        let text = |text: &String| (!text.is_empty()).then(|| text.clone());
        Ok(Self {
            code,
            policy: text(&reason.policy),
            revision: (reason.revision != 0).then_some(reason.revision),
            version: text(&reason.version),
            path: text(&reason.path),
            line: (reason.line != 0).then_some(reason.line),
            column: (reason.column != 0).then_some(reason.column),
            budget: reason.budget.as_ref().map(|budget| Box::new(budget.into())),
            message: reason.message.clone(),
        })
    }
}

impl From<&BudgetStanding> for v1::BudgetStanding {
    fn from(standing: &BudgetStanding) -> Self {
        Self {
            window: standing.window.clone(),
            limit_nano_usd: standing.limit.map(|limit| limit.0),
            spent_nano_usd: standing.spent.0,
            reserved_nano_usd: standing.reserved.0,
            limit_tokens: standing.limit_tokens,
            spent_tokens: standing.spent_tokens,
            reserved_tokens: standing.reserved_tokens,
            resets_at_unix_us: standing.resets_at.as_micros(),
        }
    }
}

impl From<&v1::BudgetStanding> for BudgetStanding {
    fn from(standing: &v1::BudgetStanding) -> Self {
        Self {
            window: standing.window.clone(),
            limit: standing.limit_nano_usd.map(NanoUsd),
            spent: NanoUsd(standing.spent_nano_usd),
            reserved: NanoUsd(standing.reserved_nano_usd),
            limit_tokens: standing.limit_tokens,
            spent_tokens: standing.spent_tokens,
            reserved_tokens: standing.reserved_tokens,
            resets_at: Timestamp::from_micros(standing.resets_at_unix_us),
        }
    }
}

/// The bytes an agent signs to prove that it holds the key it registers. `nonce` and `public_key` are of
/// fixed length and the rest is NUL-separated, so no two registrations share a message.
pub fn registration_message(
    nonce: &[u8; 32],
    public_key: &[u8; 32],
    workspace_id: &str,
    name: &str,
    agent_id: &str,
) -> Vec<u8> {
    [
        b"agent-assembly/register/v1\0".as_slice(),
        nonce,
        public_key,
        workspace_id.as_bytes(),
        b"\0",
        name.as_bytes(),
        b"\0",
        agent_id.as_bytes(),
    ]
    .concat()
}

fn id_bytes(field: &'static str, bytes: &[u8]) -> Result<[u8; 16], WireError> {
    if bytes.is_empty() {
        return Err(WireError::Missing(field));
    }
    bytes.try_into().map_err(|_| WireError::IdLength { field, length: bytes.len() })
}

fn required(field: &'static str, text: String) -> Result<String, WireError> {
    optional(field, text)?.ok_or(WireError::Missing(field))
}

fn optional(field: &'static str, text: String) -> Result<Option<String>, WireError> {
    if text.len() > MAX_STRING {
        return Err(WireError::TooLong { field, length: text.len() });
    }
    if text.contains('\0') {
        return Err(WireError::Nul(field));
    }
    Ok((!text.is_empty()).then_some(text))
}

/// A name that an entry of the audit log holds: bounded in characters, which is how entries are bounded.
fn named(field: &'static str, text: String, limit: usize) -> Result<Option<String>, WireError> {
    // No text of so few bytes can have too many characters.
    if text.len() > limit {
        let chars = text.chars().count();
        if chars > limit {
            return Err(WireError::TooManyChars { field, chars, limit });
        }
    }
    optional(field, text)
}

fn port(port: u32) -> Result<u16, WireError> {
    port.try_into().map_err(|_| WireError::Port(port))
}

fn json(field: &'static str, text: &str) -> Result<Value, WireError> {
    if text.is_empty() {
        return Ok(Value::Null);
    }
    parse_json(text).map_err(|error| WireError::Json { field, error })
}

fn object(field: &'static str, text: &str) -> Result<Map<String, Value>, WireError> {
    match json(field, text)? {
        Value::Null => Ok(Map::new()),
        Value::Object(members) => Ok(members),
        _ => Err(WireError::NotAnObject(field)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_survives_the_wire() {
        let id = ActionId::from_bytes([7; 16]);
        for text in [
            r#"{"kind":"tool_call","tool":"bash","args":{"cmd":"ls"}}"#,
            r#"{"kind":"tool_result","tool":"bash","content":{"a":[1,null]}}"#,
            r#"{"kind":"llm_call","model":"gpt-4o","host":"api.openai.com","messages":[{"role":"user"}]}"#,
            r#"{"kind":"llm_result","model":"gpt-4o","content":"x","usage":{"input_tokens":1,"output_tokens":2}}"#,
            r#"{"kind":"llm_result","model":"o1","content":"x","usage":{"input_tokens":9,"output_tokens":5,"cached_input_tokens":4,"cache_write_tokens":3,"reasoning_tokens":2}}"#,
            r#"{"kind":"llm_result","model":"gpt-4o","content":"x","call":"00000000-0000-0000-0000-000000000007","end":"cut_off"}"#,
            r#"{"kind":"llm_result","model":"gpt-4o","content":"x","observed":{"latency_us":0}}"#,
            r#"{"kind":"llm_result","model":"gpt-4o","content":"x","observed":{"latency_us":9,"first_token_us":0,"status":429,"finish_reason":"stop","conversation":"resp_1","response_id":"resp_2"}}"#,
            r#"{"kind":"llm_call","model":"gpt-4o","messages":[],"max_output_tokens":9,"choices":2}"#,
            r#"{"kind":"network_connect","host":"x","port":443}"#,
            r#"{"kind":"network_listen","port":80}"#,
            r#"{"kind":"file_read","path":"/a"}"#,
            r#"{"kind":"file_write","path":"/a"}"#,
            r#"{"kind":"process_exec","argv":["ls","-l"]}"#,
            r#"{"kind":"agent_spawn","child":"c"}"#,
        ] {
            let action: Action = serde_json::from_str(text).unwrap();
            let message = v1::Action::from_parts(id, Some([9; 16]), &action);
            assert_eq!(message.into_parts(), Ok((id, Some([9; 16]), action)));
        }
    }

    #[test]
    fn what_was_observed_is_bounded_and_a_span_has_eight_bytes() {
        let result = |observed: v1::Observed| {
            let observed = Some(observed);
            let result = v1::LlmResult { model: "m".into(), observed, ..v1::LlmResult::default() };
            Action::try_from(v1::action::Kind::LlmResult(result)).map_err(|error| error.to_string())
        };
        let told = |finish_reason: &str, conversation: &str, response_id: &str| v1::Observed {
            finish_reason: finish_reason.into(),
            conversation: conversation.into(),
            response_id: response_id.into(),
            ..v1::Observed::default()
        };
        let (reason, id) = ("ü".repeat(64), "ü".repeat(256));
        assert!(result(told(&reason, &id, &id)).is_ok());
        for (observed, field, chars, limit) in [
            (told(&format!("{reason}."), "", ""), "finish_reason", 65, 64),
            (told("", &format!("{id}."), ""), "conversation", 257, 256),
            (told("", "", &format!("{id}.")), "response_id", 257, 256),
        ] {
            let refused = format!(
                "`llm_result.observed.{field}` has {chars} characters; at most {limit} are accepted"
            );
            assert_eq!(result(observed), Err(refused));
        }
        assert!(result(told("a\0", "", "")).unwrap_err().ends_with("holds a NUL byte"));
        for (status, accepted) in [(99, false), (100, true), (999, true), (1_000, false)] {
            let observed = v1::Observed { status: Some(status), ..v1::Observed::default() };
            assert_eq!(result(observed).is_ok(), accepted, "{status}");
        }

        let span = |bytes: &'static [u8]| {
            let parent_span = bytes.to_vec().into();
            v1::Action { parent_span, ..v1::Action::default() }.parent_span()
        };
        assert_eq!(span(b""), Ok(None));
        assert_eq!(span(b"12345678"), Ok(Some(*b"12345678")));
        assert_eq!(
            span(b"1234567").unwrap_err().to_string(),
            "`action.parent_span` must be 8 bytes, not 7"
        );
    }

    #[test]
    fn malformed_messages_are_named() {
        let tool = |tool: &str, args: &str| {
            Action::try_from(v1::action::Kind::ToolCall(v1::ToolCall {
                tool: tool.into(),
                args_json: args.into(),
            }))
            .unwrap_err()
            .to_string()
        };
        assert_eq!(tool("", "{}"), "`tool_call.tool` is missing");
        assert_eq!(tool("a\0b", "{}"), "`tool_call.tool` holds a NUL byte");
        assert_eq!(tool("a", "[]"), "`tool_call.args_json` must be a JSON object");
        assert!(tool("a", "{").starts_with("`tool_call.args_json` is not acceptable JSON: EOF"));
        assert!(tool(&"a".repeat(5000), "{}").contains("at most 4096"));
    }
}
