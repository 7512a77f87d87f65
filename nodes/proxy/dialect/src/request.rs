//! What a request asks for, read strictly: what two readers could read in two ways is refused, for what is
//! decided on must be what the provider does.

use std::fmt;

use aa_protocol::{Action, parse_json};
use serde_json::{Map, Value};

use crate::{
    head::Head,
    mcp::RpcIds,
    refusal::{Refusal, RefusalCode},
};

/// What a request asks for.
#[derive(Clone, PartialEq)]
pub struct Asked {
    /// What is to be decided before any of the request leaves: one `LlmCall`, one for each request of a batch, or
    /// a `ToolCall` for each `tools/call` of an MCP request. None when the request spends and calls nothing, such as a count of tokens.
    pub actions: Vec<Action>,
    /// Whether the answer is asked for as a stream.
    pub streams: bool,
    /// The conversation that the request belongs to, by the provider's or the caller's own name for it; at most
    /// 512 bytes.
    pub conversation: Option<String>,
    /// Whether a stream will end without telling its tokens: OpenAI's chat and completions without
    /// `stream_options.include_usage`.
    pub lacks_usage: bool,
    pub(crate) rpc: RpcIds,
}

/// Why a request that is known for a provider's call was not read. It is not to be passed on, for nobody could
/// tell what was let through. The text quotes nothing of the request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {operation} request was not read: {problem} at {place}; {next}")]
pub struct Unreadable {
    /// The call, such as `openai.chat`.
    pub operation: &'static str,
    /// What is wrong.
    pub problem: String,
    /// Where: a line and column, or the member's name.
    pub place: String,
    /// What to do about it.
    pub next: &'static str,
}

/// The members of a request that is a JSON object.
pub(crate) struct Body {
    operation: &'static str,
    members: Map<String, Value>,
}

/// The longest model name that is taken, in bytes.
const MAX_MODEL: usize = 1024;

/// Parameters of a query that say nothing to a model, or are secret.
const NO_CONTENT: [&str; 7] =
    ["key", "access_token", "api-version", "api_version", "alt", "beta", "$alt"];

// === impl Asked ===

impl Asked {
    /// Nothing to decide on.
    pub(crate) fn nothing() -> Self {
        Self {
            actions: Vec::new(),
            streams: false,
            conversation: None,
            lacks_usage: false,
            rpc: RpcIds::default(),
        }
    }

    /// One call of a model.
    pub(crate) fn call(action: Action, streams: bool, conversation: Option<&str>) -> Self {
        Self {
            actions: vec![action],
            streams,
            conversation: conversation.map(crate::answer::clipped),
            ..Self::nothing()
        }
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<_> = self.actions.iter().map(Action::kind).collect();
        f.debug_struct("Asked")
            .field("actions", &kinds)
            .field("streams", &self.streams)
            .finish_non_exhaustive()
    }
}

// === impl Unreadable ===

impl Unreadable {
    /// The same as a refusal, for whoever sent the request.
    pub fn refusal(&self) -> Refusal {
        let Self { operation, problem, place, next } = self;
        Refusal {
            code: RefusalCode::BadRequest,
            rule: None,
            message: format!("the {operation} request was not read: {problem} at {place}"),
            next: format!("Please {next}"),
            event_id: None,
            retry_after: None,
        }
    }

    pub(crate) fn member(operation: &'static str, name: &str, problem: &str) -> Self {
        Self {
            operation,
            problem: problem.to_owned(),
            place: format!("`{name}`"),
            next: "send it as the provider's API documents it",
        }
    }
}

// === impl Body ===

/// Reads a body as JSON: without duplicate keys, of bounded depth.
pub(crate) fn read_value(operation: &'static str, body: &[u8]) -> Result<Value, Unreadable> {
    let unreadable = |problem, place| Unreadable {
        operation,
        problem,
        place,
        next: "send one JSON value in UTF-8, each key once, nested at most 64 deep",
    };
    let text = std::str::from_utf8(body).map_err(|error| {
        unreadable("bytes that are not UTF-8".to_owned(), format!("byte {}", error.valid_up_to()))
    })?;
    parse_json(text).map_err(|error| {
        unreadable(error.problem, format!("line {}, column {}", error.line, error.column))
    })
}

impl Body {
    /// Reads a body whose `names` decide what it asks for. None of them may be there in another case, as
    /// servers that ignore case would read it, too.
    pub(crate) fn read(
        operation: &'static str,
        body: &[u8],
        names: &[&str],
    ) -> Result<Self, Unreadable> {
        Self::of(operation, read_value(operation, body)?, names)
    }

