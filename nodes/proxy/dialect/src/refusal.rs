//! A refusal, in words that the SDK of the provider understands.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use serde_json::{Map, Value, json};

/// Why a request was not passed on, or its answer was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of reason.
    pub code: RefusalCode,
    /// The rule that says so: a document and a field path, such as `starter spec.tools.bash.allow`.
    pub rule: Option<String>,
    /// What was refused and why, for people. It quotes no content.
    pub message: String,
    /// What to do next.
    pub next: String,
    /// The audit entry of the decision.
    pub event_id: Option<String>,
    /// When to ask again.
    pub retry_after: Option<Duration>,
}

/// The kind of reason for a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefusalCode {
    /// A policy says no.
    Denied,
    /// A person has to say yes first.
    ApprovalRequired {
        /// The request for approval.
        approval_id: Option<String>,
        /// How long it waits.
        timeout: Option<Duration>,
    },
    /// It would cost more than is left.
    BudgetExceeded,
    /// A sensitive pattern matched.
    SensitiveData,
    /// Too many calls in the hour: later ones pass.
    RateLimited,
    /// The caller is not known.
    UnknownCaller,
    /// The request could not be read, or is not consistent.
    BadRequest,
    /// The request is larger than is read.
    TooLarge,
    /// Nobody could decide now.
    Unavailable,
    /// The provider could not be reached, or broke off.
    UpstreamFailed,
    /// The provider did not answer in time.
    TimedOut,
}

/// A refusal as an answer of HTTP.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// The status.
    pub status: StatusCode,
    /// Its headers, `content-type` among them; no `content-length`.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Whose error shape is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    OpenAi,
    Anthropic,
    Google,
    Bedrock,
    Mistral,
    Cohere,
    Mcp,
    /// RFC 9457.
    Problem,
}

/// Tells the SDKs of OpenAI and Anthropic whether to try again, whatever the status.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
const AMAZON_ERROR: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// The JSON-RPC error code of refusals: of those left to implementations.
const RPC_REFUSED: i64 = -32_001;

/// A refusal of a request that no dialect is known of, as a problem document (RFC 9457).
pub fn refuse_plain(refusal: &Refusal) -> Refused {
    refuse(Shape::Problem, refusal)
}

/// A refusal in this shape. An MCP request's is told with its id by [`refuse_rpc`].
pub(crate) fn refuse(shape: Shape, refusal: &Refusal) -> Refused {
    let status = refusal.code.status();
    let mut headers = HeaderMap::new();
    let kind = match shape {
        Shape::Problem => "application/problem+json",
        _ => "application/json",
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if matches!(shape, Shape::OpenAi | Shape::Anthropic) && !refusal.code.may_pass_later() {
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    if let Some(after) = refusal.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
    }
    if shape == Shape::Bedrock {
        let kind = HeaderValue::from_static(refusal.code.amazon());
        headers.insert(AMAZON_ERROR, kind);
    }
    Refused { status, headers, body: refusal.body(shape, Value::Null).to_string().into() }
}

/// A refusal of JSON-RPC requests: an error for each id. HTTP calls it a success, as JSON-RPC has it, unless
/// nobody waits for an answer there.
pub(crate) fn refuse_rpc(ids: &[Value], is_batch: bool, refusal: &Refusal) -> Refused {
    let mut refused = refuse(Shape::Mcp, refusal);
    let mut errors: Vec<Value> =
        ids.iter().map(|id| refusal.body(Shape::Mcp, id.clone())).collect();
    if errors.is_empty() {
        return refused;
    }
    refused.status = StatusCode::OK;
    let body = if is_batch { Value::Array(errors) } else { errors.remove(0) };
    refused.body = body.to_string().into();
    refused
}

// === impl Refusal ===

impl Refusal {
    /// The body of the error, with `id` for JSON-RPC.
    pub(crate) fn body(&self, shape: Shape, id: Value) -> Value {
        let code = self.code.as_str();
        let message = self.sentence();
        let status = self.code.status().as_u16();
        let details = self.details();
        match shape {
            Shape::OpenAi => json!({ "error": {
                "message": message,
                "type": self.code.openai(),
                "param": null,
                "code": format!("agent_assembly_{code}"),
                "agent_assembly": details,
            }}),
            Shape::Anthropic => json!({
                "type": "error",
                "error": {
                    "type": self.code.anthropic(),
                    "message": message,
                    "agent_assembly": details,
                },
            }),
            Shape::Google => json!({ "error": {
                "code": status,
                "message": message,
                "status": self.code.google(),
                "details": [{
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": format!("AGENT_ASSEMBLY_{}", code.to_ascii_uppercase()),
                    "domain": "agent-assembly",
                    "metadata": in_words(&details),
                }],
                "agent_assembly": details,
            }}),
            Shape::Bedrock => json!({ "message": message, "agent_assembly": details }),
            Shape::Mistral => json!({
                "object": "error",
                "message": message,
                "type": self.code.openai(),
                "param": null,
                "code": format!("agent_assembly_{code}"),
                "agent_assembly": details,
            }),
            Shape::Cohere => json!({ "message": message, "agent_assembly": details }),
            Shape::Mcp => json!({
                "jsonrpc": "2.0",
                "id": id,
                "error": {
                    "code": RPC_REFUSED,
                    "message": message,
                    "data": { "agent_assembly": details },
                },
            }),
            Shape::Problem => json!({
                "type": "about:blank",
                "title": self.code.title(),
                "status": status,
                "detail": message,
                "agent_assembly": details,
            }),
        }
    }

    /// One sentence for people who see nothing but the message of an error.
    pub(crate) fn sentence(&self) -> String {
        let mut sentence = self.message.clone();
        if let Some(rule) = &self.rule {
            sentence.push_str(&format!(" [{rule}]"));
        }
        if !self.next.is_empty() {
            sentence.push_str(". ");
            sentence.push_str(&self.next);
        }
        sentence
    }

    /// What programs read.
    fn details(&self) -> Value {
        let mut details = Map::new();
        details.insert("code".to_owned(), self.code.as_str().into());
        details.insert("message".to_owned(), self.message.as_str().into());
        details.insert("next".to_owned(), self.next.as_str().into());
        let mut add = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                details.insert(name.to_owned(), value);
            }
        };
        add("rule", self.rule.as_deref().map(Value::from));
        add("event_id", self.event_id.as_deref().map(Value::from));
        add("retry_after_seconds", self.retry_after.map(|after| after.as_secs().max(1).into()));
        if let RefusalCode::ApprovalRequired { approval_id, timeout } = &self.code {
            add("approval_id", approval_id.as_deref().map(Value::from));
            add("approval_timeout_seconds", timeout.map(|timeout| timeout.as_secs().into()));
        }
        Value::Object(details)
    }
}

