//! Entries as ArcSight Common Event Format, for SIEMs.

use std::{fmt, io::Write};

use aa_protocol::{ReasonCode, Verdict};

use crate::{Entry, EntryError, Hash, Kind, UNSEEN};

/// Writes the extension `key=value …` of one event.
struct Extension<'o> {
    out: &'o mut Vec<u8>,
}

/// Appends one entry, given as its stored line, as one CEF line with line feed. `version` is the
/// version of this program.
///
/// The format is CEF:0. Severity runs from 0 to 10: an admitted action is 1, a request for approval 4, a
/// denial 7, a secret that was not released too, a denial for sensitive data 9, refused input 8, a change of status, policies or keys 5, what nobody
/// looked at 3, all else 2. `externalId` is the entry's id, `cs4` its hash as in the audit log's tree. How a model call went is in `cn3`,
/// `flexNumber1`, `flexNumber2`, `flexString2` and two keys of this vendor's own, its parent span in `flexString1`.
///
/// # Errors
/// The line is not an entry.
pub fn write_cef(line: &[u8], version: &str, out: &mut Vec<u8>) -> Result<(), EntryError> {
    let entry = Entry::parse(line)?;
    out.extend_from_slice(b"CEF:0|Agent Assembly|aasm|");
    header_field(version, out);
    out.push(b'|');
    let verdict = entry.verdict.map(|verdict| format!(":{verdict}")).unwrap_or_default();
    header_field(&format!("{}{verdict}", entry.kind), out);
    out.push(b'|');
    header_field(&name(&entry), out);
    // Writing to a vector does not fail.
    let _ = write!(out, "|{}|", severity(&entry));
    extension(&entry, &Hash::of_leaf(line), out);
    out.push(b'\n');
    Ok(())
}

fn name(entry: &Entry) -> String {
    let action = entry.action.as_ref().map_or("action", |action| action.kind.as_str());
    match (entry.kind, entry.verdict) {
        (Kind::Decision, Some(Verdict::Allow)) => format!("{action} allowed"),
        (Kind::Decision, Some(Verdict::Deny)) => format!("{action} denied"),
        (Kind::Decision, Some(Verdict::RequireApproval)) => format!("{action} needs approval"),
        (Kind::Decision, None) => format!("{action} decided"),
        (Kind::Registration, _) => "agent registered".to_owned(),
        (Kind::Event, _) if entry.outcome() == Some(UNSEEN) => format!("{action} unseen"),
        (Kind::Event, _) => "agent event".to_owned(),
        (Kind::Refusal, _) => "agent input refused".to_owned(),
        (Kind::Status, _) => "agent status changed".to_owned(),
        (Kind::Policy, _) => "policy changed".to_owned(),
        (Kind::Key, _) => "key changed".to_owned(),
        (Kind::Workspace, _) => "workspace changed".to_owned(),
        (Kind::Budget, _) => "budget event".to_owned(),
        (Kind::Approval, _) => "approval event".to_owned(),
        (Kind::Secret, _) => match change(entry) {
            Some("released") => "secret released".to_owned(),
            Some("release_denied") => "secret not released".to_owned(),
            _ => "secret changed".to_owned(),
        },
        (Kind::Alert, _) => "alerting changed".to_owned(),
    }
}

fn change(entry: &Entry) -> Option<&str> {
    entry.detail.get("change").map(String::as_str)
}

fn severity(entry: &Entry) -> u8 {
    let sensitive = entry.reasons.iter().any(|reason| reason.code == ReasonCode::SensitiveData);
    match (entry.kind, entry.verdict) {
        (_, Some(Verdict::Deny)) if sensitive => 9,
        (_, Some(Verdict::Deny)) => 7,
        (_, Some(Verdict::RequireApproval)) => 4,
        (_, Some(Verdict::Allow)) => 1,
        (Kind::Refusal, None) => 8,
        (Kind::Status | Kind::Policy | Kind::Key | Kind::Budget | Kind::Approval, None) => 5,
        (Kind::Secret, None) if change(entry) == Some("released") => 2,
        (Kind::Secret, None) if change(entry) == Some("release_denied") => 7,
        (Kind::Secret | Kind::Alert, None) => 5,
        (Kind::Event, None) if entry.outcome() == Some(UNSEEN) => 3,
        (Kind::Registration | Kind::Decision | Kind::Event | Kind::Workspace, None) => 2,
    }
}

