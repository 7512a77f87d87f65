//! How refusals look on the wire: one status per cause, and when to try again.

use aa_governance::agent::NotRegistered;
use aa_protocol::wire::v1;
use aa_runtime::Fault;
use tonic::{Code, Status, metadata::MetadataValue};

use crate::{
    admission::{Overload, RETRY_AFTER_MS},
    rest::DIFFERENT_VERSIONS,
};

/// The metadata key with the milliseconds to wait before the same request.
const RETRY_AFTER: &str = "retry-after-ms";

/// The status of an overload.
pub(super) fn overload_status(overload: Overload) -> Status {
    with_retry(Status::resource_exhausted(overload.to_string()), RETRY_AFTER_MS)
}

/// The status of an actor's silence.
pub(super) fn fault_status(fault: &Fault) -> Status {
    match fault {
        Fault::Crashed => Status::internal(fault.to_string()),
        Fault::Unreadable(_) => {
            tracing::error!(%fault, "an actor on another node could not be asked");
            Status::internal(DIFFERENT_VERSIONS)
        }
        Fault::BackingOff { retry_after, .. } => {
            let wait = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
            with_retry(Status::unavailable(fault.to_string()), wait.max(1))
        }
        Fault::Congested { .. } => {
            with_retry(Status::resource_exhausted(fault.to_string()), RETRY_AFTER_MS)
        }
        Fault::Gone
        | Fault::NotDurable(_)
        | Fault::ShardAway { .. }
        | Fault::Unreachable { .. }
        | Fault::NotUnderstood { .. }
        | Fault::AnswerNotUnderstood { .. } => {
            with_retry(Status::unavailable(fault.to_string()), RETRY_AFTER_MS)
        }
    }
}

/// The status of an agent that is not registered.
pub(super) fn status_of(unknown: &NotRegistered) -> Status {
    Status::not_found(unknown.to_string())
}

/// The same refusal on a session.
pub(super) fn frame(status: &Status) -> v1::Refusal {
    let wait = status.metadata().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    v1::Refusal {
        code: status.code() as i32,
        message: status.message().to_owned(),
        retry_after_ms: wait.and_then(|wait| wait.parse().ok()).unwrap_or_default(),
    }
}

/// The same status with a hint when to try again.
pub(crate) fn with_retry(mut status: Status, wait_ms: u64) -> Status {
    debug_assert!(matches!(status.code(), Code::ResourceExhausted | Code::Unavailable));
    status.metadata_mut().insert(RETRY_AFTER, MetadataValue::from(wait_ms));
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_hint_reaches_the_session_too() {
        let status = fault_status(&Fault::Gone);
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(frame(&status).retry_after_ms, RETRY_AFTER_MS);
        assert_eq!(frame(&fault_status(&Fault::Crashed)).retry_after_ms, 0);
    }

    #[test]
    fn a_client_learns_whether_what_went_wrong_between_nodes_is_worth_another_try() {
        let (node, why) = ("b".to_owned(), "its lease ended".to_owned());
        let congested = fault_status(&Fault::Congested { node: node.clone() });
        assert_eq!(congested.code(), Code::ResourceExhausted);
        assert_eq!(frame(&congested).retry_after_ms, RETRY_AFTER_MS);
        let unreachable = fault_status(&Fault::Unreachable { node, why });
        assert_eq!(unreachable.code(), Code::Unavailable);
        assert_eq!(frame(&unreachable).retry_after_ms, RETRY_AFTER_MS);
        let newer = Fault::NotUnderstood { node: "b".to_owned(), verb: "check".to_owned() };
        let newer = fault_status(&newer);
        assert_eq!(
            (newer.code(), frame(&newer).retry_after_ms),
            (Code::Unavailable, RETRY_AFTER_MS)
        );
        assert!(newer.message().contains("nothing was done"), "{newer}");
        let unreadable = fault_status(&Fault::Unreadable("invalid type: `hunter2`".to_owned()));
        assert_eq!(unreadable.code(), Code::Internal);
        assert!(unreadable.message().contains("different versions"), "{unreadable}");
        assert!(!unreadable.message().contains("hunter2"), "{unreadable}");
    }
}
