//! A rule from a decision: the condition that asked for approval, narrowed so that this very call is not asked about
//! again. It is a proposal: somebody reads it and applies it like any other document.

use aa_protocol::{Action, AgentFacts, Timestamp};
use serde_json::{Map, Value as Json};

use crate::{
    check::{self, check},
    condition::Subject,
    diagnostic::{Place, Report},
    tree::{self, Node, Value, item_path, member_path},
};

/// A document with one condition narrowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exemption {
    /// The field, such as `spec.tools.bash.requires_approval_if`.
    pub path: String,
    /// 1-based line of it.
    pub line: u32,
    /// The condition as it is.
    pub before: String,
    /// The condition as proposed: calls of exactly these arguments are not asked about.
    pub after: String,
    /// The whole document with it; everything else of the source is as it was, comments included.
    pub document: String,
}

/// Why no rule can be proposed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotPropose {
    /// The action is not a call of a tool.
    #[error("only calls of tools are asked about by conditions; this was another kind of action")]
    NotAToolCall,
    /// The document has no condition there.
    #[error(
        "the document has no condition at `{0}`: it was changed since; look at its present form"
    )]
    NoCondition(String),
    /// The arguments do not go into a condition.
    #[error(
        "the call cannot be told apart by a condition ({0}); narrow the condition by hand, or approve for the session"
    )]
    Unspeakable(&'static str),
}

/// Proposes that the condition at `path` of a document no longer asks about calls of exactly these arguments.
///
/// # Errors
/// It is no tool call, the document has no condition there, or the arguments do not go into one.
pub fn exempt(source: &[u8], path: &str, action: &Action) -> Result<Exemption, CannotPropose> {
    let Action::ToolCall { tool, args, .. } = action else {
        return Err(CannotPropose::NotAToolCall);
    };
    let no_condition = || CannotPropose::NoCondition(path.to_owned());
    let mut report = Report::default();
    let text = check::decode(source, &mut report).ok_or_else(no_condition)?;
    let root = tree::parse(text, &mut report).ok_or_else(no_condition)?;
    let (node, place) = find(&root, "", path).ok_or_else(no_condition)?;
    let before = node.text().ok_or_else(no_condition)?.to_owned();
    let literal = literal(&Json::Object(args.clone()))
        .ok_or(CannotPropose::Unspeakable("it has a number that is not exact"))?;
    // A conjunction that is false on one side is false, whatever the other side is.
    let after = format!("!(args == {literal}) && ({})", before.trim());
    // JSON's form of a text is one of YAML's, on one line and within any nesting.
    let mut quoted = Json::String(after.clone()).to_string();
    let mut bytes = node.bytes.clone();
    if let Some(indicator) = block_indicator(&text[..bytes.start]) {
        bytes.start = indicator;
        if text[bytes.clone()].ends_with('\n') {
            quoted.push('\n');
        }
    }
    let mut document = text.to_owned();
    document.replace_range(bytes, &quoted);
    let exemption = Exemption { path: path.to_owned(), line: place.line, before, after, document };
    exemption.is_sound(tool, args)?;
    Ok(exemption)
}

impl Exemption {
    /// Whether the document still reads, says what is proposed and no longer asks about the call.
    fn is_sound(&self, tool: &str, args: &Map<String, Json>) -> Result<(), CannotPropose> {
        let checked = check(self.document.as_bytes(), "proposed");
        let too_much = "the condition would be longer or deeper than conditions may be";
        let policy = checked.policy.ok_or(CannotPropose::Unspeakable(too_much))?;
        let rule = policy.tools.get(tool).and_then(|rule| rule.requires_approval_if.as_ref());
        let rule = rule.filter(|rule| rule.text == self.after && *rule.site.path == *self.path);
        let rule = rule.ok_or_else(|| CannotPropose::NoCondition(self.path.clone()))?;
        let agent = AgentFacts {
            id: aa_protocol::AgentId::from_uuid(uuid::Uuid::nil()),
            name: String::new(),
            org: None,
            team: None,
            governance_level: aa_protocol::GovernanceLevel::L0,
            labels: Default::default(),
        };
        let holds = rule.holds(&Subject::new(tool, args, &agent, Timestamp::default()));
        match holds {
            Ok(false) => Ok(()),
            Ok(true) | Err(_) => {
                Err(CannotPropose::Unspeakable("its arguments do not compare as equal"))
            }
        }
    }
}

/// The node at a path, and where its key stands.
fn find<'n>(node: &'n Node, at: &str, path: &str) -> Option<(&'n Node, Place)> {
    let found = |child: &'n Node, child_path: String, place: Place| {
        if child_path == path {
            return Some((child, place));
        }
        path.starts_with(&child_path).then(|| find(child, &child_path, path)).flatten()
    };
    match &node.value {
        Value::Map(members) => members
            .iter()
            .find_map(|member| found(&member.node, member_path(at, &member.key), member.place)),
        Value::List(items) => items
            .iter()
            .enumerate()
            .find_map(|(index, item)| found(item, item_path(at, index), item.place)),
        _ => None,
    }
}

