//! What a condition is evaluated against: the bound variables, converted when they are first read.

use std::{collections::HashMap, sync::OnceLock};

use aa_protocol::{AgentFacts, GovernanceLevel, Timestamp};
use cel::{
    ExecutionError,
    common::types::{
        CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelTimestamp,
        CelUInt,
    },
    common::value::{CowVal, Val},
    context::VariableResolver,
};
use serde_json::{Map, Value as Json};

use super::Pattern;

/// One call of a tool by an agent. Conversions are shared by all conditions of a decision.
pub(crate) struct Subject<'a> {
    tool: &'a str,
    args: &'a Map<String, Json>,
    agent: &'a AgentFacts,
    now: Timestamp,
    args_value: OnceLock<CelMap<'a>>,
    agent_value: OnceLock<CelMap<'a>>,
    args_size: OnceLock<Size>,
}

/// How much there is to walk through.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Size {
    pub(super) values: usize,
    pub(super) bytes: usize,
}

/// The variables of one condition.
pub(super) struct Resolver<'r, 'a> {
    pub(super) subject: &'r Subject<'a>,
    pub(super) patterns: &'r [Pattern],
}

// === impl Subject ===

impl<'a> Subject<'a> {
    pub(crate) fn new(
        tool: &'a str,
        args: &'a Map<String, Json>,
        agent: &'a AgentFacts,
        now: Timestamp,
    ) -> Self {
        Self {
            tool,
            args,
            agent,
            now,
            args_value: OnceLock::new(),
            agent_value: OnceLock::new(),
            args_size: OnceLock::new(),
        }
    }

    pub(super) const fn governance_level(&self) -> GovernanceLevel {
        self.agent.governance_level
    }

    pub(super) const fn tool(&self) -> &'a str {
        self.tool
    }

    pub(super) const fn call_args(&self) -> &'a Map<String, Json> {
        self.args
    }

    pub(super) const fn agent_facts(&self) -> &'a AgentFacts {
        self.agent
    }

    pub(super) fn args_size(&self) -> Size {
        *self.args_size.get_or_init(|| size_of_members(self.args))
    }

    pub(super) fn agent_size(&self) -> Size {
        let labels = &self.agent.labels;
        let bytes = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
        Size { values: 2 * labels.len() + 8, bytes }
    }

    fn args(&self) -> &CelMap<'a> {
        self.args_value.get_or_init(|| members(self.args))
    }

    /// `id`, `name`, `team`, `org` and `labels`; an agent without team or organisation has them empty, so
    /// that a condition on them is answered instead of failing.
    fn agent(&self) -> &CelMap<'a> {
        self.agent_value.get_or_init(|| {
            let text = |text: &'a str| -> Box<dyn Val + 'a> { Box::new(CelString::from(text)) };
            let labels: HashMap<CelMapKey<'a>, Box<dyn Val + 'a>> = self
                .agent
                .labels
                .iter()
                .map(|(key, value)| (CelMapKey::from(key.as_str()), text(value)))
                .collect();
            let mut agent: HashMap<CelMapKey<'a>, Box<dyn Val + 'a>> = HashMap::new();
            agent.insert("id".into(), Box::new(CelString::from(self.agent.id.to_string())));
            agent.insert("name".into(), text(&self.agent.name));
            agent.insert("team".into(), text(self.agent.team.as_deref().unwrap_or_default()));
            agent.insert("org".into(), text(self.agent.org.as_deref().unwrap_or_default()));
            agent.insert("labels".into(), Box::new(CelMap::from(labels)));
            CelMap::from(agent)
        })
    }
}

// === impl Size ===

impl Size {
    pub(super) fn plus(self, other: Self) -> Self {
        Self { values: self.values + other.values, bytes: self.bytes + other.bytes }
    }
}

fn size_of_members(members: &Map<String, Json>) -> Size {
    members.iter().fold(Size { values: 1, bytes: 0 }, |size, (key, value)| {
        size.plus(Size { values: 0, bytes: key.len() }).plus(size_of(value))
    })
}

fn size_of(value: &Json) -> Size {
    match value {
        Json::String(text) => Size { values: 1, bytes: text.len() },
        Json::Array(items) => {
            items.iter().fold(Size { values: 1, bytes: 0 }, |size, item| size.plus(size_of(item)))
        }
        Json::Object(members) => size_of_members(members),
        Json::Null | Json::Bool(_) | Json::Number(_) => Size { values: 1, bytes: 0 },
    }
}

fn members(object: &Map<String, Json>) -> CelMap<'_> {
    let members: HashMap<CelMapKey<'_>, Box<dyn Val + '_>> = object
        .iter()
        .map(|(key, value)| (CelMapKey::from(key.as_str()), value_of(value)))
        .collect();
    CelMap::from(members)
}

fn value_of(value: &Json) -> Box<dyn Val + '_> {
    match value {
        Json::Null => Box::new(CelNull),
        Json::Bool(value) => Box::new(CelBool::from(*value)),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => Box::new(CelInt::from(value)),
            (None, Some(value)) => Box::new(CelUInt::from(value)),
            (None, None) => Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN))),
        },
        Json::String(text) => Box::new(CelString::from(text.as_str())),
        Json::Array(items) => {
            Box::new(CelList::from(items.iter().map(value_of).collect::<Vec<_>>()))
        }
        Json::Object(object) => Box::new(members(object)),
    }
}

// === impl Resolver ===

impl VariableResolver for Resolver<'_, '_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let subject = self.subject;
        Some(match variable {
            "governance_level" => {
                CowVal::owned(CelInt::from(subject.agent.governance_level as i64))
            }
            "tool" => CowVal::owned(CelString::from(subject.tool)),
            "args" => CowVal::Borrowed(subject.args()),
            "agent" => CowVal::Borrowed(subject.agent()),
            "now" => CowVal::owned(timestamp(subject.now)?),
            _ => {
                let index: usize = variable.strip_prefix("@pattern")?.parse().ok()?;
                CowVal::Borrowed(self.patterns.get(index)?)
            }
        })
    }
}

fn timestamp(time: Timestamp) -> Option<CelTimestamp> {
    let utc = chrono::DateTime::from_timestamp_micros(time.as_micros())?;
    Some(CelTimestamp::from(utc.fixed_offset()))
}

/// What went wrong, without the values that the evaluator's own messages quote.
pub(super) fn kind_of(error: &ExecutionError) -> &'static str {
    match error {
        ExecutionError::NoSuchKey(_) => "a key it reads is missing",
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
            "it divides by zero"
        }
        ExecutionError::Overflow(..) => "a number overflows",
        ExecutionError::IndexOutOfBounds(_) => "an index is out of bounds",
        ExecutionError::FunctionError { .. } => "a conversion fails",
        _ => "a value is of another type than it expects",
    }
}
