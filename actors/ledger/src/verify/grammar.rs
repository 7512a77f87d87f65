//! What an entry's line looks like, as data, and the walk that checks a line against it.

#[cfg(test)]
mod plain;

use super::cursor::{Cursor, Malformed};
use crate::format::{KINDS, MAX_DETAIL_KEY, MAX_ENTRY_BYTES, MAX_MAC_KEY_ID, STREAMS};

enum Shape {
    Text,
    Number,
    True,
    List(&'static Shape),
    Object(&'static [Member]),
    /// Free ascending keys with strings.
    Detail,
}

struct Member {
    name: &'static str,
    /// The name as it stands in a line: quoted, with its colon.
    key: &'static str,
    /// The first bytes of the key as a word, and which bytes of a word they take.
    head: (u64, u64),
    required: bool,
    shape: Shape,
}

/// Bytes of a word.
const WORD: usize = 8;

macro_rules! member {
    ($name:literal, $required:literal, $shape:expr) => {{
        let key = concat!("\"", $name, "\":");
        Member { name: $name, key, head: head(key), required: $required, shape: $shape }
    }};
}

macro_rules! must {
    ($name:literal, $shape:expr) => {
        member!($name, true, $shape)
    };
}

macro_rules! may {
    ($name:literal, $shape:expr) => {
        member!($name, false, $shape)
    };
}

const fn head(key: &str) -> (u64, u64) {
    let key = key.as_bytes();
    let (mut word, mut mask) = (0, 0);
    let mut at = 0;
    while at < key.len() && at < WORD {
        word |= (key[at] as u64) << (8 * at);
        mask |= 0xff << (8 * at);
        at += 1;
    }
    (word, mask)
}

static ENTRY: [Member; 21] = [
    must!("v", Shape::Number),
    must!("id", Shape::Text),
    must!("workspace", Shape::Text),
    must!("stream", Shape::Text),
    must!("seq", Shape::Number),
    must!("time", Shape::Text),
    must!("kind", Shape::Text),
    may!("actor", Shape::Text),
    may!("action", Shape::Object(&ACTION)),
    may!("verdict", Shape::Text),
    may!("reasons", Shape::List(&Shape::Object(&REASON))),
    may!("approval", Shape::Object(&APPROVAL)),
    may!("findings", Shape::List(&Shape::Object(&FINDING))),
    may!("policies", Shape::List(&Shape::Object(&POLICY))),
    may!("latency_us", Shape::Number),
    may!("trace", Shape::Text),
    may!("parent_span", Shape::Text),
    may!("detail", Shape::Detail),
    may!("cut", Shape::True),
    must!("prev", Shape::Text),
    must!("mac", Shape::Text),
];

const ID: usize = 1;
const WORKSPACE: usize = 2;
const STREAM: usize = 3;
const SEQ: usize = 4;
const TIME: usize = 5;
const KIND: usize = 6;
const VERDICT: usize = 9;
const PREV: usize = 19;
const MAC: usize = 20;

static ACTION: [Member; 18] = [
    must!("id", Shape::Text),
    must!("kind", Shape::Text),
    may!("tool", Shape::Text),
    may!("model", Shape::Text),
    may!("host", Shape::Text),
    may!("port", Shape::Number),
    may!("path", Shape::Text),
    may!("program", Shape::Text),
    may!("argc", Shape::Number),
    may!("child", Shape::Text),
    may!("args_bytes", Shape::Number),
    may!("messages", Shape::Number),
    may!("messages_bytes", Shape::Number),
    may!("max_output_tokens", Shape::Number),
    may!("content_bytes", Shape::Number),
    may!("input_tokens", Shape::Number),
    may!("output_tokens", Shape::Number),
    may!("observed", Shape::Object(&OBSERVED)),
];

static OBSERVED: [Member; 6] = [
    must!("latency_us", Shape::Number),
    may!("first_token_us", Shape::Number),
    may!("status", Shape::Number),
    may!("finish_reason", Shape::Text),
    may!("conversation", Shape::Text),
    may!("response_id", Shape::Text),
];

static REASON: [Member; 9] = [
    must!("code", Shape::Text),
    may!("policy", Shape::Text),
    may!("revision", Shape::Number),
    may!("version", Shape::Text),
    may!("path", Shape::Text),
    may!("line", Shape::Number),
    may!("column", Shape::Number),
    may!("budget", Shape::Object(&BUDGET)),
    must!("message", Shape::Text),
];

static BUDGET: [Member; 8] = [
    must!("window", Shape::Text),
    may!("limit_nano_usd", Shape::Number),
    must!("spent_nano_usd", Shape::Number),
    must!("reserved_nano_usd", Shape::Number),
    may!("limit_tokens", Shape::Number),
    must!("spent_tokens", Shape::Number),
    must!("reserved_tokens", Shape::Number),
    must!("resets_at", Shape::Text),
];

static APPROVAL: [Member; 2] =
    [must!("timeout_seconds", Shape::Number), must!("roles", Shape::List(&Shape::Text))];

static FINDING: [Member; 6] = [
    must!("policy", Shape::Text),
    must!("pattern", Shape::Number),
    must!("pointer", Shape::Text),
    may!("in_key", Shape::True),
    must!("offset", Shape::Number),
    must!("length", Shape::Number),
];

static POLICY: [Member; 2] = [must!("name", Shape::Text), must!("revision", Shape::Number)];

type Places = [(usize, usize); ENTRY.len()];

/// The members of an entry that its proof needs.
pub(super) struct EntryView<'l> {
    pub(super) id: &'l [u8; 30],
    pub(super) workspace: &'l str,
    pub(super) stream: &'l str,
    pub(super) sequence: u64,
    /// Canonical, so that the order of the texts is the order of the times.
    pub(super) time: &'l str,
    pub(super) prev: [u8; 32],
    pub(super) mac_key: &'l str,
    pub(super) mac: [u8; 32],
    /// How many bytes stand before `,"mac":`.
    pub(super) authenticated: usize,
}

/// Reads a line strictly: every member known, in order, spelled canonically.
pub(super) fn entry(line: &str) -> Result<EntryView<'_>, Malformed> {
    let at_start = |expected| Malformed { at: 0, expected };
    if line.len() > MAX_ENTRY_BYTES {
        return Err(at_start("an entry of at most 65535 bytes"));
    }
    let places = places(line)?;
    let value = |member: usize| &line[places[member].0..places[member].1];
    let text = |member: usize| {
        let (start, end) = places[member];
        line.get(start + 1..end.saturating_sub(1)).unwrap_or_default()
    };
    let bad = |member: usize, expected| Malformed { at: places[member].0, expected };
    if value(0) != "1" {
        return Err(bad(0, "format version 1"));
    }
    let id = text(ID).as_bytes().try_into().ok().filter(|id: &&[u8; 30]| id.starts_with(b"evt_"));
    let id = id.ok_or(bad(ID, "an event id"))?;
    let stream = text(STREAM);
    let of_one = ["agent:", "budget:", "approval:"];
    let of_one = of_one.iter().find_map(|kind| stream.strip_prefix(kind));
    if of_one.is_none_or(|id| id.len() != 36) && !STREAMS.contains(&stream) {
        return Err(bad(STREAM, "a stream"));
    }
    if !is_time(text(TIME)) {
        return Err(bad(TIME, "a UTC time with six decimals"));
    }
    if !KINDS.contains(&text(KIND)) {
        return Err(bad(KIND, "a kind of entry"));
    }
    let verdict =
        value(VERDICT).is_empty() || matches!(text(VERDICT), "allow" | "require_approval" | "deny");
    if !verdict {
        return Err(bad(VERDICT, "a verdict"));
    }
    let prev = hex(text(PREV)).ok_or(bad(PREV, "64 hex digits"))?;
    let (mac_key, mac) = text(MAC)
        .split_once(':')
        .filter(|(key, _)| (1..=MAX_MAC_KEY_ID).contains(&key.len()))
        .and_then(|(key, mac)| Some((key, hex(mac)?)))
        .ok_or(bad(MAC, "<key id>:<64 hex digits>"))?;
    let sequence = value(SEQ).parse().map_err(|_| bad(SEQ, "an unsigned integer"))?;
    let authenticated = places[MAC].0 - ",\"mac\":".len();
    Ok(EntryView {
        id,
        workspace: text(WORKSPACE),
        stream,
        sequence,
        time: text(TIME),
        prev,
        mac_key,
        mac,
        authenticated,
    })
}

