//! Uploads: how long a document takes to be parsed, checked and compiled, and how much memory.
//!
//! `upload [ROUNDS]` checks a document of ten thousand rules and the worst of other kinds. Each is checked in
//! a process of its own, so that its peak of memory is its own.

use std::{
    fmt::Write as _,
    io::Write,
    process::{Command, ExitCode},
    time::Instant,
};

use aa_bench::{Error, Machine, Rounds, corpus::realistic};
use aa_policy::check;

/// The largest document that is read.
const MAX_SOURCE: usize = 1 << 20;

type Document = fn() -> String;

const DOCUMENTS: [(&str, Document); 17] = [
    ("10,000 rules of all kinds", rules),
    ("10,000 tools with a condition each", conditions),
    ("conditions of 400 operators", long_conditions),
    ("10,000 hosts", hosts),
    ("10,000 hosts with inner wildcards", inner_wildcards),
    ("10,000 capabilities, each also denied", contradictions),
    ("204 realistic patterns", patterns),
    ("1,000 patterns of 1,000 repetitions", long_patterns),
    ("1,000 patterns of Unicode classes", unicode_patterns),
    ("1,000 alternations of 60 words", alternations),
    ("1 MiB of unknown keys", unknown_keys),
    ("1 MiB of one duplicate key", duplicates),
    ("1 MiB of brackets", brackets),
    ("1 MiB of nested maps", deep),
    ("aliases that repeat 10,000 values", aliases),
    ("1 MiB of anchors", anchors),
    ("1 MiB in one line", one_line),
];

