//! The search of one text for one pattern, byte by byte.
//!
//! It is Pike's simulation of Thompson's automaton (Thompson 1968; Pike; Cox, "Regular Expression Matching:
//! the Virtual Machine Approach", 2009): the threads of all matches that are still possible go through the
//! text side by side, in the order of their priority, and of two in one state only the first is kept.
//! Each knows where its match begins, so the earliest place at which a match is still possible is that
//! of the first thread.
//!
//! Iterating over matches would have to go back to the end of a match once it is decided, for instance to
//! `a` in `aaaa` when `a.*b|a` did not find its `b`: then it needs the text, and time that grows with its
//! square. Here the search for the next match begins at once where a match *may* end, with threads of a
//! lower priority than those that may still replace it. Where one of them is in a state that a thread of an
//! earlier search is in, it is dropped: either both come to nothing, or the earlier one replaces the
//! match on which the later search stands. So there are never more threads than states, no text is kept, and
//! each byte is looked at once.

use std::{collections::VecDeque, ops::Range};

use regex_automata::util::primitives::StateID;

use crate::program::{Around, Program, Visits, next};

/// A search that something may still come of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Search {
    /// In the order of their priority, so by search and by start.
    threads: Vec<Thread>,
    /// What searches found that threads may still replace, from the oldest search on. The search after the last
    /// of them has found nothing so far.
    undecided: VecDeque<Found>,
    /// The number of the oldest search.
    oldest: u64,
    /// Where the last search begins.
    from: u64,
}

/// What searches need besides, one after another.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    visits: Visits,
    threads: Vec<Thread>,
}

#[derive(Clone, Copy, Debug)]
struct Thread {
    /// What follows the byte it took.
    state: StateID,
    start: u64,
    search: u64,
}

#[derive(Clone, Debug)]
struct Found {
    at: Range<u64>,
    /// Whether it is no match for being empty at the end of another; the next search begins behind it.
    is_void: bool,
}

/// Of a pattern with unbounded matches, the most that may be undecided: past it, the oldest is decided.
const MAX_UNDECIDED: usize = 4_096;

// === impl Search ===

impl Search {
    /// Goes to a place of the text: takes the byte that follows it, or its end. Reports the matches
    /// that are decided by it.
    pub(crate) fn step(
        &mut self,
        program: &Program,
        scratch: &mut Scratch,
        at: u64,
        around: Around,
        report: &mut impl FnMut(Range<u64>),
    ) {
        let Scratch { visits, threads: out } = scratch;
        visits.begin(program);
        out.clear();
        let mut follow = |thread: Thread, visits: &mut Visits| {
            let visit = |state: &_| {
                if let Some(state) = around.after.and_then(|byte| next(state, byte)) {
                    out.push(Thread { state, ..thread });
                }
            };
            program.visit(thread.state, around, visits, visit).is_break()
        };
        let begin = |search: u64| Thread { state: program.start(), start: at, search };

        let mut found = self.threads.iter().find(|thread| follow(**thread, visits)).copied();
        // Matches are valid UTF-8, and begin where a character does.
        let is_boundary = around.after.is_none_or(|byte| byte & 0xc0 != 0x80);
        if found.is_none() && is_boundary && self.from <= at && program.can_begin(around) {
            let thread = begin(self.last());
            found = follow(thread, visits).then_some(thread);
        }
        if let Some(thread) = found {
            self.found(thread.search, Found { at: thread.start..at, is_void: false });
            self.from = at;
            visits.begin_again();
            let last = self.last();
            if follow(begin(last), visits) {
                self.found(last, Found { at: at..at, is_void: true });
                self.from = at + 1;
            }
        }
        std::mem::swap(&mut self.threads, out);
        self.decide(report);
        while program.longest.is_none() && self.undecided.len() > MAX_UNDECIDED {
            let oldest = self.oldest;
            self.threads.retain(|thread| thread.search > oldest);
            self.decide(report);
        }
    }

    /// Whether nothing will come of it but what a new search would find as well.
    pub(crate) fn is_over(&self) -> bool {
        self.threads.is_empty() && self.undecided.is_empty()
    }

    /// The earliest place at which a match may begin that was not reported.
    pub(crate) fn earliest(&self) -> Option<u64> {
        // What is undecided is so because of a thread with a higher priority, which starts no later.
        self.threads.first().map(|thread| thread.start)
    }

    /// A part of the text that a match not yet reported covers for certain. One that replaces it reaches
    /// further at both ends.
    pub(crate) fn certain(&self) -> Option<Range<u64>> {
        self.undecided.iter().find(|found| !found.is_void).map(|found| found.at.clone())
    }

    /// Every such part.
    pub(crate) fn all_certain(&self) -> impl Iterator<Item = Range<u64>> {
        self.undecided.iter().filter(|found| !found.is_void).map(|found| found.at.clone())
    }

    fn last(&self) -> u64 {
        self.oldest + self.undecided.len() as u64
    }

    /// Takes what a search found. What later searches found stood on what it had found before.
    fn found(&mut self, search: u64, found: Found) {
        self.undecided.truncate((search - self.oldest) as usize);
        self.undecided.push_back(found);
    }

    /// Reports what no thread can replace any more.
    fn decide(&mut self, report: &mut impl FnMut(Range<u64>)) {
        let undecided = self.threads.first().map_or(u64::MAX, |thread| thread.search);
        while self.oldest < undecided
            && let Some(found) = self.undecided.pop_front()
        {
            self.oldest += 1;
            if !found.is_void {
                report(found.at);
            }
        }
    }
}
