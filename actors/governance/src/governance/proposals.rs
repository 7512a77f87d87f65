//! From a request for approval to a rule, so that nobody is asked about the same again.

use aa_policy::{CannotPropose, Exemption, exempt};
use aa_protocol::{Action, ApprovalId};

use super::{Governance, GovernanceError, PolicyStatus};
use crate::{
    permission::{Permit, ReadApprovals, ReadPolicies},
    policy_set::PolicyError,
    stored::Damaged,
};

/// A policy that asked, as it could be.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// The policy.
    pub policy: String,
    /// The revision in force, which the proposal is made of.
    pub revision: u64,
    /// What would change.
    pub exemption: Exemption,
}

/// Why no rule is proposed for a request.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NotProposed {
    /// A policy that asked cannot be narrowed by itself.
    #[error("policy `{policy}`: {problem}")]
    Policy {
        /// The policy.
        policy: String,
        /// Why not.
        problem: CannotPropose,
    },
    /// A policy that asked is not in force any more.
    #[error("policy `{0}`, which asked, is not in force any more")]
    NotInForce(String),
    /// Nothing of the request is a condition.
    #[error("no condition asked for approval, so there is none to narrow")]
    NoCondition,
}

/// The field that asks.
const CONDITION: &str = ".requires_approval_if";

impl Governance {
    /// The policies that asked about a request, each narrowed so that calls of exactly these arguments are not asked
    /// about again. Nothing changes: whoever may apply policies applies them, or not.
    ///
    /// # Errors
    /// There is no such request, no rule can be proposed, or the store does not answer.
    pub async fn propose_rules(
        &self,
        permit: &Permit<ReadApprovals>,
        id: ApprovalId,
    ) -> Result<Vec<Proposal>, GovernanceError> {
        let reading: Permit<ReadPolicies> = permit.principal().authorize()?;
        let record = self.approval(permit, id).await?;
        let action: Action = serde_json::from_value(record.action.clone())
            .map_err(|_| Damaged::at(record.id.to_string().as_bytes()))?;
        let mut proposals = Vec::new();
        for reason in &record.reasons {
            let (Some(policy), Some(path)) = (&reason.policy, &reason.path) else { continue };
            if !path.ends_with(CONDITION) {
                continue;
            }
            let read = self.policy(&reading, policy, None).await;
            let (PolicyStatus { header, .. }, source) = match read {
                Err(GovernanceError::Policy(PolicyError::Unknown(_))) => {
                    return Err(NotProposed::NotInForce(policy.clone()).into());
                }
                read => read?,
            };
            let Some(revision) = header.active else {
                return Err(NotProposed::NotInForce(policy.clone()).into());
            };
            let exemption = exempt(&source, path, &action)
                .map_err(|problem| NotProposed::Policy { policy: policy.clone(), problem })?;
            proposals.push(Proposal { policy: policy.clone(), revision, exemption });
        }
        if proposals.is_empty() {
            return Err(NotProposed::NoCondition.into());
        }
        Ok(proposals)
    }
}
