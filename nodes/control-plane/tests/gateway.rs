//! The gateway as an agent meets it, and as an attacker does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod peer;

use aa_protocol::{Timestamp, wire::v1};
use aa_runtime::{Clock, SystemClock};
use futures::StreamExt;
use peer::{BASH, PATIENCE, Peer, action, bearing};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Streaming};

struct Session {
    frames: mpsc::UnboundedSender<v1::ClientFrame>,
    answers: Streaming<v1::ServerFrame>,
}

impl Session {
    async fn open(peer: &Peer, token: &str) -> Self {
        let (frames, outgoing) = mpsc::unbounded_channel();
        let request = bearing(UnboundedReceiverStream::new(outgoing), token);
        let answers = peer.gateway.clone().session(request).await.unwrap().into_inner();
        Self { frames, answers }
    }

    fn send(&self, tag: u64, body: v1::client_frame::Body) {
        self.frames.send(v1::ClientFrame { tag, body: Some(body) }).unwrap();
    }

    fn check(&self, tag: u64, json: &str) {
        self.send(tag, v1::client_frame::Body::Check(action(u128::from(tag), json)));
    }

    async fn next(&mut self) -> Result<v1::ServerFrame, tonic::Status> {
        let next = tokio::time::timeout(PATIENCE, self.answers.next());
        next.await.expect("an answer comes").expect("the session is open")
    }

    async fn body(&mut self) -> v1::server_frame::Body {
        self.next().await.unwrap().body.unwrap()
    }
}

