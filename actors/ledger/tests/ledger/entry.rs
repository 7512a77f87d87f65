//! The canonical entry.

use aa_ledger::{
    ActionSummary, ChainHead, Draft, Entry, EntryError, Hash, Kind, MacKey, ObservedSummary,
    PolicyRef, RenderedDecision, Stream, seal, seal_rendered,
};
use aa_protocol::{
    ActionId, ActionKind, ApprovalTerms, Decision, EventId, Finding, Reason, ReasonCode, Timestamp,
    Verdict,
};
use proptest::prelude::*;

use crate::log::{MAC_SECRET, START, agent, denial, workspace};

fn key() -> MacKey {
    MacKey::new("k1", &MAC_SECRET).unwrap()
}

fn draft(stream: Stream, kind: Kind) -> Draft<'static> {
    let id = EventId::from_parts(1_795_380_689_123, 42);
    Draft::new(id, workspace(0), stream, Timestamp::from_micros(START), kind)
}

fn full_decision() -> Decision {
    let mut decision = denial();
    decision.approval =
        Some(ApprovalTerms { timeout_seconds: 300, roles: vec!["security".into(), "ops".into()] });
    decision.findings = vec![Finding {
        policy: "data".into(),
        pattern: 1,
        pointer: "/args/cmd".into(),
        in_key: true,
        offset: 4,
        length: 16,
    }];
    decision
}

fn full_action() -> ActionSummary<'static> {
    let mut action = ActionSummary::bare(ActionId::from_bytes([0x11; 16]), ActionKind::LlmCall);
    action.model = Some("gpt-4o".into());
    action.host = Some("api.openai.com".into());
    action.messages = Some(2);
    action.messages_bytes = Some(512);
    action.max_output_tokens = Some(1_000);
    action
}

fn observed_action() -> ActionSummary<'static> {
    let mut action = ActionSummary::bare(ActionId::from_bytes([0x22; 16]), ActionKind::LlmResult);
    action.model = Some("gpt-4o".into());
    action.content_bytes = Some(42);
    (action.input_tokens, action.output_tokens) = (Some(9), Some(5));
    action.observed = Some(Box::new(ObservedSummary {
        latency_us: 1_234_567,
        first_token_us: Some(345_678),
        status: Some(200),
        finish_reason: Some("tool_calls".into()),
        conversation: Some("conv_\"1\"".into()),
        response_id: Some("resp_1=2".into()),
    }));
    action
}

#[test]
fn entries_are_the_golden_lines() {
    let (decision, action) = (full_decision(), full_action());
    let policies = [PolicyRef { name: "shell".into(), revision: 3 }];
    let mut out = Vec::new();
    let mut head = ChainHead::default();
    let bare = draft(agent(1), Kind::Registration);
    seal(&bare, &mut head, &key(), &mut out);
    out.push(b'\n');
    let full = Draft {
        actor: Some("operator \"ann\" \\ <ann@example.com>"),
        action: Some(&action),
        decision: Some(&decision),
        policies: &policies,
        latency_us: Some(12),
        trace: Some(*b"0123456789abcdef"),
        detail: &[("b", "tab\tline\nreturn\rbell\u{7}\u{7f}"), ("a", "Grüße — ✓"), ("b", "again")],
        ..draft(agent(1), Kind::Decision)
    };
    seal(&full, &mut head, &key(), &mut out);
    out.push(b'\n');
    let action = observed_action();
    let observed = Draft {
        action: Some(&action),
        trace: Some(*b"0123456789abcdef"),
        parent_span: Some(*b"01234567"),
        ..draft(agent(1), Kind::Decision)
    };
    seal(&observed, &mut head, &key(), &mut out);
    out.push(b'\n');
    assert_eq!(head.sequence, 3);
    let golden = include_str!("../golden/entries.jsonl");
    assert_eq!(String::from_utf8(out).unwrap(), golden);
}

