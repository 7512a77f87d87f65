//! What is accepted, what is rejected and what is warned of: each rule of the policy reference.

use aa_policy::{Checked, DiagnosticCode as Code, check};

fn envelope(rules: &str) -> String {
    let indented: String = rules.lines().map(|line| format!("  {line}\n")).collect();
    format!("apiVersion: agent-assembly/v1\nkind: Policy\nmetadata:\n  name: p\nspec:\n{indented}")
}

fn check_rules(rules: &str) -> Checked {
    check(envelope(rules).as_bytes(), "file")
}

/// (code, path, line, column) of each error. The rules start on line 6, two columns in.
fn errors(rules: &str) -> Vec<(Code, String, u32, u32)> {
    places(&check_rules(rules).errors)
}

fn warnings(rules: &str) -> Vec<(Code, String, u32, u32)> {
    let checked = check_rules(rules);
    assert!(checked.policy.is_some(), "{rules}: {:#?}", checked.errors);
    places(&checked.warnings)
}

fn places(list: &[aa_policy::Diagnostic]) -> Vec<(Code, String, u32, u32)> {
    list.iter().map(|d| (d.code, d.path.clone(), d.line, d.column)).collect()
}

#[track_caller]
fn rejects(rules: &str, code: Code, path: &str, line: u32, column: u32) {
    assert_eq!(errors(rules), [(code, path.to_owned(), line, column)], "{rules}");
}

#[track_caller]
fn accepts(rules: &str) {
    assert_eq!(errors(rules), [], "{rules}");
}

// --- The validation table -------------------------------------------------------------------------

#[test]
fn an_allowlist_entry_must_not_be_empty() {
    rejects(
        "network: {allowlist: [a.example, \"\"]}",
        Code::EmptyValue,
        "spec.network.allowlist[1]",
        6,
        36,
    );
    rejects(
        "network:\n  allowlist:\n    - \"  \"",
        Code::EmptyValue,
        "spec.network.allowlist[0]",
        8,
        9,
    );
}

#[test]
fn active_hours_start_is_required_and_must_be_hh_mm() {
    let path = "spec.schedule.active_hours.start";
    rejects(
        "schedule: {active_hours: {end: '18:00', timezone: UTC}}",
        Code::MissingField,
        path,
        6,
        14,
    );
    for start in ["9:00", "09:60", "24:00", "25:00", "0900", "09:00:00", "+9:00", "", "９:00"] {
        rejects(
            &format!(
                "schedule: {{active_hours: {{start: '{start}', end: '23:00', timezone: UTC}}}}"
            ),
            Code::InvalidTime,
            path,
            6,
            36,
        );
    }
    rejects(
        "schedule: {active_hours: {start: 540, end: '23:00', timezone: UTC}}",
        Code::WrongType,
        path,
        6,
        36,
    );
}

#[test]
fn active_hours_end_is_required_must_be_hh_mm_and_later_than_start() {
    let path = "spec.schedule.active_hours.end";
    rejects(
        "schedule: {active_hours: {start: '09:00', timezone: UTC}}",
        Code::MissingField,
        path,
        6,
        14,
    );
    rejects(
        "schedule: {active_hours: {start: '09:00', end: '6pm', timezone: UTC}}",
        Code::InvalidTime,
        path,
        6,
        50,
    );
    for end in ["09:00", "08:59", "00:00"] {
        rejects(
            &format!("schedule: {{active_hours: {{start: '09:00', end: '{end}', timezone: UTC}}}}"),
            Code::EmptyWindow,
            path,
            6,
            50,
        );
    }
    rejects(
        "schedule: {active_hours: {start: '09:00', end: '24:01', timezone: UTC}}",
        Code::InvalidTime,
        path,
        6,
        50,
    );
    accepts("schedule: {active_hours: {start: '09:00', end: '24:00', timezone: UTC}}");
    accepts("schedule: {active_hours: {start: 09:00, end: 18:00, timezone: UTC}}");
}

