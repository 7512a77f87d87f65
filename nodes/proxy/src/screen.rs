//! Looks at an answer's texts while they stream, and holds back no more than could still be part of a match.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
};

use aa_dialect::Frame;
use aa_scan::{Match, Rules, Scanned, Scanner};
use bytes::Bytes;

/// What happens to a stream in which a pattern matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnMatch {
    /// It ends before the match.
    Cut,
    /// The match is replaced.
    Redact,
    /// It goes on; the match is told.
    Flag,
}

/// What answers are looked through for.
#[derive(Clone, Debug)]
pub(crate) struct Screening {
    /// None: for nothing.
    pub(crate) rules: Option<Rules>,
    /// What happens on a match.
    pub(crate) on_match: OnMatch,
}

/// One answer being looked at.
#[derive(Debug)]
pub(crate) struct Screen {
    /// None: there is nothing to look for.
    rules: Option<Rules>,
    on_match: OnMatch,
    texts: HashMap<u64, TextScan>,
    held: VecDeque<Held>,
    matches: usize,
    is_cut: bool,
}

#[derive(Debug)]
struct TextScan {
    scanner: Scanner,
    /// Bytes of the text so far.
    fed: u64,
    /// Bytes of it that may leave.
    released: u64,
    matches: Vec<Match>,
    /// A match that is not known whole yet.
    certain: Option<Match>,
    ended: bool,
}

#[derive(Debug)]
struct Held {
    frame: Frame,
    /// Which bytes of which text each of the frame's texts is.
    spans: Vec<(u64, Range<u64>)>,
}

/// What stands for a match that is replaced.
const REDACTED: &str = "[REDACTED]";

// === impl Screen ===

impl Screen {
    pub(crate) fn new(screening: &Screening) -> Self {
        Self {
            rules: screening.rules.clone(),
            on_match: screening.on_match,
            texts: HashMap::new(),
            held: VecDeque::new(),
            matches: 0,
            is_cut: false,
        }
    }

    /// Takes what came and returns what may leave.
    pub(crate) fn take(&mut self, frames: Vec<Frame>) -> Vec<Bytes> {
        let Some(rules) = &self.rules else {
            return frames.into_iter().map(|frame| frame.raw).collect();
        };
        if self.is_cut {
            return Vec::new();
        }
        for frame in frames {
            let mut spans = Vec::with_capacity(frame.texts.len());
            for text in &frame.texts {
                let scan = self.texts.entry(text.channel).or_insert_with(|| TextScan::new(rules));
                let start = scan.fed;
                scan.push(&text.text, text.last);
                spans.push((text.channel, start..scan.fed));
            }
            for channel in &frame.ended {
                if let Some(scan) = self.texts.get_mut(channel) {
                    scan.end();
                }
            }
            self.held.push_back(Held { frame, spans });
        }
        self.release()
    }

    /// The answer has ended: what is held may leave, if nothing in it matches.
    pub(crate) fn finish(&mut self) -> Vec<Bytes> {
        if self.is_cut {
            return Vec::new();
        }
        for scan in self.texts.values_mut() {
            scan.end();
        }
        self.release()
    }

    /// Whether what leaves may differ from what came.
    pub(crate) fn may_change(&self) -> bool {
        self.rules.is_some() && self.on_match != OnMatch::Flag
    }

    /// Whether the rest of the answer must not leave.
    pub(crate) const fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// How many matches were found.
    pub(crate) fn matches(&self) -> usize {
        self.matches + self.texts.values().map(|scan| scan.matches.len()).sum::<usize>()
    }

    fn release(&mut self) -> Vec<Bytes> {
        let mut leaving = Vec::new();
        while let Some(held) = self.held.front() {
            let touches_match = held.spans.iter().any(|(text, span)| {
                self.texts.get(text).is_some_and(|scan| scan.first_match_in(span).is_some())
            });
            if touches_match && self.on_match == OnMatch::Cut {
                self.is_cut = true;
                self.held.clear();
                break;
            }
            let is_released = self.on_match == OnMatch::Flag
                || held.spans.iter().all(|(text, span)| {
                    self.texts.get(text).is_none_or(|scan| span.end <= scan.released)
                });
            if !is_released {
                break;
            }
            let Some(held) = self.held.pop_front() else { break };
            leaving.push(if touches_match && self.on_match == OnMatch::Redact {
                self.redacted(&held)
            } else {
                held.frame.raw.clone()
            });
            self.forget_ended(&held);
        }
        leaving
    }

    fn redacted(&self, held: &Held) -> Bytes {
        let texts: Vec<Option<String>> = held
            .frame
            .texts
            .iter()
            .zip(&held.spans)
            .map(|(text, (channel, span))| {
                self.texts.get(channel).and_then(|scan| scan.redacted(&text.text, span))
            })
            .collect();
        let texts: Vec<Option<&str>> = texts.iter().map(Option::as_deref).collect();
        held.frame.with_texts(&texts)
    }

    /// A text that has ended and left need not be remembered: an answer may have very many.
    fn forget_ended(&mut self, left: &Held) {
        for (channel, span) in &left.spans {
            let is_over =
                self.texts.get(channel).is_some_and(|scan| scan.ended && span.end == scan.fed);
            if is_over && let Some(scan) = self.texts.remove(channel) {
                self.matches += scan.matches.len();
            }
        }
    }
}

// === impl TextScan ===

impl TextScan {
    fn new(rules: &Rules) -> Self {
        Self {
            scanner: Scanner::new(rules),
            fed: 0,
            released: 0,
            matches: Vec::new(),
            certain: None,
            ended: false,
        }
    }

    fn push(&mut self, text: &str, is_last: bool) {
        self.fed += text.len() as u64;
        let scanned = self.scanner.push(text);
        self.note(scanned);
        if is_last {
            self.end();
        }
    }

    fn end(&mut self) {
        if !self.ended {
            self.ended = true;
            let scanned = self.scanner.finish();
            self.note(scanned);
        }
    }

    fn note(&mut self, scanned: Scanned) {
        self.released = self.released.max(scanned.released);
        self.matches.extend(scanned.matches);
        self.certain = scanned.certain;
    }

    fn first_match_in(&self, span: &Range<u64>) -> Option<&Match> {
        self.matches
            .iter()
            .chain(&self.certain)
            .find(|found| found.at.start < span.end && span.start < found.at.end)
    }

    /// The piece of text at `span`, with what is in it of matches taken out; a match is named where it begins.
    fn redacted(&self, piece: &str, span: &Range<u64>) -> Option<String> {
        self.first_match_in(span)?;
        let mut kept = String::with_capacity(piece.len());
        let mut at = span.start;
        let mut covered: Vec<&Range<u64>> = self.matches.iter().map(|found| &found.at).collect();
        covered.sort_by_key(|range| range.start);
        for range in covered {
            if range.end <= at || range.start >= span.end {
                continue;
            }
            let within = |offset: u64| usize::try_from(offset - span.start).unwrap_or(usize::MAX);
            if range.start >= at {
                kept.push_str(piece.get(within(at)..within(range.start)).unwrap_or_default());
                kept.push_str(REDACTED);
            }
            at = range.end.min(span.end);
        }
        let rest = usize::try_from(at - span.start).unwrap_or(usize::MAX);
        kept.push_str(piece.get(rest..).unwrap_or_default());
        Some(kept)
    }
}
