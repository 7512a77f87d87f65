//! Text without the matches in it.

use std::{collections::VecDeque, fmt, ops::Range};

use crate::{
    rules::Rules,
    scanner::{Scanned, Scanner},
};

/// What stands in the place of a match.
pub const REDACTED: &str = "[REDACTED]";

/// Turns pieces of a text into the same pieces with [`REDACTED`] in the place of the matches.
///
/// Matches that overlap or touch are replaced together. The parts that come out are, joined, the whole text
/// with its matches replaced, however it is split: as long as each match [is held](crate::Hold::is_whole) until it is
/// certain. Of one that is not, the beginning has left before.
///
/// Holds the text that the scanner does not release, but for what is certain to be replaced: at most
/// [`Hold::most`](crate::Hold::most) bytes and one piece; and the lengths of the pieces in it.
#[derive(Clone, Debug)]
pub struct Redactor {
    scanner: Scanner,
    held: Held,
}

/// What left with a piece.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redacted {
    /// In the order of the text.
    pub parts: Vec<Part>,
    /// What the scanner found. `released` and `certain` tell of the text as it came.
    pub scanned: Scanned,
}

/// A part of a piece. Each piece ends with one part, which may be empty.
#[derive(Clone, PartialEq, Eq)]
pub struct Part {
    /// The number of the piece, from 0.
    pub piece: u64,
    /// What may leave: the text as it came, or what stands in its place.
    pub text: String,
    /// Whether nothing more of this piece comes.
    pub is_last: bool,
}

#[derive(Clone, Default)]
struct Held {
    /// What did not leave yet.
    text: String,
    /// Where that begins, in bytes from the beginning of the text.
    from: u64,
    /// Where the last of what was replaced ends.
    replaced: Option<u64>,
    /// Parts of the text to be replaced, by their beginnings, with gaps between them.
    covered: VecDeque<Range<u64>>,
    /// Where the pieces end of which a part is held.
    ends: VecDeque<u64>,
    /// The number of the first of them.
    piece: u64,
}

/// What leaves.
struct Leaving {
    parts: Vec<Part>,
    /// Of the piece that goes on.
    text: String,
}

// === impl Redactor ===

impl Redactor {
    /// A redactor at the beginning of a text.
    pub fn new(rules: &Rules) -> Self {
        Self { scanner: Scanner::new(rules), held: Held::default() }
    }

    /// Takes the next piece of the text.
    pub fn push(&mut self, piece: &str) -> Redacted {
        self.held.take(piece);
        let scanned = self.scanner.push(piece);
        let certain = self.scanner.all_certain();
        let parts = self.held.release(&scanned, certain);
        Redacted { parts, scanned }
    }

    /// Ends the text: all that is held leaves. The redactor is at the beginning of another text then.
    pub fn finish(&mut self) -> Redacted {
        let scanned = self.scanner.finish();
        let parts = self.held.release(&scanned, std::iter::empty());
        self.held = Held::default();
        Redacted { parts, scanned }
    }
}

impl fmt::Debug for Part {
    /// Without the text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part")
            .field("piece", &self.piece)
            .field("bytes", &self.text.len())
            .field("is_last", &self.is_last)
            .finish()
    }
}

// === impl Held ===

impl Held {
    fn take(&mut self, piece: &str) {
        self.text.push_str(piece);
        self.ends.push_back(self.from + self.text.len() as u64);
    }

    /// Lets go what is released, with what is covered replaced.
    fn release(
        &mut self,
        scanned: &Scanned,
        certain: impl Iterator<Item = Range<u64>>,
    ) -> Vec<Part> {
        self.cover(scanned.matches.iter().map(|found| found.at.clone()).chain(certain));
        let mut text = std::mem::take(&mut self.text);
        let start = self.from;
        let mut leaving = Leaving { parts: Vec::new(), text: String::new() };
        loop {
            leaving.end_pieces(self);
            while self.covered.front().is_some_and(|covered| covered.end <= self.from) {
                self.covered.pop_front();
            }
            let next = self.covered.front();
            if let Some(covered) = next.filter(|covered| covered.start <= self.from) {
                if self.replaced != Some(self.from) {
                    leaving.text.push_str(REDACTED);
                }
                self.from = covered.end;
                self.replaced = Some(self.from);
                continue;
            }
            let piece = self.ends.front().copied().unwrap_or(self.from);
            let to = next.map_or(u64::MAX, |next| next.start).min(scanned.released).min(piece);
            if to <= self.from {
                break;
            }
            let range = (self.from - start) as usize..(to - start) as usize;
            leaving.text.push_str(text.get(range).unwrap_or_default());
            self.from = to;
        }
        text.drain(..text.len().min((self.from - start) as usize));
        self.text = text;
        leaving.finish(self.piece)
    }

    /// Adds ranges to those that are covered.
    fn cover(&mut self, ranges: impl Iterator<Item = Range<u64>>) {
        let before = self.covered.len();
        self.covered.extend(ranges.filter(|range| !range.is_empty() && range.end > self.from));
        if self.covered.len() == before {
            return;
        }
        let ranges = self.covered.make_contiguous();
        ranges.sort_unstable_by_key(|range| range.start);
        let mut joined: VecDeque<Range<u64>> = VecDeque::new();
        for range in ranges {
            match joined.back_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => joined.push_back(range.clone()),
            }
        }
        self.covered = joined;
    }
}

impl fmt::Debug for Held {
    /// Without the text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held")
            .field("bytes", &self.text.len())
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}

// === impl Leaving ===

impl Leaving {
    /// Ends the pieces of which nothing is held any more.
    fn end_pieces(&mut self, held: &mut Held) {
        while held.ends.front().is_some_and(|end| *end <= held.from) {
            held.ends.pop_front();
            let text = std::mem::take(&mut self.text);
            self.parts.push(Part { piece: held.piece, text, is_last: true });
            held.piece += 1;
        }
    }

    fn finish(mut self, piece: u64) -> Vec<Part> {
        if !self.text.is_empty() {
            self.parts.push(Part { piece, text: self.text, is_last: false });
        }
        self.parts
    }
}
