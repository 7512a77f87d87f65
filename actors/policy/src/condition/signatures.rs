//! Types of values in a condition, and what operators and functions make of them.

use cel::common::ast::operators;

/// What is known of a value before evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// Anything: the call's arguments decide.
    Dyn,
    /// Of an empty list: compatible with all.
    Nothing,
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    Null,
    Timestamp,
    Duration,
    /// A governance level: ordered, and comparable with levels only.
    Level,
    List(Box<Type>),
    Map(Box<Type>),
}

/// Whether a level would hide behind `dyn` and then compare as the integer it is compiled to.
pub(super) fn loses_level(left: &Type, right: &Type, joined: &Type) -> bool {
    (left.holds_level() || right.holds_level()) && !joined.holds_level()
}

/// The result of an operator, or `None` when it does not take these operands.
pub(super) fn operator(name: &str, arguments: &[Type]) -> Option<Type> {
    use Type::{Bool, Double, Duration, Dyn, Int, List, Map, Text, Timestamp, Uint};
    let numeric = |t: &Type| matches!(t, Int | Uint | Double | Dyn);
    Some(match (name, arguments) {
        (operators::LOGICAL_AND | operators::LOGICAL_OR, [a, b]) if a.is(&Bool) && b.is(&Bool) => {
            Bool
        }
        (operators::LOGICAL_NOT | operators::NOT_STRICTLY_FALSE, [a]) if a.is(&Bool) => Bool,
        (operators::CONDITIONAL, [condition, a, b]) if condition.is(&Bool) => {
            let joined = a.clone().joined(b.clone());
            if loses_level(a, b, &joined) {
                return None;
            }
            joined
        }
        (operators::NEGATE, [a @ (Int | Double | Dyn)]) => a.clone(),
        (operators::ADD, [List(a), List(b)]) => {
            let joined = a.clone().joined((**b).clone());
            if loses_level(a, b, &joined) {
                return None;
            }
            List(Box::new(joined))
        }
        (operators::ADD, [Timestamp, Duration] | [Duration, Timestamp]) => Timestamp,
        (operators::SUBSTRACT, [Timestamp, Timestamp]) => Duration,
        (operators::SUBSTRACT, [Timestamp, Duration]) => Timestamp,
        (operators::ADD | operators::SUBSTRACT, [Duration, Duration]) => Duration,
        (operators::ADD, [a, b]) if a.is(&Text) && b.is(&Text) && (*a == Text || *b == Text) => {
            Text
        }
        (operators::ADD | operators::SUBSTRACT, [Dyn, b]) if !b.holds_level() => Dyn,
        (operators::ADD | operators::SUBSTRACT, [a, Dyn]) if !a.holds_level() => Dyn,
        (
            operators::ADD
            | operators::SUBSTRACT
            | operators::MULTIPLY
            | operators::DIVIDE
            | operators::MODULO,
            [a, b],
        ) if numeric(a) && numeric(b) && a.is(b) => {
            if *a == Dyn {
                b.clone()
            } else {
                a.clone()
            }
        }
        (operators::INDEX, [List(item), Int | Uint | Dyn]) => (**item).clone(),
        (operators::INDEX, [Map(value), key]) if !key.holds_level() => (**value).clone(),
        (operators::INDEX, [Dyn, key]) if !key.holds_level() => Dyn,
        _ => return None,
    })
}

/// The result of a function, or `None` when it is unknown or does not take these arguments. The receiver
/// of a member call is the first argument.
pub(super) fn function(name: &str, is_member: bool, arguments: &[Type]) -> Option<Type> {
    use Type::{Bool, Bytes, Double, Duration, Dyn, Int, List, Map, Text, Timestamp, Uint};
    if arguments.iter().any(Type::holds_level) && name != "size" {
        return None;
    }
    Some(match (name, is_member, arguments) {
        ("size", _, [Text | Bytes | List(_) | Map(_) | Dyn]) => Int,
        ("contains" | "startsWith" | "endsWith", true, [a, b]) if a.is(&Text) && b.is(&Text) => {
            Bool
        }
        ("int", false, [Int | Uint | Double | Text | Timestamp | Dyn]) => Int,
        ("uint", false, [Int | Uint | Double | Text | Dyn]) => Uint,
        ("double", false, [Int | Uint | Double | Text | Dyn]) => Double,
        ("bool", false, [Bool | Text | Dyn]) => Bool,
        ("bytes", false, [Text | Bytes | Dyn]) => Bytes,
        (
            "string",
            false,
            [Bool | Int | Uint | Double | Text | Bytes | Timestamp | Duration | Dyn],
        ) => Text,
        ("timestamp", false, [Text | Int | Timestamp | Dyn]) => Timestamp,
        ("duration", false, [Text | Duration | Dyn]) => Duration,
        ("dyn", false, [_]) => Dyn,
        ("getHours" | "getMinutes" | "getSeconds" | "getMilliseconds", true, [Duration]) => Int,
        (
            "getFullYear" | "getMonth" | "getDayOfYear" | "getDayOfMonth" | "getDate"
            | "getDayOfWeek" | "getHours" | "getMinutes" | "getSeconds" | "getMilliseconds",
            true,
            [Timestamp | Dyn] | [Timestamp | Dyn, Text],
        ) => Int,
        _ => return None,
    })
}

// === impl Type ===

impl Type {
    /// Whether a value of this type may be one of `other`.
    pub(super) fn is(&self, other: &Self) -> bool {
        self == other
            || matches!((self, other), (Self::Dyn, right) if !right.holds_level())
            || matches!((self, other), (left, Self::Dyn) if !left.holds_level())
    }

    pub(super) fn holds_level(&self) -> bool {
        match self {
            Self::Level => true,
            Self::List(inner) | Self::Map(inner) => inner.holds_level(),
            _ => false,
        }
    }

    fn is_number(&self) -> bool {
        matches!(self, Self::Int | Self::Uint | Self::Double)
    }

    pub(super) fn is_ordered(&self) -> bool {
        !matches!(self, Self::List(_) | Self::Map(_) | Self::Null | Self::Nothing)
    }

    pub(super) fn compares_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Nothing, _) | (_, Self::Nothing) => true,
            (Self::List(a), Self::List(b)) | (Self::Map(a), Self::Map(b)) => a.compares_with(b),
            (Self::Null, other) | (other, Self::Null) => !other.holds_level(),
            (a, b) => a.is(b) || (a.is_number() && b.is_number()),
        }
    }

    pub(super) fn joined(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, other) | (other, Self::Nothing) => other,
            (Self::List(a), Self::List(b)) => Self::List(Box::new(a.joined(*b))),
            (Self::Map(a), Self::Map(b)) => Self::Map(Box::new(a.joined(*b))),
            (a, b) if a == b => a,
            _ => Self::Dyn,
        }
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Dyn => "a value".into(),
            Self::Nothing => "nothing".into(),
            Self::Bool => "a boolean".into(),
            Self::Int => "an integer".into(),
            Self::Uint => "an unsigned integer".into(),
            Self::Double => "a decimal number".into(),
            Self::Text => "a string".into(),
            Self::Bytes => "bytes".into(),
            Self::Null => "null".into(),
            Self::Timestamp => "a timestamp".into(),
            Self::Duration => "a duration".into(),
            Self::Level => "a governance level".into(),
            Self::List(_) => "a list".into(),
            Self::Map(_) => "a map".into(),
        }
    }
}
