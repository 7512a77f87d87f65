//! Falsehoods that no run has shown, made by hand: each is called by its name.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    io::Cursor,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aa_chaos_tests::invariants::{
    PolicySources, Replay, Replayed, Tenant, Violation, check_export, check_tenancy, entries,
    shard_states,
};
use aa_ledger::{
    ActionSummary, ChainHead, Checkpoint, Draft, ExportWriter, Kind, LogKey, MacKey, PolicyRef,
    Stream, TreeEdge, seal,
};
use aa_protocol::{
    Action, ActionId, ActionKind, AgentId, Decision, EventId, Timestamp, Verdict, WorkspaceId,
};
use aa_runtime::{Node, NodeOptions, ShardId, SystemClock, SystemEntropy, journal::log_prefix};
use aa_store::{MemoryStore, Store};
use axum::{
    Router,
    http::{HeaderMap, Method, StatusCode, Uri, header},
};
use bytes::Bytes;
use sha2::Digest;
use uuid::Uuid;

// --- logs

/// A log, entry by entry; what it says need not be true, but it is sealed like any other.
struct HandMade {
    lines: Vec<Vec<u8>>,
    heads: BTreeMap<Stream, ChainHead>,
    edge: TreeEdge,
}

const RULES: &str = "scope: global\ntools: {bash: {allow: false}}";

fn workspace() -> WorkspaceId {
    WorkspaceId::from_uuid(Uuid::from_u128(7))
}

fn agent() -> Stream {
    Stream::Agent(AgentId::from_uuid(Uuid::from_u128(1)))
}

impl HandMade {
    fn new() -> Self {
        Self { lines: Vec::new(), heads: BTreeMap::new(), edge: TreeEdge::new() }
    }

    /// An agent registers, a policy comes into force.
    fn begun() -> Self {
        Self::new().registered().applied(1)
    }

    fn registered(self) -> Self {
        self.with(agent(), Kind::Registration, |draft, seal| {
            seal(Draft { detail: &[("governance_level", "L0"), ("name", "a")], ..draft });
        })
    }

    fn applied(self, revision: u64) -> Self {
        let digest: String =
            sha2::Sha256::digest(RULES).iter().map(|byte| format!("{byte:02x}")).collect();
        self.with(Stream::Policies, Kind::Policy, |draft, seal| {
            let revision = revision.to_string();
            let detail = [
                ("change", "applied"),
                ("name", "rules"),
                ("revision", revision.as_str()),
                ("sha256", digest.as_str()),
            ];
            seal(Draft { detail: &detail, ..draft });
        })
    }

    /// A call of a harmless tool is allowed by a revision of the rules.
    fn decided(self, action: u8, revision: u64) -> Self {
        self.with(agent(), Kind::Decision, |draft, seal| {
            let id = ActionId::from_bytes([action; 16]);
            let mut action = ActionSummary::bare(id, ActionKind::ToolCall);
            action.tool = Some("web_search".into());
            let decision = Decision {
                verdict: Verdict::Allow,
                reasons: Vec::new(),
                approval: None,
                findings: Vec::new(),
            };
            let policies = [PolicyRef { name: "rules".into(), revision }];
            seal(Draft {
                action: Some(&action),
                decision: Some(&decision),
                policies: &policies,
                ..draft
            });
        })
    }