/// The same with strings for all values, as Google's `ErrorInfo` has them.
fn in_words(details: &Value) -> Value {
    let members = details.as_object().into_iter().flatten();
    let members = members.map(|(name, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        (name.clone(), Value::String(text))
    });
    Value::Object(members.collect())
}

// === impl RefusalCode ===

impl RefusalCode {
    /// The word for it in `agent_assembly.code`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::ApprovalRequired { .. } => "approval_required",
            Self::BudgetExceeded => "budget_exceeded",
            Self::SensitiveData => "sensitive_data",
            Self::RateLimited => "rate_limited",
            Self::UnknownCaller => "unknown_caller",
            Self::BadRequest => "bad_request",
            Self::TooLarge => "too_large",
            Self::Unavailable => "unavailable",
            Self::UpstreamFailed => "upstream_failed",
            Self::TimedOut => "timed_out",
        }
    }

    /// Whether the same request may pass later, so that an SDK may try it again by itself.
    pub const fn may_pass_later(&self) -> bool {
        matches!(
            self,
            Self::RateLimited | Self::Unavailable | Self::UpstreamFailed | Self::TimedOut
        )
    }

    /// The status it has. A final no is 403, which no SDK tries again, a used-up budget too: at 429 all would.
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Denied
            | Self::ApprovalRequired { .. }
            | Self::BudgetExceeded
            | Self::SensitiveData => StatusCode::FORBIDDEN,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::UnknownCaller => StatusCode::UNAUTHORIZED,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamFailed => StatusCode::BAD_GATEWAY,
            Self::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    const fn title(&self) -> &'static str {
        match self {
            Self::Denied => "Denied by policy",
            Self::ApprovalRequired { .. } => "Approval required",
            Self::BudgetExceeded => "Budget exceeded",
            Self::SensitiveData => "Sensitive data",
            Self::RateLimited => "Rate limit reached",
            Self::UnknownCaller => "Unknown caller",
            Self::BadRequest => "Bad request",
            Self::TooLarge => "Request too large",
            Self::Unavailable => "No decision possible now",
            Self::UpstreamFailed => "The upstream failed",
            Self::TimedOut => "The upstream did not answer in time",
        }
    }

    const fn openai(&self) -> &'static str {
        match self {
            Self::Denied | Self::ApprovalRequired { .. } | Self::SensitiveData => {
                "permission_error"
            }
            Self::BudgetExceeded => "insufficient_quota",
            Self::RateLimited => "rate_limit_error",
            Self::UnknownCaller => "authentication_error",
            Self::BadRequest | Self::TooLarge => "invalid_request_error",
            Self::Unavailable | Self::UpstreamFailed | Self::TimedOut => "server_error",
        }
    }

    pub(crate) const fn anthropic(&self) -> &'static str {
        match self {
            Self::Denied
            | Self::ApprovalRequired { .. }
            | Self::BudgetExceeded
            | Self::SensitiveData => "permission_error",
            Self::RateLimited => "rate_limit_error",
            Self::UnknownCaller => "authentication_error",
            Self::BadRequest => "invalid_request_error",
            Self::TooLarge => "request_too_large",
            Self::Unavailable => "overloaded_error",
            Self::UpstreamFailed => "api_error",
            Self::TimedOut => "timeout_error",
        }
    }

    const fn google(&self) -> &'static str {
        match self {
            Self::Denied
            | Self::ApprovalRequired { .. }
            | Self::BudgetExceeded
            | Self::SensitiveData => "PERMISSION_DENIED",
            Self::RateLimited => "RESOURCE_EXHAUSTED",
            Self::UnknownCaller => "UNAUTHENTICATED",
            Self::BadRequest | Self::TooLarge => "INVALID_ARGUMENT",
            Self::Unavailable | Self::UpstreamFailed => "UNAVAILABLE",
            Self::TimedOut => "DEADLINE_EXCEEDED",
        }
    }

    const fn amazon(&self) -> &'static str {
        match self {
            Self::Denied
            | Self::ApprovalRequired { .. }
            | Self::BudgetExceeded
            | Self::SensitiveData
            | Self::UnknownCaller => "AccessDeniedException",
            Self::RateLimited => "ThrottlingException",
            Self::BadRequest | Self::TooLarge => "ValidationException",
            Self::Unavailable | Self::UpstreamFailed => "ServiceUnavailableException",
            Self::TimedOut => "ModelTimeoutException",
        }
    }

    /// The exception that ends an event stream.
    pub(crate) const fn amazon_in_stream(&self) -> &'static str {
        match self {
            Self::RateLimited => "throttlingException",
            Self::Unavailable | Self::UpstreamFailed | Self::TimedOut => {
                "serviceUnavailableException"
            }
            _ => "validationException",
        }
    }
}
