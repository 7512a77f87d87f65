//! What a check comes back with.

use aa_client::ClientError;
use aa_protocol::ActionId;
use pyo3::prelude::*;

/// A decision. Reasons are converted only when they are looked at.
#[pyclass(module = "agent_assembly._native", frozen)]
pub(crate) struct Checked {
    checked: aa_client::Checked,
}

/// There is no decision.
#[pyclass(module = "agent_assembly._native", frozen, get_all)]
pub(crate) struct Failure {
    kind: &'static str,
    message: String,
}

/// `(window, limit, spent, reserved, limit_tokens, spent_tokens, reserved_tokens, resets_at)`: money in nano-US-dollars,
/// the time in microseconds since 1970.
type Budget = (String, Option<i64>, i64, i64, Option<u64>, u64, u64, i64);

/// `(code, policy, revision, version, path, line, column, message, budget)`.
type Reason = (
    &'static str,
    Option<String>,
    Option<u64>,
    Option<String>,
    Option<String>,
    Option<u32>,
    Option<u32>,
    String,
    Option<Budget>,
);

// === impl Checked ===

impl Checked {
    pub(crate) fn action_id(&self) -> ActionId {
        self.checked.action_id
    }
}

#[pymethods]
impl Checked {
    #[getter]
    fn verdict(&self) -> &'static str {
        self.checked.decision.verdict.as_str()
    }

    #[getter]
    fn allowed(&self) -> bool {
        self.checked.decision.verdict == aa_protocol::Verdict::Allow
    }

    #[getter]
    fn event_id(&self) -> Option<String> {
        self.checked.event_id.map(|id| id.to_string())
    }

    #[getter]
    fn latency_us(&self) -> u64 {
        self.checked.latency_us
    }

    #[getter]
    fn governed(&self) -> bool {
        self.checked.governed
    }

    #[getter]
    fn approval_id(&self) -> Option<[u8; 16]> {
        self.checked.approval_id.map(aa_protocol::ApprovalId::to_bytes)
    }

    #[getter]
    fn approval(&self) -> Option<(u64, Vec<String>)> {
        let terms = self.checked.decision.approval.as_ref()?;
        Some((terms.timeout_seconds, terms.roles.clone()))
    }

    #[getter]
    fn reasons(&self) -> Vec<Reason> {
        let reasons = self.checked.decision.reasons.iter().cloned();
        reasons
            .map(|reason| {
                (
                    reason.code.as_str(),
                    reason.policy,
                    reason.revision,
                    reason.version,
                    reason.path,
                    reason.line,
                    reason.column,
                    reason.message,
                    reason.budget.map(|budget| {
                        (
                            budget.window,
                            budget.limit.map(|limit| limit.0),
                            budget.spent.0,
                            budget.reserved.0,
                            budget.limit_tokens,
                            budget.spent_tokens,
                            budget.reserved_tokens,
                            budget.resets_at.as_micros(),
                        )
                    }),
                )
            })
            .collect()
    }
}

// === impl Failure ===

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let kind = match &error {
            ClientError::Config(_) => "config",
            ClientError::Unreachable { .. } => "unreachable",
            ClientError::Overloaded { .. } => "overloaded",
            ClientError::Refused { .. } => "refused",
            ClientError::TooLarge { .. } => "too_large",
            ClientError::BacklogFull { .. } => "backlog_full",
            ClientError::NotUnderstood(_) => "not_understood",
            ClientError::Forked { .. } => "forked",
            ClientError::Interrupted => "interrupted",
            ClientError::System(_) => "system",
        };
        Self { kind, message: error.to_string() }
    }
}

#[pymethods]
impl Failure {
    fn __repr__(&self) -> String {
        format!("Failure({}: {})", self.kind, self.message)
    }
}

/// Puts either into Python's hands.
pub(crate) fn into_python(
    py: Python<'_>,
    answer: Result<aa_client::Checked, ClientError>,
) -> PyResult<Py<PyAny>> {
    Ok(match answer {
        Ok(checked) => Py::new(py, Checked { checked })?.into_any(),
        Err(error) => Py::new(py, Failure::from(error))?.into_any(),
    })
}
