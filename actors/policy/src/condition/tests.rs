use aa_protocol::{AgentFacts, AgentId, GovernanceLevel, Timestamp};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn agent(level: GovernanceLevel) -> AgentFacts {
    AgentFacts {
        id: "01234567-89ab-cdef-0123-456789abcdef".parse::<AgentId>().unwrap(),
        name: "researcher".into(),
        org: Some("acme".into()),
        team: None,
        governance_level: level,
        labels: [("env".to_owned(), "prod".to_owned())].into(),
    }
}

fn parse(text: &str) -> Result<Condition, (DiagnosticCode, usize)> {
    Condition::parse(text, Site::default()).map_err(|faults| (faults[0].code, faults[0].offset))
}

fn eval(text: &str, args: serde_json::Value) -> Result<bool, ConditionFault> {
    let condition = Condition::parse(text, Site::default())
        .unwrap_or_else(|faults| panic!("{text}: {faults:?}"));
    let serde_json::Value::Object(args) = args else { panic!("arguments are an object") };
    let agent = agent(GovernanceLevel::L1);
    let now: Timestamp = "2026-11-22T20:51:29Z".parse().unwrap();
    condition.holds(&Subject::new("bash", &args, &agent, now))
}

#[test]
fn governance_levels_are_ordered() {
    for (text, holds) in [
        ("governance_level >= L2", false),
        ("governance_level >= L1", true),
        ("governance_level == L1", true),
        ("governance_level < L2 && governance_level > L0", true),
        ("L0 < L1 && L1 < L2 && L2 < L3", true),
        ("governance_level in [L1, L2]", true),
        ("governance_level in [L0, L3]", false),
        ("(tool == 'bash' ? L3 : L0) > governance_level", true),
    ] {
        assert_eq!(eval(text, json!({})), Ok(holds), "{text}");
    }
}

#[test]
fn a_quoted_level_beside_a_governance_level_means_the_level() {
    for (text, holds) in [
        ("governance_level == 'L1'", true),
        ("\"L2\" <= governance_level", false),
        ("'L1' == governance_level", true),
        ("governance_level in ['L1', 'L2']", true),
    ] {
        assert_eq!(eval(text, json!({})), Ok(holds), "{text}");
    }
}

#[test]
fn an_unknown_level_is_a_validation_error_with_position() {
    for (text, offset) in [
        ("governance_level >= L4", 20),
        ("governance_level == 'L9'", 20),
        ("governance_level in [L1, L7]", 25),
        ("tool == 'bash' && L10 < governance_level", 18),
        ("governance_level in ['L1', 'high']", 27),
    ] {
        assert_eq!(
            parse(text).err(),
            Some((DiagnosticCode::UnknownGovernanceLevel, offset)),
            "{text}"
        );
    }
}

#[test]
fn a_governance_level_compares_with_levels_only() {
    for text in [
        "governance_level >= 2",
        "governance_level == args.level",
        "governance_level + 1 == L2",
        "string(governance_level) == '1'",
        "dyn(governance_level) == 1",
        "[governance_level, 1][0] == 1",
        "[[governance_level], [1]][0][0] == 1",
        "(tool == 'x' ? governance_level : 1) == 1",
        "{'a': governance_level, 'b': 1}['a'] == 1",
        "governance_level in args.levels",
        "args.list.exists(x, x == governance_level)",
        "{governance_level: 1}.size() > 0",
        "size(governance_level) > 1",
    ] {
        assert_eq!(
            parse(text).err().map(|(code, _)| code),
            Some(DiagnosticCode::ConditionTypeMismatch),
            "{text}"
        );
    }
}