#[test]
fn active_hours_timezone_is_required_and_must_be_an_iana_name() {
    let path = "spec.schedule.active_hours.timezone";
    rejects(
        "schedule: {active_hours: {start: '09:00', end: '18:00'}}",
        Code::MissingField,
        path,
        6,
        14,
    );
    for zone in ["Mars/Base", "", "PDT8", "+02:00", "Etc/Unknown", "../../etc/passwd"] {
        rejects(
            &format!(
                "schedule: {{active_hours: {{start: '09:00', end: '18:00', timezone: '{zone}'}}}}"
            ),
            Code::UnknownTimezone,
            path,
            6,
            69,
        );
    }
    let missing = errors("schedule:\n  active_hours:");
    assert_eq!(missing.len(), 3, "{missing:?}");
}

#[test]
fn the_daily_limit_must_be_greater_than_0() {
    for limit in ["0", "-1", "0.0", ".nan", ".inf", "1e300", "1e-12"] {
        rejects(
            &format!("budget: {{daily_limit_usd: {limit}}}"),
            Code::OutOfRange,
            "spec.budget.daily_limit_usd",
            6,
            29,
        );
    }
    rejects(
        "budget: {daily_limit_usd: '25'}",
        Code::WrongType,
        "spec.budget.daily_limit_usd",
        6,
        29,
    );
    accepts("budget: {daily_limit_usd: 25}");
    accepts("budget: {daily_limit_usd: 0.000001}");
}

#[test]
fn the_monthly_limit_must_be_greater_than_0_and_not_below_the_daily_one() {
    let path = "spec.budget.monthly_limit_usd";
    rejects("budget: {monthly_limit_usd: 0}", Code::OutOfRange, path, 6, 31);
    rejects(
        "budget: {daily_limit_usd: 10, monthly_limit_usd: 9.99}",
        Code::LimitsInverted,
        path,
        6,
        33,
    );
    accepts("budget: {daily_limit_usd: 10, monthly_limit_usd: 10.0}");
    accepts("budget: {monthly_limit_usd: 10}");
}

#[test]
fn the_budget_timezone_must_be_an_iana_name() {
    rejects("budget: {timezone: Nowhere}", Code::UnknownTimezone, "spec.budget.timezone", 6, 22);
    accepts("budget: {timezone: America/Los_Angeles}");
}

#[test]
fn action_on_exceed_must_be_deny_or_suspend() {
    rejects(
        "budget: {action_on_exceed: block}",
        Code::UnknownChoice,
        "spec.budget.action_on_exceed",
        6,
        30,
    );
    rejects(
        "budget: {action_on_exceed: Deny}",
        Code::UnknownChoice,
        "spec.budget.action_on_exceed",
        6,
        30,
    );
    accepts("budget: {action_on_exceed: suspend}");
}

#[test]
fn on_stream_match_must_be_cut_redact_or_flag() {
    rejects(
        "data: {on_stream_match: Cut}",
        Code::UnknownChoice,
        "spec.data.on_stream_match",
        6,
        27,
    );
    accepts("data: {on_stream_match: redact, sensitive_patterns: [x]}");
    accepts("data: {on_stream_match: flag}");
}

