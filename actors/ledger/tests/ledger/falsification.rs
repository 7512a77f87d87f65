//! Every falsification of an export is detected and names the first bad entry.

use aa_ledger::{
    Entry, Keys, LogKey,
    verify::{Failure, Problem},
};
use proptest::prelude::*;

use crate::log::{Log, check, lines_of, workspace};

/// Lines of an export: header, then entry `n` at index `n` (from 1), then the closing line.
fn failure(export: &[u8]) -> Failure {
    failure_of(&[export], None, None)
}

fn failure_of(exports: &[&[u8]], keys: Option<&Keys>, pinned: Option<&str>) -> Failure {
    let report = check(exports, keys, pinned).unwrap();
    assert!(!report.intact, "{report}");
    report.failure.unwrap()
}

fn expect(failure: &Failure, problem: Problem, line: u64, entry: Option<&[u8]>) {
    assert_eq!((failure.problem, failure.line), (problem, Some(line)), "{failure}");
    let id = entry.map(|entry| Entry::parse(entry).unwrap().id.to_string());
    assert_eq!(failure.event, id, "{failure}");
}

/// The log's lines with one text in one entry replaced, and the place of the entry.
fn altered(log: &Log, entry: usize, from: &str, to: &str) -> Vec<u8> {
    let mut lines = lines_of(&log.export());
    let text = String::from_utf8(lines[entry].clone()).unwrap();
    assert!(text.contains(from), "{text}");
    lines[entry] = text.replacen(from, to, 1).into_bytes();
    lines.concat()
}

#[test]
fn an_altered_entry_is_named_by_its_successors_link() {
    let log = Log::with_decisions(9);
    let export = altered(&log, 3, "\"verdict\":\"deny\"", "\"verdict\":\"allow\"");
    expect(&failure(&export), Problem::Altered, 4, Some(&log.lines[2]));
}

#[test]
fn an_altered_last_entry_of_a_stream_is_named_by_the_closing_line() {
    let log = Log::with_decisions(9);
    for entry in 9..=11 {
        let export = altered(&log, entry, "\"args_bytes\":123", "\"args_bytes\":124");
        let line = entry as u64 + 1;
        expect(&failure(&export), Problem::Altered, line, Some(&log.lines[entry - 1]));
    }
}

#[test]
fn an_altered_link_is_laid_to_the_entry_that_bears_it() {
    let log = Log::with_decisions(12);
    for entry in [6, 12] {
        let export = altered(&log, entry, "\"prev\":\"", "\"prev\":\"0");
        let mut lines = lines_of(&export);
        // Keeps the length: one digit in, the last digit out.
        let text = String::from_utf8(lines[entry].clone()).unwrap();
        let end = text.find("\",\"mac\"").unwrap();
        lines[entry] = format!("{}{}", &text[..end - 1], &text[end..]).into_bytes();
        let line = entry as u64 + 1;
        let failure = failure(&lines.concat());
        assert_eq!((failure.problem, failure.line), (Problem::Altered, Some(line)), "{failure}");
    }
}

#[test]
fn with_a_mac_secret_an_altered_entry_is_named_at_once() {
    let log = Log::with_decisions(9);
    let export = altered(&log, 11, "\"args_bytes\":123", "\"args_bytes\":124");
    let failure = failure_of(&[&export], Some(&log.keys("", "")), None);
    expect(&failure, Problem::WrongMac, 12, Some(&log.lines[10]));
}

#[test]
fn an_entry_altered_by_the_log_keys_own_holder_fails_its_mac() {
    let log = Log::with_decisions(6);
    let mut lines = log.lines.clone();
    let text = String::from_utf8(lines[7].clone()).unwrap();
    lines[7] = text.replace("\"deny\"", "\"allow\"").into_bytes();
    let rewritten = log.resigned(lines);
    assert!(check(&[&rewritten.export()], None, None).unwrap().intact);
    let failure = failure_of(&[&rewritten.export()], Some(&log.keys("", "")), None);
    assert_eq!((failure.problem, failure.line), (Problem::WrongMac, Some(9)), "{failure}");
}

