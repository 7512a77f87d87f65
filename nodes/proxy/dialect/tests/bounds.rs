//! Answers larger than anything is held, and answers that do not keep to their format.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use aa_dialect::{AnswerReader, Dialects, Frame, Head};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header::CONTENT_TYPE};
use serde_json::json;

const MIB: usize = 1 << 20;

fn reader(url: &str, request: &str, kind: &'static str) -> AnswerReader {
    let (host, path) = url.split_at(url.find('/').unwrap());
    let (method, headers) = (Method::POST, HeaderMap::new());
    let head = Head { method: &method, host, path, query: None, headers: &headers };
    let operation = Dialects::built_in().recognise(&head).unwrap();
    let asked = operation.read_request(&head, request.as_bytes()).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    operation.answer(&asked, StatusCode::OK, &headers)
}

fn chat(kind: &'static str) -> AnswerReader {
    let request = r#"{"model":"m","messages":[],"stream":true}"#;
    reader("api.openai.com/v1/chat/completions", request, kind)
}

/// All frames, and the most bytes that were held at a time.
fn read(reader: &mut AnswerReader, answer: &[u8], size: usize) -> (Vec<Frame>, usize) {
    let (mut frames, mut given, mut taken, mut held) = (Vec::new(), 0, 0, 0);
    for piece in answer.chunks(size) {
        given += piece.len();
        let new = reader.push(Bytes::copy_from_slice(piece));
        taken += new.iter().map(|frame| frame.raw.len()).sum::<usize>();
        frames.extend(new);
        held = held.max(given - taken);
    }
    frames.extend(reader.finish());
    let raw: Vec<u8> = frames.iter().flat_map(|frame| frame.raw.to_vec()).collect();
    assert!(raw == answer, "every byte goes on");
    (frames, held)
}

fn texts(frames: &[Frame]) -> String {
    frames.iter().flat_map(|frame| &frame.texts).map(|text| text.text.as_str()).collect()
}

#[test]
fn a_reader_may_move_between_threads() {
    fn assert<T: Send + Sync>() {}
    assert::<AnswerReader>();
    assert::<Dialects>();
    assert::<Frame>();
}

#[test]
fn an_event_past_a_mebibyte_goes_on_and_its_texts_are_seen() {
    let long = "x".repeat(3 * MIB);
    let answer = format!(
        "data: {{\"choices\":[{{\"delta\":{{\"content\":\"{long}secret\"}}}}]}}\n\ndata: \
         {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"after\"}},\"finish_reason\":\"stop\"}}]}}\n\ndata: [DONE]\n\n"
    );
    for size in [1 << 14, 8 * MIB] {
        let mut reader = chat("text/event-stream");
        let (frames, held) = read(&mut reader, answer.as_bytes(), size);
        assert!(held <= MIB + size, "{held} bytes are held");
        let texts = texts(&frames);
        assert!(texts.contains("xsecret") && texts.contains("after"));
        let answer = reader.answer();
        assert!(!answer.is_complete && answer.unread_bytes == 0, "{answer:?}");
        assert_eq!(answer.finish_reason.as_deref(), Some("stop"), "what follows is read");
    }
}

