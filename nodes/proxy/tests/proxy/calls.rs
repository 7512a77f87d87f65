//! Calls of models.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    provider::{Body, Provider, Seen, json as answer_json},
    world::{PATIENCE, World},
};

const ALLOWED: &str = "  network:\n    allowlist: [api.openai.com]\n  capabilities:\n    deny: ['model:gpt-4-forbidden']\n";

fn asking(model: &str, stream: bool) -> Value {
    json!({
        "model": model,
        "messages": [{"role": "user", "content": "What is governance?"}],
        "stream": stream,
        "stream_options": if stream { json!({"include_usage": true}) } else { Value::Null },
    })
}

fn completion() -> Value {
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-4o-2024-08-06",
        "choices": [{"index": 0, "finish_reason": "stop",
            "message": {"role": "assistant", "content": "Deciding before acting."}}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17},
    })
}

fn events() -> Vec<String> {
    let chunk = |choices: Value, usage: Value| {
        json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "gpt-4o-2024-08-06",
            "choices": choices, "usage": usage})
    };
    let said = |text: &str| {
        chunk(json!([{"index": 0, "delta": {"content": text}, "finish_reason": null}]), Value::Null)
    };
    let mut events: Vec<String> = ["Deciding ", "before ", "acting."]
        .into_iter()
        .map(said)
        .chain([
            chunk(json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]), Value::Null),
            chunk(
                json!([]),
                json!({"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}),
            ),
        ])
        .map(|event| format!("data: {event}\n\n"))
        .collect();
    events.push("data: [DONE]\n\n".to_owned());
    events
}

fn streamed(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
    response
}

async fn openai<F>(world: &World, answer: impl Fn(Seen) -> F + Send + Sync + 'static) -> Provider
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let tls = world.authority.server(&["api.openai.com"], &["h2", "http/1.1"]);
    Provider::start(Some(tls), answer).await
}

fn url(provider: &Provider) -> String {
    format!("https://api.openai.com:{}/v1/chat/completions", provider.address.port())
}

#[tokio::test]
async fn a_call_is_decided_made_and_settled() {
    let world = World::start(ALLOWED).await;
    let provider = openai(&world, |_| async { answer_json(&completion()) }).await;
    let answer =
        world.client().post(url(&provider)).json(&asking("gpt-4o", false)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.json::<Value>().await.unwrap(), completion());
    let call = world.entry(|entry| entry["action"]["kind"] == "llm_call").await;
    assert_eq!(call["action"]["model"], "gpt-4o");
    let result = world.entry(|entry| entry["action"]["kind"] == "llm_result").await;
    assert_eq!(result["action"]["input_tokens"], 12, "{result:#}");
    assert_eq!(result["action"]["output_tokens"], 5);
    world.stop().await;
}

#[tokio::test]
async fn a_refused_model_is_told_in_the_providers_words() {
    let world = World::start(ALLOWED).await;
    let provider = openai(&world, |_| async { answer_json(&completion()) }).await;
    let asked = asking("gpt-4-forbidden", false);
    let answer = world.client().post(url(&provider)).json(&asked).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    let body: Value = answer.json().await.unwrap();
    assert!(body["error"]["message"].is_string(), "{body:#}");
    assert!(body.to_string().contains("capabilities.deny"), "{body:#}");
    assert!(provider.seen().is_empty());
    world.stop().await;
}

