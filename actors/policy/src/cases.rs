//! Policy tests: what a set of policies must answer, written beside them in `*.test.yaml` files.
//!
//! ```yaml
//! policies: [base.yaml, tools.yaml]      # optional: files beside this one; without it, all of them
//! at: 2026-11-23T12:00:00Z               # optional: the time of cases that name none
//! agent: {team: platform}                # optional: the agent of cases that name none
//! cases:
//!   - name: the shell needs a person at L2
//!     agent: {name: researcher, team: platform, governance_level: L2, labels: {env: prod}}
//!     action: {kind: tool_call, tool: bash, args: {cmd: ls}}
//!     at: 2026-11-23T09:30:00+08:00
//!     rates: {bash: 3}                   # admitted calls in the last 60 minutes
//!     after:                             # optional: what the session did before, decided in this order
//!       - {kind: tool_result, tool: read_file, content: confidential}
//!     expect:
//!       verdict: require_approval        # allow, deny or require_approval
//!       code: approval_required          # optional: some reason has this code
//!       policy: tools                    # optional: … and comes from this document
//!       reason: governance_level         # optional: … and its sentence contains this text
//!   - name: nothing else is asked
//!     action: {kind: file_read, path: /etc/hosts}
//!     expect: allow                      # short for {verdict: allow}
//! ```
//!
//! `agent` and `action` are written as in the files of `aasm policy eval`; an agent's `id` may be left out.
//! Files are read by the caller; here is only what they mean.

use std::collections::BTreeMap;

use aa_protocol::{Action, AgentFacts, AgentId, Decision, Reason, ReasonCode, Timestamp, Verdict};

use crate::{
    check::decode,
    diagnostic::{Diagnostic, DiagnosticCode, Place, Report, nearest, quoted},
    rehearsal::Rehearsal,
    set::PolicySet,
    tree::{self, Member, Node, Value, item_path, member_path},
};

/// A file of cases.
#[derive(Clone, Debug)]
pub struct Suite {
    /// The policy files to load, relative to the file of cases; `None` for all policies beside it.
    pub policies: Option<Vec<String>>,
    /// The cases, in order.
    pub cases: Vec<Case>,
}

/// One question and the answer that is expected.
#[derive(Clone, Debug)]
pub struct Case {
    /// What the case proves, as a sentence.
    pub name: String,
    /// 1-based line where the case starts.
    pub line: u32,
    agent: AgentFacts,
    after: Vec<Action>,
    action: Action,
    at: Timestamp,
    rates: BTreeMap<String, u64>,
    expected: Expected,
}

/// What a decision must be. All parts that are given must hold of one reason together.
#[derive(Clone, Debug)]
struct Expected {
    verdict: Verdict,
    code: Option<ReasonCode>,
    policy: Option<String>,
    reason: Option<String>,
}

/// How a case went.
#[derive(Clone, Debug)]
pub struct CaseResult {
    /// The case's name.
    pub name: String,
    /// 1-based line where the case starts.
    pub line: u32,
    /// What was decided.
    pub decision: Decision,
    /// Why the case failed, over several lines for people; `None` when it passed.
    pub failure: Option<String>,
}

const SUITE_KEYS: [&str; 4] = ["policies", "at", "agent", "cases"];
const CASE_KEYS: [&str; 7] = ["name", "agent", "after", "action", "at", "rates", "expect"];
const EXPECT_KEYS: [&str; 4] = ["verdict", "code", "policy", "reason"];
const VERDICTS: [Verdict; 3] = [Verdict::Allow, Verdict::RequireApproval, Verdict::Deny];

/// Reads a file of cases.
///
/// # Errors
/// Everything that is wrong with it, in the order of the source. Unknown keys are errors here: a test that
/// silently checks less than it says is worse than none.
pub fn parse(source: &[u8]) -> Result<Suite, Vec<Diagnostic>> {
    let mut report = Report::default();
    let suite = decode(source, &mut report).and_then(|text| {
        let document = tree::parse(text, &mut report);
        let suite = document.and_then(|document| Reader { report: &mut report }.suite(&document));
        report.finish(text);
        suite
    });
    match suite {
        Some(suite) if report.errors.is_empty() => Ok(suite),
        _ => Err(report.errors),
    }
}

