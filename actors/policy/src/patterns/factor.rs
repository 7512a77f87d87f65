//! Required factors: short runs of bytes of which every match of a pattern must hold one.

use regex_syntax::{
    hir::{Class, ClassUnicode, Hir, HirKind, Look, Repetition},
    utf8::Utf8Sequences,
};

use super::{
    byte_set::ByteSet,
    frequency::{Chance, Shares},
    window::{STEP, Window},
};

/// A run of bytes inside a match.
#[derive(Clone, Debug)]
pub(super) struct Factor {
    /// What each byte may be; never empty, at most [`MAX_LENGTH`] and the context.
    bytes: Vec<ByteSet>,
    /// Whether the first of the bytes stands before the run: a condition on what precedes it, which the start
    /// of the text fulfils as well.
    has_context: bool,
    /// The least number of bytes that the match has before the run.
    pub(super) least_before: usize,
    /// The greatest number, where it is bounded.
    pub(super) most_before: Option<usize>,
    finder: Finder,
    /// What looking for it costs, in nanoseconds per byte of common text.
    cost: f32,
}

/// How the places are found where a factor may stand.
#[derive(Clone, Debug)]
pub(super) enum Finder {
    /// By the grams of its windows.
    Grams([Window; STEP]),
    /// By one byte, at this place of it.
    Byte(u8, usize),
    /// By many bytes of one set in a row: the set, where they start, and how many they are.
    Stretch(ByteSet, usize, usize),
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
    /// Whether a word begins or ends (`\b`) where the runs start.
    at_word_boundary: bool,
}

const MAX_LENGTH: usize = 32;
const MAX_ALTERNATIVES: usize = 16;
/// The factors of one pattern: an alternation of many words has one each.
const MAX_FACTORS: usize = 64;
/// What a gram that is there costs, in nanoseconds: comparing the factors that have it.
const COST_OF_PROBE: f32 = 10.0;
/// What looking for single bytes costs, per byte of the text.
const COST_OF_BYTES: f32 = 0.1;
/// What looking for stretches of bytes costs, per byte of the text.
const COST_OF_STRETCH: f32 = 0.3;
/// Shorter ones are found no faster than by looking at every byte.
const LEAST_STRETCH: usize = 16;
/// What a whole factor costs when it is there by chance, in nanoseconds: a search around it.
const COST_OF_SEARCH: f32 = 300.0;
/// What looking for a pattern's factors may cost, in nanoseconds per byte of common text. Past it, looking for
/// them first gains nothing.
const MAX_COST: f32 = 0.5;

/// Factors of which every match holds at least one, if there are any that common text seldom has.
pub(super) fn required(hir: &Hir) -> Option<Vec<Factor>> {
    let (cost, factors) = Walk::through(hir)?;
    (cost <= MAX_COST && factors.len() <= MAX_FACTORS).then_some(factors)
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
            HirKind::Look(Look::WordAscii) => {
                self.open.word_boundary();
                self.plain.word_boundary();
            }
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
                    self.open = Open::of(vec![copied.clone()], from);
                    self.plain = Open::of(vec![copied], from);
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
            self.open = Open::of(runs.clone(), from);
        }
        if runs.len() > 1 {
            self.close_plain();
        } else if !self.plain.append(runs) {
            self.close_plain();
            self.plain = Open::of(runs.clone(), from);
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
        let open = std::mem::replace(&mut self.open, Open::of(Runs::new(), self.at));
        self.close(open);
    }

    fn close_plain(&mut self) {
        let plain = std::mem::replace(&mut self.plain, Open::of(Runs::new(), self.at));
        self.close(plain);
    }

    fn close(&mut self, open: Open) {
        if open.runs.is_empty() || open.runs.iter().any(Vec::is_empty) {
            return;
        }
        let context = open.context();
        let from = open.from;
        let factors: Option<Vec<Factor>> =
            open.runs.into_iter().map(|run| Factor::new(run, context, from)).collect();
        if let Some(factors) = factors {
            let cost = factors.iter().map(|factor| factor.cost).sum();
            self.offer(cost, factors);
        }
    }

    fn offer(&mut self, cost: f32, factors: Vec<Factor>) {
        if self.best.as_ref().is_none_or(|(best, _)| cost < *best) {
            self.best = Some((cost, factors));
        }
    }
}

// === impl Open ===

impl Open {
    fn of(runs: Runs, from: Offset) -> Self {
        Self { runs, from, at_word_boundary: false }
    }