#[test]
fn tool_args_agent_and_now_are_bound() {
    let args = json!({"cmd": "rm -rf /", "n": 5, "f": 5.0, "big": 18_446_744_073_709_551_615_u64,
        "list": ["a", "b"], "deep": {"x": [1, null, true]}});
    for (text, holds) in [
        ("tool == 'bash'", true),
        ("args.cmd.startsWith('rm')", true),
        ("args['cmd'].contains('-rf')", true),
        ("args.n > 4 && args.n == 5 && args.f == 5 && args.f > 4", true),
        ("args.big > 5u", true),
        ("args.big > 5", true),
        ("'a' in args.list && !('c' in args.list)", true),
        ("args.list.exists(x, x == 'b')", true),
        ("args.list.all(x, x.size() == 1)", true),
        ("args.list.filter(x, x != 'a').size() == 1", true),
        ("args.list.map(x, x + '!')[0] == 'a!'", true),
        ("args.list.exists_one(x, x == 'a')", true),
        ("args.exists(k, k == 'cmd')", true),
        ("args.deep.x[1] == null && args.deep.x[2]", true),
        ("has(args.cmd) && !has(args.other)", true),
        ("size(args) == 6", true),
        ("agent.id == '01234567-89ab-cdef-0123-456789abcdef' && agent.name == 'researcher'", true),
        ("agent.org == 'acme' && agent.team == ''", true),
        ("agent.labels.env == 'prod' && !('x' in agent.labels)", true),
        ("now.getHours() == 20 && now.getHours('Asia/Taipei') == 4", true),
        ("now > timestamp('2026-01-01T00:00:00Z')", true),
        ("now - duration('24h') < now", true),
        ("'x' + tool == 'xbash'", true),
        ("{'a': 1}.a == 1", true),
    ] {
        assert_eq!(eval(text, args.clone()), Ok(holds), "{text}");
    }
}

#[test]
fn patterns_in_matches_are_re2_and_compiled_once() {
    assert_eq!(eval(r"args.cmd.matches('^rm\\s')", json!({"cmd": "rm x"})), Ok(true));
    assert_eq!(eval(r"matches(args.cmd, r'^\d+$')", json!({"cmd": "٣"})), Ok(false));
    assert_eq!(eval("[1].all(x, tool.matches('ba..'))", json!({})), Ok(true));
    assert_eq!(parse("tool.matches('a(?=b)')").err(), Some((DiagnosticCode::InvalidPattern, 13)));
    assert_eq!(parse("tool.matches(args.p)").err().unwrap().0, DiagnosticCode::InvalidCondition);
}

#[test]
fn an_unknown_identifier_or_function_is_a_validation_error_with_position() {
    for (text, code, offset) in [
        ("level >= L2", DiagnosticCode::UnknownIdentifier, 0),
        ("tool == 'a' || arg.x == 1", DiagnosticCode::UnknownIdentifier, 15),
        ("agent.nme == 'x'", DiagnosticCode::UnknownIdentifier, 5),
        ("tool == 'é' && risky(tool)", DiagnosticCode::UnknownFunction, 15),
        ("tool.lower() == 'a'", DiagnosticCode::UnknownFunction, 5),
        ("[1].exists(x, y == 1)", DiagnosticCode::UnknownIdentifier, 14),
        ("[1].exists(x, x == 1) && x == 1", DiagnosticCode::UnknownIdentifier, 25),
        ("optional.none().hasValue()", DiagnosticCode::UnknownIdentifier, 0),
    ] {
        assert_eq!(parse(text).err(), Some((code, offset)), "{text}");
    }
}

#[test]
fn names_bound_by_a_comprehension_are_known_inside_it() {
    assert_eq!(eval("[1, 2].exists(L4, L4 == 2)", json!({})), Ok(true));
    assert_eq!(eval("['x'].all(tool, tool == 'x')", json!({})), Ok(true));
}

#[test]
fn an_expression_that_is_not_boolean_is_a_validation_error() {
    for text in ["1", "'x'", "tool", "governance_level", "now", "[true]", "size(tool)", "null"] {
        let code = parse(text).err().map(|(code, _)| code);
        assert_eq!(code, Some(DiagnosticCode::ConditionNotBoolean), "{text}");
    }
    for text in
        ["1 && true", "!tool", "tool ? true : false", "tool == 1", "tool < 1", "-tool == 'x'"]
    {
        let code = parse(text).err().map(|(code, _)| code);
        assert_eq!(code, Some(DiagnosticCode::ConditionTypeMismatch), "{text}");
    }
}