fn main() -> Result<ExitCode, Error> {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next();
    if first.as_deref() == Some("check") {
        let number: usize = arguments.next().ok_or("which document?")?.parse()?;
        return one(number);
    }
    let rounds = first.map_or(Ok(5), |text| text.parse())?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", Machine::read())?;
    writeln!(
        out,
        "inside the timed section: check(), from bytes to compiled policy or diagnostics\nms and peak MiB of the process; {rounds} rounds: median (least–most)\n"
    )?;
    writeln!(out, "{:<40} | {:>8} | {:>26} | {:>8} | result", "document", "KiB", "ms", "peak MiB")?;
    for (number, (name, _)) in DOCUMENTS.iter().enumerate() {
        let (mut time, mut peak) = (Rounds::default(), Rounds::default());
        let mut said = String::new();
        let mut size = String::new();
        for _ in 0..rounds {
            let output = Command::new(std::env::current_exe()?)
                .args(["check", &number.to_string()])
                .output()?;
            let text = String::from_utf8(output.stdout)?;
            let mut fields = text.trim().split('\t');
            let mut next = || fields.next().ok_or_else(|| format!("{name}: {text}"));
            time.push(next()?.parse()?);
            peak.push(next()?.parse()?);
            size = next()?.to_owned();
            said = next()?.to_owned();
        }
        let peak = peak.median();
        writeln!(out, "{name:<40} | {size:>8} | {time:>26.1} | {peak:>8.0} | {said}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn one(number: usize) -> Result<ExitCode, Error> {
    let (_, document) = DOCUMENTS.get(number).ok_or("no such document")?;
    let source = document();
    let start = Instant::now();
    let checked = check(source.as_bytes(), "upload");
    let took = start.elapsed().as_secs_f64() * 1e3;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap_or(0.0_f64);
    let said = match (&checked.policy, checked.errors.first()) {
        (Some(_), _) => format!("accepted, {} warnings", checked.warnings.len()),
        (None, Some(error)) => format!("refused: {} [{}]", error.message, error.code),
        (None, None) => "refused".to_owned(),
    };
    let size = source.len() / 1024;
    writeln!(std::io::stdout(), "{took}\t{}\t{size}\t{said}", peak / 1024.0)?;
    Ok(ExitCode::SUCCESS)
}

fn lines(
    head: &str,
    count: usize,
    line: impl Fn(&mut String, usize) -> std::fmt::Result,
) -> String {
    let mut text = head.to_owned();
    for number in 0..count {
        if text.len() + 400 > MAX_SOURCE {
            break;
        }
        // Writing to a string cannot fail.
        let _ = line(&mut text, number);
    }
    text
}

fn rules() -> String {
    let hosts = lines("network:\n  allowlist:\n", 3_000, |text, n| match n % 3 {
        0 => writeln!(text, "    - \"*.svc-{n}.example.net\""),
        1 => writeln!(text, "    - api-*.r{n}.example.com"),
        _ => writeln!(text, "    - api-{n}.example.com"),
    });
    let tools = lines("tools:\n", 4_000, |text, n| match n % 3 {
        0 => writeln!(text, "  tool_{n}: {{allow: false}}"),
        1 => writeln!(text, "  tool_{n}: {{limit_per_hour: {n}}}"),
        _ => writeln!(text, "  tool_{n}: {{requires_approval_if: \"args.amount > {n}\"}}"),
    });
    let capabilities = lines("capabilities:\n  deny:\n", 2_800, |text, n| {
        writeln!(text, "    - mcp_tool:blocked_{n}")
    });
    let patterns = lines("data:\n  sensitive_patterns:\n", 200, |text, n| {
        writeln!(text, "    - \"tok{n}_[A-Za-z0-9]{{32}}\"")
    });
    hosts + &tools + &capabilities + &patterns
}

fn conditions() -> String {
    lines("tools:\n", 10_000, |text, n| {
        writeln!(text, "  t{n}: {{requires_approval_if: \"args.amount > {n} && args.to != 'x'\"}}")
    })
}

fn long_conditions() -> String {
    let long = vec!["args.a==1"; 60].join("||");
    lines("tools:\n", 10_000, |text, n| {
        writeln!(text, "  t{n}: {{requires_approval_if: \"{long}\"}}")
    })
}

fn hosts() -> String {
    lines("network:\n  allowlist:\n", 10_000, |text, n| writeln!(text, "    - h{n}.example.com"))
}

fn inner_wildcards() -> String {
    lines("network:\n  allowlist:\n", 10_000, |text, n| {
        writeln!(text, "    - a-*.b-*.c-*.h{n}.*.example.com")
    })
}

fn contradictions() -> String {
    let list = |head: &str| {
        lines(head, 10_000, |text, n| writeln!(text, "    - mcp_tool:the_tool_of_number_{n}"))
    };
    list("capabilities:\n  allow:\n") + &list("  deny:\n")
}

fn of_patterns(patterns: impl IntoIterator<Item = String>) -> String {
    let patterns: Vec<String> = patterns.into_iter().collect();
    serde_json::json!({"data": {"sensitive_patterns": patterns}}).to_string()
}

fn patterns() -> String {
    of_patterns(realistic())
}

fn long_patterns() -> String {
    of_patterns((0..1_000).map(|n| format!("[a-z]{{1000}}{n}")))
}

fn unicode_patterns() -> String {
    of_patterns((0..1_000).map(|n| format!("\\pL{{10}}\\pN{{10}}{n}")))
}

fn alternations() -> String {
    let words = |n: usize| (0..60).map(|word| format!("w{n}x{word}")).collect::<Vec<_>>().join("|");
    of_patterns((0..1_000).map(|n| format!("(?i)(?:{})", words(n))))
}

fn unknown_keys() -> String {
    lines("", 100_000, |text, n| writeln!(text, "netwrok{n}: {{}}"))
}

fn duplicates() -> String {
    lines("", 200_000, |text, _| writeln!(text, "a: 1"))
}

fn brackets() -> String {
    "[".repeat(MAX_SOURCE)
}

fn deep() -> String {
    lines("", 40_000, |text, n| writeln!(text, "{}a:", " ".repeat(n.min(300))))
}

fn aliases() -> String {
    let list = vec!["x.example"; 10_000].join(", ");
    let head = format!("x: &x [{list}]\nnetwork: {{allowlist: *x}}\n");
    lines(&head, 100, |text, n| writeln!(text, "k{n}: *x"))
}

fn anchors() -> String {
    lines("tools:\n", 100_000, |text, n| writeln!(text, "  t{n}: &a{n} {{allow: &b{n} true}}"))
}

fn one_line() -> String {
    let mut text = lines("{\"tools\": {", 20_000, |text, n| {
        write!(text, "\"t{n}\": {{\"requires_approval_if\": \"args.x = {n}\"}}, ")
    });
    text.push_str("}}");
    text
}
