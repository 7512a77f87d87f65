//! Attacks on secrets and alerts. Each test here shows a defect that is still there, and loses its `ignore` with it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use std::time::Duration;

use aa_governance::{
    AuditKeys, Governance, GovernanceOptions, Grant, Outside, Principal, permission::ManageSecrets,
};
use aa_ledger::MacKey;
use aa_notify::{Channel, Destination, EventKind, Rule, SlackChannel, WebhookChannel};
use aa_protocol::{Timestamp, WorkspaceId};
use aa_runtime::{Clock, ManualClock, Node, NodeOptions, SeededEntropy, ShardId};
use aa_store::MemoryStore;
use aa_vault::{FileKeeper, SecretName, SecretValue};
use world::World;
use zeroize::Zeroizing;

/// Keeps what is logged as an error.
struct Errors(std::sync::Arc<std::sync::Mutex<Vec<String>>>);

struct Line(String);

impl tracing::field::Visit for Line {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!("{field}={value:?} "));
    }
}

impl tracing::Subscriber for Errors {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// What events lead to is committed in portions: a record beyond a transaction would take the shard down with all its
/// tenants, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_destinations_and_large_events_do_not_take_the_shard_down() {
    let world = World::new().await;
    let secret: SecretName = "alerts/key".parse().unwrap();
    let most = aa_notify::rule::MAX_DESTINATIONS;
    for number in 0..most {
        let channel = WebhookChannel {
            url: "http://127.0.0.1:9/x".to_owned(),
            secret: secret.clone(),
            previous_secret: None,
        };
        let destination = Destination {
            fold_seconds: 0,
            ..Destination::new(format!("d{number}"), Channel::Webhook(channel))
        };
        world.governance.set_alert_destination(&world.permit(), destination).await.unwrap();
    }
    for number in 0..most / 20 {
        let rule = Rule {
            name: format!("r{number}"),
            events: [EventKind::Violation].into(),
            destinations: (0..20).map(|at| format!("d{}", number * 20 + at)).collect(),
            ..Rule::all("r", "d0")
        };
        world.governance.set_alert_rule(&world.permit(), rule).await.unwrap();
    }
    let tool = "文".repeat(128);
    world.apply(&format!("tools:\n  \"{tool}\": {{allow: false}}\n")).await;
    let agent = world.register(&"文".repeat(40)).await;
    let action = format!("{{\"kind\":\"tool_call\",\"tool\":\"{tool}\",\"args\":{{}}}}");
    for number in 1..=64 {
        let answer = world.check(&agent, number, &action).await.unwrap();
        assert_eq!(answer.decision.verdict, aa_protocol::Verdict::Deny);
    }
    let epochs = || [0, 1].map(|shard| world.node.live(ShardId(shard)).map(|live| live.epoch));
    let before = epochs();
    let errors = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    tracing::subscriber::set_global_default(Errors(std::sync::Arc::clone(&errors))).unwrap();
    for _ in 0..400 {
        world.clock.advance(Duration::from_millis(10));
        tokio::task::yield_now().await;
    }
    let again = world.check(&agent, 65, &action).await.map(drop);
    let status = world.governance.alerts(&world.permit()).await;
    let summary = status.map(|status| {
        (status.destinations.iter().map(|to| to.waiting).sum::<usize>(), status.problem)
    });
    assert_eq!(
        epochs(),
        before,
        "a shard was reloaded; alerts: {summary:?}, {again:?}, {:#?}",
        errors.lock().unwrap()
    );
}

/// Workspaces share the generations of the key file: those that are behind go to the newest before another is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_master_key_of_many_workspaces_can_always_be_rotated() {
    let directory = tempfile::tempdir().unwrap();
    let noon: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
    let clock = ManualClock::new(noon);
    let options = NodeOptions { name: "n".into(), shards: 2, cluster: None };
    let entropy = std::sync::Arc::new(SeededEntropy::new(7));
    let store = std::sync::Arc::new(MemoryStore::new());
    let node = Node::start(store, std::sync::Arc::new(clock.clone()), entropy, options).await;
    let keys = AuditKeys {
        log_seed: Zeroizing::new([9; 32]),
        mac: MacKey::new("k1", &world::MAC_SECRET).unwrap(),
    };
    let keeper = FileKeeper::create(directory.path().join("master-key.json"), noon).unwrap();
    let outside = Outside { master_key: std::sync::Arc::new(keeper), ..world::outside() };
    let governance = Governance::start(node.unwrap(), keys, outside, GovernanceOptions::default());
    let permits: Vec<_> = (0..40_u128)
        .map(|number| {
            let workspace: WorkspaceId =
                format!("ws-a1b2c3d4-e5f6-7890-abcd-{number:012x}").parse().unwrap();
            let principal = Principal { workspace, key_id: "test".into(), grant: Grant::Owner };
            principal.authorize::<ManageSecrets>().unwrap()
        })
        .collect();
    for permit in &permits {
        governance.set_up_workspace(permit.workspace(), "test").await.unwrap();
        let name: SecretName = "a".parse().unwrap();
        governance
            .set_secret(permit, name, SecretValue::copy_of(b"x").unwrap(), None)
            .await
            .unwrap();
    }
    let mut refused = Vec::new();
    for (number, permit) in permits.iter().enumerate() {
        if let Err(error) = governance.rotate_master_key(permit).await {
            refused.push((number, error.to_string()));
        }
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
    // Forgetting has its chances.
    for _ in 0..50 {
        clock.advance(Duration::from_secs(600));
        tokio::task::yield_now().await;
    }
    let later = governance.rotate_master_key(&permits[1]).await.map(drop);
    assert!(later.is_ok(), "at {}: {later:?}; first refused: {:?}", clock.now(), refused.first());
}

