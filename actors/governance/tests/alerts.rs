//! What people who are to be told, and the operators who say of what, can rely on.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use aa_governance::{
    GovernanceError, Grant,
    governance::SlackRefusal,
    notifier::{AlertError, Which},
};
use aa_ledger::Kind;
use aa_notify::{
    Channel, Destination, EventKind, Rule, SlackChannel, WebhookChannel,
    webhook::{self, WebhookKey},
};
use aa_protocol::{Timestamp, Verdict};
use aa_runtime::{ShardId, journal::log_prefix};
use aa_store::{KeyRange, Order};
use aa_vault::{SecretName, SecretValue};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use world::{BASH, PATIENCE, World};
use zeroize::Zeroizing;

const DENY_BASH: &str = "tools:\n  bash: {allow: false}\n";
const ASK_FOR_BASH: &str = "tools:\n  bash: {requires_approval_if: 'true'}\n";
const SIGNING_SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";

/// A request that a receiver got.
#[derive(Clone)]
struct Got {
    headers: http::HeaderMap,
    body: Vec<u8>,
}

/// A receiver of webhooks on this machine. It answers by a script, and 204 past its end.
struct Receiver {
    url: String,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Receiver {
    async fn new(script: impl IntoIterator<Item = u16>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/alerts", listener.local_addr().unwrap());
        let got = Arc::new(Mutex::new(Vec::new()));
        let (all, mut script) = (Arc::clone(&got), script.into_iter().collect::<VecDeque<_>>());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let status = script.pop_front().unwrap_or(204);
                let Some(request) = read(&mut stream).await else { continue };
                all.lock().unwrap().push(request);
                let answer = format!(
                    "HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { url, got }
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// Waits for so many requests, on the world's clock.
    async fn gets(&self, world: &World, count: usize) -> Vec<Got> {
        let waiting = async {
            while self.got().len() < count {
                world.pass().await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the receiver is told");
        self.got()
    }
}

async fn read(stream: &mut tokio::net::TcpStream) -> Option<Got> {
    let mut text = Vec::new();
    let end = loop {
        if let Some(at) = text.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut text).await.ok()? == 0 {
            return None;
        }
    };
    let mut headers = http::HeaderMap::new();
    for line in std::str::from_utf8(&text[..end]).ok()?.lines().skip(1) {
        let Some((name, value)) = line.split_once(": ") else { continue };
        headers.insert(
            http::HeaderName::try_from(name).ok()?,
            http::HeaderValue::try_from(value).ok()?,
        );
    }
    let length: usize = headers.get("content-length")?.to_str().ok()?.parse().ok()?;
    while text.len() < end + length {
        stream.read_buf(&mut text).await.ok()?;
    }
    Some(Got { headers, body: text[end..].to_vec() })
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn kind(&self) -> String {
        self.json()["data"]["kind"].as_str().unwrap().to_owned()
    }
}

fn name(text: &str) -> SecretName {
    text.parse().unwrap()
}

fn key() -> SecretValue {
    WebhookKey::text_form(&Zeroizing::new([5; 32]))
}

impl World {
    async fn pass(&self) {
        self.clock.advance(Duration::from_millis(10));
        tokio::task::yield_now().await;
    }

    async fn secret(&self, at: &str, value: &SecretValue) {
        let value = SecretValue::copy_of(value.expose()).unwrap();
        self.governance.set_secret(&self.permit(), name(at), value, None).await.unwrap();
    }

    async fn webhook(&self, at: &str, receiver: &Receiver) {
        self.secret("alerts/key", &key()).await;
        let url = receiver.url.clone();
        let channel = WebhookChannel { url, secret: name("alerts/key"), previous_secret: None };
        let destination = Destination::new(at, Channel::Webhook(channel));
        self.governance.set_alert_destination(&self.permit(), destination).await.unwrap();
    }

    async fn rule(&self, events: &[EventKind], to: &str) {
        let events = events.iter().copied().collect();
        let rule = Rule { events, ..Rule::all("rule", to) };
        self.governance.set_alert_rule(&self.permit(), rule).await.unwrap();
    }

    async fn dead(&self) -> usize {
        self.governance.alerts(&self.permit()).await.unwrap().dead_letters
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_action_is_told_to_those_who_want_it_and_signed() {
    let world = World::new().await;
    let (wanted, other) = (Receiver::new([]).await, Receiver::new([]).await);
    world.webhook("ops", &wanted).await;
    world.webhook("money", &other).await;
    world.rule(&[EventKind::Violation], "ops").await;
    let budget = Rule {
        events: [EventKind::BudgetThreshold].into(),
        name: "money".to_owned(),
        ..Rule::all("money", "money")
    };
    world.governance.set_alert_rule(&world.permit(), budget).await.unwrap();
    world.apply(DENY_BASH).await;
    let agent = world.register("researcher").await;
    let answer = world.check(&agent, 1, BASH).await.unwrap();
    assert_eq!(answer.decision.verdict, Verdict::Deny);

    let got = wanted.gets(&world, 1).await.remove(0);
    let json = got.json();
    assert_eq!(
        (&json["type"], &json["data"]["agent_name"]),
        (&"alert.violation".into(), &"researcher".into())
    );
    assert_eq!(json["data"]["event"], answer.event.to_string());
    let keys = [WebhookKey::read(&key()).unwrap()];
    let sent: i64 = got.headers[webhook::TIMESTAMP].to_str().unwrap().parse().unwrap();
    let sent = Timestamp::from_micros(sent * 1_000_000);
    let id = webhook::verify(&keys, &got.headers, &got.body, sent, Duration::from_secs(1));
    assert_eq!(id.unwrap(), answer.event.to_string());
    assert!(other.got().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_while_a_receiver_or_the_process_is_down_is_told_later_under_the_same_id() {
    let world = World::new().await;
    let receiver = Receiver::new([503, 503]).await;
    world.webhook("ops", &receiver).await;
    world.rule(&[EventKind::Violation], "ops").await;
    world.apply(DENY_BASH).await;
    let agent = world.register("a").await;
    let first = world.check(&agent, 1, BASH).await.unwrap().event;
    receiver.gets(&world, 1).await;
    let world = world.restarted().await;
    let got = receiver.gets(&world, 3).await;
    let ids: Vec<_> = got.iter().map(|got| got.headers[webhook::ID].to_str().unwrap()).collect();
    assert_eq!(ids, vec![first.to_string(); 3], "at least once, and the receiver can tell");

    // What is decided and committed as a process ends is told by the next.
    let other = r#"{"kind":"tool_call","tool":"bash","args":{"cmd":"rm"}}"#;
    let last = world.check(&agent, 2, other).await.unwrap().event;
    let world = world.restarted().await;
    let got = receiver.gets(&world, 4).await;
    assert_eq!(got[3].json()["data"]["kind"], "violation");
    assert!(
        got[3].json()["data"]["folded"].is_object()
            || got[3].json()["data"]["event"] == last.to_string()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_equal_events_is_told_in_two_messages_and_none_is_lost() {
    let world = World::new().await;
    let receiver = Receiver::new([]).await;
    world.webhook("ops", &receiver).await;
    world.rule(&[EventKind::Violation], "ops").await;
    world.apply(DENY_BASH).await;
    let agent = world.register("a").await;
    for action in 1..=50 {
        world.check(&agent, action, BASH).await.unwrap();
    }
    let got = receiver.gets(&world, 2).await;
    assert_eq!(got.len(), 2);
    assert_eq!(got[0].json()["data"]["folded"], Value::Null);
    assert_eq!(got[1].json()["data"]["folded"]["count"], 49);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_receiver_refuses_for_good_is_a_dead_letter_that_an_operator_sends_again() {
    let world = World::new().await;
    let receiver = Receiver::new([400, 400]).await;
    world.webhook("ops", &receiver).await;
    world.rule(&[EventKind::Violation], "ops").await;
    world.apply(DENY_BASH).await;
    let agent = world.register("a").await;
    world.check(&agent, 1, BASH).await.unwrap();
    let burying = async {
        while world.dead().await == 0 {
            world.pass().await;
        }
    };
    tokio::time::timeout(PATIENCE, burying).await.expect("it is given up");
    let world = world.restarted().await;
    assert_eq!(world.dead().await, 1);
    let letters = world.governance.dead_letters(&world.permit(), None, 10).await.unwrap();
    assert_eq!(letters[0].delivery.attempts, 1, "what is refused for good is not tried again");
    let problem = letters[0].delivery.problem.clone().unwrap();
    assert!(problem.contains("400"), "{problem}");

    let permit = world.permit();
    let replay = |which| world.governance.replay_dead_letters(&permit, which);
    let none = replay(Which::One(99)).await.unwrap_err();
    assert!(matches!(none, GovernanceError::Alert(AlertError::NoDeadLetter(99))), "{none}");
    assert_eq!(replay(Which::Of("elsewhere".to_owned())).await.unwrap(), 0);
    assert_eq!(replay(Which::All).await.unwrap(), 1);
    receiver.gets(&world, 2).await;
    let burying = async {
        while world.dead().await == 0 {
            world.pass().await;
        }
    };
    tokio::time::timeout(PATIENCE, burying).await.expect("it is given up again");
    assert_eq!(replay(Which::One(letters[0].delivery.id)).await.unwrap(), 1);
    receiver.gets(&world, 3).await;
    assert_eq!(world.dead().await, 0);
    let entries = world.verified_entries().await;
    let told: Vec<_> = entries
        .iter()
        .filter(|entry| entry.kind == Kind::Alert)
        .map(|entry| entry.detail["change"].as_str())
        .collect();
    let expected =
        ["destination_set", "rule_set", "undelivered", "replayed", "undelivered", "replayed"];
    assert_eq!(told, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_before_the_first_rule_is_not_told_and_what_came_after_the_last_is_not_either() {
    let world = World::new().await;
    let receiver = Receiver::new([]).await;
    world.apply(DENY_BASH).await;
    let agent = world.register("a").await;
    world.check(&agent, 1, BASH).await.unwrap();
    world.webhook("ops", &receiver).await;
    world.rule(&[], "ops").await;
    world
        .governance
        .set_agent_status(&world.permit(), agent.agent, true, "odd".into())
        .await
        .unwrap();
    let got = receiver.gets(&world, 1).await;
    assert_eq!(got[0].kind(), "agent_suspended");
    world.governance.remove_alert_rule(&world.permit(), "rule".into()).await.unwrap();
    world
        .governance
        .set_agent_status(&world.permit(), agent.agent, false, String::new())
        .await
        .unwrap();
    let error = world.governance.test_alert_destination(&world.permit(), "none".into()).await;
    assert!(matches!(error, Err(GovernanceError::Alert(AlertError::NoDestination(_)))));
    world.governance.test_alert_destination(&world.permit(), "ops".into()).await.unwrap();
    let kinds: Vec<_> = receiver.got().iter().map(Got::kind).collect();
    assert_eq!(kinds, ["agent_suspended", "test"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_inside_is_refused_unless_it_is_allowed() {
    let world = World::new().await;
    world.secret("alerts/key", &key()).await;
    for url in [
        "https://10.0.0.1/x",
        "https://[fe80::1]/x",
        "https://169.254.169.254/x",
        "http://hooks.example.com/x",
    ] {
        let channel = WebhookChannel {
            url: url.to_owned(),
            secret: name("alerts/key"),
            previous_secret: None,
        };
        let destination = Destination::new("inside", Channel::Webhook(channel));
        let error =
            world.governance.set_alert_destination(&world.permit(), destination).await.unwrap_err();
        assert!(
            matches!(error, GovernanceError::Alert(AlertError::Guarded(..) | AlertError::Book(_))),
            "{url}: {error}"
        );
    }
}

/// A press of a button as Slack sends it, and its headers.
fn press(world: &World, user: &str, action: &str, approval: &str) -> (String, String, Vec<u8>) {
    let payload = serde_json::json!({
        "type": "block_actions",
        "user": {"id": user},
        "response_url": "https://hooks.slack.com/actions/T/1/x",
        "actions": [{"action_id": action, "value": approval, "action_ts": "1.2"}],
    });
    let escaped: String = payload.to_string().bytes().map(|byte| format!("%{byte:02x}")).collect();
    let body = format!("payload={escaped}").into_bytes();
    let timestamp = aa_runtime::Clock::now(&world.clock).unix_seconds().to_string();
    let mut code = Hmac::<sha2::Sha256>::new_from_slice(SIGNING_SECRET.as_bytes()).unwrap();
    code.update(format!("v0:{timestamp}:").as_bytes());
    code.update(&body);
    let code: String =
        code.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    (timestamp, format!("v0={code}"), body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_button_in_slack_answers_for_the_key_it_stands_for_and_only_when_slack_signed_it() {
    let world = World::new().await;
    let permit = world.permit();
    let (approver, _) =
        world.governance.create_key(&permit, "ann".into(), Grant::Owner).await.unwrap();
    let owner = world.permit_of(&approver.id, Grant::Owner);
    let signing = || SecretValue::copy_of(SIGNING_SECRET.as_bytes()).unwrap();
    world.governance.set_secret(&owner, name("alerts/signing"), signing(), None).await.unwrap();
    let channel = SlackChannel {
        url_secret: name("alerts/slack"),
        signing_secret: Some(name("alerts/signing")),
        approvers: [("U012AB3CD".to_owned(), approver.id.clone())].into(),
    };
    let destination = Destination::new("team", Channel::Slack(channel));
    world.governance.set_alert_destination(&world.permit(), destination).await.unwrap();
    world.apply(ASK_FOR_BASH).await;
    let agent = world.register("a").await;
    let approval = world.check(&agent, 1, BASH).await.unwrap().approval.unwrap();
    let id = approval.to_string();
    let state = async |expected: &str| {
        let waiting = async {
            loop {
                let record = world.governance.approval(&world.permit(), approval).await.unwrap();
                if record.state() == expected {
                    return record;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect(expected)
    };

    let (timestamp, signature, body) = press(&world, "U012AB3CD", "aa_approve", &id);
    let take = |at: &str, signed: (&str, &str), body: Vec<u8>| {
        let (governance, workspace) = (world.governance.clone(), world.workspace);
        let (at, timestamp, signature) = (at.to_owned(), signed.0.to_owned(), signed.1.to_owned());
        async move {
            governance.take_slack_interaction(workspace, &at, (&timestamp, &signature), &body).await
        }
    };
    let forged = signature.replace("v0=", "v0=0").chars().take(signature.len()).collect::<String>();
    for (at, timestamp, signature) in [
        ("team", timestamp.as_str(), forged.as_str()),
        ("team", "1", signature.as_str()),
        ("other", timestamp.as_str(), signature.as_str()),
    ] {
        let refused = take(at, (timestamp, signature), body.clone()).await.unwrap_err();
        assert!(matches!(refused, SlackRefusal::NotSigned), "{refused}");
    }
    // Somebody in the channel who stands for no key.
    let (at, signed, stranger) = press(&world, "U999999999", "aa_approve", &id);
    take("team", (&at, &signed), stranger).await.unwrap();
    state("pending").await;

    take("team", (&timestamp, &signature), body).await.unwrap();
    let record = state("approved").await;
    assert_eq!(record.answers[0].reason, "by U012AB3CD in Slack");
    // An old press, replayed.
    world.clock.advance(Duration::from_secs(301));
    let (_, _, body) = press(&world, "U012AB3CD", "aa_approve", &id);
    let refused = take("team", (&timestamp, &signature), body).await.unwrap_err();
    assert!(matches!(refused, SlackRefusal::NotSigned), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_changed_in_the_store_is_found_and_told() {
    let world = World::new().await;
    let receiver = Receiver::new([]).await;
    world.webhook("ops", &receiver).await;
    world.rule(&[EventKind::AuditVerificationFailed], "ops").await;
    world.apply(DENY_BASH).await;
    let agent = world.register("a").await;
    world.check(&agent, 1, BASH).await.unwrap();
    // Sealed into the tree before it is changed.
    world.export().await;
    let mut changed = false;
    for shard in 0..2 {
        let mut txn = world.store.begin().await.unwrap();
        let range = KeyRange::prefix(&log_prefix(world.workspace, ShardId(shard)));
        for (at, value) in txn.range_snapshot(&range, 100, Order::Forward).await.unwrap() {
            let text = String::from_utf8_lossy(&value[8..]).into_owned();
            if text.contains(r#""tool_denied""#) {
                let text = text.replace("tool_denied", "tool_dining");
                txn.put(at, Bytes::from([&value[..8], text.as_bytes()].concat()));
                changed = true;
            }
        }
        txn.commit().await.unwrap();
    }
    assert!(changed);
    world.clock.advance(Duration::from_secs(301));
    // The entry itself may be read for events before or after it is changed.
    let waiting = async {
        loop {
            let titles =
                receiver.got().into_iter().map(|got| got.json()["data"]["title"].to_string());
            if titles.into_iter().any(|title| title.contains("the audit log did not verify")) {
                return;
            }
            world.pass().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("people are told");
    let got = receiver.got();
    assert!(got.iter().all(|got| got.kind() == "audit_verification_failed"));
    assert!(got.iter().all(|got| got.json()["data"]["severity"] == "critical"));
}
