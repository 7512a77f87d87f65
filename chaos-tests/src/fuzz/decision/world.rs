//! Small worlds in which rules often match: documents, agents, actions and times over a few names.

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::{Result, Unstructured};
use serde_json::{Map, Value, json};

use super::naive::{Document, Question, Spending};

/// An agent under some documents, and what it is to be told.
pub(super) struct World {
    pub(super) documents: Vec<Document>,
    pub(super) agent: Value,
    pub(super) questions: Vec<Question>,
}

const MAX_DOCUMENTS: usize = 5;
const MAX_QUESTIONS: usize = 3;

const TOOLS: [&str; 4] = ["bash", "git", "slack-mcp", "file_write"];
const MODELS: [&str; 3] = ["gpt-4o", "claude", "local/llama:8b"];
const AGENT_ID: &str = "01234567-89ab-cdef-0123-456789abcdef";

const SCOPES: [&str; 13] = [
    "global",
    "global",
    "org:acme",
    "org:other",
    "org:Acme",
    "team:platform",
    "team:ops",
    "agent:01234567-89ab-cdef-0123-456789abcdef",
    "agent:01234567-89AB-CDEF-0123-456789ABCDEF",
    "agent:11234567-89ab-cdef-0123-456789abcdef",
    "tool:bash",
    "tool:git",
    "tool:slack-mcp",
];

const CAPABILITIES: [&str; 12] = [
    "file_read",
    "file_write",
    "network_outbound",
    "network_inbound",
    "terminal_exec",
    "agent_spawn",
    "mcp_tool:bash",
    "mcp_tool:git",
    "mcp_tool:slack-mcp",
    "model:gpt-4o",
    "model:claude",
    "model:local/llama:8b",
];

const HOSTS: [&str; 17] = [
    "api.openai.com",
    "API.OpenAI.com",
    "api.openai.com.",
    "slack.com",
    "SLACK.COM.",
    "a.slack.com",
    "a.b.slack.com",
    "notslack.com",
    "api.corp.example",
    "eu-api.corp.example",
    "apis.corp.example",
    "eu.api.corp.example",
    "bücher.example",
    "shop.xn--bcher-kva.example",
    "10.0.0.1",
    "::1",
    "localhost",
];

const GLOBS: [&str; 18] = [
    "*",
    "api.openai.com",
    "Api.OpenAI.Com",
    "*.openai.com",
    "slack.com",
    "*.slack.com",
    "*.*.slack.com",
    "*slack.com",
    "*.corp.example",
    "api*.corp.example",
    "*-api.corp.example",
    "e*u*.corp.example",
    "*.api.*.example",
    "bücher.example",
    "*.bücher.example",
    "10.0.0.1",
    "*.0.0.1",
    "::1",
];

/// Each as RE2 writes it and as the `regex` crate writes the same, which reads classes as Unicode.
const PATTERNS: [(&str, &str); 9] = [
    ("sk-[a-zA-Z0-9]{4}", "sk-[a-zA-Z0-9]{4}"),
    (r"\b\d{3}-\d{2}-\d{4}\b", r"(?-u:\b)[0-9]{3}-[0-9]{2}-[0-9]{4}(?-u:\b)"),
    (r"(?i)password\s*[:=]\s*\S+", r"(?i)password[\t\n\f\r ]*[:=][\t\n\f\r ]*[^\t\n\f\r ]+"),
    ("^rm -", "^rm -"),
    ("-rf$", "-rf$"),
    (r"\w{12}", "[0-9A-Za-z_]{12}"),
    ("a.c", "a.c"),
    ("[[:upper:]]{3,}", "[A-Z]{3,}"),
    ("bücher", "bücher"),
];

const TEXTS: [&str; 16] = [
    "",
    "ls -l",
    "rm -rf",
    "sudo rm -rf /",
    "sk-abcd1234",
    "sk-ab",
    "123-45-6789",
    "x123-45-6789",
    "é123-45-6789",
    "Password : hunter2",
    "password=\u{b}",
    "abc",
    "a\nc",
    "aéc",
    "ABCdef",
    "bücher_und_mehr",
];

