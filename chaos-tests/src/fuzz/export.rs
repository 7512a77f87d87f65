//! Exports: any text gets a verdict, and a valid export that was changed in any way is never intact.

use std::{io::Cursor, ops::Range, sync::LazyLock};

use aa_ledger::{Export, Keys, PinnedCheckpoint, Report, Unreadable, verify};
use arbitrary::Unstructured;

use super::sample_log::SampleLog;

/// How many changes one input makes, at most.
const MAX_CHANGES: usize = 6;

struct Samples {
    exports: Vec<Vec<u8>>,
    keys: Keys,
    note: String,
}

/// What an auditor has: the keys file of the log, and a checkpoint kept from earlier.
#[derive(Clone, Copy)]
struct Trust {
    keys: bool,
    note: bool,
}

/// One way to falsify an export. Lines are taken modulo how many there are, bytes likewise.
enum Change {
    SetByte {
        line: usize,
        byte: usize,
        to: u8,
    },
    InsertByte {
        line: usize,
        byte: usize,
        new: u8,
    },
    DeleteBytes {
        line: usize,
        byte: usize,
        count: usize,
    },
    RepeatBytes {
        line: usize,
        byte: usize,
        count: usize,
    },
    /// Puts a quoted string of one line in the place of one of another.
    CopyString {
        from: (usize, usize),
        to: (usize, usize),
    },
    /// Adds to the number at a place.
    AddToNumber {
        line: usize,
        number: usize,
        by: i8,
    },
    SwapLines {
        a: usize,
        b: usize,
    },
    RepeatLine {
        line: usize,
        at: usize,
    },
    DeleteLine {
        line: usize,
    },
    /// Takes a line of another valid export.
    TakeLine {
        line: usize,
        export: usize,
        from: usize,
    },
    Truncate {
        line: usize,
        byte: usize,
    },
    Append {
        bytes: Vec<u8>,
    },
}

static SAMPLES: LazyLock<Samples> = LazyLock::new(|| {
    let log = SampleLog::new(1, 9);
    let longer = SampleLog::new(1, 14);
    let other = SampleLog::new(2, 7);
    let keys = Keys::parse(&log.keys_file()).expect("the keys file is well-formed");
    let exports =
        vec![log.export(0), log.export(5), longer.export(0), longer.export(8), other.export(0)];
    Samples { exports, keys, note: log.note() }
});

/// Verifies the bytes as they stand if they look like an export, else as a recipe for changing one.
///
/// # Panics
/// When an export is intact that no log made.
pub fn target(data: &[u8]) {
    if data.first() == Some(&b'{') {
        // Whose key it names is unknown, so only what is shown to be another's is excluded.
        let _ = report(&[data], None, None);
        judge(data, &[Trust::KEYS, Trust::ALL]);
    } else if let Ok(changed) = changed(&mut Unstructured::new(data)) {
        judge(&changed, &[Trust::NOTHING, Trust::KEYS, Trust::ALL]);
    }
}

fn judge(text: &[u8], trusts: &[Trust]) {
    let Samples { exports, keys, note } = &*SAMPLES;
    if exports.iter().any(|export| export == text) {
        let report = report(&[text], None, None);
        assert!(report.is_ok_and(|report| report.intact), "a genuine export is intact");
        return;
    }
    let sets: [&[&[u8]]; 2] = [&[text], &[&exports[0], text, &exports[2]]];
    for (texts, trust) in sets.iter().flat_map(|texts| trusts.iter().map(move |t| (texts, t))) {
        let keys = trust.keys.then_some(keys);
        let note = trust.note.then_some(note.as_str());
        if let Ok(report) = report(texts, keys, note) {
            assert!(!report.intact, "a changed export is intact:\n{report}");
            assert!(report.failure.is_some(), "what is not intact has its reason");
        }
    }
}

fn report(texts: &[&[u8]], keys: Option<&Keys>, note: Option<&str>) -> Result<Report, Unreadable> {
    let mut readers: Vec<_> = texts.iter().map(Cursor::new).collect();
    let mut exports: Vec<_> =
        readers.iter_mut().map(|reader| Export { name: "export", reader }).collect();
    let pinned = note.map(|note| PinnedCheckpoint { name: "pinned", note });
    verify(&mut exports, keys, pinned.as_ref())
}

/// Reads a recipe and follows it.
fn changed(recipe: &mut Unstructured<'_>) -> arbitrary::Result<Vec<u8>> {
    let export = recipe.choose(&SAMPLES.exports)?;
    let mut lines: Vec<_> =
        export.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    for _ in 0..recipe.int_in_range(1..=MAX_CHANGES)? {
        let change = Change::read(recipe)?;
        change.apply(&mut lines);
    }
    Ok(lines.concat())
}

// === impl Trust ===

impl Trust {
    const NOTHING: Self = Self { keys: false, note: false };
    const KEYS: Self = Self { keys: true, note: false };
    const ALL: Self = Self { keys: true, note: true };
}

// === impl Change ===

