//! The decision: one ladder, evaluated over the documents that apply.

mod wording;

use std::sync::Arc;

use aa_budget::Limits;
use aa_protocol::{
    Action, ApprovalTerms, BudgetStanding, Decision, Reason, ReasonCode, Timestamp, Verdict,
};

use self::wording::Wording;
use crate::{
    admission::{Admission, Sites},
    budget::{ActionOnExceed, Exceeded},
    capabilities::{Capability, Refusal},
    condition::{ConditionFault, Subject},
    data::Scan,
    facts::Facts,
    host::Host,
    policy::{Site, ToolRule},
    sequences::{Consequence, SequenceRef},
    set::{AgentPolicies, Applicable, Document},
};

/// A decision, and what its caller has to keep of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The verdict and every reason for it.
    pub decision: Decision,
    /// Every document that applied, in name order.
    pub applied: Vec<PolicyRef>,
    /// Set when a tool call was allowed that at least one document limits: the caller must count it. The
    /// value is the largest of those limits, so the most calls a window ever needs to remember.
    pub counted_limit: Option<u64>,
    /// The sequences that this action arms for the rest of its session: set when a tool's result was
    /// allowed that at least one document watches for and that had not armed it before. The caller must
    /// keep them.
    pub arms: Vec<SequenceRef>,
}

/// A document that took part in a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRef {
    /// Its name.
    pub name: Arc<str>,
    /// Its revision, where there is a workspace.
    pub revision: Option<u64>,
}

/// A decision in the cheapest shape it can have.
#[derive(Clone, Debug)]
pub enum Judgement {
    /// Every document admits the action. Decisions of the same reasons share one value, which is made
    /// once per policy set.
    Admitted(Arc<Admission>),
    /// Denied, or put before a person.
    Restrained(Outcome),
}

/// Decides one action.
///
/// Pure: it reads no clock, takes no lock of its own, compiles nothing, and consumes nothing: counters are
/// the caller's, who counts only what was allowed. Every document that applies is evaluated by itself
/// and the most restrictive verdict wins, so the order of documents never matters. All violations are
/// reported; the order of the checks below decides only which one is listed first.
///
/// It is [`judge()`] with an outcome that is the caller's own.
pub fn decide(
    policies: &AgentPolicies,
    facts: &Facts<'_>,
    action: &Action,
    now: Timestamp,
) -> Outcome {
    judge(policies, facts, action, now).into()
}

/// Decides one action as [`decide()`] does, and copies nothing for an action that is admitted.
pub fn judge(
    policies: &AgentPolicies,
    facts: &Facts<'_>,
    action: &Action,
    now: Timestamp,
) -> Judgement {
    let documents = policies.applicable(action);
    // First of all: what may be quoted in a reason depends on it.
    let scan = Scan::of(&documents, action);
    let rules = tool_rules(&documents, action);
    let host = remote_host(action).map(|written| (written, Host::parse(written)));
    let mut ladder = Ladder {
        documents: &documents,
        rules: &rules,
        host: host.as_ref(),
        facts,
        action,
        now,
        say: Wording::new(action, &scan),
        reasons: Vec::new(),
        verdict: Verdict::Allow,
        approval: None,
    };
    ladder.identity();
    ladder.suspended();
    ladder.schedule();
    ladder.capabilities();
    ladder.network();
    ladder.tool();
    ladder.data(&scan);
    ladder.rate();
    ladder.sequences();
    ladder.approval();
    ladder.budget();
    ladder.shared_budgets();
    ladder.conclude(scan, policies)
}

struct Ladder<'l> {
    documents: &'l Applicable<'l>,
    /// The entries of the called tool, each with its document.
    rules: &'l [(&'l Document, &'l str, &'l ToolRule)],
    /// The host that the action reaches: as written, and normalised where that is possible.
    host: Option<&'l (&'l str, Option<Host>)>,
    facts: &'l Facts<'l>,
    action: &'l Action,
    now: Timestamp,
    say: Wording<'l>,
    reasons: Vec<Reason>,
    verdict: Verdict,
    approval: Option<ApprovalTerms>,
}

// === impl Ladder ===

impl<'l> Ladder<'l> {
    fn identity(&mut self) {
        if self.documents.len() == 0 {
            let message = "no policy applies to this agent, so nothing is allowed; apply one of scope global, org, team or agent";
            self.deny(Reason::undocumented(ReasonCode::NoApplicablePolicy, message));
        }
    }

    fn suspended(&mut self) {
        if let Some(suspension) = self.facts.suspended {
            let message = wording::suspended(suspension);
            self.deny(Reason::undocumented(ReasonCode::AgentSuspended, message));
        }
    }

