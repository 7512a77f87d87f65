//! What a node of a later version would write: the same with more fields.

use bytes::Bytes;
use rmpv::Value;

/// The name of the field that is added.
const ADDED: &str = "of_a_later_version";

/// The same body with a field more in every struct of two or more fields, as far as structs can be told from enums and
/// maps by their look: those have one entry or none where this is used.
pub(super) fn with_more_fields(body: &Bytes) -> Bytes {
    let mut written = Vec::with_capacity(body.len() + 64);
    let read = rmpv::decode::read_value(&mut &body[..]);
    let again = read.map(|value| rmpv::encode::write_value(&mut written, &added(value)));
    if matches!(again, Ok(Ok(()))) { written.into() } else { body.clone() }
}

fn added(value: Value) -> Value {
    match value {
        Value::Array(values) => Value::Array(values.into_iter().map(added).collect()),
        Value::Map(entries) => {
            let is_struct = entries.len() > 1 && entries.iter().all(|(key, _)| key.is_str());
            let entries = entries.into_iter().map(|(key, value)| (key, added(value)));
            let more = (Value::from(ADDED), Value::Array(vec![Value::from(1), Value::Nil]));
            // In front: a reader has to pass it over before it knows anything else.
            let more = is_struct.then_some(more);
            Value::Map(more.into_iter().chain(entries).collect())
        }
        value => value,
    }
}
