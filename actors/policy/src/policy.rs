//! A compiled policy document.

use std::{collections::HashMap, sync::Arc};

use aa_protocol::{ApprovalTerms, Reason, ReasonCode};
use foldhash::fast::RandomState;

use crate::{
    budget::Budget,
    capabilities::Capabilities,
    condition::Condition,
    data::SensitiveData,
    diagnostic::{Diagnostic, DiagnosticCode, Place, Report},
    network::Network,
    schedule::ActiveHours,
    scope::Scope,
    sequences::{Sequences, Surroundings},
    shape::DEFAULT_APPROVAL_SECONDS,
    tree::{Node, Value, member_path},
};

/// One policy document: validated and compiled once, immutable since. A decision parses nothing of it.
#[derive(Debug)]
pub struct Policy {
    name: Arc<str>,
    version: Option<String>,
    description: Option<String>,
    scope: Scope,
    /// `spec` or, in the flat format, nothing.
    pub(crate) root: &'static str,
    pub(crate) scope_site: Site,
    pub(crate) network: Option<Network>,
    pub(crate) active_hours: Option<ActiveHours>,
    budget: Option<Budget>,
    pub(crate) data: Option<SensitiveData>,
    pub(crate) tools: Tools,
    pub(crate) capabilities: Option<Capabilities>,
    pub(crate) sequences: Option<Box<Sequences>>,
    approval: ApprovalRule,
}

/// The rules by tool.
pub(crate) type Tools = HashMap<String, ToolRule, RandomState>;

/// The rules of one tool.
#[derive(Debug)]
pub(crate) struct ToolRule {
    pub(crate) site: Site,
    /// Where `allow: false` is written.
    pub(crate) denied: Option<Site>,
    pub(crate) limit_per_hour: Option<(u64, Site)>,
    pub(crate) requires_approval_if: Option<Condition>,
}

/// How approvals that this document asks for are decided.
#[derive(Debug)]
struct ApprovalRule {
    timeout_seconds: u64,
    role: Option<String>,
}

/// A field in the source that a reason can point to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    pub(crate) path: Box<str>,
    line: u32,
    column: u32,
}

/// The name and version of a document, as its source states them.
pub(crate) struct Identity<'n> {
    pub(crate) name: String,
    pub(crate) version: Option<&'n Node>,
    pub(crate) description: Option<&'n Node>,
}

// === impl Policy ===

impl Policy {
    /// Compiles the rules at `rules`, which stand under `root`. What is wrong goes to the report; the
    /// result is of use only when it then has no errors.
    pub(crate) fn compile(
        identity: Identity<'_>,
        rules: &Node,
        root: &'static str,
        source: &str,
        report: &mut Report,
    ) -> Self {
        let path = |key: &str| member_path(root, key);
        let (scope, scope_site) = compile_scope(rules, &path("scope"), report);
        let network = rules.member("network").map(|member| {
            let site = Site::new(&path("network"), member.place);
            Network::compile(&member.node, site, &path("network"), report)
        });
        let active_hours = rules
            .member("schedule")
            .and_then(|member| ActiveHours::compile(&member.node, &path("schedule"), report));
        let budget = rules
            .member("budget")
            .and_then(|member| Budget::compile(&member.node, &path("budget"), report));
        let data = rules
            .member("data")
            .and_then(|member| SensitiveData::compile(&member.node, &path("data"), source, report));
        let tools = compile_tools(rules, &path("tools"), source, report);
        let capabilities = rules
            .member("capabilities")
            .map(|member| Capabilities::compile(&member.node, &path("capabilities"), report));
        let sequences = rules.member("sequences").and_then(|member| {
            let surroundings =
                Surroundings { scope: &scope, tools: &tools, capabilities: capabilities.as_ref() };
            let path = path("sequences");
            Sequences::compile(&member.node, &path, source, &surroundings, report)
        });
        let text = |node: Option<&Node>| node.and_then(Node::text).map(str::to_owned);
        Self {
            name: identity.name.into(),
            version: text(identity.version),
            description: text(identity.description),
            scope,
            root,
            scope_site,
            network,
            active_hours,
            budget,
            data,
            tools,
            capabilities,
            sequences: sequences.map(Box::new),
            approval: ApprovalRule::compile(rules),
        }
    }

    /// `metadata.name`; for a flat document the name of its file.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn shared_name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// The author's own `metadata.version`, or the flat format's `version`.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// `metadata.description`.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// Whom the document applies to.
    pub const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The spend cap, if there is one.
    pub const fn budget(&self) -> Option<&Budget> {
        self.budget.as_ref()
    }

