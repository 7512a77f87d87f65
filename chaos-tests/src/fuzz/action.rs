//! What agents send: protobuf messages and JSON. Either is refused, or it reads back as it was read.

use aa_protocol::{Action, AgentFacts, Decision, action::StringSite, json::parse_json, wire::v1};
use prost::Message;
use serde_json::Value;

/// Reads the bytes as every message of the gateway's protocol and as JSON.
///
/// # Panics
/// When what was accepted does not survive being written and read again.
pub fn target(data: &[u8]) {
    if let Ok(message) = v1::Action::decode(data) {
        action(message);
    }
    if let Ok(frame) = v1::ClientFrame::decode(data) {
        match frame.body {
            Some(v1::client_frame::Body::Check(message)) => action(message),
            Some(v1::client_frame::Body::Record(_) | v1::client_frame::Body::Token(_)) | None => {}
        }
    }
    if let Ok(message) = v1::Decision::decode(data) {
        decision(&message);
    }
    let _ = v1::Event::decode(data);
    let _ = v1::RegisterAgentRequest::decode(data);
    let _ = v1::ServerFrame::decode(data);
    if let Ok(text) = std::str::from_utf8(data) {
        json(text);
    }
}

fn action(message: v1::Action) {
    let Ok((id, trace, action)) = message.into_parts() else { return };
    visit(&action);
    let again = v1::Action::from_parts(id, trace, &action);
    let bytes = again.encode_to_vec();
    let again = v1::Action::decode(bytes.as_slice()).expect("what was encoded decodes");
    assert_eq!(again.into_parts(), Ok((id, trace, action)), "an action survives the wire");
}

fn decision(message: &v1::Decision) {
    let Ok(decision) = message.to_decision() else { return };
    let event = aa_protocol::EventId::from_parts(0, 0);
    let again = v1::Decision::from_parts(&decision, event, 0, false).to_decision();
    assert_eq!(again, Ok(decision), "a decision survives the wire");
}

fn json(text: &str) {
    let _ = serde_json::from_str::<AgentFacts>(text);
    let _ = serde_json::from_str::<Decision>(text);
    if let Ok(action) = serde_json::from_str::<Action>(text) {
        visit(&action);
        let again = serde_json::to_string(&action).expect("an action serializes");
        let again: Action = serde_json::from_str(&again).expect("what was written is read");
        assert_eq!(again, action, "an action survives JSON");
    }
    let strict = parse_json(text);
    let lax = serde_json::from_str::<Value>(text);
    match (strict, lax) {
        (Ok(strict), lax) => assert_eq!(lax.ok(), Some(strict), "strict reading only refuses"),
        (Err(error), Ok(_)) => {
            let known = error.problem.contains("duplicate") || error.problem.contains("deeper");
            assert!(known, "refused for no strict reason: {error}");
        }
        (Err(_), Err(_)) => {}
    }
}

/// Every string has its place, and no place holds a key that was not seen.
fn visit(action: &Action) {
    let mut seen = 0_usize;
    action.visit_strings(&mut |StringSite { pointer, .. }, _| {
        assert!(pointer.starts_with('/'), "{pointer} is no JSON pointer");
        seen += 1;
        true
    });
    let mut stopped = 0_usize;
    action.visit_strings(&mut |_, _| {
        stopped += 1;
        false
    });
    assert_eq!(stopped, seen.min(1), "a visit stops when it is told to");
}