/// Keys of arguments; the last is odd enough not to be quoted in a pointer.
const KEYS: [&str; 6] = ["cmd", "n", "flag", "list", "nested", "sk-abcd key"];

const CONDITIONS: [&str; 24] = [
    "governance_level >= L2",
    "governance_level < L1",
    "governance_level == L0",
    "L3 != governance_level",
    "args.n > 3",
    "args.n == 2",
    "args.n <= 2.5",
    "args.cmd == 'ls -l'",
    "args.cmd.startsWith('rm')",
    "args.cmd.contains('rm') && governance_level > L0",
    "has(args.cmd)",
    "has(args.nested.cmd) || has(args.flag)",
    "'list' in args",
    "size(args) > 1",
    "args.list.exists(item, item == 'abc')",
    "args.list.all(item, size(item) < 6)",
    "args.flag",
    "!args.flag",
    "tool == 'bash'",
    "agent.name == 'researcher'",
    "agent.labels.env == 'prod'",
    "now > timestamp('2026-06-01T00:00:00Z')",
    "args.n / 0 == 1 || true",
    "true",
];

/// Midnights and switches of the zones' clocks, and a few plain times.
const TIMES: [&str; 14] = [
    "2026-11-23T12:00:00Z",
    "2026-11-23T00:00:00Z",
    "2026-11-23T08:59:59.999999Z",
    "2026-11-23T09:00:00Z",
    "2026-03-08T06:59:59Z",
    "2026-03-08T07:00:00Z",
    "2026-11-01T05:30:00Z",
    "2026-11-01T06:00:00Z",
    "2026-03-29T00:59:59Z",
    "2026-03-29T01:00:00Z",
    "2026-10-25T00:59:59Z",
    "2026-10-25T01:00:00Z",
    "2028-02-29T16:00:00Z",
    "2026-07-15T18:30:00Z",
];

const CLOCKS: [&str; 10] =
    ["00:00", "01:00", "02:00", "03:00", "08:00", "09:00", "12:00", "17:30", "18:00", "23:59"];

const ZONES: [&str; 5] =
    ["UTC", "Asia/Taipei", "Asia/Kolkata", "America/New_York", "Europe/Berlin"];

const SEQUENCES: [&str; 3] = ["mail-after-secret", "a", "Z_1"];

const USD: i64 = 1_000_000_000;

/// The pattern as the `regex` crate writes it.
pub(super) fn in_rust_syntax(pattern: &str) -> String {
    let known = PATTERNS.iter().find(|(re2, _)| *re2 == pattern);
    known.map(|(_, rust)| (*rust).to_owned()).expect("patterns come from the list")
}

// === impl World ===

impl World {
    pub(super) fn read(input: &mut Unstructured<'_>) -> Result<Self> {
        let agent = agent(input)?;
        let count = input.int_in_range(1..=MAX_QUESTIONS)?;
        let mut questions = Vec::new();
        for _ in 0..count {
            questions.push(question(input)?);
        }
        let mut documents = Vec::new();
        for index in 0..input.int_in_range(0..=MAX_DOCUMENTS)? {
            // Names that do not sort in the order of loading.
            let name = format!("p{}", index * 3 % 7);
            let source = document(input, &name)?;
            for question in &mut questions {
                question.spending.insert(name.clone(), spent(input, &source)?);
                for sequence in SEQUENCES {
                    if input.ratio(1, 2)? {
                        question.armed.insert(format!("{name}/{sequence}"));
                    }
                }
            }
            documents.push(Document { name, source });
        }
        Ok(Self { documents, agent, questions })
    }
}

