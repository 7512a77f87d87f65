//! `requires_approval_if`: CEL, checked to the last node before it is accepted, compiled once.
//!
//! The evaluator has no cost limit, so cost is bounded by what is accepted: the size of the expression,
//! no comprehension inside another, and at run time the size of what it would walk through.

mod checker;
mod program;
mod signatures;
mod subject;

use std::sync::{Arc, LazyLock};

use aa_protocol::{AgentFacts, AgentId, GovernanceLevel, Timestamp};
use cel::{
    Context, Env, Value,
    common::types::{CelBool, CelString, STRING_TYPE, Type as CelType},
    common::value::{CowVal, StaticVal, Val},
    parser::Expression,
};
use regex_automata::meta::Regex;

pub(crate) use self::subject::Subject;
use self::{
    checker::Checker,
    program::Program,
    subject::{Resolver, Size},
};
use crate::{
    diagnostic::{Diagnostic, DiagnosticCode, Report},
    policy::Site,
    tree::Node,
};

/// A compiled condition.
#[derive(Debug)]
pub(crate) struct Condition {
    pub(crate) site: Site,
    /// The expression as written, for messages.
    pub(crate) text: String,
    expression: Expression,
    /// The same, when it has only common parts.
    program: Option<Program>,
    /// Compiled arguments of `matches`, bound as `@pattern0`, `@pattern1`, …
    patterns: Vec<Pattern>,
    nodes: usize,
    has_comprehension: bool,
    reads: Reads,
    /// The value at each level, when nothing else is read.
    by_level: Option<[Result<bool, ConditionFault>; 4]>,
}

/// What an expression reads beside the governance level.
#[derive(Clone, Copy, Debug, Default)]
struct Reads {
    /// `tool` or `now`.
    call: bool,
    args: bool,
    agent: bool,
}

/// Why a condition has no value. It holds no data of the action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConditionFault {
    /// An evaluation error, such as a missing argument or operands that do not go together.
    Evaluation(&'static str),
    /// The arguments are larger than the condition may walk through.
    TooLarge,
}

/// A regex as a value of the evaluator.
#[derive(Clone, Debug)]
struct Pattern(Arc<Regex>);

/// A problem at a place of the expression.
#[derive(Debug)]
struct Fault {
    code: DiagnosticCode,
    /// Characters before it.
    offset: usize,
    message: String,
    help: Option<String>,
}

const MAX_CHARACTERS: usize = 2_048;
/// Characters outside string literals that are neither letters, digits nor space: each can add a level
/// to the tree.
const MAX_PUNCTUATION: usize = 400;
const MAX_BRACKETS: usize = 24;
const MAX_NODES: usize = 512;
const MAX_TREE_DEPTH: usize = 64;
/// Nodes of the expression times what each may walk through; about 10 ns apiece.
const MAX_WORK: usize = 2_000_000;

static PATTERN_TYPE: CelType = CelType::new_unspecified_type("pattern");

/// The functions of the standard library and `@matches`, built once and shared.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut environment = Env::stdlib().with_optional_support(false);
    let declared = environment.add_overload(
        "@matches",
        "string_pattern",
        vec![STRING_TYPE, CelType::new_unspecified_type("pattern")],
        matches,
    );
    debug_assert!(declared.is_ok(), "the name is free: no expression can spell it");
    Arc::new(environment)
});