fn verdict(decision: &v1::Decision) -> v1::Verdict {
    decision.verdict()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registered_agent_is_decided_and_the_entry_is_there() {
    let peer = Peer::start().await;
    let token = peer.register("a").await;
    let decision = peer.check(&token, action(1, BASH)).await.unwrap();
    assert_eq!(verdict(&decision), v1::Verdict::Allow);
    let page = peer.get(&format!("audit/entries?event={}", decision.event_id)).await;
    assert_eq!(page["entries"][0]["verdict"], "allow");
    assert_eq!(page["entries"][0]["action"]["tool"], "bash");
    let again = peer.check(&token, action(1, BASH)).await.unwrap();
    assert!(again.repeated_action);
    assert_eq!(again.event_id, decision.event_id);
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_seen_of_a_call_is_in_its_entry_and_redacted_where_it_is_sensitive() {
    const POLICY: &str = "apiVersion: agent-assembly/v1\nkind: Policy\n\
        metadata:\n  name: data\n  version: \"1\"\nspec:\n  data:\n    sensitive_patterns: ['sk-[a-z]{8}']\n";
    let peer = Peer::start().await;
    let token = peer.register("a").await;
    let (status, answer) = peer.apply("", POLICY.into()).await;
    assert!(status < 300, "{answer}");
    let result = |number: u128, conversation: &str| v1::Action {
        parent_span: b"01234567".to_vec().into(),
        trace_id: b"0123456789abcdef".to_vec().into(),
        ..action(
            number,
            &format!(
                r#"{{"kind":"llm_result","model":"m","content":"hi","observed":{{"latency_us":1200000,
                "first_token_us":300000,"status":200,"finish_reason":"stop",
                "conversation":"{conversation}","response_id":"resp_2"}}}}"#
            ),
        )
    };
    let decision = peer.check(&token, result(1, "resp_1")).await.unwrap();
    assert_eq!(verdict(&decision), v1::Verdict::Allow);
    let entry = async |event: &str| {
        let page = peer.get(&format!("audit/entries?event={event}")).await;
        page["entries"][0].clone()
    };
    let entry_of_it = entry(&decision.event_id).await;
    assert_eq!(entry_of_it["parent_span"], "3031323334353637");
    let observed = &entry_of_it["action"]["observed"];
    assert_eq!(observed["latency_us"], 1_200_000);
    assert_eq!(observed["first_token_us"], 300_000);
    assert_eq!(observed["conversation"], "resp_1");

    let leaking = peer.check(&token, result(2, "sk-abcdefgh")).await.unwrap();
    let entry_of_it = entry(&leaking.event_id).await;
    assert_eq!(entry_of_it["action"]["observed"]["conversation"], "[redacted]");
    assert!(!entry_of_it.to_string().contains("sk-abcdefgh"));

    let event = v1::Event {
        action: Some(result(3, "resp_1")),
        outcome: v1::Outcome::Ok.into(),
        ..v1::Event::default()
    };
    let recorded = peer.gateway.clone().record_event(bearing(event, &token)).await.unwrap();
    let entry_of_it = entry(&recorded.into_inner().event_id).await;
    assert_eq!(entry_of_it["parent_span"], "3031323334353637");
    assert_eq!(entry_of_it["action"]["observed"]["status"], 200);

    let short = v1::Action { parent_span: vec![1; 7].into(), ..action(4, BASH) };
    let refused = peer.check(&token, short).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.message(), "`action.parent_span` must be 8 bytes, not 7");
    let mut long = result(5, "");
    if let Some(v1::action::Kind::LlmResult(result)) = &mut long.kind {
        result.observed.as_mut().unwrap().finish_reason = "x".repeat(65);
    }
    let refused = peer.check(&token, long).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("at most 64"), "{refused}");
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_let_through_unseen_is_recorded_as_that() {
    let peer = Peer::start().await;
    let token = peer.register("a").await;
    let connect = r#"{"kind":"network_connect","host":"bank.example","port":443}"#;
    let event = v1::Event {
        action: Some(action(1, connect)),
        outcome: v1::Outcome::Unseen.into(),
        ..v1::Event::default()
    };
    let recorded = peer.gateway.clone().record_event(bearing(event, &token)).await.unwrap();
    let event = recorded.into_inner().event_id;
    let page = peer.get(&format!("audit/entries?event={event}")).await;
    assert_eq!(page["entries"][0]["detail"]["outcome"], "unseen");
    assert_eq!(page["entries"][0]["action"]["host"], "bank.example");
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_needs_key_workspace_nonce_and_signature() {
    let peer = Peer::start().await;
    peer.register("a").await;
    let mut gateway = peer.gateway.clone();

    let begin = |workspace: &str| v1::BeginRegistrationRequest { workspace_id: workspace.into() };
    let ours = peer.workspace.to_string();
    let theirs = "ws-ffffffff-e5f6-4890-abcd-ef1234567890";
    for (workspace, key, code) in [
        (ours.as_str(), "aak_aaaaaaaaaa_wrong", Code::Unauthenticated),
        (ours.as_str(), "not a key", Code::Unauthenticated),
        (theirs, peer.agent_key.as_str(), Code::PermissionDenied),
        ("acme", peer.agent_key.as_str(), Code::InvalidArgument),
    ] {
        let refused = gateway.begin_registration(bearing(begin(workspace), key)).await;
        assert_eq!(refused.unwrap_err().code(), code, "{workspace} {key}");
    }

    let nonce = peer.nonce().await.unwrap();
    let registration = peer.registration("a", &nonce);
    peer.send(registration.clone()).await.unwrap();
    let replayed = peer.send(registration).await.unwrap_err();
    assert_eq!(replayed.code(), Code::FailedPrecondition);

    let mut forged = peer.registration("a", &peer.nonce().await.unwrap());
    forged.name = "b".to_owned();
    assert_eq!(peer.send(forged).await.unwrap_err().code(), Code::Unauthenticated);

    let mut short = peer.registration("a", &peer.nonce().await.unwrap());
    short.public_key = vec![1, 2, 3].into();
    assert_eq!(peer.send(short).await.unwrap_err().code(), Code::InvalidArgument);

    for name in ["", "two\nlines", &"x".repeat(200)] {
        let nonce = peer.nonce().await.unwrap();
        let refused = peer.send(peer.registration(name, &nonce)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{name}");
    }
    // Only where the agent is known is there a chain to record it in.
    assert_eq!(peer.refusals("a").await, ["registration_refused", "registration_refused"]);
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_token_is_refused_and_an_own_one_is_audited() {
    let peer = Peer::start().await;
    let token = peer.register("a").await;
    let (workspace, agent) = (peer.workspace, peer.agent("a"));
    let now = SystemClock.now();
    let issue = |at: Timestamp| peer.tokens.issue(workspace, agent, at, uuid::Uuid::nil()).0;
    let expired = issue(Timestamp::from_micros(now.as_micros() - 7_200_000_000));
    let future = issue(Timestamp::from_micros(now.as_micros() + 7_200_000_000));
    let stranger = aa_control_plane::token::TokenKey::new(&[1; 32]);
    let foreign = stranger.issue(workspace, agent, now, uuid::Uuid::nil()).0;
    let (head, tail) = token.split_at(token.len() - 2);
    let changed = format!("{head}{}", if tail == "AA" { "BB" } else { "AA" });
    for bad in [expired.as_str(), &future, &foreign, &changed, "x", "a.b.c", &peer.agent_key] {
        let refused = peer.check(bad, action(1, BASH)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{bad}");
    }
    let mut gateway = peer.gateway.clone();
    let bare = gateway.check_policy(action(1, BASH)).await.unwrap_err();
    assert_eq!(bare.code(), Code::Unauthenticated);
    assert_eq!(peer.refusals("a").await, ["token_not_yet_valid", "token_expired"]);

    // A token of this gateway for a workspace in which the agent is not registered reaches nobody.
    let other = "ws-ffffffff-e5f6-4890-abcd-ef1234567890".parse().unwrap();
    let elsewhere = peer.tokens.issue(other, agent, now, uuid::Uuid::nil()).0;
    let refused = peer.check(&elsewhere, action(1, BASH)).await.unwrap_err();
    assert!(matches!(refused.code(), Code::NotFound | Code::Unavailable), "{refused}");

    let renewed = gateway.renew_token(bearing(v1::RenewTokenRequest {}, &token)).await.unwrap();
    peer.check(&renewed.into_inner().token, action(2, BASH)).await.unwrap();
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_actions_get_a_precise_status_and_an_entry() {
    let peer = Peer::start().await;
    let token = peer.register("a").await;
    let tool = |tool: &str, args: &str| v1::Action {
        id: vec![7; 16].into(),
        kind: Some(v1::action::Kind::ToolCall(v1::ToolCall {
            tool: tool.to_owned(),
            args_json: args.to_owned(),
        })),
        ..Default::default()
    };
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let cases = [
        (v1::Action { id: vec![1; 3].into(), ..action(1, BASH) }, "must be 16 bytes, not 3"),
        (v1::Action { kind: None, ..action(1, BASH) }, "`action.kind` is missing"),
        (tool("a\0b", "{}"), "holds a NUL byte"),
        (tool("a", "{\"k\":1,\"k\":2}"), "duplicate object key"),
        (tool("a", &format!("{{\"k\":{deep}}}")), "not acceptable JSON"),
        (tool("a", "\"text\""), "must be a JSON object"),
    ];
    let count = cases.len();
    for (action, expected) in cases {
        let refused = peer.check(&token, action).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(expected), "{refused}");
    }
    let large = tool("a", &format!("{{\"k\":\"{}\"}}", "x".repeat(5 << 20)));
    let refused = peer.check(&token, large).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    let refusals = peer.refusals("a").await;
    assert_eq!(refusals[0], "message_too_large");
    assert_eq!(refusals[1..], vec!["malformed_action"; count]);
    peer.check(&token, action(9, BASH)).await.expect("the agent goes on");
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_message_get_a_precise_status_and_an_entry() {
    let peer = Peer::start().await;
    let token = peer.register("a").await;
    // An agent's name field in Latin-1: not UTF-8, so not a protobuf string.
    let refused = peer.send_bytes(&token, "CheckPolicy", b"\x9a\x01\x04\x0a\x02\xe9\xe9").await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(peer.refusals("a").await, ["undecodable_message"]);
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_frame_ends_its_session_with_a_status_and_an_entry() {
    let peer = Peer::start().await;
    let token = peer.register("a").await;
    let mut session = Session::open(&peer, &token).await;
    let args = format!(
        "{{\"kind\":\"tool_call\",\"tool\":\"t\",\"args\":{{\"k\":\"{}\"}}}}",
        "x".repeat(5 << 20)
    );
    session.check(1, &args);
    assert_eq!(session.next().await.unwrap_err().code(), Code::OutOfRange);
    assert_eq!(peer.refusals("a").await, ["message_too_large"]);
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_answers_many_in_flight_and_tells_the_news() {
    let peer = Peer::start().await;
    let token = peer.register("a").await;
    let mut session = Session::open(&peer, &token).await;
    for tag in 1..=2_000 {
        session.check(tag, BASH);
    }
    let mut events = std::collections::HashSet::new();
    for _ in 0..2_000 {
        match session.body().await {
            v1::server_frame::Body::Decision(decision) => {
                assert!(events.insert(decision.event_id), "every action has an entry of its own");
            }
            other => panic!("{other:?}"),
        }
    }
    let policy = "version: '1'\ntools: {bash: {allow: false}}\n".to_owned();
    peer.post("policies?name=no-bash", "application/yaml", policy).await;
    assert!(matches!(session.body().await, v1::server_frame::Body::PolicyChanged(_)));
    session.check(3_000, BASH);
    let v1::server_frame::Body::Decision(denied) = session.body().await else { panic!() };
    assert_eq!(verdict(&denied), v1::Verdict::Deny);
    assert_eq!(denied.reasons[0].code, "tool_denied");

    let path = format!("agents/{}/suspend", peer.agent("a"));
    peer.post(&path, "application/json", "{\"reason\":\"test\"}".to_owned()).await;
    let v1::server_frame::Body::StatusChanged(status) = session.body().await else { panic!() };
    assert!(status.suspended);
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_takes_a_renewed_token_and_no_other_agents() {
    let peer = Peer::start().await;
    let token = peer.register("a").await;
    let other = peer.register("b").await;
    let mut session = Session::open(&peer, &token).await;
    session.send(1, v1::client_frame::Body::Token(token.clone()));
    assert!(matches!(session.body().await, v1::server_frame::Body::TokenAccepted(_)));
    session.send(2, v1::client_frame::Body::Token(other));
    let v1::server_frame::Body::Refusal(refusal) = session.body().await else { panic!() };
    assert_eq!(refusal.code, Code::PermissionDenied as i32);
    session.send(3, v1::client_frame::Body::Token("x".into()));
    let v1::server_frame::Body::Refusal(refusal) = session.body().await else { panic!() };
    assert_eq!(refusal.code, Code::Unauthenticated as i32);
    session.check(4, BASH);
    assert!(matches!(session.body().await, v1::server_frame::Body::Decision(_)));
    assert_eq!(peer.refusals("a").await, ["token_of_other"]);
    // A frame under the gateway's own tag ends the session with a reason.
    session.check(0, BASH);
    assert_eq!(session.next().await.unwrap_err().code(), Code::InvalidArgument);
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_read_costs_others_nothing() {
    let peer = Peer::start().await;
    let slow_token = peer.register("slow").await;
    let slow = Session::open(&peer, &slow_token).await;
    for tag in 1..=20_000 {
        slow.check(tag, BASH);
    }
    let token = peer.register("a").await;
    let mut session = Session::open(&peer, &token).await;
    for tag in 1..=100 {
        session.check(tag, BASH);
        assert!(matches!(session.body().await, v1::server_frame::Body::Decision(_)));
    }
    drop(slow);
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_tells_the_sessions_and_answers_what_is_in_flight() {
    let mut peer = Peer::start().await;
    let token = peer.register("a").await;
    let mut session = Session::open(&peer, &token).await;
    for tag in 1..=100 {
        session.check(tag, BASH);
    }
    // The first answer shows that the rest is on its way.
    assert!(matches!(session.body().await, v1::server_frame::Body::Decision(_)));
    peer.begin_to_stop();
    let (mut decided, mut refused, mut told) = (1, 0, false);
    while decided + refused < 100 || !told {
        match session.body().await {
            v1::server_frame::Body::Decision(_) => decided += 1,
            v1::server_frame::Body::Draining(_) => told = true,
            v1::server_frame::Body::Refusal(refusal) => {
                assert_eq!(refusal.code, Code::Unavailable as i32);
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    drop(session);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_session_does_not_hold_up_a_stopping_gateway() {
    let mut peer = Peer::start().await;
    let token = peer.register("a").await;
    let mut session = Session::open(&peer, &token).await;
    session.check(1, BASH);
    assert!(matches!(session.body().await, v1::server_frame::Body::Decision(_)));
    peer.begin_to_stop();
    assert!(matches!(session.body().await, v1::server_frame::Body::Draining(_)));
    // The peer stays; the gateway ends what owes nothing, well before the 5 s that it would wait.
    let ended = std::time::Duration::from_secs(4);
    let ended = tokio::time::timeout(ended, session.answers.next()).await;
    assert!(ended.expect("it ends by itself").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_but_tls_1_3_gets_in() {
    let peer = Peer::start().await;
    let plain = peer.gateway_url.replace("https://", "http://");
    let channel = tonic::transport::Endpoint::from_shared(plain).unwrap().connect_lazy();
    let mut gateway = peer::Client::new(channel);
    assert!(gateway.check_policy(action(1, BASH)).await.is_err());

    let config = rustls::ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS12])
        .with_root_certificates(peer.roots())
        .with_no_client_auth();
    let address = peer.gateway_url.trim_start_matches("https://");
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let old = connector.connect("localhost".try_into().unwrap(), socket).await;
    assert!(old.is_err(), "TLS 1.2 is refused");
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_reflection_answer() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let peer = Peer::start().await;
    let service = "agent_assembly.v1.Gateway".to_owned();
    let mut health = HealthClient::new(peer.channel.clone());
    let status = health.check(HealthCheckRequest { service: service.clone() }).await.unwrap();
    assert_eq!(status.into_inner().status, 1);
    let mut reflection = ServerReflectionClient::new(peer.channel.clone());
    let list = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { message_request: Some(list), ..Default::default() };
    let answers = reflection.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    let answer = answers.into_inner().next().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(services) = answer else { panic!() };
    assert!(services.service.iter().any(|listed| listed.name == service));
    peer.stop().await;
}