/// Where the `>` or `|` of a block text stands, when what comes before its lines ends with one.
fn block_indicator(before: &str) -> Option<usize> {
    let head = before.trim_end().trim_end_matches(|c: char| "+-".contains(c) || c.is_ascii_digit());
    head.ends_with(['>', '|']).then(|| head.len() - 1)
}

/// A value as a CEL literal; `None` for a number that CEL would read as another.
fn literal(value: &Json) -> Option<String> {
    Some(match value {
        Json::Null | Json::Bool(_) => value.to_string(),
        Json::Number(number) if number.is_i64() => number.to_string(),
        Json::Number(number) if number.is_u64() => format!("{number}u"),
        Json::Number(number) => {
            let double = number.as_f64().filter(|double| double.is_finite())?;
            let text = format!("{double:?}");
            // A literal has a decimal point.
            if text.contains(['.', 'e']) { text } else { format!("{text}.0") }
        }
        Json::String(text) => string_literal(text),
        Json::Array(items) => {
            let items: Option<Vec<_>> = items.iter().map(literal).collect();
            format!("[{}]", items?.join(", "))
        }
        Json::Object(members) => {
            let member = |(key, value): (&String, &Json)| {
                Some(format!("{}: {}", string_literal(key), literal(value)?))
            };
            let members: Option<Vec<_>> = members.iter().map(member).collect();
            format!("{{{}}}", members?.join(", "))
        }
    })
}

/// CEL's escapes are JSON's, but for those of surrogates, which JSON's writer does not use, and of `/`.
fn string_literal(text: &str) -> String {
    let mut literal = String::with_capacity(text.len() + 2);
    literal.push('"');
    for c in text.chars() {
        match c {
            '"' => literal.push_str("\\\""),
            '\\' => literal.push_str("\\\\"),
            '\n' => literal.push_str("\\n"),
            '\r' => literal.push_str("\\r"),
            '\t' => literal.push_str("\\t"),
            c if c.is_control() => literal.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => literal.push(c),
        }
    }
    literal.push('"');
    literal
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "\
# Reviewed by security.
apiVersion: agent-assembly/v1
kind: Policy
metadata: {name: ask}
spec:
  tools:
    bash: {limit_per_hour: 9, requires_approval_if: 'args.cmd != \"ls\"'}   # shells
    read file:
      requires_approval_if: >
        args.path.startsWith(\"/etc\")
";

    fn call(tool: &str, args: Json) -> Action {
        let action = serde_json::json!({"kind": "tool_call", "tool": tool, "args": args});
        serde_json::from_value(action).unwrap()
    }

    const BASH: &str = "spec.tools.bash.requires_approval_if";

    #[test]
    fn a_condition_is_narrowed_by_one_call_and_nothing_else_of_the_document_changes() {
        let action = call(
            "bash",
            serde_json::json!({"cmd": "df -h \"/\"\n", "n": 3, "x": [1.5, null, true]}),
        );
        let proposed = exempt(SOURCE.as_bytes(), BASH, &action).unwrap();
        assert_eq!(proposed.before, "args.cmd != \"ls\"");
        assert_eq!(
            proposed.after,
            "!(args == {\"cmd\": \"df -h \\\"/\\\"\\n\", \"n\": 3, \"x\": [1.5, null, true]}) && (args.cmd != \"ls\")"
        );
        assert_eq!(proposed.line, 7);
        let changed: Vec<_> =
            SOURCE.lines().zip(proposed.document.lines()).filter(|(a, b)| a != b).collect();
        assert_eq!(changed.len(), 1);
        assert!(
            changed[0].1.ends_with("}   # shells") && changed[0].1.contains("limit_per_hour: 9")
        );
        let again = call("bash", serde_json::json!({"cmd": "rm"}));
        let both = exempt(proposed.document.as_bytes(), BASH, &again).unwrap();
        assert!(both.after.contains("\"rm\"") && both.after.contains("df -h"));
    }

    #[test]
    fn a_folded_condition_under_an_odd_name_is_narrowed_too() {
        let action = call("read file", serde_json::json!({"path": "/etc/hosts"}));
        let path = "spec.tools[\"read file\"].requires_approval_if";
        let proposed = exempt(SOURCE.as_bytes(), path, &action).unwrap();
        assert!(check(proposed.document.as_bytes(), "x").policy.is_some(), "{}", proposed.document);
    }

    #[test]
    fn what_no_condition_can_say_is_not_proposed() {
        let long = call("bash", serde_json::json!({"cmd": "x".repeat(4_000)}));
        let error = exempt(SOURCE.as_bytes(), BASH, &long).unwrap_err();
        assert!(matches!(error, CannotPropose::Unspeakable(_)), "{error}");
        let action = call("bash", serde_json::json!({}));
        let gone = exempt(SOURCE.as_bytes(), "spec.tools.zsh.requires_approval_if", &action);
        assert!(matches!(gone, Err(CannotPropose::NoCondition(_))));
        let model = serde_json::json!({"kind": "llm_call", "model": "m", "messages": []});
        let model = serde_json::from_value(model).unwrap();
        assert_eq!(exempt(SOURCE.as_bytes(), BASH, &model), Err(CannotPropose::NotAToolCall));
    }
}
