//! The static check of a condition: every identifier, function and operator, with the types that can be
//! known before a call is seen. Governance levels become integers here, literal patterns compiled ones.

use aa_protocol::GovernanceLevel;
use cel::{
    common::ast::{
        CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SourceInfo, operators,
    },
    common::types::CelInt,
};

use super::{
    Fault, MAX_NODES, MAX_TREE_DEPTH, Pattern, Reads,
    signatures::{Type, function, loses_level, operator},
};
use crate::{
    diagnostic::{DiagnosticCode, nearest, quoted},
    re2,
};

pub(super) struct Checker<'p> {
    positions: &'p SourceInfo,
    scopes: Vec<(String, Type)>,
    in_comprehension: bool,
    pub(super) faults: Vec<Fault>,
    pub(super) nodes: usize,
    pub(super) has_comprehension: bool,
    pub(super) reads: Reads,
    pub(super) patterns: Vec<Pattern>,
}

const VARIABLES: [&str; 5] = ["governance_level", "tool", "args", "agent", "now"];
const FUNCTIONS: [&str; 31] = [
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "int",
    "uint",
    "double",
    "string",
    "bool",
    "bytes",
    "timestamp",
    "duration",
    "dyn",
    "has",
    "all",
    "exists",
    "exists_one",
    "existsOne",
    "map",
    "filter",
    "getFullYear",
    "getMonth",
    "getDayOfYear",
    "getDayOfMonth",
    "getDate",
    "getDayOfWeek",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
];
const AGENT_FIELDS: [&str; 5] = ["id", "name", "team", "org", "labels"];

// === impl Checker ===

impl<'p> Checker<'p> {
    pub(super) fn new(positions: &'p SourceInfo) -> Self {
        Self {
            positions,
            scopes: Vec::new(),
            in_comprehension: false,
            faults: Vec::new(),
            nodes: 0,
            has_comprehension: false,
            reads: Reads::default(),
            patterns: Vec::new(),
        }
    }

    /// Checks a whole condition and rewrites it for evaluation.
    pub(super) fn check(&mut self, expression: &mut IdedExpr) {
        let found = self.type_of(expression, 0);
        if self.faults.is_empty() && !matches!(found, Type::Bool | Type::Dyn) {
            let message = format!("the condition is {}, not a boolean", found.name());
            self.fault(
                DiagnosticCode::ConditionNotBoolean,
                0,
                message,
                Some("compare it with something, as in `governance_level >= L2`".into()),
            );
        }
    }

    fn type_of(&mut self, node: &mut IdedExpr, depth: usize) -> Type {
        self.nodes += 1;
        if self.nodes > MAX_NODES || depth > MAX_TREE_DEPTH {
            let known = self.faults.iter().any(|f| f.code == DiagnosticCode::ConditionTooComplex);
            if !known {
                let message = format!(
                    "the condition has more than {MAX_NODES} parts or is nested deeper than {MAX_TREE_DEPTH}"
                );
                self.fault(DiagnosticCode::ConditionTooComplex, node.id, message, None);
            }
            return Type::Dyn;
        }
        let id = node.id;
        match &mut node.expr {
            Expr::Literal(literal) => type_of_literal(literal),
            Expr::Ident(name) => {
                let name = name.clone();
                self.identifier(&name, node)
            }
            Expr::Select(select) => {
                let operand = self.type_of(&mut select.operand, depth + 1);
                self.select(id, &operand, &select.operand, &select.field, select.test)
            }
            Expr::List(list) => {
                let mut item = Type::Nothing;
                for element in &mut list.elements {
                    let next = self.type_of(element, depth + 1);
                    item = self.join(element.id, item, next);
                }
                Type::List(Box::new(item))
            }
            Expr::Map(map) => {
                let mut value = Type::Nothing;
                for entry in &mut map.entries {
                    let EntryExpr::MapEntry(entry) = &mut entry.expr else { continue };
                    let key = self.type_of(&mut entry.key, depth + 1);
                    self.refuse_level(entry.key.id, &key);
                    let next = self.type_of(&mut entry.value, depth + 1);
                    value = self.join(entry.value.id, value, next);
                }
                Type::Map(Box::new(value))
            }
            Expr::Call(call) => match self.pattern_call(id, call, depth) {
                Some(rewritten) => {
                    node.expr = rewritten;
                    Type::Bool
                }
                None => self.call(id, call, depth),
            },
            Expr::Comprehension(comprehension) => self.comprehension(id, comprehension, depth),
            Expr::Struct(_) | Expr::Unspecified => {
                let message = "messages cannot be built in a condition";
                self.fault(DiagnosticCode::InvalidCondition, id, message, None);
                Type::Dyn
            }
        }
    }

