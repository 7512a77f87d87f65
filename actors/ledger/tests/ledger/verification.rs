//! What is intact verifies, and says on what grounds.

use aa_ledger::{
    Keys,
    verify::{Problem, Trust, UnreadableReason},
};

use crate::log::{Log, SECOND, agent, check, denial};

#[test]
fn a_whole_export_is_intact_and_its_key_trusted_on_first_use() {
    let log = Log::with_decisions(40);
    let report = check(&[&log.export()], None, None).unwrap();
    assert!(report.intact, "{report}");
    let export = &report.exports[0];
    assert_eq!((export.entries, export.streams, export.first), (42, 5, 0));
    assert_eq!(export.checkpoint.size, 42);
    assert_eq!(export.trust, Trust::OnFirstUse);
    assert_eq!(export.first_time.as_deref(), Some("2026-11-22T20:51:29.123456Z"));
    assert_eq!(export.last_time.as_deref(), Some("2026-11-22T20:52:10.123456Z"));
    let text = report.to_string();
    assert!(text.contains("taken from the export itself"), "{text}");
    assert!(text.contains("MACs of 42 entries were not checked"), "{text}");
    assert!(text.ends_with("\nintact"), "{text}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["intact"], true);
    assert_eq!(json["exports"][0]["trust"], "on_first_use");
}

#[test]
fn with_a_keys_file_the_key_is_pinned_and_every_mac_checked() {
    let log = Log::with_decisions(10);
    let report = check(&[&log.export()], Some(&log.keys("", "")), None).unwrap();
    assert!(report.intact, "{report}");
    assert_eq!(report.exports[0].trust, Trust::Pinned);
    assert_eq!(report.exports[0].macs_checked, 12);
    assert!(report.warnings.is_empty(), "{report}");
}

#[test]
fn a_mac_key_without_its_secret_is_checked_by_id_and_time_and_that_is_said() {
    let log = Log::with_decisions(3);
    let key = log.log_key.verifier();
    let keys = format!(r#"{{"log_keys":[{{"key":"{key}"}}],"mac_keys":[{{"id":"k1"}}]}}"#);
    let report = check(&[&log.export()], Some(&Keys::parse(&keys).unwrap()), None).unwrap();
    assert!(report.intact, "{report}");
    assert!(report.warnings[0].contains("MACs of 5 entries were not checked"), "{report}");
}

/// The members came later than the format: entries with and without them are in one log.
#[test]
fn what_was_seen_of_calls_verifies_beside_entries_from_before() {
    let mut log = Log::with_decisions(3);
    log.observe();
    log.decide(2);
    let report = check(&[&log.export()], Some(&log.keys("", "")), None).unwrap();
    assert!(report.intact, "{report}");
    assert_eq!(report.exports[0].macs_checked, 8);
    let text = String::from_utf8(log.lines[5].clone()).unwrap();
    for (member, altered) in [
        ("\"latency_us\":9,", "\"latency_us\":8,"),
        ("\"finish_reason\":\"stop\"", "\"finish_reason\":\"sto\""),
        ("\"parent_span\":\"cd", "\"parent_span\":\"ce"),
    ] {
        let mut falsified = log.export();
        let forged = text.replacen(member, altered, 1);
        assert_ne!(forged, text);
        falsified = String::from_utf8(falsified).unwrap().replace(&text, &forged).into_bytes();
        assert!(!check(&[&falsified], None, None).unwrap().intact, "{altered}");
    }
}

#[test]
fn an_empty_log_is_intact() {
    let report = check(&[&Log::new(0).export()], None, None).unwrap();
    assert!(report.intact, "{report}");
    assert_eq!(report.exports[0].entries, 0);
}

#[test]
fn a_partial_export_from_any_entry_leads_to_the_signed_root() {
    let log = Log::with_decisions(300);
    for first in [1, 2, 3, 64, 255, 256, 257, 301, 302] {
        let report = check(&[&log.export_from(first)], None, None).unwrap();
        assert!(report.intact, "from {first}: {report}");
    }
}

#[test]
fn a_log_that_contains_the_pinned_checkpoint_is_intact() {
    let mut log = Log::with_decisions(20);
    let pinned = log.note();
    log.decide(13);
    for first in [0, 21, 22] {
        let report = check(&[&log.export_from(first)], None, Some(&pinned)).unwrap();
        assert!(report.intact, "from {first}: {report}");
    }
}

#[test]
fn exports_of_one_log_continue_each_other_in_any_order_of_files() {
    let mut log = Log::with_decisions(20);
    let earlier = log.export();
    log.decide(13);
    let later = log.export();
    log.decide(1);
    let partial = log.export_from(30);
    for exports in [[&earlier, &later, &partial], [&partial, &later, &earlier]] {
        let report = check(&exports.map(Vec::as_slice), None, None).unwrap();
        assert!(report.intact, "{report}");
        assert_eq!(report.exports.len(), 3);
    }
}

#[test]
fn exports_of_different_workspaces_are_proven_side_by_side() {
    let mut other = Log::new(1);
    other.append(agent(1), aa_ledger::Kind::Decision, Some(&denial()));
    let report = check(&[&Log::with_decisions(3).export(), &other.export()], None, None).unwrap();
    assert!(report.intact, "{report}");
}

#[test]
fn a_pinned_checkpoint_before_a_partial_export_cannot_be_compared_and_that_is_no_pass() {
    let mut log = Log::with_decisions(5);
    let pinned = log.note();
    log.decide(10);
    let report = check(&[&log.export_from(12)], None, Some(&pinned)).unwrap();
    assert!(!report.intact);
    let failure = report.failure.unwrap();
    assert_eq!(failure.problem, Problem::NotComparable);
    assert!(failure.message.contains("export from an earlier point"), "{failure}");
}

#[test]
fn a_clock_that_ran_backwards_is_a_warning() {
    let mut log = Log::with_decisions(3);
    log.now -= 60 * SECOND;
    log.decide(1);
    log.now += 120 * SECOND;
    let report = check(&[&log.export()], None, None).unwrap();
    assert!(report.intact, "{report}");
    assert!(report.to_string().contains("1 entries are more than a second older"), "{report}");
}

#[test]
fn a_rotated_mac_key_is_accepted_in_its_own_time() {
    let mut log = Log::with_decisions(3);
    log.mac_key = aa_ledger::MacKey::new("k2", &[1; 32]).unwrap();
    log.decide(3);
    let keys = Keys::parse(&format!(
        r#"{{"log_keys":[{{"key":"{}"}}],"mac_keys":[
            {{"id":"k1","secret":"{}","not_after":"2026-11-22T20:51:34Z"}},
            {{"id":"k2","secret":"{}","not_before":"2026-11-22T20:51:34Z"}}]}}"#,
        log.log_key.verifier(),
        "5a".repeat(32),
        "01".repeat(32),
    ))
    .unwrap();
    let report = check(&[&log.export()], Some(&keys), None).unwrap();
    assert!(report.intact, "{report}");
    assert_eq!(report.exports[0].macs_checked, 8);
}

#[test]
fn what_never_was_an_export_is_unreadable_and_not_tampered() {
    for text in ["hello\n", "{\"a\":1}\n", "\u{0}\u{1}\n", "id,time\n1,2\n"] {
        let error = check(&[text.as_bytes()], None, None).unwrap_err();
        assert!(matches!(error.problem, UnreadableReason::NotAnExport), "{text}");
    }
    let export = Log::with_decisions(1).export();
    let error = check(&[&export], None, Some("no note")).unwrap_err();
    assert!(matches!(error.problem, UnreadableReason::NotACheckpoint("blank line")));
}

#[test]
fn a_malformed_keys_file_is_refused_without_showing_a_secret() {
    for text in [
        "",
        "[]",
        r#"{"log_keys":[{"key":"x"}]}"#,
        r#"{"log_keys":[],"log_keys":[]}"#,
        r#"{"mac_keys":[{"id":"k1","secret":"hunter2"}]}"#,
        r#"{"mac_keys":[{"id":"k1"},{"id":"k1"}]}"#,
        r#"{"other":1}"#,
    ] {
        let error = Keys::parse(text).err().expect(text);
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