    fn word_boundary(&mut self) {
        self.at_word_boundary |= self.runs.iter().all(Vec::is_empty);
    }

    /// What stands before the runs, if it is known.
    fn context(&self) -> Option<ByteSet> {
        let word = ByteSet::word();
        let begins = |run: &Vec<ByteSet>| run.first().is_some_and(|set| set.is_within(word));
        (self.at_word_boundary && self.runs.iter().all(begins)).then(|| word.not())
    }

    fn at(from: Offset) -> Self {
        Self::of(vec![Vec::new()], from)
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
                (least, Some(most)) if most as usize <= MAX_LENGTH => {
                    let mut copies = vec![Vec::new()];
                    let mut all = Runs::new();
                    for count in 0..=most {
                        if count > 0 {
                            copies = product(&copies, &runs)?;
                        }
                        if count >= least {
                            all.extend(copies.iter().cloned());
                        }
                        if all.len() > MAX_ALTERNATIVES {
                            return None;
                        }
                    }
                    Some(all)
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
    /// `None` when its grams are too many.
    fn new(
        run: Vec<ByteSet>,
        before: Option<ByteSet>,
        (least_before, most_before): Offset,
    ) -> Option<Self> {
        let has_context = before.is_some();
        let bytes: Vec<ByteSet> = before.into_iter().chain(run).collect();
        let shares: Vec<Shares> = bytes.iter().map(|set| Shares::of(*set)).collect();
        let whole = COST_OF_SEARCH * Chance::of_run(&shares);
        let (probing, finder) = [
            Finder::grams(&bytes, &shares, has_context),
            Finder::byte(&bytes, &shares, usize::from(has_context)),
            Finder::stretch(&bytes),
        ]
        .into_iter()
        .flatten()
        .min_by(|(a, _), (b, _)| a.total_cmp(b))?;
        let cost = probing + whole;
        Some(Self { bytes, has_context, least_before, most_before, finder, cost })
    }

    pub(super) fn bytes(&self) -> &[ByteSet] {
        &self.bytes
    }

    pub(super) fn finder(&self) -> &Finder {
        &self.finder
    }

    /// The place of the run when it stands in the text and byte `place` of the factor is at `probed`.
    pub(super) fn stands(&self, text: &[u8], probed: usize, place: isize) -> Option<usize> {
        let context = usize::from(self.has_context);
        let at = (probed + context).checked_add_signed(-place)?;
        if let Some(before) = at.checked_sub(1).filter(|_| self.has_context)
            && !self.bytes[0].contains(*text.get(before)?)
        {
            return None;
        }
        let run = self.bytes.get(context..)?;
        let bytes = text.get(at..at + run.len())?;
        run.iter().zip(bytes).all(|(set, byte)| set.contains(*byte)).then_some(at)
    }
}

// === impl Finder ===

impl Finder {
    fn grams(bytes: &[ByteSet], shares: &[Shares], has_context: bool) -> Option<(f32, Self)> {
        let windows = Window::choose(bytes, shares, has_context)?;
        let chance = windows.iter().map(|window| window.cost).sum::<f32>() / STEP as f32;
        Some((COST_OF_PROBE * chance, Self::Grams(windows)))
    }

    /// By the rarest byte; not by the context, which may be missing.
    fn byte(bytes: &[ByteSet], shares: &[Shares], context: usize) -> Option<(f32, Self)> {
        let places = bytes.iter().zip(shares).enumerate().skip(context);
        let rarest = places
            .filter(|(_, (set, _))| set.len() == 1)
            .map(|(place, (set, shares))| (Chance::of_run(&[*shares]), set, place))
            .min_by(|(a, ..), (b, ..)| a.total_cmp(b));
        let (chance, set, place) = rarest?;
        let byte = set.iter().next()?;
        Some((COST_OF_BYTES + COST_OF_PROBE * chance, Self::Byte(byte, place)))
    }

    fn stretch(bytes: &[ByteSet]) -> Option<(f32, Self)> {
        let mut from = 0;
        let mut longest: Option<(usize, usize)> = None;
        for stretch in bytes.chunk_by(|a, b| a == b) {
            if longest.is_none_or(|(_, length)| length < stretch.len()) {
                longest = Some((from, stretch.len()));
            }
            from += stretch.len();
        }
        let (start, length) = longest.filter(|(_, length)| *length >= LEAST_STRETCH)?;
        Some((COST_OF_STRETCH, Self::Stretch(*bytes.get(start)?, start, length)))
    }
}
