//! The rules as Cedar policies.

use std::{collections::HashSet, fmt::Write as _, sync::Arc};

use aa_protocol::{Action, Verdict};
use cedar_policy::{
    Authorizer, Context, Decision, Entities, EntityUid, PolicyId, PolicySet, Request,
};
use serde_json::json;

use super::{AGENT, Engine, Part, Rule, Scenario};
use crate::Error;

/// `Authorizer::is_authorized` over one policy per rule. An approval is a `forbid` that says so in an
/// annotation; what no rule restricts is permitted by one policy per kind of action.
#[derive(Clone)]
pub struct Cedar(Arc<Loaded>);

struct Loaded {
    authorizer: Authorizer,
    policies: PolicySet,
    entities: Entities,
    requests: Vec<Request>,
    /// The policies whose refusal asks for approval.
    approvals: HashSet<PolicyId>,
}

// === impl Cedar ===

impl Cedar {
    /// Parses the policies, builds the entities and one request per sample.
    ///
    /// # Errors
    /// When Cedar refuses any of them.
    pub fn new(scenario: &Scenario) -> Result<Self, Error> {
        let policies: PolicySet = policies(scenario).parse()?;
        let approvals = policies
            .policies()
            .filter(|policy| policy.annotation("verdict") == Some("require_approval"))
            .map(|policy| policy.id().clone())
            .collect();
        let samples = scenario.samples()?;
        let requests = samples.iter().map(|sample| request(&sample.action));
        Ok(Self(Arc::new(Loaded {
            authorizer: Authorizer::new(),
            policies,
            entities: Entities::from_json_value(entities(), None)?,
            requests: requests.collect::<Result<_, _>>()?,
            approvals,
        })))
    }
}

impl Engine for Cedar {
    fn decide(&mut self, sample: usize) -> Result<Verdict, Error> {
        let Loaded { authorizer, policies, entities, requests, approvals } = &*self.0;
        let request = requests.get(sample).ok_or("no such sample")?;
        let response = authorizer.is_authorized(request, policies, entities);
        if response.decision() == Decision::Allow {
            return Ok(Verdict::Allow);
        }
        let mut refusals = response.diagnostics().reason().peekable();
        let only_asks =
            refusals.peek().is_some() && refusals.all(|policy| approvals.contains(policy));
        Ok(if only_asks { Verdict::RequireApproval } else { Verdict::Deny })
    }
}

fn policies(scenario: &Scenario) -> String {
    let mut text = String::from(
        "permit(principal, action in [Action::\"tool_call\", Action::\"file_read\", Action::\"file_write\"], resource);\n",
    );
    let hostless = "permit(principal, action == Action::\"llm_call\", resource) unless { context has host };\n";
    let anywhere = "permit(principal, action in [Action::\"network_connect\", Action::\"llm_call\"], resource);\n";
    text.push_str(if scenario.restricts_hosts() { hostless } else { anywhere });
    for part in scenario.parts() {
        let principal = principal(&part);
        for rule in &part.rules {
            // Writing to a string cannot fail.
            let _ = match rule {
                Rule::DenyTool(n) => writeln!(
                    text,
                    "forbid({principal}, action == Action::\"tool_call\", resource == Tool::\"tool_{n}\");"
                ),
                Rule::ApproveAmount(n) => writeln!(
                    text,
                    "@verdict(\"require_approval\") forbid({principal}, action == Action::\"tool_call\", resource == Tool::\"tool_{n}\") when {{ context.args.amount > 1000 }};"
                ),
                Rule::ApprovePath(n) => writeln!(
                    text,
                    "@verdict(\"require_approval\") forbid({principal}, action == Action::\"tool_call\", resource == Tool::\"tool_{n}\") when {{ context.args.path like \"/etc/*\" }};"
                ),
                Rule::AllowHost(n) => writeln!(
                    text,
                    "permit({principal}, action in [Action::\"network_connect\", Action::\"llm_call\"], resource) when {{ context has host && context.host == \"api-{n}.example.com\" }};"
                ),
                Rule::AllowBelow(n) => writeln!(
                    text,
                    "permit({principal}, action in [Action::\"network_connect\", Action::\"llm_call\"], resource) when {{ context has host && context.host like \"*.svc-{n}.example.net\" }};"
                ),
                Rule::DenyModel(n) => writeln!(
                    text,
                    "forbid({principal}, action == Action::\"llm_call\", resource == Model::\"model-{n}\");"
                ),
                Rule::DenyFileWrite => writeln!(
                    text,
                    "forbid({principal}, action == Action::\"file_write\", resource);"
                ),
            };
        }
    }
    text
}

fn principal(part: &Part<'_>) -> String {
    match part.scope.split_once(':') {
        Some(("org", org)) => format!("principal in Org::\"{org}\""),
        Some(("team", team)) => format!("principal in Team::\"{team}\""),
        Some(("agent", agent)) => format!("principal == Agent::\"{agent}\""),
        _ => "principal".to_owned(),
    }
}

fn entities() -> serde_json::Value {
    let entity = |kind: &str, id: &str, parents: serde_json::Value| json!({"uid": {"type": kind, "id": id}, "attrs": {}, "parents": parents});
    let team = json!([{"type": "Team", "id": "platform"}]);
    let org = json!([{"type": "Org", "id": "acme"}]);
    json!([
        entity("Agent", AGENT, team),
        entity("Team", "platform", org),
        entity("Org", "acme", json!([])),
    ])
}

fn request(action: &Action) -> Result<Request, Error> {
    let (kind, id) = match action {
        Action::ToolCall { tool, .. } => ("Tool", tool.as_str()),
        Action::LlmCall { model, .. } => ("Model", model.as_str()),
        Action::NetworkConnect { host, .. } => ("Host", host.as_str()),
        Action::FileRead { path } | Action::FileWrite { path } => ("File", path.as_str()),
        other => return Err(format!("no sample is a {}", other.kind()).into()),
    };
    let context = match action {
        Action::ToolCall { args, .. } => json!({"args": args}),
        Action::LlmCall { host: Some(host), .. } => json!({"host": host}),
        Action::NetworkConnect { host, port } => json!({"host": host, "port": port}),
        _ => json!({}),
    };
    let uid = |kind: &str, id: &str| {
        EntityUid::from_json(json!({"type": kind, "id": id})).map_err(Error::from)
    };
    Ok(Request::new(
        uid("Agent", AGENT)?,
        uid("Action", action.kind().as_str())?,
        uid(kind, id)?,
        Context::from_json_value(context, None)?,
        None,
    )?)
}
