//! The documents of a workspace, indexed so that those which cannot apply cost nothing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use aa_protocol::{Action, AgentFacts, AgentId};
use foldhash::fast::RandomState;

use crate::{
    admission::Admissions,
    facts::ArmedFacts,
    policy::Policy,
    scope::Scope,
    sequences::{SequenceRef, armed_by},
};

/// A document in force and the revision it has in its workspace.
#[derive(Debug)]
pub struct Document {
    /// The compiled policy.
    pub policy: Arc<Policy>,
    /// The revision, where there is a workspace.
    pub revision: Option<u64>,
}

/// An immutable set of documents. Cheap to clone; it is the same whatever order it was built in.
#[derive(Clone, Debug)]
pub struct PolicySet(Arc<Index>);

/// The documents that can apply to one agent. Cheap to clone; built again when the set or the agent's
/// facts change.
#[derive(Clone, Debug)]
pub struct AgentPolicies {
    wide: Arc<Wide>,
    set: PolicySet,
}

/// Two documents of a set have the same name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("two documents are named `{name}`; rename one, so that reasons and revisions stay clear")]
pub struct DuplicatePolicy {
    /// The name.
    pub name: String,
}

type Documents = Vec<Arc<Document>>;

/// The documents of wider scope than `tool:` that cover an agent, and what is kept of decisions over them.
#[derive(Debug, Default)]
struct Wide {
    /// In name order.
    documents: Documents,
    admissions: Admissions,
}

/// The scopes of an agent that have documents.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Covering {
    org: Option<String>,
    team: Option<String>,
}

#[derive(Debug, Default)]
struct Index {
    all: Documents,
    global: Documents,
    orgs: HashMap<String, Documents>,
    teams: HashMap<String, Documents>,
    agents: HashMap<AgentId, Documents>,
    tools: HashMap<String, Documents, RandomState>,
    /// Those of the documents in `tools` that have sequences, in name order.
    sequenced: Documents,
    /// Agents of the same scopes share what is made of them. At most one entry per organisation and team
    /// with documents; locked when an agent takes up the set, never by a decision.
    shared: Mutex<HashMap<Covering, Arc<Wide>>>,
}

/// The documents that apply to one action, in name order.
pub(crate) enum Applicable<'s> {
    Wide(&'s [Arc<Document>]),
    Merged(Vec<&'s Document>),
}

// === impl PolicySet ===

impl PolicySet {
    /// Builds a set.
    ///
    /// # Errors
    /// When two documents have the same name.
    pub fn new(
        documents: impl IntoIterator<Item = (Arc<Policy>, Option<u64>)>,
    ) -> Result<Self, DuplicatePolicy> {
        let mut all: Documents = documents
            .into_iter()
            .map(|(policy, revision)| Arc::new(Document { policy, revision }))
            .collect();
        all.sort_by(|a, b| a.policy.name().cmp(b.policy.name()));
        let mut twins = all.iter().zip(all.iter().skip(1));
        if let Some((twin, _)) = twins.find(|(a, b)| a.policy.name() == b.policy.name()) {
            return Err(DuplicatePolicy { name: twin.policy.name().to_owned() });
        }
        let mut index = Index::default();
        for document in &all {
            let list = match document.policy.scope() {
                Scope::Global => &mut index.global,
                Scope::Org(org) => index.orgs.entry(org.clone()).or_default(),
                Scope::Team(team) => index.teams.entry(team.clone()).or_default(),
                Scope::Agent(id) => index.agents.entry(*id).or_default(),
                Scope::Tool(tool) => index.tools.entry(tool.clone()).or_default(),
            };
            list.push(Arc::clone(document));
            if matches!(document.policy.scope(), Scope::Tool(_))
                && document.policy.sequences.is_some()
            {
                index.sequenced.push(Arc::clone(document));
            }
        }
        index.all = all;
        Ok(Self(Arc::new(index)))
    }

    /// The set without documents: it denies everything.
    pub fn empty() -> Self {
        Self(Arc::default())
    }

    /// Every document, in name order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Document> {
        self.0.all.iter().map(Arc::as_ref)
    }

    /// How many documents there are.
    pub fn len(&self) -> usize {
        self.0.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.all.is_empty()
    }

    /// What can apply to an agent. The cost is the number of those documents, whatever the size of the set.
    pub fn for_agent(&self, agent: &AgentFacts) -> AgentPolicies {
        let index = &self.0;
        if index.agents.contains_key(&agent.id) {
            let wide = Wide { documents: index.covering(agent), ..Wide::default() };
            return AgentPolicies { wide: Arc::new(wide), set: self.clone() };
        }
        let with_documents = |name: &Option<String>, known: &HashMap<String, Documents>| {
            name.as_ref().filter(|name| known.contains_key(*name)).cloned()
        };
        let covering = Covering {
            org: with_documents(&agent.org, &index.orgs),
            team: with_documents(&agent.team, &index.teams),
        };
        let mut shared = index.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let wide = shared.entry(covering).or_insert_with(|| {
            Arc::new(Wide { documents: index.covering(agent), ..Wide::default() })
        });
        AgentPolicies { wide: Arc::clone(wide), set: self.clone() }
    }
}

