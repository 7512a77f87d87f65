//! JSON from outside, read strictly: no duplicate keys, bounded depth.
//!
//! A duplicate key lets two readers see two different documents: the scanner the last value, the tool
//! perhaps the first. So one is refused here instead of being resolved.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The deepest nesting of arrays and objects that is read.
pub const MAX_DEPTH: usize = 64;

/// Why a text was not read as JSON. It never quotes the text, which may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at line {line}, column {column}")]
pub struct JsonError {
    /// What is wrong.
    pub problem: String,
    /// 1-based line.
    pub line: usize,
    /// 1-based column, in bytes.
    pub column: usize,
}

struct Strict {
    depth: usize,
}

/// Reads one JSON value that fills `text`.
///
/// # Errors
/// A syntax error, a duplicate object key, nesting deeper than [`MAX_DEPTH`], or text after the value.
pub fn parse_json(text: &str) -> Result<Value, JsonError> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Strict { depth: 0 }.deserialize(&mut reader).and_then(|value| {
        reader.end()?;
        Ok(value)
    });
    value.map_err(|error| JsonError::from_serde(&error))
}

// === impl JsonError ===

impl JsonError {
    /// Restates a serde error without its own position suffix.
    pub fn from_serde(error: &serde_json::Error) -> Self {
        let text = error.to_string();
        let problem = text.rsplit_once(" at line ").map_or(text.as_str(), |(problem, _)| problem);
        Self { problem: problem.to_owned(), line: error.line(), column: error.column() }
    }
}

// === impl Strict ===

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.depth > MAX_DEPTH {
            return Err(D::Error::custom(format_args!("nested deeper than {MAX_DEPTH} levels")));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(Self { depth: self.depth + 1 })? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            let value = members.next_value_seed(Self { depth: self.depth + 1 })?;
            if object.insert(key, value).is_some() {
                return Err(A::Error::custom("duplicate object key"));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duplicate_key_is_refused_without_being_quoted() {
        let error = parse_json(r#"{"sk-secret": 1, "sk-secret": 2}"#).unwrap_err();
        assert_eq!(error.problem, "duplicate object key");
        assert!(!error.to_string().contains("sk-secret"));
    }

    #[test]
    fn nesting_past_the_bound_is_refused() {
        assert!(parse_json(&format!("{}{}", "[".repeat(64), "]".repeat(64))).is_ok());
        assert!(parse_json(&format!("{}{}", "[".repeat(70), "]".repeat(70))).is_err());
        assert!(parse_json(&"[".repeat(1_000_000)).is_err());
    }

    #[test]
    fn text_after_the_value_is_refused() {
        assert!(parse_json("{} {}").is_err());
        assert_eq!(parse_json(" [1, \"a\"] ").unwrap(), serde_json::json!([1, "a"]));
    }
}
