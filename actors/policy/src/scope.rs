//! `scope`: whom a document applies to.

use std::{fmt, str::FromStr};

use aa_protocol::{AgentFacts, AgentId};

use crate::conform::MAX_NAME;

/// Whom a document applies to, broadest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Every agent of the workspace.
    Global,
    /// Every agent of an organisation.
    Org(String),
    /// Every agent of a team.
    Team(String),
    /// One agent.
    Agent(AgentId),
    /// Every call of one tool, by agents that a document of a wider scope covers.
    Tool(String),
}

/// A text that is no scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct ScopeError {
    problem: String,
    /// Where in the text the problem is, in characters.
    pub(crate) offset: usize,
    /// What to write, where it is known.
    pub(crate) help: Option<String>,
}

// === impl Scope ===

impl Scope {
    /// Whether the document covers an agent. A `tool:` document covers none by itself.
    pub fn covers(&self, agent: &AgentFacts) -> bool {
        match self {
            Self::Global => true,
            Self::Org(org) => agent.org.as_ref() == Some(org),
            Self::Team(team) => agent.team.as_ref() == Some(team),
            Self::Agent(id) => agent.id == *id,
            Self::Tool(_) => false,
        }
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        if text == "global" {
            return Ok(Self::Global);
        }
        let fail = |offset: usize, problem: String, help: &str| {
            let help = (!help.is_empty()).then(|| help.to_owned());
            Err(ScopeError { problem, offset, help })
        };
        let forms = "global, org:<id>, team:<id>, agent:<uuid> or tool:<name>";
        let Some((kind, id)) = text.split_once(':') else {
            let kind = crate::diagnostic::quoted(text);
            return fail(0, format!("{kind} is not a scope"), &format!("write {forms}"));
        };
        if !matches!(kind, "org" | "team" | "agent" | "tool") {
            let kind = crate::diagnostic::quoted(kind);
            return fail(
                0,
                format!("the scope kind {kind} is not known"),
                &format!("write {forms}"),
            );
        }
        let offset = kind.len() + 1;
        if id.trim().is_empty() {
            return fail(offset, format!("the identifier after `{kind}:` is empty"), "");
        }
        if id.trim() != id || id.chars().any(char::is_control) || id.chars().count() > MAX_NAME {
            let problem = format!(
                "the identifier after `{kind}:` has spaces around it, control characters or more than {MAX_NAME} characters"
            );
            return fail(offset, problem, "");
        }
        Ok(match kind {
            "org" => Self::Org(id.to_owned()),
            "team" => Self::Team(id.to_owned()),
            "tool" => Self::Tool(id.to_owned()),
            _ => match parse_hyphenated(id) {
                Some(id) => Self::Agent(id),
                None => {
                    let problem = format!("{} is not a UUID", crate::diagnostic::quoted(id));
                    let help = "write the agent's own id, such as agent:01234567-89ab-cdef-0123-456789abcdef";
                    return fail(offset, problem, help);
                }
            },
        })
    }
}

/// The hyphenated form in either case; the braced, simple and URN forms are no scopes.
fn parse_hyphenated(text: &str) -> Option<AgentId> {
    if text.len() != uuid::fmt::Hyphenated::LENGTH {
        return None;
    }
    uuid::Uuid::try_parse(text).ok().map(AgentId::from_uuid)
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global => f.write_str("global"),
            Self::Org(id) => write!(f, "org:{id}"),
            Self::Team(id) => write!(f, "team:{id}"),
            Self::Agent(id) => write!(f, "agent:{id}"),
            Self::Tool(name) => write!(f, "tool:{name}"),
        }
    }
}
