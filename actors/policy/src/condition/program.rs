//! Conditions of the common kind, evaluated without an allocation.
//!
//! The evaluator of the `cel` crate defines what a condition means. Most conditions compare an argument or a
//! label with a constant, and most of their evaluation there is copying. Such a condition is compiled to a
//! tree of its own as well. The tree answers only where the answer is plain; for every other case, errors
//! among them, it has no answer and the evaluator is asked.

use std::cmp::Ordering;

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators};
use serde_json::Value as Json;

use super::{Pattern, Subject};

/// A compiled condition.
#[derive(Debug)]
pub(super) struct Program(Node);

#[derive(Debug)]
enum Node {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(Box<str>),
    Level,
    Tool,
    Agent(AgentField),
    Labels,
    Args,
    Member(Box<Node>, Box<str>),
    Has(Box<Node>, Box<str>),
    List(Box<[Node]>),
    Not(Box<Node>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    If(Box<[Node; 3]>),
    Compare(Comparison, Box<[Node; 2]>),
    In(Box<[Node; 2]>),
    Search(Search, Box<[Node; 2]>),
    Matches(Box<Node>, usize),
    Size(Box<Node>),
}

#[derive(Clone, Copy, Debug)]
enum AgentField {
    Name,
    Team,
    Org,
}

#[derive(Clone, Copy, Debug)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug)]
enum Search {
    Contains,
    StartsWith,
    EndsWith,
}

/// A value, borrowed from the program or the subject.
#[derive(Clone, Copy, Debug)]
enum Operand<'v> {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(&'v str),
    Items(&'v [Json]),
    Members(&'v serde_json::Map<String, Json>),
    Labels,
    Constants(&'v [Node]),
}

/// Integers up to here are exact as floats.
const MAX_EXACT: i64 = 1 << 53;

// === impl Program ===

impl Program {
    /// Compiles a checked condition; `None` when it has anything but the common parts.
    pub(super) fn compile(expression: &IdedExpr) -> Option<Self> {
        Node::compile(expression).map(Self)
    }

    /// The value, where it is plain.
    pub(super) fn holds(&self, subject: &Subject<'_>, patterns: &[Pattern]) -> Option<bool> {
        self.0.boolean(subject, patterns)
    }
}

// === impl Node ===

impl Node {
    fn compile(expression: &IdedExpr) -> Option<Self> {
        Some(match &expression.expr {
            Expr::Literal(literal) => Self::literal(literal)?,
            Expr::Ident(name) => match name.as_str() {
                "governance_level" => Self::Level,
                "tool" => Self::Tool,
                "args" => Self::Args,
                _ => return None,
            },
            Expr::Select(select) => Self::select(select)?,
            Expr::List(list) if list.optional_indices.is_empty() => {
                let constants = list.elements.iter().map(|element| match &element.expr {
                    Expr::Literal(literal) => Self::literal(literal),
                    _ => None,
                });
                Self::List(constants.collect::<Option<_>>()?)
            }
            Expr::Call(call) => Self::call(call)?,
            _ => return None,
        })
    }

    fn literal(literal: &LiteralValue) -> Option<Self> {
        Some(match literal {
            LiteralValue::Null => Self::Null,
            LiteralValue::Boolean(value) => Self::Bool(*value.inner()),
            LiteralValue::Int(value) => Self::Int(*value.inner()),
            LiteralValue::Double(value) => Self::Double(*value.inner()),
            LiteralValue::String(value) => Self::Text(value.inner().into()),
            LiteralValue::Bytes(_) | LiteralValue::UInt(_) => return None,
        })
    }

    fn select(select: &SelectExpr) -> Option<Self> {
        let field = select.field.as_str();
        if matches!(&select.operand.expr, Expr::Ident(name) if name == "agent") {
            return match field {
                _ if select.test => None,
                "name" => Some(Self::Agent(AgentField::Name)),
                "team" => Some(Self::Agent(AgentField::Team)),
                "org" => Some(Self::Agent(AgentField::Org)),
                "labels" => Some(Self::Labels),
                _ => None,
            };
        }
        let operand = Box::new(Self::compile(&select.operand)?);
        Some(match select.test {
            true => Self::Has(operand, field.into()),
            false => Self::Member(operand, field.into()),
        })
    }

    fn call(call: &CallExpr) -> Option<Self> {
        let target = call.target.as_deref();
        let arguments: Vec<&IdedExpr> = target.into_iter().chain(&call.args).collect();
        let is_member = target.is_some();
        let pair = |a, b| Some(Box::new([Self::compile(a)?, Self::compile(b)?]));
        let comparison = match call.func_name.as_str() {
            operators::EQUALS => Some(Comparison::Equal),
            operators::NOT_EQUALS => Some(Comparison::NotEqual),
            operators::LESS => Some(Comparison::Less),
            operators::LESS_EQUALS => Some(Comparison::LessOrEqual),
            operators::GREATER => Some(Comparison::Greater),
            operators::GREATER_EQUALS => Some(Comparison::GreaterOrEqual),
            _ => None,
        };
        if let (Some(comparison), [a, b]) = (comparison, arguments.as_slice()) {
            return Some(Self::Compare(comparison, pair(a, b)?));
        }
        Some(match (call.func_name.as_str(), arguments.as_slice()) {
            (operators::LOGICAL_AND, [a, b]) => Self::And(pair(a, b)?),
            (operators::LOGICAL_OR, [a, b]) => Self::Or(pair(a, b)?),
            (operators::LOGICAL_NOT, [a]) => Self::Not(Box::new(Self::compile(a)?)),
            (operators::CONDITIONAL, [condition, a, b]) => {
                let [condition, a, b] = [condition, a, b].map(|part| Self::compile(part));
                Self::If(Box::new([condition?, a?, b?]))
            }
            (operators::IN, [a, b]) => Self::In(pair(a, b)?),
            (operators::INDEX, [a, b]) => match &b.expr {
                Expr::Literal(LiteralValue::String(key)) => {
                    Self::Member(Box::new(Self::compile(a)?), key.inner().into())
                }
                _ => return None,
            },
            ("contains", [a, b]) if is_member => Self::Search(Search::Contains, pair(a, b)?),
            ("startsWith", [a, b]) if is_member => Self::Search(Search::StartsWith, pair(a, b)?),
            ("endsWith", [a, b]) if is_member => Self::Search(Search::EndsWith, pair(a, b)?),
            ("size", [a]) => Self::Size(Box::new(Self::compile(a)?)),
            ("@matches", [text, pattern]) => match &pattern.expr {
                Expr::Ident(name) => {
                    let index = name.strip_prefix("@pattern")?.parse().ok()?;
                    Self::Matches(Box::new(Self::compile(text)?), index)
                }
                _ => return None,
            },
            _ => return None,
        })
    }

    fn constant(&self) -> Option<Operand<'_>> {
        Some(match self {
            Self::Null => Operand::Null,
            Self::Bool(value) => Operand::Bool(*value),
            Self::Int(value) => Operand::Int(*value),
            Self::Double(value) => Operand::Double(*value),
            Self::Text(value) => Operand::Text(value),
            _ => return None,
        })
    }

    fn boolean(&self, subject: &Subject<'_>, patterns: &[Pattern]) -> Option<bool> {
        match self.value(subject, patterns)? {
            Operand::Bool(value) => Some(value),
            _ => None,
        }
    }

    fn text<'v>(&'v self, subject: &'v Subject<'_>, patterns: &[Pattern]) -> Option<&'v str> {
        match self.value(subject, patterns)? {
            Operand::Text(text) => Some(text),
            _ => None,
        }
    }

    fn value<'v>(&'v self, subject: &'v Subject<'_>, patterns: &[Pattern]) -> Option<Operand<'v>> {
        let value = |node: &'v Self| node.value(subject, patterns);
        let boolean = |node: &'v Self| node.boolean(subject, patterns);
        let text = |node: &'v Self| node.text(subject, patterns);
        Some(match self {
            Self::Null | Self::Bool(_) | Self::Int(_) | Self::Double(_) | Self::Text(_) => {
                self.constant()?
            }
            Self::Level => Operand::Int(subject.governance_level() as i64),
            Self::Tool => Operand::Text(subject.tool()),
            Self::Agent(field) => {
                let agent = subject.agent_facts();
                Operand::Text(match field {
                    AgentField::Name => &agent.name,
                    AgentField::Team => agent.team.as_deref().unwrap_or_default(),
                    AgentField::Org => agent.org.as_deref().unwrap_or_default(),
                })
            }
            Self::Labels => Operand::Labels,
            Self::Args => Operand::Members(subject.call_args()),
            Self::List(nodes) => Operand::Constants(nodes),
            Self::Member(of, key) => match value(of)? {
                Operand::Members(members) => Operand::of(members.get(&**key)?)?,
                Operand::Labels => Operand::Text(subject.agent_facts().labels.get(&**key)?),
                _ => return None,
            },
            Self::Has(of, key) => Operand::Bool(value(of)?.has(key, subject)?),
            Self::Not(of) => Operand::Bool(!boolean(of)?),
            Self::And(pair) => Operand::Bool(boolean(&pair[0])? && boolean(&pair[1])?),
            Self::Or(pair) => Operand::Bool(boolean(&pair[0])? || boolean(&pair[1])?),
            Self::If(parts) => value(&parts[if boolean(&parts[0])? { 1 } else { 2 }])?,
            Self::Compare(comparison, pair) => {
                let (left, right) = (value(&pair[0])?, value(&pair[1])?);
                Operand::Bool(comparison.holds(left, right)?)
            }
            Self::In(pair) => {
                let item = value(&pair[0])?;
                Operand::Bool(value(&pair[1])?.contains(item, subject)?)
            }
            Self::Search(search, pair) => {
                let (whole, part) = (text(&pair[0])?, text(&pair[1])?);
                Operand::Bool(match search {
                    Search::Contains => whole.contains(part),
                    Search::StartsWith => whole.starts_with(part),
                    Search::EndsWith => whole.ends_with(part),
                })
            }
            Self::Matches(of, index) => {
                let Pattern(regex) = patterns.get(*index)?;
                Operand::Bool(regex.is_match(text(of)?))
            }
            Self::Size(of) => {
                let size = match value(of)? {
                    Operand::Text(text) => text.chars().count(),
                    Operand::Items(items) => items.len(),
                    Operand::Members(members) => members.len(),
                    _ => return None,
                };
                Operand::Int(i64::try_from(size).ok()?)
            }
        })
    }
}

