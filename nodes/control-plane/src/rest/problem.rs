//! Everything that can go wrong, as problem documents (RFC 9457).

use std::time::Duration;

use aa_governance::{
    Forbidden, GovernanceError,
    approval::NotAnswered,
    approval_record::AnswerError,
    approvers::ApproversError,
    backup::BackupError,
    budget_book::BudgetError,
    governance::ClusterError,
    notifier::AlertError,
    policy_set::PolicyError,
    tenant::{CheckpointFailed, KeyError},
    vault::SecretError,
};
use aa_notify::BookError;
use aa_policy::Diagnostic;
use aa_runtime::Fault;
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A problem document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// What kind of problem it is: `urn:agent-assembly:problem:<name>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong this time, and what to do about it.
    pub detail: String,
    /// The errors of a policy document.
    #[serde(default, skip_serializing_if = "<[DocumentFinding]>::is_empty")]
    #[schema(value_type = Vec<DocumentFinding>)]
    pub errors: Box<[DocumentFinding]>,
    /// The warnings about a policy document.
    #[serde(default, skip_serializing_if = "<[DocumentFinding]>::is_empty")]
    #[schema(value_type = Vec<DocumentFinding>)]
    pub warnings: Box<[DocumentFinding]>,
    /// Whole seconds after which it is worth trying again; sent as `Retry-After`.
    #[serde(skip)]
    pub retry_after: Option<u32>,
}

/// An error or a warning about a policy document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DocumentFinding {
    /// The field, such as `spec.network.allowlist[2]`; empty for the document as a whole.
    pub path: String,
    /// 1-based line.
    pub line: u32,
    /// 1-based column, in characters.
    pub column: u32,
    /// The stable name of the kind of finding.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// The line of the source that is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_line: Option<String>,
    /// What to write instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// The kinds of problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// The request is malformed.
    InvalidRequest,
    /// No valid API key was presented.
    Unauthenticated,
    /// The key's role does not have the operation.
    Forbidden,
    /// There is no such thing.
    NotFound,
    /// The path does not take the method.
    MethodNotAllowed,
    /// The request's body did not arrive in time.
    RequestTimeout,
    /// The present state does not admit the change.
    Conflict,
    /// The body is larger than the operation takes.
    BodyTooLarge,
    /// The body is of a type the operation does not take.
    UnsupportedMediaType,
    /// The policy document has errors.
    InvalidPolicy,
    /// Too many requests from the caller's address failed to authenticate.
    TooManyFailures,
    /// The server failed.
    Internal,
    /// Too much is asked at once.
    Overloaded,
    /// Something the server needs does not answer.
    Unavailable,
}

/// The media type of problem documents.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Before the namespace identifier of every problem type.
const TYPE_PREFIX: &str = "urn:agent-assembly:problem:";

// === impl ProblemKind ===

impl ProblemKind {
    const fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::InvalidRequest => {
                (StatusCode::BAD_REQUEST, "invalid-request", "The request is malformed")
            }
            Self::Unauthenticated => {
                (StatusCode::UNAUTHORIZED, "unauthenticated", "A valid API key is needed")
            }
            Self::Forbidden => {
                (StatusCode::FORBIDDEN, "forbidden", "The key's role does not allow this")
            }
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found", "There is no such thing"),
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "The path does not take this method",
            ),
            Self::RequestTimeout => (
                StatusCode::REQUEST_TIMEOUT,
                "request-timeout",
                "The request did not arrive in time",
            ),
            Self::Conflict => {
                (StatusCode::CONFLICT, "conflict", "The present state does not admit this")
            }
            Self::BodyTooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "The body is too large")
            }
            Self::UnsupportedMediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "The body is of a type this does not take",
            ),
            Self::InvalidPolicy => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid-policy",
                "The policy document has errors",
            ),
            Self::TooManyFailures => (
                StatusCode::TOO_MANY_REQUESTS,
                "too-many-failures",
                "Too many requests failed to authenticate",
            ),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "The server failed"),
            Self::Overloaded => {
                (StatusCode::SERVICE_UNAVAILABLE, "overloaded", "The server is busy")
            }
            Self::Unavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "The server cannot answer now")
            }
        }
    }

    /// The kind that fits a bare status.
    pub const fn of_status(status: StatusCode) -> Self {
        match status.as_u16() {
            401 => Self::Unauthenticated,
            403 => Self::Forbidden,
            404 => Self::NotFound,
            405 => Self::MethodNotAllowed,
            408 => Self::RequestTimeout,
            409 => Self::Conflict,
            413 => Self::BodyTooLarge,
            415 => Self::UnsupportedMediaType,
            429 => Self::TooManyFailures,
            400..500 => Self::InvalidRequest,
            503 => Self::Unavailable,
            _ => Self::Internal,
        }
    }
}

