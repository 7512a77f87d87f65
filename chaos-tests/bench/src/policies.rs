//! One set of rules in the languages of three engines, and sample actions with the verdict all must give.

#[cfg(feature = "engines")]
mod cedar;
mod ours;
#[cfg(feature = "engines")]
mod rego;

use std::fmt::Write as _;

use aa_protocol::{Action, AgentFacts, Verdict};
use serde_json::json;

pub use self::ours::{Ours, Shape};
#[cfg(feature = "engines")]
pub use self::{
    cedar::Cedar,
    rego::{Machinery, Rego},
};
use crate::Error;

/// Rules of several kinds over documents of several scopes.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// How many scopes have a document, 1 to 5: global, organisation, team, agent, tool.
    pub scopes: usize,
    rules: Vec<Rule>,
}

/// A sample action and the verdict that its rules demand.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What it is there for.
    pub name: &'static str,
    /// The action, parsed.
    pub action: Action,
    /// The verdict.
    pub expected: Verdict,
}

/// An engine that holds the rules of one scenario and the prepared requests of its samples.
pub trait Engine {
    /// Decides the sample of this number. What it does is what a benchmark times.
    ///
    /// # Errors
    /// When the engine gives no verdict.
    fn decide(&mut self, sample: usize) -> Result<Verdict, Error>;
}

/// One rule. The number tells it from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// The tool may not be called.
    DenyTool(usize),
    /// Calls with `args.amount` above 1000 need approval.
    ApproveAmount(usize),
    /// Calls with `args.path` under `/etc/` need approval.
    ApprovePath(usize),
    /// Connections to one host are let through.
    AllowHost(usize),
    /// Connections to all hosts below a domain are let through.
    AllowBelow(usize),
    /// The model may not be called.
    DenyModel(usize),
    /// Files may not be written.
    DenyFileWrite,
}

/// The rules of one document.
struct Part<'s> {
    scope: &'static str,
    rules: Vec<&'s Rule>,
}

const AGENT: &str = "01234567-89ab-cdef-0123-456789abcdef";
/// The tool whose own document is the fifth scope.
const SCOPED_TOOL: &str = "deploy";

// === impl Scenario ===

impl Scenario {
    /// `rules` rules over `scopes` scopes, 1 to 5.
    pub fn new(rules: usize, scopes: usize) -> Self {
        let rule = |number: usize| match number % 10 {
            0 | 5 | 8 => Rule::DenyTool(number),
            1 | 6 => Rule::ApproveAmount(number),
            2 => Rule::ApprovePath(number),
            3 => Rule::AllowHost(number),
            4 => Rule::AllowBelow(number),
            7 => Rule::DenyModel(number),
            _ if number == 9 => Rule::DenyFileWrite,
            _ => Rule::AllowHost(number),
        };
        Self { scopes: scopes.clamp(1, 5), rules: (0..rules).map(rule).collect() }
    }

    /// How many rules there are.
    pub fn rules(&self) -> usize {
        self.rules.len()
    }

    /// The agent that acts.
    ///
    /// # Errors
    /// Never, as long as the format of agents' facts stays.
    pub fn agent(&self) -> Result<AgentFacts, Error> {
        Ok(serde_json::from_value(json!({
            "id": AGENT, "name": "buyer", "org": "acme", "team": "platform",
            "governance_level": "L1", "labels": {"env": "prod"},
        }))?)
    }

    /// The sample actions: every kind of rule at its first and its last place, and actions no rule names.
    ///
    /// # Errors
    /// Never, as long as the format of actions stays.
    pub fn samples(&self) -> Result<Vec<Sample>, Error> {
        let mut samples = Vec::new();
        let mut add = |name, action, expected| -> Result<(), Error> {
            samples.push(Sample { name, action: serde_json::from_value(action)?, expected });
            Ok(())
        };
        let call = |tool: &str, args| json!({"kind": "tool_call", "tool": tool, "args": args});
        let connect = |host: &str| json!({"kind": "network_connect", "host": host, "port": 443});
        let model = |model: &str, host: Option<&str>| {
            let messages = json!([{"role": "user", "content": "what is left in stock?"}]);
            json!({"kind": "llm_call", "model": model, "host": host, "messages": messages})
        };
        let search = json!({"query": "open orders", "limit": 20});
        add("tool no rule names", call("search", search.clone()), Verdict::Allow)?;
        if self.scopes == 5 {
            add("tool with a document", call(SCOPED_TOOL, search.clone()), Verdict::Allow)?;
        }
        for number in self.ends(|rule| matches!(rule, Rule::DenyTool(_))) {
            let tool = format!("tool_{number}");
            add("denied tool", call(&tool, search.clone()), Verdict::Deny)?;
        }
        for number in self.ends(|rule| matches!(rule, Rule::ApproveAmount(_))) {
            let tool = format!("tool_{number}");
            let args = |amount: u64| json!({"amount": amount, "currency": "EUR", "to": "Ada"});
            add("condition false", call(&tool, args(12)), Verdict::Allow)?;
            add("condition true", call(&tool, args(5_000)), Verdict::RequireApproval)?;
        }
        for number in self.ends(|rule| matches!(rule, Rule::ApprovePath(_))) {
            let tool = format!("tool_{number}");
            let args = |path: &str| json!({"path": path, "mode": "r"});
            add("path condition false", call(&tool, args("/srv/a.txt")), Verdict::Allow)?;
            add("path condition true", call(&tool, args("/etc/passwd")), Verdict::RequireApproval)?;
        }
        let restricts_hosts = self.restricts_hosts();
        for number in self.ends(|rule| matches!(rule, Rule::AllowHost(_))) {
            let host = format!("api-{number}.example.com");
            add("listed host", connect(&host), Verdict::Allow)?;
            add("model at a listed host", model("opus", Some(&host)), Verdict::Allow)?;
        }
        for number in self.ends(|rule| matches!(rule, Rule::AllowBelow(_))) {
            let host = format!("eu.cdn.svc-{number}.example.net");
            add("host below a domain", connect(&host), Verdict::Allow)?;
        }
        let unknown = if restricts_hosts { Verdict::Deny } else { Verdict::Allow };
        add("host no rule names", connect("exfil.example.org"), unknown)?;
        for number in self.ends(|rule| matches!(rule, Rule::DenyModel(_))) {
            add("denied model", model(&format!("model-{number}"), None), Verdict::Deny)?;
        }
        add("model no rule names", model("opus", None), Verdict::Allow)?;
        add("file read", json!({"kind": "file_read", "path": "/srv/a.txt"}), Verdict::Allow)?;
        let denied = self.rules.contains(&Rule::DenyFileWrite);
        let write = if denied { Verdict::Deny } else { Verdict::Allow };
        add("file write", json!({"kind": "file_write", "path": "/srv/a.txt"}), write)?;
        Ok(samples)
    }

