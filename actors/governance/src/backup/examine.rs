//! What a backup proves, and its reading part by part.
//!
//! Every part is handed out only after it was checked: the frame's digest, each entry's place in its chain, the root
//! over the leaves against the signed checkpoint, each row's form. What the last frame adds is the seal over all.
//! Memory grows with the number of streams, not of entries.

use std::{
    collections::{BTreeMap, HashMap},
    io::Read,
};

use aa_ledger::{ChainHead, Checkpoint, Entry, Hash, Keys, Stream, Tile, TreeEdge, VerifierKey};
use aa_protocol::{Timestamp, WorkspaceId};
use bytes::Bytes;
use serde::Serialize;

use super::{
    FileError,
    contents::{End, Header, read_rows, read_run},
    frame::{FrameKind, FrameReader},
    rows::{self, Found},
};
use crate::{chain::decode_head, keys::Space};

/// What a whole backup holds, and what was proven of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Contents {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// Its name.
    pub name: String,
    /// The moment it shows.
    pub taken_at: Timestamp,
    /// The version of the program that took it.
    pub program: String,
    /// Shards of the store it was taken from.
    pub shards: u16,
    /// Entries of the log; each chain was followed from its first to its head.
    pub entries: u64,
    /// Of these, entries that were not in the tree yet.
    pub tail: u64,
    /// Chains.
    pub streams: u64,
    /// Rows by their kind.
    pub rows: BTreeMap<String, u64>,
    /// The signed checkpoint that the entries lead to.
    pub checkpoint: Checkpoint,
    /// The key that signed the checkpoint and sealed the file.
    pub log_key: String,
    /// Why that key is believed.
    pub trust: Trust,
    /// Whether the log contains the checkpoint that was kept from earlier; absent when none was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contains_pinned: Option<bool>,
    /// The master keys that the workspace's data keys are wrapped under: its secrets open only with them.
    pub master_keys: Vec<String>,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// Length of the file.
    pub bytes: u64,
}

/// Why the log's key is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// It was given.
    Pinned,
    /// The file names it. That shows that the file is whole, not who made it.
    OnFirstUse,
}

/// A checked part of a file.
pub(super) enum Part {
    Run(CheckedRun),
    Checkpoint(String),
    Rows(Space, Vec<(Bytes, Bytes)>),
    End(Box<Contents>),
}

/// Entries that follow each other in a shard of the source.
pub(super) struct CheckedRun {
    pub(super) is_tail: bool,
    pub(super) shard: u16,
    pub(super) first: u64,
    pub(super) entries: Vec<CheckedEntry>,
    /// The tiles that the leaves have changed.
    pub(super) tiles: Vec<Tile>,
}

/// An entry in its chain.
pub(super) struct CheckedEntry {
    pub(super) stream: Stream,
    /// The chain's head after it.
    pub(super) head: ChainHead,
    pub(super) line: Bytes,
}

/// A file being read.
pub(super) struct Examination<'k, R> {
    frames: FrameReader<R>,
    header: Header,
    verifier: VerifierKey,
    keys: Option<&'k Keys>,
    pinned: Option<Pinned>,
    /// Of the last frame: frames come in one order.
    stage: u8,
    edge: TreeEdge,
    streams: HashMap<Stream, Last>,
    /// The position after the last entry of each shard.
    next: BTreeMap<u16, u64>,
    checkpoint: Option<Checkpoint>,
    tail: u64,
    rows: BTreeMap<String, u64>,
    last_row: Option<(Space, Bytes)>,
    found: Found,
    ended: bool,
}

/// The end of a stream.
struct Last {
    head: ChainHead,
    shard: u16,
    position: u64,
}

/// A checkpoint kept from earlier.
struct Pinned {
    checkpoint: Checkpoint,
    /// Whether the leaves led to its root; none before there were as many.
    holds: Option<bool>,
}

/// Verifies a backup from its first byte to its last. `keys` are those that are trusted; without, the key that the file
/// names is. With `pinned`, a signed checkpoint kept from earlier, the log must contain it.
///
/// # Errors
/// What is wrong with the file, and where.
pub fn verify(
    source: impl Read,
    keys: Option<&Keys>,
    pinned: Option<&str>,
) -> Result<Contents, FileError> {
    let mut examination = Examination::begin(source, keys, pinned)?;
    loop {
        if let Part::End(contents) = examination.next()? {
            return Ok(*contents);
        }
    }
}

// === impl Examination ===