impl Change {
    fn read(recipe: &mut Unstructured<'_>) -> arbitrary::Result<Self> {
        let kind = recipe.int_in_range(0..=11_u8)?;
        let line = recipe.int_in_range(0..=31_usize)?;
        // Entries are longer than a byte can say, headers and notes too.
        let byte = usize::from(recipe.arbitrary::<u16>()?);
        let small = |recipe: &mut Unstructured<'_>| recipe.int_in_range(0..=31_usize);
        Ok(match kind {
            0 => Self::SetByte { line, byte, to: recipe.arbitrary()? },
            1 => Self::InsertByte { line, byte, new: recipe.arbitrary()? },
            2 => Self::DeleteBytes { line, byte, count: small(recipe)? },
            3 => Self::RepeatBytes { line, byte, count: small(recipe)? },
            4 => {
                Self::CopyString { from: (line, byte % 128), to: (small(recipe)?, small(recipe)?) }
            }
            5 => Self::AddToNumber { line, number: byte % 32, by: recipe.arbitrary()? },
            6 => Self::SwapLines { a: line, b: small(recipe)? },
            7 => Self::RepeatLine { line, at: small(recipe)? },
            8 => Self::DeleteLine { line },
            9 => Self::TakeLine { line, export: byte, from: small(recipe)? },
            10 => Self::Truncate { line, byte },
            _ => {
                let count = small(recipe)?.min(recipe.len());
                Self::Append { bytes: recipe.bytes(count)?.to_vec() }
            }
        })
    }

    fn apply(&self, lines: &mut Vec<Vec<u8>>) {
        if lines.is_empty() {
            return;
        }
        let count = lines.len();
        let span = |text: &[u8], byte: usize, count: usize| {
            let from = byte % (text.len() + 1);
            from..(from + count).min(text.len())
        };
        match *self {
            Self::SetByte { line, byte, to } => {
                let line = &mut lines[line % count];
                if let Some(place) = line.len().checked_sub(1) {
                    line[byte % (place + 1)] = to;
                }
            }
            Self::InsertByte { line, byte, new } => {
                let line = &mut lines[line % count];
                line.insert(byte % (line.len() + 1), new);
            }
            Self::DeleteBytes { line, byte, count: bytes } => {
                let line = &mut lines[line % count];
                line.drain(span(line, byte, bytes));
            }
            Self::RepeatBytes { line, byte, count: bytes } => {
                let line = &mut lines[line % count];
                let span = span(line, byte, bytes);
                let repeated = line[span.clone()].to_vec();
                line.splice(span.end..span.end, repeated);
            }
            Self::CopyString { from: (from, source), to: (to, target) } => {
                let text = string(&lines[from % count], source);
                let place = string(&lines[to % count], target);
                if let (Some(text), Some(place)) = (text, place) {
                    let text = lines[from % count][text].to_vec();
                    lines[to % count].splice(place, text);
                }
            }
            Self::AddToNumber { line, number, by } => add(&mut lines[line % count], number, by),
            Self::SwapLines { a, b } => lines.swap(a % count, b % count),
            Self::RepeatLine { line, at } => {
                let repeated = lines[line % count].clone();
                lines.insert(at % (count + 1), repeated);
            }
            Self::DeleteLine { line } => drop(lines.remove(line % count)),
            Self::TakeLine { line, export, from } => {
                let exports = &SAMPLES.exports;
                let export = &exports[export % exports.len()];
                let others: Vec<_> = export.split_inclusive(|byte| *byte == b'\n').collect();
                lines[line % count] = others[from % others.len()].to_vec();
            }
            Self::Truncate { line, byte } => {
                lines.truncate(line % count + 1);
                let last = &mut lines[line % count];
                last.truncate(byte % (last.len() + 1));
            }
            Self::Append { ref bytes } => lines.push(bytes.clone()),
        }
    }
}

/// The place of the text within the quotes numbered so, modulo how many there are.
fn string(line: &[u8], number: usize) -> Option<Range<usize>> {
    let quotes: Vec<_> = (0..line.len()).filter(|at| line[*at] == b'"').collect();
    let (pairs, _) = quotes.as_chunks::<2>();
    let [open, close] = pairs.get(number % pairs.len().max(1))?;
    Some(open + 1..*close)
}

/// Changes the run of digits numbered so, modulo how many there are.
fn add(line: &mut Vec<u8>, number: usize, by: i8) {
    let digit = |at: usize| line.get(at).is_some_and(u8::is_ascii_digit);
    let starts: Vec<_> =
        (0..line.len()).filter(|at| digit(*at) && (*at == 0 || !digit(at - 1))).collect();
    let Some(&start) = starts.get(number % starts.len().max(1)) else { return };
    let end = (start..).find(|at| !digit(*at)).unwrap_or(line.len());
    let value = std::str::from_utf8(&line[start..end]).ok().and_then(|text| text.parse().ok());
    let Some(value) = value.and_then(|value: u64| value.checked_add_signed(by.into())) else {
        return;
    };
    line.splice(start..end, value.to_string().into_bytes());
}
