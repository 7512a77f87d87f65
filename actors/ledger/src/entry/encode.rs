//! The canonical encoding, written straight into the caller's buffer: it runs once per decision.

use std::{fmt, io::Write};

use aa_protocol::{ApprovalTerms, Decision, Finding, Reason, Timestamp};

use super::{ChainHead, Draft, PolicyRef};
use crate::{
    ActionSummary, Hash, MacKey,
    format::{MAX_DETAIL_KEY, MAX_ENTRY_BYTES},
    hash::write_hex,
    summary::MAX_NAME_CHARS,
};

const MAX_ITEMS: usize = 64;
const MAX_ROLES: usize = 16;
const MAX_ROLE_CHARS: usize = 64;
const MAX_VERSION_CHARS: usize = 64;
const MAX_TEXT_CHARS: usize = 1_024;

// INVARIANT: a list stops once the line has passed its mark. A character takes at most six bytes, so the
// item written last ends less than 12 KiB past the mark for reasons and 7 KiB for the others, and the
// members after the last mark take less than 512 bytes: no line passes `MAX_ENTRY_BYTES`.
const REASONS_MARK: usize = 24 << 10;
const FINDINGS_MARK: usize = 43 << 10;
const POLICIES_MARK: usize = 47 << 10;
const DETAIL_MARK: usize = 51 << 10;

/// Writes the members of one line and remembers whether something was left out.
struct LineWriter<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
    cut: bool,
}

/// Appends the draft as the entry after `head` to `out`, one line without line feed, and moves `head`
/// onto it. Returns the entry's hash.
///
/// Never fails and never passes [`MAX_ENTRY_BYTES`]: what the bounds leave out is marked by `cut`.
pub fn seal(draft: &Draft<'_>, head: &mut ChainHead, key: &MacKey, out: &mut Vec<u8>) -> Hash {
    let start = out.len();
    let sequence = head.sequence + 1;
    let mut line = LineWriter { out, start, cut: false };
    line.identity(draft, sequence);
    if let Some(actor) = draft.actor {
        line.member("actor");
        line.text(actor, MAX_NAME_CHARS);
    }
    if let Some(action) = draft.action {
        line.member("action");
        line.action(action);
    }
    if let Some(decision) = draft.decision {
        line.decision(decision);
    }
    line.list("policies", draft.policies, POLICIES_MARK, LineWriter::policy);
    line.optional_number("latency_us", draft.latency_us);
    if let Some(trace) = draft.trace {
        line.raw(b",\"trace\":\"");
        write_hex(&trace, line.out);
        line.raw(b"\"");
    }
    line.detail(draft.detail);
    if line.cut {
        line.raw(b",\"cut\":true");
    }
    line.raw(b",\"prev\":\"");
    head.hash.write_hex(line.out);
    line.raw(b"\"");

    let code = key.code(&line.out[start..]);
    line.raw(b",\"mac\":\"");
    line.raw(key.id().as_bytes());
    line.raw(b":");
    write_hex(&code, line.out);
    line.raw(b"\"}");
    debug_assert!(out.len() - start <= MAX_ENTRY_BYTES, "bounds leave room for every member");

    *head = ChainHead { sequence, hash: Hash::of_leaf(&out[start..]) };
    head.hash
}

/// Appends a JSON string with the format's escapes.
pub(crate) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    write_escaped(text, out);
    out.push(b'"');
}

fn write_escaped(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    let mut written = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        if byte >= b' ' && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[written..index]);
        written = index + 1;
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            _ => {
                out.extend_from_slice(b"\\u00");
                write_hex(&[byte], out);
            }
        }
    }
    out.extend_from_slice(&bytes[written..]);
}

/// Whether `key` may stand in `detail`.
fn is_detail_key(key: &str) -> bool {
    (1..=MAX_DETAIL_KEY).contains(&key.len())
        && key.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.'))
}

// === impl LineWriter ===

