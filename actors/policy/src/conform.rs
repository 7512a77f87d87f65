//! Walks a document along the field table: types, required and unknown keys, bounds.

use crate::{
    diagnostic::{Diagnostic, DiagnosticCode, Place, Report, nearest, quoted},
    shape::{
        ACTIONS_ON_EXCEED, API_VERSION, CONSEQUENCES, Field, Form, KIND, Keys, ON_STREAM_MATCH,
        Section, Shape,
    },
    tree::{Member, Node, Value, item_path, member_path},
};

/// The longest text any field takes, in bytes.
const MAX_TEXT: usize = 8 * 1024;
/// The longest name of a policy, tool, scope or role, in characters.
pub(crate) const MAX_NAME: usize = 128;
/// The most entries a list or map takes.
const MAX_ENTRIES: usize = 10_000;

/// Checks `node`, which stands at `path`, against a section. `place` is where the section is named.
pub(crate) fn conform(
    node: &Node,
    section: &'static Section,
    path: &str,
    place: Place,
    report: &mut Report,
) {
    let members = match &node.value {
        Value::Map(members) => members.as_slice(),
        Value::Null => {
            report.warning(Diagnostic::new(
                DiagnosticCode::EmptySection,
                path,
                place,
                "this section is written but empty",
            ));
            &[]
        }
        _ => return wrong_type(node, "an object", None, path, report),
    };
    for member in members {
        let path = member_path(path, &member.key);
        match section.fields.iter().find(|field| field.key == member.key) {
            Some(field) => conform_field(member, field, &path, report),
            None => unknown_key(member, section, &path, report),
        }
    }
    for field in section.fields.iter().filter(|field| field.required) {
        if !members.iter().any(|member| member.key == field.key) {
            let message = format!("the required field `{}` is missing", field.key);
            let path = member_path(path, field.key);
            report.error(
                Diagnostic::new(DiagnosticCode::MissingField, path, place, message)
                    .with_help(format!("add `{}`: {}", field.key, field.doc)),
            );
        }
    }
}

fn conform_field(member: &Member, field: &'static Field, path: &str, report: &mut Report) {
    let node = &member.node;
    match &field.shape {
        Shape::Section(section) => conform(node, section, path, member.place, report),
        Shape::AnyOf(section) => conform_any_of(member, section, path, report),
        Shape::Map(keys, section) => conform_map(member, *keys, section, path, report),
        Shape::List(form) => conform_list(member, *form, path, report),
        Shape::NonEmptyList(form) => conform_non_empty_list(member, *form, path, report),
        Shape::Text(form) => conform_text(node, *form, path, report),
        Shape::Boolean => conform_boolean(node, path, report),
        Shape::Integer { min } => conform_integer(node, *min, path, report),
        Shape::Amount => conform_amount(node, path, report),
    }
}

fn conform_any_of(member: &Member, section: &'static Section, path: &str, report: &mut Report) {
    conform(&member.node, section, path, member.place, report);
    let is_object = matches!(member.node.value, Value::Map(_) | Value::Null);
    let is_known = |key: &str| section.fields.iter().any(|field| field.key == key);
    if is_object && !member.node.members().iter().any(|member| is_known(&member.key)) {
        let keys: Vec<_> = section.fields.iter().map(|field| format!("`{}`", field.key)).collect();
        let keys = keys.join(" or ");
        let message = format!("at least one of {keys} is required here");
        report.error(
            Diagnostic::new(DiagnosticCode::MissingField, path, member.place, message)
                .with_help(format!("add {keys}")),
        );
    }
}

fn conform_map(
    member: &Member,
    keys: Keys,
    section: &'static Section,
    path: &str,
    report: &mut Report,
) {
    let members = match &member.node.value {
        Value::Map(members) => members,
        Value::Null => return,
        _ => return wrong_type(&member.node, "an object", None, path, report),
    };
    too_many(members.len(), member.place, path, report);
    for entry in members {
        let path = member_path(path, &entry.key);
        match keys.problem(&entry.key) {
            Some((code, message)) => {
                report.error(Diagnostic::new(code, path, entry.place, message));
            }
            None => conform(&entry.node, section, &path, entry.place, report),
        }
    }
}

