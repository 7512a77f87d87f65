//! An audit log as a gateway writes it, made from numbers so that every run has the same bytes.

use std::io::Cursor;

use aa_ledger::{
    ActionSummary, ChainHead, Checkpoint, Draft, Export, ExportWriter, Keys, Kind, LogKey, MacKey,
    PolicyRef, RenderedDecision, Stream, TreeEdge, seal, verify,
};
use aa_protocol::{
    Action, ActionId, AgentId, Decision, EventId, Reason, ReasonCode, Timestamp, Verdict,
    WorkspaceId,
};
use serde_json::json;

use crate::Error;

/// What the entries of the log are drafted from.
pub struct Drafts {
    workspace: WorkspaceId,
    streams: Vec<Stream>,
    /// What was decided on.
    pub action: Action,
    decision: Decision,
    policies: Vec<PolicyRef>,
    /// The key of the MACs.
    pub mac_key: MacKey,
}

/// A whole log.
pub struct SampleLog {
    /// Its entries, without line feeds, in leaf order.
    pub lines: Vec<Vec<u8>>,
    checkpoint: Checkpoint,
    log_key: LogKey,
    note: String,
    /// The keys file with the MAC key's secret.
    pub keys: Keys,
}

/// 2026-11-23, in microseconds since 1970.
const START: i64 = 1_795_392_000_000_000;
const MAC_SECRET: [u8; 32] = [0x5a; 32];
const AGENTS: u32 = 64;

// === impl Drafts ===

impl Drafts {
    /// Decisions of one workspace's agents.
    ///
    /// # Errors
    /// Never, as long as the formats of keys and ids stay.
    pub fn new() -> Result<Self, Error> {
        let workspace: WorkspaceId = "ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890".parse()?;
        let agent = |number: u32| AgentId::of_name(workspace, &format!("agent-{number}"));
        let action = json!({
            "kind": "tool_call", "tool": "search_orders",
            "args": {"customer": "c-20817", "status": "open", "limit": 50, "note": "due \"soon\""},
        });
        Ok(Self {
            workspace,
            streams: (0..AGENTS).map(|number| Stream::Agent(agent(number))).collect(),
            action: serde_json::from_value(action)?,
            decision: Decision {
                verdict: Verdict::Allow,
                reasons: vec![Reason {
                    code: ReasonCode::Allowed,
                    policy: Some("support-agents".to_owned()),
                    revision: Some(3),
                    version: Some("1.0.0".to_owned()),
                    path: Some("spec.tools.search_orders".to_owned()),
                    line: Some(14),
                    column: Some(7),
                    budget: None,
                    message: "the tool `search_orders` is allowed".to_owned(),
                }],
                approval: None,
                findings: Vec::new(),
            },
            policies: vec![
                PolicyRef { name: "organisation".to_owned(), revision: 12 },
                PolicyRef { name: "support-agents".to_owned(), revision: 3 },
            ],
            mac_key: MacKey::new("k1", &MAC_SECRET)?,
        })
    }

    /// The summary of the action of this number.
    pub fn summary(&self, number: u64) -> ActionSummary<'_> {
        let id = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        ActionSummary::of(&self.action, ActionId::from_bytes(id.to_be_bytes()), &[])
    }

    /// The draft of this number; numbers that follow each other are of different agents.
    pub fn draft<'d>(&'d self, number: u64, action: &'d ActionSummary<'d>) -> Draft<'d> {
        let time = Timestamp::from_micros(START + number as i64 * 37);
        let random = u128::from(number) * 0x0001_2345_6789_abcd;
        let id = EventId::from_parts(time.unix_millis(), random);
        let stream = self.streams[self.stream(number)];
        Draft {
            action: Some(action),
            decision: Some(&self.decision),
            policies: &self.policies,
            latency_us: Some(12),
            trace: Some(action.id.to_bytes()),
            ..Draft::new(id, self.workspace, stream, time, Kind::Decision)
        }
    }

    /// The decision and its documents, rendered once.
    pub fn rendered(&self) -> RenderedDecision {
        RenderedDecision::new(self.decision.clone(), self.policies.clone())
    }

    /// The chain heads of all streams, before the first entry.
    pub fn heads(&self) -> Vec<ChainHead> {
        vec![ChainHead::default(); self.streams.len()]
    }

    /// Which of the heads the draft of this number goes to.
    pub fn stream(&self, number: u64) -> usize {
        (number % u64::from(AGENTS)) as usize
    }
}

// === impl SampleLog ===

impl SampleLog {
    /// A log of so many decisions, sealed and signed.
    ///
    /// # Errors
    /// Never, as long as the formats of keys and ids stay.
    pub fn new(drafts: &Drafts, entries: u64) -> Result<Self, Error> {
        let mut heads = drafts.heads();
        let mut edge = TreeEdge::new();
        let mut lines = Vec::with_capacity(entries as usize);
        for number in 0..entries {
            let summary = drafts.summary(number);
            let draft = drafts.draft(number, &summary);
            let mut line = Vec::with_capacity(1_024);
            let head = &mut heads[drafts.stream(number)];
            edge.append(&[seal(&draft, head, &drafts.mac_key, &mut line)]);
            lines.push(line);
        }
        let workspace = drafts.workspace;
        let time = Timestamp::from_micros(START + entries as i64 * 37);
        let checkpoint = Checkpoint { workspace, size: entries, root: edge.root(), time };
        let log_key = LogKey::new(&Checkpoint::origin(workspace), &[7; 32])?;
        let secret: String = MAC_SECRET.iter().map(|byte| format!("{byte:02x}")).collect();
        let keys = json!({
            "log_keys": [{"key": log_key.verifier().to_string()}],
            "mac_keys": [{"id": drafts.mac_key.id(), "secret": secret}],
        });
        let note = checkpoint.sign(&log_key);
        Ok(Self { lines, checkpoint, log_key, note, keys: Keys::parse(&keys.to_string())? })
    }

    /// Writes the export of the whole log to the end of `out`.
    ///
    /// # Errors
    /// Never, as long as the log is whole.
    pub fn export(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        let Self { lines, checkpoint, log_key, note, .. } = self;
        let mut writer = ExportWriter::new(out, 0, &[], log_key.verifier(), checkpoint, note)?;
        for line in lines {
            writer.entry(line)?;
        }
        writer.finish()?;
        Ok(())
    }
}

/// Proves an export in memory.
///
/// # Errors
/// It is not intact.
pub fn prove(export: &[u8], keys: Option<&Keys>) -> Result<(), Error> {
    let mut reader = Cursor::new(export);
    let report = verify(&mut [Export { name: "export", reader: &mut reader }], keys, None)?;
    if report.intact { Ok(()) } else { Err(report.to_string().into()) }
}
