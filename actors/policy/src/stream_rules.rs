//! What is looked for in streams to and from an agent, which leave before anything could decide on the whole.

use std::sync::Arc;

use crate::set::{AgentPolicies, Document};

/// What happens to a stream in which a sensitive pattern matches. The later, the more restrictive, so of several
/// that apply the [`max`](Ord::max) is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum OnStreamMatch {
    /// It passes, and the match is recorded.
    Flag,
    /// It goes on without the matched text.
    Redact,
    /// It ends before the matched text.
    #[default]
    Cut,
}

/// The patterns to search the streams of one agent for: those of every document that covers it, but not of
/// `tool:` documents, which are about calls of their tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamRules {
    /// By the names of the documents, and in their order in these.
    pub patterns: Vec<StreamPattern>,
}

/// A pattern of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamPattern {
    /// In RE2 syntax; it is known to compile.
    pub text: Arc<str>,
    /// What the document says of streams in which one of its patterns matches. Where patterns of several
    /// documents match, the most restrictive holds.
    pub on_match: OnStreamMatch,
    /// The document's name.
    pub policy: Arc<str>,
    /// Its revision, where there is a workspace.
    pub revision: Option<u64>,
    /// Its place among the patterns of the document, from 0, as findings tell it.
    pub pattern: usize,
    /// Where it stands in the document: `spec.data.sensitive_patterns[0]`.
    pub path: Arc<str>,
}

// === impl OnStreamMatch ===

impl OnStreamMatch {
    /// The value that says it in a document.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Redact => "redact",
            Self::Cut => "cut",
        }
    }

    /// Reads the value. What is none is the most restrictive; the check refuses it.
    pub(crate) fn read(value: Option<&str>) -> Self {
        let mut lenient = [Self::Flag, Self::Redact].into_iter();
        lenient.find(|known| Some(known.as_str()) == value).unwrap_or_default()
    }
}

// === impl StreamRules ===

impl StreamRules {
    /// Whether there is nothing to search for.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }
}

// === impl AgentPolicies ===

impl AgentPolicies {
    /// What to search the agent's streams for. They change when the set or the agent's facts do, as this does.
    pub fn stream_rules(&self) -> StreamRules {
        StreamRules { patterns: self.iter().flat_map(patterns_of).collect() }
    }
}

fn patterns_of(document: &Document) -> impl Iterator<Item = StreamPattern> {
    document.policy.data.iter().flat_map(move |data| {
        data.patterns().enumerate().map(move |(pattern, (text, site))| StreamPattern {
            text: Arc::clone(text),
            on_match: data.on_stream_match(),
            policy: document.policy.shared_name(),
            revision: document.revision,
            pattern,
            path: Arc::from(&*site.path),
        })
    })
}
