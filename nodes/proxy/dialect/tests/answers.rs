//! Recorded answers of every provider, read in any pieces.

#[path = "support/exchange.rs"]
mod exchange;

use std::{env, fs};

use exchange::{Exchange, all};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::Value;

/// `UPDATE_GOLDEN=1` writes what is read now; `git diff` shows what changed.
#[test]
fn recorded_exchanges_are_read_as_the_golden_files_say() {
    for exchange in all() {
        let golden = exchange.path.with_extension("golden.json");
        let summary = exchange.summary();
        if env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, format!("{summary:#}\n")).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        let expected: Option<Value> = serde_json::from_str(&expected).ok();
        assert!(Some(&summary) == expected.as_ref(), "{}: read as\n{summary:#}", exchange.name);
    }
}

#[test]
fn an_answer_read_byte_by_byte_is_the_same() {
    for exchange in all() {
        let whole = exchange.read_answer(&exchange.answer, &[usize::MAX]).0;
        assert_eq!(whole.raw, exchange.answer, "{}: every byte goes on", exchange.name);
        let by_byte = exchange.read_answer(&exchange.answer, &[1]).0;
        assert_eq!(by_byte, whole, "{}", exchange.name);
    }
}

#[test]
fn an_answer_read_in_any_pieces_is_the_same() {
    for exchange in all() {
        let whole = exchange.read_answer(&exchange.answer, &[usize::MAX]).0;
        let mut runner = TestRunner::new(Config { cases: 24, ..Config::default() });
        let outcome = runner.run(&vec(1..200_usize, 1..40), |sizes| {
            prop_assert_eq!(&exchange.read_answer(&exchange.answer, &sizes).0, &whole);
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{}: {error}", exchange.name));
    }
}

#[test]
fn texts_put_in_place_of_themselves_change_nothing() {
    for exchange in all() {
        for sizes in [&[usize::MAX][..], &[7, 64, 3]] {
            let (whole, frames) = exchange.read_answer(&exchange.answer, sizes);
            let mut written = Vec::new();
            for frame in &frames {
                let own: Vec<_> = frame.texts.iter().map(|text| Some(text.text.as_str())).collect();
                written.extend_from_slice(&frame.with_texts(&own));
                assert_eq!(frame.with_texts(&[]), frame.raw);
            }
            let again = exchange.read_answer(&written, &[usize::MAX]).0;
            assert_eq!(again.answer, whole.answer, "{}", exchange.name);
            assert_eq!(again.channels, whole.channels, "{}", exchange.name);
        }
    }
}

#[test]
fn texts_put_in_place_of_others_are_what_is_read_then() {
    const MARK: &str = "\u{1f512}\"\\\n[redacted]";
    for exchange in all() {
        let (_, frames) = exchange.read_answer(&exchange.answer, &[usize::MAX]);
        let mut written = Vec::new();
        let mut marked = 0;
        for frame in &frames {
            let own = frame.texts.iter().map(|text| {
                let is_marked = !text.last && text.form == aa_dialect::TextForm::Json;
                marked += usize::from(is_marked);
                is_marked.then_some(MARK)
            });
            written.extend_from_slice(&frame.with_texts(&own.collect::<Vec<_>>()));
        }
        let again = exchange.read_answer(&written, &[usize::MAX]).0;
        let found: usize =
            again.channels.values().map(|(text, _)| text.matches(MARK).count()).sum();
        assert_eq!(found, marked, "{}", exchange.name);
    }
}

#[test]
fn an_answer_cut_off_anywhere_is_not_complete_and_loses_no_byte() {
    for exchange in all() {
        let whole = exchange.read_answer(&exchange.answer, &[usize::MAX]).0;
        let length = exchange.answer.len();
        let step = (length / 200).max(1);
        for end in (0..length.saturating_sub(1)).step_by(step) {
            let part = &exchange.answer[..end];
            let read = exchange.read_answer(part, &[13]).0;
            assert_eq!(read.raw, part, "{}", exchange.name);
            let is_early = read.answer.usage != whole.answer.usage
                || read.answer.finish_reason != whole.answer.finish_reason;
            assert!(!is_early || !read.answer.is_complete, "{} at {end}", exchange.name);
        }
    }
}

#[test]
fn any_bytes_in_place_of_an_answer_go_on() {
    let exchanges = all();
    let mut runner = TestRunner::new(Config { cases: 200, ..Config::default() });
    let inputs = (0..exchanges.len(), vec(any::<u8>(), 0..300), vec(1..50_usize, 1..5));
    let outcome = runner.run(&inputs, |(index, bytes, sizes)| {
        let exchange: &Exchange = &exchanges[index];
        prop_assert_eq!(exchange.read_answer(&bytes, &sizes).0.raw, bytes);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn an_answer_with_a_byte_changed_reads_alike_in_any_pieces() {
    let exchanges = all();
    let mut runner = TestRunner::new(Config { cases: 300, ..Config::default() });
    let inputs =
        (0..exchanges.len(), any::<prop::sample::Index>(), any::<u8>(), vec(1..50_usize, 1..5));
    let outcome = runner.run(&inputs, |(index, at, byte, sizes)| {
        let exchange: &Exchange = &exchanges[index];
        let mut answer = exchange.answer.clone();
        let at = at.index(answer.len().max(1));
        if let Some(changed) = answer.get_mut(at) {
            *changed = byte;
        }
        let whole = exchange.read_answer(&answer, &[usize::MAX]).0;
        prop_assert_eq!(&whole.raw, &answer);
        prop_assert_eq!(exchange.read_answer(&answer, &sizes).0, whole);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}