    /// The rules as documents of this project, one per scope.
    pub fn documents(&self) -> Vec<String> {
        self.parts().iter().map(Part::document).collect()
    }

    fn restricts_hosts(&self) -> bool {
        self.rules.iter().any(|rule| matches!(rule, Rule::AllowHost(_) | Rule::AllowBelow(_)))
    }

    /// The numbers of the first and the last rule of a kind.
    fn ends(&self, of_kind: impl Fn(&Rule) -> bool) -> Vec<usize> {
        let mut numbers: Vec<usize> = Vec::new();
        let first = self.rules.iter().position(&of_kind);
        let last = self.rules.iter().rposition(&of_kind);
        numbers.extend(first);
        numbers.extend(last.filter(|_| last != first));
        numbers
    }

    /// The documents: hosts are listed in the first, so that the lists of several need not agree; all else
    /// is dealt out in turn. The document of a tool holds what a tool's document can: limits of its own.
    fn parts(&self) -> Vec<Part<'_>> {
        const SCOPES: [&str; 4] =
            ["global", "org:acme", "team:platform", "agent:01234567-89ab-cdef-0123-456789abcdef"];
        let wide = self.scopes.min(SCOPES.len());
        let mut parts: Vec<_> =
            SCOPES[..wide].iter().map(|scope| Part { scope, rules: Vec::new() }).collect();
        for (number, rule) in self.rules.iter().enumerate() {
            let is_host = matches!(rule, Rule::AllowHost(_) | Rule::AllowBelow(_));
            let at = if is_host { 0 } else { number % wide };
            if let Some(part) = parts.get_mut(at) {
                part.rules.push(rule);
            }
        }
        if self.scopes == 5 {
            parts.push(Part { scope: "tool:deploy", rules: Vec::new() });
        }
        parts
    }
}

// === impl Part ===

impl Part<'_> {
    fn document(&self) -> String {
        let name = self.scope.split(':').next().unwrap_or_default();
        let mut text = format!(
            "apiVersion: agent-assembly/v1\nkind: Policy\nmetadata:\n  name: {name}\n  version: \"1.0.0\"\nspec:\n  scope: {}\n",
            self.scope
        );
        let mut hosts = String::new();
        let mut tools = String::new();
        let mut denied = String::new();
        for rule in &self.rules {
            // Writing to a string cannot fail.
            let _ = match rule {
                Rule::DenyTool(n) => writeln!(tools, "    tool_{n}: {{allow: false}}"),
                Rule::ApproveAmount(n) => writeln!(
                    tools,
                    "    tool_{n}: {{requires_approval_if: \"args.amount > 1000\"}}"
                ),
                Rule::ApprovePath(n) => writeln!(
                    tools,
                    "    tool_{n}: {{requires_approval_if: \"args.path.startsWith('/etc/')\"}}"
                ),
                Rule::AllowHost(n) => writeln!(hosts, "      - api-{n}.example.com"),
                Rule::AllowBelow(n) => writeln!(hosts, "      - \"*.svc-{n}.example.net\""),
                Rule::DenyModel(n) => writeln!(denied, "      - model:model-{n}"),
                Rule::DenyFileWrite => writeln!(denied, "      - file_write"),
            };
        }
        let sections = [("network", "allowlist", hosts), ("capabilities", "deny", denied)];
        for (section, list, items) in sections.iter().filter(|(.., items)| !items.is_empty()) {
            text.push_str(&format!("  {section}:\n    {list}:\n{items}"));
        }
        if !tools.is_empty() {
            text.push_str(&format!("  tools:\n{tools}"));
        }
        text
    }
}