fn question(input: &mut Unstructured<'_>) -> Result<Question> {
    let mut rates = BTreeMap::new();
    for tool in TOOLS {
        rates.insert(tool.to_owned(), input.int_in_range(0..=4)?);
    }
    Ok(Question {
        action: action(input)?,
        suspended: input.ratio(1, 16)?,
        rates,
        spending: BTreeMap::new(),
        armed: BTreeSet::new(),
        cost: *input.choose(&[0, 0, 1, USD / 2, USD, 30 * USD, i64::MAX])?,
        now: moment(input)?,
    })
}

fn moment(input: &mut Unstructured<'_>) -> Result<i64> {
    let text = input.choose(&TIMES)?;
    let time: aa_protocol::Timestamp = text.parse().expect("the time is well-formed");
    let hours = input.int_in_range(-24..=24_i64)?;
    let micros = *input.choose(&[-1, 0, 0, 1])?;
    Ok(time.as_micros() + hours * 3_600_000_000 + micros)
}

fn agent(input: &mut Unstructured<'_>) -> Result<Value> {
    let mut agent = json!({
        "id": AGENT_ID,
        "name": input.choose(&["researcher", "writer"])?,
        "governance_level": input.choose(&["L0", "L1", "L2", "L3"])?,
    });
    if input.ratio(3, 4)? {
        agent["org"] = json!(input.choose(&["acme", "other"])?);
    }
    if input.ratio(3, 4)? {
        agent["team"] = json!(input.choose(&["platform", "ops"])?);
    }
    agent["labels"] = match input.int_in_range(0..=2)? {
        0 => json!({}),
        1 => json!({"env": "prod"}),
        _ => json!({"env": "dev"}),
    };
    Ok(agent)
}

fn action(input: &mut Unstructured<'_>) -> Result<Value> {
    let pick = |input: &mut Unstructured<'_>, from: &[&'static str]| input.choose(from).copied();
    let port = input.arbitrary::<u16>()?;
    Ok(match input.int_in_range(0..=13)? {
        0..=4 => json!({
            "kind": "tool_call", "tool": pick(input, &TOOLS)?, "args": arguments(input)?,
        }),
        5 => json!({
            "kind": "tool_result", "tool": pick(input, &TOOLS)?, "content": content(input, 2)?,
        }),
        6 => json!({
            "kind": "llm_call", "model": pick(input, &MODELS)?, "messages": content(input, 2)?,
        }),
        7 => json!({
            "kind": "llm_call", "model": pick(input, &MODELS)?, "host": pick(input, &HOSTS)?,
            "messages": content(input, 1)?,
        }),
        8 => json!({
            "kind": "llm_result", "model": pick(input, &MODELS)?, "content": content(input, 2)?,
            "usage": {"input_tokens": 1, "output_tokens": 2},
        }),
        9 => json!({"kind": "network_connect", "host": pick(input, &HOSTS)?, "port": port}),
        10 => json!({"kind": "network_listen", "port": port}),
        11 => {
            let kind = pick(input, &["file_read", "file_write"])?;
            json!({"kind": kind, "path": pick(input, &TEXTS)?})
        }
        12 => json!({"kind": "process_exec", "argv": [pick(input, &TEXTS)?, pick(input, &TEXTS)?]}),
        _ => json!({"kind": "agent_spawn", "child": pick(input, &TEXTS)?}),
    })
}

fn arguments(input: &mut Unstructured<'_>) -> Result<Value> {
    let mut arguments = Map::new();
    for key in KEYS {
        if input.ratio(1, 2)? {
            let value = match key {
                "n" => input
                    .choose(&[json!(2), json!(4), json!(2.5), json!(-1), json!("2"), json!(null)])?
                    .clone(),
                "flag" => input.choose(&[json!(true), json!(false), json!("yes")])?.clone(),
                _ => content(input, 1)?,
            };
            arguments.insert(key.to_owned(), value);
        }
    }
    Ok(Value::Object(arguments))
}