#[test]
fn golden_lines_read_back_with_all_they_hold() {
    let line = include_str!("../golden/entries.jsonl").lines().nth(1).unwrap();
    let entry = Entry::parse(line.as_bytes()).unwrap();
    assert_eq!(entry.decision(), Some(full_decision()));
    assert_eq!(entry.action, Some(full_action()));
    assert_eq!((entry.stream, entry.sequence, entry.kind), (agent(1), 2, Kind::Decision));
    assert_eq!(entry.time, Timestamp::from_micros(START));
    assert_eq!(entry.trace, Some(*b"0123456789abcdef"));
    assert_eq!(entry.detail["b"], "tab\tline\nreturn\rbell\u{7}\u{7f}");
    assert_eq!(entry.mac_key, "k1");
    assert_eq!(entry.parent_span, None);
    assert!(!entry.cut);
    assert!(key().authenticates(line.as_bytes()));

    let line = include_str!("../golden/entries.jsonl").lines().nth(2).unwrap();
    let entry = Entry::parse(line.as_bytes()).unwrap();
    assert_eq!(entry.action, Some(observed_action()));
    assert_eq!(entry.parent_span, Some(*b"01234567"));
    let misspelt = line.replace("3031323334353637\"", "303132333435363\"");
    assert!(Entry::parse(misspelt.as_bytes()).is_err());
}

#[test]
fn each_entry_names_the_hash_of_the_one_before_in_its_stream() {
    let mut head = ChainHead::default();
    let mut prev = Hash::ZERO;
    for sequence in 1..=3 {
        let mut line = Vec::new();
        let hash = seal(&draft(Stream::Policies, Kind::Policy), &mut head, &key(), &mut line);
        let entry = Entry::parse(&line).unwrap();
        assert_eq!((entry.sequence, entry.prev), (sequence, prev));
        assert_eq!(hash, Hash::of_leaf(&line));
        assert_eq!(head, ChainHead { sequence, hash });
        prev = hash;
    }
}

#[test]
fn a_mac_holds_for_its_own_key_and_line_only() {
    let mut line = Vec::new();
    seal(&draft(Stream::Workspace, Kind::Key), &mut ChainHead::default(), &key(), &mut line);
    assert!(key().authenticates(&line));
    assert!(!MacKey::new("k1", &[1; 32]).unwrap().authenticates(&line));
    assert!(!MacKey::new("k2", &MAC_SECRET).unwrap().authenticates(&line));
    for index in 0..line.len() {
        let mut altered = line.clone();
        altered[index] ^= 1;
        assert!(!key().authenticates(&altered), "byte {index}");
    }
    assert!(!key().authenticates(b"{}"));
}

#[test]
fn what_is_no_entry_is_refused_with_its_place() {
    let error = Entry::parse(b"{\"v\":1,\"id\":7}").unwrap_err();
    assert!(matches!(error, EntryError::Malformed { column: 13, .. }), "{error}");
    let long = vec![b' '; 70_000];
    assert_eq!(Entry::parse(&long), Err(EntryError::TooLong { bytes: 70_000 }));
    let line = include_str!("../golden/entries.jsonl").lines().next().unwrap();
    let newer = line.replace("{\"v\":1", "{\"v\":2");
    assert_eq!(Entry::parse(newer.as_bytes()), Err(EntryError::Version(2)));
}

#[test]
fn a_draft_past_every_bound_is_cut_marked_and_stays_readable() {
    let worst = "\u{1}".repeat(5_000);
    let mut decision = full_decision();
    decision.reasons[0].message = worst.clone();
    decision.reasons[0].policy = Some(worst.clone());
    decision.reasons[0].path = Some(worst.clone());
    decision.reasons[0].version = Some(worst.clone());
    decision.reasons = vec![decision.reasons[0].clone(); 100];
    decision.findings[0].policy = worst.clone();
    decision.findings[0].pointer = worst.clone();
    decision.findings = vec![decision.findings[0].clone(); 100];
    decision.approval =
        Some(ApprovalTerms { timeout_seconds: u64::MAX, roles: vec![worst.clone(); 100] });
    let mut action = full_action();
    let name = || Some(worst.clone().into());
    (action.tool, action.model, action.host) = (name(), name(), name());
    (action.path, action.program, action.child) = (name(), name(), name());
    action.observed = Some(Box::new(ObservedSummary {
        latency_us: u64::MAX,
        first_token_us: Some(u64::MAX),
        status: Some(u16::MAX),
        finish_reason: name(),
        conversation: name(),
        response_id: name(),
    }));
    let policies = vec![PolicyRef { name: worst.clone(), revision: u64::MAX }; 100];
    let keys: Vec<_> = (0..100).map(|number| format!("key{number}")).collect();
    let detail: Vec<_> = keys.iter().map(|key| (key.as_str(), worst.as_str())).collect();
    let draft = Draft {
        actor: Some(&worst),
        action: Some(&action),
        decision: Some(&decision),
        policies: &policies,
        detail: &detail,
        parent_span: Some([0xff; 8]),
        ..draft(agent(1), Kind::Decision)
    };
    let mut line = Vec::new();
    seal(&draft, &mut ChainHead::default(), &key(), &mut line);
    assert!(line.len() <= aa_ledger::format::MAX_ENTRY_BYTES, "{}", line.len());
    let entry = Entry::parse(&line).unwrap();
    assert!(entry.cut);
    assert!(entry.actor.unwrap().ends_with("\u{1}…"));
}

