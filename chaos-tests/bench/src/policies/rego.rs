//! The rules in Rego, for regorus.

use std::{collections::BTreeMap, fmt::Write as _};

use aa_protocol::Verdict;
use regorus::{Engine as Interpreter, Value, languages::rego::compiler::Compiler, rvm::RegoVM};
use serde_json::json;

use super::{AGENT, Engine, Part, Rule, Scenario};
use crate::Error;

/// regorus over the rules of a scenario, compiled once; the engine and its data are kept between decisions.
pub struct Rego {
    runs_on: Running,
    inputs: Vec<Value>,
}

/// The two ways regorus evaluates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machinery {
    /// The tree-walking interpreter.
    Interpreter,
    /// The register machine.
    Vm,
}

enum Running {
    Interpreter(Box<Interpreter>),
    Vm(Box<RegoVM>),
}

const ENTRY: &str = "data.agent.verdict";

// === impl Rego ===

impl Rego {
    /// Compiles the rules: each as a rule of its own, or `as_data`, the way Rego's authors advise, with
    /// few rules that look into objects.
    ///
    /// # Errors
    /// When regorus refuses them.
    pub fn new(scenario: &Scenario, machinery: Machinery, as_data: bool) -> Result<Self, Error> {
        let (module, data) =
            if as_data { rules_as_data(scenario)? } else { (rules(scenario), json!({})) };
        let data = Value::from_json_str(&data.to_string())?;
        let mut interpreter = Interpreter::new();
        interpreter.add_policy("agent.rego".to_owned(), module)?;
        interpreter.add_data(data.clone())?;
        let runs_on = match machinery {
            Machinery::Interpreter => Running::Interpreter(Box::new(interpreter)),
            Machinery::Vm => {
                let compiled = interpreter.compile_with_entrypoint(&ENTRY.into())?;
                let program = Compiler::compile_from_policy(&compiled, &[ENTRY])?;
                let mut vm = RegoVM::new();
                vm.load_program(program);
                vm.set_data(data)?;
                Running::Vm(Box::new(vm))
            }
        };
        let agent = json!({"id": AGENT, "team": "platform", "org": "acme"});
        let mut inputs = Vec::new();
        for sample in scenario.samples()? {
            let input = json!({"agent": agent, "action": sample.action});
            inputs.push(Value::from_json_str(&input.to_string())?);
        }
        Ok(Self { runs_on, inputs })
    }
}

impl Engine for Rego {
    fn decide(&mut self, sample: usize) -> Result<Verdict, Error> {
        let input = self.inputs.get(sample).ok_or("no such sample")?.clone();
        let value = match &mut self.runs_on {
            Running::Interpreter(interpreter) => {
                interpreter.set_input(input);
                interpreter.eval_rule(ENTRY.to_owned())?
            }
            Running::Vm(vm) => {
                vm.set_input(input);
                vm.execute()?
            }
        };
        match value.as_string()?.as_ref() {
            "allow" => Ok(Verdict::Allow),
            "require_approval" => Ok(Verdict::RequireApproval),
            _ => Ok(Verdict::Deny),
        }
    }
}

const HEAD: &str = r#"package agent
import rego.v1

default verdict := "allow"
verdict := "deny" if deny
verdict := "require_approval" if {
    not deny
    approve
}
default deny := false
default approve := false
"#;