impl LineWriter<'_> {
    fn identity(&mut self, draft: &Draft<'_>, sequence: u64) {
        let time = draft.time.max(Timestamp::from_micros(0));
        let kind = draft.kind;
        self.raw(b"{\"v\":1,\"id\":\"");
        self.display(draft.id);
        self.raw(b"\",\"workspace\":\"");
        self.display(draft.workspace);
        self.raw(b"\",\"stream\":\"");
        self.display(draft.stream);
        self.raw(b"\",\"seq\":");
        self.display(sequence);
        self.raw(b",\"time\":\"");
        self.display(time);
        self.raw(b"\",\"kind\":\"");
        self.raw(kind.as_str().as_bytes());
        self.raw(b"\"");
    }

    fn action(&mut self, action: &ActionSummary<'_>) {
        self.raw(b"{\"id\":\"");
        self.display(action.id);
        self.raw(b"\",\"kind\":\"");
        self.raw(action.kind.as_str().as_bytes());
        self.raw(b"\"");
        self.optional_text("tool", action.tool.as_deref(), MAX_NAME_CHARS);
        self.optional_text("model", action.model.as_deref(), MAX_NAME_CHARS);
        self.optional_text("host", action.host.as_deref(), MAX_NAME_CHARS);
        self.optional_number("port", action.port.map(u64::from));
        self.optional_text("path", action.path.as_deref(), MAX_NAME_CHARS);
        self.optional_text("program", action.program.as_deref(), MAX_NAME_CHARS);
        self.optional_number("argc", action.argc);
        self.optional_text("child", action.child.as_deref(), MAX_NAME_CHARS);
        self.optional_number("args_bytes", action.args_bytes);
        self.optional_number("messages", action.messages);
        self.optional_number("messages_bytes", action.messages_bytes);
        self.optional_number("max_output_tokens", action.max_output_tokens);
        self.optional_number("content_bytes", action.content_bytes);
        self.optional_number("input_tokens", action.input_tokens);
        self.optional_number("output_tokens", action.output_tokens);
        self.raw(b"}");
    }

    fn decision(&mut self, decision: &Decision) {
        self.raw(b",\"verdict\":\"");
        self.raw(decision.verdict.as_str().as_bytes());
        self.raw(b"\"");
        self.list("reasons", &decision.reasons, REASONS_MARK, Self::reason);
        if let Some(approval) = &decision.approval {
            self.member("approval");
            self.approval(approval);
        }
        self.list("findings", &decision.findings, FINDINGS_MARK, Self::finding);
    }

    fn reason(&mut self, reason: &Reason) {
        self.raw(b"{\"code\":\"");
        self.raw(reason.code.as_str().as_bytes());
        self.raw(b"\"");
        self.optional_text("policy", reason.policy.as_deref(), MAX_NAME_CHARS);
        self.optional_number("revision", reason.revision);
        self.optional_text("version", reason.version.as_deref(), MAX_VERSION_CHARS);
        self.optional_text("path", reason.path.as_deref(), MAX_NAME_CHARS);
        self.optional_number("line", reason.line.map(u64::from));
        self.optional_number("column", reason.column.map(u64::from));
        self.member("message");
        self.text(&reason.message, MAX_TEXT_CHARS);
        self.raw(b"}");
    }

    fn approval(&mut self, approval: &ApprovalTerms) {
        self.raw(b"{\"timeout_seconds\":");
        self.display(approval.timeout_seconds);
        self.raw(b",\"roles\":[");
        for (index, role) in approval.roles.iter().take(MAX_ROLES).enumerate() {
            if index > 0 {
                self.raw(b",");
            }
            self.text(role, MAX_ROLE_CHARS);
        }
        self.cut |= approval.roles.len() > MAX_ROLES;
        self.raw(b"]}");
    }

    fn finding(&mut self, finding: &Finding) {
        self.raw(b"{\"policy\":");
        self.text(&finding.policy, MAX_NAME_CHARS);
        self.optional_number("pattern", Some(finding.pattern as u64));
        self.optional_text("pointer", Some(&finding.pointer), MAX_NAME_CHARS);
        if finding.in_key {
            self.raw(b",\"in_key\":true");
        }
        self.optional_number("offset", Some(finding.offset as u64));
        self.optional_number("length", Some(finding.length as u64));
        self.raw(b"}");
    }

    fn policy(&mut self, policy: &PolicyRef) {
        self.raw(b"{\"name\":");
        self.text(&policy.name, MAX_NAME_CHARS);
        self.optional_number("revision", Some(policy.revision));
        self.raw(b"}");
    }

    /// Selects the next larger key again and again: for a handful of keys cheaper than a sorted copy.
    fn detail(&mut self, detail: &[(&str, &str)]) {
        self.cut |= detail.iter().any(|(key, _)| !is_detail_key(key));
        let mut last = "";
        let next = |last: &str| {
            let larger = detail.iter().filter(|(key, _)| *key > last && is_detail_key(key));
            larger.min_by_key(|(key, _)| *key)
        };
        let mut count = 0;
        while let Some(&(key, value)) = next(last) {
            if count == MAX_ITEMS || self.length() > DETAIL_MARK {
                self.cut = true;
                break;
            }
            self.raw(if count == 0 { b",\"detail\":{\"" } else { b",\"" });
            self.raw(key.as_bytes());
            self.raw(b"\":");
            self.text(value, MAX_TEXT_CHARS);
            last = key;
            count += 1;
        }
        if count > 0 {
            self.raw(b"}");
        }
    }

    /// Writes a list member, or nothing when it is empty.
    fn list<T>(&mut self, name: &str, items: &[T], mark: usize, write: fn(&mut Self, &T)) {
        if items.is_empty() {
            return;
        }
        self.member(name);
        self.raw(b"[");
        for (index, item) in items.iter().enumerate() {
            if index == MAX_ITEMS || self.length() > mark {
                self.cut = true;
                break;
            }
            if index > 0 {
                self.raw(b",");
            }
            write(self, item);
        }
        self.raw(b"]");
    }

    fn optional_text(&mut self, name: &str, text: Option<&str>, max_chars: usize) {
        if let Some(text) = text {
            self.member(name);
            self.text(text, max_chars);
        }
    }

    fn optional_number(&mut self, name: &str, number: Option<u64>) {
        if let Some(number) = number {
            self.member(name);
            self.display(number);
        }
    }

    fn member(&mut self, name: &str) {
        self.raw(b",\"");
        self.raw(name.as_bytes());
        self.raw(b"\":");
    }

    fn text(&mut self, text: &str, max_chars: usize) {
        // No text of so few bytes can have too many characters.
        let too_long = text.len() > max_chars && text.chars().nth(max_chars).is_some();
        if !too_long {
            return write_string(text, self.out);
        }
        let end = text.char_indices().nth(max_chars - 1).map_or(text.len(), |(end, _)| end);
        self.raw(b"\"");
        write_escaped(&text[..end], self.out);
        self.raw("…\"".as_bytes());
        self.cut = true;
    }

    fn length(&self) -> usize {
        self.out.len() - self.start
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    fn display(&mut self, value: impl fmt::Display) {
        // Writing to a vector does not fail.
        let _ = write!(self.out, "{value}");
    }
}