#[test]
fn an_element_past_a_mebibyte_goes_on_and_its_texts_are_seen() {
    let long = "x".repeat(2 * MIB);
    let answer = format!(
        "[{{\"candidates\":[{{\"content\":{{\"parts\":[{{\"text\":\"{long}secret\"}}]}}}}]}},\n\
         {{\"candidates\":[{{\"finishReason\":\"STOP\"}}]}}]"
    );
    let path = "generativelanguage.googleapis.com/v1beta/models/m:streamGenerateContent";
    let mut reader = reader(path, r#"{"contents":[]}"#, "application/json");
    let (frames, held) = read(&mut reader, answer.as_bytes(), 1 << 14);
    assert!(held <= MIB + (1 << 14), "{held} bytes are held");
    assert!(texts(&frames).contains("xsecret"));
    assert_eq!(reader.answer().finish_reason.as_deref(), Some("STOP"));
    assert!(!reader.answer().is_complete);
}

#[test]
fn a_long_json_answer_is_never_held() {
    let long = format!("{}\\n", "y".repeat(1000)).repeat(9 * MIB / 1000);
    let answer =
        json!({ "choices": [], "padding": long, "usage": { "prompt_tokens": 3 } }).to_string();
    let mut reader = chat("application/json");
    let (frames, held) = read(&mut reader, answer.as_bytes(), 1000);
    assert!(held < 16, "{held} bytes are held");
    assert!(texts(&frames).contains("yy\\nyy"));
    let answer = reader.answer();
    assert!(answer.is_content_cut && !answer.is_complete && answer.content.is_null());
}

#[test]
fn what_many_vectors_cost_is_read() {
    let vector = "-0.0123456789,".repeat(1536);
    let item = format!("{{\"embedding\":[{vector}1]}}");
    let items = vec![item; 600].join(",");
    let answer = format!(
        "{{\"data\":[{items}],\"model\":\"e\",\"usage\":{{\"prompt_tokens\":9,\"total_tokens\":9}}}}"
    );
    assert!(answer.len() > 12 * MIB);
    let request = r#"{"model":"m","input":["x"]}"#;
    let mut reader = reader("api.openai.com/v1/embeddings", request, "application/json");
    read(&mut reader, answer.as_bytes(), MIB);
    let answer = reader.answer();
    assert_eq!(answer.usage.map(|usage| usage.input_tokens), Some(9));
    assert_eq!(answer.content["data"], 600);
    assert!(answer.is_complete);
}

#[test]
fn a_vector_is_its_length_in_what_an_answer_says() {
    let path = "bedrock-runtime.us-east-1.amazonaws.com/model/amazon.titan-embed-text-v2:0/invoke";
    let mut reader = reader(path, r#"{"inputText":"x"}"#, "application/json");
    let answer = json!({ "embedding": vec![0.5; 1024], "inputTextTokenCount": 2 }).to_string();
    read(&mut reader, answer.as_bytes(), 1000);
    assert_eq!(reader.answer().content, json!({ "embedding": 1024, "inputTextTokenCount": 2 }));
}

#[test]
fn texts_past_the_bound_are_counted_and_not_kept() {
    let piece = json!({ "choices": [{ "index": 0, "delta": { "content": "z".repeat(MIB / 2) } }] });
    let answer = format!("data: {piece}\n\n").repeat(12);
    let mut reader = chat("text/event-stream");
    read(&mut reader, answer.as_bytes(), MIB);
    let answer = reader.answer();
    assert_eq!(answer.produced_text_bytes, 6 * MIB as u64);
    assert!(answer.is_content_cut);
    assert_eq!(answer.content[0].as_str().map(str::len), Some(4 * MIB));
}

#[test]
fn no_number_of_texts_and_calls_is_too_many() {
    let mut answer = String::new();
    for index in 0..6000 {
        let call =
            json!({ "index": index, "id": "c", "function": { "name": "f", "arguments": "{}" } });
        let delta = json!({ "content": "t", "tool_calls": [call] });
        let event = json!({ "choices": [{ "index": index, "delta": delta }] });
        answer.push_str(&format!("data: {event}\n\n"));
    }
    let mut reader = chat("text/event-stream");
    let (frames, _) = read(&mut reader, answer.as_bytes(), 1 << 16);
    assert!(frames.iter().all(|frame| frame.texts.len() > 1), "each text is seen");
    let answer = reader.answer();
    assert!(answer.tool_calls.len() <= 1024 && answer.is_content_cut && !answer.is_complete);
}

#[test]
fn a_text_that_goes_on_after_its_end_is_another_and_the_answer_is_not_complete() {
    let event = |text: &str, reason: Option<&str>| {
        let choice = json!({ "index": 0, "delta": { "content": text }, "finish_reason": reason });
        format!("data: {}\n\n", json!({ "choices": [choice] }))
    };
    let answer =
        event("se", None) + &event("cr", Some("stop")) + &event("et", None) + "data: [DONE]\n\n";
    let mut reader = chat("text/event-stream");
    let (frames, _) = read(&mut reader, answer.as_bytes(), 10);
    let channel_of = |text| {
        let mut texts = frames.iter().flat_map(|frame| &frame.texts);
        texts.find(|found| found.text == text).unwrap().channel
    };
    assert_eq!(channel_of("se"), channel_of("cr"));
    assert_ne!(channel_of("cr"), channel_of("et"));
    let ended: Vec<u64> = frames.iter().flat_map(|frame| frame.ended.clone()).collect();
    assert_eq!(ended, [channel_of("se")]);
    assert!(!reader.answer().is_complete);
    assert_eq!(reader.answer().content, json!(["secret"]));
}

#[test]
fn bytes_that_are_no_event_stream_go_on_and_are_counted() {
    let path = "bedrock-runtime.us-east-1.amazonaws.com/model/m/converse-stream";
    let mut reader = reader(path, "{}", "application/vnd.amazon.eventstream");
    let noise = vec![0xa5; 5000];
    read(&mut reader, &noise, 7);
    assert_eq!(reader.answer().unread_bytes, 5000);
    assert!(!reader.answer().is_complete);
}

#[test]
fn an_answer_that_is_no_json_is_looked_into_as_text() {
    let mut reader = chat("text/html; charset=utf-8");
    let (frames, _) = read(&mut reader, "<p>Zürich \"is\" 😀</p>\n".as_bytes(), 1);
    assert_eq!(texts(&frames), "<p>Zürich \"is\" 😀</p>\n");
    assert!(!reader.answer().is_complete);
    let mut reader = chat("image/png");
    read(&mut reader, b"\x89PNG", 4);
    assert_eq!(reader.answer().unread_bytes, 4);
}

#[test]
fn without_a_content_type_a_stream_that_was_asked_for_is_read_as_events() {
    let (headers, method) = (HeaderMap::new(), Method::POST);
    let path = "/v1/chat/completions";
    let head =
        Head { method: &method, host: "api.openai.com", path, query: None, headers: &headers };
    let operation = Dialects::built_in().recognise(&head).unwrap();
    let request = br#"{"model":"m","messages":[],"stream":true}"#;
    let asked = operation.read_request(&head, request).unwrap();
    let mut reader = operation.answer(&asked, StatusCode::OK, &headers);
    read(&mut reader, b"data: {\"id\":\"a\",\"choices\":[]}\n\ndata: [DONE]\n\n", 5);
    assert_eq!(reader.answer().id.as_deref(), Some("a"));
    assert!(reader.answer().is_complete);
}