#[test]
fn more_than_64_reasons_are_cut_to_64_and_marked() {
    let reason = Reason::undocumented(ReasonCode::Allowed, "ok");
    let decision = Decision {
        verdict: Verdict::Allow,
        reasons: vec![reason; 65],
        approval: None,
        findings: vec![],
    };
    let draft = Draft { decision: Some(&decision), ..draft(agent(1), Kind::Decision) };
    let mut line = Vec::new();
    seal(&draft, &mut ChainHead::default(), &key(), &mut line);
    let entry = Entry::parse(&line).unwrap();
    assert_eq!((entry.reasons.len(), entry.cut), (64, true));
}

#[test]
fn a_detail_key_outside_the_format_is_left_out_and_marked() {
    let draft = Draft {
        detail: &[("Bad key", "x"), ("good", "y"), ("", "z")],
        ..draft(Stream::Workspace, Kind::Key)
    };
    let mut line = Vec::new();
    seal(&draft, &mut ChainHead::default(), &key(), &mut line);
    let entry = Entry::parse(&line).unwrap();
    assert_eq!(entry.detail.into_iter().collect::<Vec<_>>(), [("good".into(), "y".into())]);
    assert!(entry.cut);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_decision_rendered_before_makes_the_same_line(
        reasons in 0_usize..70,
        message in "[ -~\u{1}]{0,12}",
        repeated in 1_usize..120,
        documents in 0_usize..70,
        actor in 0_usize..300,
    ) {
        let mut decision = full_decision();
        decision.reasons[0].message = message.repeat(repeated);
        decision.reasons = vec![decision.reasons[0].clone(); reasons];
        let policies = vec![PolicyRef { name: message.repeat(3), revision: 7 }; documents];
        let (action, actor) = (full_action(), "\u{1}".repeat(actor));
        let bare = Draft { action: Some(&action), actor: Some(&actor), ..draft(agent(1), Kind::Decision) };
        let listed = Draft { decision: Some(&decision), policies: &policies, ..bare };
        let rendered = RenderedDecision::new(decision.clone(), policies.clone());
        let (mut line, mut head) = (Vec::new(), ChainHead::default());
        seal(&listed, &mut head, &key(), &mut line);
        let (mut same_line, mut same_head) = (Vec::new(), ChainHead::default());
        seal_rendered(&bare, &rendered, &mut same_head, &key(), &mut same_line);
        prop_assert_eq!(String::from_utf8(same_line), String::from_utf8(line));
        prop_assert_eq!(same_head, head);
    }

    #[test]
    fn any_text_reads_back_as_it_was_written(actor in "\\PC{0,60}", value in any::<String>()) {
        let detail = [("text", value.as_str())];
        let draft =
            Draft { actor: Some(&actor), detail: &detail, ..draft(agent(2), Kind::Event) };
        let mut line = Vec::new();
        seal(&draft, &mut ChainHead::default(), &key(), &mut line);
        prop_assert!(!line.contains(&b'\n'));
        let entry = Entry::parse(&line).unwrap();
        prop_assert_eq!(entry.actor.as_deref(), Some(actor.as_str()));
        prop_assert_eq!(&entry.detail["text"], &value);
        prop_assert!(key().authenticates(&line));
    }
}