#[test]
fn a_sensitive_pattern_must_be_a_valid_re2_regex() {
    let path = "spec.data.sensitive_patterns[1]";
    rejects("data: {sensitive_patterns: [ok, 'a(?=b)']}", Code::InvalidPattern, path, 6, 37);
    rejects(r#"data: {sensitive_patterns: [ok, "\\d(\\1"]}"#, Code::InvalidPattern, path, 6, 40);
    rejects("data: {sensitive_patterns: [ok, '[a']}", Code::InvalidPattern, path, 6, 36);
    rejects(
        r"data: {sensitive_patterns: [ok, '(\pL{1000}){1000}']}",
        Code::PatternTooLarge,
        path,
        6,
        36,
    );
    accepts(
        r#"data: {sensitive_patterns: ["\\b\\d{3}-\\d{2}-\\d{4}\\b", "(?i)password\\s*[:=]\\s*\\S+"]}"#,
    );
}

#[test]
fn a_condition_must_not_be_empty_and_reference_only_levels_l0_to_l3() {
    let path = "spec.tools.bash.requires_approval_if";
    let tool = |condition: &str| format!("tools: {{bash: {{requires_approval_if: {condition}}}}}");
    rejects(&tool("''"), Code::EmptyValue, path, 6, 40);
    rejects(&tool("'governance_level >= L4'"), Code::UnknownGovernanceLevel, path, 6, 61);
    rejects(&tool("governance_level >= L4"), Code::UnknownGovernanceLevel, path, 6, 60);
    rejects(&tool("'governance_level'"), Code::ConditionNotBoolean, path, 6, 41);
    rejects(&tool("'risk > 3'"), Code::UnknownIdentifier, path, 6, 41);
    rejects(&tool("'governance_level >='"), Code::InvalidCondition, path, 6, 60);
    rejects(&tool("true"), Code::WrongType, path, 6, 40);
    for level in ["L0", "L1", "L2", "L3"] {
        accepts(&tool(&format!("governance_level >= {level}")));
    }
}

#[test]
fn a_capability_must_be_known() {
    for list in ["allow", "deny"] {
        let path = format!("spec.capabilities.{list}[1]");
        let column = 24 + list.len() as u32;
        for unknown in [
            "fly",
            "mcp_tool",
            "'mcp_tool:'",
            "'model:'",
            "'mcp_tool: '",
            "tool:bash",
            "FILE_READ",
            "''",
        ] {
            rejects(
                &format!("capabilities: {{{list}: [file_read, {unknown}]}}"),
                Code::UnknownCapability,
                &path,
                6,
                column + 8,
            );
        }
    }
    accepts(
        "capabilities: {allow: [file_read, file_write, network_outbound, network_inbound, terminal_exec, agent_spawn, 'mcp_tool:git', 'model:gpt-4o']}",
    );
}

#[test]
fn approval_timeouts_must_be_greater_than_0() {
    rejects("approval_timeout_secs: 0", Code::OutOfRange, "spec.approval_timeout_secs", 6, 26);
    rejects("approval_timeout_secs: -5", Code::OutOfRange, "spec.approval_timeout_secs", 6, 26);
    rejects("approval_timeout_secs: 1.5", Code::WrongType, "spec.approval_timeout_secs", 6, 26);
    rejects(
        "approval: {timeout_seconds: 0}",
        Code::OutOfRange,
        "spec.approval.timeout_seconds",
        6,
        31,
    );
    accepts("approval_timeout_secs: 1");
}

#[test]
fn a_scope_must_be_of_a_known_kind_with_an_identifier() {
    for scope in [
        "project:foo",
        "'org:'",
        "'team: '",
        "'agent:'",
        "'tool:'",
        "agent:not-a-uuid",
        "agent:0123456789ab cdef0123456789abcdef",
        "agent:0123456789abcdef0123456789abcdef",
        "'{01234567-89ab-cdef-0123-456789abcdef}'",
        "Global",
        "''",
        "org",
    ] {
        rejects(&format!("scope: {scope}"), Code::InvalidScope, "spec.scope", 6, 10);
    }
    for scope in [
        "global",
        "org:acme",
        "team:platform",
        "agent:01234567-89ab-cdef-0123-456789abcdef",
        "tool:slack-mcp",
    ] {
        accepts(&format!("scope: {scope}"));
    }
}

// --- Types, keys and files ------------------------------------------------------------------------

#[test]
fn a_wrong_type_says_what_was_found_and_what_is_expected() {
    for (rules, path, message) in [
        (
            "tools: {bash: {allow: yes}}",
            "spec.tools.bash.allow",
            "expected a boolean, found the string `yes`",
        ),
        (
            "tools: {bash: {limit_per_hour: 1.5}}",
            "spec.tools.bash.limit_per_hour",
            "expected an integer, found the number `1.5`",
        ),
        ("tools: [bash]", "spec.tools", "expected an object, found a list"),
        (
            "tools: {bash: false}",
            "spec.tools.bash",
            "expected an object, found the boolean `false`",
        ),
        (
            "network: {allowlist: a.example}",
            "spec.network.allowlist",
            "expected a list of strings, found the string `a.example`",
        ),
        ("scope:", "spec.scope", "expected a string, found nothing"),
        (
            "network: {allowlist: [1]}",
            "spec.network.allowlist[0]",
            "expected a string, found the number `1`",
        ),
    ] {
        let errors = check_rules(rules).errors;
        assert_eq!(errors.len(), 1, "{rules}: {errors:#?}");
        assert_eq!((errors[0].path.as_str(), errors[0].message.as_str()), (path, message));
    }
}

#[test]
fn unknown_keys_at_any_level_are_warnings_with_position_and_the_near_known_key() {
    let checked = check(
        b"apiVersion: agent-assembly/v1\nkind: Policy\nmetadata: {name: p, labels: {}}\nspec:\n  netwrok: {}\n  tools:\n    bash: {alow: false}\n  future: 1\n",
        "x",
    );
    assert!(checked.policy.is_some());
    let found: Vec<_> = checked
        .warnings
        .iter()
        .map(|w| (w.path.as_str(), w.line, w.column, w.help.as_deref()))
        .collect();
    assert_eq!(
        found,
        [
            ("metadata.labels", 3, 21, None),
            ("spec.netwrok", 5, 3, Some("did you mean `network`?")),
            ("spec.tools.bash.alow", 7, 12, Some("did you mean `allow`?")),
            ("spec.future", 8, 3, None),
        ]
    );
    assert!(checked.warnings.iter().all(|w| w.code == Code::UnknownKey));
}

#[test]
fn a_duplicate_key_an_alias_bomb_a_non_utf8_file_and_a_document_over_1_mib_are_errors() {
    rejects("scope: global\nscope: team:x", Code::DuplicateKey, "spec.scope", 7, 3);
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d]\n";
    assert_eq!(check(bomb.as_bytes(), "x").errors[0].code, Code::TooComplex);
    let latin = check(b"scope: global\n# caf\xe9\n", "x");
    assert_eq!(places(&latin.errors), [(Code::NotUtf8, String::new(), 2, 6)]);
    let large = format!("scope: global\n# {}", "x".repeat(1024 * 1024));
    assert_eq!(check(large.as_bytes(), "x").errors[0].code, Code::TooLarge);
}

