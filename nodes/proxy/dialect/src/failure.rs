//! What kind of error a provider tells of: its word for it, never its message, which may quote the prompt.

use crate::json::tree::Node;

/// The kind of an error answer in any provider's shape.
pub(crate) fn kind<'n>(document: &'n Node<'_>) -> Option<&'n str> {
    let document = document.items().first().unwrap_or(document);
    let error = document.get("error").unwrap_or(document);
    if let Some(text) = error.str() {
        // `{"error": "not_found"}`: a word, or a sentence.
        return Some(if text.contains(' ') { "error" } else { text });
    }
    let words = ["code", "type", "status", "__type", "reason", "id"];
    let mut found = words.iter().filter_map(|name| match error.get(name)? {
        Node::Number(number) => Some(*number),
        other => other.str(),
    });
    // Google's `code` is the HTTP status, beside a `status` that says more.
    let first = found.next()?;
    if first.bytes().all(|byte| byte.is_ascii_digit()) {
        return found.next().or(Some(first));
    }
    Some(first)
}

/// Whether an event is an error: it has an `error` that says something.
pub(crate) fn of_event<'n>(event: &'n Node<'_>) -> Option<Option<&'n str>> {
    match event.get("error") {
        None | Some(Node::Null) => None,
        Some(_) => Some(kind(event)),
    }
}