/// Asks every question of a suite.
pub fn run(suite: &Suite, policies: &PolicySet) -> Vec<CaseResult> {
    suite.cases.iter().map(|case| case.run(policies)).collect()
}

struct Reader<'r> {
    report: &'r mut Report,
}

// === impl Case ===

impl Case {
    fn run(&self, policies: &PolicySet) -> CaseResult {
        let policies = policies.for_agent(&self.agent);
        let mut session = Rehearsal::new(self.rates.clone());
        let mut refused = String::new();
        for (index, earlier) in self.after.iter().enumerate() {
            let decision = session.step(&policies, &self.agent, earlier, self.at).decision;
            if let (verdict @ (Verdict::Deny | Verdict::RequireApproval), Some(reason)) =
                (decision.verdict, decision.reasons.first())
            {
                let Reason { code, message, .. } = reason;
                refused.push_str(&format!("\n   after[{index}] got {verdict}: {code} · {message}"));
            }
        }
        let decision = session.step(&policies, &self.agent, &self.action, self.at).decision;
        // What was refused before may be why: it has armed nothing.
        let failure = self.expected.difference(&decision).map(|failure| failure + &refused);
        CaseResult { name: self.name.clone(), line: self.line, decision, failure }
    }
}

// === impl Expected ===

impl Expected {
    fn difference(&self, decision: &Decision) -> Option<String> {
        let code_fits = |code: ReasonCode| self.code.is_none_or(|expected| expected == code);
        let found = decision.reasons.iter().any(|reason| {
            code_fits(reason.code)
                && self.policy.as_ref().is_none_or(|name| reason.policy.as_ref() == Some(name))
                && self.reason.as_ref().is_none_or(|text| reason.message.contains(text.as_str()))
        });
        if decision.verdict == self.verdict && found {
            return None;
        }
        let mut failure = format!("expected {}", self.verdict);
        if let Some(code) = self.code {
            failure.push_str(&format!(", code {code}"));
        }
        if let Some(policy) = &self.policy {
            failure.push_str(&format!(", from {}", quoted(policy)));
        }
        if let Some(reason) = &self.reason {
            failure.push_str(&format!(", a reason containing {}", quoted(reason)));
        }
        failure.push_str(&format!("\n     got {}", decision.verdict));
        for reason in &decision.reasons {
            let policy = reason.policy.as_deref().unwrap_or("no policy");
            let place = match (&reason.path, reason.line) {
                (Some(path), Some(line)) => format!(" {path} (line {line})"),
                _ => String::new(),
            };
            failure.push_str(&format!(
                "\n         {} · {policy}{place}: {}",
                reason.code, reason.message
            ));
        }
        Some(failure)
    }
}

// === impl Reader ===

