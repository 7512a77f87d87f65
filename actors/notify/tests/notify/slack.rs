//! Answers that people give by button.

use aa_notify::{
    slack::{Answer, Interaction, follow_up, verify_request},
    webhook::NotVerified,
};
use aa_protocol::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::fixture::{APPROVAL, secret};

/// The example of Slack's documentation.
const SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";
const TIMESTAMP: &str = "1531420618";
const SIGNATURE: &str = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";
const BODY: &str = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow\
    &channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner\
    &command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands\
    %2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN\
    &trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

#[test]
fn the_example_of_slacks_documentation_is_verified() {
    let check = |secret_text: &str, timestamp: &str, signature: &str, body: &str, now: i64| {
        verify_request(&secret(secret_text), timestamp, signature, body.as_bytes(), at(now))
    };
    let now = 1_531_420_618;
    assert_eq!(check(SECRET, TIMESTAMP, SIGNATURE, BODY, now), Ok(()));
    assert_eq!(check(SECRET, TIMESTAMP, SIGNATURE, BODY, now + 300), Ok(()));
    for (far, seconds) in [(now + 301, 301), (now - 400, 400)] {
        let error = check(SECRET, TIMESTAMP, SIGNATURE, BODY, far).unwrap_err();
        assert_eq!(error, NotVerified::Time { seconds });
    }
    let forged = Err(NotVerified::Signature);
    assert_eq!(check("another", TIMESTAMP, SIGNATURE, BODY, now), forged);
    assert_eq!(check(SECRET, "1531420619", SIGNATURE, BODY, now), forged);
    assert_eq!(check(SECRET, TIMESTAMP, SIGNATURE, &BODY[1..], now), forged);
    for signature in ["", "v0=", &SIGNATURE[3..], "v0=zz", &SIGNATURE.replace('a', "g")] {
        let error = check(SECRET, TIMESTAMP, signature, BODY, now).unwrap_err();
        assert!(matches!(error, NotVerified::Header(_)), "{signature}");
    }
    for timestamp in ["", "-1", "1531420618.0", "+1531420618", " 1531420618"] {
        let error = check(SECRET, timestamp, SIGNATURE, BODY, now).unwrap_err();
        assert!(matches!(error, NotVerified::Header(_)), "{timestamp}");
    }
}

fn payload() -> Value {
    json!({
        "type": "block_actions",
        "user": { "id": "U2CERLKJA", "username": "alice", "team_id": "T1" },
        "api_app_id": "A02", "token": "ignored", "trigger_id": "12.34.56",
        "container": { "type": "message" },
        "message": { "text": "approval needed", "blocks": [] },
        "actions": [{
            "type": "button", "block_id": "x", "action_id": "aa_approve_session",
            "value": APPROVAL.to_string(), "action_ts": "1548426417.840180",
        }],
        "response_url": "https://hooks.slack.com/actions/T1/2/RESPONSE-URL-MARKER",
    })
}

fn body(payload: &Value) -> Vec<u8> {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("payload", &payload.to_string());
    form.finish().into_bytes()
}

#[test]
fn a_pressed_button_is_read() {
    let read = Interaction::parse(&body(&payload())).unwrap();
    assert_eq!(read.user, "U2CERLKJA");
    assert_eq!((read.approval, read.answer), (APPROVAL, Answer::ApproveForSession));
    assert_eq!(read.action_ts, "1548426417.840180");
    assert!(!format!("{read:?}").contains("RESPONSE-URL-MARKER"));
}

#[test]
fn what_is_no_button_of_ours_is_refused() {
    for (pointer, value) in [
        ("/type", json!("view_submission")),
        ("/user/id", json!("alice")),
        ("/user/id", json!(null)),
        ("/actions", json!([])),
        ("/actions", json!([{}, {}])),
        ("/actions/0/action_id", json!("aa_other")),
        ("/actions/0/value", json!("not-an-id")),
        ("/actions/0/action_ts", json!("now")),
        ("/response_url", json!("http://hooks.slack.com/actions/x")),
        ("/response_url", json!("https://hooks.slack.com.evil.example/x")),
        ("/response_url", json!("https://hooks.slack.com@evil.example/x")),
        ("/response_url", json!("https://hooks.slack.com:8443/x")),
        ("/response_url", json!("https://evil.example/#hooks.slack.com")),
        ("/response_url", json!(format!("https://hooks.slack.com/{}", "a".repeat(2_000)))),
    ] {
        let mut payload = payload();
        *payload.pointer_mut(pointer).unwrap() = value.clone();
        assert!(Interaction::parse(&body(&payload)).is_err(), "{pointer}: {value}");
    }
    let good = body(&payload());
    let twice = [good.as_slice(), b"&", &good].concat();
    let padded = [good.as_slice(), b"&x=", &[b'a'; 200_000]].concat();
    for body in [b"".as_slice(), b"payload=", b"payload={}", b"other={}", &twice, &padded] {
        assert!(Interaction::parse(body).is_err());
    }
    let doubled = payload().to_string().replacen('{', "{\"type\":\"block_actions\",", 1);
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("payload", &doubled);
    assert!(Interaction::parse(form.finish().as_bytes()).is_err(), "two readers, two meanings");
}

#[test]
fn what_follows_takes_the_place_of_the_buttons_or_is_for_one_person() {
    let read = |body: Vec<u8>| serde_json::from_slice::<Value>(&body).unwrap();
    let all = read(follow_up("approved by <@U1>", true));
    assert_eq!(all["replace_original"], true);
    assert_eq!(all["text"], "approved by &lt;@U1&gt;");
    assert_eq!(read(follow_up("you may not", false))["response_type"], "ephemeral");
}

proptest! {
    #[test]
    fn no_body_panics(text in "payload=.{0,80}", bytes: Vec<u8>) {
        let _ = Interaction::parse(text.as_bytes());
        let _ = Interaction::parse(&bytes);
    }
}