#[test]
fn a_dropped_entry_is_a_gap_before_the_next_of_its_stream() {
    let log = Log::with_decisions(9);
    let mut lines = lines_of(&log.export());
    lines.remove(6);
    // Entry 9 is the next of the stream, now one line up.
    expect(&failure(&lines.concat()), Problem::Gap, 9, Some(&log.lines[8]));
}

#[test]
fn a_dropped_last_entry_of_a_stream_is_missing_after_the_one_before() {
    let log = Log::with_decisions(9);
    let mut lines = lines_of(&log.export());
    lines.remove(10);
    expect(&failure(&lines.concat()), Problem::Gap, 8, Some(&log.lines[6]));
}

#[test]
fn a_dropped_stream_is_named() {
    let log = Log::with_decisions(9);
    let mut lines = lines_of(&log.export());
    lines.remove(1);
    let failure = failure(&lines.concat());
    assert_eq!(failure.problem, Problem::Gap);
    assert!(failure.message.contains("every entry of stream workspace is missing"), "{failure}");
}

#[test]
fn reordered_entries_of_one_stream_are_named() {
    let log = Log::with_decisions(9);
    let mut lines = lines_of(&log.export());
    lines.swap(6, 9);
    expect(&failure(&lines.concat()), Problem::Gap, 7, Some(&log.lines[8]));
}

#[test]
fn reordered_entries_of_different_streams_miss_the_signed_root() {
    let log = Log::with_decisions(9);
    let mut lines = lines_of(&log.export());
    lines.swap(6, 7);
    let failure = failure(&lines.concat());
    assert_eq!((failure.problem, failure.line), (Problem::Root, Some(13)), "{failure}");
}

#[test]
fn a_duplicated_entry_is_named() {
    let log = Log::with_decisions(9);
    let mut lines = lines_of(&log.export());
    lines.insert(5, lines[4].clone());
    expect(&failure(&lines.concat()), Problem::Repeated, 6, Some(&log.lines[3]));
}

#[test]
fn an_entry_inserted_from_a_forked_chain_is_named() {
    let log = Log::with_decisions(9);
    let mut fork = Log::with_decisions(9);
    fork.now += 1;
    fork.decide(1);
    let inserted = fork.lines[11].clone();
    let mut lines = lines_of(&log.export());
    lines.insert(12 - 1, [inserted.as_slice(), b"\n"].concat());
    expect(&failure(&lines.concat()), Problem::Altered, 12, Some(&inserted));
}

#[test]
fn an_inserted_new_stream_is_named() {
    let log = Log::with_decisions(3);
    let mut other = Log::new(0);
    other.append(crate::log::agent(9), aa_ledger::Kind::Event, None);
    let mut lines = lines_of(&log.export());
    lines.insert(3, [other.lines[0].as_slice(), b"\n"].concat());
    expect(&failure(&lines.concat()), Problem::Altered, 4, Some(&other.lines[0]));
}

#[test]
fn a_cut_tail_leaves_no_checkpoint_at_any_length() {
    let export = Log::with_decisions(4).export();
    // All but the last line feed may not be missing.
    for end in 1..export.len() - 1 {
        match check(&[&export[..end]], None, None) {
            Ok(report) => assert!(!report.intact, "cut at {end}"),
            Err(error) => assert!(end < 60, "cut at {end}: {error}"),
        }
    }
    let lines = lines_of(&export);
    let log = failure(&lines[..5].concat());
    assert_eq!((log.problem, log.line), (Problem::NotClosed, Some(5)), "{log}");
}

#[test]
fn entries_cut_before_the_checkpoint_are_missed() {
    let log = Log::with_decisions(9);
    let mut lines = lines_of(&log.export());
    lines.drain(9..12);
    let failure = failure(&lines.concat());
    assert_eq!(failure.problem, Problem::Gap, "{failure}");
}

#[test]
fn a_wiped_file_is_tampered_with() {
    for text in [&b""[..], b"\n\n", &[0; 4_096]] {
        let failure = failure(text);
        assert_eq!(failure.problem, Problem::Wiped);
    }
}

#[test]
fn a_removed_header_is_tampered_with() {
    let lines = lines_of(&Log::with_decisions(2).export());
    assert_eq!(failure(&lines[1..].concat()).problem, Problem::Header);
}

