//! The proof of one export, line by line.

mod closing;
mod header;

use std::{
    collections::HashMap,
    fmt,
    io::{self, BufRead, Read as _, SeekFrom},
};

use aa_protocol::Timestamp;
use memchr::memchr;

use self::{closing::Closing, header::Header};
use super::{
    Failure, Keys, Problem, Source, UnreadableReason,
    grammar::{self, EntryView},
    note::SignedCheckpoint,
    report::ExportReport,
    tree::{Frontier, leaf},
};

/// What an export is held against.
pub(super) struct Context<'c> {
    pub(super) name: &'c str,
    pub(super) keys: Option<&'c Keys>,
    pub(super) known: &'c [Known],
}

/// A checkpoint that the log must contain.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) name: String,
    pub(super) checkpoint: SignedCheckpoint,
    /// Given by the auditor rather than found in another export.
    pub(super) pinned: bool,
}

pub(super) struct Verified {
    pub(super) report: ExportReport,
    pub(super) checkpoint: SignedCheckpoint,
}

/// Why the proof ended early.
pub(super) enum Stop {
    Unreadable(UnreadableReason),
    Failed(Box<Failure>),
}

/// Reads lines into one buffer.
struct Lines<'r> {
    reader: &'r mut dyn BufRead,
    number: u64,
    buffer: Vec<u8>,
}

/// The state of the proof between two lines.
struct Proof<'c> {
    context: &'c Context<'c>,
    header: Header,
    tree: Frontier,
    streams: HashMap<String, Head>,
    suspect: Option<Suspect>,
    /// For each known checkpoint the root at its size, once that is reached.
    known_roots: Vec<Option<[u8; 32]>>,
    entries: u64,
    first_time: Option<String>,
    last_time: String,
    macs_checked: u64,
    /// Entries whose clock ran backwards, and the first of them.
    backwards: Option<(u64, Place)>,
}

/// The last entry of a stream.
struct Head {
    sequence: u64,
    hash: [u8; 32],
    time: String,
    place: Place,
}

/// Which entry it is.
#[derive(Clone, Copy)]
struct Place {
    line: u64,
    event: EventText,
}

/// The text of an entry's id.
#[derive(Clone, Copy)]
struct EventText([u8; 30]);

/// A fault that is found later than where it lies. The rest of the export tells which entry to blame.
enum Suspect {
    /// Two neighbours of one stream that do not link or have the same number. Which of them is wrong
    /// shows in whether the rest of the chain vouches for the later one.
    Pair { stream: String, earlier: Place, later: Place, later_hash: [u8; 32], clash: bool },
    /// A stream that does not begin with its first entry. That one was removed or, which shows in a
    /// stream the closing line does not know, its stream was altered.
    Start { stream: String, sequence: u64, at: Place },
}

/// No line of an export is longer: an entry is bounded, and so are the heads of the last line.
const MAX_LINE: usize = 1 << 20;
/// Clocks are adjusted by this much without a warning, in microseconds.
const CLOCK_STEP: i64 = 1_000_000;
const CLOSING: &[u8] = b"{\"checkpoint\":";

/// The size that the closing line claims, to bring exports into order; the largest when there is none.
pub(super) fn claimed_size(reader: &mut dyn Source) -> io::Result<u64> {
    let end = reader.seek(SeekFrom::End(0))?;
    reader.seek(SeekFrom::Start(end.saturating_sub(MAX_LINE as u64)))?;
    let mut tail = Vec::new();
    reader.take(MAX_LINE as u64).read_to_end(&mut tail)?;
    reader.rewind()?;
    let line = tail.strip_suffix(b"\n").unwrap_or(&tail).rsplit(|byte| *byte == b'\n').next();
    let closing = line.and_then(|line| Closing::parse(std::str::from_utf8(line).ok()?).ok());
    Ok(closing.map_or(u64::MAX, |closing| closing.size()))
}