    fn identifier(&mut self, name: &str, node: &mut IdedExpr) -> Type {
        if let Some((_, found)) = self.scopes.iter().rev().find(|(bound, _)| bound == name) {
            return found.clone();
        }
        match name {
            "governance_level" => Type::Level,
            "tool" => {
                self.reads.call = true;
                Type::Text
            }
            "now" => {
                self.reads.call = true;
                Type::Timestamp
            }
            "args" => {
                self.reads.args = true;
                Type::Map(Box::new(Type::Dyn))
            }
            "agent" => {
                self.reads.agent = true;
                Type::Map(Box::new(Type::Dyn))
            }
            _ if looks_like_level(name) => {
                self.level(node.id, name, node);
                Type::Level
            }
            _ => {
                let known = VARIABLES.into_iter().chain(["L0", "L1", "L2", "L3"]);
                let help = match nearest(name, known) {
                    Some(known) => format!("did you mean `{known}`?"),
                    None => format!("known are {}, and the levels L0 to L3", VARIABLES.join(", ")),
                };
                let message = format!("the identifier {} is not known", quoted(name));
                self.fault(DiagnosticCode::UnknownIdentifier, node.id, message, Some(help));
                Type::Dyn
            }
        }
    }

    /// Replaces a level's name by its rank.
    fn level(&mut self, id: u64, name: &str, node: &mut IdedExpr) {
        match name.parse::<GovernanceLevel>() {
            Ok(level) => {
                node.expr = Expr::Literal(LiteralValue::Int(CelInt::from(level as i64)));
            }
            Err(_) => {
                let message = format!("{} is not a governance level", quoted(name));
                let help = "the levels are L0, L1, L2 and L3".to_owned();
                self.fault(DiagnosticCode::UnknownGovernanceLevel, id, message, Some(help));
            }
        }
    }

    fn select(
        &mut self,
        id: u64,
        operand: &Type,
        written: &IdedExpr,
        field: &str,
        is_test: bool,
    ) -> Type {
        let of_agent = matches!(&written.expr, Expr::Ident(name) if name == "agent")
            && !self.scopes.iter().any(|(name, _)| name == "agent");
        if of_agent && !AGENT_FIELDS.contains(&field) {
            let help = nearest(field, AGENT_FIELDS).map_or_else(
                || format!("an agent has {}", AGENT_FIELDS.join(", ")),
                |known| format!("did you mean `agent.{known}`?"),
            );
            let message = format!("an agent has no {}", quoted(field));
            self.fault(DiagnosticCode::UnknownIdentifier, id, message, Some(help));
        }
        let value = match operand {
            Type::Map(_) if of_agent && field != "labels" => Type::Text,
            Type::Map(_) if of_agent => Type::Map(Box::new(Type::Text)),
            Type::Map(value) => (**value).clone(),
            Type::Dyn => Type::Dyn,
            other => {
                let message = format!("{} has no field {}", other.name(), quoted(field));
                self.mismatch(id, message);
                Type::Dyn
            }
        };
        if is_test { Type::Bool } else { value }
    }

