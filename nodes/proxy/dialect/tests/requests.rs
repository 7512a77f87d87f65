//! What is recognised, what is refused as unreadable, and how refusals look.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "support/exchange.rs"]
#[allow(dead_code, reason = "the other tests read answers")]
mod exchange;

use std::{env, fs, path::Path, time::Duration};

use aa_dialect::{
    DialectName, Dialects, Head, Operation, Refusal, RefusalCode, Unreadable, refuse_plain,
};
use aa_protocol::Action;
use bytes::Bytes;
use exchange::{all, dialects};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::{Map, Value, json};

const CHAT: &str = "https://api.openai.com/v1/chat/completions";
const MESSAGES: &str = "https://api.anthropic.com/v1/messages";
const GENERATE: &str =
    "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-pro:generateContent";

fn recognise(method: &Method, url: &str, headers: &HeaderMap) -> Option<Operation> {
    let rest = url.strip_prefix("https://").unwrap();
    let (host, target) = rest.split_at(rest.find('/').unwrap());
    let (path, query) =
        target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    dialects().recognise(&Head { method, host, path, query, headers })
}

fn read(url: &str, body: &str) -> Result<aa_dialect::Asked, Unreadable> {
    let (method, headers) = (Method::POST, HeaderMap::new());
    let operation = recognise(&method, url, &headers).expect(url);
    let rest = url.strip_prefix("https://").unwrap();
    let (host, path) = rest.split_at(rest.find('/').unwrap());
    let head = Head { method: &method, host, path, query: None, headers: &headers };
    operation.read_request(&head, body.as_bytes())
}

fn denied() -> Refusal {
    Refusal {
        code: RefusalCode::Denied,
        rule: Some("starter spec.tools.bash.allow".to_owned()),
        message: "the model `gpt-5` is not allowed".to_owned(),
        next: "Use `gpt-4o`, or ask the policy's owner".to_owned(),
        event_id: Some("01J8ZQ4X5N".to_owned()),
        retry_after: None,
    }
}

#[test]
fn calls_are_recognised_from_host_and_path() {
    for (url, name) in [
        ("https://api.openai.com/v1/chat/completions", "openai.chat"),
        ("https://eu.api.openai.com//v1/./chat%2fCompletions/", "openai.chat"),
        ("https://api.openai.com/v1/responses", "openai.responses"),
        ("https://api.openai.com/v1/completions", "openai.completions"),
        ("https://api.openai.com/v1/embeddings", "openai.embeddings"),
        ("https://api.openai.com/v1/images/generations", "openai.images"),
        ("https://api.anthropic.com/v1/messages/batches", "anthropic.batches"),
        ("https://r.openai.azure.com/openai/deployments/d/chat/completions", "azure.chat"),
        ("https://r.openai.azure.com/openai/v1/embeddings", "azure.embeddings"),
        ("https://r.services.ai.azure.com/anthropic/v1/messages", "azure.messages"),
        ("https://api.anthropic.com/v1/messages", "anthropic.messages"),
        ("https://api.anthropic.com/v1/messages/count_tokens", "anthropic.count_tokens"),
        (GENERATE, "gemini.generate"),
        (
            "https://generativelanguage.googleapis.com/v1/models/g:countTokens",
            "gemini.count_tokens",
        ),
        ("https://generativelanguage.googleapis.com/v1beta/openai/chat/completions", "gemini.chat"),
        ("https://bedrock-runtime.us-east-1.amazonaws.com/model/a.b/converse", "bedrock.converse"),
        (
            "https://vpce-1.bedrock-runtime.us-east-1.vpce.amazonaws.com/model/a/invoke",
            "bedrock.invoke",
        ),
        ("https://api.mistral.ai/v1/agents/completions", "mistral.chat"),
        ("https://api.cohere.com/v2/chat", "cohere.chat"),
        ("https://api.groq.com/openai/v1/chat/completions", "compatible.chat"),
        ("https://api.fireworks.ai/inference/v1/chat/completions", "compatible.chat"),
        ("https://api.deepseek.com/anthropic/v1/messages", "compatible.messages"),
        ("https://llm.example.com/team/v1/chat/completions", "openai.chat"),
        ("https://mcp.example.com/sse/messages", "mcp"),
    ] {
        let operation = recognise(&Method::POST, url, &HeaderMap::new()).expect(url);
        assert_eq!(operation.name(), name, "{url}");
    }
}