/// Where the value of each member stands; `(0, 0)` for those that are absent.
fn places(line: &str) -> Result<Places, Malformed> {
    let mut cursor = Cursor::new(line);
    let mut places = [(0, 0); ENTRY.len()];
    object(&mut cursor, &ENTRY, |index, start, end| places[index] = (start, end))?;
    cursor.end()?;
    Ok(places)
}

/// Whether the text is `YYYY-MM-DDTHH:MM:SS.ffffffZ`.
pub(super) fn is_time(text: &str) -> bool {
    const PATTERN: &[u8; 27] = b"0000-00-00T00:00:00.000000Z";
    // Without a way out of the loop, several bytes are looked at in one step; so in `hex`.
    text.len() == PATTERN.len()
        && text.bytes().zip(PATTERN).fold(true, |so_far, (byte, &pattern)| {
            let fits = if pattern == b'0' { byte.is_ascii_digit() } else { byte == pattern };
            so_far & fits
        })
}

/// Reads `2 * N` lower-case hex digits.
pub(super) fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    const NONE: u8 = 0x10;
    static VALUES: [u8; 256] = {
        let mut values = [NONE; 256];
        let mut value = 0;
        while value < 16 {
            values[b"0123456789abcdef"[value as usize] as usize] = value;
            value += 1;
        }
        values
    };
    let (pairs, odd) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !odd.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    let mut seen = 0;
    for (byte, &[high, low]) in bytes.iter_mut().zip(pairs) {
        let (high, low) = (VALUES[usize::from(high)], VALUES[usize::from(low)]);
        seen |= high | low;
        *byte = high << 4 | low;
    }
    (seen & NONE == 0).then_some(bytes)
}