impl<'k, R: Read> Examination<'k, R> {
    /// Reads what the file is.
    pub(super) fn begin(
        source: R,
        keys: Option<&'k Keys>,
        pinned: Option<&str>,
    ) -> Result<Self, FileError> {
        let mut frames = FrameReader::begin(source)?;
        let at = frames.at();
        let header: Header = match frames.next()? {
            Some((FrameKind::Header, payload)) => serde_json::from_slice(payload)
                .map_err(|error| FileError::inconsistent(at, format!("no header: {error}")))?,
            _ => return Err(FileError::inconsistent(at, "a header is expected")),
        };
        let verifier: VerifierKey = header.log_key.parse().map_err(|error| {
            FileError::inconsistent(at, format!("the header's log key: {error}"))
        })?;
        if verifier.name() != Checkpoint::origin(header.workspace) {
            let problem = format!("the log key is of {}, another log", verifier.name());
            return Err(FileError::inconsistent(at, problem));
        }
        let pinned = match pinned {
            None => None,
            Some(note) => Some(Pinned::read(note, &verifier)?),
        };
        let mut examination = Self {
            frames,
            header,
            verifier,
            keys,
            pinned,
            stage: 0,
            edge: TreeEdge::new(),
            streams: HashMap::new(),
            next: BTreeMap::new(),
            checkpoint: None,
            tail: 0,
            rows: BTreeMap::new(),
            last_row: None,
            found: Found::default(),
            ended: false,
        };
        examination.compare_pinned();
        Ok(examination)
    }

    pub(super) const fn workspace(&self) -> WorkspaceId {
        self.header.workspace
    }

    /// The next part. After [`Part::End`] there is none.
    pub(super) fn next(&mut self) -> Result<Part, FileError> {
        let at = self.frames.at();
        let before = *self.frames.digest();
        let Some((kind, payload)) = self.frames.next()? else {
            return Err(FileError::CutOff { at });
        };
        // Borrowed from the reader, which the checks need as well.
        let payload = Bytes::copy_from_slice(payload);
        let wrong = |problem: &str| FileError::inconsistent(at, problem);
        let stage = match kind {
            FrameKind::Header => return Err(wrong("there is a second header")),
            FrameKind::Leaves => 1,
            FrameKind::Checkpoint => 2,
            FrameKind::Tail => 3,
            FrameKind::Rows => 4,
            FrameKind::End => 5,
            FrameKind::Failure => {
                return Err(FileError::NotTaken(String::from_utf8_lossy(&payload).into_owned()));
            }
        };
        let leaves_go_on = kind == FrameKind::Leaves && self.stage <= 2;
        if stage < self.stage && !leaves_go_on || self.ended {
            return Err(wrong("frames are not in their order"));
        }
        self.stage = self.stage.max(stage);
        match kind {
            FrameKind::Leaves | FrameKind::Tail => {
                self.run(at, &payload, kind == FrameKind::Tail).map(Part::Run)
            }
            FrameKind::Checkpoint => self.checkpoint(at, &payload).map(Part::Checkpoint),
            FrameKind::Rows => self.rows(at, &payload),
            FrameKind::End | FrameKind::Header | FrameKind::Failure => {
                self.end(at, &before, &payload)
            }
        }
    }

    fn run(&mut self, at: u64, payload: &[u8], is_tail: bool) -> Result<CheckedRun, FileError> {
        let wrong = |problem: String| FileError::inconsistent(at, problem);
        let (shard, first, lines) =
            read_run(payload).ok_or_else(|| wrong("it holds no run of entries".into()))?;
        let next = self.next.entry(shard).or_default();
        if first != *next || shard >= self.header.shards {
            return Err(wrong(format!(
                "it goes on at position {first} of shard {shard}, where {next} is due"
            )));
        }
        *next += lines.len() as u64;
        let mut entries = Vec::with_capacity(lines.len());
        for (line, position) in lines.into_iter().zip(first..) {
            entries.push(self.entry(at, line, shard, position)?);
        }
        let mut tiles = Vec::new();
        if is_tail {
            self.tail += entries.len() as u64;
        } else {
            let leaves: Vec<Hash> = entries.iter().map(|entry| entry.head.hash).collect();
            tiles = self.append(&leaves);
        }
        Ok(CheckedRun { is_tail, shard, first, entries, tiles })
    }