#[test]
fn a_log_forked_after_the_pinned_checkpoint_is_seen() {
    let mut log = Log::with_decisions(6);
    let earlier = log.export();
    let pinned = log.note();
    log.decide(6);
    let mut lines = log.lines.clone();
    let text = String::from_utf8(lines[7].clone()).unwrap();
    lines[7] = text.replace("\"deny\"", "\"allow\"").into_bytes();
    // The owner rewrites the last entry before the pin and drops what was chained to it.
    let forked = log.resigned(lines[..8].to_vec());
    assert!(check(&[&forked.export()], None, None).unwrap().intact);
    let failure = failure_of(&[&forked.export()], None, Some(&pinned));
    assert_eq!(failure.problem, Problem::Forked, "{failure}");
    for exports in [[&earlier, &forked.export()], [&forked.export(), &earlier]] {
        let failure = failure_of(&exports.map(Vec::as_slice), None, None);
        assert_eq!((failure.problem, failure.file.as_str()), (Problem::Forked, "2.jsonl"));
    }
}

#[test]
fn a_log_shorter_than_the_pinned_checkpoint_is_seen() {
    let mut log = Log::with_decisions(6);
    let shorter = log.export();
    log.decide(1);
    let failure = failure_of(&[&shorter], None, Some(&log.note()));
    assert_eq!(failure.problem, Problem::Shorter, "{failure}");
}

#[test]
fn a_checkpoint_of_another_tenant_closes_nothing() {
    let log = Log::with_decisions(6);
    let mut other = Log::with_decisions(6);
    other.workspace = workspace(1);
    let foreign = serde_json::to_string(&other.note()).unwrap();
    let own = serde_json::to_string(&log.note()).unwrap();
    let export = String::from_utf8(log.export()).unwrap().replace(&own, &foreign);
    assert_eq!(failure(export.as_bytes()).problem, Problem::ForeignCheckpoint);
    let pinned = failure_of(&[&log.export()], None, Some(&other.note()));
    assert_eq!(pinned.problem, Problem::ForeignCheckpoint);
}

#[test]
fn entries_of_another_workspace_are_refused_even_when_signed() {
    let mut log = Log::with_decisions(3);
    let mut other = Log::new(1);
    other.decide(1);
    let mut lines = log.lines.clone();
    lines.extend(other.lines);
    log = log.resigned(lines);
    let mut export = lines_of(&log.resigned(log.lines[..5].to_vec()).export());
    export.insert(6, [log.lines[5].as_slice(), b"\n"].concat());
    expect(&failure(&export.concat()), Problem::ForeignEntry, 7, Some(&log.lines[5]));
}

#[test]
fn a_signature_by_an_unknown_key_is_refused() {
    let log = Log::with_decisions(3);
    let mut forger = Log::with_decisions(3);
    forger.log_key = LogKey::new(log.log_key.verifier().name(), &[8; 32]).unwrap();
    let failure = failure_of(&[&forger.export()], Some(&log.keys("", "")), None);
    assert_eq!(failure.problem, Problem::UnknownKey, "{failure}");
    let pinned = failure_of(&[&forger.export()], None, Some(&log.note()));
    assert_eq!(pinned.problem, Problem::UnknownKey, "{pinned}");
}

