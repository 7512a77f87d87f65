//! OpenAI's APIs, and those who speak like them.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod media;
pub(crate) mod responses;

use serde_json::Value;

use crate::request::{Body, Unreadable};

/// Refuses token ids: they are text that no pattern can find.
fn refuse_tokens(body: &Body, name: &str) -> Result<(), Unreadable> {
    fn holds_number(value: &Value) -> bool {
        match value {
            Value::Number(_) => true,
            Value::Array(items) => items.iter().any(holds_number),
            _ => false,
        }
    }
    if body.get(name).is_some_and(holds_number) {
        return Err(Unreadable {
            next: "send text instead",
            ..body.refuse(name, "token ids, which cannot be checked")
        });
    }
    Ok(())
}
