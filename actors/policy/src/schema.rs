//! The JSON Schema (draft 2020-12) that editors complete and check policies with, printed from the field
//! table that the validator walks.

use serde_json::{Map, Value, json};

use crate::shape::{
    ACTIONS_ON_EXCEED, API_VERSION, CONSEQUENCES, Default, ENVELOPE, FLAT, Field, Form, KIND, Keys,
    ON_STREAM_MATCH, PLAIN_CAPABILITIES, Section, Shape,
};

/// The schema of both document formats. Unknown keys stay valid: they are warnings of the check.
pub fn json_schema() -> Value {
    let envelope_keys = ["apiVersion", "kind", "metadata", "spec"];
    let is_envelope: Vec<Value> =
        envelope_keys.iter().map(|key| json!({ "required": [key] })).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Agent Assembly policy",
        "description": ENVELOPE.doc,
        "type": "object",
        "if": { "anyOf": is_envelope },
        "then": section(&ENVELOPE),
        "else": section(&FLAT),
    })
}

fn section(section: &Section) -> Value {
    let properties: Map<String, Value> =
        section.fields.iter().map(|field| (field.key.to_owned(), property(field))).collect();
    let required: Vec<&str> =
        section.fields.iter().filter(|field| field.required).map(|field| field.key).collect();
    let mut schema = json!({
        "description": section.doc,
        "properties": properties,
    });
    // A section may be written and left empty; one with required fields may not.
    if required.is_empty() {
        schema["type"] = json!(["object", "null"]);
    } else {
        schema["type"] = json!("object");
        schema["required"] = json!(required);
    }
    schema
}

/// A section that says nothing without one of its keys.
fn any_of(inner: &Section) -> Value {
    let mut schema = section(inner);
    schema["type"] = json!("object");
    let keys = inner.fields.iter().map(|field| json!({ "required": [field.key] }));
    schema["anyOf"] = keys.collect();
    schema
}

fn property(field: &Field) -> Value {
    let mut schema = match &field.shape {
        Shape::Section(inner) => section(inner),
        Shape::AnyOf(inner) => any_of(inner),
        Shape::Map(keys, inner) => json!({
            "type": ["object", "null"],
            "propertyNames": match keys {
                Keys::Tools => json!({ "minLength": 1 }),
                Keys::Names => text(Form::Name),
            },
            "additionalProperties": section(inner),
        }),
        Shape::NonEmptyList(form) => {
            json!({ "type": "array", "items": text(*form), "minItems": 1 })
        }
        Shape::List(form) => json!({ "type": ["array", "null"], "items": text(*form) }),
        Shape::Text(form) => text(*form),
        Shape::Boolean => json!({ "type": "boolean" }),
        Shape::Integer { min } => json!({ "type": "integer", "minimum": min }),
        Shape::Amount => json!({ "type": "number", "exclusiveMinimum": 0 }),
    };
    schema["description"] = json!(field.doc);
    if let Some(default) = field.default {
        schema["default"] = match default {
            Default::Text(value) => json!(value),
            Default::Boolean(value) => json!(value),
            Default::Integer(value) => json!(value),
        };
    }
    schema
}

fn text(form: Form) -> Value {
    const CLOCK: &str = "([01][0-9]|2[0-3]):[0-5][0-9]";
    let mut schema = match form {
        Form::Free | Form::Pattern | Form::Timezone => json!({}),
        Form::NonEmpty | Form::Host | Form::Condition => json!({ "pattern": r"\S" }),
        Form::ApiVersion => json!({ "const": API_VERSION }),
        Form::Kind => json!({ "const": KIND }),
        Form::ActionOnExceed => json!({ "enum": ACTIONS_ON_EXCEED }),
        Form::Consequence => json!({ "enum": CONSEQUENCES }),
        Form::OnStreamMatch => json!({ "enum": ON_STREAM_MATCH }),
        Form::Name => json!({ "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$" }),
        Form::Scope => json!({
            "pattern": "^(global|(org|team|tool):.*\\S.*|agent:[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})$",
        }),
        Form::StartTime => json!({ "pattern": format!("^{CLOCK}$") }),
        Form::EndTime => json!({ "pattern": format!("^({CLOCK}|24:00)$") }),
        Form::Capability => json!({
            "anyOf": [
                { "enum": PLAIN_CAPABILITIES },
                { "pattern": "^(mcp_tool|model):.*\\S" },
            ],
        }),
    };
    schema["type"] = json!("string");
    match form {
        Form::Pattern => schema["format"] = json!("regex"),
        Form::Timezone => schema["examples"] = json!(["UTC", "Europe/Berlin", "America/New_York"]),
        Form::Condition => schema["examples"] = json!(["governance_level >= L2"]),
        Form::Host => schema["examples"] = json!(["api.openai.com", "*.slack.com"]),
        _ => {}
    }
    schema
}
