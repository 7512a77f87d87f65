//! A small audit log and its exports, made the way a node makes them.

use std::{collections::BTreeMap, convert::Infallible};

use aa_ledger::{
    ActionSummary, ChainHead, Checkpoint, Draft, ExportWriter, Kind, LogKey, MacKey, PolicyRef,
    Stream, TileId, TileReader, TileTree, TreeEdge, seal,
};
use aa_protocol::{
    ActionId, ActionKind, AgentId, Decision, EventId, Reason, ReasonCode, Timestamp, Verdict,
    WorkspaceId,
};
use uuid::Uuid;

const START: i64 = 1_795_380_689_123_456;
const SECOND: i64 = 1_000_000;
const MAC_SECRET: [u8; 32] = [0x5a; 32];
const LOG_SEED: [u8; 32] = [7; 32];

/// The log of one workspace.
pub(super) struct SampleLog {
    workspace: WorkspaceId,
    mac_key: MacKey,
    log_key: LogKey,
    lines: Vec<Vec<u8>>,
    heads: BTreeMap<Stream, ChainHead>,
    edge: TreeEdge,
    tiles: Tiles,
}

#[derive(Default)]
struct Tiles(BTreeMap<TileId, Vec<u8>>);

impl TileReader for Tiles {
    type Error = Infallible;

    fn tile(&self, id: TileId) -> Result<Option<Vec<u8>>, Infallible> {
        Ok(self.0.get(&id).cloned())
    }
}

// === impl SampleLog ===

impl SampleLog {
    /// A workspace, one policy, and decisions of three agents in turn.
    pub(super) fn new(workspace: u128, decisions: u128) -> Self {
        let workspace = WorkspaceId::from_uuid(Uuid::from_u128(workspace));
        let origin = Checkpoint::origin(workspace);
        let mut log = Self {
            workspace,
            mac_key: MacKey::new("k1", &MAC_SECRET).expect("the MAC key is long enough"),
            log_key: LogKey::new(&origin, &LOG_SEED).expect("an origin is a key name"),
            lines: Vec::new(),
            heads: BTreeMap::new(),
            edge: TreeEdge::new(),
            tiles: Tiles::default(),
        };
        log.append(Stream::Workspace, Kind::Workspace, None);
        log.append(Stream::Policies, Kind::Policy, None);
        for number in 0..decisions {
            let agent = AgentId::from_uuid(Uuid::from_u128(1 + number % 3));
            log.append(Stream::Agent(agent), Kind::Decision, Some(&denial()));
        }
        log
    }

    fn append(&mut self, stream: Stream, kind: Kind, decision: Option<&Decision>) {
        let number = self.lines.len() as u128;
        let id = ActionId::from_bytes(number.to_be_bytes());
        let mut action = ActionSummary::bare(id, ActionKind::ToolCall);
        action.tool = Some("bash".into());
        let time = Timestamp::from_micros(START + SECOND * number as i64);
        let event = EventId::from_parts(time.unix_millis(), number);
        let draft = Draft {
            action: decision.map(|_| &action),
            decision,
            policies: &[PolicyRef { name: "shell".into(), revision: 3 }],
            latency_us: Some(12),
            trace: Some([0xab; 16]),
            detail: &[("note", "a \"quoted\" word")],
            ..Draft::new(event, self.workspace, stream, time, kind)
        };
        let mut line = Vec::new();
        let head = self.heads.entry(stream).or_default();
        let hash = seal(&draft, head, &self.mac_key, &mut line);
        for tile in self.edge.append(&[hash]) {
            self.tiles.0.insert(tile.id, tile.bytes);
        }
        self.lines.push(line);
    }

    /// The signed checkpoint of the whole log.
    pub(super) fn note(&self) -> String {
        self.checkpoint().sign(&self.log_key)
    }

    /// The export from a leaf to the end.
    pub(super) fn export(&self, first: u64) -> Vec<u8> {
        let frontier = TileTree::new(&self.tiles).frontier(first).expect("every tile is there");
        let (key, checkpoint) = (self.log_key.verifier(), self.checkpoint());
        let writer =
            ExportWriter::new(Vec::new(), first, &frontier, key, &checkpoint, &self.note());
        let mut writer = writer.expect("the frontier fits");
        for line in self.lines.iter().skip(first as usize) {
            writer.entry(line).expect("the line is an entry of this log");
        }
        writer.finish().expect("every entry was written")
    }

    /// The keys file of an auditor who may authenticate entries.
    pub(super) fn keys_file(&self) -> String {
        let key = self.log_key.verifier();
        let secret = "5a".repeat(MAC_SECRET.len());
        format!(
            r#"{{"log_keys":[{{"key":"{key}"}}],"mac_keys":[{{"id":"k1","secret":"{secret}"}}]}}"#
        )
    }

    fn checkpoint(&self) -> Checkpoint {
        let now = START + SECOND * self.lines.len() as i64;
        Checkpoint {
            workspace: self.workspace,
            size: self.edge.size(),
            root: self.edge.root(),
            time: Timestamp::from_micros(now),
        }
    }
}

fn denial() -> Decision {
    let reason = Reason {
        policy: Some("shell".into()),
        path: Some("spec.tools.bash.allow".into()),
        line: Some(9),
        ..Reason::undocumented(ReasonCode::ToolDenied, "the tool `bash` is not allowed")
    };
    Decision { verdict: Verdict::Deny, reasons: vec![reason], approval: None, findings: Vec::new() }
}