// === impl Problem ===

impl Problem {
    /// A problem of a kind.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        let (status, name, title) = kind.parts();
        Self {
            kind: format!("{TYPE_PREFIX}{name}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Box::default(),
            warnings: Box::default(),
            retry_after: None,
        }
    }

    /// Says when it is worth trying again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The name of its kind, such as `not-found`; the whole type when it is a foreign one.
    pub fn name(&self) -> &str {
        self.kind.strip_prefix(TYPE_PREFIX).unwrap_or(&self.kind)
    }

    /// A failure whose cause is the operator's matter: it goes to the log, not to the caller.
    fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "a request of the operator API failed");
        Self::new(ProblemKind::Internal, "the request failed; the server's log says why")
    }

    fn unavailable(cause: &dyn std::fmt::Display) -> Self {
        tracing::warn!(%cause, "a request of the operator API could not be answered");
        Self::new(ProblemKind::Unavailable, cause.to_string()).retry_after(1)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let content_type = HeaderValue::from_static(PROBLEM_JSON);
        let mut response = (status, [(header::CONTENT_TYPE, content_type)], body).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"agent-assembly\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

impl From<Forbidden> for Problem {
    fn from(error: Forbidden) -> Self {
        Self::new(ProblemKind::Forbidden, error.to_string())
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        match &fault {
            Fault::BackingOff { retry_after, .. } => {
                Self::unavailable(&fault).retry_after(whole_seconds(*retry_after))
            }
            Fault::Congested { .. } => {
                Self::new(ProblemKind::Overloaded, fault.to_string()).retry_after(1)
            }
            Fault::Unreadable(_) => {
                tracing::error!(%fault, "a request of the operator API failed");
                Self::new(ProblemKind::Internal, DIFFERENT_VERSIONS)
            }
            fault if fault.is_retryable() => Self::unavailable(fault),
            fault => Self::internal(fault),
        }
    }
}

/// What is told when nodes do not understand each other; the particulars are for the log.
pub(crate) const DIFFERENT_VERSIONS: &str = "the server's nodes are of different versions and do not \
     understand each other; bring them to one version";

/// A wait in whole seconds, rounded up.
pub(super) fn whole_seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1)
}

