//! The first line.

use super::{CLOSING, Context, Lines, Problem, Stop, UnreadableReason};
use crate::{
    format::EXPORT_FORMAT,
    verify::{
        cursor::{Cursor, Malformed, unescape},
        grammar::hex,
        note::LogVerifier,
    },
};

pub(super) struct Header {
    pub(super) workspace: String,
    pub(super) first: u64,
    pub(super) frontier: Vec<[u8; 32]>,
    /// The key as text, and as it was read from it.
    pub(super) log_key: String,
    pub(super) verifier: LogVerifier,
    pub(super) time: String,
}

/// Reads the header; tells a damaged export from a file that never was one.
pub(super) fn read(context: &Context<'_>, lines: &mut Lines<'_>) -> Result<Header, Stop> {
    if !lines.next()? || is_blank(lines)? {
        let message = "the file is empty: the entries and their checkpoint are gone".to_owned();
        return Err(context.failed(1, None, Problem::Wiped, message));
    }
    let header = std::str::from_utf8(&lines.buffer).ok().map(Header::parse);
    let (column, expected) = match header {
        Some(Ok(header)) => return Ok(header),
        Some(Err(Malformed { at, expected })) => (at + 1, expected),
        None => (1, "UTF-8"),
    };
    if !looks_like_export(lines)? {
        return Err(Stop::Unreadable(UnreadableReason::NotAnExport));
    }
    let message = format!(
        "the first line is no intact header of an export, {expected} expected at column {column}: \
         it was altered or removed"
    );
    Err(context.failed(1, None, Problem::Header, message))
}

/// Whether the file holds nothing but zeros and white space.
fn is_blank(lines: &mut Lines<'_>) -> Result<bool, Stop> {
    let blank = |byte: &u8| *byte == 0 || byte.is_ascii_whitespace();
    while lines.buffer.iter().all(blank) {
        if !lines.next()? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether this line or one of the next bears a mark of the format.
fn looks_like_export(lines: &mut Lines<'_>) -> Result<bool, Stop> {
    const MARKS: [&[u8]; 4] =
        [b"agent-assembly/audit-export", b"\"frontier\":[", b"\"id\":\"evt_", CLOSING];
    const LINES_TRIED: usize = 3;
    for _ in 0..LINES_TRIED {
        let marked = |mark: &&[u8]| lines.buffer.windows(mark.len()).any(|part| part == *mark);
        if MARKS.iter().any(marked) {
            return Ok(true);
        }
        if !lines.next()? {
            break;
        }
    }
    Ok(false)
}

// === impl Header ===

impl Header {
    fn parse(line: &str) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(line);
        cursor.literal("{\"format\":")?;
        if cursor.text()? != EXPORT_FORMAT {
            return Err(Malformed { at: 10, expected: EXPORT_FORMAT });
        }
        cursor.literal(",\"workspace\":")?;
        let workspace = cursor.text()?.to_owned();
        cursor.literal(",\"first\":")?;
        let first = cursor.number()?;
        cursor.literal(",\"frontier\":[")?;
        let mut frontier = Vec::new();
        while !cursor.skip("]") {
            if !frontier.is_empty() {
                cursor.literal(",")?;
            }
            let at = cursor.at();
            let root = hex(cursor.text()?);
            frontier.push(root.ok_or(Malformed { at, expected: "64 hex digits" })?);
        }
        cursor.literal(",\"log_key\":")?;
        let at = cursor.at();
        let log_key = unescape(cursor.text()?);
        let verifier = LogVerifier::parse(&log_key);
        let verifier = verifier.ok_or(Malformed { at, expected: "a verifier key" })?;
        cursor.literal(",\"time\":")?;
        let time = cursor.text()?.to_owned();
        cursor.literal("}")?;
        cursor.end()?;
        Ok(Self { workspace, first, frontier, log_key, verifier, time })
    }
}