/// Walks an object whose members must be a subsequence of `members`; tells where each value stands.
fn object(
    cursor: &mut Cursor<'_>,
    members: &'static [Member],
    mut found: impl FnMut(usize, usize, usize),
) -> Result<(), Malformed> {
    cursor.literal("{")?;
    let mut next = 0;
    while !(next > 0 && cursor.skip("}")) {
        if next > 0 {
            cursor.literal(",")?;
        }
        let index = next_member(cursor, &members[next..])? + next;
        let start = cursor.at();
        value(cursor, &members[index].shape)?;
        found(index, start, cursor.at());
        next = index + 1;
    }
    match members[next..].iter().find(|member| member.required) {
        Some(missing) => cursor.expected(missing.name),
        None => Ok(()),
    }
}

/// Steps over the key of one of the `members`, none before it being required, and tells which it is.
#[inline]
fn next_member(cursor: &mut Cursor<'_>, members: &'static [Member]) -> Result<usize, Malformed> {
    let word = cursor.word();
    for (index, member) in members.iter().enumerate() {
        let (head, mask) = member.head;
        if word & mask == head {
            if member.key.len() <= WORD {
                cursor.advance(member.key.len());
                return Ok(index);
            }
            if cursor.skip(member.key) {
                return Ok(index);
            }
        }
        if member.required {
            break;
        }
    }
    misplaced(cursor, members)
}

/// What is wrong where none of the `members` can stand.
#[cold]
fn misplaced<T>(cursor: &mut Cursor<'_>, members: &'static [Member]) -> Result<T, Malformed> {
    let at = cursor.at();
    let key = cursor.text()?;
    let wrong = Malformed { at, expected: "the format's next member" };
    let index = members.iter().position(|member| member.name == key).ok_or(wrong)?;
    if let Some(missing) = members[..index].iter().find(|member| member.required) {
        return Err(Malformed { at, expected: missing.name });
    }
    cursor.expected(":")
}

fn value(cursor: &mut Cursor<'_>, shape: &'static Shape) -> Result<(), Malformed> {
    match shape {
        Shape::Text => cursor.step_over_text(),
        Shape::Number => cursor.number().map(|_| ()),
        Shape::True => cursor.literal("true"),
        Shape::Object(members) => object(cursor, members, |_, _, _| {}),
        Shape::Detail => detail(cursor),
        Shape::List(item) => {
            cursor.literal("[")?;
            if cursor.skip("]") {
                return Ok(());
            }
            loop {
                value(cursor, item)?;
                if !cursor.skip(",") {
                    return cursor.literal("]");
                }
            }
        }
    }
}

fn detail(cursor: &mut Cursor<'_>) -> Result<(), Malformed> {
    cursor.literal("{")?;
    let mut last = "";
    loop {
        let at = cursor.at();
        let key = cursor.text()?;
        let plain = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.');
        if key <= last || key.len() > MAX_DETAIL_KEY || !key.bytes().all(plain) {
            return Err(Malformed { at, expected: "the next ascending key" });
        }
        cursor.literal(":")?;
        cursor.step_over_text()?;
        last = key;
        if !cursor.skip(",") {
            return cursor.literal("}");
        }
    }
}
