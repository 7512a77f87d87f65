//! The answer to an action.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{money::NanoUsd, time::Timestamp};

/// What may happen with an action. The order is restrictiveness: the most restrictive verdict of all
/// applicable documents is the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It may go on.
    Allow,
    /// A person must approve it first.
    RequireApproval,
    /// It must not happen.
    Deny,
}

/// A decision and everything that led to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// What may happen.
    pub verdict: Verdict,
    /// Why, in the order of the checks; never empty.
    pub reasons: Vec<Reason>,
    /// Who must approve and by when; present exactly when the verdict is `RequireApproval`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalTerms>,
    /// Where sensitive text was found; the text itself is nowhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
}

/// One document's part in a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// What kind of reason it is.
    pub code: ReasonCode,
    /// The document's name; absent for reasons that no document gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The revision the workspace gave the document when it was applied; absent outside a workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// The author's own `metadata.version`, or the flat format's `version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The field that decided, such as `spec.tools.bash.allow`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// 1-based line of the field in the uploaded source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// 1-based column of the field in the uploaded source, in characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// Where the budget stood that refused the action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Box<BudgetStanding>>,
    /// A sentence for people.
    pub message: String,
}

/// Where a budget stood when it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetStanding {
    /// How often it starts anew: `hourly`, `daily`, `weekly` or `monthly`.
    pub window: String,
    /// The most money, when that is limited.
    #[serde(default, rename = "limit_nano_usd", skip_serializing_if = "Option::is_none")]
    pub limit: Option<NanoUsd>,
    /// What calls did cost so far.
    #[serde(rename = "spent_nano_usd")]
    pub spent: NanoUsd,
    /// What is set aside for calls under way.
    #[serde(rename = "reserved_nano_usd")]
    pub reserved: NanoUsd,
    /// The most tokens, when they are limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_tokens: Option<u64>,
    /// Tokens used so far.
    pub spent_tokens: u64,
    /// Tokens set aside for calls under way.
    pub reserved_tokens: u64,
    /// When it starts anew.
    pub resets_at: Timestamp,
}

/// Who may approve an action and how long the request stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalTerms {
    /// Seconds until the request expires as denied.
    pub timeout_seconds: u64,
    /// Roles that must each approve; empty means the team's default routing.
    pub roles: Vec<String>,
}

/// A place where a sensitive pattern matched. It locates the text and never holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The document whose pattern matched.
    pub policy: String,
    /// Index of the pattern in `data.sensitive_patterns`.
    pub pattern: usize,
    /// JSON pointer into the action's JSON form; see [`crate::action::StringSite`].
    pub pointer: String,
    /// Whether the match is in a key of the object at `pointer`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_key: bool,
    /// Byte offset of the match in the string.
    pub offset: usize,
    /// Length of the match in bytes.
    pub length: usize,
}

/// The stable names of all reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasonCode {
    /// A document admitted the action.
    Allowed,
    /// No document of a scope wider than `tool:` applies.
    NoApplicablePolicy,
    /// An operator suspended the agent.
    AgentSuspended,
    /// Outside `schedule.active_hours`.
    OutsideActiveHours,
    /// Listed in `capabilities.deny`.
    CapabilityDenied,
    /// Not listed in `capabilities.allow`.
    CapabilityNotAllowed,
    /// No entry of `network.allowlist` matches the host.
    HostNotAllowed,
    /// `tools.<name>.allow` is false.
    ToolDenied,
    /// A sensitive pattern matched.
    SensitiveData,
    /// `tools.<name>.limit_per_hour` is reached.
    RateLimited,
    /// `requires_approval_if` is true.
    ApprovalRequired,
    /// `requires_approval_if` could not be evaluated, so a person decides.
    ApprovalConditionError,
    /// Nobody decided on the request in time.
    ApprovalExpired,
    /// A person refused the request.
    ApprovalDenied,
    /// The spend would pass the budget.
    BudgetExceeded,
    /// The budget suspended the agent until its window resets.
    BudgetSuspended,
    /// A budget applies, and nobody knows what the model costs.
    PriceUnknown,
    /// An earlier result of the session armed a sequence that denies the call.
    SequenceDenied,
    /// An earlier result of the session armed a sequence that puts the call before a person.
    SequenceRequiresApproval,
}

impl Verdict {
    /// The name in JSON and in audit entries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::RequireApproval => "require_approval",
            Self::Deny => "deny",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Reason {
    /// A reason that no document gives.
    pub fn undocumented(code: ReasonCode, message: impl Into<String>) -> Self {
        Self {
            code,
            policy: None,
            revision: None,
            version: None,
            path: None,
            line: None,
            column: None,
            budget: None,
            message: message.into(),
        }
    }
}

impl ReasonCode {
    /// Every code.
    pub const ALL: [Self; 19] = [
        Self::Allowed,
        Self::NoApplicablePolicy,
        Self::AgentSuspended,
        Self::OutsideActiveHours,
        Self::CapabilityDenied,
        Self::CapabilityNotAllowed,
        Self::HostNotAllowed,
        Self::ToolDenied,
        Self::SensitiveData,
        Self::RateLimited,
        Self::ApprovalRequired,
        Self::ApprovalConditionError,
        Self::ApprovalExpired,
        Self::ApprovalDenied,
        Self::BudgetExceeded,
        Self::BudgetSuspended,
        Self::PriceUnknown,
        Self::SequenceDenied,
        Self::SequenceRequiresApproval,
    ];

    /// The name in JSON, on the wire and in audit entries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::NoApplicablePolicy => "no_applicable_policy",
            Self::AgentSuspended => "agent_suspended",
            Self::OutsideActiveHours => "outside_active_hours",
            Self::CapabilityDenied => "capability_denied",
            Self::CapabilityNotAllowed => "capability_not_allowed",
            Self::HostNotAllowed => "host_not_allowed",
            Self::ToolDenied => "tool_denied",
            Self::SensitiveData => "sensitive_data",
            Self::RateLimited => "rate_limited",
            Self::ApprovalRequired => "approval_required",
            Self::ApprovalConditionError => "approval_condition_error",
            Self::ApprovalExpired => "approval_expired",
            Self::ApprovalDenied => "approval_denied",
            Self::BudgetExceeded => "budget_exceeded",
            Self::BudgetSuspended => "budget_suspended",
            Self::PriceUnknown => "price_unknown",
            Self::SequenceDenied => "sequence_denied",
            Self::SequenceRequiresApproval => "sequence_requires_approval",
        }
    }

    /// Whether it says that a person must approve: an approval is bound to the reasons with such codes.
    pub const fn asks_for_approval(self) -> bool {
        matches!(
            self,
            Self::ApprovalRequired | Self::ApprovalConditionError | Self::SequenceRequiresApproval
        )
    }

    /// The code of a name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == name)
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
