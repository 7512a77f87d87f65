//! What a verification found.

use std::fmt;

use serde::Serialize;

/// The outcome for all files given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether every file is whole, unaltered and consistent with the others and the pinned checkpoint.
    pub intact: bool,
    /// The files that were read, up to the first failure.
    pub exports: Vec<ExportReport>,
    /// What is odd or could not be checked, yet is no sign of tampering.
    pub warnings: Vec<String>,
    /// The first thing found wrong.
    pub failure: Option<Failure>,
}

/// What one export holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExportReport {
    /// The file's name.
    pub file: String,
    /// The workspace in its header.
    pub workspace: String,
    /// Leaf index of its first entry.
    pub first: u64,
    /// Entries in it.
    pub entries: u64,
    /// Streams they belong to.
    pub streams: u64,
    /// Time of the first entry.
    pub first_time: Option<String>,
    /// Time of the newest entry.
    pub last_time: Option<String>,
    /// The checkpoint that closes it.
    pub checkpoint: CheckpointReport,
    /// How the key that signed it came to be trusted.
    pub trust: Trust,
    /// Entries whose MAC was checked with a secret.
    pub macs_checked: u64,
}

/// A verified checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckpointReport {
    /// Entries in the whole log.
    pub size: u64,
    /// The root, in base64 as in the checkpoint.
    pub root: String,
    /// When it was made.
    pub time: String,
    /// The name of the key that signed it.
    pub key: String,
}

/// Where trust in a log's key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// The key is in the keys file.
    Pinned,
    /// The key is the one the export itself names: it shows that the export is whole, not who made it.
    OnFirstUse,
}

/// The first thing found wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The file.
    pub file: String,
    /// 1-based line of the first bad entry or, where none can be named, of what shows the fault.
    pub line: Option<u64>,
    /// The first bad entry's id.
    pub event: Option<String>,
    /// What kind of fault it is.
    pub problem: Problem,
    /// What was found, why it matters and, where something can be done, what.
    pub message: String,
}

/// The kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Problem {
    /// The file is empty or blank.
    Wiped,
    /// The first line is not an intact header.
    Header,
    /// A line is not a canonical entry.
    Malformed,
    /// An entry belongs to another workspace.
    ForeignEntry,
    /// An entry's content is not what the chain or its stream's recorded head has.
    Altered,
    /// Entries of a stream are missing.
    Gap,
    /// An entry repeats or goes back in its stream: duplicated, inserted or reordered.
    Repeated,
    /// An entry's MAC is wrong.
    WrongMac,
    /// An entry names a MAC key that the keys file does not have.
    UnknownMacKey,
    /// An entry's MAC key was not valid at its time.
    MacKeyOutOfTime,
    /// No checkpoint closes the export.
    NotClosed,
    /// The closing line is damaged.
    Closing,
    /// The number of entries is not what the checkpoint covers.
    Count,
    /// There is text after the checkpoint.
    Trailing,
    /// The checkpoint is of another workspace's log.
    ForeignCheckpoint,
    /// The checkpoint is not signed by a trusted key.
    UnknownKey,
    /// The checkpoint's signature is wrong.
    ForgedSignature,
    /// The checkpoint's key was not valid at its time.
    KeyOutOfTime,
    /// The entries do not lead to the signed root.
    Root,
    /// The log is shorter than a checkpoint it must contain.
    Shorter,
    /// The log does not continue the one of an earlier checkpoint.
    Forked,
    /// The export begins after an earlier checkpoint, so the two cannot be compared.
    NotComparable,
}

/// A file that could not be read or is no export at all.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct Unreadable {
    /// The file.
    pub file: String,
    /// Why.
    pub problem: UnreadableReason,
}

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableReason {
    /// Reading failed.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// Nothing in it looks like an export.
    #[error("is not an audit export (JSON Lines beginning with {{\"format\":\"agent-assembly/…)")]
    NotAnExport,
    /// The file given as pinned checkpoint is none.
    #[error("is not a checkpoint: its {0} is missing or malformed")]
    NotACheckpoint(&'static str),
}

// === impl Report ===

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for export in &self.exports {
            writeln!(f, "{export}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        match &self.failure {
            Some(failure) => write!(f, "NOT INTACT: {failure}"),
            None => f.write_str("intact"),
        }
    }
}

// === impl ExportReport ===

impl fmt::Display for ExportReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, workspace, first, entries, streams, checkpoint, .. } = self;
        write!(f, "{file}: {entries} entries of {workspace} in {streams} streams")?;
        if *first > 0 {
            write!(f, ", from number {}", first + 1)?;
        }
        if let (Some(first), Some(last)) = (&self.first_time, &self.last_time) {
            write!(f, "\n  from {first} to {last}")?;
        }
        let CheckpointReport { size, root, time, key } = checkpoint;
        write!(f, "\n  checkpoint of {size} entries, root {root}\n  signed at {time} by {key}")?;
        match self.trust {
            Trust::Pinned => f.write_str(", a key you gave"),
            Trust::OnFirstUse => f.write_str(", the key the export itself names"),
        }
    }
}

// === impl Failure ===

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        if let Some(event) = &self.event {
            write!(f, " ({event})")?;
        }
        write!(f, ": {}", self.message)
    }
}
