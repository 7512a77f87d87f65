//! The search of one text that comes in pieces.

use std::{collections::VecDeque, ops::Range};

use crate::{
    program::{Around, Before},
    rules::{GRID, LEAST_HOLD_OF_UNBOUNDED, Rules},
    search::{Scratch, Search},
};

/// Searches one text, piece by piece.
///
/// The matches reported, from the first piece to [`finish`](Self::finish), are those that a policy decision
/// finds in the whole text, pattern by pattern in the order of their places; how it is split makes no
/// difference. A match is reported once its end is known: one that may still grow (`\S+`) is certain before
/// that. It is also looked at by the byte behind it, which may be in the next piece.
///
/// The law has one bound: of a pattern with unbounded matches, at most 4,096 may wait for an earlier one to
/// be decided (`a.*b|a` in a long row of `a`). Past it the earliest is taken as it is.
///
/// Costs: each byte is looked at once, by the patterns that a match may begin with or that one has begun of;
/// at most as many steps as these have states. Memory: what of a match is still possible, no text.
#[derive(Clone, Debug)]
pub struct Scanner {
    rules: Rules,
    /// Of the patterns that something may still come of, in no order.
    searches: Vec<(u32, Search)>,
    /// One bit for each pattern: whether it is among `searches`.
    searched: Vec<u64>,
    /// Bytes so far.
    at: u64,
    last: Option<u8>,
    released: u64,
    /// Places that text can be released up to when too much is held: the last one before what is held for
    /// certain, and those behind it, [`GRID`] bytes from one to the next.
    boundaries: VecDeque<u64>,
}

/// What became known with a piece.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// How many bytes from the beginning of the text may leave: no match that is not reported is in them. Never
    /// less than before, and always between characters.
    ///
    /// With unbounded patterns, only what was held for [`Hold::most`](crate::Hold::most) bytes and is in no
    /// certain match may have a match in it that is reported later. What a certain match covers is not
    /// released until it is reported, however long it gets.
    pub released: u64,
    /// The earliest match that is not reported yet and will be, where there is one: a range that is in it. Who ends a
    /// text at the first match need not wait for the end of that.
    pub certain: Option<Match>,
    /// Matches whose ends are known now.
    pub matches: Vec<Match>,
}

/// A place where a pattern matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Match {
    /// The number of the pattern.
    pub pattern: u32,
    /// Bytes from the beginning of the text.
    pub at: Range<u64>,
}

// === impl Scanner ===

impl Scanner {
    /// A scanner at the beginning of a text.
    pub fn new(rules: &Rules) -> Self {
        let mut scanner = Self {
            rules: rules.clone(),
            searches: Vec::new(),
            searched: vec![0; rules.len().div_ceil(64)],
            at: 0,
            last: None,
            released: 0,
            boundaries: VecDeque::new(),
        };
        scanner.begin();
        scanner
    }

    /// Takes the next piece of the text.
    pub fn push(&mut self, text: &str) -> Scanned {
        if self.rules.is_empty() {
            self.at += text.len() as u64;
            return Scanned { released: self.at, ..Scanned::default() };
        }
        self.note_boundaries(text);
        let rules = self.rules.clone();
        let matches = rules.with_scratch(|scratch| self.scan(text.as_bytes(), scratch));
        self.release();
        Scanned { released: self.released, certain: self.certain(), matches }
    }

    /// Ends the text: all of it is released, and every match reported. The scanner is at the beginning of another
    /// text then.
    pub fn finish(&mut self) -> Scanned {
        let mut matches = Vec::new();
        let around = Around { before: self.last, after: None };
        let rules = self.rules.clone();
        rules.with_scratch(|scratch| self.step(scratch, around, &mut matches));
        let released = self.at;
        self.begin();
        Scanned { released, certain: None, matches }
    }

    /// Parts of the text that matches which are not reported yet cover for certain.
    pub(crate) fn all_certain(&self) -> impl Iterator<Item = Range<u64>> {
        self.searches.iter().flat_map(|(_, search)| search.all_certain())
    }

    fn begin(&mut self) {
        self.searches.clear();
        self.searched.fill(0);
        (self.at, self.last, self.released) = (0, None, 0);
        self.boundaries.clear();
        self.boundaries.push_back(0);
        let rules = self.rules.clone();
        rules.ever().iter().for_each(|pattern| self.search_for(*pattern));
    }

    fn scan(&mut self, text: &[u8], scratch: &mut Scratch) -> Vec<Match> {
        let mut matches = Vec::new();
        let rules = self.rules.clone();
        for &byte in text {
            for pattern in rules.starting(Before::of(self.last), byte) {
                self.search_for(*pattern);
            }
            if !self.searches.is_empty() {
                let around = Around { before: self.last, after: Some(byte) };
                self.step(scratch, around, &mut matches);
            }
            self.at += 1;
            self.last = Some(byte);
        }
        matches
    }

    fn search_for(&mut self, pattern: u32) {
        let Some(bits) = self.searched.get_mut(pattern as usize / 64) else { return };
        let bit = 1 << (pattern % 64);
        if *bits & bit == 0 {
            *bits |= bit;
            self.searches.push((pattern, Search::default()));
        }
    }

    fn step(&mut self, scratch: &mut Scratch, around: Around, matches: &mut Vec<Match>) {
        let Self { rules, searches, searched, at, .. } = self;
        searches.retain_mut(|(pattern, search)| {
            let Some(program) = rules.program(*pattern) else { return false };
            let mut report = |at| matches.push(Match { pattern: *pattern, at });
            search.step(program, scratch, *at, around, &mut report);
            let stays = program.can_be_empty || !search.is_over();
            if !stays && let Some(bits) = searched.get_mut(*pattern as usize / 64) {
                *bits &= !(1 << (*pattern % 64));
            }
            stays
        });
    }

    fn release(&mut self) {
        let limit = self.at.saturating_sub(LEAST_HOLD_OF_UNBOUNDED as u64);
        while self.boundaries.get(1).is_some_and(|boundary| *boundary <= limit) {
            self.boundaries.pop_front();
        }
        let limit = self.boundaries.front().copied().unwrap_or(0);
        let held = self.searches.iter().filter_map(|(pattern, search)| {
            let earliest = search.earliest()?;
            if self.rules.program(*pattern)?.longest.is_some() {
                return Some(earliest);
            }
            let certain = search.certain().map_or(u64::MAX, |certain| certain.start);
            Some(earliest.max(limit).min(certain))
        });
        self.released = held.min().unwrap_or(self.at).max(self.released);
    }

    fn certain(&self) -> Option<Match> {
        let certain = self.searches.iter().filter_map(|(pattern, search)| {
            Some(Match { pattern: *pattern, at: search.certain()? })
        });
        certain.min_by_key(|certain| (certain.at.start, certain.pattern))
    }

    fn note_boundaries(&mut self, text: &str) {
        let end = self.at + text.len() as u64;
        let mut place = (self.at / GRID + 1) * GRID;
        while place <= end {
            let mut boundary = (place - self.at) as usize;
            while !text.is_char_boundary(boundary) {
                boundary += 1;
            }
            self.boundaries.push_back(self.at + boundary as u64);
            place += GRID;
        }
    }
}
