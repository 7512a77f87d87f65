//! Reading entries back. Integrity is proven elsewhere; this refuses what is not an entry at all.

use std::collections::BTreeMap;

use aa_protocol::{
    ApprovalTerms, EventId, Finding, JsonError, Reason, Timestamp, Verdict, WorkspaceId,
};
use serde::{Deserialize, Deserializer, de::Error as _};

use super::{Entry, EntryError, Kind, PolicyRef, Stream};
use crate::{
    ActionSummary, Hash,
    format::{ENTRY_VERSION, MAX_ENTRY_BYTES},
    hash::read_hex,
};

/// The members as JSON holds them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    v: u64,
    id: EventId,
    workspace: WorkspaceId,
    stream: Stream,
    seq: u64,
    time: Timestamp,
    kind: Kind,
    actor: Option<String>,
    action: Option<ActionSummary<'static>>,
    verdict: Option<Verdict>,
    #[serde(default)]
    reasons: Vec<Reason>,
    approval: Option<ApprovalTerms>,
    #[serde(default)]
    findings: Vec<Finding>,
    #[serde(default)]
    policies: Vec<PolicyRef>,
    latency_us: Option<u64>,
    trace: Option<Trace>,
    parent_span: Option<ParentSpan>,
    #[serde(default)]
    detail: BTreeMap<String, String>,
    #[serde(default)]
    cut: bool,
    prev: Hash,
    mac: String,
}

struct Trace([u8; 16]);

struct ParentSpan([u8; 8]);

// === impl Entry ===

impl Entry {
    /// Reads one line, without its line feed.
    ///
    /// # Errors
    /// The line is too long, not the JSON of an entry, or of another version.
    pub fn parse(line: &[u8]) -> Result<Self, EntryError> {
        if line.len() > MAX_ENTRY_BYTES {
            return Err(EntryError::TooLong { bytes: line.len() });
        }
        let line: Line = serde_json::from_slice(line).map_err(|error| EntryError::Malformed {
            problem: JsonError::from_serde(&error).problem,
            column: error.column(),
        })?;
        if line.v != ENTRY_VERSION {
            return Err(EntryError::Version(line.v));
        }
        let (mac_key, _) = line.mac.split_once(':').ok_or_else(|| EntryError::Malformed {
            problem: "`mac` is not of the form <key id>:<hex>".to_owned(),
            column: 1,
        })?;
        Ok(Self {
            id: line.id,
            workspace: line.workspace,
            stream: line.stream,
            sequence: line.seq,
            time: line.time,
            kind: line.kind,
            actor: line.actor,
            action: line.action,
            verdict: line.verdict,
            reasons: line.reasons,
            approval: line.approval,
            findings: line.findings,
            policies: line.policies,
            latency_us: line.latency_us,
            trace: line.trace.map(|Trace(id)| id),
            parent_span: line.parent_span.map(|ParentSpan(id)| id),
            detail: line.detail,
            cut: line.cut,
            prev: line.prev,
            mac_key: mac_key.to_owned(),
        })
    }
}

// === impl Stream ===

impl<'de> Deserialize<'de> for Stream {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

// === impl Trace ===

impl<'de> Deserialize<'de> for Trace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        read_hex(&text).map(Self).ok_or_else(|| D::Error::custom("`trace` is not 32 hex digits"))
    }
}

// === impl ParentSpan ===

impl<'de> Deserialize<'de> for ParentSpan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let span = read_hex(&text).map(Self);
        span.ok_or_else(|| D::Error::custom("`parent_span` is not 16 hex digits"))
    }
}