    fn comprehension(&mut self, id: u64, parts: &mut ComprehensionExpr, depth: usize) -> Type {
        self.has_comprehension = true;
        if std::mem::replace(&mut self.in_comprehension, true) {
            let message = "a comprehension inside another has no bounded cost";
            let help = "use one `all`, `exists`, `map` or `filter` at a time".to_owned();
            self.fault(DiagnosticCode::ConditionTooComplex, id, message, Some(help));
            return Type::Dyn;
        }
        let range = self.type_of(&mut parts.iter_range, depth + 1);
        let item = match range {
            Type::List(item) => *item,
            Type::Map(_) | Type::Dyn => Type::Dyn,
            other => {
                self.mismatch(id, format!("{} cannot be walked through", other.name()));
                Type::Dyn
            }
        };
        let start = self.type_of(&mut parts.accu_init, depth + 1);
        let bound = self.scopes.len();
        self.scopes.push((parts.iter_var.clone(), item));
        if let Some(second) = &parts.iter_var2 {
            self.scopes.push((second.clone(), Type::Dyn));
        }
        self.scopes.push((parts.accu_var.clone(), start));
        self.type_of(&mut parts.loop_cond, depth + 1);
        let step = self.type_of(&mut parts.loop_step, depth + 1);
        if let Some((_, accumulated)) = self.scopes.last_mut() {
            *accumulated = step;
        }
        let result = self.type_of(&mut parts.result, depth + 1);
        self.scopes.truncate(bound);
        self.in_comprehension = false;
        result
    }

    /// `x.matches("…")` and `matches(x, "…")`, with the pattern compiled here and now.
    fn pattern_call(&mut self, id: u64, call: &mut CallExpr, depth: usize) -> Option<Expr> {
        let count = call.args.len() + usize::from(call.target.is_some());
        if call.func_name != "matches" || count != 2 {
            return None;
        }
        let pattern = call.args.pop()?;
        let mut text = match call.target.take() {
            Some(target) => *target,
            None => call.args.pop()?,
        };
        let found = self.type_of(&mut text, depth + 1);
        if !found.is(&Type::Text) {
            self.mismatch(id, format!("`matches` searches text, not {}", found.name()));
        }
        let index = self.patterns.len();
        match &pattern.expr {
            Expr::Literal(LiteralValue::String(literal)) => match re2::compile(literal.inner()) {
                Ok(compiled) => self.patterns.push(Pattern(compiled.regex.into())),
                Err(error) => {
                    let message = format!("not an RE2 pattern: {error}");
                    self.fault(DiagnosticCode::InvalidPattern, pattern.id, message, None);
                }
            },
            _ => {
                let message =
                    "the pattern of `matches` must be written out, so that it is compiled once";
                self.fault(DiagnosticCode::InvalidCondition, pattern.id, message, None);
            }
        }
        let regex = IdedExpr { id: pattern.id, expr: Expr::Ident(format!("@pattern{index}")) };
        Some(Expr::Call(CallExpr {
            func_name: "@matches".to_owned(),
            target: None,
            args: vec![text, regex],
        }))
    }

    fn call(&mut self, id: u64, call: &mut CallExpr, depth: usize) -> Type {
        let compares = is_comparison(&call.func_name) && call.args.len() == 2;
        let mut arguments = Vec::with_capacity(call.args.len() + 1);
        if let Some(target) = &mut call.target {
            arguments.push(self.type_of(target, depth + 1));
        }
        for argument in &mut call.args {
            arguments.push(self.type_of(argument, depth + 1));
        }
        if compares {
            self.quoted_levels(&mut call.args, &mut arguments);
        }
        if let [left, right] = arguments.as_slice()
            && is_comparison(&call.func_name)
        {
            return self.comparison(id, &call.func_name, left, right);
        }
        let is_member = call.target.is_some();
        let result = operator(&call.func_name, &arguments)
            .or_else(|| function(&call.func_name, is_member, &arguments));
        match result {
            Some(result) => result,
            None => self.no_overload(id, call, &arguments),
        }
    }

    /// `"L2"` beside a governance level means the level.
    fn quoted_levels(&mut self, written: &mut [IdedExpr], types: &mut [Type]) {
        if !types.iter().any(Type::holds_level) {
            return;
        }
        for (node, found) in written.iter_mut().zip(types) {
            let id = node.id;
            match &mut node.expr {
                Expr::Literal(LiteralValue::String(name)) => {
                    let name = name.inner().to_owned();
                    self.level(id, &name, node);
                    *found = Type::Level;
                }
                Expr::List(list) if *found == Type::List(Box::new(Type::Text)) => {
                    for element in &mut list.elements {
                        if let Expr::Literal(LiteralValue::String(name)) = &element.expr {
                            let name = name.inner().to_owned();
                            self.level(element.id, &name, element);
                        }
                    }
                    *found = Type::List(Box::new(Type::Level));
                }
                _ => {}
            }
        }
    }

