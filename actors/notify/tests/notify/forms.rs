//! The forms in which messages go out, compared with files.

use aa_notify::{Event, Facts, Folded, Message, Security, email::to_mail, slack::to_blocks};
use serde_json::Value;

use crate::fixture::{NOW, approval_needed, email, id, violation};

fn named(event: Event) -> Event {
    event.with_agent("research-agent", Some("platform"))
}

fn summary() -> Message {
    let last = named(violation(7, "bash", NOW));
    let first = aa_protocol::Timestamp::from_micros(NOW.as_micros() - 42_000_000);
    let last = Event { facts: Facts::default(), ..last };
    Message::summary(last, Folded { count: 412, first, last: NOW, mixed: false })
}

fn pretty(json: &[u8]) -> String {
    let json: Value = serde_json::from_slice(json).unwrap();
    serde_json::to_string_pretty(&json).unwrap() + "\n"
}

/// Compares with a file, or writes it where `AA_BLESS` is set.
fn check(file: &str, found: &str) {
    let path = format!("{}/tests/golden/{file}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("AA_BLESS").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(found, expected, "{file}");
}

#[test]
fn webhooks_get_json() {
    let one = Message::of_event(named(violation(7, "bash", NOW)));
    check("violation.json", &(String::from_utf8(one.to_json()).unwrap() + "\n"));
    check("summary.json", &(String::from_utf8(summary().to_json()).unwrap() + "\n"));
    let needed = Message::of_event(approval_needed());
    check("approval.json", &(String::from_utf8(needed.to_json()).unwrap() + "\n"));
}

#[test]
fn slack_gets_blocks_with_buttons_where_answers_can_be_checked() {
    let needed = Message::of_event(approval_needed());
    check("approval.slack.json", &pretty(&to_blocks(&needed, true)));
    assert!(!String::from_utf8(to_blocks(&needed, false)).unwrap().contains("button"));
    check("summary.slack.json", &pretty(&to_blocks(&summary(), true)));
}

#[test]
fn mail_is_plain_text_with_an_id_that_stays() {
    let needed = Message::of_event(approval_needed());
    let channel = email(587, Security::Starttls);
    let mail = |now| to_mail(&needed, &channel, now).unwrap().formatted();
    check("approval.eml", &String::from_utf8(mail(NOW)).unwrap().replace("\r\n", "\n"));
    let later = NOW.saturating_add(std::time::Duration::from_secs(3_600));
    let message_id = |mail: Vec<u8>| {
        let mail = String::from_utf8(mail).unwrap();
        mail.lines().find(|line| line.starts_with("Message-ID:")).unwrap().to_owned()
    };
    assert_eq!(message_id(mail(NOW)), message_id(mail(later)));
}

/// An event of an agent that chose its names with care.
fn hostile() -> Message {
    let event = violation(
        7,
        "x\r\nBcc: victim@example.com\r\n\r\n<!channel> <https://evil.example|here> &",
        NOW,
    );
    Message::of_event(event.with_agent("a\r\nSubject: b <@U0> é \u{202e}", Some("t\n.\nQUIT")))
}

#[test]
fn names_make_no_header_of_a_mail() {
    let mail = to_mail(&hostile(), &email(587, Security::Starttls), NOW).unwrap();
    let text = String::from_utf8(mail.formatted()).unwrap();
    let (headers, _) = text.split_once("\r\n\r\n").unwrap();
    let names: Vec<_> = headers
        .split("\r\n")
        .filter(|line| !line.starts_with([' ', '\t']))
        .map(|line| line.split(':').next().unwrap())
        .collect();
    let expected = [
        "From",
        "Subject",
        "Date",
        "Message-ID",
        "Auto-Submitted",
        "MIME-Version",
        "Content-Type",
        "To",
        "Content-Transfer-Encoding",
    ];
    assert_eq!(names, expected, "{headers}");
    assert_eq!(mail.envelope().to().len(), 2);
}

#[test]
fn names_mention_nobody_and_link_nowhere_in_slack() {
    let blocks = to_blocks(&hostile(), true);
    let blocks: Value = serde_json::from_slice(&blocks).unwrap();
    let text = blocks.to_string();
    assert!(!text.contains("<!channel>") && !text.contains("<https") && !text.contains("<@U0>"));
    assert!(text.contains("&lt;!channel&gt;"));
    assert_eq!(blocks.pointer("/blocks/1/text/verbatim"), Some(&Value::Bool(true)));
}

#[test]
fn every_form_is_bounded() {
    let long = "<&>\"\\é".repeat(1_000);
    let mut event = violation(7, &long, NOW).with_agent(&long, Some(&long));
    for number in 0..100 {
        event.facts.push(&format!("fact-{number}"), &long);
    }
    event.policy = Some(long.chars().take(800).collect());
    let message = Message::of_event(event);
    assert!(message.to_json().len() < 20_000);
    let blocks: Value = serde_json::from_slice(&to_blocks(&message, true)).unwrap();
    for block in blocks["blocks"].as_array().unwrap() {
        let text = block.pointer("/text/text").and_then(Value::as_str).unwrap();
        assert!(text.chars().count() <= 3_000, "{}", text.chars().count());
    }
    assert_eq!(message.id.len(), id(1).to_string().len());
    assert!(summary().id.len() <= 40);
}
