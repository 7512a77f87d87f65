//! Asks the gateway, and puts its "no" into words that a program and its author can act on.

use std::time::{Duration, Instant};

use aa_client::{Approval, Checked, ClientError, Options};
use aa_dialect::{Refusal, RefusalCode};
use aa_protocol::{
    Action, Decision, Reason, ReasonCode, Verdict,
    wire::v1::{self, action::Kind},
};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::{agents::Governed, trace::Trace};

/// How long people are waited for before a request is refused for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience {
    pub(crate) approval: Duration,
}

/// Has an action decided. Only an allowed one comes back.
pub(crate) async fn decide(
    governed: &Governed,
    action: &Action,
    trace: Option<Trace>,
    patience: Patience,
) -> Result<Checked, Box<Refusal>> {
    let kind = Kind::from(action);
    let digest = digest(&kind);
    let asked_before = governed.asked.lock().find(&digest, Instant::now());
    let mut options = Options {
        trace_id: trace.map(|trace| trace.id),
        parent_span: trace.map(|trace| trace.parent),
        approval: asked_before.map(|id| Approval { id, wait: patience.approval }),
        ..Options::default()
    };
    let mut checked = governed
        .agent
        .check_with(kind.clone(), options.clone())
        .await
        .map_err(|error| unavailable(&error))?;
    if asked_before.is_none()
        && let Some(id) = checked.approval_id
    {
        governed.asked.lock().remember(digest, id, Instant::now());
        if patience.approval > Duration::ZERO {
            options.approval = Some(Approval { id, wait: patience.approval });
            checked = governed
                .agent
                .check_with(kind, options)
                .await
                .map_err(|error| unavailable(&error))?;
        }
    }
    if checked.decision.verdict != Verdict::RequireApproval {
        governed.asked.lock().forget(&digest);
    }
    match checked.decision.verdict {
        Verdict::Allow => Ok(checked),
        Verdict::RequireApproval | Verdict::Deny => Err(refusal(&checked)),
    }
}

/// What an approval is bound to: the very same action.
fn digest(kind: &Kind) -> [u8; 32] {
    let action = v1::Action { kind: Some(kind.clone()), ..v1::Action::default() };
    Sha256::digest(action.encode_to_vec()).into()
}

/// Why there was no decision.
pub(crate) fn unavailable(error: &ClientError) -> Box<Refusal> {
    let (code, next) = match error {
        ClientError::TooLarge { .. } => {
            (RefusalCode::TooLarge, "send less at once: shorten the prompt or the arguments")
        }
        ClientError::Overloaded { .. } => {
            (RefusalCode::Unavailable, "try again in a moment, with growing pauses")
        }
        ClientError::Refused { .. } => (
            RefusalCode::Denied,
            "have the proxy's operator look at its key and at the agent's registration",
        ),
        _ => (
            RefusalCode::Unavailable,
            "try again; without a decision nothing goes out. The proxy's operator sees why in its log and in /metrics",
        ),
    };
    let retry_after = (code == RefusalCode::Unavailable).then_some(Duration::from_secs(1));
    Box::new(Refusal {
        code,
        rule: None,
        message: error.to_string(),
        next: next.to_owned(),
        event_id: None,
        retry_after,
    })
}

fn refusal(checked: &Checked) -> Box<Refusal> {
    let reason = deciding(&checked.decision);
    let code = match reason.map(|reason| reason.code) {
        _ if checked.decision.verdict == Verdict::RequireApproval => {
            RefusalCode::ApprovalRequired {
                approval_id: checked.approval_id.map(|id| id.to_string()),
                timeout: checked
                    .decision
                    .approval
                    .as_ref()
                    .map(|terms| Duration::from_secs(terms.timeout_seconds)),
            }
        }
        Some(ReasonCode::SensitiveData) => RefusalCode::SensitiveData,
        Some(ReasonCode::RateLimited) => RefusalCode::RateLimited,
        Some(ReasonCode::BudgetExceeded | ReasonCode::BudgetSuspended) => {
            RefusalCode::BudgetExceeded
        }
        _ => RefusalCode::Denied,
    };
    Box::new(Refusal {
        code,
        rule: reason.and_then(rule),
        message: reason.map_or_else(
            || format!("the gateway's verdict is {}", checked.decision.verdict),
            |reason| reason.message.clone(),
        ),
        next: next_step(checked, reason),
        event_id: checked.event_id.map(|id| id.to_string()),
        retry_after: None,
    })
}

/// The reason that made the verdict what it is: the first that does not speak for the action.
fn deciding(decision: &Decision) -> Option<&Reason> {
    let asks = decision.verdict == Verdict::RequireApproval;
    decision
        .reasons
        .iter()
        .find(|reason| {
            reason.code != ReasonCode::Allowed && reason.code.asks_for_approval() == asks
        })
        .or_else(|| decision.reasons.iter().find(|reason| reason.code != ReasonCode::Allowed))
}

/// The rule, as people find it: `starter@3 spec.network.allowlist`.
fn rule(reason: &Reason) -> Option<String> {
    let policy = reason.policy.as_deref()?;
    let revision = reason.revision.map(|revision| format!("@{revision}")).unwrap_or_default();
    let path = reason.path.as_deref().map(|path| format!(" {path}")).unwrap_or_default();
    Some(format!("{policy}{revision}{path}"))
}

fn next_step(checked: &Checked, reason: Option<&Reason>) -> String {
    if let Some(id) = checked.approval_id {
        return format!(
            "a person has to decide: `aasm approval approve {id}`. Then send the very same request again"
        );
    }
    let step = match reason.map(|reason| reason.code) {
        Some(ReasonCode::AgentSuspended) => {
            "stop; an operator suspended this agent and can resume it with `aasm agent resume`"
        }
        Some(ReasonCode::OutsideActiveHours) => "try again within the active hours of the policy",
        Some(ReasonCode::RateLimited) => "wait; the limit counts the last 60 minutes",
        Some(ReasonCode::BudgetExceeded | ReasonCode::BudgetSuspended) => {
            "wait until the budget's window starts anew, or have its owner raise it"
        }
        Some(ReasonCode::SensitiveData) => "take the sensitive text out of the request",
        Some(ReasonCode::PriceUnknown) => {
            "use a model whose price is known, or have an operator set one with `aasm price set`"
        }
        Some(ReasonCode::HostNotAllowed) => {
            "use an allowed host, or ask the policy's owner to add this one to spec.network.allowlist"
        }
        _ => "do not try the same again; ask the policy's owner if it should be allowed",
    };
    step.to_owned()
}