    fn with(
        mut self,
        stream: Stream,
        kind: Kind,
        fill: impl FnOnce(Draft<'_>, &mut dyn FnMut(Draft<'_>)),
    ) -> Self {
        let number = self.lines.len() as u64;
        let time = Timestamp::from_micros(1_795_380_689_000_000 + 60_000_000 * number as i64);
        let id = EventId::from_parts(time.unix_millis(), u128::from(number));
        let draft = Draft::new(id, workspace(), stream, time, kind);
        let key = MacKey::new("k1", &[0x5a; 32]).unwrap();
        let head = self.heads.entry(stream).or_default();
        let mut line = Vec::new();
        let mut hash = None;
        fill(draft, &mut |draft: Draft<'_>| hash = Some(seal(&draft, head, &key, &mut line)));
        self.edge.append(&[hash.expect("an entry is sealed")]);
        self.lines.push(line);
        self
    }

    fn export(&self) -> Vec<u8> {
        let key = LogKey::new(&Checkpoint::origin(workspace()), &[7; 32]).unwrap();
        let checkpoint = Checkpoint {
            workspace: workspace(),
            size: self.edge.size(),
            root: self.edge.root(),
            time: Timestamp::from_micros(1_895_380_689_000_000),
        };
        let note = checkpoint.sign(&key);
        let mut writer =
            ExportWriter::new(Vec::new(), 0, &[], key.verifier(), &checkpoint, &note).unwrap();
        self.lines.iter().for_each(|line| writer.entry(line).unwrap());
        writer.finish().unwrap()
    }

    fn replayed(&self) -> Result<Replayed, Violation> {
        let sources: PolicySources = [1, 2]
            .map(|revision| (("rules".to_owned(), revision), RULES.as_bytes().to_vec()))
            .into();
        let export = self.export();
        let asked: Action =
            serde_json::from_str(r#"{"kind":"tool_call","tool":"web_search"}"#).unwrap();
        let action_of = |_: &ActionSummary<'_>| Some(asked.clone());
        let mut replay =
            Replay::new(Cursor::new(&export), &sources, action_of, Duration::from_secs(1))?;
        for entry in entries(Cursor::new(&export)) {
            replay.take(&entry?)?;
        }
        Ok(replay.replayed())
    }
}

#[test]
fn an_action_that_is_recorded_twice_is_found() {
    let sound = HandMade::begun().decided(1, 1).decided(2, 1);
    assert_eq!(check_export(&sound.export(), &[]).unwrap().decisions, 2);
    let twice = check_export(&sound.decided(1, 1).export(), &[]).unwrap_err();
    let Violation::RecordedTwice { action, first, second } = twice else { panic!("{twice}") };
    assert_eq!(action, ActionId::from_bytes([1; 16]));
    assert!(first < second);
}

#[test]
fn an_export_of_which_a_byte_was_changed_is_not_intact() {
    let sound = HandMade::begun().decided(1, 1).export();
    let text = String::from_utf8(sound).unwrap();
    let changed = text.replacen("web_search", "web_saerch", 1);
    assert_ne!(text, changed);
    let found = check_export(changed.as_bytes(), &[]).unwrap_err();
    assert!(matches!(found, Violation::NotIntact(_)), "{found}");
    // A line that is missing, and two that changed places.
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    let without = [&lines[..2], &lines[3..]].concat().concat();
    let swapped = [&lines[..1], &[lines[2], lines[1]], &lines[3..]].concat().concat();
    for changed in [without, swapped] {
        let found = check_export(changed.as_bytes(), &[]).unwrap_err();
        assert!(matches!(found, Violation::NotIntact(_)), "{found}");
    }
}

#[test]
fn a_line_that_only_begins_like_an_entry_is_none() {
    let sound = HandMade::begun().export();
    assert_eq!(entries(Cursor::new(&sound)).filter(Result::is_ok).count(), 2);
    let mut text = sound;
    text.extend_from_slice(b"{\"v\":1,\"id\":\"and nothing else\"}\n");
    let found = entries(Cursor::new(&text)).last().unwrap().unwrap_err();
    assert!(matches!(found, Violation::NoEntry { line: 5, .. }), "{found}");
}

#[test]
fn a_decision_by_other_documents_than_those_in_force_is_found() {
    let sound = HandMade::begun().decided(1, 1).applied(2).decided(2, 2);
    assert_eq!(sound.replayed().unwrap().again, 2);
    let stale = HandMade::begun().decided(1, 1).applied(2).decided(2, 1).replayed().unwrap_err();
    let Violation::NotInForce { recorded, due, .. } = stale else { panic!("{stale}") };
    assert_eq!((recorded.as_str(), due.as_str()), ("rules@1", "rules@2"));
    let early = HandMade::begun().decided(1, 2).applied(2).replayed().unwrap_err();
    assert!(matches!(early, Violation::NotInForce { .. }), "{early}");
}

#[test]
fn a_decision_for_an_agent_that_never_registered_is_found() {
    let found = HandMade::new().applied(1).decided(1, 1).replayed().unwrap_err();
    assert!(matches!(found, Violation::Unregistered { .. }), "{found}");
    let late = HandMade::new().applied(1).decided(1, 1).registered().replayed().unwrap_err();
    assert!(matches!(late, Violation::Unregistered { .. }), "{late}");
}

// --- stores

#[tokio::test]
async fn a_position_that_a_shards_log_lacks_is_found() {
    let store = Arc::new(MemoryStore::new());
    let options = NodeOptions { shards: 1, ..NodeOptions::embedded() };
    let node = Node::start(
        Arc::clone(&store) as Arc<dyn Store>,
        Arc::new(SystemClock),
        Arc::new(SystemEntropy),
        options,
    );
    node.await.unwrap().stop().await;
    let put = async |position: u64| {
        let prefix = log_prefix(workspace(), ShardId(0));
        let key = [prefix.as_slice(), &position.to_be_bytes()].concat();
        let mut txn = store.begin().await.unwrap();
        txn.put(Bytes::from(key), Bytes::from_static(b"an entry"));
        txn.commit().await.unwrap();
    };
    for position in [0, 1, 2] {
        put(position).await;
    }
    let states = shard_states(&*store, workspace()).await.unwrap().unwrap();
    assert_eq!(states.iter().map(|state| state.end).collect::<Vec<_>>(), [3]);
    put(4).await;
    let found = shard_states(&*store, workspace()).await.unwrap().unwrap_err();
    assert!(matches!(found, Violation::Gap { shard: 0, expected: 3, found: 4, .. }), "{found}");
}

// --- tenants

/// What is wrong with an API.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// A list has the other tenant's, too.
    Shows,
    /// An answer to a question about another's agent is empty where it must be a refusal.
    Admits,
    /// A request of one tenant changes what the other has.
    Changes,
}

