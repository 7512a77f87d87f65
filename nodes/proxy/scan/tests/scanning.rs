//! What is found in pieces is what is found in the whole.

use std::ops::Range;

use aa_policy::SensitivePattern;
use aa_scan::{Match, REDACTED, Redactor, Rules, Scanner};
use proptest::prelude::*;

/// Patterns of many kinds; the last ones are unbounded.
const PATTERNS: [&str; 40] = [
    r"\b\d{3}-\d{2}-\d{4}\b",
    r"AKIA[0-9A-Z]{16}",
    r"\b(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14})\b",
    r"(?i)\b(?:secret|token)[_-]?key\b",
    r"b{1,3}",
    r"é",
    r"bb",
    r"",
    r"a?",
    r"ab|",
    r"(?:|ab)",
    r"abcd|bc",
    r"abcd|bc|d1",
    r"^abc",
    r"abc$",
    r"(?m)^a",
    r"(?m)b$",
    r"(?m)^$",
    r"\b",
    r"\B",
    r"\Bbc1\B",
    r"(?i)straße",
    r"(?i)kelvin",
    r"\p{Greek}{2}",
    r"[^a]bc1",
    r"(?U)a{1,3}b{1,3}c?1",
    r"ab.{0,3}cd",
    r"(?:ab){3}c|b",
    r"\A[ab]|b\z",
    r"(?s).",
    r"[\w.+-]+@[\w-]+\.[\w.]+",
    r"(?i)password\s*[:=]\s*\S+",
    r"\S+",
    r"a*",
    r"a.*b|a",
    r"ab.*cd",
    r".*abcd",
    r"a+b|a|é*c",
    r"(?:a|b)*?c|b",
    r"(?s)-.*-|a|",
];
const BOUNDED: usize = 30;

/// What a policy finds in the whole.
fn plainly(patterns: &[&str], text: &str) -> Vec<Match> {
    let mut found: Vec<Match> = (0..)
        .zip(patterns)
        .flat_map(|(pattern, source)| {
            let compiled = SensitivePattern::compile(source).expect("a pattern");
            let places: Vec<Range<usize>> = compiled.find_iter(text).collect();
            places
                .into_iter()
                .map(move |Range { start, end }| Match { pattern, at: start as u64..end as u64 })
        })
        .collect();
    found.sort_by_key(|found| (found.pattern, found.at.start, found.at.end));
    found
}

/// Splits a text where characters begin, in pieces of about these lengths in turn.
fn pieces<'t>(text: &'t str, lengths: &[usize]) -> Vec<&'t str> {
    let (mut rest, mut pieces) = (text, Vec::new());
    for length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        // Never without end.
        let length = if pieces.len() > 2 * text.len() { 1 } else { *length };
        let is_end = |end: &usize| rest.is_char_boundary(*end);
        let end = (length.min(rest.len())..).find(is_end).expect("the end at least");
        let (piece, behind) = rest.split_at(end);
        pieces.push(piece);
        rest = behind;
    }
    pieces
}

fn in_pieces(rules: &Rules, pieces: &[&str]) -> Vec<Match> {
    let hold = rules.longest();
    let mut scanner = Scanner::new(rules);
    let text = pieces.concat();
    let (mut found, mut released, mut at) = (Vec::new(), 0, 0_usize);
    let mut certain: Vec<Match> = Vec::new();
    for piece in pieces.iter().map(Some).chain([None]) {
        at += piece.map_or(0, |piece| piece.len());
        let scanned = match piece {
            Some(piece) => scanner.push(piece),
            None => scanner.finish(),
        };
        for found in &scanned.matches {
            assert!(found.at.start >= released || !hold.is_whole, "{found:?} left before");
        }
        found.extend(scanned.matches);
        assert!(scanned.released >= released, "what was released is held again");
        released = scanned.released;
        assert!(text.is_char_boundary(released as usize), "{released} is within a character");
        if let Some(early) = scanned.certain {
            assert!(released <= early.at.start);
            certain.push(early);
        } else {
            assert!(at <= released as usize + hold.most, "{at} {released} {hold:?}");
        }
    }
    assert_eq!(released, text.len() as u64);
    for early in certain {
        let is_within = |found: &Match| {
            found.pattern == early.pattern
                && found.at.start <= early.at.start
                && early.at.end <= found.at.end
        };
        assert!(found.iter().any(is_within), "{early:?} was certain, but is in none of {found:?}");
    }
    found.sort_by_key(|found| (found.pattern, found.at.start, found.at.end));
    found
}