fn matches<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, cel::ExecutionError> {
    let text = arguments.first().and_then(|text| text.downcast_ref::<CelString<'_>>());
    let pattern = arguments.get(1).and_then(|pattern| pattern.downcast_ref::<Pattern>());
    match (text, pattern) {
        (Some(text), Some(Pattern(regex))) => {
            Ok(CowVal::owned(CelBool::from(regex.is_match(text.inner()))))
        }
        _ => Err(cel::ExecutionError::no_such_overload("matches", Vec::new())),
    }
}

// === impl Condition ===

impl Condition {
    /// Compiles the expression at `node`; problems go to the report.
    pub(crate) fn compile(
        node: &Node,
        site: Site,
        path: &str,
        source: &str,
        report: &mut Report,
    ) -> Option<Self> {
        let text = node.text().filter(|text| !text.trim().is_empty())?;
        if report.errors_are_full() {
            return None;
        }
        match Self::parse(text, site) {
            Ok(condition) => Some(condition),
            Err(faults) => {
                for fault in faults {
                    let place = node.place_of_character(source, fault.offset);
                    let mut error = Diagnostic::new(fault.code, path, place, fault.message);
                    error.help = fault.help;
                    report.error(error);
                }
                None
            }
        }
    }

    fn parse(text: &str, site: Site) -> Result<Self, Vec<Fault>> {
        bound_source(text).map_err(|fault| vec![fault])?;
        let (mut expression, positions) = ENVIRONMENT
            .parser()
            .parse_with_source_info(text)
            .map_err(|errors| syntax_faults(text, errors))?;
        let mut checker = Checker::new(&positions);
        checker.check(&mut expression);
        if !checker.faults.is_empty() {
            return Err(checker.faults);
        }
        let mut condition = Self {
            by_level: None,
            site,
            text: text.to_owned(),
            program: Program::compile(&expression),
            expression,
            nodes: checker.nodes,
            has_comprehension: checker.has_comprehension,
            reads: checker.reads,
            patterns: checker.patterns,
        };
        condition.by_level = condition.values_by_level();
        Ok(condition)
    }

    fn values_by_level(&self) -> Option<[Result<bool, ConditionFault>; 4]> {
        let Reads { call, args, agent } = self.reads;
        if call || args || agent {
            return None;
        }
        Some(GovernanceLevel::ALL.map(|governance_level| {
            let agent = AgentFacts {
                id: AgentId::from_uuid(uuid::Uuid::nil()),
                name: String::new(),
                org: None,
                team: None,
                governance_level,
                labels: std::collections::BTreeMap::new(),
            };
            let args = serde_json::Map::new();
            self.evaluate(&Subject::new("", &args, &agent, Timestamp::default()))
        }))
    }

    /// Whether a person must approve.
    ///
    /// # Errors
    /// When the expression has no boolean value for this subject.
    pub(crate) fn holds(&self, subject: &Subject<'_>) -> Result<bool, ConditionFault> {
        match &self.by_level {
            Some(values) => values[subject.governance_level() as usize],
            None => self.evaluate(subject),
        }
    }

    fn evaluate(&self, subject: &Subject<'_>) -> Result<bool, ConditionFault> {
        if self.work(subject) > MAX_WORK {
            return Err(ConditionFault::TooLarge);
        }
        let plain = self.program.as_ref().and_then(|one| one.holds(subject, &self.patterns));
        plain.map_or_else(|| self.evaluate_by_reference(subject), Ok)
    }

    /// By the evaluator that defines what a condition means.
    fn evaluate_by_reference(&self, subject: &Subject<'_>) -> Result<bool, ConditionFault> {
        let resolver = Resolver { subject, patterns: &self.patterns };
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        context.set_variable_resolver(&resolver);
        let value = Value::resolve_val(&self.expression, &context)
            .map_err(|error| ConditionFault::Evaluation(subject::kind_of(&error)))?;
        let value = value.downcast_ref::<CelBool>().map(|value| *value.inner());
        value.ok_or(ConditionFault::Evaluation("its value is not a boolean"))
    }

    /// An upper estimate of the steps an evaluation takes.
    fn work(&self, subject: &Subject<'_>) -> usize {
        let mut size = Size { values: self.nodes, bytes: self.text.len() };
        if self.reads.args {
            size = size.plus(subject.args_size());
        }
        if self.reads.agent {
            size = size.plus(subject.agent_size());
        }
        let passes = if self.has_comprehension { size.values } else { 1 };
        self.nodes.saturating_mul(passes).saturating_mul(size.values + size.bytes / 256)
    }
}

/// Refuses what could exhaust the parser itself.
fn bound_source(text: &str) -> Result<(), Fault> {
    let mut quote = None;
    let mut escaped = false;
    let (mut punctuation, mut brackets) = (0_usize, 0_usize);
    for (offset, character) in text.chars().enumerate() {
        let too_complex = |message: String| Fault {
            code: DiagnosticCode::ConditionTooComplex,
            offset,
            message,
            help: Some(
                "split it over several tools or documents, or compute it in the agent's labels"
                    .into(),
            ),
        };
        if offset >= MAX_CHARACTERS {
            return Err(too_complex(format!(
                "a condition has at most {MAX_CHARACTERS} characters"
            )));
        }
        match (quote, character) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), close) if open == close => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(character),
            (None, '(' | '[' | '{') => brackets += 1,
            (None, ')' | ']' | '}') => brackets = brackets.saturating_sub(1),
            (None, _) => {}
        }
        let counts = quote.is_none() && !character.is_alphanumeric() && !character.is_whitespace();
        punctuation += usize::from(counts);
        if brackets > MAX_BRACKETS {
            return Err(too_complex(format!("nested deeper than {MAX_BRACKETS} brackets")));
        }
        if punctuation > MAX_PUNCTUATION {
            return Err(too_complex(format!("more than {MAX_PUNCTUATION} operators and brackets")));
        }
    }
    Ok(())
}

fn syntax_faults(text: &str, errors: cel::ParseErrors) -> Vec<Fault> {
    let lines: Vec<usize> = text.split('\n').map(|line| line.chars().count() + 1).collect();
    errors
        .errors
        .into_iter()
        .take(5)
        .map(|error| {
            let (line, column) = error.pos;
            let before: usize = lines.iter().take(line.max(1) as usize - 1).sum();
            let message = error.msg.trim_start_matches("Syntax error: ").to_owned();
            Fault {
                code: DiagnosticCode::InvalidCondition,
                offset: before + (column.max(1) as usize - 1),
                message: format!("not a CEL expression: {message}"),
                help: None,
            }
        })
        .collect()
}

// === impl Pattern ===

impl Val for Pattern {
    fn get_type(&self) -> &CelType {
        &PATTERN_TYPE
    }

    fn cel_type() -> &'static CelType {
        &PATTERN_TYPE
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn std::any::Any> {
        Some(self)
    }
}

impl StaticVal for Pattern {}

#[cfg(test)]
mod tests;
