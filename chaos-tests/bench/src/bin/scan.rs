//! Scanning: the patterns of the policy reference and two hundred realistic ones over clean and dirty text.
//!
//! `scan [ROUNDS]` times whole decisions: the text is the content of a tool's result, one thread.

use std::{hint::black_box, io::Write, sync::Arc, time::Duration};

use aa_bench::{
    Error, Machine, Rounds,
    corpus::{Kind, OF_THE_SPEC, realistic},
    time_on_cpu,
};
use aa_policy::{AgentPolicies, Facts, PolicySet, check, decide};
use aa_protocol::{Action, AgentFacts, Timestamp, Verdict};
use regex_automata::meta;
use serde_json::json;

const LENGTH: usize = 4 << 20;
/// How long one figure is measured.
const SLICE: Duration = Duration::from_millis(100);

const INSIDE: &str = "\
inside the timed section, for 4 MiB in strings of 64 KiB (the automaton: 128 KiB), one thread:
  ours      decide() of a tool result, from the parsed action to the outcome
  automaton one regex-automata meta::Regex of all the patterns, is_match() on the same strings";

fn main() -> Result<(), Error> {
    let rounds = std::env::args().nth(1).map_or(Ok(5), |text| text.parse())?;
    let mut out = std::io::stdout();
    writeln!(out, "{}\n{INSIDE}\n", Machine::read())?;
    let spec: Vec<String> = OF_THE_SPEC.iter().map(|pattern| (*pattern).to_owned()).collect();
    let all: Vec<String> = spec.iter().cloned().chain(realistic()).collect();
    let agent: AgentFacts = serde_json::from_value(json!({
        "id": "01234567-89ab-cdef-0123-456789abcdef", "name": "reader", "governance_level": "L1",
    }))?;
    writeln!(
        out,
        "MB per second of the thread's own time, {rounds} rounds: median (least–most)\n{:<18} {:>8} | {:>22} | {:>22} | {:>22}",
        "text", "patterns", "ours, clean", "automaton, clean", "ours, dirty"
    )?;
    for patterns in [&spec, &all] {
        let policies = policies(patterns, &agent)?;
        let automaton = automaton(patterns)?;
        for kind in Kind::ALL {
            let clean = Texts::of(&without_matches(&kind.clean(LENGTH), &policies, &agent));
            let dirty = Texts::of(&kind.dirty(LENGTH));
            // The automaton is the slower by far.
            let sample = kind.clean(LENGTH / 32);
            let sample = Texts::of(&without_matches(&sample, &policies, &agent));
            sample.verify(&policies, &agent, &automaton, Verdict::Allow, kind)?;
            let dirty_sample = Texts::of(&kind.dirty(LENGTH / 32));
            dirty_sample.verify(&policies, &agent, &automaton, Verdict::Deny, kind)?;
            let mut figures = [Rounds::default(), Rounds::default(), Rounds::default()];
            for _ in 0..rounds {
                figures[0].push(clean.rate(|action, _| {
                    black_box(decide(&policies, &Facts::of(&agent), action, NOW));
                }));
                figures[1].push(sample.rate(|_, text| {
                    black_box(automaton.is_match(text));
                }));
                figures[2].push(dirty.rate(|action, _| {
                    black_box(decide(&policies, &Facts::of(&agent), action, NOW));
                }));
            }
            let [ours, automaton, dirty] = figures;
            writeln!(
                out,
                "{:<18} {:>8} | {ours:>22.0} | {automaton:>22.0} | {dirty:>22.0}",
                kind.name(),
                patterns.len()
            )?;
        }
    }
    Ok(())
}

const NOW: Timestamp = Timestamp::from_micros(1_763_900_000_000_000);

/// The pieces of one text, as strings and as actions that carry them.
struct Texts {
    pieces: Vec<(Action, String)>,
    bytes: usize,
}

impl Texts {
    fn of(text: &str) -> Self {
        let mut pieces = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.floor_char_boundary(64 << 10));
            let action = Action::ToolResult { tool: "read".to_owned(), content: piece.into() };
            pieces.push((action, piece.to_owned()));
            rest = after;
        }
        Self { pieces, bytes: text.len() }
    }

    /// Both ways must agree on every piece, and on the kind of text that it is.
    fn verify(
        &self,
        policies: &AgentPolicies,
        agent: &AgentFacts,
        automaton: &meta::Regex,
        expected: Verdict,
        kind: Kind,
    ) -> Result<(), Error> {
        let mut strictest = Verdict::Allow;
        for (action, text) in &self.pieces {
            let outcome = decide(policies, &Facts::of(agent), action, NOW);
            let verdict = outcome.decision.verdict;
            if (verdict == Verdict::Deny) != automaton.is_match(text) {
                return Err(format!("{}: the two ways disagree", kind.name()).into());
            }
            if verdict > expected {
                let places = outcome.decision.findings.iter().map(|f| {
                    let end = (f.offset + f.length).min(text.len());
                    format!("pattern {}: {:?}", f.pattern, text.get(f.offset..end))
                });
                let places: Vec<_> = places.take(5).collect();
                return Err(format!("clean {} is not clean: {places:?}", kind.name()).into());
            }
            strictest = strictest.max(verdict);
        }
        if strictest == expected {
            return Ok(());
        }
        Err(format!("nothing was found in dirty {}", kind.name()).into())
    }

    /// Megabytes per second.
    fn rate(&self, mut scan: impl FnMut(&Action, &str)) -> f64 {
        let start = time_on_cpu().unwrap_or_default();
        let mut bytes = 0;
        loop {
            for (action, text) in &self.pieces {
                scan(black_box(action), black_box(text));
            }
            bytes += self.bytes;
            // The kernel keeps its account by ticks of some milliseconds.
            let taken = time_on_cpu().unwrap_or_default().saturating_sub(start);
            if taken >= SLICE {
                return bytes as f64 / 1e6 / taken.as_secs_f64();
            }
        }
    }
}

fn policies(patterns: &[String], agent: &AgentFacts) -> Result<AgentPolicies, Error> {
    let document = json!({"data": {"sensitive_patterns": patterns}}).to_string();
    let checked = check(document.as_bytes(), "scan");
    let policy = checked.policy.ok_or_else(|| format!("{:?}", checked.errors))?;
    Ok(PolicySet::new([(Arc::new(policy), None)])?.for_agent(agent))
}

/// The lines that nothing is found in: in random base64, a wide pattern matches now and then.
fn without_matches(text: &str, policies: &AgentPolicies, agent: &AgentFacts) -> String {
    let is_clean = |line: &&str| {
        let action = Action::ToolResult { tool: "read".to_owned(), content: (*line).into() };
        decide(policies, &Facts::of(agent), &action, NOW).decision.verdict == Verdict::Allow
    };
    text.split_inclusive('\n').filter(is_clean).collect()
}

/// The patterns as written: this dialect reads these as RE2 does, but for the letters of `\b` and `\d`.
fn automaton(patterns: &[String]) -> Result<meta::Regex, Error> {
    let ascii: Vec<String> = patterns
        .iter()
        .map(|pattern| {
            pattern
                .replace(r"\b", r"(?-u:\b)")
                .replace(r"\d", "[0-9]")
                .replace(r"[\w", "[0-9A-Za-z_")
        })
        .collect();
    let config = meta::Config::new().hybrid_cache_capacity(4 << 20).dfa(false);
    Ok(meta::Builder::new().configure(config.nfa_size_limit(Some(64 << 20))).build_many(&ascii)?)
}
