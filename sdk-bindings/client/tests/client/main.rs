//! What callers of the client rely on, against a gateway scripted to misbehave.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod failover;
mod gateway;
mod releases;

use std::{future::Future, time::Duration};

use aa_client::{
    Agent, AgentSpec, Client, ClientError, Config, Event, OnUnreachable, Outcome, blocking,
};
use aa_protocol::{Action, ActionId, Verdict, wire::v1};
use gateway::{AGENT, API_KEY, Reaction, Running, Scripted, WORKSPACE};
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use tonic::{Code, transport::Identity};

const BOUND: Duration = Duration::from_secs(20);

fn config(url: &str) -> Config {
    let mut config = Config::from_settings(|name| match name {
        "AAA_WORKSPACE_ID" => Some(WORKSPACE.to_owned()),
        "AAA_API_KEY" => Some(API_KEY.to_owned()),
        "AAA_GATEWAY_URL" => Some(url.to_owned()),
        _ => None,
    })
    .unwrap();
    config.request_timeout = Duration::from_secs(10);
    config
}

fn config_of(running: &Running) -> Config {
    config(&format!("http://{}", running.address))
}

fn spec() -> AgentSpec {
    AgentSpec { name: AGENT.to_owned(), ..AgentSpec::default() }
}

fn tool_call(tool: &str) -> Action {
    Action::ToolCall { tool: tool.to_owned(), args: serde_json::Map::new() }
}

async fn agent_of(running: &Running) -> Agent {
    Client::connect(config_of(running)).unwrap().register(spec()).await.unwrap()
}

async fn bounded<T>(future: impl Future<Output = T>) -> T {
    timeout(BOUND, future).await.expect("within the bound")
}

#[tokio::test]
async fn an_agent_proves_its_key_and_gets_decisions() {
    let running = Scripted::new([]).start().await;
    let agent = bounded(agent_of(&running)).await;
    let checked = bounded(agent.check(&tool_call("search"))).await.unwrap();
    assert_eq!(checked.decision.verdict, Verdict::Allow);
    assert!(checked.governed);
    assert_eq!(checked.latency_us, 12);
    let seen = running.gateway.seen();
    assert_eq!(seen.registrations[0].name, "research");
    assert_eq!(seen.registrations[0].governance_level, "L0");
    assert_eq!(agent.id(), aa_protocol::AgentId::of_name(gateway::workspace(), "research"));
}

#[tokio::test]
async fn many_in_flight_each_get_their_own_answer() {
    // Every second check is answered only after its successor.
    let script = (0..100).flat_map(|_| [Reaction::AfterTheNext, Reaction::Allow]);
    let running = Scripted::new(script).start().await;
    let agent = bounded(agent_of(&running)).await;
    let mut checks = JoinSet::new();
    for index in 0..200 {
        let agent = agent.clone();
        checks.spawn(async move { agent.check(&tool_call(&format!("tool-{index}"))).await });
    }
    let answered = bounded(checks.join_all()).await;
    assert_eq!(answered.len(), 200);
    for checked in answered {
        let checked = checked.unwrap();
        let id = u128::from_be_bytes(checked.action_id.to_bytes());
        assert_eq!(checked.event_id, Some(aa_protocol::EventId::from_parts(1, id)));
    }
}

#[tokio::test]
async fn an_action_cut_off_is_sent_again_under_the_same_id() {
    let running = Scripted::new([Reaction::Hang, Reaction::Hang]).start().await;
    let agent = bounded(agent_of(&running)).await;
    let checked = bounded(agent.check(&tool_call("search"))).await.unwrap();
    assert_eq!(checked.decision.verdict, Verdict::Allow);
    let seen = running.gateway.seen();
    assert_eq!(seen.checks.len(), 3);
    assert!(seen.checks.iter().all(|action| action == &seen.checks[0]));
    assert_eq!(seen.session_tokens.len(), 3);
    assert_eq!(seen.registrations.len(), 1, "the token still stands");
}

#[tokio::test]
async fn without_a_decision_in_time_nothing_is_allowed() {
    let running = Scripted::new([Reaction::Ignore]).start().await;
    let mut config = config_of(&running);
    config.request_timeout = Duration::from_millis(300);
    let client = Client::connect(config).unwrap();
    let agent = bounded(client.register(spec())).await.unwrap();
    let error = bounded(agent.check(&tool_call("search"))).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    // A late or missing answer to one leaves the stream to the others.
    assert!(bounded(agent.check(&tool_call("search"))).await.is_ok());
}

#[tokio::test]
async fn an_absent_gateway_is_named_with_the_cause() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut config = config(&format!("http://{free}"));
    config.request_timeout = Duration::from_millis(300);
    let client = Client::connect(config).unwrap();
    let error = bounded(client.register(spec())).await.unwrap_err().to_string();
    assert!(error.contains(&free.to_string()), "{error}");
    assert!(error.contains("Connection refused"), "{error}");
    assert!(error.contains("AAA_GATEWAY_URL"), "{error}");
}