    /// Holds an entry against the chain it goes on with.
    fn entry(
        &mut self,
        at: u64,
        line: Bytes,
        shard: u16,
        position: u64,
    ) -> Result<CheckedEntry, FileError> {
        let place = || format!("the entry at position {position} of shard {shard}");
        let wrong = |problem: String| FileError::inconsistent(at, format!("{} {problem}", place()));
        let entry =
            Entry::parse(&line).map_err(|error| wrong(format!("does not read: {error}")))?;
        if entry.workspace != self.header.workspace {
            return Err(wrong(format!("is of {}", entry.workspace)));
        }
        let stream = entry.stream;
        let last = self.streams.get(&stream);
        let head = last.map(|last| last.head).unwrap_or_default();
        if entry.sequence != head.sequence + 1 || entry.prev != head.hash {
            return Err(wrong(format!(
                "is number {} of stream {stream} and does not continue number {} before it",
                entry.sequence, head.sequence
            )));
        }
        if last.is_some_and(|last| last.shard != shard) {
            return Err(wrong(format!("is of stream {stream}, which is in another shard")));
        }
        let head = ChainHead { sequence: entry.sequence, hash: Hash::of_leaf(&line) };
        self.streams.insert(stream, Last { head, shard, position });
        Ok(CheckedEntry { stream, head, line })
    }

    /// Adds leaves, and looks at the root where the pinned checkpoint was made.
    fn append(&mut self, leaves: &[Hash]) -> Vec<Tile> {
        let pinned = self.pinned.as_ref().map(|pinned| pinned.checkpoint.size);
        let until = pinned.and_then(|size| size.checked_sub(self.edge.size()));
        let until = until.and_then(|until| usize::try_from(until).ok());
        let (before, after) = leaves.split_at(until.unwrap_or(0).min(leaves.len()));
        let mut tiles = self.edge.append(before);
        self.compare_pinned();
        tiles.extend(self.edge.append(after));
        tiles
    }

    fn compare_pinned(&mut self) {
        if let Some(pinned) = &mut self.pinned
            && pinned.checkpoint.size == self.edge.size()
        {
            pinned.holds = Some(pinned.checkpoint.root == self.edge.root());
        }
    }

    fn checkpoint(&mut self, at: u64, payload: &[u8]) -> Result<String, FileError> {
        let wrong = |problem: String| FileError::inconsistent(at, problem);
        if self.checkpoint.is_some() {
            return Err(wrong("there is a second checkpoint".into()));
        }
        let note = std::str::from_utf8(payload).map_err(|_| wrong("it is not UTF-8".into()))?;
        let checkpoint = Checkpoint::open(note, &self.verifier)
            .map_err(|error| wrong(format!("the checkpoint does not hold: {error}")))?;
        let (size, root) = (self.edge.size(), self.edge.root());
        if checkpoint.workspace != self.header.workspace || checkpoint.size != size {
            return Err(wrong(format!(
                "the checkpoint is over {} entries of {}, {size} precede it",
                checkpoint.size, checkpoint.workspace
            )));
        }
        if checkpoint.root != root {
            return Err(wrong(format!(
                "the {size} entries lead to the root {root}, {} was signed: entries were reordered or rewritten",
                checkpoint.root
            )));
        }
        self.checkpoint = Some(checkpoint);
        Ok(note.to_owned())
    }

    fn rows(&mut self, at: u64, payload: &Bytes) -> Result<Part, FileError> {
        let wrong = |problem: String| FileError::inconsistent(at, problem);
        let (space, rows) =
            read_rows(payload).ok_or_else(|| wrong("it holds no rows of a known kind".into()))?;
        let mut owned = Vec::with_capacity(rows.len());
        for (key, value) in rows {
            let row = (space, payload.slice_ref(key));
            if self.last_row.as_ref().is_some_and(|last| *last >= row) {
                return Err(wrong(format!("the rows of `{}` do not ascend", space.name())));
            }
            let (_, key) = self.last_row.insert(row);
            let key = key.clone();
            if space == Space::Head {
                self.head(at, &key, value)?;
            } else {
                rows::check(self.header.workspace, space, &key, value, &mut self.found)
                    .map_err(|problem| wrong(format!("a row of `{}` {problem}", space.name())))?;
            }
            owned.push((key, payload.slice_ref(value)));
        }
        *self.rows.entry(space.name().to_owned()).or_default() += owned.len() as u64;
        Ok(Part::Rows(space, owned))
    }

