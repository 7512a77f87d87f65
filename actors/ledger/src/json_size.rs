//! How long a JSON value is as compact text, counted without writing it: every decision counts the
//! arguments it was asked about.

use serde_json::{Map, Number, Value};

/// The bytes of the value as `serde_json` writes it without white space.
pub(crate) fn of_value(value: &Value) -> u64 {
    match value {
        Value::Null | Value::Bool(true) => 4,
        Value::Bool(false) => 5,
        Value::Number(number) => of_number(number),
        Value::String(text) => of_text(text),
        Value::Array(items) => framed(items.len(), items.iter().map(of_value)),
        Value::Object(members) => of_object(members),
    }
}

/// The bytes of an object.
pub(crate) fn of_object(members: &Map<String, Value>) -> u64 {
    framed(members.len(), members.iter().map(|(key, value)| of_text(key) + 1 + of_value(value)))
}

/// Two brackets and a comma between each two of the items.
fn framed(count: usize, sizes: impl Iterator<Item = u64>) -> u64 {
    2 + count.saturating_sub(1) as u64 + sizes.sum::<u64>()
}

fn of_text(text: &str) -> u64 {
    // The counts of a loop without branches are made many bytes at a time, and most texts have none to
    // escape.
    let escaped = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
    let escapes = text.bytes().fold(false, |any, byte| any | escaped(byte));
    let added = if escapes { text.bytes().map(added_by_escape).sum() } else { 0 };
    2 + text.len() as u64 + added
}

const fn added_by_escape(byte: u8) -> u64 {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 1,
        0..0x20 => 5,
        _ => 0,
    }
}

fn of_number(number: &Number) -> u64 {
    if let Some(number) = number.as_u64() {
        digits(number)
    } else if let Some(number) = number.as_i64() {
        1 + digits(number.unsigned_abs())
    } else {
        // How many digits tell a float from its neighbours, only its writer knows.
        number.to_string().len() as u64
    }
}

fn digits(number: u64) -> u64 {
    number.checked_ilog10().map_or(1, |log| u64::from(log) + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_json() -> impl Strategy<Value = Value> {
        let text = || "[ -~\u{0}-\u{20}é✓]{0,24}";
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (0_u32..20).prop_map(|power| Value::from(10_u64.saturating_pow(power) - 1)),
            any::<f64>().prop_map(Value::from),
            text().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(text(), inner, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_size_is_that_of_the_text(value in any_json()) {
            prop_assert_eq!(of_value(&value), value.to_string().len() as u64);
        }
    }
}
