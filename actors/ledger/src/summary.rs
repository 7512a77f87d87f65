//! What an entry says of an action: names and sizes, no payload.

use std::borrow::Cow;

use aa_protocol::{
    Action, ActionId, ActionKind, Finding, Observed,
    action::{MAX_FINISH_REASON_CHARS, MAX_PROVIDER_ID_CHARS},
};
use serde::{Deserialize, Serialize};

use crate::json_size;

/// The longest name that is kept, in characters; a longer one ends in `…`.
pub const MAX_NAME_CHARS: usize = 256;
/// What stands in place of a name in which sensitive text was found.
pub const REDACTED: &str = "[redacted]";

/// An action as its entry shows it. Member order is the format's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionSummary<'a> {
    /// The client's idempotency key.
    pub id: ActionId,
    /// What kind of action it is.
    pub kind: ActionKind,
    /// The tool of a call or result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<Cow<'a, str>>,
    /// The model of a call or result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Cow<'a, str>>,
    /// The host of a connection or of a model's provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Cow<'a, str>>,
    /// The port of a connection or listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The file's path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Cow<'a, str>>,
    /// The program that is started, `argv[0]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<Cow<'a, str>>,
    /// How many arguments the program gets, itself included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argc: Option<u64>,
    /// The child agent that is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child: Option<Cow<'a, str>>,
    /// Bytes of a call's arguments as compact JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args_bytes: Option<u64>,
    /// How many messages a prompt has, when it is a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<u64>,
    /// Bytes of the prompt as compact JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages_bytes: Option<u64>,
    /// The most output tokens the call can produce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u64>,
    /// Bytes of a result's content as compact JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_bytes: Option<u64>,
    /// Tokens of the prompt, as the provider counted them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    /// Tokens of the answer, as the provider counted them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    /// What was seen of a model call on its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<Box<ObservedSummary<'a>>>,
}

/// What an entry tells of how a model call went. Member order is the format's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObservedSummary<'a> {
    /// Microseconds from the request being sent to the end of the answer.
    pub latency_us: u64,
    /// Microseconds to the first piece of the answer's content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token_us: Option<u64>,
    /// The HTTP status of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why the answer ended, in the provider's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<Cow<'a, str>>,
    /// The provider's conversation, or the response that the call continued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<Cow<'a, str>>,
    /// The id that the provider gave the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_id: Option<Cow<'a, str>>,
}

// === impl ActionSummary ===

impl<'a> ActionSummary<'a> {
    /// Summarises an action. A name that a finding points at is [`REDACTED`], one longer than
    /// [`MAX_NAME_CHARS`] is cut.
    pub fn of(action: &'a Action, id: ActionId, findings: &[Finding]) -> Self {
        let name = |pointer: &str, text: &'a str| {
            let sensitive = findings.iter().any(|finding| finding.pointer == pointer);
            Some(if sensitive { Cow::Borrowed(REDACTED) } else { bounded(text, MAX_NAME_CHARS) })
        };
        let mut summary = Self::bare(id, action.kind());
        match action {
            Action::ToolCall { tool, args } => {
                summary.tool = name("/tool", tool);
                summary.args_bytes = Some(json_size::of_object(args));
            }
            Action::ToolResult { tool, content } => {
                summary.tool = name("/tool", tool);
                summary.content_bytes = Some(json_size::of_value(content));
            }
            Action::LlmCall { model, host, messages, max_output_tokens, .. } => {
                summary.model = name("/model", model);
                summary.host = host.as_deref().and_then(|host| name("/host", host));
                summary.messages = messages.as_array().map(|messages| messages.len() as u64);
                summary.messages_bytes = Some(json_size::of_value(messages));
                summary.max_output_tokens = *max_output_tokens;
            }
            Action::LlmResult { model, content, usage, observed, .. } => {
                summary.model = name("/model", model);
                summary.content_bytes = Some(json_size::of_value(content));
                summary.input_tokens = usage.map(|usage| usage.input_tokens);
                summary.output_tokens = usage.map(|usage| usage.output_tokens);
                summary.observed = observed
                    .as_ref()
                    .map(|observed| Box::new(ObservedSummary::of(observed, findings)));
            }
            Action::NetworkConnect { host, port } => {
                summary.host = name("/host", host);
                summary.port = Some(*port);
            }
            Action::NetworkListen { port } => summary.port = Some(*port),
            Action::FileRead { path } | Action::FileWrite { path } => {
                summary.path = name("/path", path);
            }
            Action::ProcessExec { argv } => {
                summary.program = argv.first().and_then(|program| name("/argv/0", program));
                summary.argc = Some(argv.len() as u64);
            }
            Action::AgentSpawn { child } => summary.child = name("/child", child),
        }
        summary
    }

    /// The summary without any of its optional members.
    pub const fn bare(id: ActionId, kind: ActionKind) -> Self {
        Self {
            id,
            kind,
            tool: None,
            model: None,
            host: None,
            port: None,
            path: None,
            program: None,
            argc: None,
            child: None,
            args_bytes: None,
            messages: None,
            messages_bytes: None,
            max_output_tokens: None,
            content_bytes: None,
            input_tokens: None,
            output_tokens: None,
            observed: None,
        }
    }

    /// The name the action is about: tool, model, host, path, program or child.
    pub fn target(&self) -> Option<&str> {
        [&self.tool, &self.model, &self.path, &self.program, &self.child, &self.host]
            .into_iter()
            .find_map(|name| name.as_deref())
    }
}

