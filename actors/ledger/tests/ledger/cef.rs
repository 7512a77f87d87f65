//! The export for SIEMs.

use aa_ledger::{
    ActionSummary, ChainHead, Draft, EntryError, Kind, MacKey, Stream, seal, write_cef,
};
use aa_protocol::{ActionId, ActionKind, EventId, Timestamp};

use crate::log::{MAC_SECRET, START, agent, denial, workspace};

#[test]
fn entries_are_the_golden_cef_lines() {
    let mut out = Vec::new();
    for line in include_str!("../golden/entries.jsonl").lines() {
        write_cef(line.as_bytes(), "0.1.0", &mut out).unwrap();
    }
    assert_eq!(String::from_utf8(out).unwrap(), include_str!("../golden/entries.cef"));
}

#[test]
fn separators_and_line_breaks_in_values_are_escaped() {
    let mut decision = denial();
    decision.reasons[0].message = "a=b|c\\d\ne\rf".into();
    let (id, time) = (EventId::from_parts(1, 1), Timestamp::from_micros(START));
    let draft = Draft {
        decision: Some(&decision),
        ..Draft::new(id, workspace(0), agent(1), time, Kind::Decision)
    };
    let mut line = Vec::new();
    let key = MacKey::new("k1", &MAC_SECRET).unwrap();
    seal(&draft, &mut ChainHead::default(), &key, &mut line);
    let mut out = Vec::new();
    write_cef(&line, "1|2\\3\n4", &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.starts_with("CEF:0|Agent Assembly|aasm|1\\|2\\\\3 4|decision:deny|"), "{text}");
    assert!(text.contains(r" msg=a\=b|c\\d\ne\rf "), "{text}");
    assert_eq!(text.matches('\n').count(), 1);
}

#[test]
fn a_connection_that_nobody_looked_at_is_unseen_and_not_ok() {
    let mut action = ActionSummary::bare(ActionId::from_bytes([1; 16]), ActionKind::NetworkConnect);
    action.host = Some("bank.example".into());
    let told = |outcome: &str| {
        let (id, time) = (EventId::from_parts(1, 1), Timestamp::from_micros(START));
        let draft = Draft {
            action: Some(&action),
            detail: &[("duration_us", "9"), ("outcome", outcome)],
            ..Draft::new(id, workspace(0), agent(1), time, Kind::Event)
        };
        let (mut line, mut out) = (Vec::new(), Vec::new());
        let key = MacKey::new("k1", &MAC_SECRET).unwrap();
        seal(&draft, &mut ChainHead::default(), &key, &mut line);
        write_cef(&line, "1", &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    let unseen = told("unseen");
    assert!(unseen.contains("|event|network_connect unseen|3|"), "{unseen}");
    assert!(unseen.contains(" outcome=unseen ") && unseen.contains(" dhost=bank.example "));
    let seen = told("ok");
    assert!(seen.contains("|event|agent event|2|") && seen.contains(" outcome=ok "), "{seen}");
}

#[test]
fn a_secret_that_was_released_or_not_says_to_which_host() {
    let told = |change: &str| {
        let (id, time) = (EventId::from_parts(1, 1), Timestamp::from_micros(START));
        let draft = Draft {
            actor: Some("key:k"),
            detail: &[("change", change), ("host", "api.openai.com"), ("name", "OPENAI")],
            ..Draft::new(id, workspace(0), Stream::Vault, time, Kind::Secret)
        };
        let (mut line, mut out) = (Vec::new(), Vec::new());
        let key = MacKey::new("k1", &MAC_SECRET).unwrap();
        seal(&draft, &mut ChainHead::default(), &key, &mut line);
        write_cef(&line, "1", &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    for (change, name) in [
        ("released", "|secret released|2|"),
        ("release_denied", "|secret not released|7|"),
        ("set", "|secret changed|5|"),
    ] {
        let line = told(change);
        assert!(line.contains(name), "{line}");
        let (host, secret) = (" dhost=api.openai.com ", " destinationServiceName=OPENAI ");
        assert!(line.contains(host) && line.contains(secret), "{line}");
    }
}

#[test]
fn what_is_no_entry_becomes_no_event() {
    let mut out = Vec::new();
    let refused = write_cef(b"{}", "1", &mut out);
    assert!(matches!(refused, Err(EntryError::Malformed { .. })));
    assert!(out.is_empty());
}
