//! The canonical encoding, written straight into the caller's buffer: it runs once per decision.

use aa_protocol::{
    ApprovalTerms, BudgetStanding, Decision, Finding, NanoUsd, Reason,
    action::{MAX_FINISH_REASON_CHARS, MAX_PROVIDER_ID_CHARS},
};

use super::{
    ChainHead, Draft, PolicyRef, RenderedDecision, Stream,
    escape::{write_escaped, write_string},
};
use crate::{
    ActionSummary, Hash, MacKey,
    format::{MAX_DETAIL_KEY, MAX_ENTRY_BYTES},
    hash::write_hex,
    summary::{MAX_NAME_CHARS, ObservedSummary},
};

const MAX_ITEMS: usize = 64;
const MAX_ROLES: usize = 16;
const MAX_ROLE_CHARS: usize = 64;
const MAX_VERSION_CHARS: usize = 64;
const MAX_TEXT_CHARS: usize = 1_024;
const MAX_WINDOW_CHARS: usize = 16;

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
    seal_line(draft, head, key, out, |line| {
        if let Some(decision) = draft.decision {
            line.decision(decision);
        }
        line.policies(draft.policies);
    })
}

/// Seals like [`seal`], with a decision and its documents that were rendered before instead of the
/// draft's own, which are left out. The line is the same as with them in the draft.
pub fn seal_rendered(
    draft: &Draft<'_>,
    decision: &RenderedDecision,
    head: &mut ChainHead,
    key: &MacKey,
    out: &mut Vec<u8>,
) -> Hash {
    seal_line(draft, head, key, out, |line| line.rendered(decision))
}

