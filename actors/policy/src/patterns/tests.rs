use proptest::prelude::*;

use super::*;

const PATTERNS: [&str; 46] = [
    r"\b\d{3}-\d{2}-\d{4}\b",
    r"AKIA[0-9A-Z]{16}",
    r"\b(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14})\b",
    r"[\w.+-]+@[\w-]+\.[\w.]+",
    r"(?i)password\s*[:=]\s*\S+",
    r"(?i)\b(?:secret|token)[_-]?key\b",
    r"gh[pousr]_[A-Za-z0-9]{6,}",
    r"-----BEGIN [A-Z ]+ KEY-----",
    r"b+",
    r"é",
    r"z",
    r"bb",
    r"\S+",
    r"",
    r"a*",
    r"^abc",
    r"abc$",
    r"(?m)^key=.*$",
    r"x{2,5}y",
    r"(?:ab){3}c",
    r"(?:abc|\d{5}|xyz)q",
    r"(?:abc|[a-z]+q)",
    r"[^a]bc1",
    r"(?i)straße",
    r"(?i)kelvin",
    r"\p{Greek}{3}",
    r"λόγος",
    r"\d{4,8}",
    r"\d+",
    r"abca",
    r"(?:1{2}|2)34(?:5|67)?8",
    r"ab.{0,3}cd",
    r"ab.*cd",
    r".*abcd",
    r".{2}abcd",
    r".{0,2}abcd.{0,2}",
    r"\x00\x01\x02",
    r"[a-c]{40}",
    r"abcabcabcabcabcabcabcabcabcabcabcabcabcabc",
    r"(?U)a+b+c?d",
    r"(?:a|bc|def)(?:1|23|456)(?:x|yz)",
    r"1a?2a?3a?4a?5",
    r"\Bbc1\B",
    r"abcd(?:efgh)?",
    r"efgh|abcdefgh",
    r"(?:12){2,}34",
];

/// What each pattern finds by itself in the whole text.
fn plainly(patterns: &[&str], text: &str) -> Vec<(usize, Range<usize>)> {
    let mut found = Vec::new();
    for (index, pattern) in patterns.iter().enumerate() {
        let regex =
            re2::compile(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}")).regex;
        found.extend(regex.find_iter(text).map(|range| (index, range.range())));
    }
    found
}

fn together(patterns: &[&str], text: &str) -> Vec<(usize, Range<usize>)> {
    let compiled = patterns.iter().map(|pattern| re2::compile(pattern).unwrap()).collect();
    let patterns = Patterns::new(compiled).unwrap();
    let mut found = Vec::new();
    patterns.search(text, &mut |pattern, range| {
        found.push((pattern, range));
        Next::Match
    });
    found
}

fn text() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a",
        "b",
        "c",
        "abc",
        "abcd",
        "efgh",
        "bc1",
        "x",
        "xx",
        "y",
        "q",
        "z",
        " ",
        "\n",
        "-",
        "123-45-6789",
        "12",
        "1",
        "2",
        "34",
        "5",
        "67",
        "8",
        "4111111111111111",
        "AKIA",
        "IOSFODNN7EXAMPLE",
        "user@a.example",
        "@",
        ".",
        "password",
        "PaSSWORD: x",
        "secret",
        "_key",
        "SECRET-KEY",
        "ghp_",
        "0123456789abcdef",
        "-----BEGIN RSA PRIVATE KEY-----",
        "é",
        "λόγος",
        "STRASSE",
        "straße",
        "STRAßE",
        "\u{212a}elvin",
        "kelvin",
        "\0\u{1}\u{2}",
        "def",
        "456",
        "yz",
        "key=",
        "abcabcabcabc",
    ]);
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn patterns_together_find_what_each_finds_by_itself(
        chosen in prop::sample::subsequence(PATTERNS.to_vec(), 0..12),
        text in text(),
    ) {
        prop_assert_eq!(together(&chosen, &text), plainly(&chosen, &text));
    }

    #[test]
    fn random_patterns_find_together_what_each_finds_by_itself(
        patterns in prop::collection::vec("(([a-c1]|[ab1]{2,3}|(ab|c1|1)|[a-c]\\{2\\}|b\\{1,3\\}|a\\?|\\(a\\|bc\\)|[a-b]\\*|\\\\b){1,6})", 1..6),
        text in "[abc1 ]{0,120}",
    ) {
        let valid: Vec<&str> =
            patterns.iter().map(String::as_str).filter(|pattern| re2::compile(pattern).is_ok()).collect();
        prop_assert_eq!(together(&valid, &text), plainly(&valid, &text));
    }
}

#[test]
fn many_candidates_of_one_pattern_lose_no_match() {
    let text = format!("{}AKIAIOSFODNN7EXAMPLE {}", "AKIA ".repeat(1_000), "AKIA".repeat(500));
    let patterns = [r"\bAKIA[0-9A-Z]{16}\b", r"AKIA[0-9A-Z]{16}"];
    assert_eq!(together(&patterns, &text), plainly(&patterns, &text));
    let text = "x".repeat(5_000) + "abcd" + &"abc".repeat(2_000) + "d";
    let patterns = [r"x{0,20}abcd", r"abca?", r"[a-c]{5}d"];
    assert_eq!(together(&patterns, &text), plainly(&patterns, &text));
}

#[test]
fn every_pattern_reports_its_matches_where_they_are() {
    let found = together(&[r"b+", r"é", r"z", r"bb"], "aébb b");
    assert_eq!(found, [(0, 3..5), (0, 6..7), (1, 1..3), (3, 3..5)]);
}

#[test]
fn a_search_goes_no_further_than_it_is_told() {
    let compiled = [r"abc1", r"abc2"].map(|pattern| re2::compile(pattern).unwrap()).into();
    let patterns = Patterns::new(compiled).unwrap();
    for (next, visited) in [(Next::Match, 4), (Next::Pattern, 2), (Next::Nothing, 1)] {
        let mut count = 0;
        patterns.search("abc1 abc2 abc1 abc2", &mut |_, _| {
            count += 1;
            next
        });
        assert_eq!(count, visited, "{next:?}");
    }
}

#[test]
fn realistic_patterns_are_filtered_and_vague_ones_are_not() {
    let filtered = |pattern| factor::required(&re2::compile(pattern).unwrap().hir).is_some();
    for pattern in &PATTERNS[..8] {
        assert!(filtered(pattern), "{pattern}");
    }
    for pattern in [r"\S+", r"[a-z]{3}", r"", r".*", r"a?b?c?", r"e"] {
        assert!(!filtered(pattern), "{pattern}");
    }
}