    fn schedule(&mut self) {
        for document in self.documents.iter() {
            let Some(hours) = &document.policy.active_hours else { continue };
            if !hours.contains(self.now) {
                let message = hours.sentence(self.now);
                self.deny_at(document, &hours.site, ReasonCode::OutsideActiveHours, message);
            }
        }
    }

    fn capabilities(&mut self) {
        for capability in needed(self.action).into_iter().flatten() {
            for document in self.documents.iter() {
                let Some(capabilities) = &document.policy.capabilities else { continue };
                let (site, code, message) = match capabilities.refusal(capability) {
                    None => continue,
                    Some(Refusal::Denied(site)) => {
                        (site, ReasonCode::CapabilityDenied, self.say.capability_denied(capability))
                    }
                    Some(Refusal::NotAllowed(site)) => {
                        let message = self.say.capability_not_allowed(capability);
                        (site, ReasonCode::CapabilityNotAllowed, message)
                    }
                };
                self.deny_at(document, site, code, message);
            }
        }
    }

    fn network(&mut self) {
        let Some((written, host)) = self.host else { return };
        for document in self.documents.iter() {
            let Some(network) = &document.policy.network else { continue };
            let admitted = host.as_ref().and_then(|host| network.admits(host)).is_some();
            if !admitted {
                let message = self.say.host_not_allowed(written, host.is_some());
                self.deny_at(document, &network.site, ReasonCode::HostNotAllowed, message);
            }
        }
    }

    fn tool(&mut self) {
        for (document, tool, rule) in self.rules {
            if let Some(site) = &rule.denied {
                let message = self.say.tool_denied(tool);
                self.deny_at(document, site, ReasonCode::ToolDenied, message);
            }
        }
    }

    fn data(&mut self, scan: &Scan) {
        for (index, pattern) in &scan.hits {
            let Some(document) = self.documents.get(*index) else { continue };
            let Some(site) = document.policy.data.as_ref().and_then(|data| data.site(*pattern))
            else {
                continue;
            };
            let message = wording::sensitive_data(*pattern, document.policy.name(), &scan.findings);
            self.deny_at(document, site, ReasonCode::SensitiveData, message);
        }
    }

    fn rate(&mut self) {
        for (document, tool, rule) in self.rules {
            let Some((limit, site)) = &rule.limit_per_hour else { continue };
            let admitted = self.facts.rates.admitted_in_window(tool);
            if admitted >= *limit {
                let message = self.say.rate_limited(tool, admitted, *limit);
                self.deny_at(document, site, ReasonCode::RateLimited, message);
            }
        }
    }

    fn sequences(&mut self) {
        let Action::ToolCall { tool, .. } = self.action else { return };
        for document in self.documents.iter() {
            let Some(sequences) = &document.policy.sequences else { continue };
            for sequence in sequences.restricting(tool) {
                let name = &*sequence.name;
                if !self.facts.armed.is_armed(document.policy.name(), name) {
                    continue;
                }
                match sequence.consequence {
                    Consequence::Deny => {
                        let message = self.say.sequence_denied(tool, name);
                        let code = ReasonCode::SequenceDenied;
                        self.deny_at(document, &sequence.site, code, message);
                    }
                    Consequence::RequireApproval if self.facts.is_approved => {}
                    Consequence::RequireApproval => {
                        let message = self.say.sequence_requires_approval(tool, name);
                        let code = ReasonCode::SequenceRequiresApproval;
                        self.require_approval(document, &sequence.site, code, message);
                    }
                }
            }
        }
    }

    fn approval(&mut self) {
        let Action::ToolCall { tool, args } = self.action else { return };
        if self.facts.is_approved {
            return;
        }
        let subject = Subject::new(tool, args, self.facts.agent, self.now);
        for (document, tool, rule) in self.rules {
            let Some(condition) = &rule.requires_approval_if else { continue };
            let (code, message) = match condition.holds(&subject) {
                Ok(false) => continue,
                Ok(true) => (
                    ReasonCode::ApprovalRequired,
                    self.say.approval_required(tool, &condition.text),
                ),
                Err(fault) => (
                    ReasonCode::ApprovalConditionError,
                    self.say.approval_condition_error(tool, &fault),
                ),
            };
            self.require_approval(document, &condition.site, code, message);
        }
    }

