//! What an agent wants to do, or has received: the unit that is decided and recorded.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::id::ActionId;

/// One action of an agent. The JSON form, used by `aasm policy eval`, policy tests and documentation, is
/// internally tagged by `kind`: `{"kind":"tool_call","tool":"bash","args":{"cmd":"ls"}}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// A call of a tool, before it is made.
    ToolCall {
        /// The tool's name.
        tool: String,
        /// The call's arguments.
        #[serde(default)]
        args: Map<String, Value>,
    },
    /// What a tool returned, before the agent sees it.
    ToolResult {
        /// The tool's name.
        tool: String,
        /// The content: text or any JSON.
        #[serde(default)]
        content: Value,
    },
    /// A request to a model, before it leaves.
    LlmCall {
        /// The model's name as the provider knows it.
        model: String,
        /// The provider's host, when it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// The prompt: messages, input, tools: any JSON.
        #[serde(default)]
        messages: Value,
        /// The most output tokens the call can produce, when the caller bounds it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_output_tokens: Option<u64>,
        /// How many answers are asked for; one when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        choices: Option<u64>,
    },
    /// What a model returned, before the agent sees it.
    LlmResult {
        /// The model's name.
        model: String,
        /// The content: text or any JSON.
        #[serde(default)]
        content: Value,
        /// Tokens as the provider reported them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
        /// The id of the [`Action::LlmCall`] that this answers: what was reserved for it is settled.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        call: Option<ActionId>,
        /// How the call ended.
        #[serde(default, skip_serializing_if = "CallEnd::is_complete")]
        end: CallEnd,
        /// What was seen of the call on its way, by who made or forwarded it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        observed: Option<Box<Observed>>,
    },
    /// An outbound connection.
    NetworkConnect {
        /// Host name or IP literal.
        host: String,
        /// Port.
        port: u16,
    },
    /// Accepting inbound connections.
    NetworkListen {
        /// Port.
        port: u16,
    },
    /// Reading a file.
    FileRead {
        /// Its path.
        path: String,
    },
    /// Writing, creating, deleting or renaming a file.
    FileWrite {
        /// Its path.
        path: String,
    },
    /// Starting a program.
    ProcessExec {
        /// Program and arguments.
        argv: Vec<String>,
    },
    /// Starting another agent.
    AgentSpawn {
        /// The child's name or id.
        child: String,
    },
}

/// How a call of a model ended, for what it is charged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallEnd {
    /// With an answer: its usage is charged or, when the provider told none, the whole reservation.
    #[default]
    Complete,
    /// In the midst of its answer: the prompt and what was produced are charged, the whole reservation when
    /// nobody knows what was.
    CutOff,
    /// Before the provider took it on: nothing is charged.
    NotCharged,
}

/// Tokens of one model call, as its provider counted them. The two totals include their parts: providers
/// that report the parts beside the total are added up where their answer is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// Tokens of the whole prompt, those read from and written to a prompt cache included.
    #[serde(default)]
    pub input_tokens: u64,
    /// Tokens of the whole answer, reasoning included.
    #[serde(default)]
    pub output_tokens: u64,
    /// Of the prompt, the tokens read from a prompt cache.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cached_input_tokens: u64,
    /// Of the prompt, the tokens written to a prompt cache.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cache_write_tokens: u64,
    /// Of the answer, the tokens of reasoning.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reasoning_tokens: u64,
}

/// What was seen of a model call on its way, beside its answer: times, and the names the provider gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observed {
    /// Microseconds from the request being sent to the end of the answer.
    pub latency_us: u64,
    /// Microseconds from the request being sent to the first piece of the answer's content, where there was any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token_us: Option<u64>,
    /// The HTTP status of the answer: 100 to 999 (RFC 9110 §15 leaves those above 599 undefined; they are recorded).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why the answer ended, in the provider's word; at most [`MAX_FINISH_REASON_CHARS`] characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<String>,
    /// The provider's conversation, or the response that the call continued; at most [`MAX_PROVIDER_ID_CHARS`]
    /// characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    /// The id that the provider gave the answer; at most [`MAX_PROVIDER_ID_CHARS`] characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_id: Option<String>,
}

/// The longest [`Observed::finish_reason`] that is accepted, in characters.
pub const MAX_FINISH_REASON_CHARS: usize = 64;

/// The longest [`Observed::conversation`] and [`Observed::response_id`] that are accepted, in characters.
pub const MAX_PROVIDER_ID_CHARS: usize = 256;

/// The kinds of [`Action`], without their data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionKind {
    /// See [`Action::ToolCall`].
    ToolCall,
    /// See [`Action::ToolResult`].
    ToolResult,
    /// See [`Action::LlmCall`].
    LlmCall,
    /// See [`Action::LlmResult`].
    LlmResult,
    /// See [`Action::NetworkConnect`].
    NetworkConnect,
    /// See [`Action::NetworkListen`].
    NetworkListen,
    /// See [`Action::FileRead`].
    FileRead,
    /// See [`Action::FileWrite`].
    FileWrite,
    /// See [`Action::ProcessExec`].
    ProcessExec,
    /// See [`Action::AgentSpawn`].
    AgentSpawn,
}

