//! Text in pieces: what is found and replaced in them is what is found and replaced in the whole.

use std::ops::Range;

use aa_policy::SensitivePattern;
use aa_scan::{Match, REDACTED, Redactor, Rules, Scanner};

/// Stands beside the pattern that is tried, so that there are several.
const NEIGHBOUR: &str = "[a-c]{2,4}";
/// Less than what is held of a match in any case.
const MAX_TEXT: usize = 1_000;

/// Reads a pattern from the first line, and the text to search from the rest.
///
/// # Panics
/// When pieces have other matches than the whole, text leaves too early or too late, or what leaves is not the
/// text with its matches replaced.
pub fn target(data: &[u8]) {
    let Ok(input) = std::str::from_utf8(data) else { return };
    let (pattern, text) = input.split_once('\n').unwrap_or((input, ""));
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = &text[..end];
    let Ok(compiled) = SensitivePattern::compile(pattern) else {
        assert!(Rules::compile(&[pattern]).is_err(), "a pattern that no policy takes");
        return;
    };
    let rules = Rules::compile(&[pattern, NEIGHBOUR]).expect("a policy takes both");
    let neighbour = SensitivePattern::compile(NEIGHBOUR).expect("the neighbour is well-formed");
    let whole: Vec<Match> = (0..)
        .zip([compiled, neighbour])
        .flat_map(|(pattern, compiled)| {
            let places: Vec<Range<usize>> = compiled.find_iter(text).collect();
            let place = |at: Range<usize>| at.start as u64..at.end as u64;
            places.into_iter().map(move |at| Match { pattern, at: place(at) })
        })
        .collect();
    let replaced = replace(&whole, text);
    for lengths in [vec![1], vec![7, 0, 2], data.iter().map(|byte| usize::from(*byte)).collect()] {
        let pieces = split(text, &lengths);
        assert_eq!(scan(&rules, &pieces), whole, "{pieces:?}");
        assert_eq!(redact(&rules, &pieces), replaced, "{pieces:?}");
    }
}

fn split<'t>(text: &'t str, lengths: &[usize]) -> Vec<&'t str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    for length in lengths.iter().copied().chain(std::iter::repeat(1)) {
        let is_end = |end: &usize| rest.is_char_boundary(*end);
        let end = (length.min(rest.len())..).find(is_end).expect("the end at least");
        let (piece, behind) = rest.split_at(end);
        pieces.push(piece);
        rest = behind;
        if rest.is_empty() {
            break;
        }
    }
    pieces
}

fn scan(rules: &Rules, pieces: &[&str]) -> Vec<Match> {
    let mut scanner = Scanner::new(rules);
    let (mut found, mut released, mut at) = (Vec::new(), 0, 0);
    for piece in pieces {
        let scanned = scanner.push(piece);
        at += piece.len() as u64;
        assert!(released <= scanned.released && scanned.released <= at, "{scanned:?}");
        let left_early = scanned.matches.iter().find(|found| found.at.start < released);
        assert!(left_early.is_none(), "{released} had left, then {scanned:?}");
        let is_held =
            scanned.certain.is_some() || at - scanned.released <= rules.longest().most as u64;
        assert!(is_held, "{at} bytes, {scanned:?}");
        released = scanned.released;
        found.extend(scanned.matches);
    }
    let last = scanner.finish();
    assert_eq!(last.released, at);
    found.extend(last.matches);
    found.sort_by_key(|found| found.pattern);
    found
}

fn redact(rules: &Rules, pieces: &[&str]) -> String {
    let mut redactor = Redactor::new(rules);
    let mut parts = Vec::new();
    for piece in pieces {
        parts.extend(redactor.push(piece).parts);
    }
    parts.extend(redactor.finish().parts);
    let ended = parts.iter().filter(|part| part.is_last).count();
    assert_eq!(ended, pieces.len(), "each piece ends");
    parts.into_iter().map(|part| part.text).collect()
}

/// The text with matches that overlap or touch replaced together.
fn replace(found: &[Match], text: &str) -> String {
    let mut ranges: Vec<Range<usize>> =
        found.iter().map(|found| found.at.start as usize..found.at.end as usize).collect();
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| range.start);
    let (mut out, mut at, mut is_replaced) = (String::new(), 0, false);
    for range in ranges {
        if range.start > at || !is_replaced {
            out.push_str(&text[at..range.start]);
            out.push_str(REDACTED);
        }
        at = at.max(range.end);
        is_replaced = true;
    }
    out + &text[at..]
}