#[tokio::test]
async fn a_stream_comes_piece_by_piece_and_is_settled_by_its_usage() {
    let world = World::start(ALLOWED).await;
    let (piece, pieces) = mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(1);
    let pieces = std::sync::Mutex::new(Some(pieces));
    let provider = openai(&world, move |_| {
        let pieces = pieces.lock().unwrap().take().unwrap();
        async { streamed(StreamBody::new(ReceiverStream::new(pieces)).boxed_unsync()) }
    })
    .await;
    let mut answer =
        world.client().post(url(&provider)).json(&asking("gpt-4o", true)).send().await.unwrap();
    for event in events() {
        piece.send(Ok(Frame::data(Bytes::from(event.clone())))).await.unwrap();
        // Each is here before the next is sent.
        let got = tokio::time::timeout(PATIENCE, answer.chunk()).await.unwrap().unwrap().unwrap();
        assert_eq!(got, event.as_bytes());
    }
    drop(piece);
    assert_eq!(answer.chunk().await.unwrap(), None);
    let result = world.entry(|entry| entry["action"]["kind"] == "llm_result").await;
    assert_eq!(result["action"]["output_tokens"], 5, "{result:#}");
    world.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_go_unmetered() {
    let world = World::start(ALLOWED).await;
    let (piece, pieces) = mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(1);
    let pieces = std::sync::Mutex::new(Some(pieces));
    let provider = openai(&world, move |_| {
        let pieces = pieces.lock().unwrap().take().unwrap();
        async { streamed(StreamBody::new(ReceiverStream::new(pieces)).boxed_unsync()) }
    })
    .await;
    let mut events = events().into_iter();
    let mut answer =
        world.client().post(url(&provider)).json(&asking("gpt-4o", true)).send().await.unwrap();
    piece.send(Ok(Frame::data(Bytes::from(events.next().unwrap())))).await.unwrap();
    answer.chunk().await.unwrap().unwrap();
    drop(answer);
    for event in events {
        let sent = piece.send(Ok(Frame::data(Bytes::from(event))));
        tokio::time::timeout(Duration::from_secs(20), sent).await.unwrap().unwrap();
    }
    drop(piece);
    let result = world.entry(|entry| entry["action"]["kind"] == "llm_result").await;
    assert_eq!(result["action"]["output_tokens"], 5, "{result:#}");
    world.stop().await;
}

#[tokio::test]
async fn a_whole_answer_with_sensitive_data_never_reaches_the_agent() {
    let policy = ALLOWED.to_owned() + "  data:\n    sensitive_patterns: ['before acting']\n";
    let world = World::start(&policy).await;
    let provider = openai(&world, |_| async { answer_json(&completion()) }).await;
    let answer =
        world.client().post(url(&provider)).json(&asking("gpt-4o", false)).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    let body = answer.text().await.unwrap();
    assert!(body.contains("sensitive_data") && !body.contains("before acting"), "{body}");
    let result = world.entry(|entry| entry["action"]["kind"] == "llm_result").await;
    assert_eq!(result["action"]["output_tokens"], 5, "{result:#}");
    world.stop().await;
}

#[tokio::test]
async fn a_stream_is_cut_before_a_match_that_comes_in_pieces() {
    let more = "\n[screen]\npatterns = ['fore act']\n";
    let world = World::start_with(ALLOWED, more).await;
    let provider =
        openai(&world, |_| async { streamed(crate::provider::whole(events().concat())) }).await;
    let answer =
        world.client().post(url(&provider)).json(&asking("gpt-4o", true)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let said = answer.text().await.unwrap();
    assert!(said.contains("Deciding ") && !said.contains("acting"), "{said}");
    assert!(!said.contains("[DONE]") && said.contains("sensitive_data"), "{said}");
    // What came after the cut is still metered.
    let result = world.entry(|entry| entry["action"]["kind"] == "llm_result").await;
    assert_eq!(result["action"]["output_tokens"], 5, "{result:#}");
    world.stop().await;
}

#[tokio::test]
async fn a_match_in_a_stream_is_redacted_where_that_is_asked_for() {
    let more = "\n[screen]\npatterns = ['fore act']\non_match = \"redact\"\n";
    let world = World::start_with(ALLOWED, more).await;
    let provider =
        openai(&world, |_| async { streamed(crate::provider::whole(events().concat())) }).await;
    let answer =
        world.client().post(url(&provider)).json(&asking("gpt-4o", true)).send().await.unwrap();
    let said = answer.text().await.unwrap();
    assert!(
        said.contains("be[REDACTED]") && said.contains("\"ing.\"") && said.contains("[DONE]"),
        "{said}"
    );
    world.stop().await;
}
