//! Patterns, compiled for text that comes in pieces.

use std::{fmt, sync::Arc};

use aa_policy::{PatternError, SensitivePattern};
use regex_automata::util::pool::Pool;

use crate::{
    program::{Around, Before, Program},
    search::Scratch,
};

/// Patterns to search texts for. Cheap to clone; shared by all scanners of all streams.
#[derive(Clone)]
pub struct Rules(Arc<Compiled>);

/// How much text a scanner may hold back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The most bytes behind [`Scanned::released`](crate::Scanned::released) in which no match is certain.
    pub most: usize,
    /// Whether that holds every match. It does not when the matches of a pattern are unbounded: one that is not
    /// certain within 3,837 bytes may have begun in text that is released when it becomes so.
    pub is_whole: bool,
}

/// Patterns that cannot be searched for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pattern {pattern}: {problem}")]
pub struct RuleError {
    /// The number of the pattern, from 0.
    pub pattern: usize,
    /// What is wrong with it.
    pub problem: RuleProblem,
}

/// What is wrong with a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleProblem {
    /// A policy would not take it either.
    #[error("not an RE2 pattern: {0}")]
    Invalid(PatternError),
    /// It alone, or with those before it, passes a bound.
    #[error("the patterns pass the bound of {0}; use fewer or shorter ones")]
    TooLarge(&'static str),
}

struct Compiled {
    programs: Vec<Program>,
    /// The patterns that a match of may begin with a byte, behind each kind of byte.
    starters: [Starters; Before::ALL.len()],
    /// The patterns that the empty text can match, which no byte announces.
    ever: Vec<u32>,
    hold: Hold,
    scratch: Pool<Scratch, fn() -> Scratch>,
}

/// For each byte the patterns of which a match may begin with it.
#[derive(Debug, Default)]
struct Starters {
    /// Where those of a byte are in `patterns`; one more than there are bytes.
    starts: Vec<u32>,
    patterns: Vec<u32>,
}

/// What is held back at most for patterns whose matches are unbounded, in bytes.
const HOLD_OF_UNBOUNDED: usize = 4 << 10;
/// When more is held, it is released up to a multiple of so many bytes, or the end of the character there.
pub(crate) const GRID: u64 = 256;
/// What is held back in any case.
pub(crate) const LEAST_HOLD_OF_UNBOUNDED: usize = HOLD_OF_UNBOUNDED - GRID as usize - 3;
/// Those of several documents together.
const MAX_PATTERNS: usize = 8_192;
/// Bytes of one automaton, and of all.
const MAX_COMPILED: usize = 1 << 20;
const MAX_COMPILED_ALL: usize = 64 << 20;

// === impl Rules ===

impl Rules {
    /// Compiles patterns; a pattern's number is its place among them.
    ///
    /// # Errors
    /// When a policy would not take one of them, or they pass a bound together: 8,192 patterns, 64 MiB
    /// compiled.
    pub fn compile<S: AsRef<str>>(patterns: &[S]) -> Result<Self, RuleError> {
        if patterns.len() > MAX_PATTERNS {
            let problem = RuleProblem::TooLarge("8,192 patterns");
            return Err(RuleError { pattern: MAX_PATTERNS, problem });
        }
        let mut programs = Vec::with_capacity(patterns.len());
        let mut size = 0;
        for (pattern, text) in patterns.iter().enumerate() {
            let fail = |problem| RuleError { pattern, problem };
            let read = SensitivePattern::compile(text.as_ref())
                .map_err(|error| fail(RuleProblem::Invalid(error)))?;
            // What a policy takes is smaller, so it can only be for its size.
            let program = Program::compile(read.hir(), read.longest(), MAX_COMPILED)
                .map_err(|_| fail(RuleProblem::TooLarge("1 MiB compiled")))?;
            size += program.memory_usage();
            if size > MAX_COMPILED_ALL {
                return Err(fail(RuleProblem::TooLarge("64 MiB compiled together")));
            }
            programs.push(program);
        }
        Ok(Self(Arc::new(Compiled::new(programs))))
    }

    /// Whether there is no pattern: nothing is ever held back.
    pub fn is_empty(&self) -> bool {
        self.0.programs.is_empty()
    }

    /// How many patterns there are.
    pub fn len(&self) -> usize {
        self.0.programs.len()
    }

    /// How much a scanner may hold back.
    pub fn longest(&self) -> Hold {
        self.0.hold
    }

    pub(crate) fn program(&self, pattern: u32) -> Option<&Program> {
        self.0.programs.get(pattern as usize)
    }

    /// The patterns of which a match may begin with such a byte in such a place, but those of
    /// [`ever`](Self::ever).
    #[inline]
    pub(crate) fn starting(&self, before: Before, byte: u8) -> &[u32] {
        let Some(starters) = self.0.starters.get(before as usize) else { return &[] };
        let bound = |byte: usize| starters.starts.get(byte).map_or(0, |at| *at as usize);
        let range = bound(byte.into())..bound(usize::from(byte) + 1);
        starters.patterns.get(range).unwrap_or_default()
    }

    /// The patterns that can match anywhere.
    pub(crate) fn ever(&self) -> &[u32] {
        &self.0.ever
    }

    /// Runs with a scratch of the pool.
    pub(crate) fn with_scratch<T>(&self, run: impl FnOnce(&mut Scratch) -> T) -> T {
        run(&mut self.0.scratch.get())
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules").field("patterns", &self.len()).finish_non_exhaustive()
    }
}

// === impl Compiled ===

impl Compiled {
    fn new(programs: Vec<Program>) -> Self {
        let ever = (0..).zip(&programs).filter(|(_, program)| program.can_be_empty);
        let ever = ever.map(|(pattern, _)| pattern).collect();
        let bounded = programs.iter().filter_map(|program| program.longest).max().unwrap_or(0);
        let is_whole = programs.iter().all(|program| program.longest.is_some());
        let most = if is_whole { bounded } else { bounded.max(HOLD_OF_UNBOUNDED) };
        Self {
            starters: Before::ALL.map(|before| Starters::of(&programs, before)),
            programs,
            ever,
            hold: Hold { most, is_whole },
            scratch: Pool::new(Scratch::default),
        }
    }
}

// === impl Starters ===

impl Starters {
    fn of(programs: &[Program], before: Before) -> Self {
        let mut of_bytes: [Vec<u32>; 256] = [const { Vec::new() }; 256];
        for (pattern, program) in (0..).zip(programs).filter(|(_, program)| !program.can_be_empty) {
            for (byte, patterns) in (0..=u8::MAX).zip(&mut of_bytes) {
                let around = Around { before: before.example(), after: Some(byte) };
                if program.can_begin(around) {
                    patterns.push(pattern);
                }
            }
        }
        let mut starters = Self::default();
        for patterns in of_bytes {
            starters.starts.push(starters.patterns.len() as u32);
            starters.patterns.extend(patterns);
        }
        starters.starts.push(starters.patterns.len() as u32);
        starters
    }
}