#[test]
fn nesting_or_size_beyond_the_bound_is_a_validation_error() {
    let nested = format!("{}true{}", "(".repeat(200), ")".repeat(200));
    let long = format!("tool == '{}'", "x".repeat(3_000));
    let wide = format!("[{}].size() == 1", ["1"; 700].join(", "));
    let chain = format!("1{} == 1", "+1".repeat(300));
    let negations = format!("{}true", "!".repeat(1_000));
    for text in [nested, long, wide, chain, negations] {
        assert_eq!(
            parse(&text).err().map(|(code, _)| code),
            Some(DiagnosticCode::ConditionTooComplex),
            "{}",
            &text[..40]
        );
    }
    let nested = "args.a.all(x, args.b.all(y, x == y))";
    assert_eq!(parse(nested).err().unwrap().0, DiagnosticCode::ConditionTooComplex);
    let chained = "args.a.map(x, x + x).map(x, x + x).size() > 1";
    assert_eq!(parse(chained).err().unwrap().0, DiagnosticCode::ConditionTooComplex);
}

#[test]
fn what_is_no_cel_is_a_validation_error_with_position() {
    for (text, offset) in [("governance_level >=", 19), ("tool == 'x", 8), ("a b", 2)] {
        let (code, at) = parse(text).err().unwrap();
        assert_eq!((code, at), (DiagnosticCode::InvalidCondition, offset), "{text}");
    }
}

#[test]
fn an_evaluation_error_is_a_fault_and_never_false() {
    for text in [
        "args.missing == 1",
        "args.n / 0 == 1",
        "args.list[9] == 'x'",
        "int(args.cmd) > 1",
        "args.cmd > 1",
        "args.cmd",
        "args.n + 9223372036854775807 > 0",
        "args.list.all(x, x.missing)",
        "timestamp(args.cmd) < now",
        "now + duration('100000000h') > now",
        "args.n.matches('x')",
        "now.getHours('Nowhere/City') == 1",
    ] {
        let result = eval(text, json!({"n": 5, "list": ["a"], "cmd": "secret"}));
        let Err(ConditionFault::Evaluation(kind)) = result else { panic!("{text}: {result:?}") };
        assert!(!kind.contains("secret"), "{kind}");
    }
    assert_eq!(eval("governance_level >= L2 && args.missing == 1", json!({})), Ok(false));
    assert_eq!(eval("has(args.missing) && args.missing == 1", json!({})), Ok(false));
}

#[test]
fn arguments_too_large_for_the_condition_are_a_fault() {
    let list: Vec<u32> = (0..5_000).collect();
    let args = json!({"list": list, "text": "x".repeat(100_000)});
    assert_eq!(
        eval("args.list.all(x, x in args.list)", args.clone()),
        Err(ConditionFault::TooLarge)
    );
    assert_eq!(eval("args.text.contains('y')", args.clone()), Ok(false));
    assert_eq!(eval("tool == 'bash'", args), Ok(true));
}

fn operand() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "governance_level",
        "tool",
        "args.a",
        "args.b",
        "args['c']",
        "args.d.e",
        "args.d.f.g",
        "args.list",
        "args.missing",
        "agent.name",
        "agent.team",
        "agent.org",
        "agent.labels.env",
        "agent.labels.none",
        "agent.id",
        "1",
        "0",
        "-3",
        "9007199254740993",
        "2.5",
        "2.0",
        "'x'",
        "'bash'",
        "'prod'",
        "'é'",
        "null",
        "true",
        "L1",
        "L2",
        "size(args.a)",
        "args.b.size()",
        "size(args.list)",
        "args",
        "args.d",
        "[1, 2]",
        "['x', 'bash', '']",
        "[1, 'x', 2.5]",
        "1u",
    ])
}