#[test]
fn the_envelope_needs_its_version_kind_and_a_name() {
    let check = |text: &str| places(&check(text.as_bytes(), "x").errors);
    assert_eq!(
        check("apiVersion: v2\nkind: Polcy\nmetadata: {}\nspec: {}\n"),
        [
            (Code::UnknownApiVersion, "apiVersion".into(), 1, 13),
            (Code::UnknownKind, "kind".into(), 2, 7),
            (Code::MissingField, "metadata.name".into(), 3, 1),
        ]
    );
    let codes: Vec<_> =
        check("spec: {}\n").into_iter().map(|(code, path, ..)| (code, path)).collect();
    assert_eq!(
        codes,
        ["apiVersion", "kind", "metadata"].map(|key| (Code::MissingField, key.to_owned()))
    );
    for name in ["''", "a b", "-x", "é", "'a\"b'", &"x".repeat(129)] {
        let text = format!(
            "apiVersion: agent-assembly/v1\nkind: Policy\nmetadata: {{name: {name}}}\nspec: {{}}\n"
        );
        assert_eq!(check(&text), [(Code::InvalidName, "metadata.name".into(), 3, 18)], "{name}");
    }
}

#[test]
fn a_flat_document_is_named_after_its_file() {
    for (stem, name) in [
        ("team-policy", "team-policy"),
        ("my policy!", "my-policy-"),
        ("..", "policy"),
        ("", "policy"),
    ] {
        let checked = check(b"scope: global\n", stem);
        assert_eq!(checked.policy.unwrap().name(), name);
    }
}

