//! Required factors: short runs of bytes of which every match of a pattern must hold one.

use regex_syntax::{
    hir::{Class, ClassUnicode, Hir, HirKind, Repetition},
    utf8::Utf8Sequences,
};

/// The bytes that may stand at one place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ByteSet([u64; 4]);

/// A run of bytes inside a match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Factor {
    /// What each byte may be; never empty, at most [`MAX_LENGTH`].
    pub(super) bytes: Vec<ByteSet>,
    /// The least number of bytes that the match has before it.
    pub(super) least_before: usize,
    /// The greatest number, where it is bounded.
    pub(super) most_before: Option<usize>,
    /// Where in it the [`PROBE`] bytes are that are the rarest together; 0 when it is shorter.
    pub(super) probe: usize,
}

/// Alternative runs of bytes that together cover an expression.
type Runs = Vec<Vec<ByteSet>>;

/// Offsets from the start of the match: least, and most where bounded.
type Offset = (usize, Option<usize>);

struct Walk {
    at: Offset,
    /// The adjacent bytes before `at`, with their alternatives.
    open: Open,
    /// The same, broken off wherever there are alternatives: fewer factors, and shorter ones.
    plain: Open,
    best: Option<(f32, Vec<Factor>)>,
}

struct Open {
    runs: Runs,
    from: Offset,
}

/// Bytes that are looked at together at every place of a text.
pub(super) const PROBE: usize = 4;
const MAX_LENGTH: usize = 32;
const MAX_ALTERNATIVES: usize = 16;
/// The factors of one pattern: an alternation of many words has one each.
const MAX_FACTORS: usize = 64;
/// Where probes would succeed more often than this in common text, looking for them first gains nothing.
const MAX_FREQUENCY: f32 = 0.004;
/// What a whole factor costs when it is there by chance: a search around it. In successful probes.
const COST_OF_SEARCH: f32 = 50.0;

/// Factors of which every match holds at least one, if there are any that common text seldom has.
pub(super) fn required(hir: &Hir) -> Option<Vec<Factor>> {
    let (_, factors) = Walk::through(hir)?;
    let frequency: f32 = factors.iter().map(Factor::probe_frequency).sum();
    (frequency <= MAX_FREQUENCY && factors.len() <= MAX_FACTORS).then_some(factors)
}

// === impl Walk ===

impl Walk {
    fn through(hir: &Hir) -> Option<(f32, Vec<Factor>)> {
        let start = (0, Some(0));
        let mut walk =
            Self { at: start, open: Open::at(start), plain: Open::at(start), best: None };
        walk.visit(hir);
        walk.gap((0, Some(0)));
        walk.best
    }

    fn visit(&mut self, hir: &Hir) {
        let length = length_of(hir);
        match hir.kind() {
            HirKind::Empty | HirKind::Look(_) => {}
            HirKind::Literal(literal) => {
                for byte in &*literal.0 {
                    self.push(&vec![vec![ByteSet::of(*byte)]], (1, Some(1)));
                }
            }
            HirKind::Class(class) => match runs_of_class(class) {
                Some(runs) => self.push(&runs, length),
                None => self.gap(length),
            },
            HirKind::Capture(capture) => self.visit(&capture.sub),
            HirKind::Concat(parts) => parts.iter().for_each(|part| self.visit(part)),
            HirKind::Alternation(parts) => match exact(hir) {
                Some(runs) => self.push(&runs, length),
                None => {
                    self.offer_alternation(parts);
                    self.gap(length);
                }
            },
            HirKind::Repetition(repetition) => self.repetition(hir, repetition),
        }
    }

    fn repetition(&mut self, hir: &Hir, repetition: &Repetition) {
        let length = length_of(hir);
        let sub = exact(&repetition.sub).filter(|runs| runs.iter().all(|run| !run.is_empty()));
        match sub {
            Some(runs) if runs.len() == 1 && repetition.min > 0 => {
                let run = &runs[0];
                let least = repetition.min as usize;
                let copies = least.min(MAX_LENGTH / run.len()).max(1);
                let each = (run.len(), Some(run.len()));
                (0..copies).for_each(|_| self.push(&runs, each));
                if repetition.max == Some(repetition.min) && copies == least {
                    return;
                }
                // Behind more copies than these, the last ones are adjacent to what follows.
                let pushed = copies * run.len();
                let more = (length.0 - pushed, length.1.map(|most| most - pushed));
                self.gap(more);
                let from = (self.at.0 - pushed, self.at.1.map(|most| most - pushed));
                let copied: Vec<ByteSet> =
                    run.iter().copied().cycle().take(pushed.min(MAX_LENGTH)).collect();
                if copied.len() == pushed {
                    self.open = Open { runs: vec![copied.clone()], from };
                    self.plain = Open { runs: vec![copied], from };
                }
            }
            _ => match exact(hir) {
                Some(runs) => self.push(&runs, length),
                None => {
                    if repetition.min > 0 {
                        self.offer_alternation(std::slice::from_ref(&repetition.sub));
                    }
                    self.gap(length);
                }
            },
        }
    }