    fn budget(&mut self) {
        for document in self.documents.iter() {
            let Some(budget) = document.policy.budget() else { continue };
            if self.facts.cost.is_unpriced
                && let Some(site) = budget.first_limit()
            {
                let message = self.say.price_unknown(self.action);
                self.deny_at(document, site, ReasonCode::PriceUnknown, message);
            }
            let spend = self.facts.budgets.spend(document.policy.name());
            let cost = self.facts.cost.amount.cost();
            for exceeded in budget.exceeded(spend, cost) {
                let code = match budget.action() {
                    ActionOnExceed::Deny => ReasonCode::BudgetExceeded,
                    ActionOnExceed::Suspend => ReasonCode::BudgetSuspended,
                };
                let (_, reset) = budget.window(exceeded.period, self.now);
                let message = wording::budget(&exceeded, cost, code, reset);
                let mut reason = self.at(document, exceeded.site, code, message);
                reason.budget = Some(Box::new(standing(&exceeded, reset)));
                self.deny(reason);
            }
        }
    }

    /// After every document: what they deny stands whatever these say.
    fn shared_budgets(&mut self) {
        let cost = self.facts.cost;
        for budget in self.facts.shared_budgets.iter().filter(|budget| budget.enforced) {
            let Limits { cost: money, tokens } = budget.standing.limits;
            if cost.is_unpriced && money.is_some() {
                let message = self.say.price_unknown(self.action);
                self.deny(Reason::undocumented(ReasonCode::PriceUnknown, message));
                continue;
            }
            let used = budget.standing.posted.saturating_add(budget.standing.reserved);
            if budget.standing.limits.admit(used, cost.amount) {
                continue;
            }
            let mut reason = Reason::undocumented(
                ReasonCode::BudgetExceeded,
                wording::shared_budget(budget, cost.amount),
            );
            reason.budget = Some(Box::new(BudgetStanding {
                window: budget.window.to_owned(),
                limit: money,
                spent: budget.standing.posted.cost(),
                reserved: budget.standing.reserved.cost(),
                limit_tokens: tokens,
                spent_tokens: budget.standing.posted.tokens(),
                reserved_tokens: budget.standing.reserved.tokens(),
                resets_at: budget.standing.resets_at,
            }));
            self.deny(reason);
        }
    }

    fn conclude(self, scan: Scan, policies: &AgentPolicies) -> Judgement {
        if self.verdict == Verdict::Allow {
            let arms = match self.action {
                Action::ToolResult { .. } => policies.arms(self.facts.armed, self.action),
                _ => Vec::new(),
            };
            if !arms.is_empty() {
                // What a result arms is in the result: no other action may share it.
                return Judgement::Admitted(Arc::new(self.admission(arms)));
            }
            let sites = Sites::of(self.documents, |document| self.admitting_site(document));
            return Judgement::Admitted(
                policies.admissions().get_or_make(&sites, || self.admission(Vec::new())),
            );
        }
        let decision = Decision {
            verdict: self.verdict,
            reasons: self.reasons,
            // Any deny, from any document, means that nobody is asked.
            approval: self.approval.filter(|_| self.verdict == Verdict::RequireApproval),
            findings: scan.findings,
        };
        let applied = self.documents.iter().map(PolicyRef::of).collect();
        let arms = Vec::new();
        Judgement::Restrained(Outcome { decision, applied, counted_limit: None, arms })
    }

    /// Everything in it follows from the documents that apply and the entries that admit the action, so
    /// that one admission serves all actions that these admit.
    fn admission(&self, arms: Vec<SequenceRef>) -> Admission {
        let reasons = self.documents.iter().map(|document| self.admitting_reason(document));
        let decision = Decision {
            verdict: Verdict::Allow,
            reasons: reasons.collect(),
            approval: None,
            findings: Vec::new(),
        };
        let limits =
            self.rules.iter().filter_map(|(.., rule)| Some(rule.limit_per_hour.as_ref()?.0));
        let applied = self.documents.iter().map(PolicyRef::of).collect();
        Admission::new(Outcome { decision, applied, counted_limit: limits.max(), arms })
    }