#[test]
fn all_errors_are_collected_and_returned_together() {
    let errors = errors(
        "scope: nope\nnetwork: {allowlist: ['']}\nbudget: {daily_limit_usd: 0, timezone: x}\ntools: {a: {allow: 1, requires_approval_if: 'x'}}\ncapabilities: {deny: [fly]}\napproval_timeout_secs: 0",
    );
    let codes: Vec<_> = errors.iter().map(|(code, ..)| *code).collect();
    assert_eq!(
        codes,
        [
            Code::InvalidScope,
            Code::EmptyValue,
            Code::OutOfRange,
            Code::UnknownTimezone,
            Code::WrongType,
            Code::UnknownIdentifier,
            Code::UnknownCapability,
            Code::OutOfRange,
        ]
    );
}

#[test]
fn json_documents_have_positions_too() {
    let json = "{\n  \"scope\": \"global\",\n  \"budget\": {\"daily_limit_usd\": -1,\n\t\"timezone\": \"X\"}\n}";
    let checked = check(json.as_bytes(), "x");
    assert_eq!(
        places(&checked.errors),
        [
            (Code::OutOfRange, "budget.daily_limit_usd".into(), 3, 33),
            (Code::UnknownTimezone, "budget.timezone".into(), 4, 14),
        ]
    );
    assert_eq!(
        checked.errors[0].source_line.as_deref(),
        Some("  \"budget\": {\"daily_limit_usd\": -1,")
    );
}

#[test]
fn yaml_and_json_and_both_formats_compile_to_the_same_rules() {
    let sources = [
        "scope: team:a\ntools:\n  bash: {limit_per_hour: 3}\n",
        "{\"scope\": \"team:a\", \"tools\": {\"bash\": {\"limit_per_hour\": 3}}}",
        "apiVersion: agent-assembly/v1\nkind: Policy\nmetadata: {name: x}\nspec:\n  scope: team:a\n  tools: {bash: {limit_per_hour: 3}}\n",
    ];
    for source in sources {
        let policy = check(source.as_bytes(), "x").policy.unwrap();
        assert_eq!((policy.name(), policy.scope().to_string()), ("x", "team:a".to_owned()));
        assert_eq!((policy.limit_per_hour("bash"), policy.sections()), (Some(3), vec!["tools"]));
    }
}

// --- Warnings -------------------------------------------------------------------------------------

#[test]
fn an_allowlist_entry_that_can_match_no_host_is_a_warning_that_names_the_host_to_write() {
    let checked = check_rules("network: {allowlist: ['https://api.openai.com/v1', ok.example]}");
    assert!(checked.policy.is_some());
    let warning = &checked.warnings[0];
    assert_eq!(
        (warning.code, warning.path.as_str()),
        (Code::UnmatchableHost, "spec.network.allowlist[0]")
    );
    assert_eq!(warning.help.as_deref(), Some("write `api.openai.com`"));
    assert_eq!(checked.warnings.len(), 1);
}

#[test]
fn an_allowlist_entry_covered_by_another_is_a_warning() {
    assert_eq!(
        warnings("network: {allowlist: [a.slack.com, '*.slack.com', '*.slack.com', slack.com]}"),
        [
            (Code::CoveredEntry, "spec.network.allowlist[0]".into(), 6, 25),
            (Code::CoveredEntry, "spec.network.allowlist[2]".into(), 6, 53),
        ]
    );
}

#[test]
fn a_tool_entry_that_capabilities_shuts_out_is_a_warning() {
    assert_eq!(
        warnings(
            "capabilities: {allow: [mcp_tool:git]}\ntools: {bash: {limit_per_hour: 1}, git: {}, sh: {allow: false}}"
        ),
        [(Code::ShutOut, "spec.tools.bash".into(), 7, 11)]
    );
    assert_eq!(
        warnings("capabilities: {deny: [mcp_tool:git]}\ntools: {git: {limit_per_hour: 1}}").len(),
        1
    );
}

