//! A decision on its way to its entry and its caller, shared by all who get the same one.

use std::{ops::Deref, sync::Arc};

use aa_ledger::{ChainHead, Draft, MacKey, PolicyRef, RenderedDecision, seal, seal_rendered};
use aa_policy::{Admission, Judgement, Outcome};
use aa_protocol::Decision;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A decision. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Decided {
    /// An admission that the policy set made once, for every action that its entries admit.
    Shared(Arc<Admission>),
    /// Made for this action, or read back from its entry.
    Own(Arc<Decision>),
}

// === impl Decided ===

impl Deref for Decided {
    type Target = Decision;

    fn deref(&self) -> &Decision {
        match self {
            Self::Shared(admission) => &admission.outcome().decision,
            Self::Own(decision) => decision,
        }
    }
}

impl From<Judgement> for Decided {
    fn from(judgement: Judgement) -> Self {
        match judgement {
            Judgement::Admitted(admission) => Self::Shared(admission),
            Judgement::Restrained(outcome) => Self::Own(Arc::new(outcome.decision)),
        }
    }
}

/// As the decision that it is.
impl Serialize for Decided {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Decided {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Decision::deserialize(deserializer).map(Into::into)
    }
}

impl From<Decision> for Decided {
    fn from(decision: Decision) -> Self {
        Self::Own(Arc::new(decision))
    }
}

/// Seals the entry of a decision. What all entries of an admission have in common is rendered once.
pub(crate) fn seal_judgement(
    draft: &Draft<'_>,
    judgement: &Judgement,
    head: &mut ChainHead,
    key: &MacKey,
    out: &mut Vec<u8>,
) {
    if let Judgement::Admitted(admission) = judgement
        && let Some(rendered) = admission.annex(rendered)
    {
        seal_rendered(draft, rendered, head, key, out);
        return;
    }
    let outcome = judgement.outcome();
    let policies = ledger_refs(outcome);
    let draft = Draft { decision: Some(&outcome.decision), policies: &policies, ..*draft };
    seal(&draft, head, key, out);
}

fn rendered(outcome: &Outcome) -> RenderedDecision {
    RenderedDecision::new(outcome.decision.clone(), ledger_refs(outcome))
}

/// The documents of an outcome as the ledger names them.
fn ledger_refs(outcome: &Outcome) -> Vec<PolicyRef> {
    let applied = outcome.applied.iter();
    applied
        .map(|applied| PolicyRef {
            name: applied.name.to_string(),
            revision: applied.revision.unwrap_or_default(),
        })
        .collect()
}