/// One rule per rule. A complete rule is decided by its first body that holds.
fn rules(scenario: &Scenario) -> String {
    let mut text = HEAD.to_owned();
    if scenario.restricts_hosts() {
        text.push_str("deny if {\n    input.action.host\n    not host_listed\n}\ndefault host_listed := false\n");
    }
    for part in scenario.parts() {
        let member = membership(&part);
        for rule in &part.rules {
            let call = r#"input.action.kind == "tool_call""#;
            // Writing to a string cannot fail.
            let _ = match rule {
                Rule::DenyTool(n) => {
                    writeln!(
                        text,
                        "deny if {{ {member}{call}; input.action.tool == \"tool_{n}\" }}"
                    )
                }
                Rule::ApproveAmount(n) => writeln!(
                    text,
                    "approve if {{ {member}{call}; input.action.tool == \"tool_{n}\"; input.action.args.amount > 1000 }}"
                ),
                Rule::ApprovePath(n) => writeln!(
                    text,
                    "approve if {{ {member}{call}; input.action.tool == \"tool_{n}\"; startswith(input.action.args.path, \"/etc/\") }}"
                ),
                Rule::AllowHost(n) => writeln!(
                    text,
                    "host_listed if {{ {member}input.action.host == \"api-{n}.example.com\" }}"
                ),
                Rule::AllowBelow(n) => writeln!(
                    text,
                    "host_listed if {{ {member}endswith(input.action.host, \".svc-{n}.example.net\") }}"
                ),
                Rule::DenyModel(n) => writeln!(
                    text,
                    "deny if {{ {member}input.action.kind == \"llm_call\"; input.action.model == \"model-{n}\" }}"
                ),
                Rule::DenyFileWrite => {
                    writeln!(text, "deny if {{ {member}input.action.kind == \"file_write\" }}")
                }
            };
        }
    }
    text
}

fn membership(part: &Part<'_>) -> String {
    match part.scope.split_once(':') {
        Some(("org", org)) => format!("input.agent.org == \"{org}\"; "),
        Some(("team", team)) => format!("input.agent.team == \"{team}\"; "),
        Some(("agent", agent)) => format!("input.agent.id == \"{agent}\"; "),
        _ => String::new(),
    }
}

/// The rules as objects under the agent's scopes, each found by one look-up.
fn rules_as_data(scenario: &Scenario) -> Result<(String, serde_json::Value), Error> {
    let mut text = HEAD.to_owned();
    text.push_str(
        r#"
scopes := ["global", concat(":", ["org", input.agent.org]), concat(":", ["team", input.agent.team]), concat(":", ["agent", input.agent.id])]

deny if {
    input.action.kind == "tool_call"
    some scope in scopes
    data.rules[scope].tools[input.action.tool].deny
}
deny if {
    input.action.kind == "llm_call"
    some scope in scopes
    data.rules[scope].models[input.action.model]
}
deny if {
    some scope in scopes
    data.rules[scope].kinds[input.action.kind]
}
approve if {
    input.action.kind == "tool_call"
    some scope in scopes
    input.action.args.amount > data.rules[scope].tools[input.action.tool].amount
}
approve if {
    input.action.kind == "tool_call"
    some scope in scopes
    startswith(input.action.args.path, data.rules[scope].tools[input.action.tool].path)
}
"#,
    );
    if scenario.restricts_hosts() {
        text.push_str(
            r#"
deny if {
    input.action.host
    not host_listed
}
default host_listed := false
host_listed if data.hosts[input.action.host]
host_listed if {
    labels := split(input.action.host, ".")
    some at in numbers.range(1, count(labels) - 1)
    data.below[concat(".", array.slice(labels, at, count(labels)))]
}
"#,
        );
    }
    let mut by_scope = BTreeMap::new();
    let (mut hosts, mut below) = (BTreeMap::new(), BTreeMap::new());
    for part in scenario.parts() {
        let (mut tools, mut models, mut kinds) =
            (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for rule in &part.rules {
            match rule {
                Rule::DenyTool(n) => drop(tools.insert(format!("tool_{n}"), json!({"deny": true}))),
                Rule::ApproveAmount(n) => {
                    drop(tools.insert(format!("tool_{n}"), json!({"amount": 1_000})));
                }
                Rule::ApprovePath(n) => {
                    drop(tools.insert(format!("tool_{n}"), json!({"path": "/etc/"})));
                }
                Rule::AllowHost(n) => drop(hosts.insert(format!("api-{n}.example.com"), true)),
                Rule::AllowBelow(n) => drop(below.insert(format!("svc-{n}.example.net"), true)),
                Rule::DenyModel(n) => drop(models.insert(format!("model-{n}"), true)),
                Rule::DenyFileWrite => drop(kinds.insert("file_write", true)),
            }
        }
        by_scope.insert(
            part.scope.to_owned(),
            json!({"tools": tools, "models": models, "kinds": kinds}),
        );
    }
    Ok((text, json!({"rules": by_scope, "hosts": hosts, "below": below})))
}