impl Observed {
    /// The names the provider gave, with the JSON pointers of their places in the action.
    pub fn names(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("/observed/finish_reason", &self.finish_reason),
            ("/observed/conversation", &self.conversation),
            ("/observed/response_id", &self.response_id),
        ]
        .into_iter()
        .filter_map(|(pointer, name)| Some((pointer, name.as_deref()?)))
    }
}

impl CallEnd {
    /// Whether the call ended with an answer.
    pub const fn is_complete(&self) -> bool {
        matches!(self, Self::Complete)
    }
}

impl Action {
    /// Which kind this is.
    pub const fn kind(&self) -> ActionKind {
        match self {
            Self::ToolCall { .. } => ActionKind::ToolCall,
            Self::ToolResult { .. } => ActionKind::ToolResult,
            Self::LlmCall { .. } => ActionKind::LlmCall,
            Self::LlmResult { .. } => ActionKind::LlmResult,
            Self::NetworkConnect { .. } => ActionKind::NetworkConnect,
            Self::NetworkListen { .. } => ActionKind::NetworkListen,
            Self::FileRead { .. } => ActionKind::FileRead,
            Self::FileWrite { .. } => ActionKind::FileWrite,
            Self::ProcessExec { .. } => ActionKind::ProcessExec,
            Self::AgentSpawn { .. } => ActionKind::AgentSpawn,
        }
    }

    /// Visits every string the action carries, map keys too, with the JSON pointer (RFC 6901) of its
    /// place in the action's JSON form. A key is reported under the pointer of its member, which holds
    /// the key itself: see [`StringSite::is_key`]. Stops early when `visit` returns `false`.
    pub fn visit_strings<'a>(&'a self, visit: &mut dyn FnMut(StringSite<'_>, &'a str) -> bool) {
        let mut pointer = String::new();
        match self {
            Self::ToolCall { tool, args } => {
                let _ = field("/tool", tool, visit)
                    && walk_object(args, at(&mut pointer, "/args"), visit);
            }
            Self::ToolResult { tool, content } => {
                let _ = field("/tool", tool, visit)
                    && walk(content, at(&mut pointer, "/content"), visit);
            }
            Self::LlmCall { model, host, messages, .. } => {
                let _ = field("/model", model, visit)
                    && host.as_ref().is_none_or(|host| field("/host", host, visit))
                    && walk(messages, at(&mut pointer, "/messages"), visit);
            }
            Self::LlmResult { model, content, observed, .. } => {
                let _ = field("/model", model, visit)
                    && walk(content, at(&mut pointer, "/content"), visit)
                    && observed.as_ref().is_none_or(|observed| {
                        observed.names().all(|(pointer, name)| field(pointer, name, visit))
                    });
            }
            Self::NetworkConnect { host, .. } => {
                let _ = field("/host", host, visit);
            }
            Self::NetworkListen { .. } => {}
            Self::FileRead { path } | Self::FileWrite { path } => {
                let _ = field("/path", path, visit);
            }
            Self::ProcessExec { argv } => {
                for (index, argument) in argv.iter().enumerate() {
                    if !field(&format!("/argv/{index}"), argument, visit) {
                        return;
                    }
                }
            }
            Self::AgentSpawn { child } => {
                let _ = field("/child", child, visit);
            }
        }
    }
}

const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Where a string stands in an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringSite<'p> {
    /// JSON pointer of the string; for a key, of the object that holds it, so that a pointer shown to
    /// people never quotes an unscanned key.
    pub pointer: &'p str,
    /// Whether the string is a key of the object at `pointer`.
    pub is_key: bool,
}

type Visit<'v, 'a> = &'v mut dyn FnMut(StringSite<'_>, &'a str) -> bool;

fn at<'p>(pointer: &'p mut String, start: &str) -> &'p mut String {
    pointer.push_str(start);
    pointer
}

fn field<'a>(pointer: &str, text: &'a str, visit: Visit<'_, 'a>) -> bool {
    visit(StringSite { pointer, is_key: false }, text)
}

fn walk<'a>(value: &'a Value, pointer: &mut String, visit: Visit<'_, 'a>) -> bool {
    match value {
        Value::String(text) => visit(StringSite { pointer, is_key: false }, text),
        Value::Array(items) => items.iter().enumerate().all(|(index, item)| {
            let length = pointer.len();
            pointer.push('/');
            pointer.push_str(&index.to_string());
            let go_on = walk(item, pointer, visit);
            pointer.truncate(length);
            go_on
        }),
        Value::Object(members) => walk_object(members, pointer, visit),
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
    }
}