/// An API of a few routes that knows one tenant's key from another's, but for its flaw.
fn api(flaw: Flaw) -> Router {
    let changed = Arc::new(AtomicBool::new(false));
    Router::new().fallback(move |method: Method, uri: Uri, headers: HeaderMap| async move {
        let key = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let key = key.unwrap_or_default().trim_start_matches("Bearer ");
        if uri.path() == "/api/v1/openapi.json" {
            let document = r#"{"paths":{"/api/v1/agents":{"get":{}},"/api/v1/agents/{id}":{"get":{},"delete":{}}}}"#;
            return (StatusCode::OK, document.to_owned());
        }
        if key == "key-of-one" {
            let more = if changed.load(Ordering::SeqCst) { "changed" } else { "" };
            return (StatusCode::OK, format!("[mark-of-one{more}]"));
        }
        if method == Method::DELETE {
            changed.store(flaw == Flaw::Changes, Ordering::SeqCst);
        }
        match (flaw, uri.path()) {
            (Flaw::Shows, "/api/v1/agents") => (StatusCode::OK, "[mark-of-one]".to_owned()),
            (_, "/api/v1/agents") => (StatusCode::OK, "[mark-of-other]".to_owned()),
            (Flaw::Admits, _) => (StatusCode::OK, "[]".to_owned()),
            _ => (StatusCode::NOT_FOUND, String::new()),
        }
    })
}

#[tokio::test]
async fn what_one_tenant_learns_of_another_is_found() {
    let tenant = |name: &str| Tenant {
        name: name.to_owned(),
        owner_key: format!("key-of-{name}"),
        agent: "5".to_owned(),
        policy: "rules".to_owned(),
        key: "k".to_owned(),
        event: "e".to_owned(),
        marks: vec![format!("mark-of-{name}")],
    };
    let (one, other) = (tenant("one"), tenant("other"));
    let sound = check_tenancy(&api(Flaw::None), &one, &other).await.unwrap();
    assert_eq!((sound.requests, sound.refused), (12, 8));
    for (flaw, request) in [
        (Flaw::Shows, "GET /api/v1/agents"),
        (Flaw::Admits, "DELETE /api/v1/agents/5"),
        (Flaw::Changes, "to change what one has at /api/v1/agents"),
    ] {
        let found = check_tenancy(&api(flaw), &one, &other).await.unwrap_err();
        let Violation::Leaked { who, what, .. } = found else { panic!("{found}") };
        assert_eq!((who.as_str(), what.as_str()), ("other", request));
    }
}