// === impl Operand ===

impl<'v> Operand<'v> {
    fn of(json: &'v Json) -> Option<Self> {
        Some(match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match (number.as_i64(), number.is_u64()) {
                (Some(value), _) => Self::Int(value),
                (None, true) => return None,
                (None, false) => Self::Double(number.as_f64()?),
            },
            Json::String(text) => Self::Text(text),
            Json::Array(items) => Self::Items(items),
            Json::Object(members) => Self::Members(members),
        })
    }

    fn has(self, key: &str, subject: &Subject<'_>) -> Option<bool> {
        match self {
            Self::Members(members) => Some(members.contains_key(key)),
            Self::Labels => Some(subject.agent_facts().labels.contains_key(key)),
            _ => None,
        }
    }

    fn contains(self, item: Operand<'_>, subject: &Subject<'_>) -> Option<bool> {
        match (self, item) {
            (Self::Members(_) | Self::Labels, Operand::Text(key)) => self.has(key, subject),
            (Self::Items(items), item) => items
                .iter()
                .try_fold(false, |any, other| Some(any | item.equals(Operand::of(other)?)?)),
            (Self::Constants(nodes), item) => {
                nodes.iter().try_fold(false, |any, node| Some(any | item.equals(node.constant()?)?))
            }
            _ => None,
        }
    }

    /// Whether two values of one kind are equal.
    fn equals(self, other: Operand<'_>) -> Option<bool> {
        Some(match (self, other) {
            (Self::Null, Operand::Null) => true,
            (Self::Bool(a), Operand::Bool(b)) => a == b,
            (a, b) => a.order(b)? == Ordering::Equal,
        })
    }

    fn order(self, other: Operand<'_>) -> Option<Ordering> {
        let exact = |int: i64| (-MAX_EXACT..=MAX_EXACT).contains(&int).then_some(int as f64);
        match (self, other) {
            (Self::Text(a), Operand::Text(b)) => Some(a.cmp(b)),
            (Self::Int(a), Operand::Int(b)) => Some(a.cmp(&b)),
            (Self::Double(a), Operand::Double(b)) => a.partial_cmp(&b),
            (Self::Int(a), Operand::Double(b)) => exact(a)?.partial_cmp(&b),
            (Self::Double(a), Operand::Int(b)) => a.partial_cmp(&exact(b)?),
            _ => None,
        }
    }
}

// === impl Comparison ===

impl Comparison {
    fn holds(self, left: Operand<'_>, right: Operand<'_>) -> Option<bool> {
        let order = || left.order(right);
        Some(match self {
            Self::Equal => left.equals(right)?,
            Self::NotEqual => !left.equals(right)?,
            Self::Less => order()? == Ordering::Less,
            Self::LessOrEqual => order()? != Ordering::Greater,
            Self::Greater => order()? == Ordering::Greater,
            Self::GreaterOrEqual => order()? != Ordering::Less,
        })
    }
}