    /// The entry of a document that admits the action, where one names it.
    fn admitting_site(&self, document: &'l Document) -> Option<&'l Site> {
        let policy = &document.policy;
        let site = match self.action {
            Action::ToolCall { tool, .. } => policy.tools.get(tool).map(|rule| &rule.site),
            _ => self
                .host
                .as_ref()
                .and_then(|(_, host)| policy.network.as_ref()?.admits(host.as_ref()?)),
        };
        site.or_else(|| {
            let allow = policy.capabilities.as_ref()?.allow.as_ref()?;
            needed(self.action).into_iter().flatten().find_map(|capability| allow.get(capability))
        })
    }

    /// Why a document that refuses nothing admits the action.
    fn admitting_reason(&self, document: &'l Document) -> Reason {
        match self.admitting_site(document) {
            Some(site) => {
                let message = "this entry admits the action".to_owned();
                self.at(document, site, ReasonCode::Allowed, message)
            }
            None => Reason {
                policy: Some(document.policy.name().to_owned()),
                revision: document.revision,
                version: document.policy.version().map(str::to_owned),
                ..Reason::undocumented(ReasonCode::Allowed, "nothing here restricts the action")
            },
        }
    }

    fn at(&self, document: &Document, site: &Site, code: ReasonCode, message: String) -> Reason {
        let mut reason = site.reason(code, &document.policy, document.revision, message);
        self.say.redact_path(&mut reason, document.policy.root);
        reason
    }

    fn deny_at(&mut self, document: &Document, site: &Site, code: ReasonCode, message: String) {
        let reason = self.at(document, site, code, message);
        self.deny(reason);
    }

    fn deny(&mut self, reason: Reason) {
        self.verdict = Verdict::Deny;
        self.reasons.push(reason);
    }

    /// The shortest deadline and every named role hold.
    fn require_approval(
        &mut self,
        document: &Document,
        site: &Site,
        code: ReasonCode,
        message: String,
    ) {
        let reason = self.at(document, site, code, message);
        self.verdict = self.verdict.max(Verdict::RequireApproval);
        self.reasons.push(reason);
        let asked = document.policy.approval_terms();
        let terms = self.approval.get_or_insert_with(|| ApprovalTerms {
            timeout_seconds: asked.timeout_seconds,
            roles: Vec::new(),
        });
        terms.timeout_seconds = terms.timeout_seconds.min(asked.timeout_seconds);
        terms.roles.extend(asked.roles);
        terms.roles.sort_unstable();
        terms.roles.dedup();
    }
}

fn standing(exceeded: &Exceeded<'_>, resets_at: Timestamp) -> BudgetStanding {
    BudgetStanding {
        window: exceeded.period.as_adjective().to_owned(),
        limit: Some(exceeded.limit),
        spent: exceeded.spent.posted,
        reserved: exceeded.spent.reserved,
        limit_tokens: None,
        spent_tokens: 0,
        reserved_tokens: 0,
        resets_at,
    }
}

/// The capabilities that an action needs; a model call to a known host needs two.
fn needed(action: &Action) -> [Option<Capability<'_>>; 2] {
    match action {
        Action::ToolCall { tool, .. } => [Some(Capability::McpTool(tool)), None],
        Action::LlmCall { model, host, .. } => {
            let outbound = host.as_ref().map(|_| Capability::NetworkOutbound);
            [Some(Capability::Model(model)), outbound]
        }
        Action::NetworkConnect { .. } => [Some(Capability::NetworkOutbound), None],
        Action::NetworkListen { .. } => [Some(Capability::NetworkInbound), None],
        Action::FileRead { .. } => [Some(Capability::FileRead), None],
        Action::FileWrite { .. } => [Some(Capability::FileWrite), None],
        Action::ProcessExec { .. } => [Some(Capability::TerminalExec), None],
        Action::AgentSpawn { .. } => [Some(Capability::AgentSpawn), None],
        Action::ToolResult { .. } | Action::LlmResult { .. } => [None, None],
    }
}

fn tool_rules<'l>(
    documents: &'l Applicable<'l>,
    action: &'l Action,
) -> Vec<(&'l Document, &'l str, &'l ToolRule)> {
    let Action::ToolCall { tool, .. } = action else { return Vec::new() };
    let rule =
        |document: &'l Document| Some((document, tool.as_str(), document.policy.tools.get(tool)?));
    documents.iter().filter_map(rule).collect()
}

fn remote_host(action: &Action) -> Option<&str> {
    match action {
        Action::NetworkConnect { host, .. } => Some(host),
        Action::LlmCall { host, .. } => host.as_deref(),
        _ => None,
    }
}

// === impl Judgement ===

impl Judgement {
    /// The outcome, wherever it lives.
    pub fn outcome(&self) -> &Outcome {
        match self {
            Self::Admitted(admission) => admission.outcome(),
            Self::Restrained(outcome) => outcome,
        }
    }
}

impl From<Judgement> for Outcome {
    fn from(judgement: Judgement) -> Self {
        match judgement {
            Judgement::Admitted(admission) => admission.outcome().clone(),
            Judgement::Restrained(outcome) => outcome,
        }
    }
}

// === impl PolicyRef ===

impl PolicyRef {
    fn of(document: &Document) -> Self {
        Self { name: document.policy.shared_name(), revision: document.revision }
    }
}

// === impl ConditionFault ===

impl ConditionFault {
    const fn sentence(&self) -> &'static str {
        match self {
            Self::Evaluation(kind) => kind,
            Self::TooLarge => "the arguments are larger than a condition may walk through",
        }
    }
}
