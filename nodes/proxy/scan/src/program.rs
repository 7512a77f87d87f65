//! One pattern as an automaton, and what of it can be told ahead of any text.

use std::ops::ControlFlow;

use regex_automata::{
    nfa::thompson::{self, NFA, State, WhichCaptures},
    util::{look::LookMatcher, primitives::StateID},
};
use regex_syntax::hir::Hir;

/// A pattern's automaton: Thompson's, over bytes, with the alternatives of a state in the order of their
/// priority.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    nfa: NFA,
    looks: LookMatcher,
    /// Whether the empty text can match somewhere.
    pub(crate) can_be_empty: bool,
    /// The most bytes of a match, where they are bounded.
    pub(crate) longest: Option<usize>,
    /// The first bytes of matches that are not empty, behind each kind of byte.
    first: [FirstBytes; Before::ALL.len()],
}

/// The bytes around a place of a text: all that anchors and word boundaries ask about, since those of RE2
/// are ASCII and its lines end with `\n`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Around {
    /// `None` at the beginning of the text.
    pub(crate) before: Option<u8>,
    /// `None` at the end of the text.
    pub(crate) after: Option<u8>,
}

/// What stands before a place, as far as anchors and word boundaries tell it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    Nothing,
    LineEnd,
    Word,
    Other,
}

/// Which states were visited at a place, and a stack for visiting them. Of one pattern at a time.
#[derive(Debug, Default)]
pub(crate) struct Visits {
    /// For each state the number of the round in which it was last visited.
    rounds: Vec<u32>,
    round: u32,
    /// The round from which on visits of states that take a byte count.
    since: u32,
    stack: Vec<StateID>,
}

/// Bytes for which a match may begin, one bit each.
pub(crate) type FirstBytes = [u64; 4];

/// A match was reached; what has a lower priority is not wanted.
pub(crate) struct Reached;

// === impl Program ===

impl Program {
    /// Compiles the automaton of a pattern, up to a size in bytes.
    pub(crate) fn compile(
        hir: &Hir,
        longest: Option<usize>,
        most: usize,
    ) -> Result<Self, Box<thompson::BuildError>> {
        let config = thompson::Config::new()
            .utf8(true)
            .which_captures(WhichCaptures::None)
            .nfa_size_limit(Some(most));
        let nfa = thompson::Compiler::new().configure(config).build_from_hir(hir)?;
        let looks = nfa.look_matcher().clone();
        let first = Default::default();
        let mut program = Self { nfa, looks, can_be_empty: false, longest, first };
        program.first = Before::ALL.map(|before| program.first_bytes(before));
        let ends = [None, Some(b'\n'), Some(b'a'), Some(b' ')];
        program.can_be_empty = Before::ALL.into_iter().any(|before| {
            ends.into_iter().any(|after| {
                let around = Around { before: before.example(), after };
                let mut visits = Visits::default();
                visits.begin(&program);
                program.visit(program.start(), around, &mut visits, |_| ()).is_break()
            })
        });
        Ok(program)
    }

    /// Where each match begins.
    pub(crate) fn start(&self) -> StateID {
        self.nfa.start_anchored()
    }

    /// Bytes on the heap.
    pub(crate) fn memory_usage(&self) -> usize {
        self.nfa.memory_usage()
    }

    /// Whether a match may begin at such a place.
    #[inline]
    pub(crate) fn can_begin(&self, around: Around) -> bool {
        self.can_be_empty
            || around.after.is_some_and(|byte| {
                let first = &self.first[Before::of(around.before) as usize];
                first[usize::from(byte >> 6)] >> (byte & 63) & 1 == 1
            })
    }

    fn first_bytes(&self, before: Before) -> FirstBytes {
        let mut first = FirstBytes::default();
        // All that anchors tell apart of a byte that follows.
        for after in [b'\n', b'a', b' '] {
            let around = Around { before: before.example(), after: Some(after) };
            let of_kind = |byte: &u8| Before::of(Some(*byte)) == Before::of(Some(after));
            let mut visits = Visits::default();
            visits.begin(self);
            let _ = self.visit(self.start(), around, &mut visits, |state| {
                let bytes = (0..=u8::MAX).filter(of_kind);
                for byte in bytes.filter(|byte| next(state, *byte).is_some()) {
                    first[usize::from(byte >> 6)] |= 1 << (byte & 63);
                }
            });
        }
        first
    }