fn seal_line(
    draft: &Draft<'_>,
    head: &mut ChainHead,
    key: &MacKey,
    out: &mut Vec<u8>,
    decision: impl FnOnce(&mut LineWriter<'_>),
) -> Hash {
    let start = out.len();
    let sequence = head.sequence + 1;
    let mut line = LineWriter { out, start, cut: false };
    line.identity(draft, sequence);
    line.optional_text(b",\"actor\":", draft.actor, MAX_NAME_CHARS);
    if let Some(action) = draft.action {
        line.action(action);
    }
    decision(&mut line);
    line.optional_number(b",\"latency_us\":", draft.latency_us);
    if let Some(trace) = draft.trace {
        line.raw(b",\"trace\":\"");
        write_hex(&trace, line.out);
        line.raw(b"\"");
    }
    if let Some(span) = draft.parent_span {
        line.raw(b",\"parent_span\":\"");
        write_hex(&span, line.out);
        line.raw(b"\"");
    }
    line.detail(draft.detail);
    if line.cut {
        line.raw(b",\"cut\":true");
    }
    line.raw(b",\"prev\":\"");
    head.hash.write_hex(line.out);
    line.raw(b"\"");

    let body = line.length();
    let (code, mut leaf) = key.code_and_leaf(&line.out[start..]);
    line.raw(b",\"mac\":\"");
    line.raw(key.id().as_bytes());
    line.raw(b":");
    write_hex(&code, line.out);
    line.raw(b"\"}");
    debug_assert!(out.len() - start <= MAX_ENTRY_BYTES, "bounds leave room for every member");

    leaf.update(&out[start + body..]);
    *head = ChainHead { sequence, hash: leaf.finish() };
    head.hash
}

/// Whether `key` may stand in `detail`.
fn is_detail_key(key: &str) -> bool {
    (1..=MAX_DETAIL_KEY).contains(&key.len())
        && key.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.'))
}

// === impl LineWriter ===

impl LineWriter<'_> {
    fn identity(&mut self, draft: &Draft<'_>, sequence: u64) {
        self.raw(b"{\"v\":1,\"id\":\"");
        self.raw(&draft.id.to_ascii());
        self.raw(b"\",\"workspace\":\"");
        self.raw(&draft.workspace.to_ascii());
        self.raw(b"\",\"stream\":\"");
        match draft.stream {
            Stream::Workspace => self.raw(b"workspace"),
            Stream::Policies => self.raw(b"policies"),
            Stream::Vault => self.raw(b"vault"),
            Stream::Alerts => self.raw(b"alerts"),
            Stream::Agent(agent) => {
                self.raw(b"agent:");
                self.raw(&agent.to_ascii());
            }
            Stream::Budget(budget) => {
                self.raw(b"budget:");
                self.raw(&budget.to_ascii());
            }
            Stream::Approval(approval) => {
                self.raw(b"approval:");
                self.raw(&approval.to_ascii());
            }
        }
        self.raw(b"\",\"seq\":");
        self.number(sequence);
        self.raw(b",\"time\":\"");
        self.raw(&draft.time.to_ascii());
        self.raw(b"\",\"kind\":\"");
        self.raw(draft.kind.as_str().as_bytes());
        self.raw(b"\"");
    }

    fn action(&mut self, action: &ActionSummary<'_>) {
        self.raw(b",\"action\":{\"id\":\"");
        self.raw(&action.id.to_ascii());
        self.raw(b"\",\"kind\":\"");
        self.raw(action.kind.as_str().as_bytes());
        self.raw(b"\"");
        self.optional_text(b",\"tool\":", action.tool.as_deref(), MAX_NAME_CHARS);
        self.optional_text(b",\"model\":", action.model.as_deref(), MAX_NAME_CHARS);
        self.optional_text(b",\"host\":", action.host.as_deref(), MAX_NAME_CHARS);
        self.optional_number(b",\"port\":", action.port.map(u64::from));
        self.optional_text(b",\"path\":", action.path.as_deref(), MAX_NAME_CHARS);
        self.optional_text(b",\"program\":", action.program.as_deref(), MAX_NAME_CHARS);
        self.optional_number(b",\"argc\":", action.argc);
        self.optional_text(b",\"child\":", action.child.as_deref(), MAX_NAME_CHARS);
        self.optional_number(b",\"args_bytes\":", action.args_bytes);
        self.optional_number(b",\"messages\":", action.messages);
        self.optional_number(b",\"messages_bytes\":", action.messages_bytes);
        self.optional_number(b",\"max_output_tokens\":", action.max_output_tokens);
        self.optional_number(b",\"content_bytes\":", action.content_bytes);
        self.optional_number(b",\"input_tokens\":", action.input_tokens);
        self.optional_number(b",\"output_tokens\":", action.output_tokens);
        if let Some(observed) = &action.observed {
            self.observed(observed);
        }
        self.raw(b"}");
    }

    fn observed(&mut self, observed: &ObservedSummary<'_>) {
        self.raw(b",\"observed\":{\"latency_us\":");
        self.number(observed.latency_us);
        self.optional_number(b",\"first_token_us\":", observed.first_token_us);
        self.optional_number(b",\"status\":", observed.status.map(u64::from));
        let finish_reason = observed.finish_reason.as_deref();
        self.optional_text(b",\"finish_reason\":", finish_reason, MAX_FINISH_REASON_CHARS);
        let conversation = observed.conversation.as_deref();
        self.optional_text(b",\"conversation\":", conversation, MAX_PROVIDER_ID_CHARS);
        let response_id = observed.response_id.as_deref();
        self.optional_text(b",\"response_id\":", response_id, MAX_PROVIDER_ID_CHARS);
        self.raw(b"}");
    }

    fn decision(&mut self, decision: &Decision) {
        self.raw(b",\"verdict\":\"");
        self.raw(decision.verdict.as_str().as_bytes());
        self.raw(b"\"");
        self.list(b",\"reasons\":[", &decision.reasons, REASONS_MARK, Self::reason);
        if let Some(approval) = &decision.approval {
            self.approval(approval);
        }
        self.list(b",\"findings\":[", &decision.findings, FINDINGS_MARK, Self::finding);
    }

    fn reason(&mut self, reason: &Reason) {
        self.raw(b"{\"code\":\"");
        self.raw(reason.code.as_str().as_bytes());
        self.raw(b"\"");
        self.optional_text(b",\"policy\":", reason.policy.as_deref(), MAX_NAME_CHARS);
        self.optional_number(b",\"revision\":", reason.revision);
        self.optional_text(b",\"version\":", reason.version.as_deref(), MAX_VERSION_CHARS);
        self.optional_text(b",\"path\":", reason.path.as_deref(), MAX_NAME_CHARS);
        self.optional_number(b",\"line\":", reason.line.map(u64::from));
        self.optional_number(b",\"column\":", reason.column.map(u64::from));
        if let Some(budget) = &reason.budget {
            self.budget(budget);
        }
        self.raw(b",\"message\":");
        self.text(&reason.message, MAX_TEXT_CHARS);
        self.raw(b"}");
    }

    fn budget(&mut self, standing: &BudgetStanding) {
        // Amounts are never negative.
        let nanos = |money: NanoUsd| money.0.max(0).unsigned_abs();
        self.raw(b",\"budget\":{\"window\":");
        self.text(&standing.window, MAX_WINDOW_CHARS);
        self.optional_number(b",\"limit_nano_usd\":", standing.limit.map(nanos));
        self.optional_number(b",\"spent_nano_usd\":", Some(nanos(standing.spent)));
        self.optional_number(b",\"reserved_nano_usd\":", Some(nanos(standing.reserved)));
        self.optional_number(b",\"limit_tokens\":", standing.limit_tokens);
        self.optional_number(b",\"spent_tokens\":", Some(standing.spent_tokens));
        self.optional_number(b",\"reserved_tokens\":", Some(standing.reserved_tokens));
        self.raw(b",\"resets_at\":\"");
        self.raw(&standing.resets_at.to_ascii());
        self.raw(b"\"}");
    }

    fn approval(&mut self, approval: &ApprovalTerms) {
        self.raw(b",\"approval\":{\"timeout_seconds\":");
        self.number(approval.timeout_seconds);
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
        self.optional_number(b",\"pattern\":", Some(finding.pattern as u64));
        self.optional_text(b",\"pointer\":", Some(&finding.pointer), MAX_NAME_CHARS);
        if finding.in_key {
            self.raw(b",\"in_key\":true");
        }
        self.optional_number(b",\"offset\":", Some(finding.offset as u64));
        self.optional_number(b",\"length\":", Some(finding.length as u64));
        self.raw(b"}");
    }

    fn policies(&mut self, policies: &[PolicyRef]) {
        self.list(b",\"policies\":[", policies, POLICIES_MARK, Self::policy);
    }

    fn rendered(&mut self, rendered: &RenderedDecision) {
        // What ends below the first mark is the same wherever it stands.
        if self.length() + rendered.text.len() > REASONS_MARK {
            self.decision(&rendered.decision);
            return self.policies(&rendered.policies);
        }
        self.raw(&rendered.text);
        self.cut |= rendered.cut;
    }

    fn policy(&mut self, policy: &PolicyRef) {
        self.raw(b"{\"name\":");
        self.text(&policy.name, MAX_NAME_CHARS);
        self.optional_number(b",\"revision\":", Some(policy.revision));
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
    #[inline(always)]
    fn list<T>(&mut self, name: &[u8], items: &[T], mark: usize, write: fn(&mut Self, &T)) {
        if items.is_empty() {
            return;
        }
        self.raw(name);
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

    fn optional_text(&mut self, name: &[u8], text: Option<&str>, max_chars: usize) {
        if let Some(text) = text {
            self.raw(name);
            self.text(text, max_chars);
        }
    }

    fn optional_number(&mut self, name: &[u8], number: Option<u64>) {
        if let Some(number) = number {
            self.raw(name);
            self.number(number);
        }
    }

    fn text(&mut self, text: &str, max_chars: usize) {
        // No text of so few bytes can have too many characters.
        if text.len() <= max_chars || text.chars().nth(max_chars).is_none() {
            return write_string(text, self.out);
        }
        let end = text.char_indices().nth(max_chars - 1).map_or(text.len(), |(end, _)| end);
        self.raw(b"\"");
        write_escaped(&text[..end], self.out);
        self.raw("…\"".as_bytes());
        self.cut = true;
    }

    fn number(&mut self, number: u64) {
        self.raw(itoa::Buffer::new().format(number).as_bytes());
    }

    fn length(&self) -> usize {
        self.out.len() - self.start
    }

    #[inline]
    fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }
}

// === impl RenderedDecision ===

impl RenderedDecision {
    /// Renders a decision and the documents that took part in it.
    pub fn new(decision: Decision, policies: Vec<PolicyRef>) -> Self {
        let mut text = Vec::new();
        let mut line = LineWriter { out: &mut text, start: 0, cut: false };
        line.decision(&decision);
        line.policies(&policies);
        let cut = line.cut;
        Self { decision, policies, text, cut }
    }

    /// The decision.
    pub const fn decision(&self) -> &Decision {
        &self.decision
    }
}