// === impl Index ===

impl Index {
    fn covering(&self, agent: &AgentFacts) -> Documents {
        let of = |list: Option<&Documents>| list.into_iter().flatten().cloned().collect::<Vec<_>>();
        let mut wide = self.global.clone();
        wide.extend(of(agent.org.as_ref().and_then(|org| self.orgs.get(org))));
        wide.extend(of(agent.team.as_ref().and_then(|team| self.teams.get(team))));
        wide.extend(of(self.agents.get(&agent.id)));
        wide.sort_by(|a, b| a.policy.name().cmp(b.policy.name()));
        wide
    }
}

// === impl AgentPolicies ===

impl AgentPolicies {
    /// The documents of wider scope than `tool:` that cover the agent, in name order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Document> {
        self.wide.documents.iter().map(Arc::as_ref)
    }

    /// The documents that apply to an action. A `tool:` document only restricts, so without one of a
    /// wider scope there is none.
    pub(crate) fn applicable(&self, action: &Action) -> Applicable<'_> {
        let wide = &self.wide.documents;
        let of_tool = match action {
            Action::ToolCall { tool, .. } if !wide.is_empty() && !self.set.0.tools.is_empty() => {
                self.set.0.tools.get(tool)
            }
            _ => None,
        };
        let Some(of_tool) = of_tool else { return Applicable::Wide(wide) };
        let mut merged: Vec<&Document> = wide.iter().chain(of_tool).map(Arc::as_ref).collect();
        merged.sort_by(|a, b| a.policy.name().cmp(b.policy.name()));
        Applicable::Merged(merged)
    }

    /// The sequences that this action arms once the agent has seen it, which only a tool's result does; not
    /// those that are armed already. In name order of the documents. [`decide()`](crate::decide()) tells the same
    /// of a result that it admits: this is for one that the agent has seen whatever was decided.
    ///
    /// A `tool:` document is about calls of its tool, and is armed by results of any.
    pub fn arms(&self, armed: &dyn ArmedFacts, action: &Action) -> Vec<SequenceRef> {
        let (wide, of_tools) = (&self.wide.documents, &self.set.0.sequenced);
        if wide.is_empty() {
            return Vec::new();
        }
        let mut arms = armed_by(wide.iter().chain(of_tools).map(Arc::as_ref), armed, action);
        if !of_tools.is_empty() {
            arms.sort_by(|a, b| a.policy.cmp(&b.policy));
        }
        arms
    }

    pub(crate) fn admissions(&self) -> &Admissions {
        &self.wide.admissions
    }
}

// === impl Applicable ===

impl<'s> Applicable<'s> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Wide(documents) => documents.len(),
            Self::Merged(documents) => documents.len(),
        }
    }

    pub(crate) fn get(&self, index: usize) -> Option<&'s Document> {
        match self {
            Self::Wide(documents) => documents.get(index).map(Arc::as_ref),
            Self::Merged(documents) => documents.get(index).copied(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &'s Document> {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}