/// Proves one export from its first line to its end.
pub(super) fn verify(
    context: &Context<'_>,
    reader: &mut dyn BufRead,
    warnings: &mut Vec<String>,
) -> Result<Verified, Stop> {
    let mut lines = Lines { reader, number: 0, buffer: Vec::new() };
    let header = header::read(context, &mut lines)?;
    let mut proof = Proof::new(context, header)?;
    loop {
        if !lines.next()? {
            let message = "the export ends without a signed checkpoint: its tail was cut off";
            return Err(match &proof.suspect {
                Some(suspect) => proof.suspect_failure(suspect, !suspect.is_clash()),
                None => proof.failed(lines.number, None, Problem::NotClosed, message.to_owned()),
            });
        }
        if lines.buffer.starts_with(CLOSING) {
            break;
        }
        proof.entry(&lines)?;
    }
    let closing = Closing::read(&proof, &lines)?;
    let closing_line = lines.number;
    if lines.next()? {
        let message = "there is text after the checkpoint that closes the export".to_owned();
        return Err(proof.failed(lines.number, None, Problem::Trailing, message));
    }
    closing.verify(proof, closing_line, warnings)
}

// === impl Lines ===

impl Lines<'_> {
    /// Reads the next line, without its line feed; `false` at the end.
    fn next(&mut self) -> Result<bool, Stop> {
        self.buffer.clear();
        let mut read = 0;
        while read < MAX_LINE {
            let available = match self.reader.fill_buf() {
                Ok([]) => break,
                Ok(available) => &available[..available.len().min(MAX_LINE - read)],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let end = memchr(b'\n', available);
            self.buffer.extend_from_slice(&available[..end.unwrap_or(available.len())]);
            let used = end.map_or(available.len(), |end| end + 1);
            self.reader.consume(used);
            read += used;
            if end.is_some() {
                break;
            }
        }
        self.number += u64::from(read > 0);
        Ok(read > 0)
    }
}

// === impl EventText ===

impl fmt::Display for EventText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

// === impl Stop ===

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error.into())
    }
}

// === impl Suspect ===

impl Suspect {
    /// Of a clash the later one is to blame unless the chain says otherwise.
    const fn is_clash(&self) -> bool {
        matches!(self, Self::Pair { clash: true, .. })
    }
}

// === impl Context ===

impl Context<'_> {
    fn failed(&self, line: u64, event: Option<String>, problem: Problem, message: String) -> Stop {
        let file = self.name.to_owned();
        Stop::Failed(Box::new(Failure { file, line: Some(line), event, problem, message }))
    }
}

// === impl Proof ===

impl<'c> Proof<'c> {
    fn new(context: &'c Context<'c>, mut header: Header) -> Result<Self, Stop> {
        let roots = std::mem::take(&mut header.frontier);
        let count = roots.len();
        let Some(tree) = Frontier::new(header.first, roots) else {
            let first = header.first;
            let message =
                format!("a frontier of {count} hashes does not fit the first index {first}");
            return Err(context.failed(1, None, Problem::Header, message));
        };
        let mut proof = Self {
            context,
            header,
            tree,
            streams: HashMap::new(),
            suspect: None,
            known_roots: vec![None; context.known.len()],
            entries: 0,
            first_time: None,
            last_time: String::new(),
            macs_checked: 0,
            backwards: None,
        };
        proof.note_known_roots();
        Ok(proof)
    }