fn redacted(found: &[Match], text: &str) -> String {
    let mut ranges: Vec<Range<u64>> = found.iter().map(|found| found.at.clone()).collect();
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| range.start);
    let (mut out, mut at, mut last) = (String::new(), 0, None);
    for range in ranges {
        let (start, end) = (range.start as usize, range.end as usize);
        if last.is_none_or(|last| start > last) {
            out.push_str(&text[at..start]);
            out.push_str(REDACTED);
        }
        at = at.max(end);
        last = Some(at);
    }
    out + &text[at..]
}

fn redact_pieces(rules: &Rules, pieces: &[&str]) -> String {
    let mut redactor = Redactor::new(rules);
    let mut parts = Vec::new();
    for piece in pieces {
        parts.extend(redactor.push(piece).parts);
    }
    parts.extend(redactor.finish().parts);
    let mut piece = 0;
    for part in &parts {
        assert_eq!(part.piece, piece);
        piece += u64::from(part.is_last);
    }
    assert_eq!(piece, pieces.len() as u64, "each piece ends");
    parts.into_iter().map(|part| part.text).collect()
}

fn text() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a",
        "b",
        "c",
        "d",
        "1",
        "ab",
        "abc",
        "abcd",
        "aaa",
        "x",
        " ",
        "\n",
        "-",
        "_",
        "@",
        ".",
        "123-45-6789",
        "12",
        "34",
        "4111111111111111",
        "AKIA",
        "IOSFODNN7EXAMPLE",
        "user@a.example",
        "password",
        "PaSSWORD: x",
        "secret",
        "_key",
        "SECRET-KEY",
        "é",
        "λόγος",
        "STRASSE",
        "straße",
        "STRAßE",
        "\u{212a}elvin",
        "kelvin",
        "😀",
        "ſ",
        "\u{301}",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn lengths() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        Just(vec![1]),
        prop::collection::vec(0..4_usize, 1..8),
        prop::collection::vec(0..40_usize, 1..8),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_have_the_matches_of_the_whole(
        chosen in prop::sample::subsequence(PATTERNS.to_vec(), 0..12),
        text in text(),
        lengths in lengths(),
    ) {
        let pieces = pieces(&text, &lengths);
        let whole = plainly(&chosen, &text);
        let rules = Rules::compile(&chosen).unwrap();
        prop_assert_eq!(in_pieces(&rules, &pieces), &whole[..]);
        prop_assert_eq!(redact_pieces(&rules, &pieces), redacted(&whole, &text));
    }

    #[test]
    fn pieces_have_the_matches_of_random_patterns(
        patterns in prop::collection::vec(
            "(([a-c1]|[ab1]{2,3}|(ab|c1|1)|[a-c]\\{2\\}|b\\{1,3\\}|a\\?|\\(a\\|bc\\)|\\(b\\|\\)|[a-b]\\*|[a-b]\\+\\?|\\.\\*|\\\\b|\\\\B|\\^|\\$|\\||é){1,6})",
            1..4,
        ),
        text in "[abcé1 \n]{0,60}",
        lengths in lengths(),
    ) {
        let valid: Vec<&str> = patterns
            .iter()
            .map(String::as_str)
            .filter(|pattern| SensitivePattern::compile(pattern).is_ok())
            .collect();
        let pieces = pieces(&text, &lengths);
        let whole = plainly(&valid, &text);
        let rules = Rules::compile(&valid).unwrap();
        prop_assert_eq!(in_pieces(&rules, &pieces), &whole[..], "{:?}", valid);
        prop_assert_eq!(redact_pieces(&rules, &pieces), redacted(&whole, &text), "{:?}", valid);
    }
}

#[test]
fn each_pattern_by_itself_is_found_in_single_characters() {
    let text = "a ab abc abcd\nabcabc1 é aab-b- password: é1 kelvin 123-45-6789";
    for pattern in PATTERNS {
        assert_eq!(
            in_pieces(&Rules::compile(&[pattern]).unwrap(), &pieces(text, &[1])),
            plainly(&[pattern], text),
            "{pattern}"
        );
    }
    let rules = Rules::compile(&PATTERNS[..BOUNDED]).unwrap();
    assert!(rules.longest().is_whole);
    assert!(!Rules::compile(&PATTERNS).unwrap().longest().is_whole);
}

