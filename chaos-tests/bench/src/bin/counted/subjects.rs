//! What is counted. Each subject prepares its data, then runs its operations inside one function by whose
//! name they are told from the preparation.

use std::{hint::black_box, sync::Arc};

use aa_bench::{
    Error,
    corpus::{Kind, OF_THE_SPEC},
    log::{Drafts, SampleLog, prove},
    policies::{Engine, Ours, Scenario, Shape},
};
use aa_ledger::{ChainHead, RenderedDecision, seal, seal_rendered};
use aa_policy::{Facts, PolicySet, check, decide};
use aa_protocol::{Action, ActionId, Timestamp, wire::v1};
use prost::Message;
use serde_json::Value;

/// Something that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Summary,
    Seal,
    SealRendered,
    Export,
    Verify,
    VerifyMacs,
    WireAction,
    Scan,
    DecideSmall,
    DecideHundred,
    Compile,
    DecideThousand,
}

/// The name of the function that is counted.
pub(crate) const SECTION: &str = "counted_section";

const ENTRIES: u64 = 500;
const SCANNED_KIB: u64 = 64;
const COMPILED_RULES: u64 = 100;
/// Engines of the same rules, over which the chance in their hash maps evens out.
const ENGINES: u64 = 4;
/// How often each engine decides each sample action.
const DECIDED: u64 = 12;

// === impl Subject ===

impl Subject {
    /// Every subject, the quickest first.
    pub(crate) const ALL: [Self; 12] = [
        Self::Summary,
        Self::Seal,
        Self::SealRendered,
        Self::WireAction,
        Self::Export,
        Self::Verify,
        Self::VerifyMacs,
        Self::DecideSmall,
        Self::Scan,
        Self::Compile,
        Self::DecideHundred,
        Self::DecideThousand,
    ];

    /// The name in the file of accepted figures.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Summary => "action_summary",
            Self::Seal => "seal",
            Self::SealRendered => "seal_rendered",
            Self::Export => "export_entry",
            Self::Verify => "verify_entry",
            Self::VerifyMacs => "verify_entry_with_mac",
            Self::WireAction => "action_from_wire",
            Self::Scan => "scan_kib",
            Self::DecideSmall => "decide_10_rules",
            Self::DecideHundred => "decide_100_rules",
            Self::DecideThousand => "decide_1000_rules",
            Self::Compile => "compile_rule",
        }
    }

    /// The subject of a name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|subject| subject.name() == name)
    }

    /// Runs the subject, its counted section so many times, and says how many operations stand in it.
    ///
    /// # Errors
    /// The data cannot be prepared, or an operation fails.
    pub(crate) fn run(self, times: u64) -> Result<u64, Error> {
        match self {
            Self::Summary => summary(times),
            Self::Seal => sealing(times, |drafts, _, number, head, out| {
                let summary = drafts.summary(number);
                black_box(seal(&drafts.draft(number, &summary), head, &drafts.mac_key, out));
            }),
            Self::SealRendered => sealing(times, |drafts, rendered, number, head, out| {
                let summary = drafts.summary(number);
                let draft = drafts.draft(number, &summary);
                black_box(seal_rendered(&draft, rendered, head, &drafts.mac_key, out));
            }),
            Self::Export => export(times),
            Self::Verify => verification(times, false),
            Self::VerifyMacs => verification(times, true),
            Self::WireAction => wire_action(times),
            Self::Scan => scan(times),
            Self::DecideSmall => decisions(times, 10, 1),
            Self::DecideHundred => decisions(times, 100, 5),
            Self::DecideThousand => decisions(times, 1_000, 5),
            Self::Compile => compilation(times),
        }
    }
}

/// Runs the work once uncounted, since what is made once and kept is not part of an operation.
fn counted(times: u64, mut work: impl FnMut() -> Result<(), Error>) -> Result<(), Error> {
    work()?;
    (0..times).try_for_each(|_| counted_section(&mut work))
}

#[inline(never)]
fn counted_section(work: &mut dyn FnMut() -> Result<(), Error>) -> Result<(), Error> {
    work()
}