    /// One of `parts` stands here: the factors of all of them together.
    fn offer_alternation(&mut self, parts: &[Hir]) {
        let mut all = Vec::new();
        let mut cost = 0.0;
        for part in parts {
            let Some((of_part, factors)) = Self::through(part) else { return };
            cost += of_part;
            all.extend(factors.into_iter().map(|factor| Factor {
                least_before: self.at.0 + factor.least_before,
                most_before: sum(self.at.1, factor.most_before),
                ..factor
            }));
        }
        self.offer(cost, all);
    }

    /// Adds the next bytes, which are one of `runs`.
    fn push(&mut self, runs: &Runs, length: Offset) {
        let from = self.at;
        if !self.open.append(runs) {
            self.close_open();
            self.open = Open { runs: runs.clone(), from };
        }
        if runs.len() > 1 {
            self.close_plain();
        } else if !self.plain.append(runs) {
            self.close_plain();
            self.plain = Open { runs: runs.clone(), from };
        }
        self.advance(length);
        if runs.len() > 1 {
            self.plain = Open::at(self.at);
        }
    }

    /// Passes bytes of which nothing is known.
    fn gap(&mut self, length: Offset) {
        self.close_open();
        self.close_plain();
        self.advance(length);
        self.open = Open::at(self.at);
        self.plain = Open::at(self.at);
    }

    fn advance(&mut self, length: Offset) {
        self.at = (self.at.0 + length.0, sum(self.at.1, length.1));
    }

    fn close_open(&mut self) {
        let factors = std::mem::take(&mut self.open.runs);
        self.close(factors, self.open.from);
    }

    fn close_plain(&mut self) {
        let factors = std::mem::take(&mut self.plain.runs);
        self.close(factors, self.plain.from);
    }

    fn close(&mut self, runs: Runs, from: Offset) {
        if runs.is_empty() || runs.iter().any(Vec::is_empty) {
            return;
        }
        let factors: Vec<Factor> = runs.into_iter().map(|run| Factor::new(run, from)).collect();
        let cost = factors.iter().map(Factor::cost).sum();
        self.offer(cost, factors);
    }

    fn offer(&mut self, cost: f32, factors: Vec<Factor>) {
        if self.best.as_ref().is_none_or(|(best, _)| cost < *best) {
            self.best = Some((cost, factors));
        }
    }
}

// === impl Open ===

impl Open {
    fn at(from: Offset) -> Self {
        Self { runs: vec![Vec::new()], from }
    }

    /// Appends each of `runs` to each run; not when that would be too many or too long.
    fn append(&mut self, runs: &Runs) -> bool {
        match product(&self.runs, runs) {
            Some(product) => {
                self.runs = product;
                true
            }
            None => false,
        }
    }
}

/// The runs that an expression is made of, when it is nothing else.
fn exact(hir: &Hir) -> Option<Runs> {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => Some(vec![Vec::new()]),
        HirKind::Literal(literal) => {
            let run: Vec<ByteSet> = literal.0.iter().map(|byte| ByteSet::of(*byte)).collect();
            (run.len() <= MAX_LENGTH).then(|| vec![run])
        }
        HirKind::Class(class) => runs_of_class(class),
        HirKind::Capture(capture) => exact(&capture.sub),
        HirKind::Concat(parts) => {
            parts.iter().try_fold(vec![Vec::new()], |runs, part| product(&runs, &exact(part)?))
        }
        HirKind::Alternation(parts) => {
            let mut all = Runs::new();
            for part in parts {
                all.extend(exact(part)?);
                if all.len() > MAX_ALTERNATIVES {
                    return None;
                }
            }
            Some(all)
        }
        HirKind::Repetition(repetition) => {
            let runs = exact(&repetition.sub)?;
            match (repetition.min, repetition.max) {
                (0, Some(1)) if runs.len() < MAX_ALTERNATIVES => {
                    Some(runs.into_iter().chain([Vec::new()]).collect())
                }
                (least, Some(most)) if least == most && least as usize <= MAX_LENGTH => {
                    (0..least).try_fold(vec![Vec::new()], |all, _| product(&all, &runs))
                }
                _ => None,
            }
        }
    }
}