fn extension(entry: &Entry, hash: &Hash, out: &mut Vec<u8>) {
    let mut extension = Extension { out };
    extension.pair_first("rt", entry.time.unix_millis());
    extension.pair("externalId", entry.id);
    extension.pair("cat", entry.kind);
    extension.optional("act", entry.verdict);
    extension.optional("outcome", entry.outcome());
    extension.optional("suid", entry.agent());
    extension.optional("suser", entry.actor.as_deref());
    if entry.kind == Kind::Secret {
        extension.optional("dhost", entry.detail.get("host"));
        extension.optional("destinationServiceName", entry.detail.get("name"));
        extension.optional("duid", entry.detail.get("agent"));
    }
    if let Some(action) = &entry.action {
        extension.optional("dhost", action.host.as_deref());
        extension.optional("dpt", action.port);
        extension.optional("filePath", action.path.as_deref());
        extension.optional("dproc", action.program.as_deref());
        extension.pair("deviceEventCategory", action.kind);
        let target = action.tool.as_deref().or(action.model.as_deref()).or(action.child.as_deref());
        extension.optional("destinationServiceName", target);
    }
    let reason = entry.reasons.first();
    extension.optional("reason", reason.map(|reason| reason.code));
    extension.optional("msg", reason.map(|reason| reason.message.as_str()));
    extension.labelled("cs1", "workspace", Some(entry.workspace));
    extension.labelled("cs2", "stream", Some(entry.stream));
    let policy = reason.and_then(|reason| reason.policy.as_deref());
    extension.labelled("cs3", "policy", policy);
    extension.labelled("cs4", "entryHash", Some(hash));
    extension.labelled("cs5", "actionId", entry.action.as_ref().map(|action| action.id));
    let trace = entry.trace.map(|trace| format!("{:032x}", u128::from_be_bytes(trace)));
    extension.labelled("cs6", "traceId", trace);
    extension.labelled("cn1", "sequence", Some(entry.sequence));
    extension.labelled("cn2", "latencyMicros", entry.latency_us);
    let span = entry.parent_span.map(|span| format!("{:016x}", u64::from_be_bytes(span)));
    extension.labelled("flexString1", "parentSpanId", span);
    if let Some(observed) = entry.action.as_ref().and_then(|action| action.observed.as_deref()) {
        extension.labelled("cn3", "callLatencyMicros", Some(observed.latency_us));
        extension.labelled("flexNumber1", "firstTokenMicros", observed.first_token_us);
        extension.labelled("flexNumber2", "httpStatus", observed.status);
        extension.labelled("flexString2", "responseId", observed.response_id.as_deref());
        extension.optional("AgentAssemblyAasmFinishReason", observed.finish_reason.as_deref());
        extension.optional("AgentAssemblyAasmConversation", observed.conversation.as_deref());
    }
}

/// In the header `|` and `\` are escaped and line breaks are not allowed.
fn header_field(text: &str, out: &mut Vec<u8>) {
    for c in text.chars() {
        match c {
            '|' | '\\' => push(&['\\', c], out),
            '\n' | '\r' => push(&[' '], out),
            _ => push(&[c], out),
        }
    }
}

fn push(chars: &[char], out: &mut Vec<u8>) {
    let mut buffer = [0; 4];
    for c in chars {
        out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
    }
}

// === impl Extension ===

impl Extension<'_> {
    fn pair_first(&mut self, key: &str, value: impl fmt::Display) {
        self.out.extend_from_slice(key.as_bytes());
        self.out.push(b'=');
        // In a value `=` and `\` are escaped and line breaks are written `\n` and `\r`.
        for c in value.to_string().chars() {
            match c {
                '=' | '\\' => push(&['\\', c], self.out),
                '\n' => push(&['\\', 'n'], self.out),
                '\r' => push(&['\\', 'r'], self.out),
                _ => push(&[c], self.out),
            }
        }
    }

    fn pair(&mut self, key: &str, value: impl fmt::Display) {
        self.out.push(b' ');
        self.pair_first(key, value);
    }

    fn optional(&mut self, key: &str, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.pair(key, value);
        }
    }

    fn labelled(&mut self, key: &str, label: &str, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.pair(&format!("{key}Label"), label);
            self.pair(key, value);
        }
    }
}