    /// The most admitted calls of a tool per hour, if they are limited.
    pub fn limit_per_hour(&self, tool: &str) -> Option<u64> {
        self.tools.get(tool)?.limit_per_hour.as_ref().map(|(limit, _)| *limit)
    }

    /// The names of the sections that the document writes, as it writes them.
    pub fn sections(&self) -> Vec<&'static str> {
        let sections = [
            ("network", self.network.is_some()),
            ("schedule", self.active_hours.is_some()),
            ("budget", self.budget.is_some()),
            ("data", self.data.is_some()),
            ("tools", !self.tools.is_empty()),
            ("capabilities", self.capabilities.is_some()),
            ("sequences", self.sequences.is_some()),
        ];
        sections.into_iter().filter_map(|(name, is_there)| is_there.then_some(name)).collect()
    }

    /// Who decides on approvals that this document asks for, and by when.
    pub(crate) fn approval_terms(&self) -> ApprovalTerms {
        ApprovalTerms {
            timeout_seconds: self.approval.timeout_seconds,
            roles: self.approval.role.iter().cloned().collect(),
        }
    }
}

fn compile_scope(rules: &Node, path: &str, report: &mut Report) -> (Scope, Site) {
    let Some(member) = rules.member("scope") else {
        return (Scope::Global, Site::new(path, rules.place));
    };
    let site = Site::new(path, member.place);
    let Some(text) = member.node.text() else { return (Scope::Global, site) };
    match text.parse() {
        Ok(scope) => (scope, site),
        Err(error) => {
            let error: crate::scope::ScopeError = error;
            let place = member.node.place;
            let mut diagnostic =
                Diagnostic::new(DiagnosticCode::InvalidScope, path, place, error.to_string());
            diagnostic.help = error.help;
            report.error(diagnostic);
            (Scope::Global, site)
        }
    }
}

fn compile_tools(rules: &Node, path: &str, source: &str, report: &mut Report) -> Tools {
    let members = rules.member("tools").map_or(&[][..], |member| member.node.members());
    members
        .iter()
        .map(|member| {
            let path = member_path(path, &member.key);
            let site = Site::new(&path, member.place);
            (member.key.clone(), ToolRule::compile(&member.node, site, source, report))
        })
        .collect()
}

fn positive(section: &Node, key: &str) -> Option<u64> {
    match section.member(key)?.node.value {
        Value::Integer(value) => u64::try_from(value).ok().filter(|value| *value > 0),
        _ => None,
    }
}

// === impl ToolRule ===

impl ToolRule {
    fn compile(entry: &Node, site: Site, source: &str, report: &mut Report) -> Self {
        let field = |key: &str| {
            let member = entry.member(key)?;
            Some((&member.node, Site::new(&member_path(&site.path, key), member.place)))
        };
        let denied = field("allow").filter(|(node, _)| node.value == Value::Boolean(false));
        let limit = field("limit_per_hour").and_then(|(node, site)| match node.value {
            Value::Integer(limit) => Some((u64::try_from(limit).ok()?, site)),
            _ => None,
        });
        let condition = field("requires_approval_if").and_then(|(node, site)| {
            let path = site.path.clone();
            Condition::compile(node, site, &path, source, report)
        });
        Self {
            denied: denied.map(|(_, site)| site),
            limit_per_hour: limit,
            requires_approval_if: condition,
            site,
        }
    }
}

// === impl ApprovalRule ===

impl ApprovalRule {
    fn compile(rules: &Node) -> Self {
        let section = rules.member("approval").map(|member| &member.node);
        let role = section
            .and_then(|section| section.member("escalation_role"))
            .and_then(|member| member.node.text());
        let timeout = section
            .and_then(|section| positive(section, "timeout_seconds"))
            .or_else(|| positive(rules, "approval_timeout_secs"));
        Self {
            timeout_seconds: timeout.unwrap_or(DEFAULT_APPROVAL_SECONDS),
            role: role.map(str::to_owned),
        }
    }
}

// === impl Site ===

impl Site {
    pub(crate) fn new(path: &str, place: Place) -> Self {
        Self { path: path.into(), line: place.line, column: place.column }
    }

    pub(crate) const fn place(&self) -> Place {
        Place { line: self.line, column: self.column }
    }

    /// A reason at this field of `policy`.
    pub(crate) fn reason(
        &self,
        code: ReasonCode,
        policy: &Policy,
        revision: Option<u64>,
        message: String,
    ) -> Reason {
        Reason {
            code,
            policy: Some(policy.name().to_owned()),
            revision,
            version: policy.version.clone(),
            path: Some(self.path.to_string()),
            line: Some(self.line),
            column: Some(self.column),
            budget: None,
            message,
        }
    }
}

impl Default for Site {
    fn default() -> Self {
        Self::new("", Place::START)
    }
}
