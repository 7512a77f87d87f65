use super::*;

fn read(source: &str) -> (Option<serde_json::Value>, Vec<DiagnosticCode>) {
    let mut report = Report::default();
    let tree = parse(source, &mut report);
    (tree.map(|tree| tree.to_json()), report.errors.iter().map(|e| e.code).collect())
}

#[test]
fn yaml_and_json_give_the_same_tree() {
    let yaml = "a:\n  - 1\n  - x: \"\\u00e9\\ud83d\\ude00\"\nb: true\nc: 1.5\nd: yes\n";
    let json =
        "{\"a\":[1,{\"x\":\"\\u00e9\\ud83d\\ude00\"}],\n\t\"b\":true,\"c\":1.5,\"d\":\"yes\"}";
    let (from_yaml, errors) = read(yaml);
    assert_eq!(errors, []);
    let (from_json, errors) = read(json);
    assert_eq!(errors, []);
    assert_eq!(from_yaml, from_json);
    assert_eq!(from_json.unwrap()["a"][1]["x"], "é😀");
}

#[test]
fn an_alias_bomb_is_an_error() {
    let mut source = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (previous, next) in ["ab", "bc", "cd", "de", "ef"].map(|s| s.split_at(1)) {
        let aliases = vec![format!("*{previous}"); 10].join(", ");
        source.push_str(&format!("{next}: &{next} [{aliases}]\n"));
    }
    assert_eq!(read(&source), (None, vec![DiagnosticCode::TooComplex]));
    assert_eq!(read("a: &a [*a]").1, vec![DiagnosticCode::TooComplex]);
}

#[test]
fn a_long_text_that_aliases_repeat_is_an_error() {
    let text = "x".repeat(10_000);
    let repeated = |times: usize| format!("a: &a {text}\nb: [{}]\n", vec!["*a"; times].join(","));
    assert_eq!(read(&repeated(104)).1, []);
    assert_eq!(read(&repeated(105)), (None, vec![DiagnosticCode::TooComplex]));
}

#[test]
fn nesting_past_the_bound_is_an_error() {
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    assert_eq!(read(&deep).1, vec![DiagnosticCode::TooComplex]);
    let deep: String = (0..100).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    assert_eq!(read(&deep).1, vec![DiagnosticCode::TooComplex]);
}

#[test]
fn a_duplicate_key_is_an_error() {
    assert_eq!(read("a: 1\nb: 2\na: 3\n").1, vec![DiagnosticCode::DuplicateKey]);
    assert_eq!(read("{\"a\": 1, \"\\u0061\": 3}").1, vec![DiagnosticCode::DuplicateKey]);
}

#[test]
fn merge_keys_custom_tags_and_second_documents_are_errors() {
    assert_eq!(read("x: &x {a: 1}\ny:\n  <<: *x\n").1, vec![DiagnosticCode::UnsupportedYaml]);
    assert_eq!(read("x: !secret y\n").1, vec![DiagnosticCode::UnsupportedYaml]);
    assert_eq!(read("a: 1\n---\nb: 2\n").1, vec![DiagnosticCode::MultipleDocuments]);
    assert_eq!(read("").1, vec![DiagnosticCode::EmptyDocument]);
    assert_eq!(read("# only a comment\n").1, vec![DiagnosticCode::EmptyDocument]);
}

#[test]
fn a_character_of_a_quoted_text_is_found_in_the_source() {
    for (source, index, column) in
        [("a: bcd", 2, 6), ("a: 'it''s'", 3, 9), (r#"a: "\\d\u0041(x""#, 3, 14)]
    {
        let tree = parse(source, &mut Report::default()).unwrap();
        let node = &tree.member("a").unwrap().node;
        assert_eq!(node.place_of_character(source, index), Place { line: 1, column }, "{source}");
    }
}

#[test]
fn plain_scalars_resolve_by_the_core_schema() {
    for (text, value) in [
        ("yes", Value::Text("yes".into())),
        ("09:00", Value::Text("09:00".into())),
        ("0o17", Value::Integer(15)),
        ("0xff", Value::Integer(255)),
        ("-7", Value::Integer(-7)),
        ("1e3", Value::Float(1000.0)),
        ("1.0.0", Value::Text("1.0.0".into())),
        ("1-2", Value::Text("1-2".into())),
        (".", Value::Text(".".into())),
        ("", Value::Null),
    ] {
        assert_eq!(resolve(text), value, "{text}");
    }
    assert!(matches!(resolve("-.inf"), Value::Float(value) if value == f64::NEG_INFINITY));
}