#[tokio::test]
async fn an_owner_may_go_on_ungoverned_and_the_record_is_delivered_later() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut config = config(&format!("http://{address}"));
    config.on_unreachable = OnUnreachable::Allow;
    config.request_timeout = Duration::from_millis(300);
    let client = Client::connect(config).unwrap();
    let agent = bounded(client.register(spec())).await.unwrap();
    let checked = bounded(agent.check(&tool_call("search"))).await.unwrap();
    assert!(!checked.governed);
    assert_eq!(checked.event_id, None);
    assert_eq!(checked.decision.verdict, Verdict::Allow);

    let listener = TcpListener::bind(address).await.unwrap();
    let running = Scripted::new([]).serve(listener, None);
    assert!(agent.flush(BOUND).await);
    let seen = running.gateway.seen();
    assert_eq!(seen.events.len(), 1);
    let event = &seen.events[0];
    assert_eq!(event.outcome(), v1::Outcome::Ungoverned);
    assert!(event.occurred_at_unix_us > 0);
    let action = event.action.clone().unwrap();
    assert_eq!(action.id.as_ref(), checked.action_id.to_bytes());
}

#[tokio::test]
async fn a_refusal_is_not_let_through_by_an_owner_who_goes_on_when_unreachable() {
    let code = Code::PermissionDenied;
    let running = Scripted::new([Reaction::Refuse { code, retry_after_ms: 0 }]).start().await;
    let mut config = config_of(&running);
    config.on_unreachable = OnUnreachable::Allow;
    let agent = bounded(Client::connect(config).unwrap().register(spec())).await.unwrap();
    let error = bounded(agent.check(&tool_call("search"))).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { code: Code::PermissionDenied, .. }), "{error}");
}

#[tokio::test]
async fn a_draining_stream_answers_and_the_next_action_takes_a_new_one() {
    let running = Scripted::new([Reaction::DrainThenAllow]).start().await;
    let agent = bounded(agent_of(&running)).await;
    bounded(agent.check(&tool_call("first"))).await.unwrap();
    bounded(agent.check(&tool_call("second"))).await.unwrap();
    assert_eq!(running.gateway.seen().session_tokens.len(), 2);
    assert_eq!(running.gateway.seen().checks.len(), 2);
}

#[tokio::test]
async fn too_much_in_flight_is_retried_after_the_hint_and_named_in_the_end() {
    let full = Reaction::Refuse { code: Code::ResourceExhausted, retry_after_ms: 20 };
    let running = Scripted::new([full, full]).start().await;
    let mut config = config_of(&running);
    config.request_timeout = Duration::from_millis(500);
    let agent = bounded(Client::connect(config).unwrap().register(spec())).await.unwrap();
    assert!(bounded(agent.check(&tool_call("search"))).await.is_ok());
    assert_eq!(running.gateway.seen().checks.len(), 3);
    running.gateway.seen().otherwise = full;
    let error = bounded(agent.check(&tool_call("search"))).await.unwrap_err();
    assert!(matches!(error, ClientError::Overloaded { .. }), "{error}");
}

#[tokio::test]
async fn a_token_is_renewed_before_it_lapses_and_handed_to_the_open_session() {
    let gateway = Scripted::new([]);
    gateway.seen().token_seconds = 1;
    let running = gateway.start().await;
    let agent = bounded(agent_of(&running)).await;
    bounded(async {
        while running.gateway.seen().offered_tokens.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    bounded(agent.check(&tool_call("search"))).await.unwrap();
    let seen = running.gateway.seen();
    assert_eq!((seen.renewals, seen.registrations.len(), seen.session_tokens.len()), (1, 1, 1));
    assert_ne!(seen.offered_tokens[0], seen.session_tokens[0]);
}

#[tokio::test]
async fn a_lapsed_token_leads_to_a_new_registration_under_the_same_key() {
    for code in [Code::Unauthenticated, Code::NotFound] {
        let unregistered = Reaction::Refuse { code, retry_after_ms: 0 };
        let running = Scripted::new([unregistered]).start().await;
        let agent = bounded(agent_of(&running)).await;
        bounded(agent.check(&tool_call("search"))).await.unwrap();
        let registrations = running.gateway.seen().registrations.clone();
        assert_eq!(registrations.len(), 2);
        assert_eq!(registrations[0].public_key, registrations[1].public_key);
    }
}

#[tokio::test]
async fn an_action_that_crashed_its_actor_is_not_sent_again() {
    let crashed = Reaction::Refuse { code: Code::Internal, retry_after_ms: 0 };
    let running = Scripted::new([crashed]).start().await;
    let agent = bounded(agent_of(&running)).await;
    let error = bounded(agent.check(&tool_call("search"))).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { code: Code::Internal, .. }), "{error}");
    assert_eq!(running.gateway.seen().checks.len(), 1);
}