#[test]
fn what_is_held_for_an_unbounded_pattern_is_bounded_and_replaced_if_it_is_not_too_long() {
    let rules = Rules::compile(&[r"<[^>]*>", "[0-9]+"]).unwrap();
    let most = rules.longest().most;
    for inside in [0, 200, 255, 256, 300, 1_000, 3_800, 3_835] {
        let text = format!("a<{}> b", "é".repeat(inside / 2));
        for length in [1, 7, 64, 5_000] {
            let redacted = redact_pieces(&rules, &pieces(&text, &[length]));
            assert_eq!(redacted, "a[REDACTED] b", "{inside} in pieces of {length}");
        }
    }
    // Past the bound, the beginning leaves, and what is known then is replaced all the same.
    let text = format!("a<{}> b", "é".repeat(5_000));
    let redacted = redact_pieces(&rules, &pieces(&text, &[100]));
    assert!(redacted.starts_with("a<é") && redacted.ends_with("é[REDACTED] b"));
    assert!(redacted.len() > text.len() - most);
    assert_eq!(in_pieces(&rules, &pieces(&text, &[100])), plainly(&[r"<[^>]*>", "[0-9]+"], &text));

    // What is certain is not released, and not held either.
    let mut redactor = Redactor::new(&rules);
    let leaves = |redacted: aa_scan::Redacted| {
        redacted.parts.into_iter().map(|part| part.text).collect::<String>()
    };
    assert_eq!(leaves(redactor.push("a 1")), "a ");
    let mut out = String::new();
    for _ in 0..10_000 {
        let redacted = redactor.push("1234567890");
        assert_eq!(redacted.scanned.released, 2);
        assert!(redacted.parts.iter().all(|part| part.is_last));
        out += &leaves(redacted);
    }
    out += &leaves(redactor.push(" b"));
    out += &leaves(redactor.finish());
    assert_eq!(out, "[REDACTED] b");
}

#[test]
fn text_leaves_at_once_where_nothing_can_begin() {
    let rules = Rules::compile(&[r"\bAKIA[0-9A-Z]{16}\b", r"secret-[a-z]{4}"]).unwrap();
    let mut scanner = Scanner::new(&rules);
    let mut released = |text: &str| scanner.push(text).released;
    assert_eq!(released("What a fine day "), 16);
    assert_eq!(released("A"), 16);
    assert_eq!(released("K"), 16);
    assert_eq!(released("x is no key, sec"), 16 + 15);
    assert_eq!(released("ond"), 16 + 21);
    assert_eq!(released(" secret-abc"), 16 + 22);
    assert_eq!(scanner.push("d").certain, None, "the byte behind it is looked at");
    let scanned = scanner.push("e");
    assert_eq!(scanned.matches, [Match { pattern: 1, at: 38..49 }]);
    assert_eq!(scanned.released, 50);
    assert_eq!(scanner.finish().released, 50);
    assert_eq!(scanner.push("é").released, 2, "another text");
}

#[test]
fn a_match_is_certain_before_its_end_is_known() {
    let rules = Rules::compile(&[r"(?i)password: \S+"]).unwrap();
    let mut scanner = Scanner::new(&rules);
    assert_eq!(scanner.push("My Password: ").certain, None);
    let scanned = scanner.push("ab");
    assert_eq!(scanned.certain, Some(Match { pattern: 0, at: 3..14 }));
    assert!(scanned.matches.is_empty());
    let scanned = scanner.push("c d");
    assert_eq!(scanned.matches, [Match { pattern: 0, at: 3..16 }]);
    assert_eq!((scanned.certain, scanned.released), (None, 18));
}

#[test]
fn patterns_that_no_policy_takes_are_refused_by_their_number() {
    let error = Rules::compile(&["a", "b(?=c)"]).unwrap_err();
    assert_eq!(error.pattern, 1);
    assert!(error.to_string().contains("look-around"), "{error}");
    assert!(Rules::compile::<&str>(&[]).unwrap().is_empty());
    let mut scanner = Scanner::new(&Rules::compile::<&str>(&[]).unwrap());
    assert_eq!(scanner.push("abc").released, 3);
    assert_eq!(scanner.finish().released, 3);
}

#[test]
fn no_text_is_in_what_is_shown_of_a_redactor() {
    let mut redactor = Redactor::new(&Rules::compile(&["secret [a-z]+"]).unwrap());
    let redacted = redactor.push("plain secret wo");
    assert!(!format!("{redacted:?} {redactor:?}").contains("plain"));
    assert!(!format!("{redacted:?} {redactor:?}").contains("wo"));
}

#[test]
fn matches_that_wait_for_an_earlier_one_are_found_in_one_pass() {
    // Going back to the end of each match would look at 200,000² bytes.
    let pattern = "a.*b|a";
    let rules = Rules::compile(&[pattern]).unwrap();
    let mut scanner = Scanner::new(&rules);
    let mut found = 0;
    for _ in 0..200_000 {
        let scanned = scanner.push("a");
        found += scanned.matches.len();
    }
    found += scanner.finish().matches.len();
    assert_eq!(found, 200_000);

    let text = format!("{}b{}", "a".repeat(4_000), "a".repeat(4_000));
    assert_eq!(in_pieces(&rules, &pieces(&text, &[1])), plainly(&[pattern], &text));
}