fn expression() -> impl Strategy<Value = String> {
    let comparison = prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">=", "in"]);
    let search = prop::sample::select(vec!["contains", "startsWith", "endsWith"]);
    let leaf = prop_oneof![
        4 => (operand(), comparison, operand()).prop_map(|(a, by, b)| format!("{a} {by} {b}")),
        2 => (operand(), search, operand()).prop_map(|(a, by, b)| format!("{a}.{by}({b})")),
        1 => operand().prop_map(|a| format!("{a}.matches('^b?a.*[xh]$')")),
        1 => operand().prop_map(str::to_owned),
        1 => prop::sample::select(vec!["a", "b", "d.e", "d.x", "list", "missing", "missing.y"])
            .prop_map(|path| format!("has(args.{path})")),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) && ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) || ({b})")),
            inner.clone().prop_map(|a| format!("!({a})")),
            (inner.clone(), inner.clone(), inner)
                .prop_map(|(a, b, c)| format!("({a}) ? ({b}) : ({c})")),
        ]
    })
}

fn argument() -> impl Strategy<Value = serde_json::Value> {
    prop::sample::select(vec![
        json!(null),
        json!(true),
        json!(1),
        json!(0),
        json!(-3),
        json!(2.5),
        json!(2.0),
        json!(9_007_199_254_740_993_u64),
        json!(9_007_199_254_740_992.0),
        json!(u64::MAX),
        json!("x"),
        json!("bash"),
        json!("é"),
        json!(""),
        json!([1, 2]),
        json!(["x", 1, null]),
        json!({"g": "x"}),
        json!({}),
        json!(1e300),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_compiled_condition_has_the_value_that_the_evaluator_defines(
        text in expression(),
        [a, b, c, e, f] in [argument(), argument(), argument(), argument(), argument()],
        list in argument(),
    ) {
        let Ok(condition) = Condition::parse(&text, Site::default()) else { return Ok(()) };
        let args = json!({"a": a, "b": b, "c": c, "d": {"e": e, "f": f}, "list": list});
        let serde_json::Value::Object(args) = args else { return Ok(()) };
        let agent = agent(GovernanceLevel::L1);
        let subject = Subject::new("bash", &args, &agent, Timestamp::default());
        let defined = condition.evaluate_by_reference(&subject);
        prop_assert_eq!(condition.holds(&subject), defined, "{}", &text);
        let plain = condition.program.as_ref().and_then(|one| one.holds(&subject, &condition.patterns));
        prop_assert!(plain.is_none_or(|plain| Ok(plain) == defined), "{}", &text);
    }
}

#[test]
fn conditions_of_the_common_kind_are_compiled() {
    for (text, args) in [
        ("args.amount > 1000", json!({"amount": 12})),
        ("args.path.startsWith('/etc/')", json!({"path": "/srv"})),
        ("governance_level >= L2 && args.env == 'prod'", json!({"env": "x"})),
        ("args.amount > 1000 && tool in ['pay', 'bash']", json!({"amount": 2_000.5})),
        ("agent.labels.env == 'prod' || has(args.force)", json!({})),
        ("args.cmd.matches('rm -rf|mkfs')", json!({"cmd": "ls"})),
        ("!(args.n in [1, 2, 3]) && size(args.list) < 5", json!({"n": 1, "list": []})),
    ] {
        let condition = Condition::parse(text, Site::default()).unwrap();
        let serde_json::Value::Object(args) = args else { panic!("arguments are an object") };
        let agent = agent(GovernanceLevel::L1);
        let subject = Subject::new("bash", &args, &agent, Timestamp::default());
        let plain =
            condition.program.as_ref().and_then(|one| one.holds(&subject, &condition.patterns));
        assert_eq!(plain.map(Ok), Some(condition.evaluate_by_reference(&subject)), "{text}");
    }
}