    fn entry(&mut self, lines: &Lines<'_>) -> Result<(), Stop> {
        let number = lines.number;
        let view = match std::str::from_utf8(&lines.buffer) {
            Ok(line) => grammar::entry(line).map_err(|malformed| {
                let (expected, column) = (malformed.expected, malformed.at + 1);
                format!("the line is no canonical entry, {expected} expected at column {column}")
            }),
            Err(_) => Err("the line is not UTF-8".to_owned()),
        };
        let view = match (view, &self.suspect) {
            (Ok(view), Some(_)) => return self.resolve(&view),
            (Ok(view), None) => view,
            (Err(_), Some(suspect)) => {
                return Err(self.suspect_failure(suspect, !suspect.is_clash()));
            }
            (Err(problem), None) => {
                let carriage = lines.buffer.ends_with(b"\r");
                let why = if carriage { "its line end was changed" } else { "it was altered" };
                let event = quoted_event(&lines.buffer);
                let message = format!("{problem}: {why}");
                return Err(self.failed(number, event, Problem::Malformed, message));
            }
        };
        let at = Place { line: number, event: EventText(*view.id) };
        if view.workspace != self.header.workspace {
            let message = format!("the entry is not of workspace {}", self.header.workspace);
            return Err(self.failed_at(at, Problem::ForeignEntry, message));
        }
        let hash = self.authenticated_leaf(&view, &lines.buffer, at)?;
        self.chain(&view, at, hash)?;
        self.tree.push(hash);
        self.entries += 1;
        self.note_known_roots();
        if self.first_time.is_none() {
            self.first_time = Some(view.time.to_owned());
        }
        if *view.time > *self.last_time {
            view.time.clone_into(&mut self.last_time);
        }
        Ok(())
    }

    /// The entry's leaf hash, once its MAC was held against what the keys file says of it.
    fn authenticated_leaf(
        &mut self,
        view: &EntryView<'_>,
        line: &[u8],
        at: Place,
    ) -> Result<[u8; 32], Stop> {
        let Some(keys) = self.context.keys.filter(|keys| !keys.mac.is_empty()) else {
            return Ok(leaf(line));
        };
        let id = view.mac_key;
        let Some(key) = keys.mac_key(id) else {
            let message = format!("the MAC is by key `{id}`, which the keys file does not have");
            return Err(self.failed_at(at, Problem::UnknownMacKey, message));
        };
        if let Some(problem) = key.validity.problem(view.time) {
            let message = format!("the MAC is by key `{id}`, which {problem}");
            return Err(self.failed_at(at, Problem::MacKeyOutOfTime, message));
        }
        match key.authenticates(line, view) {
            Some((false, _)) => {
                let message =
                    format!("the MAC by key `{id}` does not match: the entry was altered");
                Err(self.failed_at(at, Problem::WrongMac, message))
            }
            Some((true, leaf)) => {
                self.macs_checked += 1;
                Ok(leaf)
            }
            None => Ok(leaf(line)),
        }
    }

    fn chain(&mut self, view: &EntryView<'_>, at: Place, hash: [u8; 32]) -> Result<(), Stop> {
        let sequence = view.sequence;
        let Some(head) = self.streams.get_mut(view.stream) else {
            return self.begin_stream(view, at, hash);
        };
        let clash = sequence == head.sequence && hash != head.hash;
        if sequence <= head.sequence && !clash {
            let (last, line) = (head.sequence, head.place.line);
            let message = format!(
                "the entry has number {sequence} in stream {}, which line {line} ({}) has already \
                 brought to {last}: it was duplicated, inserted or reordered",
                view.stream, head.place.event
            );
            return Err(self.failed_at(at, Problem::Repeated, message));
        }
        if sequence > head.sequence + 1 {
            let (missing, last) = (sequence - head.sequence - 1, head.sequence);
            let message = format!(
                "{missing} entries of stream {} are missing before this one: its number is \
                 {sequence}, the one before it has {last}",
                view.stream
            );
            return Err(self.failed_at(at, Problem::Gap, message));
        }
        if clash || view.prev != head.hash {
            self.suspect = Some(Suspect::Pair {
                stream: view.stream.to_owned(),
                earlier: head.place,
                later: at,
                later_hash: hash,
                clash,
            });
            return Ok(());
        }
        if view.time < head.time.as_str() && stepped_back(&head.time, view.time) {
            let (count, _) = self.backwards.get_or_insert((0, at));
            *count += 1;
        }
        head.sequence = sequence;
        head.hash = hash;
        view.time.clone_into(&mut head.time);
        head.place = at;
        Ok(())
    }

