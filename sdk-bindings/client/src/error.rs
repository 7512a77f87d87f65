//! Why there is no decision.

use std::time::Duration;

use aa_protocol::wire::WireError;
use tonic::Code;

use crate::{config::ConfigError, gateway_url::GatewayUrls};

/// Why an action was not decided or an event not recorded. In every case the action must not happen.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No gateway answered in time.
    #[error(
        "no answer from {} within {} ms: {problem}; the action was not made. \
         Check that the gateway runs and that AAA_GATEWAY_URL and AAA_CA_FILE are its own",
        gateways.summary(), waited.as_millis()
    )]
    Unreachable {
        /// The gateways' addresses.
        gateways: GatewayUrls,
        /// How long the caller waited.
        waited: Duration,
        /// What the last attempt met.
        problem: String,
    },
    /// The gateway answers, but takes no more work; retries within the caller's time did not help.
    #[error(
        "the gateway has too much in flight and did not take the action within {} ms; the action was \
         not made. Try again later or lower the load",
        waited.as_millis()
    )]
    Overloaded {
        /// How long the caller waited.
        waited: Duration,
    },
    /// The gateway answered that it will not do it.
    #[error("the gateway refused: {message} ({code:?})")]
    Refused {
        /// The gRPC status.
        code: Code,
        /// The gateway's words.
        message: String,
    },
    /// The action does not fit into one message.
    #[error(
        "the action is {bytes} bytes long and at most {limit} can be checked; the action was not made. \
         Send less at once"
    )]
    TooLarge {
        /// The encoded size.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// Actions let through without a gateway fill the backlog, so no more are let through.
    #[error(
        "no gateway can be reached and the backlog of {events} events is full; the action was not made"
    )]
    BacklogFull {
        /// How many events wait.
        events: usize,
    },
    /// The answer names something this version does not know; it is not guessed at.
    #[error("the gateway's answer is not understood: {0}; upgrade this SDK")]
    NotUnderstood(#[from] WireError),
    /// The process was forked: connections and threads stayed with the parent.
    #[error(
        "this client belongs to process {parent}; make a new one in process {child} after the fork"
    )]
    Forked {
        /// The process that made the client.
        parent: u32,
        /// This process.
        child: u32,
    },
    /// The caller stopped waiting.
    #[error("interrupted before the gateway answered; the action was not made")]
    Interrupted,
    /// The operating system gave no threads or no randomness.
    #[error("the client cannot run here: {0}")]
    System(String),
}

// === impl ClientError ===

impl ClientError {
    /// The status of a call that the gateway, or the way to it, failed.
    pub(crate) fn of_status(status: &tonic::Status) -> Self {
        Self::Refused { code: status.code(), message: status.message().to_owned() }
    }
}

/// Whether a call that ended so can end differently, soon or at another gateway, without anyone changing
/// anything.
pub(crate) const fn may_pass(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Cancelled
            | Code::Internal
            | Code::Unknown
            // The nonce expired on the way.
            | Code::FailedPrecondition
    )
}

/// What went wrong, down to the innermost cause: transport errors hide it behind "transport error".
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// A status as a sentence for people.
pub(crate) fn status_problem(status: &tonic::Status) -> String {
    let cause = std::error::Error::source(status).map(innermost);
    match cause {
        Some(cause) if cause != status.message() => cause,
        _ if status.message().is_empty() => format!("{:?}", status.code()),
        _ => status.message().to_owned(),
    }
}
