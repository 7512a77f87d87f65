//! Hostile documents, actions and requests. Each gets a precise refusal in bounded time, an audit entry
//! where an agent is known, and nobody else notices.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod peer;

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use aa_protocol::wire::v1;
use futures::StreamExt;
use peer::{BASH, PATIENCE, Peer, action, bearing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

/// No single hostile document may take longer, unoptimised and beside other work.
const CHECKED_WITHIN: Duration = Duration::from_secs(15);

fn envelope(rules: &str) -> String {
    let rules: String = rules.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: agent-assembly/v1\nkind: Policy\nmetadata: {{name: hostile}}\nspec:\n{rules}"
    )
}

/// `a0: &a0 [x, …]`, and each further one nine times the one before.
fn billion_laughs() -> String {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
        writeln!(text, "a{level}: &a{level} [{aliases}]").unwrap();
    }
    text
}

fn deep(open: &str, close: &str, depth: usize) -> String {
    format!("{}x{}", open.repeat(depth), close.repeat(depth))
}

fn patterns(list: &[String]) -> String {
    let quoted: Vec<_> = list.iter().map(|one| format!("    - '{one}'")).collect();
    envelope(&format!("data:\n  sensitive_patterns:\n{}", quoted.join("\n")))
}

fn condition(cel: &str) -> String {
    let quoted = serde_json::to_string(cel).unwrap();
    envelope(&format!("tools:\n  bash:\n    requires_approval_if: {quoted}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_documents_are_refused_with_their_place_and_soon() {
    let peer = Peer::start().await;
    let token = peer.register("a").await;
    let nested_macro = (0..12).fold("true".to_owned(), |inner, level| {
        format!("[1,2,3,4,5,6,7,8,9].all(x{level}, {inner})")
    });
    let long_sum = vec!["1"; 900].join("+") + " > 0";
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("aliases that multiply", billion_laughs().into(), &["too_complex"]),
        (
            "an alias of itself",
            b"a: &a [*a]\n".to_vec(),
            &["too_complex", "syntax", "unsupported_yaml"],
        ),
        ("deep brackets", deep("[", "]", 100_000).into(), &["too_complex"]),
        ("deep braces", deep("{a: ", "}", 100_000).into(), &["too_complex"]),
        ("deep JSON", deep("{\"a\":", "}", 100_000).replace('x', "1").into(), &["too_complex"]),
        (
            "deep indentation",
            (0..1_000).fold(String::new(), |text, depth| text + &" ".repeat(depth) + "a:\n").into(),
            &["too_complex"],
        ),
        ("deep dashes", "- ".repeat(50_000).into(), &["too_complex"]),
        (
            "many anchors",
            (0..60_000).fold(String::new(), |text, n| text + &format!("- &a{n} x\n")).into(),
            &["too_complex"],
        ),
        ("a duplicate key", b"scope: global\nscope: global\n".to_vec(), &["duplicate_key"]),
        (
            "a duplicate JSON key",
            br#"{"scope": "global", "sc\u006fpe": "global"}"#.to_vec(),
            &["duplicate_key"],
        ),
        ("a merge key", b"base: &b {scope: global}\n<<: *b\n".to_vec(), &["unsupported_yaml"]),
        (
            "a constructor tag",
            b"scope: !!python/object/apply:os.system [id]\n".to_vec(),
            &["unsupported_yaml"],
        ),
        ("two documents", b"scope: global\n---\nscope: global\n".to_vec(), &["multiple_documents"]),
        ("nothing", Vec::new(), &["empty_document"]),
        ("Latin-1", b"description: caf\xe9\n".to_vec(), &["not_utf8"]),
        (
            "UTF-16",
            "scope: global".encode_utf16().flat_map(u16::to_le_bytes).collect(),
            &["not_utf8", "syntax"],
        ),
        ("an overlong NUL", b"description: a\xc0\x80b\n".to_vec(), &["not_utf8"]),
        ("a raw NUL", b"description: a\0b\n".to_vec(), &["syntax"]),
        ("one byte more than a mebibyte", padded((1 << 20) + 1), &["too_large"]),
        (
            "repetitions of repetitions",
            patterns(&["((a{1,1000}){1,1000}){1,1000}".into()]).into(),
            &["invalid_pattern", "pattern_too_large"],
        ),
        (
            "nested stars in deep groups",
            patterns(&[deep("(", ")*", 1_000)]).into(),
            &["invalid_pattern", "pattern_too_large"],
        ),
        (
            "large classes, repeated",
            patterns(&["[\\p{L}\\p{N}]{1000}[\\p{L}\\p{N}]{1000}".into()]).into(),
            &["invalid_pattern", "pattern_too_large"],
        ),
        ("look-around", patterns(&["(?=a)b".into()]).into(), &["invalid_pattern"]),
        ("a back-reference", patterns(&["(a)\\1".into()]).into(), &["invalid_pattern"]),
        (
            "a long pattern",
            patterns(&["a".repeat(100_000)]).into(),
            &["invalid_pattern", "too_long", "pattern_too_large"],
        ),
        (
            "patterns that are large together",
            patterns(&(0..900).map(|n| format!("[a-z]{{900}}{n}[A-Z]{{900}}")).collect::<Vec<_>>())
                .into(),
            &["pattern_too_large", "invalid_pattern", "too_long"],
        ),
        (
            "comprehensions in comprehensions",
            condition(&nested_macro).into(),
            &["invalid_condition", "condition_too_complex"],
        ),
        (
            "deep parentheses",
            condition(&deep("(", ")", 900)).into(),
            &["invalid_condition", "condition_too_complex"],
        ),
        (
            "a long sum",
            condition(&long_sum).into(),
            &["invalid_condition", "condition_too_complex"],
        ),
        (
            "a long condition",
            condition(&" ".repeat(200_000)).into(),
            &["invalid_condition", "condition_too_complex", "too_long"],
        ),
        (
            "many negations",
            condition(&("!".repeat(2_000) + "true")).into(),
            &["invalid_condition", "condition_too_complex"],
        ),
        ("an unknown function", condition("system(\"id\")").into(), &["unknown_function"]),
    ];
    for (what, document, expected) in cases {
        let started = Instant::now();
        let (status, answer) = peer.apply("?name=hostile", document).await;
        let took = started.elapsed();
        assert_eq!(status, 422, "{what}: {answer:.300}");
        let error = &answer["errors"][0];
        let code = error["code"].as_str().unwrap_or_default();
        assert!(expected.contains(&code), "{what}: {code}: {}", error["message"]);
        assert!(error["line"].as_u64().is_some_and(|line| line >= 1), "{what}: {error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.len() < 1_000 && !message.is_empty(), "{what}: {message:.200}");
        assert!(answer.to_string().len() < 600_000, "{what}: the answer is bounded");
        assert!(took < CHECKED_WITHIN, "{what}: took {took:?}");
        peer.check(&token, action(started.elapsed().as_nanos(), BASH)).await.expect("agents go on");
    }
    let page = peer.get("policies").await;
    assert_eq!(page["policies"].as_array().unwrap().len(), 1, "none of them is in force");
    peer.stop().await;
}

/// A valid document of exactly this many bytes.
fn padded(bytes: usize) -> Vec<u8> {
    let mut document = b"scope: global\n".to_vec();
    while document.len() < bytes {
        let line = (bytes - document.len()).min(100);
        document.extend(std::iter::repeat_n(b'#', line - 1));
        document.push(b'\n');
    }
    document
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_up_to_the_bounds_are_taken() {
    let peer = Peer::start().await;
    let token = peer.register("a").await;
    let (status, answer) = peer.apply("?name=large", padded(1 << 20)).await;
    assert_eq!(status, 201, "{answer:.300}");

    let mut rules = String::from("network:\n  allowlist:\n");
    for n in 0..9_998 {
        writeln!(rules, "    - h{n}.example.com").unwrap();
    }
    rules.push_str("tools:\n  bash: {allow: false}\n");
    let started = Instant::now();
    let (status, answer) = peer.apply("", envelope(&rules).into()).await;
    assert_eq!(status, 201, "{answer:.300}");
    assert!(started.elapsed() < CHECKED_WITHIN, "{:?}", started.elapsed());
    let decision = peer.check(&token, action(1, BASH)).await.unwrap();
    assert_eq!(decision.verdict(), v1::Verdict::Deny, "it is in force at once");
    peer.stop().await;
}

// --- actions

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_alike_of_an_allowed_host_is_denied() {
    let peer = Peer::start().await;
    let token = peer.register("a").await;
    let policy = "network: {allowlist: [api.openai.com, '*.slack.com', '*.0.0.1', 192.0.2.7]}\n";
    peer.post("policies?name=net", "application/yaml", policy.to_owned()).await;
    let cases = [
        // The same host in another spelling is the same host.
        ("api.openai.com", true),
        ("API.OpenAI.com", true),
        ("api.openai.com.", true),
        ("api.openai\u{3002}com", true),
        ("\u{ff41}pi.openai.com", true),
        ("a.b.slack.com", true),
        ("192.0.2.7", true),
        // Look-alikes.
        ("\u{430}pi.openai.com", false),
        ("xn--pi-7kc.openai.com", false),
        ("api.openai.com.evil.example", false),
        ("api.openai.com@evil.example", false),
        ("evil.example#api.openai.com", false),
        ("evil.example/api.openai.com", false),
        ("evil.example\\api.openai.com", false),
        ("evil.example?.slack.com", false),
        ("evil.example%00.slack.com", false),
        ("evil.example%2f.slack.com", false),
        ("api%2eopenai.com", false),
        ("api.openai.com..", false),
        ("api..openai.com", false),
        (".slack.com", false),
        ("slack.com", false),
        ("evilslack.com", false),
        ("evil.example .slack.com", false),
        ("evil.example\t.slack.com", false),
        ("evil.example\r\n.slack.com", false),
        ("user:pass@a.slack.com", false),
        ("[a.slack.com]", false),
        ("", false),
        (" ", false),
        (".", false),
        // The same address in the forms that resolvers take and allowlists forget; nor does a glob of
        // names match an address.
        ("192.0.2.007", false),
        ("192.0.519", false),
        ("0xc0.0.2.7", false),
        ("0300.0.2.7", false),
        ("3221225991", false),
        ("0xc0000207", false),
        ("::ffff:192.0.2.7", false),
        ("[::ffff:192.0.2.7]", false),
        ("127.0.0.1", false),
        ("0x7f.0.0.1", false),
        ("0177.0.0.1", false),
        ("127.1", false),
        ("2130706433", false),
        ("[::1]", false),
        ("::", false),
    ];
    for (number, (host, is_allowed)) in cases.iter().enumerate() {
        let connect = v1::action::Kind::NetworkConnect(v1::NetworkConnect {
            host: (*host).to_owned(),
            port: 443,
        });
        let id = (number as u128 + 1).to_be_bytes().to_vec().into();
        let asked = v1::Action { id, kind: Some(connect), ..Default::default() };
        match peer.check(&token, asked).await {
            Ok(decision) => {
                let verdict = decision.verdict() == v1::Verdict::Allow;
                assert_eq!(verdict, *is_allowed, "{host:?}: {:?}", decision.reasons);
            }
            Err(status) => {
                assert_eq!(status.code(), Code::InvalidArgument, "{host:?}: {status}");
                assert!(!is_allowed, "{host:?}: {status}");
            }
        }
    }
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nul_byte_is_refused_in_every_text_of_an_action() {
    use v1::action::Kind;
    let peer = Peer::start().await;
    let token = peer.register("a").await;
    let bad = || "a\0b".to_owned();
    let kinds = [
        Kind::ToolCall(v1::ToolCall { tool: bad(), args_json: "{}".to_owned() }),
        Kind::ToolResult(v1::ToolResult { tool: bad(), content_json: "1".to_owned() }),
        Kind::LlmCall(v1::LlmCall {
            model: bad(),
            messages_json: "[]".to_owned(),
            ..Default::default()
        }),
        Kind::LlmCall(v1::LlmCall { model: "m".to_owned(), host: bad(), ..Default::default() }),
        Kind::LlmResult(v1::LlmResult { model: bad(), ..Default::default() }),
        Kind::NetworkConnect(v1::NetworkConnect { host: bad(), port: 1 }),
        Kind::FileRead(v1::FileRead { path: bad() }),
        Kind::FileWrite(v1::FileWrite { path: bad() }),
        Kind::ProcessExec(v1::ProcessExec { argv: vec!["ls".to_owned(), bad()] }),
        Kind::AgentSpawn(v1::AgentSpawn { child: bad() }),
    ];
    let count = kinds.len();
    for (number, kind) in kinds.into_iter().enumerate() {
        let id = (number as u128 + 1).to_be_bytes().to_vec().into();
        let asked = v1::Action { id, kind: Some(kind.clone()), ..Default::default() };
        let refused = peer.check(&token, asked).await.expect_err(&format!("{kind:?}"));
        assert_eq!(refused.code(), Code::InvalidArgument, "{kind:?}: {refused}");
        assert!(refused.message().contains("NUL"), "{kind:?}: {refused}");
    }
    assert_eq!(peer.refusals("a").await, vec!["malformed_action"; count]);
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arguments_are_taken_to_their_depth_and_no_further() {
    let peer = Peer::start().await;
    let token = peer.register("a").await;
    let nested =
        |depth: usize| format!("{{\"k\":{}1{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
    let call = |number: u128, args_json: String| v1::Action {
        id: number.to_be_bytes().to_vec().into(),
        kind: Some(v1::action::Kind::ToolCall(v1::ToolCall { tool: "t".to_owned(), args_json })),
        ..Default::default()
    };
    peer.check(&token, call(1, nested(64))).await.expect("64 levels are taken");
    let hostile = [
        nested(65),
        nested(1_000_000),
        format!("{{\"k\":{}", "[".repeat(3_000_000)),
        "{\"k\":{".repeat(500_000),
        "{\"k\":1e999999}".to_owned(),
        "{\"k\":\"\\ud800\"}".to_owned(),
        "{\"k\":01}".to_owned(),
        "{\"k\":NaN}".to_owned(),
        "{\"k\":1}{}".to_owned(),
        "{\"k\":1,\"\\u006b\":2}".to_owned(),
        "{\"k\":\"a\nb\"}".to_owned(),
    ];
    let count = hostile.len();
    for (number, args) in hostile.into_iter().enumerate() {
        let shown: String = args.chars().take(40).collect();
        let started = Instant::now();
        let refused = peer.check(&token, call(number as u128 + 2, args)).await;
        let refused = refused.expect_err(&shown);
        assert_eq!(refused.code(), Code::InvalidArgument, "{shown}: {refused}");
        assert!(refused.message().len() < 500, "{shown}: {refused}");
        assert!(started.elapsed() < CHECKED_WITHIN, "{shown}");
    }
    assert_eq!(peer.refusals("a").await, vec!["malformed_action"; count]);
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_condition_lets_an_agents_arguments_cost_others_their_time() {
    let peer = Peer::start().await;
    let token = peer.register("a").await;
    let other = peer.register("b").await;
    let conditions = [
        "args.items.all(x, x == 0)",
        "args.items.all(x, args.items.exists(y, y == x))",
        "args.items.map(x, args.items).size() > 0",
        "args.items.filter(x, x in args.items).size() > 0",
        "args.text.matches('^(x+x+)+y$')",
        "args.items.all(x, args.text.contains(args.text))",
    ];
    let call = |number: u128| v1::Action {
        id: number.to_be_bytes().to_vec().into(),
        kind: Some(v1::action::Kind::ToolCall(v1::ToolCall {
            tool: "bash".to_owned(),
            args_json: format!(
                "{{\"items\":[{}0],\"text\":\"{}\"}}",
                "0,".repeat(200_000),
                "x".repeat(200_000)
            ),
        })),
        ..Default::default()
    };
    for (number, cel) in conditions.into_iter().enumerate() {
        let (status, answer) = peer.apply("", condition(cel).into()).await;
        if status == 422 {
            println!("{cel}: refused as {}", answer["errors"][0]["code"]);
            continue;
        }
        let started = Instant::now();
        let number = number as u128 + 1;
        let hostile = peer.check(&token, call(number));
        let quiet = async {
            peer.check(&other, action(number, BASH)).await.expect("others go on");
            started.elapsed()
        };
        let both = futures::future::join(hostile, quiet);
        let both = tokio::time::timeout(PATIENCE, both).await;
        let (decided, quiet) = both.unwrap_or_else(|_| panic!("{cel}: no end"));
        decided.unwrap();
        println!("{cel}: {:?}, the other {quiet:?}", started.elapsed());
        assert!(started.elapsed() < CHECKED_WITHIN, "{cel}: {:?}", started.elapsed());
    }
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_mebibytes_are_refused_alone_and_in_a_session() {
    let peer = Peer::start().await;
    let token = peer.register("a").await;
    let other = peer.register("b").await;
    let large = || v1::Action {
        kind: Some(v1::action::Kind::ToolCall(v1::ToolCall {
            tool: "t".to_owned(),
            args_json: format!("{{\"k\":\"{}\"}}", "x".repeat(16 << 20)),
        })),
        ..action(1, BASH)
    };
    let refused = peer.check(&token, large()).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    assert!(refused.message().contains("4259840"), "it says the limit: {refused}");

    let frame = v1::ClientFrame { tag: 1, body: Some(v1::client_frame::Body::Check(large())) };
    let frames = futures::stream::iter([frame]).chain(futures::stream::pending());
    let mut answers =
        peer.gateway.clone().session(bearing(frames, &token)).await.unwrap().into_inner();
    let ended = tokio::time::timeout(PATIENCE, answers.next()).await.expect("an answer comes");
    assert_eq!(ended.unwrap().unwrap_err().code(), Code::OutOfRange);
    assert_eq!(peer.refusals("a").await, vec!["message_too_large"; 2]);
    peer.check(&other, action(1, BASH)).await.expect("others go on, on the same connection too");
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_method_and_a_foreign_media_type_are_told_so() {
    let peer = Peer::start().await;
    let token = peer.register("a").await;
    let refused = peer.send_bytes(&token, "DropTables", b"").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    // Frames that lie about their length, or say they are compressed with what nobody agreed on.
    for bytes in [&b"\xff\xff\xff\xff\xff"[..], b"\x0a\xff\xff\xff\xff\x0f"] {
        let refused =
            peer.send_bytes(&token, "CheckPolicy", bytes.to_vec().leak()).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    assert_eq!(peer.refusals("a").await, vec!["undecodable_message"; 2]);
    peer.stop().await;
}

// --- the REST API, below its client

/// Sends bytes over TLS and returns all that comes back until the server closes or has answered.
async fn raw(peer: &Peer, request: &[u8]) -> String {
    let mut stream = peer.tls(&peer.api_url, "http/1.1").await;
    // The server may refuse and close before it has read everything.
    let _ = stream.write_all(request).await;
    let _ = stream.flush().await;
    let mut answer = Vec::new();
    let reading = async {
        let mut chunk = [0; 4_096];
        while let Ok(read @ 1..) = stream.read(&mut chunk).await {
            answer.extend_from_slice(&chunk[..read]);
            if answer.windows(4).any(|part| part == b"\r\n\r\n") {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("an answer or an end comes");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_requests_get_a_status_and_never_an_answer_they_should_not() {
    let peer = Peer::start().await;
    let key = peer.owner_key.clone();
    let authorized = |line: &str, more: &str| {
        format!("{line}\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n{more}\r\n")
            .into_bytes()
    };
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        (
            "giant header",
            authorized("GET /api/v1/health HTTP/1.1", &format!("X-A: {}\r\n", "a".repeat(200_000))),
            &["431"],
        ),
        (
            "many headers",
            authorized("GET /api/v1/health HTTP/1.1", &"X-A: a\r\n".repeat(1_000)),
            &["431"],
        ),
        (
            "giant path",
            authorized(&format!("GET /{} HTTP/1.1", "a".repeat(100_000)), ""),
            &["414", "431"],
        ),
        ("unknown method", authorized("BREW /api/v1/policies HTTP/1.1", ""), &["405"]),
        ("CONNECT", authorized("CONNECT evil.example:443 HTTP/1.1", ""), &["400", "404", "405"]),
        (
            "absolute form",
            authorized("GET http://evil.example/api/v1/nothing HTTP/1.1", ""),
            &["404"],
        ),
        ("traversal", authorized("GET /api/v1/../../etc/passwd HTTP/1.1", ""), &["404", "400"]),
        (
            "encoded traversal",
            authorized("GET /api/v1/policies/%2e%2e%2f%2e%2e%2fetc%2fpasswd HTTP/1.1", ""),
            &["404", "400"],
        ),
        ("encoded NUL", authorized("GET /api/v1/policies/a%00b HTTP/1.1", ""), &["404", "400"]),
        ("raw control byte", authorized("GET /api/v1/\u{1}health HTTP/1.1", ""), &["400"]),
        ("an old version", authorized("GET /api/v1/health HTTP/0.9", ""), &["400", "505", ""]),
        ("a version to come", authorized("GET /api/v1/health HTTP/3.7", ""), &["400", "505"]),
        ("folded header", authorized("GET /api/v1/health HTTP/1.1", "X-A: a\r\n b\r\n"), &["400"]),
        (
            "space before the colon",
            authorized("GET /api/v1/health HTTP/1.1", "Content-Length : 5\r\n"),
            &["400"],
        ),
        (
            "two lengths",
            authorized(
                "POST /api/v1/policies HTTP/1.1",
                "Content-Length: 5\r\nContent-Length: 6\r\n",
            ),
            &["400"],
        ),
        (
            "a negative length",
            authorized("POST /api/v1/policies HTTP/1.1", "Content-Length: -1\r\n"),
            &["400"],
        ),
        (
            "a length past numbers",
            authorized(
                "POST /api/v1/policies HTTP/1.1",
                "Content-Length: 99999999999999999999\r\n",
            ),
            &["400"],
        ),
        (
            "ten gibibytes announced",
            authorized(
                "POST /api/v1/policies HTTP/1.1",
                "Content-Type: application/yaml\r\nContent-Length: 10737418240\r\n",
            ),
            &["413"],
        ),
        (
            "bad chunks",
            [
                authorized(
                    "POST /api/v1/policies HTTP/1.1",
                    "Content-Type: application/yaml\r\nTransfer-Encoding: chunked\r\n",
                ),
                b"zz\r\nabc\r\n".to_vec(),
            ]
            .concat(),
            &["400"],
        ),
        (
            "a chunk of all there is",
            [
                authorized(
                    "POST /api/v1/policies HTTP/1.1",
                    "Content-Type: application/yaml\r\nTransfer-Encoding: chunked\r\n",
                ),
                b"fffffffffffffffff\r\n".to_vec(),
            ]
            .concat(),
            &["400"],
        ),
        ("no host, no key", b"GET /api/v1/policies HTTP/1.1\r\n\r\n".to_vec(), &["400", "401"]),
        (
            "a body nobody may send",
            b"POST /api/v1/policies HTTP/1.1\r\nHost: x\r\nContent-Length: 10737418240\r\n\r\n"
                .to_vec(),
            &["401"],
        ),
        (
            "not HTTP at all",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and more than enough of it\r\n\r\n"
                .to_vec(),
            &["400"],
        ),
        (
            "HTTP/2 where HTTP/1.1 was agreed",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
            &["400", "505", ""],
        ),
    ];
    for (what, request, expected) in cases {
        let answer = raw(&peer, &request).await;
        let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).unwrap_or("");
        assert!(expected.contains(&status), "{what}: {answer:.300}");
        assert!(!answer.contains(&key), "{what}");
    }
    peer.get("health").await;
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_smuggled_request_is_not_answered() {
    let peer = Peer::start().await;
    // Two readers that disagree on where the first ends would see another request in it.
    let smuggled = "GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let request = format!(
        "POST /api/v1/nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}",
        smuggled.len() + 5
    );
    let answer = raw(&peer, request.as_bytes()).await;
    assert!(!answer.contains("200 OK"), "{answer}");
    peer.stop().await;
}