#[test]
fn a_signature_by_a_retired_key_after_its_time_is_refused() {
    let mut log = Log::with_decisions(3);
    let end = r#","not_after":"2026-11-22T20:51:34Z""#;
    assert!(check(&[&log.export()], Some(&log.keys("", "")), None).unwrap().intact);
    let late = failure_of(&[&log.export()], Some(&log.keys(end, "")), None);
    assert_eq!(late.problem, Problem::KeyOutOfTime, "{late}");
    // A back-dated checkpoint does not help: its newest entry is too new.
    log.now -= 3_600_000_000;
    let back_dated = failure_of(
        &[&log.export()],
        Some(&log.keys(r#","not_after":"2026-11-22T20:51:33Z""#, "")),
        None,
    );
    assert_eq!(back_dated.problem, Problem::KeyOutOfTime, "{back_dated}");
    assert!(back_dated.message.contains("newest entry"), "{back_dated}");
    let early = r#","not_before":"2027-01-01T00:00:00Z""#;
    let early = failure_of(&[&log.export()], Some(&log.keys(early, "")), None);
    assert_eq!(early.problem, Problem::KeyOutOfTime, "{early}");
}

#[test]
fn a_mac_by_an_unknown_or_retired_key_is_refused() {
    let mut log = Log::with_decisions(3);
    let keys = log.keys("", r#","not_after":"2026-11-22T20:51:32Z""#);
    let retired = failure_of(&[&log.export()], Some(&keys), None);
    expect(&retired, Problem::MacKeyOutOfTime, 5, Some(&log.lines[3]));
    let known = log.keys("", "");
    log.mac_key = aa_ledger::MacKey::new("k2", &[1; 32]).unwrap();
    log.decide(1);
    let unknown = failure_of(&[&log.export()], Some(&known), None);
    expect(&unknown, Problem::UnknownMacKey, 7, Some(&log.lines[5]));
}

#[test]
fn text_after_the_checkpoint_is_refused() {
    let mut export = Log::with_decisions(3).export();
    export.extend_from_slice(b"\n");
    let failure = failure(&export);
    assert_eq!((failure.problem, failure.line), (Problem::Trailing, Some(8)), "{failure}");
}

#[test]
fn another_spelling_of_the_same_entry_is_refused_even_when_signed() {
    let log = Log::with_decisions(3);
    let line = String::from_utf8(log.lines[4].clone()).unwrap();
    let swapped = line
        .replace("\"tool\":\"bash\",\"args_bytes\":123", "\"args_bytes\":123,\"tool\":\"bash\"");
    for other in [
        line.replace("\"seq\":", "\"seq\": "),
        line.replace("\"latency_us\":12", "\"latency_us\":012"),
        line.replace("\"latency_us\":12", "\"latency_us\":12.0"),
        line.replace("\"latency_us\":12", "\"latency_us\":12,\"latency_us\":12"),
        line.replace("\"latency_us\":12", "\"latency_us\":null"),
        line.replace("bash\",\"args", "b\\u0061sh\",\"args"),
        line.replace("\"verdict\":", "\"x\":1,\"verdict\":"),
        format!("{line}\r"),
        swapped,
    ] {
        assert_ne!(other, line);
        let mut lines = log.lines.clone();
        lines[4] = other.into_bytes();
        let failure = failure(&log.resigned(lines).export());
        assert_eq!((failure.problem, failure.line), (Problem::Malformed, Some(6)), "{failure}");
    }
}

#[test]
fn every_flip_of_one_bit_is_seen_and_laid_to_the_line_it_is_in() {
    let log = Log::with_decisions(4);
    let export = log.export();
    let last = 1 + log.lines.len() as u64;
    let mut line = 1;
    for index in 0..export.len() {
        for bit in [0x01, 0x02, 0x20] {
            let mut flipped = export.clone();
            flipped[index] ^= bit;
            let report = check(&[&flipped], None, None);
            let report = report.unwrap_or_else(|error| panic!("byte {index}: {error}"));
            assert!(!report.intact, "byte {index} of line {line}");
            let failure = report.failure.unwrap();
            let in_entry = (2..=last).contains(&line) && export[index] != b'\n';
            if in_entry {
                assert_eq!(failure.line, Some(line), "byte {index}: {failure}");
            }
        }
        line += u64::from(export[index] == b'\n');
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_change_of_any_byte_is_seen(place in any::<prop::sample::Index>(), value in any::<u8>()) {
        let log = Log::with_decisions(12);
        for first in [0, 5] {
            let mut export = log.export_from(first);
            let index = place.index(export.len());
            prop_assume!(export[index] != value);
            export[index] = value;
            let intact = check(&[&export], None, None).is_ok_and(|report| report.intact);
            prop_assert!(!intact, "byte {} of an export from {}", index, first);
        }
    }

    #[test]
    fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..4_000) {
        let export = Log::with_decisions(3).export();
        let cut = cut.min(export.len());
        let spliced = [&export[..cut], &bytes, &export[cut..]].concat();
        let _ = check(&[&spliced], None, None);
        let _ = check(&[&bytes], None, None);
        let _ = Entry::parse(&bytes);
    }
}