    pub(crate) fn of(
        operation: &'static str,
        value: Value,
        names: &[&str],
    ) -> Result<Self, Unreadable> {
        let Value::Object(members) = value else {
            return Err(Unreadable::member(operation, "(the whole body)", "no JSON object"));
        };
        for key in members.keys() {
            let alike = names.iter().find(|name| name.eq_ignore_ascii_case(key));
            if let Some(name) = alike.filter(|name| *name != key) {
                return Err(Unreadable::member(operation, name, "its name in another case"));
            }
        }
        Ok(Self { operation, members })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.members.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn refuse(&self, name: &str, problem: &str) -> Unreadable {
        Unreadable::member(self.operation, name, problem)
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, Unreadable> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.refuse(name, "no string")),
        }
    }

    pub(crate) fn flag(&self, name: &str) -> Result<bool, Unreadable> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.refuse(name, "neither true nor false")),
        }
    }

    pub(crate) fn count(&self, name: &str) -> Result<Option<u64>, Unreadable> {
        let Some(value) = self.get(name) else { return Ok(None) };
        whole_number(value).map(Some).ok_or_else(|| self.refuse(name, "no whole number"))
    }

    /// The largest of several counts that mean the same: which of them a server heeds is not known.
    pub(crate) fn largest(&self, names: &[&str]) -> Result<Option<u64>, Unreadable> {
        names.iter().try_fold(None, |most, name| Ok(most.max(self.count(name)?)))
    }

    pub(crate) fn object(&self, name: &str) -> Result<Option<&Map<String, Value>>, Unreadable> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(members)) => Ok(Some(members)),
            Some(_) => Err(self.refuse(name, "no object")),
        }
    }

    /// A count in an object, both under one of several spellings, of which at most one may be there.
    pub(crate) fn count_in(
        &self,
        objects: &[&str],
        names: &[&str],
    ) -> Result<Option<u64>, Unreadable> {
        let Some(object) = self.one_of(&self.members, objects)? else { return Ok(None) };
        let Value::Object(object) = object else {
            return Err(self.refuse(objects[0], "no object"));
        };
        let Some(value) = self.one_of(object, names)? else { return Ok(None) };
        whole_number(value).map(Some).ok_or_else(|| self.refuse(names[0], "no whole number"))
    }

    /// The model that the body names.
    pub(crate) fn model(&self) -> Result<String, Unreadable> {
        let model = self.text("model")?.ok_or_else(|| self.refuse("model", "nothing"))?;
        if model.is_empty() || model.len() > MAX_MODEL || model.chars().any(char::is_control) {
            return Err(self.refuse("model", "no name of a model"));
        }
        Ok(model.to_owned())
    }

    /// An id below one of these paths that tells the conversation.
    pub(crate) fn conversation(&self, paths: &[&[&str]]) -> Option<&str> {
        let mut found = paths.iter().filter_map(|path| {
            let (first, rest) = path.split_first()?;
            let start = self.members.get(*first)?;
            rest.iter().try_fold(start, |value, name| value.get(name))?.as_str()
        });
        found.find(|text| !text.is_empty())
    }

    /// What the model is told: all members but the model, and what of the query is content.
    pub(crate) fn into_prompt(mut self, head: &Head<'_>) -> Value {
        self.members.remove("model");
        let query: Map<_, _> = head
            .parameters()
            .filter(|(name, _)| !NO_CONTENT.contains(&&**name))
            .map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())))
            .collect();
        if !query.is_empty() {
            self.members.insert("query".to_owned(), Value::Object(query));
        }
        Value::Object(self.members)
    }

    fn one_of<'m>(
        &self,
        members: &'m Map<String, Value>,
        names: &[&str],
    ) -> Result<Option<&'m Value>, Unreadable> {
        let found = names.iter().filter_map(|name| members.get(*name));
        let mut found = found.filter(|value| !value.is_null());
        let (one, other) = (found.next(), found.next());
        if other.is_some() {
            return Err(self.refuse(names[0], "two spellings of it"));
        }
        Ok(one)
    }
}

/// A number without a fraction that is not negative.
fn whole_number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let float = value.as_f64()?;
        let is_whole = (0.0..9e15).contains(&float) && float.fract() == 0.0;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        is_whole.then_some(float as u64)
    })
}