fn product(left: &Runs, right: &Runs) -> Option<Runs> {
    let longest = |runs: &Runs| runs.iter().map(Vec::len).max().unwrap_or_default();
    let fits = left.len() * right.len() <= MAX_ALTERNATIVES
        && longest(left) + longest(right) <= MAX_LENGTH;
    let pairs = left.iter().flat_map(|start| right.iter().map(move |end| (start, end)));
    fits.then(|| pairs.map(|(start, end)| start.iter().chain(end).copied().collect()).collect())
}

/// The encodings of a class: one run for its ASCII part and a few for the rest; `None` when they are many.
fn runs_of_class(class: &Class) -> Option<Runs> {
    match class {
        Class::Bytes(class) => {
            let mut set = ByteSet::default();
            class.iter().for_each(|range| set.extend(range.start(), range.end()));
            // A class without a member is written so.
            (set != ByteSet::default()).then(|| vec![vec![set]])
        }
        Class::Unicode(class) => runs_of_characters(class),
    }
}

fn runs_of_characters(class: &ClassUnicode) -> Option<Runs> {
    const MAX_SEQUENCES: usize = 4;
    let mut ascii = ByteSet::default();
    let mut runs = Runs::new();
    for range in class.iter() {
        for sequence in Utf8Sequences::new(range.start(), range.end()) {
            let sets: Vec<ByteSet> = sequence
                .as_slice()
                .iter()
                .map(|range| {
                    let mut set = ByteSet::default();
                    set.extend(range.start, range.end);
                    set
                })
                .collect();
            match sets.as_slice() {
                [one] => ascii = ascii.or(*one),
                _ => runs.push(sets),
            }
            if runs.len() > MAX_SEQUENCES {
                return None;
            }
        }
    }
    if ascii != ByteSet::default() {
        runs.push(vec![ascii]);
    }
    (!runs.is_empty()).then_some(runs)
}

fn length_of(hir: &Hir) -> Offset {
    let properties = hir.properties();
    (properties.minimum_len().unwrap_or_default(), properties.maximum_len())
}

fn sum(left: Option<usize>, right: Option<usize>) -> Option<usize> {
    left?.checked_add(right?)
}

// === impl Factor ===

impl Factor {
    fn new(bytes: Vec<ByteSet>, (least_before, most_before): Offset) -> Self {
        let rarest =
            bytes.windows(PROBE).map(frequency).enumerate().min_by(|(_, a), (_, b)| a.total_cmp(b));
        let probe = rarest.map_or(0, |(at, _)| at);
        Self { bytes, least_before, most_before, probe }
    }

    /// The bytes that are probed for; fewer than [`PROBE`] when it is shorter.
    pub(super) fn probed(&self) -> &[ByteSet] {
        &self.bytes[self.probe..self.bytes.len().min(self.probe + PROBE)]
    }

    fn probe_frequency(&self) -> f32 {
        frequency(self.probed())
    }

    fn cost(&self) -> f32 {
        self.probe_frequency() + COST_OF_SEARCH * frequency(&self.bytes)
    }
}

/// How often common text has such bytes in a row, if neighbours were independent.
fn frequency(bytes: &[ByteSet]) -> f32 {
    bytes.iter().map(|set| set.frequency()).product()
}

// === impl ByteSet ===

impl ByteSet {
    fn of(byte: u8) -> Self {
        let mut set = Self::default();
        set.extend(byte, byte);
        set
    }

    fn extend(&mut self, first: u8, last: u8) {
        for byte in first..=last {
            self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
        }
    }

    fn or(self, other: Self) -> Self {
        let [a, b, c, d] = self.0;
        let [e, f, g, h] = other.0;
        Self([a | e, b | f, c | g, d | h])
    }

    pub(super) const fn contains(self, byte: u8) -> bool {
        self.0[(byte >> 6) as usize] >> (byte & 63) & 1 == 1
    }

    fn frequency(self) -> f32 {
        let members = (0..=u8::MAX).filter(|byte| self.contains(*byte));
        members.map(byte_frequency).sum::<f32>().min(1.0)
    }
}

/// How often a byte occurs in what agents send: prose, JSON, source code and logs.
fn byte_frequency(byte: u8) -> f32 {
    match byte {
        b' ' => 0.15,
        b'e' | b't' | b'a' | b'o' | b'i' | b'n' | b's' | b'r' => 0.055,
        b'l' | b'd' | b'c' | b'u' | b'm' | b'p' | b'h' => 0.025,
        b'a'..=b'z' => 0.01,
        b'A'..=b'Z' => 0.005,
        b'0'..=b'9' => 0.012,
        b'\n' | b'"' | b'.' | b',' | b':' | b'-' | b'_' | b'/' => 0.012,
        0x21..=0x7e => 0.004,
        0x80..=0xff => 0.001,
        _ => 0.0002,
    }
}