    /// The recorded end of a chain is where its entries led to.
    fn head(&mut self, at: u64, key: &[u8], value: &[u8]) -> Result<(), FileError> {
        let wrong = |problem: String| FileError::inconsistent(at, problem);
        let stream = rows::head_stream(self.header.workspace, key)
            .ok_or_else(|| wrong("the head of a chain names no stream".into()))?;
        let recorded =
            decode_head(value).ok_or_else(|| wrong(format!("the head of {stream} is damaged")))?;
        let reached = self.streams.get(&stream).map(|last| (last.position, last.head));
        if reached != Some(recorded) {
            let entries = reached.map_or(0, |(_, head)| head.sequence);
            return Err(wrong(format!(
                "stream {stream} ended with entry {}, the file has {entries} of them",
                recorded.1.sequence
            )));
        }
        Ok(())
    }

    fn end(&mut self, at: u64, before: &[u8; 32], payload: &[u8]) -> Result<Part, FileError> {
        let wrong = |problem: &str| FileError::inconsistent(at, problem);
        let end: End = serde_json::from_slice(payload)
            .map_err(|error| FileError::inconsistent(at, format!("no end: {error}")))?;
        let Some(checkpoint) = self.checkpoint else {
            return Err(wrong("no checkpoint precedes it"));
        };
        let counted =
            (end.leaves, end.tail) == (self.edge.size(), self.tail) && end.rows == self.rows;
        let heads = self.rows.get(Space::Head.name()).copied().unwrap_or(0);
        if !counted || heads != self.streams.len() as u64 {
            return Err(wrong("it counts other entries, chains or rows than precede it"));
        }
        let Found { name: Some(name), master_keys, .. } = std::mem::take(&mut self.found) else {
            return Err(wrong("the workspace's own record is missing"));
        };
        self.seal(at, before, &end)?;
        let trust = self.trust(end.taken_at)?;
        let contains_pinned = match &self.pinned {
            None => None,
            Some(Pinned { holds: Some(true), .. }) => Some(true),
            Some(Pinned { holds: Some(false), checkpoint }) => {
                return Err(FileError::Untrusted(format!(
                    "its first {} entries are not those of the checkpoint kept from {}: the log was forked or rewritten",
                    checkpoint.size, checkpoint.time
                )));
            }
            Some(Pinned { holds: None, checkpoint }) => {
                return Err(FileError::Untrusted(format!(
                    "the checkpoint kept from {} is over {} entries, the backup has {}: it is older",
                    checkpoint.time,
                    checkpoint.size,
                    self.edge.size()
                )));
            }
        };
        let sha256 = hex(&self.frames.of_all());
        let bytes = self.frames.at();
        if self.frames.next()?.is_some() {
            return Err(FileError::inconsistent(bytes, "there is more after the end"));
        }
        self.ended = true;
        Ok(Part::End(Box::new(Contents {
            workspace: self.header.workspace,
            name,
            taken_at: end.taken_at,
            program: self.header.program.clone(),
            shards: self.header.shards,
            entries: end.leaves + end.tail,
            tail: end.tail,
            streams: self.streams.len() as u64,
            rows: end.rows,
            checkpoint,
            log_key: self.header.log_key.clone(),
            trust,
            contains_pinned,
            master_keys: master_keys.into_iter().collect(),
            sha256,
            bytes,
        })))
    }

    /// The seal is over the digest of all that precedes the last frame, and what that frame says.
    fn seal(&self, at: u64, before: &[u8; 32], end: &End) -> Result<(), FileError> {
        let sealed = self.verifier.open(&end.seal).map_err(|error| {
            FileError::inconsistent(at, format!("the seal does not hold: {error}"))
        })?;
        if sealed != end.sealed_text(self.header.workspace, before) {
            return Err(FileError::inconsistent(at, "the seal is of other contents"));
        }
        Ok(())
    }

    fn trust(&self, at: Timestamp) -> Result<Trust, FileError> {
        let Some(keys) = self.keys else { return Ok(Trust::OnFirstUse) };
        match keys.check_log_key(&self.header.log_key, at) {
            Ok(()) => Ok(Trust::Pinned),
            Err(problem) => Err(FileError::Untrusted(problem)),
        }
    }
}

// === impl Pinned ===

impl Pinned {
    fn read(note: &str, verifier: &VerifierKey) -> Result<Self, FileError> {
        let checkpoint = Checkpoint::open(note, verifier).map_err(|error| {
            FileError::Untrusted(format!("the checkpoint kept from earlier: {error}"))
        })?;
        Ok(Self { checkpoint, holds: None })
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