fn summary(times: u64) -> Result<u64, Error> {
    let drafts = Drafts::new()?;
    counted(times, || {
        for number in 0..ENTRIES {
            black_box(drafts.summary(black_box(number)));
        }
        Ok(())
    })?;
    Ok(ENTRIES)
}

fn sealing(
    times: u64,
    seal: impl Fn(&Drafts, &RenderedDecision, u64, &mut ChainHead, &mut Vec<u8>),
) -> Result<u64, Error> {
    let drafts = Drafts::new()?;
    let rendered = drafts.rendered();
    let mut heads = drafts.heads();
    let mut out = Vec::with_capacity(4_096);
    counted(times, || {
        for number in 0..ENTRIES {
            out.clear();
            seal(&drafts, &rendered, number, &mut heads[drafts.stream(number)], &mut out);
        }
        Ok(())
    })?;
    Ok(ENTRIES)
}

fn export(times: u64) -> Result<u64, Error> {
    let log = SampleLog::new(&Drafts::new()?, ENTRIES)?;
    let mut out = Vec::new();
    counted(times, || {
        out.clear();
        log.export(&mut out)
    })?;
    Ok(ENTRIES)
}

fn verification(times: u64, with_macs: bool) -> Result<u64, Error> {
    let log = SampleLog::new(&Drafts::new()?, ENTRIES)?;
    let mut export = Vec::new();
    log.export(&mut export)?;
    counted(times, || prove(&export, Some(&log.keys).filter(|_| with_macs)))?;
    Ok(ENTRIES)
}

fn wire_action(times: u64) -> Result<u64, Error> {
    let drafts = Drafts::new()?;
    let id = ActionId::from_bytes([0x5a; 16]);
    let message = v1::Action::from_parts(id, Some([0xa5; 16]), &drafts.action).encode_to_vec();
    counted(times, || {
        for _ in 0..ENTRIES {
            black_box(v1::Action::decode(black_box(message.as_slice()))?.into_parts()?);
        }
        Ok(())
    })?;
    Ok(ENTRIES)
}

fn scan(times: u64) -> Result<u64, Error> {
    let patterns = serde_json::to_string(&OF_THE_SPEC)?;
    let document = format!(
        "apiVersion: agent-assembly/v1\nkind: Policy\nmetadata:\n  name: data\n  version: \"1.0.0\"\nspec:\n  \
         scope: global\n  data:\n    sensitive_patterns: {patterns}\n"
    );
    let checked = check(document.as_bytes(), "data");
    let policy = checked.policy.ok_or_else(|| format!("{:?}", checked.errors))?;
    let agent = Scenario::new(1, 1).agent()?;
    let policies = PolicySet::new([(Arc::new(policy), Some(1))])?.for_agent(&agent);
    let content = Value::from(Kind::Prose.clean(SCANNED_KIB as usize * 1_024));
    let action = Action::ToolResult { tool: "read_page".to_owned(), content };
    counted(times, || {
        black_box(decide(&policies, &Facts::of(&agent), &action, Timestamp::default()));
        Ok(())
    })?;
    Ok(SCANNED_KIB)
}

fn decisions(times: u64, rules: usize, scopes: usize) -> Result<u64, Error> {
    let scenario = Scenario::new(rules, scopes);
    let engine = |_| Ours::new(&scenario, Shape::Shared);
    let mut engines = (0..ENGINES).map(engine).collect::<Result<Vec<_>, _>>()?;
    let samples = scenario.samples()?.len();
    counted(times, || {
        for engine in &mut engines {
            for sample in (0..DECIDED).flat_map(|_| 0..samples) {
                black_box(engine.decide(black_box(sample))?);
            }
        }
        Ok(())
    })?;
    Ok(ENGINES * DECIDED * samples as u64)
}

fn compilation(times: u64) -> Result<u64, Error> {
    let documents = Scenario::new(COMPILED_RULES as usize, 5).documents();
    counted(times, || {
        for document in &documents {
            black_box(check(black_box(document.as_bytes()), "benchmark"));
        }
        Ok(())
    })?;
    Ok(COMPILED_RULES)
}
