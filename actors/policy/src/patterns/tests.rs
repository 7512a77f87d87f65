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

/// Patterns of every way to be found, and a text that each matches.
const MATCHES: [(&str, &str); 16] = [
    (r"\b\d{3}-\d{2}-\d{4}\b", "123-45-6789"),
    (r"\bAKIA[0-9A-Z]{16}\b", "AKIAIOSFODNN7EXAMPLE"),
    (r"(?i)box[\w.-]{0,20}key", "BoX_kEy"),
    (r"(?i)okta.k", "oKta.K"),
    (r"(?i)drones?", "DRONES"),
    (r"\b[A-Za-z0-9_.+-]+@[A-Za-z0-9-]+\.[A-Za-z0-9.-]+\b", "ada@b.example"),
    (r"\b(?:bc1|[13])[a-km-zA-HJ-NP-Z1-9]{25,39}\b", "1abcdefghijkmnopqrstuvwxyzABCDEF"),
    (r"[0-9a-f]{40}", "0123456789abcdef0123456789abcdef01234567"),
    (
        r"\+[1-9][0-9]{0,2}[ -]?\(?[0-9]{2,4}\)?[ -]?[0-9]{3,4}[ -]?[0-9]{3,4}\b",
        "+44 (20) 1234-567",
    ),
    (r"(?i)kelvin", "\u{212a}elvin"),
    (r"\bAC[0-9a-f]{32}\b", "AC0123456789abcdef0123456789abcdef"),
    (r"λόγος", "λόγος"),
    (r"\$", "$"),
    (r"\bé?\^~", "é^~"),
    (r"(?m)^key=.$", "key=v"),
    (r"\b9[0-9]{2}-[7-9][0-9]-[0-9]{4}\b", "987-70-4321"),
];

#[test]
fn a_match_is_found_wherever_it_stands_and_however_it_is_cut() {
    let compiled = || MATCHES.map(|(pattern, _)| re2::compile(pattern).unwrap());
    let patterns = Patterns::new(compiled().into()).unwrap();
    let alone = compiled().map(|compiled| compiled.regex);
    let check = |text: &str| {
        let mut found = Vec::new();
        patterns.search(text, &mut |pattern, range| {
            found.push((pattern, range));
            Next::Match
        });
        let plainly: Vec<_> = (alone.iter().enumerate())
            .flat_map(|(index, regex)| regex.find_iter(text).map(move |one| (index, one.range())))
            .collect();
        assert_eq!(found, plainly, "{text:?}");
    };
    let fillers = [" ", "x", "1", "é", "\n", "@", "-"];
    for (number, (_, text)) in MATCHES.iter().enumerate() {
        let filler = fillers[number % fillers.len()];
        // Past two blocks of the filter, at even and at odd places.
        for before in (0..12).chain(120..136).chain(250..262) {
            let before = "x".repeat(before % 2) + &filler.repeat(before);
            check(&format!("{before} {text}"));
            check(&format!("{before}{text}{filler}"));
            check(&format!("{before} {text} {text}{}", filler.repeat(7)));
        }
        for (cut, _) in text.char_indices() {
            check(&text[..cut]);
            check(&text[cut..]);
            check(&format!("{filler}{}{}", &text[..cut], &text[cut..].repeat(2)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_of_matches_are_matched_as_by_each_pattern_alone(
        pieces in prop::collection::vec((0..MATCHES.len(), 0..24_usize, 0..24_usize), 0..24),
        chosen in prop::sample::subsequence((0..MATCHES.len()).collect::<Vec<_>>(), 1..8),
    ) {
        let text: String = pieces
            .iter()
            .flat_map(|(number, from, length)| MATCHES[*number].1.chars().skip(*from).take(*length))
            .collect();
        let patterns: Vec<&str> = chosen.iter().map(|number| MATCHES[*number].0).collect();
        prop_assert_eq!(together(&patterns, &text), plainly(&patterns, &text));
    }
}

#[test]
fn each_way_to_find_a_pattern_is_taken() {
    use super::factor::Finder;

    let takes = |pattern: &str, is_it: fn(&Finder) -> bool| {
        let factors = factor::required(&re2::compile(pattern).unwrap().hir).unwrap();
        assert!(factors.iter().any(|factor| is_it(factor.finder())), "{pattern}");
    };
    takes(MATCHES[0].0, |finder| matches!(finder, Finder::Grams(_)));
    takes(MATCHES[5].0, |finder| matches!(finder, Finder::Byte(b'@', _)));
    takes(MATCHES[6].0, |finder| matches!(finder, Finder::Stretch(..)));
}

#[test]
fn patterns_past_the_room_of_the_filter_are_found_all_the_same() {
    let texts: Vec<String> = (0..26_u8).map(|n| format!("{}@{0}!", char::from(b'a' + n))).collect();
    let bytes = ["~a~b", "#[a-z]#[a-z]", r"\^[a-z]\^", "%[a-z]%", "&[a-z]&"];
    let stretches: Vec<String> = (0..24).map(|n| format!("[a-z0-9]{{{}}}Z", 20 + n)).collect();
    let patterns: Vec<&str> =
        texts.iter().chain(&stretches).map(String::as_str).chain(bytes).collect();
    let text = format!("{} ~a~b #x#y ^q^ %z% &k& {}Z", texts.concat(), "a1".repeat(30));
    assert_eq!(together(&patterns, &text), plainly(&patterns, &text));
}

#[test]
fn many_matches_of_one_kind_hide_none_of_another_before_them() {
    let patterns = ["(?:ab[0-9]{4}|[a-z0-9]{30}Z|[a-z]@[a-z])"];
    let stretch = format!("{}Z", "q1".repeat(15));
    let gap = ". ".repeat(200);
    let many = "ab1234 ".repeat(100);
    for text in [
        format!("{stretch}{gap}{many}"),
        format!("a@b{gap}{many}"),
        format!("ab1234{gap}{}", "a@b ".repeat(100)),
        format!("{stretch}{gap}{}", "a@b ".repeat(100)),
    ] {
        assert_eq!(together(&patterns, &text), plainly(&patterns, &text));
    }
}
