//! Conditions, evaluated by the CEL crate from scratch each time.

use cel::{Context, Program, Value as Cel};
use chrono::DateTime;
use serde_json::Value;

/// What conditions see of an agent beside its level.
const AGENT_FIELDS: [&str; 5] = ["id", "name", "team", "org", "labels"];

/// Whether the condition holds; `None` when it cannot be told.
pub(in super::super::super) fn evaluate(
    condition: &str,
    agent: &Value,
    action: &Value,
    now: i64,
) -> Option<bool> {
    let program = Program::compile(condition).ok()?;
    let mut context = Context::default();
    // The levels are ordered, and nothing else is known of them.
    for level in 0..4_i64 {
        context.add_variable_from_value(format!("L{level}"), level);
    }
    let level = agent["governance_level"].as_str().unwrap_or("L0");
    let level: i64 = level.trim_start_matches('L').parse().ok()?;
    context.add_variable_from_value("governance_level", level);
    context.add_variable_from_value("tool", value(&action["tool"]));
    context.add_variable_from_value("args", value(&action["args"]));
    let mut seen = agent.clone();
    if let Value::Object(members) = &mut seen {
        members.retain(|field, _| AGENT_FIELDS.contains(&field.as_str()));
    }
    context.add_variable_from_value("agent", value(&seen));
    let now = DateTime::from_timestamp_micros(now)?.fixed_offset();
    context.add_variable_from_value("now", Cel::Timestamp(now));
    match program.execute(&context) {
        Ok(Cel::Bool(holds)) => Some(holds),
        Ok(_) | Err(_) => None,
    }
}

fn value(json: &Value) -> Cel {
    match json {
        Value::Null => Cel::Null,
        Value::Bool(truth) => Cel::Bool(*truth),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => Cel::Int(integer),
            None => Cel::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Cel::from(text.clone()),
        Value::Array(items) => Cel::from(items.iter().map(value).collect::<Vec<_>>()),
        Value::Object(members) => {
            let members = members.iter().map(|(key, member)| (key.clone(), value(member)));
            Cel::from(members.collect::<std::collections::HashMap<_, _>>())
        }
    }
}