impl Reader<'_> {
    fn suite(&mut self, document: &Node) -> Option<Suite> {
        self.known_keys(document, "", &SUITE_KEYS)?;
        let policies = document.member("policies").and_then(|member| self.files(member));
        let at = document.member("at").and_then(|member| self.time(&member.node, "at"));
        let agent = document.member("agent").and_then(|member| self.agent(&member.node, "agent"));
        let Some(list) = document.member("cases") else {
            return self.missing(document.place, "cases", "a list of cases");
        };
        let Value::List(items) = &list.node.value else {
            return self.wrong_type(&list.node, "cases", "a list of cases");
        };
        if items.is_empty() {
            self.error(DiagnosticCode::EmptyValue, "cases", list.place, "there is no case");
        }
        let cases: Vec<_> = items
            .iter()
            .enumerate()
            .map(|(index, item)| self.case(item, &item_path("cases", index), at, agent.as_ref()))
            .collect();
        Some(Suite { policies, cases: cases.into_iter().collect::<Option<_>>()? })
    }

    fn case(
        &mut self,
        node: &Node,
        path: &str,
        at: Option<Timestamp>,
        agent: Option<&AgentFacts>,
    ) -> Option<Case> {
        self.known_keys(node, path, &CASE_KEYS)?;
        let name = self.required_text(node, path, "name");
        let agent = match node.member("agent") {
            Some(member) => self.agent(&member.node, &member_path(path, "agent")),
            None => agent.cloned().or_else(|| Some(nobody())),
        };
        let action = match node.member("action") {
            Some(member) => self.value(&member.node, &member_path(path, "action"), "an action"),
            None => self.missing(node.place, &member_path(path, "action"), "the action to decide"),
        };
        let after = match node.member("after") {
            Some(member) => self.actions(&member.node, &member_path(path, "after")),
            None => Some(Vec::new()),
        };
        let at = match node.member("at") {
            Some(member) => self.time(&member.node, &member_path(path, "at")),
            None if at.is_some() => at,
            None => self.missing(
                node.place,
                &member_path(path, "at"),
                "a time such as 2026-11-23T12:00:00Z, here or once for the file",
            ),
        };
        let rates = match node.member("rates") {
            Some(member) => {
                self.value(&member.node, &member_path(path, "rates"), "a map of tools to calls")
            }
            None => Some(BTreeMap::new()),
        };
        let expected = match node.member("expect") {
            Some(member) => self.expected(&member.node, &member_path(path, "expect")),
            None => self.missing(node.place, &member_path(path, "expect"), "a verdict"),
        };
        Some(Case {
            name: name?,
            line: node.place.line,
            agent: agent?,
            after: after?,
            action: action?,
            at: at?,
            rates: rates?,
            expected: expected?,
        })
    }

    fn actions(&mut self, node: &Node, path: &str) -> Option<Vec<Action>> {
        let Value::List(items) = &node.value else {
            return self.wrong_type(node, path, "a list of actions");
        };
        let actions: Vec<_> = items
            .iter()
            .enumerate()
            .map(|(index, item)| self.value(item, &item_path(path, index), "an action"))
            .collect();
        actions.into_iter().collect()
    }

    fn expected(&mut self, node: &Node, path: &str) -> Option<Expected> {
        if node.text().is_some() {
            let verdict = self.verdict(node, path)?;
            return Some(Expected { verdict, code: None, policy: None, reason: None });
        }
        self.known_keys(node, path, &EXPECT_KEYS)?;
        let verdict = match node.member("verdict") {
            Some(member) => self.verdict(&member.node, &member_path(path, "verdict")),
            None => self.missing(
                node.place,
                &member_path(path, "verdict"),
                "allow, require_approval or deny",
            ),
        };
        let code = match node.member("code") {
            Some(member) => Some(self.code(&member.node, &member_path(path, "code"))?),
            None => None,
        };
        let policy = self.optional_text(node, path, "policy")?;
        let reason = self.optional_text(node, path, "reason")?;
        Some(Expected { verdict: verdict?, code, policy, reason })
    }

    fn verdict(&mut self, node: &Node, path: &str) -> Option<Verdict> {
        let names = VERDICTS.map(Verdict::as_str);
        let found = VERDICTS.into_iter().find(|verdict| node.text() == Some(verdict.as_str()));
        found.or_else(|| self.unknown_choice(node, path, "a verdict", names))
    }

    fn code(&mut self, node: &Node, path: &str) -> Option<ReasonCode> {
        let names = ReasonCode::ALL.map(ReasonCode::as_str);
        let found = node.text().and_then(ReasonCode::from_name);
        found.or_else(|| self.unknown_choice(node, path, "a reason code", names))
    }

    /// Reads a value of the protocol from its JSON form.
    fn value<T: serde::de::DeserializeOwned>(
        &mut self,
        node: &Node,
        path: &str,
        what: &str,
    ) -> Option<T> {
        match serde_json::from_value(node.to_json()) {
            Ok(value) => Some(value),
            Err(error) => {
                let message = format!("this is not {what}: {error}");
                self.error(DiagnosticCode::WrongType, path, node.place, message);
                None
            }
        }
    }

    fn agent(&mut self, node: &Node, path: &str) -> Option<AgentFacts> {
        let Value::Map(members) = &node.value else {
            return self.wrong_type(node, path, "an object that describes an agent");
        };
        let mut completed = node.clone();
        if node.member("id").is_none() {
            let id = Value::Text(AgentId::from_uuid(uuid::Uuid::nil()).to_string());
            let id = Node { value: id, place: node.place, bytes: 0..0 };
            let id = Member { key: "id".to_owned(), place: node.place, node: id };
            completed.value = Value::Map(members.iter().cloned().chain([id]).collect());
        }
        self.value(&completed, path, "an agent")
    }

    fn time(&mut self, node: &Node, path: &str) -> Option<Timestamp> {
        let Some(text) = node.text() else {
            return self.wrong_type(node, path, "a time such as 2026-11-23T12:00:00Z");
        };
        match text.parse::<Timestamp>() {
            Ok(time) => Some(time),
            Err(error) => {
                self.error(DiagnosticCode::InvalidTime, path, node.place, error.to_string());
                None
            }
        }
    }

    fn files(&mut self, list: &Member) -> Option<Vec<String>> {
        let Value::List(items) = &list.node.value else {
            return self.wrong_type(&list.node, "policies", "a list of files");
        };
        let names = items.iter().enumerate().map(|(index, item)| match item.text() {
            Some(name) if !name.is_empty() => Some(name.to_owned()),
            _ => self.wrong_type(item, &item_path("policies", index), "the name of a file"),
        });
        names.collect()
    }

    fn required_text(&mut self, node: &Node, path: &str, key: &str) -> Option<String> {
        match self.optional_text(node, path, key)? {
            Some(text) => Some(text),
            None => self.missing(node.place, &member_path(path, key), "a sentence"),
        }
    }

    /// The outer `None` says that something else than a text was found.
    fn optional_text(&mut self, node: &Node, path: &str, key: &str) -> Option<Option<String>> {
        let Some(member) = node.member(key) else { return Some(None) };
        match member.node.text() {
            Some(text) => Some(Some(text.to_owned())),
            None => self.wrong_type(&member.node, &member_path(path, key), "a string"),
        }
    }

    fn known_keys(&mut self, node: &Node, path: &str, known: &[&'static str]) -> Option<()> {
        if !matches!(node.value, Value::Map(_)) {
            return self.wrong_type(node, path, "an object");
        }
        for member in node.members().iter().filter(|member| !known.contains(&&*member.key)) {
            let message = format!("the key {} is not known here", quoted(&member.key));
            let path = member_path(path, &member.key);
            let mut error =
                Diagnostic::new(DiagnosticCode::UnknownKey, path, member.place, message);
            error.help = nearest(&member.key, known.iter().copied())
                .map(|known| format!("did you mean `{known}`?"));
            self.report.error(error);
        }
        Some(())
    }

    fn unknown_choice<T, const N: usize>(
        &mut self,
        node: &Node,
        path: &str,
        what: &str,
        known: [&'static str; N],
    ) -> Option<T> {
        let message = format!("expected {what}, found {}", node.description());
        let help = format!("write one of {}", known.join(", "));
        self.report.error(
            Diagnostic::new(DiagnosticCode::UnknownChoice, path, node.place, message)
                .with_help(help),
        );
        None
    }

    fn missing<T>(&mut self, place: Place, path: &str, what: &str) -> Option<T> {
        let message = format!("`{path}` is missing: {what}");
        self.error(DiagnosticCode::MissingField, path, place, message);
        None
    }

    fn wrong_type<T>(&mut self, node: &Node, path: &str, expected: &str) -> Option<T> {
        let message = format!("expected {expected}, found {}", node.description());
        self.error(DiagnosticCode::WrongType, path, node.place, message);
        None
    }

    fn error(
        &mut self,
        code: DiagnosticCode,
        path: &str,
        place: Place,
        message: impl Into<String>,
    ) {
        self.report.error(Diagnostic::new(code, path, place, message));
    }
}

/// The agent of cases that name none: in no team and no organisation, at level L0.
fn nobody() -> AgentFacts {
    AgentFacts {
        id: AgentId::from_uuid(uuid::Uuid::nil()),
        name: String::new(),
        org: None,
        team: None,
        governance_level: aa_protocol::GovernanceLevel::default(),
        labels: BTreeMap::new(),
    }
}