#[test]
fn a_pattern_that_matches_the_empty_text_is_a_warning() {
    assert_eq!(warnings("data: {sensitive_patterns: ['x*']}")[0].0, Code::MatchesEverything);
}

#[test]
fn a_section_written_but_empty_is_a_warning() {
    assert_eq!(warnings("network:"), [(Code::EmptySection, "spec.network".into(), 6, 3)]);
    assert_eq!(warnings("capabilities:\n  allow:")[0].0, Code::EmptySection);
}

#[test]
fn a_capability_both_allowed_and_denied_is_a_warning() {
    assert_eq!(
        warnings("capabilities: {allow: [file_read], deny: [file_read]}"),
        [(Code::ContradictoryCapability, "spec.capabilities.allow[0]".into(), 6, 26)]
    );
}

// --- Bounds ---------------------------------------------------------------------------------------

#[test]
fn hostile_documents_end_in_errors_and_bounded_reports() {
    let many = format!(
        "tools: {{{}}}",
        (0..20_000).map(|i| format!("t{i}: {{x: 1}}")).collect::<Vec<_>>().join(", ")
    );
    let deep = format!("tools: {}1{}", "{a: ".repeat(5_000), "}".repeat(5_000));
    let brackets = "[".repeat(500_000);
    let question = "? ".repeat(200_000);
    let anchors = "&a ".repeat(100_000);
    for source in [
        many,
        deep,
        brackets,
        question,
        anchors,
        "\u{0}".into(),
        "%YAML 9.9\n---\n".into(),
        "\"\\ud800\"".into(),
    ] {
        let checked = check(source.as_bytes(), "x");
        assert!(checked.policy.is_none(), "{}", &source[..source.len().min(40)]);
        assert!(
            !checked.errors.is_empty()
                && checked.errors.len() <= 500
                && checked.warnings.len() <= 500
        );
    }
}

// --- Sequences ------------------------------------------------------------------------------------

#[test]
fn a_sequence_says_after_what_and_what_then() {
    accepts("sequences: {s: {after: {tools: [a]}, then: {tools: [b], decision: deny}}}");
    accepts(
        "sequences: {s: {after: {result_matches: x}, then: {tools: [b], decision: require_approval}}}",
    );
    let place = |rules: &str, code, path: &str| {
        let found: Vec<_> =
            errors(rules).into_iter().map(|(code, path, ..)| (code, path)).collect();
        let dot = if path.starts_with('[') { "" } else { "." };
        assert_eq!(found, [(code, format!("spec.sequences{dot}{path}"))], "{rules}");
    };
    let then = "then: {tools: [b], decision: deny}";
    place(&format!("sequences: {{s: {{{then}}}}}"), Code::MissingField, "s.after");
    place(&format!("sequences: {{s: {{after: {{}}, {then}}}}}"), Code::MissingField, "s.after");
    place(
        &format!("sequences: {{s: {{after: {{tols: [a]}}, {then}}}}}"),
        Code::MissingField,
        "s.after",
    );
    place(&format!("sequences: {{s: {{after: [a], {then}}}}}"), Code::WrongType, "s.after");
    place(
        &format!("sequences: {{s: {{after: {{tools: []}}, {then}}}}}"),
        Code::EmptyValue,
        "s.after.tools",
    );
    place(
        &format!("sequences: {{s: {{after: {{tools: ['']}}, {then}}}}}"),
        Code::EmptyValue,
        "s.after.tools[0]",
    );
    let after = "after: {tools: [a]}";
    place(&format!("sequences: {{s: {{{after}}}}}"), Code::MissingField, "s.then");
    place(
        &format!("sequences: {{s: {{{after}, then: {{decision: deny}}}}}}"),
        Code::MissingField,
        "s.then.tools",
    );
    place(
        &format!("sequences: {{s: {{{after}, then: {{tools: [], decision: deny}}}}}}"),
        Code::EmptyValue,
        "s.then.tools",
    );
    place(
        &format!("sequences: {{s: {{{after}, then: {{tools: [b]}}}}}}"),
        Code::MissingField,
        "s.then.decision",
    );
    place(
        &format!("sequences: {{s: {{{after}, then: {{tools: [b], decision: allow}}}}}}"),
        Code::UnknownChoice,
        "s.then.decision",
    );
    place(&format!("sequences: {{'a b': {{{after}, {then}}}}}"), Code::InvalidName, "[\"a b\"]");
}

