//! What became of a request for approval, from its terms and the answers so far. Pure: who keeps the
//! request asks with the present time, and again at its deadline.

use std::time::Duration;

use aa_protocol::{ApprovalTerms, Reason, ReasonCode, Timestamp};

/// A person's answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovalAnswer {
    /// The role the person answers in.
    pub role: String,
    /// Whether the action may go on.
    pub approved: bool,
    /// When it was given. An answer at or after the deadline does not count.
    pub at: Timestamp,
}

/// Where a request stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Somebody has still to answer; it expires at this time.
    Pending(Timestamp),
    /// Everybody who must approve has.
    Approved,
    /// Somebody refused (`approval_denied`), or nobody decided in time (`approval_expired`).
    Denied(Box<Reason>),
}

/// Settles a request that was made at `asked_at`. One refusal is enough, from whatever role; approval takes
/// every role the terms name, or anybody when they name none.
pub fn settle(
    terms: &ApprovalTerms,
    asked_at: Timestamp,
    answers: &[ApprovalAnswer],
    now: Timestamp,
) -> Settlement {
    let deadline = asked_at.saturating_add(Duration::from_secs(terms.timeout_seconds));
    let mut in_time = answers.iter().filter(|answer| answer.at < deadline);
    if let Some(refusal) = in_time.clone().find(|answer| !answer.approved) {
        let message = format!("the role `{}` refused the request", refusal.role);
        return denied(ReasonCode::ApprovalDenied, message);
    }
    let approved_by = |role: &String| in_time.clone().any(|answer| answer.role == *role);
    let is_approved = match terms.roles.as_slice() {
        [] => in_time.next().is_some(),
        roles => roles.iter().all(approved_by),
    };
    if is_approved {
        return Settlement::Approved;
    }
    if now >= deadline {
        let seconds = terms.timeout_seconds;
        let message = format!("nobody decided on the request within {seconds} seconds");
        return denied(ReasonCode::ApprovalExpired, message);
    }
    Settlement::Pending(deadline)
}

fn denied(code: ReasonCode, message: String) -> Settlement {
    Settlement::Denied(Box::new(Reason::undocumented(code, message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Timestamp = Timestamp::from_micros(1_000_000);

    fn at(seconds: u64) -> Timestamp {
        ASKED.saturating_add(Duration::from_secs(seconds))
    }

    fn terms(roles: &[&str]) -> ApprovalTerms {
        let roles = roles.iter().map(ToString::to_string).collect();
        ApprovalTerms { timeout_seconds: 300, roles }
    }

    fn answer(role: &str, approved: bool, seconds: u64) -> ApprovalAnswer {
        ApprovalAnswer { role: role.to_owned(), approved, at: at(seconds) }
    }

    fn code(settlement: Settlement) -> Option<ReasonCode> {
        match settlement {
            Settlement::Denied(reason) => Some(reason.code),
            Settlement::Pending(_) | Settlement::Approved => None,
        }
    }

    #[test]
    fn a_request_nobody_decides_by_its_deadline_is_denied_as_expired() {
        assert_eq!(settle(&terms(&[]), ASKED, &[], at(299)), Settlement::Pending(at(300)));
        assert_eq!(
            code(settle(&terms(&[]), ASKED, &[], at(300))),
            Some(ReasonCode::ApprovalExpired)
        );
        let late = [answer("anybody", true, 300)];
        assert_eq!(
            code(settle(&terms(&[]), ASKED, &late, at(400))),
            Some(ReasonCode::ApprovalExpired)
        );
    }

    #[test]
    fn every_named_role_must_approve() {
        let terms = terms(&["org-admin", "security-team"]);
        let one = [answer("org-admin", true, 1)];
        assert_eq!(settle(&terms, ASKED, &one, at(2)), Settlement::Pending(at(300)));
        let both = [answer("org-admin", true, 1), answer("security-team", true, 2)];
        assert_eq!(settle(&terms, ASKED, &both, at(2)), Settlement::Approved);
        assert_eq!(settle(&terms, ASKED, &both, at(900)), Settlement::Approved);
    }

    #[test]
    fn one_refusal_denies_whatever_others_say() {
        let answers = [answer("org-admin", true, 1), answer("security-team", false, 2)];
        assert_eq!(
            code(settle(&terms(&["org-admin"]), ASKED, &answers, at(3))),
            Some(ReasonCode::ApprovalDenied)
        );
    }

    #[test]
    fn anybody_may_approve_when_no_role_is_named() {
        let answers = [answer("on-call", true, 1)];
        assert_eq!(settle(&terms(&[]), ASKED, &answers, at(2)), Settlement::Approved);
    }
}
