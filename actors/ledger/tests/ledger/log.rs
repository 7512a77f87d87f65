//! A small log, kept the way a node keeps one.

use std::{collections::BTreeMap, convert::Infallible, io::Cursor};

use aa_ledger::{
    ActionSummary, ChainHead, Checkpoint, Draft, Export, ExportWriter, Hash, Keys, Kind, LogKey,
    MacKey, ObservedSummary, PinnedCheckpoint, PolicyRef, Report, Stream, TileId, TileReader,
    TileTree, TreeEdge, Unreadable, seal, verify,
};
use aa_protocol::{
    ActionId, ActionKind, AgentId, Decision, EventId, Reason, ReasonCode, Timestamp, Verdict,
    WorkspaceId,
};
use uuid::Uuid;

pub(crate) const START: i64 = 1_795_380_689_123_456;
pub(crate) const SECOND: i64 = 1_000_000;
pub(crate) const MAC_SECRET: [u8; 32] = [0x5a; 32];
pub(crate) const LOG_SEED: [u8; 32] = [7; 32];

#[derive(Default)]
pub(crate) struct Tiles(BTreeMap<TileId, Vec<u8>>);

pub(crate) struct Log {
    pub(crate) workspace: WorkspaceId,
    pub(crate) mac_key: MacKey,
    pub(crate) log_key: LogKey,
    pub(crate) lines: Vec<Vec<u8>>,
    /// Time of the next entry, in microseconds.
    pub(crate) now: i64,
    heads: BTreeMap<Stream, ChainHead>,
    edge: TreeEdge,
    tiles: Tiles,
}

impl TileReader for Tiles {
    type Error = Infallible;

    fn tile(&self, id: TileId) -> Result<Option<Vec<u8>>, Infallible> {
        Ok(self.0.get(&id).cloned())
    }
}

pub(crate) fn workspace(number: u128) -> WorkspaceId {
    WorkspaceId::from_uuid(Uuid::from_u128(0xa1b2_c3d4_e5f6_7890_abcd_ef12_0000_0000 + number))
}

pub(crate) fn agent(number: u128) -> Stream {
    Stream::Agent(AgentId::from_uuid(Uuid::from_u128(
        0x1111_2222_3333_4444_8555_6666_0000_0000 + number,
    )))
}

pub(crate) fn denial() -> Decision {
    Decision {
        verdict: Verdict::Deny,
        reasons: vec![Reason {
            code: ReasonCode::ToolDenied,
            policy: Some("shell".into()),
            revision: Some(3),
            version: Some("1.0".into()),
            path: Some("spec.tools.bash.allow".into()),
            line: Some(9),
            column: Some(14),
            budget: None,
            message: "the tool `bash` is not allowed".into(),
        }],
        approval: None,
        findings: vec![],
    }
}

impl Log {
    pub(crate) fn new(number: u128) -> Self {
        let workspace = workspace(number);
        Self {
            workspace,
            mac_key: MacKey::new("k1", &MAC_SECRET).unwrap(),
            log_key: LogKey::new(&Checkpoint::origin(workspace), &LOG_SEED).unwrap(),
            lines: Vec::new(),
            now: START,
            heads: BTreeMap::new(),
            edge: TreeEdge::new(),
            tiles: Tiles::default(),
        }
    }

    /// A workspace, one policy and `decisions` decisions of three agents in turn.
    pub(crate) fn with_decisions(decisions: u128) -> Self {
        let mut log = Self::new(0);
        log.append(Stream::Workspace, Kind::Workspace, None);
        log.append(Stream::Policies, Kind::Policy, None);
        log.decide(decisions);
        log
    }

    pub(crate) fn decide(&mut self, decisions: u128) {
        for number in 0..decisions {
            self.append(agent(number % 3), Kind::Decision, Some(&denial()));
        }
    }

    pub(crate) fn append(&mut self, stream: Stream, kind: Kind, decision: Option<&Decision>) {
        let mut action = self.action(ActionKind::ToolCall);
        action.tool = Some("bash".into());
        action.args_bytes = Some(123);
        self.append_action(stream, kind, decision, &action, None);
    }