#[test]
fn what_is_no_call_is_not_recognised() {
    for url in [
        "https://api.openai.com/v1/models",
        "https://api.openai.com/v1/threads/t/messages",
        "https://example.com/v1/chat/completions",
        "https://xapi.openai.com/v1/chat/completions",
        "https://api.openai.com.example.com/v1/chat/completions",
        "https://llm.example.com/other/v1/chat/completions",
        "https://bedrock.us-east-1.amazonaws.com/model/a/converse",
    ] {
        assert!(recognise(&Method::POST, url, &HeaderMap::new()).is_none(), "{url}");
    }
    assert!(recognise(&Method::GET, CHAT, &HeaderMap::new()).is_none());
    let mut overriding = HeaderMap::new();
    overriding.insert("x-http-method-override", HeaderValue::from_static("post"));
    assert!(recognise(&Method::GET, GENERATE, &overriding).is_some(), "Google takes it for a POST");
    assert_eq!(dialects().speaks("api.openai.com", "/v1/models"), Some(DialectName::OpenAi));
}

#[test]
fn mcp_is_recognised_from_its_headers_and_its_body() {
    let mut headers = HeaderMap::new();
    let url = "https://tools.example.com/anything";
    assert!(recognise(&Method::POST, url, &headers).is_none());
    let message = br#"{"params":{"name":"x"},"jsonrpc":"2.0"}"#;
    let (method, host, path) = (Method::POST, "tools.example.com", "/anything");
    let head = Head { method: &method, host, path, query: None, headers: &headers };
    assert!(dialects().needs_body(&head));
    assert_eq!(dialects().recognise_body(&head, message).map(|found| found.name()), Some("mcp"));
    assert!(dialects().recognise_body(&head, br#"{"name":"jsonrpc"}"#).is_none());
    headers.insert("mcp-session-id", HeaderValue::from_static("s"));
    assert_eq!(recognise(&Method::POST, url, &headers).unwrap().name(), "mcp");
    assert_eq!(recognise(&Method::GET, url, &headers).unwrap().name(), "mcp.listen");
    assert!(recognise(&Method::DELETE, url, &headers).is_none());
    assert_eq!(
        recognise(&Method::POST, CHAT, &headers).unwrap().name(),
        "openai.chat",
        "no header turns a provider's call into something else"
    );
}

#[test]
fn a_rule_for_a_host_names_what_is_wrong_with_it() {
    let with = |host, prefix| Dialects::built_in().with_host(host, DialectName::OpenAi, prefix);
    for host in ["", "https://x.com", "x.com:443", "x.com/v1", "a.*.com", "x y"] {
        let error = with(host, "").unwrap_err();
        assert!(error.to_string().contains("is no host"), "{error}");
    }
    for prefix in ["v1", "/v1?x", "/%76"] {
        let error = with("x.com", prefix).unwrap_err();
        assert!(error.to_string().contains("is no path prefix"), "{error}");
    }
    assert!(
        with("*.x.com", "/v1").is_ok() && with("::1", "").is_ok() && with("10.0.0.1", "").is_ok()
    );
    let unknown = "gpt".parse::<DialectName>().unwrap_err();
    assert!(unknown.to_string().contains("openai, azure"), "{unknown}");
    for dialect in DialectName::ALL {
        assert_eq!(dialect.as_str().parse(), Ok(dialect));
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let deep = format!(r#"{{"model":"m","messages":{}1{}}}"#, "[".repeat(80), "]".repeat(80));
    for (url, body) in [
        (CHAT, r#"{"model":"cheap","messages":[],"model":"dear"}"#),
        (CHAT, r#"{"model":"cheap","messages":[],"m\u006fdel":"dear"}"#),
        (CHAT, r#"{"model":"cheap","messages":[],"Model":"dear"}"#),
        (CHAT, r#"{"model":"cheap","messages":[{"content":"a","content":"b"}]}"#),
        (CHAT, r#"{"model":"cheap","models":["dear"],"messages":[]}"#),
        (CHAT, r#"{"model":["cheap"],"messages":[]}"#),
        (CHAT, r#"{"model":"","messages":[]}"#),
        (CHAT, r#"{"model":"a\nb","messages":[]}"#),
        (CHAT, r#"{"messages":[]}"#),
        (CHAT, r#"{"model":"m"}"#),
        (CHAT, r#"{"model":"m","messages":[],"stream":"yes"}"#),
        (CHAT, r#"{"model":"m","messages":[],"max_tokens":"1"}"#),
        (CHAT, r#"{"model":"m","messages":[],"max_tokens":-1}"#),
        (CHAT, r#"{"model":"m","messages":[],"n":1.5}"#),
        (CHAT, r#"{"model":"m","messages":[]}{"model":"n","messages":[]}"#),
        (CHAT, r#"[{"model":"m","messages":[]}]"#),
        (CHAT, "model=m&messages="),
        (CHAT, ""),
        (CHAT, &deep),
        (MESSAGES, r#"{"model":"m","messages":[],"MAX_TOKENS":1}"#),
        ("https://api.anthropic.com/v1/messages/batches", r#"{"requests":[]}"#),
        ("https://api.anthropic.com/v1/messages/batches", r#"{"requests":[{"custom_id":"a"}]}"#),
        (GENERATE, r#"{"contents":[],"model":"models/gemini-dear"}"#),
        (GENERATE, r#"{"contents":[],"generationConfig":{},"generation_config":{}}"#),
        (GENERATE, r#"{"generationConfig":{"maxOutputTokens":1,"max_output_tokens":9}}"#),
        ("https://api.openai.com/v1/embeddings", r#"{"model":"m","input":[[1,2]]}"#),
        ("https://api.openai.com/v1/completions", r#"{"model":"m","prompt":[1,2]}"#),
        (
            "https://mcp.example.com/sse",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","Method":"ping"}"#,
        ),
        (
            "https://mcp.example.com/sse",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#,
        ),
        (
            "https://mcp.example.com/sse",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":[1]}}"#,
        ),
        ("https://mcp.example.com/sse", r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#),
        ("https://mcp.example.com/sse", r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#),
        ("https://mcp.example.com/sse", r#"{"jsonrpc":"2.0","id":1}"#),
        ("https://mcp.example.com/sse", "[]"),
        (
            "https://mcp.example.com/sse",
            r#"[{"jsonrpc":"2.0","id":1,"method":"a"},{"jsonrpc":"2.0","id":1,"method":"b"}]"#,
        ),
    ] {
        let error = read(url, body).expect_err(body);
        assert!(!error.next.is_empty() && !error.place.is_empty(), "{error}");
        assert!(!error.to_string().contains("dear"), "nothing is quoted: {error}");
    }
    let error = read(CHAT, r#"{"model":"a","model":"b"}"#).unwrap_err();
    assert_eq!(error.refusal().code, RefusalCode::BadRequest);
    assert!(error.refusal().next.starts_with("Please send one JSON value"));
    assert_eq!(
        error.to_string(),
        "the openai.chat request was not read: duplicate object key at line 1, column 25; send one JSON \
         value in UTF-8, each key once, nested at most 64 deep"
    );
}

#[test]
fn the_query_is_part_of_the_prompt_but_for_credentials() {
    let (method, headers) = (Method::POST, HeaderMap::new());
    let head = Head {
        method: &method,
        host: "api.openai.com",
        path: "/v1/chat/completions",
        query: Some("key=sk-1&note=my+secret%21&api-version=1"),
        headers: &headers,
    };
    let operation = dialects().recognise(&head).unwrap();
    let asked = operation.read_request(&head, br#"{"model":"m","messages":[]}"#).unwrap();
    let [Action::LlmCall { messages, .. }] = asked.actions.as_slice() else { panic!("{asked:?}") };
    assert_eq!(messages["query"], json!({ "note": "my secret!" }));
}

#[test]
fn no_content_shows_in_debug_output() {
    for exchange in all() {
        let (operation, asked) = exchange.asked();
        let (read, frames) = exchange.read_answer(&exchange.answer, &[50]);
        let shown = format!("{operation:?} {asked:?} {:?} {frames:?}", read.answer);
        for secret in ["Paris", "Oslo", "Hello", "weather in", "72°F", "San Francisco"] {
            assert!(!shown.contains(secret), "{}: {shown}", exchange.name);
        }
    }
}

/// `UPDATE_GOLDEN=1` writes them.
#[test]
fn refusals_look_as_the_golden_file_says() {
    let refusals = [
        denied(),
        Refusal {
            code: RefusalCode::ApprovalRequired {
                approval_id: Some("ap-1".to_owned()),
                timeout: Some(Duration::from_secs(300)),
            },
            ..denied()
        },
        Refusal {
            code: RefusalCode::Unavailable,
            retry_after: Some(Duration::from_millis(200)),
            rule: None,
            event_id: None,
            ..denied()
        },
    ];
    let mut golden = Map::new();
    let mut seen = Vec::new();
    for exchange in all() {
        let (operation, asked) = exchange.asked();
        if seen.contains(&operation.name()) {
            continue;
        }
        seen.push(operation.name());
        for refusal in &refusals {
            let refused = operation.refuse(Some(&asked), refusal);
            let key = format!("{} {}", operation.name(), refusal.code.as_str());
            golden.insert(key, shown(&refused));
            let is_final = !refusal.code.may_pass_later();
            let retried = [408, 409, 429].contains(&refused.status.as_u16())
                || refused.status.is_server_error();
            assert!(!(is_final && retried), "{}", operation.name());
        }
    }
    for refusal in &refusals {
        golden.insert(format!("plain {}", refusal.code.as_str()), shown(&refuse_plain(refusal)));
    }
    let golden = Value::Object(golden);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/refusals.golden.json");
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, format!("{golden:#}\n")).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    let expected: Option<Value> = serde_json::from_str(&expected).ok();
    assert!(Some(&golden) == expected.as_ref(), "refused as\n{golden:#}");
}

fn shown(refused: &aa_dialect::Refused) -> Value {
    let headers = refused.headers.iter();
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().into()));
    json!({
        "status": refused.status.as_u16(),
        "headers": headers.collect::<Map<_, _>>(),
        "body": serde_json::from_slice::<Value>(&refused.body).unwrap(),
    })
}

#[test]
fn an_mcp_refusal_answers_every_id() {
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}},
        {"jsonrpc":"2.0","id":"b","method":"ping"},{"jsonrpc":"2.0","method":"note"}]"#;
    let mut headers = HeaderMap::new();
    headers.insert("accept", HeaderValue::from_static("application/json, text/event-stream"));
    let method = Method::POST;
    let head = Head {
        method: &method,
        host: "mcp.example.com",
        path: "/sse",
        query: None,
        headers: &headers,
    };
    let operation = dialects().recognise(&head).unwrap();
    let asked = operation.read_request(&head, batch.as_bytes()).unwrap();
    let refused = operation.refuse(Some(&asked), &denied());
    assert_eq!(refused.status, StatusCode::OK);
    let body: Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!(body[0]["id"], 1);
    assert_eq!(body[1]["id"], "b");
    assert_eq!(body[1]["error"]["data"]["agent_assembly"]["code"], "denied");
    assert_eq!(body.as_array().unwrap().len(), 2);

    // The older transport reads no answer to its POST but the status.
    let headers = HeaderMap::new();
    let head = Head { headers: &headers, ..head };
    let asked = operation.read_request(&head, batch.as_bytes()).unwrap();
    assert_eq!(operation.refuse(Some(&asked), &denied()).status, StatusCode::FORBIDDEN);
    assert_eq!(operation.refuse(None, &denied()).status, StatusCode::FORBIDDEN);
}

#[test]
fn a_stream_that_is_cut_ends_with_an_error_its_reader_knows() {
    let mut cut_streams = 0;
    for exchange in all() {
        if !exchange.status.is_success() {
            continue;
        }
        for at in [0, exchange.answer.len() / 2, exchange.answer.len()] {
            let mut reader = exchange.reader();
            let mut sent = Vec::new();
            for frame in reader.push(Bytes::copy_from_slice(&exchange.answer[..at])) {
                sent.extend_from_slice(&frame.raw);
            }
            let Some(end) = reader.cut(&denied()) else { continue };
            cut_streams += 1;
            sent.extend_from_slice(&end);
            let read = exchange.read_answer(&sent, &[9]).0;
            let is_told = read.answer.error.is_some()
                || read.answer.finish_reason.as_deref() == Some("ERROR")
                || read.answer.tool_results.iter().any(|result| result.is_error)
                || exchange.name.starts_with("mcp");
            assert!(is_told, "{} at {at}: {:?}", exchange.name, read.answer);
            assert_eq!(read.answer.unread_bytes, 0, "{} at {at}", exchange.name);
            let code = String::from_utf8_lossy(&end).into_owned();
            assert!(code.contains("agent_assembly"), "{}: {code}", exchange.name);
        }
    }
    assert!(cut_streams > 40, "{cut_streams}");
}