    /// The first entry of a stream here: in a whole log it is also the stream's first.
    fn begin_stream(
        &mut self,
        view: &EntryView<'_>,
        at: Place,
        hash: [u8; 32],
    ) -> Result<(), Stop> {
        let sequence = view.sequence;
        if sequence == 0 || (self.header.first == 0 && sequence != 1) {
            let stream = view.stream.to_owned();
            self.suspect = Some(Suspect::Start { stream, sequence, at });
            return Ok(());
        }
        if sequence == 1 && view.prev != [0; 32] {
            let message = "the first entry of a stream has a `prev`: it was altered".to_owned();
            return Err(self.failed_at(at, Problem::Altered, message));
        }
        let head = Head { sequence, hash, time: view.time.to_owned(), place: at };
        self.streams.insert(view.stream.to_owned(), head);
        Ok(())
    }

    /// With a suspect found, looks only for the entry that tells which to blame.
    fn resolve(&self, view: &EntryView<'_>) -> Result<(), Stop> {
        match &self.suspect {
            Some(suspect @ Suspect::Pair { stream, later_hash, .. }) if stream == view.stream => {
                Err(self.suspect_failure(suspect, view.prev == *later_hash))
            }
            _ => Ok(()),
        }
    }

    fn suspect_failure(&self, suspect: &Suspect, later_is_vouched_for: bool) -> Stop {
        match suspect {
            Suspect::Pair { stream, earlier, later, clash: true, .. } => {
                let (wrong, right) =
                    if later_is_vouched_for { (earlier, later) } else { (later, earlier) };
                let message = format!(
                    "the entry has the same number in stream {stream} as line {} ({}), which the rest \
                     of the chain bears out: it was inserted or altered",
                    right.line, right.event
                );
                self.failed_at(*wrong, Problem::Repeated, message)
            }
            Suspect::Pair { earlier, later, .. } if later_is_vouched_for => {
                let message = format!(
                    "the entry is not what the next one of its stream, line {} ({}), was chained to: \
                     it was altered",
                    later.line, later.event
                );
                self.failed_at(*earlier, Problem::Altered, message)
            }
            Suspect::Pair { earlier, later, .. } => {
                let message = format!(
                    "the entry's `prev` is not the hash of the one before it, line {} ({}), and \
                     nothing after it vouches for it: it was altered or put in another's place",
                    earlier.line, earlier.event
                );
                self.failed_at(*later, Problem::Altered, message)
            }
            Suspect::Start { stream, sequence, at } => {
                let message = format!(
                    "stream {stream} begins with number {sequence} instead of 1: the entries before \
                     it are missing or it was altered"
                );
                self.failed_at(*at, Problem::Gap, message)
            }
        }
    }

    fn note_known_roots(&mut self) {
        for (root, known) in self.known_roots.iter_mut().zip(self.context.known) {
            if known.checkpoint.size == self.tree.size() {
                *root = Some(self.tree.root());
            }
        }
    }

    fn failed_at(&self, at: Place, problem: Problem, message: String) -> Stop {
        self.failed(at.line, Some(at.event.to_string()), problem, message)
    }

    fn failed(&self, line: u64, event: Option<String>, problem: Problem, message: String) -> Stop {
        self.context.failed(line, event, problem, message)
    }
}

/// The id of a damaged entry, when it is where it should be.
fn quoted_event(line: &[u8]) -> Option<String> {
    let id = line.strip_prefix(b"{\"v\":1,\"id\":\"")?.get(..30)?;
    let plain = id.starts_with(b"evt_") && id[4..].iter().all(u8::is_ascii_alphanumeric);
    let id = std::str::from_utf8(id).ok()?;
    plain.then(|| id.to_owned())
}

fn stepped_back(earlier: &str, later: &str) -> bool {
    let micros = |time: &str| time.parse().map(Timestamp::as_micros).ok();
    match (micros(earlier), micros(later)) {
        (Some(earlier), Some(later)) => earlier.saturating_sub(later) > CLOCK_STEP,
        _ => false,
    }
}