    fn comparison(&mut self, id: u64, name: &str, left: &Type, right: &Type) -> Type {
        let fits = match name {
            operators::IN => match right {
                Type::List(item) => left.compares_with(item),
                Type::Map(_) | Type::Dyn => !left.holds_level(),
                _ => false,
            },
            operators::EQUALS | operators::NOT_EQUALS => left.compares_with(right),
            _ => left.is_ordered() && right.is_ordered() && left.compares_with(right),
        };
        if !fits && (left.holds_level() || right.holds_level()) {
            let message = "a governance level compares with governance levels only";
            let help = "write `governance_level >= L2`, with one of L0, L1, L2 and L3".to_owned();
            self.fault(DiagnosticCode::ConditionTypeMismatch, id, message, Some(help));
        } else if !fits {
            let message = format!("{} and {} do not compare", left.name(), right.name());
            self.mismatch(id, message);
        }
        Type::Bool
    }

    fn no_overload(&mut self, id: u64, call: &CallExpr, arguments: &[Type]) -> Type {
        let name = call.func_name.as_str();
        let is_function = name.starts_with(|c: char| c.is_ascii_alphabetic());
        if is_function && !FUNCTIONS.contains(&name) {
            let message = format!("the function {} is not known", quoted(name));
            let help = nearest(name, FUNCTIONS).map(|known| format!("did you mean `{known}`?"));
            self.fault(DiagnosticCode::UnknownFunction, id, message, help);
        } else {
            let types: Vec<_> = arguments.iter().map(Type::name).collect();
            let name = name.trim_matches('_');
            self.mismatch(id, format!("`{name}` does not take {}", types.join(" and ")));
        }
        Type::Dyn
    }

    fn join(&mut self, id: u64, left: Type, right: Type) -> Type {
        let joined = left.clone().joined(right.clone());
        if loses_level(&left, &right, &joined) {
            self.mismatch(id, "governance levels do not mix with other values".to_owned());
        }
        joined
    }

    fn refuse_level(&mut self, id: u64, found: &Type) {
        if found.holds_level() {
            self.mismatch(id, "a governance level is no key".to_owned());
        }
    }

    fn mismatch(&mut self, id: u64, message: String) {
        self.fault(DiagnosticCode::ConditionTypeMismatch, id, message, None);
    }

    fn fault(
        &mut self,
        code: DiagnosticCode,
        id: u64,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        let source = &self.positions.source;
        let byte = self.positions.offset_for(id).map_or(0, |(start, _)| start as usize);
        let before = source.get(..byte).unwrap_or_default();
        // A call is placed at its bracket; what is wrong is its name.
        let name =
            before.len() - before.trim_end_matches(|c: char| c.is_ascii_alphanumeric()).len();
        let is_call = source.get(byte..).is_some_and(|rest| rest.starts_with('('));
        let offset = before.chars().count() - if is_call { name } else { 0 };
        if self.faults.len() < 20 {
            self.faults.push(Fault { code, offset, message: message.into(), help });
        }
    }
}

fn looks_like_level(name: &str) -> bool {
    name.strip_prefix('L')
        .is_some_and(|rank| !rank.is_empty() && rank.bytes().all(|b| b.is_ascii_digit()))
}

fn is_comparison(name: &str) -> bool {
    matches!(
        name,
        operators::EQUALS
            | operators::NOT_EQUALS
            | operators::LESS
            | operators::LESS_EQUALS
            | operators::GREATER
            | operators::GREATER_EQUALS
            | operators::IN
    )
}

fn type_of_literal(literal: &LiteralValue) -> Type {
    match literal {
        LiteralValue::Boolean(_) => Type::Bool,
        LiteralValue::Bytes(_) => Type::Bytes,
        LiteralValue::Double(_) => Type::Double,
        LiteralValue::Int(_) => Type::Int,
        LiteralValue::Null => Type::Null,
        LiteralValue::String(_) => Type::Text,
        LiteralValue::UInt(_) => Type::Uint,
    }
}