#[tokio::test]
async fn a_refused_registration_is_reported_at_once() {
    let gateway = Scripted::new([]);
    gateway.seen().refuse_registration = Some(Code::PermissionDenied);
    let running = gateway.start().await;
    let client = Client::connect(config_of(&running)).unwrap();
    let error = bounded(client.register(spec())).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { code: Code::PermissionDenied, .. }), "{error}");
}

#[tokio::test]
async fn an_answer_of_a_later_version_is_not_guessed_at() {
    let running = Scripted::new([Reaction::UnknownVerdict]).start().await;
    let agent = bounded(agent_of(&running)).await;
    let error = bounded(agent.check(&tool_call("search"))).await.unwrap_err();
    assert!(matches!(error, ClientError::NotUnderstood(_)), "{error}");
}

#[tokio::test]
async fn an_action_too_large_is_refused_and_the_stream_lives_on() {
    let running = Scripted::new([]).start().await;
    let agent = bounded(agent_of(&running)).await;
    let huge = Action::ToolResult {
        tool: "search".to_owned(),
        content: "x".repeat(aa_client::MAX_FRAME_BYTES).into(),
    };
    let error = bounded(agent.check(&huge)).await.unwrap_err();
    assert!(matches!(error, ClientError::TooLarge { .. }), "{error}");
    bounded(agent.check(&tool_call("search"))).await.unwrap();
    assert_eq!(running.gateway.seen().session_tokens.len(), 1);
}

#[tokio::test]
async fn news_of_policies_and_suspension_are_heard() {
    let running = Scripted::new([Reaction::PushNews]).start().await;
    let agent = bounded(agent_of(&running)).await;
    bounded(agent.check(&tool_call("search"))).await.unwrap();
    let news = *agent.news().borrow();
    assert_eq!((news.policy_generation, news.suspended), (5, true));
}

#[tokio::test]
async fn an_outcome_recorded_later_survives_a_broken_stream() {
    let running = Scripted::new([Reaction::Allow, Reaction::Hang]).start().await;
    let agent = bounded(agent_of(&running)).await;
    let checked = bounded(agent.check(&tool_call("search"))).await.unwrap();
    bounded(agent.check(&tool_call("cut off"))).await.unwrap();
    let event = |action_id: ActionId| Event {
        action: (&tool_call("search")).into(),
        action_id,
        trace_id: None,
        parent_span: None,
        outcome: Outcome::Error,
        duration: Duration::from_micros(1500),
        occurred_at: None,
    };
    agent.record_later(event(checked.action_id)).unwrap();
    assert!(agent.flush(BOUND).await);
    bounded(agent.record(event(checked.action_id))).await.unwrap();
    let seen = running.gateway.seen();
    assert_eq!(seen.events.len(), 2);
    assert_eq!(seen.events[0].outcome(), v1::Outcome::Error);
    assert_eq!(seen.events[0].duration_us, 1500);
}

#[tokio::test]
async fn only_a_gateway_of_the_given_authority_is_trusted() {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let own_ca = write("own.pem", own.cert.pem());
    let other_ca = write("other.pem", other.cert.pem());
    let identity = Identity::from_pem(own.cert.pem(), own.signing_key.serialize_pem());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let running = Scripted::new([]).serve(listener, Some(identity));

    let mut config = config(&format!("https://localhost:{}", running.address.port()));
    config.ca_file = Some(own_ca);
    let client = Client::connect(config.clone()).unwrap();
    let agent = bounded(client.register(spec())).await.unwrap();
    bounded(agent.check(&tool_call("search"))).await.unwrap();

    config.ca_file = Some(other_ca);
    config.request_timeout = Duration::from_millis(500);
    let client = Client::connect(config.clone()).unwrap();
    let error = bounded(client.register(spec())).await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");

    config.ca_file = Some(directory.path().join("absent.pem"));
    let error = Client::connect(config).unwrap_err().to_string();
    assert!(error.starts_with("AAA_CA_FILE is not usable"), "{error}");
}

#[test]
fn a_blocking_caller_can_stop_waiting() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let running = runtime.block_on(Scripted::new([Reaction::Allow, Reaction::Ignore]).start());
    let client = blocking::Client::connect(config_of(&running)).unwrap();
    let agent = client.register(spec(), &mut || true).unwrap();
    let options = aa_client::Options::default();
    agent.check(&tool_call("search"), options.clone(), &mut || true).unwrap();
    let stopped = agent.check(&tool_call("search"), options.clone(), &mut || false);
    assert!(matches!(stopped, Err(ClientError::Interrupted)));
    let (sender, answers) = std::sync::mpsc::channel();
    agent.check_then(&tool_call("search"), options, move |answer| sender.send(answer).unwrap());
    assert!(answers.recv_timeout(BOUND).unwrap().is_ok());
}