fn walk_object<'a>(
    members: &'a Map<String, Value>,
    pointer: &mut String,
    visit: Visit<'_, 'a>,
) -> bool {
    members.iter().enumerate().all(|(index, (key, value))| {
        if !visit(StringSite { pointer, is_key: true }, key) {
            return false;
        }
        let length = pointer.len();
        pointer.push('/');
        pointer.push_str(&pointer_token(key, index));
        let go_on = walk(value, pointer, visit);
        pointer.truncate(length);
        go_on
    })
}

/// A short identifier-like key stands for itself; any other is named by its position (`#3`), so that a
/// secret used as a key never reaches a log through a pointer.
fn pointer_token(key: &str, index: usize) -> Cow<'_, str> {
    let plain = key.len() <= 24
        && !key.is_empty()
        && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if plain { Cow::Borrowed(key) } else { Cow::Owned(format!("#{index}")) }
}

impl ActionKind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::ToolCall,
        Self::ToolResult,
        Self::LlmCall,
        Self::LlmResult,
        Self::NetworkConnect,
        Self::NetworkListen,
        Self::FileRead,
        Self::FileWrite,
        Self::ProcessExec,
        Self::AgentSpawn,
    ];

    /// The name in JSON and in audit entries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ToolCall => "tool_call",
            Self::ToolResult => "tool_result",
            Self::LlmCall => "llm_call",
            Self::LlmResult => "llm_result",
            Self::NetworkConnect => "network_connect",
            Self::NetworkListen => "network_listen",
            Self::FileRead => "file_read",
            Self::FileWrite => "file_write",
            Self::ProcessExec => "process_exec",
            Self::AgentSpawn => "agent_spawn",
        }
    }
}

impl std::fmt::Display for ActionKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_json_forms_are_read() {
        for text in [
            r#"{"kind":"tool_call","tool":"bash","args":{"cmd":"ls"}}"#,
            r#"{"kind":"llm_call","model":"gpt-4o","host":"api.openai.com","messages":[]}"#,
            r#"{"kind":"tool_result","tool":"bash","content":"x"}"#,
            r#"{"kind":"network_connect","host":"x","port":443}"#,
            r#"{"kind":"file_write","path":"/tmp/x"}"#,
            r#"{"kind":"process_exec","argv":["ls"]}"#,
            r#"{"kind":"agent_spawn","child":"helper"}"#,
        ] {
            let action: Action = serde_json::from_str(text).expect(text);
            assert!(text.contains(action.kind().as_str()));
        }
        assert!(serde_json::from_str::<Action>(r#"{"kind":"tool_call","tol":"x"}"#).is_err());
    }

    #[test]
    fn usage_without_its_parts_reads_and_writes_as_two_counts() {
        let text = r#"{"input_tokens":7,"output_tokens":3}"#;
        let usage: Usage = serde_json::from_str(text).unwrap();
        assert_eq!(usage, Usage { input_tokens: 7, output_tokens: 3, ..Usage::default() });
        assert_eq!(serde_json::to_string(&usage).unwrap(), text);

        let usage = Usage { cached_input_tokens: 5, reasoning_tokens: 1, ..usage };
        let text = serde_json::to_string(&usage).unwrap();
        assert!(text.contains(r#""cached_input_tokens":5"#), "{text}");
        assert_eq!(serde_json::from_str::<Usage>(&text).unwrap(), usage);
    }

    /// Whatever reaches an entry is looked through for what must not.
    #[test]
    fn the_names_a_provider_gave_are_visited_where_they_stand() {
        let action: Action = serde_json::from_str(
            r#"{"kind":"llm_result","model":"m","content":"x","observed":
                {"latency_us":9,"finish_reason":"stop","conversation":"c","response_id":"r"}}"#,
        )
        .unwrap();
        let mut seen = Vec::new();
        action.visit_strings(&mut |site, text| {
            seen.push((site.pointer.to_owned(), text.to_owned()));
            true
        });
        let json = serde_json::to_value(&action).unwrap();
        assert_eq!(seen.len(), 5);
        for (pointer, text) in seen {
            assert_eq!(json.pointer(&pointer).and_then(Value::as_str), Some(text.as_str()));
        }
    }

    #[test]
    fn every_string_and_key_is_visited_and_no_odd_key_is_quoted() {
        let action: Action = serde_json::from_str(
            r#"{"kind":"tool_call","tool":"t","args":{"a":["x",{"SSN 123":"y"}]}}"#,
        )
        .unwrap();
        let mut seen = Vec::new();
        action.visit_strings(&mut |site, text| {
            seen.push((site.pointer.to_owned(), site.is_key, text.to_owned()));
            true
        });
        let seen: Vec<_> = seen
            .iter()
            .map(|(pointer, key, text)| (pointer.as_str(), *key, text.as_str()))
            .collect();
        assert_eq!(
            seen,
            [
                ("/tool", false, "t"),
                ("/args", true, "a"),
                ("/args/a/0", false, "x"),
                ("/args/a/1", true, "SSN 123"),
                ("/args/a/1/#0", false, "y"),
            ]
        );
    }
}
