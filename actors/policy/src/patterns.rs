//! Patterns searched together.
//!
//! Most patterns demand some bytes that common text seldom has in a row. One pass over the text looks for
//! those of all patterns at once (`factor`, `filter`); only around what it finds, the pattern itself is
//! asked. Patterns that demand nothing of the kind are joined in one automaton. What is found is what
//! each pattern by itself would find.

mod byte_set;
mod factor;
mod filter;
mod frequency;
mod window;

use std::ops::Range;

use regex_automata::{Input, meta};

use self::{
    factor::Factor,
    filter::{Candidate, Filter, Room},
};
use crate::re2::{self, Compiled, PatternError};

/// The patterns of one document.
#[derive(Clone, Debug)]
pub(crate) struct Patterns {
    single: Vec<Single>,
    /// One, or several where there is no room for all in one.
    filters: Vec<Filter>,
    /// The patterns that the filters know nothing of, and all of them as one automaton.
    unfiltered: Vec<u32>,
    together: Option<meta::Regex>,
}

/// What is to be searched for after a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The next match, of this pattern or another.
    Match,
    /// The next pattern.
    Pattern,
    /// Nothing.
    Nothing,
}

#[derive(Clone, Debug)]
struct Single {
    regex: meta::Regex,
    /// The most bytes that a match has, where they are bounded.
    longest: Option<usize>,
}

/// Filters being filled.
struct Packing {
    filters: Vec<Filter>,
    /// What goes into the next.
    factors: Vec<(u32, Factor)>,
    /// What there is still room for in it.
    room: Room,
}

/// From so many candidates on, the text is searched as a whole.
const MAX_CANDIDATES: u8 = 64;
/// Each is one more pass over every text, and takes up to a megabyte.
const MAX_FILTERS: usize = 16;

// === impl Patterns ===

impl Patterns {
    /// Joins patterns that each compile by themselves.
    pub(crate) fn new(compiled: Vec<Compiled>) -> Result<Self, PatternError> {
        let mut single = Vec::with_capacity(compiled.len());
        let mut unfiltered = Vec::new();
        let mut texts = Vec::new();
        let mut packing = Packing { filters: Vec::new(), factors: Vec::new(), room: Room::new() };
        for (pattern, Compiled { regex, translated, hir }) in (0..).zip(compiled) {
            let is_filtered =
                factor::required(&hir).is_some_and(|found| packing.add(pattern, found));
            if !is_filtered {
                unfiltered.push(pattern);
                texts.push(translated);
            }
            single.push(Single { regex, longest: hir.properties().maximum_len() });
        }
        let together = if texts.is_empty() { None } else { Some(re2::compile_together(&texts)?) };
        let filters = packing.finish();
        Ok(Self { single, filters, unfiltered, together })
    }

    /// Visits the matches by pattern and then by place, until it is told that nothing more is of interest.
    pub(crate) fn search(&self, text: &str, visit: &mut dyn FnMut(usize, Range<usize>) -> Next) {
        let mut candidates = self.candidates(text);
        if self.together.as_ref().is_some_and(|together| together.is_match(text)) {
            candidates.extend(self.unfiltered.iter().map(|pattern| Candidate {
                pattern: *pattern,
                earliest: 0,
                latest: usize::MAX,
            }));
        }
        candidates.sort_unstable_by_key(|candidate| (candidate.pattern, candidate.earliest));
        candidates.dedup();
        for of_pattern in candidates.chunk_by(|a, b| a.pattern == b.pattern) {
            let Some(pattern) = of_pattern.first().map(|first| first.pattern as usize) else {
                continue;
            };
            let Some(single) = self.single.get(pattern) else { continue };
            if single.search(text, of_pattern, &mut |range| visit(pattern, range)) == Next::Nothing
            {
                return;
            }
        }
    }

    fn candidates(&self, text: &str) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        let mut counts = Vec::new();
        let mut note = |candidate: Candidate| {
            if counts.is_empty() {
                counts.resize(self.single.len(), 0_u8);
            }
            let pattern = candidate.pattern as usize;
            let Some(count) = counts.get_mut(pattern) else { return };
            if *count < MAX_CANDIDATES {
                *count += 1;
                candidates.push(candidate);
            } else if *count == MAX_CANDIDATES {
                *count += 1;
                // Each way to find factors is a pass of its own: a later one can be anywhere.
                candidates.push(Candidate { earliest: 0, latest: usize::MAX, ..candidate });
            }
        };
        for filter in &self.filters {
            filter.scan(text.as_bytes(), &mut note);
        }
        candidates
    }
}

// === impl Packing ===

impl Packing {
    /// Takes the factors of a pattern; `false` when there is no room for them.
    fn add(&mut self, pattern: u32, found: Vec<Factor>) -> bool {
        if !self.room.take(&found) {
            let mut room = Room::new();
            if self.filters.len() + 1 == MAX_FILTERS || !room.take(&found) {
                return false;
            }
            // One more pass costs little beside what the automaton does.
            self.filters.push(Filter::new(std::mem::take(&mut self.factors)));
            self.room = room;
        }
        self.factors.extend(found.into_iter().map(|factor| (pattern, factor)));
        true
    }

    fn finish(mut self) -> Vec<Filter> {
        self.filters.push(Filter::new(self.factors));
        self.filters
    }
}

// === impl Single ===

impl Single {
    /// The matches around the candidates, which are in the order of their earliest starts. The start of each
    /// match lies within one of them, so the leftmost match from the earliest start of the next candidate
    /// is the next match of the text.
    fn search(
        &self,
        text: &str,
        candidates: &[Candidate],
        visit: &mut dyn FnMut(Range<usize>) -> Next,
    ) -> Next {
        let mut at = 0;
        for candidate in candidates {
            let end = self.longest.and_then(|longest| candidate.latest.checked_add(longest));
            let Some(end) = end.filter(|end| *end < text.len()) else {
                let rest = Input::new(text).range(candidate.earliest.max(at)..);
                let mut rest = self.regex.find_iter(rest).map(|found| visit(found.range()));
                return rest.find(|next| *next != Next::Match).unwrap_or(Next::Pattern);
            };
            loop {
                // What begins past the candidate may be cut off at the end, and is another candidate's.
                let start = candidate.earliest.max(at).min(end);
                let found = self.regex.find(Input::new(text).range(start..end));
                let Some(found) = found.filter(|found| found.start() <= candidate.latest) else {
                    break;
                };
                match visit(found.range()) {
                    Next::Match => at = found.end(),
                    next => return next,
                }
            }
        }
        Next::Pattern
    }
}

#[cfg(test)]
mod tests;