    /// The result of a model call, with what was seen of it and the span that it is a child of.
    pub(crate) fn observe(&mut self) {
        let mut action = self.action(ActionKind::LlmResult);
        action.observed = Some(Box::new(ObservedSummary {
            latency_us: 9,
            finish_reason: Some("stop".into()),
            ..ObservedSummary::default()
        }));
        self.append_action(agent(0), Kind::Decision, Some(&denial()), &action, Some([0xcd; 8]));
    }

    fn action(&self, kind: ActionKind) -> ActionSummary<'static> {
        let number = self.lines.len() as u128;
        ActionSummary::bare(ActionId::from_bytes(number.to_be_bytes()), kind)
    }

    fn append_action(
        &mut self,
        stream: Stream,
        kind: Kind,
        decision: Option<&Decision>,
        action: &ActionSummary<'_>,
        parent_span: Option<[u8; 8]>,
    ) {
        let number = self.lines.len() as u128;
        let time = Timestamp::from_micros(self.now);
        let event = EventId::from_parts(time.unix_millis(), number);
        let draft = Draft {
            action: decision.map(|_| action),
            decision,
            policies: &[PolicyRef { name: "shell".into(), revision: 3 }],
            latency_us: Some(12),
            trace: Some([0xab; 16]),
            parent_span,
            detail: &[("note", "a \"quoted\" word")],
            ..Draft::new(event, self.workspace, stream, time, kind)
        };
        let mut line = Vec::new();
        let head = self.heads.entry(stream).or_default();
        let hash = seal(&draft, head, &self.mac_key, &mut line);
        self.push(line, hash);
        self.now += SECOND;
    }

    fn push(&mut self, line: Vec<u8>, hash: Hash) {
        for tile in self.edge.append(&[hash]) {
            self.tiles.0.insert(tile.id, tile.bytes);
        }
        self.lines.push(line);
    }

    /// The log that its own owner makes of other lines: a fresh tree, freshly signed.
    pub(crate) fn resigned(&self, lines: Vec<Vec<u8>>) -> Self {
        let mut log = Self::new(0);
        log.now = self.now;
        log.log_key = self.log_key.clone();
        log.workspace = self.workspace;
        for line in lines {
            let hash = Hash::of_leaf(&line);
            log.push(line, hash);
        }
        log
    }

    pub(crate) fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            workspace: self.workspace,
            size: self.edge.size(),
            root: self.edge.root(),
            time: Timestamp::from_micros(self.now),
        }
    }

    pub(crate) fn note(&self) -> String {
        self.checkpoint().sign(&self.log_key)
    }

    pub(crate) fn export(&self) -> Vec<u8> {
        self.export_from(0)
    }

    pub(crate) fn export_from(&self, first: u64) -> Vec<u8> {
        let frontier = TileTree::new(&self.tiles).frontier(first).unwrap();
        let key = self.log_key.verifier();
        let checkpoint = self.checkpoint();
        let mut writer =
            ExportWriter::new(Vec::new(), first, &frontier, key, &checkpoint, &self.note())
                .unwrap();
        for line in &self.lines[first as usize..] {
            writer.entry(line).unwrap();
        }
        writer.finish().unwrap()
    }

    /// A keys file with this log's keys, valid between the times given.
    pub(crate) fn keys(&self, log_key_times: &str, mac_key_times: &str) -> Keys {
        let key = self.log_key.verifier();
        let secret = "5a".repeat(32);
        let id = self.mac_key.id();
        Keys::parse(&format!(
            r#"{{"log_keys":[{{"key":"{key}"{log_key_times}}}],
                "mac_keys":[{{"id":"{id}","secret":"{secret}"{mac_key_times}}}]}}"#
        ))
        .unwrap()
    }
}

/// Verifies exports named `1.jsonl`, `2.jsonl` and so on.
pub(crate) fn check(
    exports: &[&[u8]],
    keys: Option<&Keys>,
    pinned: Option<&str>,
) -> Result<Report, Unreadable> {
    let names: Vec<_> = (1..=exports.len()).map(|number| format!("{number}.jsonl")).collect();
    let mut readers: Vec<_> = exports.iter().map(Cursor::new).collect();
    let mut exports: Vec<_> =
        names.iter().zip(&mut readers).map(|(name, reader)| Export { name, reader }).collect();
    let pinned = pinned.map(|note| PinnedCheckpoint { name: "pinned", note });
    verify(&mut exports, keys, pinned.as_ref())
}

pub(crate) fn lines_of(export: &[u8]) -> Vec<Vec<u8>> {
    export.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}