    /// Visits the states that take a byte and can be reached from one without taking any, in the order of
    /// their priority and none of them twice. Breaks where the match is one of them.
    pub(crate) fn visit(
        &self,
        from: StateID,
        around: Around,
        visits: &mut Visits,
        mut each: impl FnMut(&State),
    ) -> ControlFlow<Reached> {
        visits.stack.clear();
        visits.stack.push(from);
        while let Some(id) = visits.stack.pop() {
            let state = self.nfa.state(id);
            match state {
                State::ByteRange { .. } | State::Sparse(_) | State::Dense(_) => {
                    if visits.is_first_of_byte(id) {
                        each(state);
                    }
                }
                State::Match { .. } => return ControlFlow::Break(Reached),
                State::Fail => {}
                State::Look { look, next } => {
                    if visits.is_first(id) && around.fulfils(&self.looks, *look) {
                        visits.stack.push(*next);
                    }
                }
                State::Capture { next, .. } => visits.stack.push(*next),
                State::BinaryUnion { alt1, alt2 } => {
                    if visits.is_first(id) {
                        visits.stack.extend([*alt2, *alt1]);
                    }
                }
                State::Union { alternates } => {
                    if visits.is_first(id) {
                        visits.stack.extend(alternates.iter().rev());
                    }
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// The state behind one that takes this byte.
#[inline]
pub(crate) fn next(state: &State, byte: u8) -> Option<StateID> {
    match state {
        State::ByteRange { trans } => trans.matches_byte(byte).then_some(trans.next),
        State::Sparse(sparse) => sparse.matches_byte(byte),
        State::Dense(dense) => dense.matches_byte(byte),
        _ => None,
    }
}

// === impl Around ===

impl Around {
    fn fulfils(self, looks: &LookMatcher, look: regex_automata::util::look::Look) -> bool {
        match (self.before, self.after) {
            (None, None) => looks.matches(look, &[], 0),
            (None, Some(after)) => looks.matches(look, &[after], 0),
            (Some(before), None) => looks.matches(look, &[before], 1),
            (Some(before), Some(after)) => looks.matches(look, &[before, after], 1),
        }
    }
}

// === impl Before ===

impl Before {
    pub(crate) const ALL: [Self; 4] = [Self::Nothing, Self::LineEnd, Self::Word, Self::Other];

    #[inline]
    pub(crate) const fn of(byte: Option<u8>) -> Self {
        match byte {
            None => Self::Nothing,
            Some(b'\n') => Self::LineEnd,
            Some(b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'_') => Self::Word,
            Some(_) => Self::Other,
        }
    }

    pub(crate) const fn example(self) -> Option<u8> {
        match self {
            Self::Nothing => None,
            Self::LineEnd => Some(b'\n'),
            Self::Word => Some(b'a'),
            Self::Other => Some(b' '),
        }
    }
}

// === impl Visits ===

impl Visits {
    /// Forgets all visits, for a place of a text and a pattern.
    #[inline]
    pub(crate) fn begin(&mut self, program: &Program) {
        let states = program.nfa.states().len();
        if self.rounds.len() < states {
            self.rounds.resize(states, 0);
        }
        if self.round >= u32::MAX - 4 {
            self.rounds.fill(0);
            self.round = 0;
        }
        self.round += 1;
        self.since = self.round;
    }

    /// Forgets all visits but those of states that take a byte.
    pub(crate) fn begin_again(&mut self) {
        self.round += 1;
    }

    fn is_first(&mut self, id: StateID) -> bool {
        let Some(round) = self.rounds.get_mut(id.as_usize()) else { return false };
        *round < self.round && {
            *round = self.round;
            true
        }
    }

    fn is_first_of_byte(&mut self, id: StateID) -> bool {
        let Some(round) = self.rounds.get_mut(id.as_usize()) else { return false };
        *round < self.since && {
            *round = self.since;
            true
        }
    }
}