impl From<PolicyError> for Problem {
    fn from(error: PolicyError) -> Self {
        let detail = error.to_string();
        match error {
            PolicyError::Invalid { errors, warnings } => Self {
                errors: errors.into_iter().map(Into::into).collect(),
                warnings: warnings.into_iter().map(Into::into).collect(),
                ..Self::new(ProblemKind::InvalidPolicy, detail)
            },
            PolicyError::Unknown(_) | PolicyError::UnknownRevision { .. } => {
                Self::new(ProblemKind::NotFound, detail)
            }
            PolicyError::NoEarlier(_) | PolicyError::TooMany => {
                Self::new(ProblemKind::Conflict, detail)
            }
            PolicyError::Unreadable(_) => Self::unavailable(&detail),
        }
    }
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        let kind = match &error {
            KeyError::Unknown(_) => ProblemKind::NotFound,
            KeyError::NotYours(_) => ProblemKind::Forbidden,
            KeyError::TooMany | KeyError::LastOwner(_) => ProblemKind::Conflict,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<BudgetError> for Problem {
    fn from(error: BudgetError) -> Self {
        let kind = match &error {
            BudgetError::Unknown { .. } => ProblemKind::NotFound,
            BudgetError::TooMany => ProblemKind::Conflict,
            _ => ProblemKind::InvalidRequest,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<NotAnswered> for Problem {
    fn from(error: NotAnswered) -> Self {
        let kind = match &error {
            NotAnswered::Unknown(_) => ProblemKind::NotFound,
            NotAnswered::Refused(AnswerError::Own | AnswerError::NotAsked(_)) => {
                ProblemKind::Forbidden
            }
            NotAnswered::Refused(AnswerError::Decided { .. } | AnswerError::Twice) => {
                ProblemKind::Conflict
            }
        };
        Self::new(kind, error.to_string())
    }
}

impl From<ApproversError> for Problem {
    fn from(error: ApproversError) -> Self {
        let kind = match &error {
            ApproversError::Unknown { .. } | ApproversError::NoWorkspaceChain => {
                ProblemKind::NotFound
            }
            _ => ProblemKind::InvalidRequest,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<AlertError> for Problem {
    fn from(error: AlertError) -> Self {
        let kind = match &error {
            AlertError::NoDestination(_)
            | AlertError::NoDeadLetter(_)
            | AlertError::Book(BookError::Unknown { .. }) => ProblemKind::NotFound,
            AlertError::Book(BookError::InUse { .. } | BookError::Full { .. })
            | AlertError::NotSent(..) => ProblemKind::Conflict,
            AlertError::Book(_)
            | AlertError::Guarded(..)
            | AlertError::Secret(..)
            | AlertError::TooLarge(_) => ProblemKind::InvalidRequest,
            AlertError::Unreadable(_) => return Self::unavailable(&error),
        };
        Self::new(kind, error.to_string())
    }
}

impl From<SecretError> for Problem {
    fn from(error: SecretError) -> Self {
        let kind = match &error {
            SecretError::Unknown(_) => ProblemKind::NotFound,
            SecretError::TooMany | SecretError::TooLarge(_) | SecretError::Empty => {
                ProblemKind::Conflict
            }
            SecretError::Vault(_) | SecretError::HeldBack(_) => return Self::unavailable(&error),
        };
        Self::new(kind, error.to_string())
    }
}

impl From<ClusterError> for Problem {
    fn from(error: ClusterError) -> Self {
        let kind = match &error {
            ClusterError::NoNode(_) | ClusterError::NoShard { .. } => ProblemKind::NotFound,
            ClusterError::Alone | ClusterError::TakesNone { .. } | ClusterError::LastNode(_) => {
                ProblemKind::Conflict
            }
            ClusterError::NoOwner(_) | ClusterError::Contended | ClusterError::NotCommitted(_) => {
                return Self::unavailable(&error);
            }
            ClusterError::Shard(_) => return Self::internal(&error),
        };
        Self::new(kind, error.to_string())
    }
}

impl From<CheckpointFailed> for Problem {
    fn from(error: CheckpointFailed) -> Self {
        Self::unavailable(&error)
    }
}

impl From<GovernanceError> for Problem {
    fn from(error: GovernanceError) -> Self {
        match error {
            GovernanceError::Forbidden(error) => error.into(),
            GovernanceError::Fault(fault) => fault.into(),
            GovernanceError::Store(error) => Self::unavailable(&error),
            GovernanceError::Damaged(error) => Self::internal(&error),
            GovernanceError::NotFound { .. } => Self::new(ProblemKind::NotFound, error.to_string()),
            GovernanceError::Policy(error) => error.into(),
            GovernanceError::Key(error) => error.into(),
            GovernanceError::Budget(error) => error.into(),
            GovernanceError::NotAnswered(error) => error.into(),
            GovernanceError::Approvers(error) => error.into(),
            GovernanceError::Prices(error) => {
                Self::new(ProblemKind::InvalidRequest, error.to_string())
            }
            GovernanceError::NotProposed(error) => {
                Self::new(ProblemKind::Conflict, error.to_string())
            }
            GovernanceError::Alert(error) => error.into(),
            GovernanceError::Secret(error) => error.into(),
            // Only the gateway releases secrets.
            GovernanceError::Release(error) => Self::internal(&error),
            GovernanceError::Checkpoint(error) => error.into(),
            GovernanceError::Cluster(error) => error.into(),
            GovernanceError::Backup(BackupError::Busy) => {
                Self::new(ProblemKind::Overloaded, error.to_string()).retry_after(10)
            }
            GovernanceError::Backup(error) => Self::internal(&error),
        }
    }
}

// === impl DocumentFinding ===

impl From<Diagnostic> for DocumentFinding {
    fn from(diagnostic: Diagnostic) -> Self {
        let Diagnostic { code, path, line, column, message, source_line, help } = diagnostic;
        let code = code.as_str().to_owned();
        Self { path, line, column, code, message, source_line, help }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_learns_whether_what_went_wrong_between_nodes_is_worth_another_try() {
        let (node, why) = ("b".to_owned(), "its lease ended".to_owned());
        let congested = Problem::from(Fault::Congested { node: node.clone() });
        assert_eq!((congested.name(), congested.retry_after), ("overloaded", Some(1)));
        let unreachable = Problem::from(Fault::Unreachable { node, why });
        assert_eq!((unreachable.name(), unreachable.retry_after), ("unavailable", Some(1)));
        let unreadable = Problem::from(Fault::Unreadable("invalid type: `hunter2`".to_owned()));
        assert_eq!((unreadable.name(), unreadable.retry_after), ("internal", None));
        assert_eq!(unreadable.detail, DIFFERENT_VERSIONS);
    }
}
