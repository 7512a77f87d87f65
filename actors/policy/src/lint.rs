//! Static findings across the documents of a workspace: rules that cannot do what they seem to.

use aa_protocol::AgentFacts;

use crate::{
    capabilities::Capability,
    diagnostic::{Diagnostic, DiagnosticCode, quoted},
    policy::{Policy, Site},
    scope::Scope,
    set::PolicySet,
};

/// A finding about one document of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lint {
    /// The document's name.
    pub policy: String,
    /// What is found, and where in its source. Without the source line: a set keeps no sources.
    pub diagnostic: Diagnostic,
}

/// Looks at the documents of a set together, and at the agents that are registered. What one document
/// shows by itself is a warning of its check. In the order of names and sources.
pub fn lint(set: &PolicySet, agents: &[AgentFacts]) -> Vec<Lint> {
    let mut findings = Vec::new();
    for document in set.iter() {
        let policy = &*document.policy;
        let mut diagnostics: Vec<Diagnostic> =
            unused_scope(policy, set, agents).into_iter().collect();
        diagnostics.extend(shut_out_tools(policy, set, agents));
        diagnostics.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
        let name = policy.name();
        findings.extend(
            diagnostics.into_iter().map(|diagnostic| Lint { policy: name.to_owned(), diagnostic }),
        );
    }
    findings
}

fn unused_scope(policy: &Policy, set: &PolicySet, agents: &[AgentFacts]) -> Option<Diagnostic> {
    let site = &policy.scope_site;
    let warning = |message: String, help: &str| {
        Some(at(site, DiagnosticCode::UnusedScope, message).with_help(help))
    };
    match policy.scope() {
        Scope::Global => None,
        Scope::Tool(tool) => {
            let wide = set.iter().any(|other| !matches!(other.policy.scope(), Scope::Tool(_)));
            if wide {
                return None;
            }
            let message = format!("calls of the tool {} are denied anyway", quoted(tool));
            warning(message, "a tool: document only restricts: add one of a wider scope")
        }
        scope if agents.iter().any(|agent| scope.covers(agent)) => None,
        scope => {
            let message = format!("no registered agent is in {}", quoted(&scope.to_string()));
            warning(message, "check the identifier, or register an agent with it")
        }
    }
}

/// Tools with rules in one document that the capabilities of another shut out for every agent of it.
fn shut_out_tools(policy: &Policy, set: &PolicySet, agents: &[AgentFacts]) -> Vec<Diagnostic> {
    let others: Vec<&Policy> = set
        .iter()
        .map(|document| &*document.policy)
        .filter(|other| other.name() != policy.name() && reaches_all_of(other, policy, agents))
        .collect();
    let granted = policy.tools.iter().filter(|(_, rule)| rule.denied.is_none());
    granted
        .filter_map(|(tool, rule)| {
            let by = others.iter().find(|other| {
                let capabilities = other.capabilities.as_ref();
                capabilities.is_some_and(|c| c.refusal(Capability::McpTool(tool)).is_some())
            })?;
            let message = format!(
                "the tool {} has rules here, but the capabilities of {} shut it out",
                quoted(tool),
                quoted(by.name())
            );
            let help = format!("allow `mcp_tool:{tool}` there, or remove the rules here");
            Some(at(&rule.site, DiagnosticCode::ShutOut, message).with_help(help))
        })
        .collect()
}

/// Whether `wide` applies to every agent that `narrow` applies to.
fn reaches_all_of(wide: &Policy, narrow: &Policy, agents: &[AgentFacts]) -> bool {
    match (wide.scope(), narrow.scope()) {
        (Scope::Global, _) => true,
        (a, b) if a == b => true,
        (Scope::Tool(_), _) | (_, Scope::Global | Scope::Tool(_)) => false,
        (wide, narrow) => {
            let mut of_narrow = agents.iter().filter(|agent| narrow.covers(agent)).peekable();
            of_narrow.peek().is_some() && of_narrow.all(|agent| wide.covers(agent))
        }
    }
}

fn at(site: &Site, code: DiagnosticCode, message: String) -> Diagnostic {
    Diagnostic::new(code, &*site.path, site.place(), message)
}