fn content(input: &mut Unstructured<'_>, depth: usize) -> Result<Value> {
    let kinds = if depth == 0 { 1 } else { 4 };
    Ok(match input.int_in_range(0..=kinds)? {
        0 | 1 => json!(input.choose(&TEXTS)?),
        2 => json!(input.int_in_range(-3..=6)?),
        3 => {
            let mut items = Vec::new();
            for _ in 0..input.int_in_range(0..=3)? {
                items.push(content(input, depth - 1)?);
            }
            Value::Array(items)
        }
        _ => {
            let mut members = Map::new();
            for key in KEYS {
                if input.ratio(1, 3)? {
                    members.insert(key.to_owned(), content(input, depth - 1)?);
                }
            }
            Value::Object(members)
        }
    })
}

fn document(input: &mut Unstructured<'_>, name: &str) -> Result<Value> {
    let mut sections = Map::new();
    let mut put = |key: &str, value: Value| sections.insert(key.to_owned(), value);
    if input.ratio(7, 8)? {
        put("scope", json!(input.choose(&SCOPES)?));
    }
    if input.ratio(1, 4)? {
        put("network", network(input)?);
    }
    if input.ratio(1, 8)? {
        put("schedule", schedule(input)?);
    }
    if input.ratio(1, 4)? {
        put("budget", budget(input)?);
    }
    if input.ratio(1, 4)? {
        let mut patterns = Vec::new();
        for _ in 0..input.int_in_range(0..=3)? {
            patterns.push(input.choose(&PATTERNS)?.0);
        }
        put("data", json!({"sensitive_patterns": patterns}));
    }
    if input.ratio(1, 2)? {
        put("tools", tools(input)?);
    }
    if input.ratio(1, 4)? {
        put("capabilities", capabilities(input)?);
    }
    if input.ratio(1, 4)? {
        put("approval_timeout_secs", json!(input.int_in_range(1..=900)?));
    }
    if input.ratio(1, 4)? {
        put("approval", approval(input)?);
    }
    if input.ratio(1, 4)? {
        put("sequences", sequences(input)?);
    }
    if input.ratio(1, 16)? {
        put("x-later", json!({"unknown": [1]}));
    }
    let sections = Value::Object(sections);
    Ok(if input.arbitrary()? {
        json!({
            "apiVersion": "agent-assembly/v1", "kind": "Policy",
            "metadata": {"name": name, "version": "1.0.0"}, "spec": sections,
        })
    } else {
        sections
    })
}

fn network(input: &mut Unstructured<'_>) -> Result<Value> {
    Ok(match input.int_in_range(0..=9)? {
        0 => Value::Null,
        1 => json!({}),
        2 => json!({"allowlist": []}),
        _ => {
            let mut globs = Vec::new();
            for _ in 0..input.int_in_range(1..=4)? {
                globs.push(input.choose(&GLOBS)?);
            }
            json!({"allowlist": globs})
        }
    })
}

fn schedule(input: &mut Unstructured<'_>) -> Result<Value> {
    let start = input.choose_index(CLOCKS.len())?;
    let after = CLOCKS.get(input.int_in_range(start + 1..=CLOCKS.len())?);
    Ok(json!({"active_hours": {
        "start": CLOCKS[start], "end": after.unwrap_or(&"24:00"), "timezone": input.choose(&ZONES)?,
    }}))
}

fn budget(input: &mut Unstructured<'_>) -> Result<Value> {
    let mut budget = Map::new();
    if input.ratio(3, 4)? {
        budget.insert("daily_limit_usd".to_owned(), json!(input.choose(&[0.5, 1.0, 25.0])?));
    }
    if input.ratio(1, 2)? {
        budget.insert("monthly_limit_usd".to_owned(), json!(input.choose(&[25.0, 500.0])?));
    }
    if input.ratio(1, 2)? {
        budget.insert("timezone".to_owned(), json!(input.choose(&ZONES)?));
    }
    if input.ratio(1, 2)? {
        let exceeding = input.choose(&["deny", "suspend"])?;
        budget.insert("action_on_exceed".to_owned(), json!(exceeding));
    }
    Ok(Value::Object(budget))
}