// === impl ObservedSummary ===

impl<'a> ObservedSummary<'a> {
    fn of(observed: &'a Observed, findings: &[Finding]) -> Self {
        let name = |pointer: &str, text: &'a Option<String>, limit| {
            let sensitive = findings.iter().any(|finding| finding.pointer == pointer);
            let shown =
                |text| if sensitive { Cow::Borrowed(REDACTED) } else { bounded(text, limit) };
            text.as_deref().map(shown)
        };
        let Observed {
            latency_us,
            first_token_us,
            status,
            finish_reason,
            conversation,
            response_id,
        } = observed;
        Self {
            latency_us: *latency_us,
            first_token_us: *first_token_us,
            status: *status,
            finish_reason: name("/observed/finish_reason", finish_reason, MAX_FINISH_REASON_CHARS),
            conversation: name("/observed/conversation", conversation, MAX_PROVIDER_ID_CHARS),
            response_id: name("/observed/response_id", response_id, MAX_PROVIDER_ID_CHARS),
        }
    }
}

fn bounded(text: &str, limit: usize) -> Cow<'_, str> {
    // No text of so few bytes can have too many characters.
    if text.len() <= limit {
        return Cow::Borrowed(text);
    }
    match text.char_indices().nth(limit) {
        None => Cow::Borrowed(text),
        Some(_) => {
            let mut cut: String = text.chars().take(limit - 1).collect();
            cut.push('…');
            Cow::Owned(cut)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> ActionId {
        ActionId::from_bytes([7; 16])
    }

    fn finding(pointer: &str) -> Finding {
        Finding {
            policy: "p".into(),
            pattern: 0,
            pointer: pointer.into(),
            in_key: false,
            offset: 0,
            length: 3,
        }
    }

    #[test]
    fn a_summary_holds_sizes_and_no_payload() {
        let action: Action = serde_json::from_value(serde_json::json!({
            "kind": "tool_call", "tool": "bash", "args": {"cmd": "echo hunter2"}
        }))
        .unwrap();
        let text = serde_json::to_string(&ActionSummary::of(&action, id(), &[])).unwrap();
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.ends_with(r#""kind":"tool_call","tool":"bash","args_bytes":22}"#), "{text}");
    }

    #[test]
    fn a_name_with_a_finding_is_redacted_in_every_kind() {
        let observed = |name: &str| {
            let observed = serde_json::json!({"latency_us": 9, name: "SECRET"});
            serde_json::json!({"kind": "llm_result", "model": "m", "observed": observed})
        };
        let cases = [
            (serde_json::json!({"kind":"tool_call","tool":"SECRET"}), "/tool"),
            (serde_json::json!({"kind":"tool_result","tool":"SECRET"}), "/tool"),
            (serde_json::json!({"kind":"llm_call","model":"SECRET"}), "/model"),
            (serde_json::json!({"kind":"llm_call","model":"m","host":"SECRET"}), "/host"),
            (serde_json::json!({"kind":"llm_result","model":"SECRET"}), "/model"),
            (observed("finish_reason"), "/observed/finish_reason"),
            (observed("conversation"), "/observed/conversation"),
            (observed("response_id"), "/observed/response_id"),
            (serde_json::json!({"kind":"network_connect","host":"SECRET","port":1}), "/host"),
            (serde_json::json!({"kind":"file_read","path":"SECRET"}), "/path"),
            (serde_json::json!({"kind":"file_write","path":"SECRET"}), "/path"),
            (serde_json::json!({"kind":"process_exec","argv":["SECRET","a"]}), "/argv/0"),
            (serde_json::json!({"kind":"agent_spawn","child":"SECRET"}), "/child"),
        ];
        for (action, pointer) in cases {
            let action: Action = serde_json::from_value(action).unwrap();
            let summary = ActionSummary::of(&action, id(), &[finding(pointer)]);
            let text = serde_json::to_string(&summary).unwrap();
            assert!(text.contains(REDACTED) && !text.contains("SECRET"), "{text}");
            let unflagged = ActionSummary::of(&action, id(), &[]);
            assert!(serde_json::to_string(&unflagged).unwrap().contains("SECRET"));
        }
    }

    #[test]
    fn a_long_name_is_cut_to_256_characters() {
        let action = Action::FileRead { path: "ü".repeat(300) };
        let summary = ActionSummary::of(&action, id(), &[]);
        let path = summary.path.unwrap();
        assert_eq!(path.chars().count(), 256);
        assert!(path.ends_with("ü…"));
        let exact = Action::FileRead { path: "ü".repeat(256) };
        assert_eq!(ActionSummary::of(&exact, id(), &[]).path.unwrap(), "ü".repeat(256));
    }
}
