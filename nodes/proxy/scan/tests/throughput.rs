//! How fast text is scanned. Run with `--ignored --nocapture`, and in release for figures.

use std::{fmt::Write, time::Instant};

use aa_scan::{Rules, Scanner};

/// Patterns as policies have them.
const USUAL: [&str; 12] = [
    r"\b\d{3}-\d{2}-\d{4}\b",
    r"\bAKIA[0-9A-Z]{16}\b",
    r"\b(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14})\b",
    r"\b[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}\b",
    r"(?i)password\s*[:=]\s*\S+",
    r"\bgh[pousr]_[A-Za-z0-9]{36}\b",
    r"-----BEGIN [A-Z ]+ KEY-----",
    r"\bsk-[A-Za-z0-9]{20,}\b",
    r"xox[baprs]-[A-Za-z0-9-]{10,}",
    r"\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\b",
    r"\bAIza[0-9A-Za-z_-]{35}\b",
    r"(?i)\b(?:secret|token)[_-]?key\b",
];

#[test]
#[ignore = "a measurement"]
fn megabytes_per_second() {
    let mut text = String::new();
    for n in 0_u32.. {
        let number = n.wrapping_mul(2_654_435_761);
        write!(text, "The quick brown fox no. {number} jumps over {n} lazy dogs, as said. ")
            .unwrap();
        if text.len() > 4 << 20 {
            break;
        }
    }
    let unlike: Vec<String> = (0..200).map(|n| format!(r"\bkey{n}-[a-z0-9]{{20}}\b")).collect();
    let all: Vec<&str> = USUAL.into_iter().chain(unlike.iter().map(String::as_str)).collect();
    for (name, patterns) in [
        ("one rare", &USUAL[1..2]),
        ("one that words begin like", &USUAL[3..4]),
        ("twelve usual", &USUAL[..]),
        ("212", &all[..]),
        ("adverse", &[r"(?:a|[a-z ]{1,500}x)\d"][..]),
    ] {
        let rules = Rules::compile(patterns).unwrap();
        for length in [1, 64, 16 << 10] {
            let mut scanner = Scanner::new(&rules);
            let megabytes = if name == "adverse" { 1 } else { 4 };
            let text = &text[..megabytes << 20];
            let start = Instant::now();
            let mut matches = 0;
            for at in (0..text.len()).step_by(length) {
                let piece = &text[at..text.len().min(at + length)];
                matches += scanner.push(piece).matches.len();
            }
            matches += scanner.finish().matches.len();
            let rate = megabytes as f64 / start.elapsed().as_secs_f64();
            println!("{name}, pieces of {length}: {rate:.1} MiB/s, {matches} matches");
        }
    }
}