fn conform_non_empty_list(member: &Member, form: Form, path: &str, report: &mut Report) {
    let is_empty = matches!(member.node.value, Value::Null) || {
        matches!(member.node.value, Value::List(_)) && member.node.items().is_empty()
    };
    if is_empty {
        let message = "the list must not be empty";
        return report.error(
            Diagnostic::new(DiagnosticCode::EmptyValue, path, member.place, message)
                .with_help("name at least one"),
        );
    }
    conform_list(member, form, path, report);
}

fn conform_list(member: &Member, form: Form, path: &str, report: &mut Report) {
    match &member.node.value {
        Value::List(items) => {
            too_many(items.len(), member.place, path, report);
            for (index, item) in items.iter().enumerate() {
                conform_text(item, form, &item_path(path, index), report);
            }
        }
        Value::Null => report.warning(Diagnostic::new(
            DiagnosticCode::EmptySection,
            path,
            member.place,
            "this list is written but empty",
        )),
        Value::Text(text) => {
            let help = format!("write it as a list: [{text:?}]");
            wrong_type(&member.node, "a list of strings", Some(help), path, report);
        }
        _ => wrong_type(&member.node, "a list of strings", None, path, report),
    }
}

fn conform_text(node: &Node, form: Form, path: &str, report: &mut Report) {
    let Some(text) = node.text() else {
        let help = match &node.value {
            Value::Boolean(_) | Value::Integer(_) | Value::Float(_) => Some("put it in quotes"),
            Value::Null => Some("write a value, or remove the key"),
            _ => None,
        };
        return wrong_type(node, "a string", help.map(str::to_owned), path, report);
    };
    if text.len() > MAX_TEXT {
        let message = format!("{} bytes of text; a field takes at most {MAX_TEXT}", text.len());
        return report.error(Diagnostic::new(DiagnosticCode::TooLong, path, node.place, message));
    }
    let problem = match form {
        Form::Free | Form::Scope | Form::StartTime | Form::EndTime | Form::Timezone => None,
        Form::Pattern | Form::Capability => None,
        Form::NonEmpty | Form::Host | Form::Condition if text.trim().is_empty() => {
            Some((DiagnosticCode::EmptyValue, "must not be empty".to_owned(), None))
        }
        Form::NonEmpty | Form::Host | Form::Condition => None,
        Form::Name => name_problem(text).map(|why| (DiagnosticCode::InvalidName, why, None)),
        Form::ApiVersion => (text != API_VERSION).then(|| {
            let message = format!("the version {} is not known", quoted(text));
            (DiagnosticCode::UnknownApiVersion, message, Some(API_VERSION))
        }),
        Form::Kind => (text != KIND).then(|| {
            let message = format!("the kind {} is not known", quoted(text));
            (DiagnosticCode::UnknownKind, message, Some(KIND))
        }),
        Form::ActionOnExceed => (!ACTIONS_ON_EXCEED.contains(&text)).then(|| {
            let message = format!("{} is neither `deny` nor `suspend`", quoted(text));
            (DiagnosticCode::UnknownChoice, message, nearest(text, ACTIONS_ON_EXCEED))
        }),
        Form::Consequence => (!CONSEQUENCES.contains(&text)).then(|| {
            let message = format!("{} is neither `deny` nor `require_approval`", quoted(text));
            (DiagnosticCode::UnknownChoice, message, nearest(text, CONSEQUENCES))
        }),
        Form::OnStreamMatch => (!ON_STREAM_MATCH.contains(&text)).then(|| {
            let message = format!("{} is none of `cut`, `redact` and `flag`", quoted(text));
            (DiagnosticCode::UnknownChoice, message, nearest(text, ON_STREAM_MATCH))
        }),
    };
    if let Some((code, message, meant)) = problem {
        let mut diagnostic = Diagnostic::new(code, path, node.place, message);
        diagnostic.help = meant.map(|meant| format!("write `{meant}`"));
        report.error(diagnostic);
    }
}

// === impl Keys ===