/// Whoever binds Slack members to keys hands out the voices of those keys: only owners may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admin_does_not_answer_in_the_name_of_other_keys() {
    let world = World::new().await;
    let permit = world.permit();
    let (ann, _) = world.governance.create_key(&permit, "ann".into(), Grant::Owner).await.unwrap();
    let (bob, _) = world.governance.create_key(&permit, "bob".into(), Grant::Viewer).await.unwrap();
    let secret = SecretValue::copy_of(b"8f742231b10e8888abcd99yyyzzz85a5").unwrap();
    let name: SecretName = "alerts/signing".parse().unwrap();
    let admin = world.permit_of("eve", Grant::Admin);
    world.governance.set_secret(&admin, name.clone(), secret, None).await.unwrap();
    let channel = SlackChannel {
        url_secret: "alerts/slack".parse().unwrap(),
        signing_secret: Some(name),
        approvers: [("U0EVE0001".to_owned(), ann.id), ("U0EVE0002".to_owned(), bob.id)].into(),
    };
    let destination = Destination::new("mine", Channel::Slack(channel));
    let admin = world.permit_of("eve", Grant::Admin);
    let set = world.governance.set_alert_destination(&admin, destination).await;
    assert!(set.is_err(), "an admin has let Slack ids speak for an owner's and a viewer's key");
}

/// Ids of deliveries are never given twice, and how an attempt of an earlier life ended is not believed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_life_delivered_is_not_taken_for_another_message() {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    let (seen, release) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Notify::new()));
    let (count, held) = (Arc::clone(&seen), Arc::clone(&release));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (count, held) = (Arc::clone(&count), Arc::clone(&held));
            tokio::spawn(async move {
                let mut buffer = vec![0; 16 << 10];
                let _ = stream.read(&mut buffer).await;
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                if number == 1 {
                    held.notified().await;
                }
                let status = if number == 3 { 503 } else { 204 };
                let answer = format!(
                    "HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    let secret: SecretName = "alerts/key".parse().unwrap();
    let value = aa_notify::webhook::WebhookKey::text_form(&Zeroizing::new([5; 32]));
    world.governance.set_secret(&world.permit(), secret.clone(), value, None).await.unwrap();
    let channel = WebhookChannel { url, secret, previous_secret: None };
    let destination =
        Destination { fold_seconds: 0, ..Destination::new("ops", Channel::Webhook(channel)) };
    world.governance.set_alert_destination(&world.permit(), destination).await.unwrap();
    let rule = Rule { events: [EventKind::Violation].into(), ..Rule::all("rule", "ops") };
    world.governance.set_alert_rule(&world.permit(), rule).await.unwrap();
    world.apply("tools:\n  bash: {allow: false}\n").await;
    let agent = world.register("a").await;
    let pass = async || {
        world.clock.advance(Duration::from_millis(50));
        tokio::task::yield_now().await;
    };
    let gets = async |wanted: usize| {
        let waiting = async {
            while seen.load(Ordering::SeqCst) < wanted {
                pass().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(8), waiting).await.is_ok()
    };
    let waits_for = async |wanted: usize, has_problem: bool| {
        let waiting = async {
            loop {
                if let Ok(status) = world.governance.alerts(&world.permit()).await {
                    let ops = &status.destinations[0];
                    if ops.waiting == wanted && ops.problem.is_some() == has_problem {
                        return;
                    }
                }
                pass().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(8), waiting).await.expect("it settles");
    };
    let fail = async || {
        let before = [0, 1].map(|shard| world.node.live(ShardId(shard)).unwrap());
        before.iter().for_each(|live| live.fail());
        for live in before {
            while world.node.live(live.id).is_none_or(|now| now.epoch == live.epoch) {
                pass().await;
            }
        }
    };
    world.check_again(&agent, 1, world::BASH).await;
    assert!(gets(1).await, "the first life sends, and waits for the answer");
    fail().await;
    assert!(gets(2).await, "the second life sends again");
    waits_for(0, false).await;
    fail().await;
    world.check_again(&agent, 2, world::BASH).await;
    assert!(gets(3).await, "the third life sends another message, which is not taken");
    waits_for(1, true).await;
    release.notify_waiters();
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    for _ in 0..20 {
        world.clock.advance(Duration::from_secs(60));
        tokio::task::yield_now().await;
    }
    assert!(gets(4).await, "the message that was not taken is sent again");
}

/// A process takes on what another adds to the key file, before it wraps anything.
#[test]
fn a_generation_that_another_process_adds_opens_here_too() {
    use aa_vault::MasterKey;
    let directory = tempfile::tempdir().unwrap();
    let noon: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
    let path = directory.path().join("master-key.json");
    let one = FileKeeper::create(path.clone(), noon).unwrap();
    let other = FileKeeper::open(path.clone()).unwrap();
    let first = one.id();
    one.renew(noon).unwrap();
    // The other still wraps under the first, which this one forgets an hour later.
    let later = noon.saturating_add(Duration::from_secs(7_200));
    one.forget_unused(&[one.id()].into(), later).unwrap();
    let in_file = FileKeeper::open(path).unwrap();
    assert!(
        in_file.opens(&other.id()),
        "what the other wraps now, under {first}, no process opens after a restart"
    );
    assert!(other.opens(&one.id()));
}