fn spent(input: &mut Unstructured<'_>, source: &Value) -> Result<Spending> {
    let budget = source.pointer("/spec/budget").unwrap_or(&source["budget"]);
    let day = *input.choose(&[0, USD / 2, USD / 2 + 1, USD, 24 * USD, 25 * USD])?;
    let month = day + *input.choose(&[0, USD, 470 * USD])?;
    let mut windows = vec![None];
    if budget["action_on_exceed"] == "suspend" {
        for (window, limit) in [("day", "daily_limit_usd"), ("month", "monthly_limit_usd")] {
            if budget.get(limit).is_some() {
                windows.push(Some(window));
            }
        }
    }
    Ok(Spending { day, month, suspended: *input.choose(&windows)? })
}

fn tools(input: &mut Unstructured<'_>) -> Result<Value> {
    let mut tools = Map::new();
    for tool in TOOLS {
        if !input.ratio(1, 2)? {
            continue;
        }
        let mut rule = Map::new();
        if input.ratio(1, 3)? {
            rule.insert("allow".to_owned(), json!(input.ratio(1, 2)?));
        }
        if input.ratio(1, 3)? {
            rule.insert("limit_per_hour".to_owned(), json!(input.int_in_range(1..=5)?));
        }
        if input.ratio(1, 2)? {
            let condition = input.choose(&CONDITIONS)?;
            rule.insert("requires_approval_if".to_owned(), json!(condition));
        }
        tools.insert(tool.to_owned(), Value::Object(rule));
    }
    Ok(Value::Object(tools))
}

fn capabilities(input: &mut Unstructured<'_>) -> Result<Value> {
    let mut capabilities = Map::new();
    for (member, likely) in [("allow", 3), ("deny", 2)] {
        if !input.ratio(likely, 4)? {
            continue;
        }
        let mut listed: Vec<&str> = Vec::new();
        for capability in CAPABILITIES {
            if input.ratio(likely, 6)? {
                listed.push(capability);
            }
        }
        capabilities.insert(member.to_owned(), json!(listed));
    }
    Ok(Value::Object(capabilities))
}

fn sequences(input: &mut Unstructured<'_>) -> Result<Value> {
    let mut sequences = Map::new();
    for name in SEQUENCES {
        if !input.ratio(1, 2)? {
            continue;
        }
        let mut after = Map::new();
        let kinds = input.int_in_range(1..=3)?;
        if kinds & 1 != 0 {
            after.insert("tools".to_owned(), some_tools(input)?);
        }
        if kinds & 2 != 0 {
            after.insert("result_matches".to_owned(), json!(input.choose(&PATTERNS)?.0));
        }
        let decision = input.choose(&["deny", "require_approval"])?;
        let then = json!({"tools": some_tools(input)?, "decision": decision});
        sequences.insert(name.to_owned(), json!({"after": after, "then": then}));
    }
    Ok(Value::Object(sequences))
}

fn some_tools(input: &mut Unstructured<'_>) -> Result<Value> {
    let first = *input.choose(&TOOLS)?;
    let mut tools = vec![first];
    for tool in TOOLS {
        if tool != first && input.ratio(1, 3)? {
            tools.push(tool);
        }
    }
    Ok(json!(tools))
}

fn approval(input: &mut Unstructured<'_>) -> Result<Value> {
    let mut approval = Map::new();
    if input.ratio(1, 2)? {
        approval.insert("timeout_seconds".to_owned(), json!(input.int_in_range(1..=900)?));
    }
    if input.ratio(1, 2)? {
        let role = input.choose(&["org-admin", "security-team"])?;
        approval.insert("escalation_role".to_owned(), json!(role));
    }
    Ok(Value::Object(approval))
}