impl Keys {
    fn problem(self, key: &str) -> Option<(DiagnosticCode, String)> {
        match self {
            Self::Names => name_problem(key).map(|why| (DiagnosticCode::InvalidName, why)),
            Self::Tools if key.trim().is_empty() => {
                Some((DiagnosticCode::EmptyValue, "a tool needs a name".to_owned()))
            }
            Self::Tools if key.chars().count() > MAX_NAME => {
                let message = format!("a tool's name has at most {MAX_NAME} characters");
                Some((DiagnosticCode::TooLong, message))
            }
            Self::Tools => None,
        }
    }
}

fn name_problem(name: &str) -> Option<String> {
    let length = name.chars().count();
    if length == 0 {
        return Some("a name must not be empty".to_owned());
    }
    if length > MAX_NAME {
        return Some(format!("a name has at most {MAX_NAME} characters, this one {length}"));
    }
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !starts_well || !name.chars().all(is_name_character) {
        return Some(format!(
            "{} is not a name: letters, digits, `.`, `_` and `-`, starting with a letter or digit",
            quoted(name)
        ));
    }
    None
}

/// The characters of policy names.
pub(crate) fn is_name_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-')
}

fn conform_boolean(node: &Node, path: &str, report: &mut Report) {
    if matches!(node.value, Value::Boolean(_)) {
        return;
    }
    let help = node.text().map(|text| match text.to_ascii_lowercase().as_str() {
        "yes" | "on" | "y" | "true" => "write `true`".to_owned(),
        "no" | "off" | "n" | "false" => "write `false`".to_owned(),
        _ => "write `true` or `false`".to_owned(),
    });
    wrong_type(node, "a boolean", help, path, report);
}

fn conform_integer(node: &Node, min: i64, path: &str, report: &mut Report) {
    let Value::Integer(value) = node.value else {
        return wrong_type(node, "an integer", None, path, report);
    };
    let problem = if value < i128::from(min) {
        format!("must be at least {min}, found {value}")
    } else if value > i128::from(i64::MAX) {
        format!("must be at most {}, found {value}", i64::MAX)
    } else {
        return;
    };
    report.error(Diagnostic::new(DiagnosticCode::OutOfRange, path, node.place, problem));
}

fn conform_amount(node: &Node, path: &str, report: &mut Report) {
    let value = match node.value {
        Value::Integer(value) => value as f64,
        Value::Float(value) => value,
        _ => return wrong_type(node, "a number", None, path, report),
    };
    let nanos = aa_protocol::NanoUsd::from_usd(value);
    let problem = if !value.is_finite() {
        "must be a finite number".to_owned()
    } else if value <= 0.0 {
        format!("must be greater than 0, found {value}")
    } else {
        match nanos {
            None => format!("must be below 9.2 billion US dollars, found {value}"),
            Some(nanos) if nanos.0 == 0 => {
                format!("must be at least a nano-dollar (1e-9), found {value}")
            }
            Some(_) => return,
        }
    };
    report.error(Diagnostic::new(DiagnosticCode::OutOfRange, path, node.place, problem));
}

fn unknown_key(member: &Member, section: &'static Section, path: &str, report: &mut Report) {
    if report.warnings_are_full() {
        return;
    }
    let known = section.fields.iter().map(|field| field.key);
    let message = format!("the key {} is not known here and is ignored", quoted(&member.key));
    let mut warning = Diagnostic::new(DiagnosticCode::UnknownKey, path, member.place, message);
    warning.help = nearest(&member.key, known).map(|key| format!("did you mean `{key}`?"));
    report.warning(warning);
}

fn wrong_type(node: &Node, expected: &str, help: Option<String>, path: &str, report: &mut Report) {
    let message = format!("expected {expected}, found {}", node.description());
    let mut error = Diagnostic::new(DiagnosticCode::WrongType, path, node.place, message);
    error.help = help;
    report.error(error);
}

fn too_many(count: usize, place: Place, path: &str, report: &mut Report) {
    if count > MAX_ENTRIES {
        let message = format!("{count} entries; at most {MAX_ENTRIES} are taken");
        report.error(Diagnostic::new(DiagnosticCode::TooLong, path, place, message));
    }
}