#[test]
fn the_pattern_of_a_sequence_is_re2_within_the_bounds_of_all_patterns() {
    let rules = |pattern: &str| {
        format!(
            "sequences:\n  s:\n    after: {{result_matches: '{pattern}'}}\n    then: {{tools: [b], decision: deny}}"
        )
    };
    let path = "spec.sequences.s.after.result_matches";
    rejects(&rules("a(?=b)"), Code::InvalidPattern, path, 8, 33);
    assert_eq!(errors(&rules("((a{100}){100}){100}"))[0].0, Code::PatternTooLarge);
    assert_eq!(warnings(&rules("x*")), [(Code::MatchesEverything, path.to_owned(), 8, 31)]);
}

#[test]
fn a_document_has_at_most_a_hundred_sequences() {
    let many = |count: usize| -> String {
        let one = |index| {
            format!("  s{index}: {{after: {{tools: [a]}}, then: {{tools: [b], decision: deny}}}}\n")
        };
        let all: String = (0..count).map(one).collect();
        format!("sequences:\n{all}")
    };
    accepts(&many(100));
    assert_eq!(errors(&many(101))[0].0, Code::TooLong);
}

#[test]
fn a_sequence_that_changes_nothing_is_warned_of() {
    let found = |rules: &str| {
        let found = warnings(rules).into_iter();
        found.map(|(code, path, ..)| (code, path)).collect::<Vec<_>>()
    };
    let idle = |path: &str| vec![(Code::IdleSequence, format!("spec.sequences.{path}"))];
    let one = "sequences: {s: {after: {tools: [a]}, then: {tools: [b, c], decision: deny}}}";
    assert_eq!(found(one), []);
    assert_eq!(found(&format!("{one}\ntools: {{b: {{allow: false}}}}")), idle("s.then.tools[0]"));
    let shut = format!("{one}\ncapabilities: {{deny: ['mcp_tool:c']}}");
    assert_eq!(found(&shut), idle("s.then.tools[1]"));
    let never = format!("{one}\ncapabilities: {{allow: ['mcp_tool:b', 'mcp_tool:c']}}");
    assert_eq!(found(&never), idle("s.after.tools"));
    assert_eq!(found(&format!("scope: tool:c\n{one}")), idle("s.then.tools[0]"));

    let asking = |after: &str, then: &str| {
        format!(
            "sequences:\n  ask: {{after: {{{after}}}, then: {{tools: [{then}], decision: require_approval}}}}\n  \
             deny: {{after: {{tools: [a, d], result_matches: x}}, then: {{tools: [b, c], decision: deny}}}}"
        )
    };
    assert_eq!(found(&asking("tools: [a], result_matches: x", "b")), idle("ask"));
    for (after, then) in [
        ("tools: [a], result_matches: y", "b"),
        ("tools: [a]", "b"),
        ("result_matches: x", "b"),
        ("tools: [a], result_matches: x", "b, e"),
    ] {
        assert_eq!(found(&asking(after, then)), [], "{after} {then}");
    }
}

#[test]
fn an_unknown_key_of_a_sequence_is_a_warning_with_its_neighbour() {
    let checked = check_rules(
        "sequences: {s: {after: {tools: [a], results_match: x}, then: {tools: [b], decision: deny}}}",
    );
    assert_eq!(checked.warnings[0].code, Code::UnknownKey);
    assert_eq!(checked.warnings[0].path, "spec.sequences.s.after.results_match");
}
