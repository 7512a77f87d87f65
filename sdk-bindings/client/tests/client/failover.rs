//! Several gateways, of which some fail.

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use aa_client::{Agent, Client, ClientError, Config, OnUnreachable};
use aa_protocol::Verdict;
use tokio::{net::TcpListener, task::JoinSet, time::Instant};
use tonic::{Code, transport::Identity};

use super::{
    bounded, config,
    gateway::{Process, Reaction, Running, Scripted},
    spec, tool_call,
};

fn config_of(addresses: impl IntoIterator<Item = SocketAddr>) -> Config {
    let urls: Vec<_> = addresses.into_iter().map(|address| format!("http://{address}")).collect();
    config(&urls.join(", "))
}

/// An agent before two gateways, the one that it uses first.
async fn agent_before_two() -> (Agent, Process, Process) {
    let one = Scripted::new([]).start_process();
    let other = Scripted::new([]).start_process();
    let client = Client::connect(config_of([one.address, other.address])).unwrap();
    let agent = bounded(client.register(spec())).await.unwrap();
    bounded(agent.check(&tool_call("first"))).await.unwrap();
    let (used, idle) =
        if one.gateway.seen().checks.is_empty() { (other, one) } else { (one, other) };
    assert!(idle.gateway.seen().session_tokens.is_empty(), "an agent keeps to one gateway");
    (agent, used, idle)
}

#[tokio::test]
async fn what_is_in_flight_when_a_gateway_dies_is_decided_by_the_next_under_the_same_ids() {
    let (agent, mut used, idle) = agent_before_two().await;
    used.gateway.seen().otherwise = Reaction::Ignore;
    let mut checks = JoinSet::new();
    for index in 0..400 {
        let agent = agent.clone();
        checks.spawn(async move { agent.check(&tool_call(&format!("tool-{index}"))).await });
    }
    // As many as may be in flight at once, and the one before.
    bounded(async {
        while used.gateway.seen().checks.len() < 257 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let died = Instant::now();
    used.kill();
    let answered = bounded(checks.join_all()).await;
    assert!(died.elapsed() < Duration::from_secs(5), "{:?}", died.elapsed());
    let answered: HashSet<_> =
        answered.into_iter().map(|checked| checked.unwrap().action_id.to_bytes()).collect();
    assert_eq!(answered.len(), 400);
    let (before, after) = (used.gateway.seen(), idle.gateway.seen());
    let id = |action: &aa_protocol::wire::v1::Action| -> [u8; 16] {
        action.id.as_ref().try_into().unwrap()
    };
    assert_eq!(after.checks.iter().map(id).collect::<HashSet<_>>(), answered);
    assert_eq!(after.checks.len(), 400, "each is sent again once");
    assert!(before.checks[1..].iter().all(|action| after.checks.contains(action)));
    // The token of one gateway is good at the others.
    assert_eq!(after.session_tokens, before.session_tokens);
    assert!(after.registrations.is_empty());
}

#[tokio::test]
async fn a_token_that_the_next_gateway_does_not_take_is_replaced_behind_the_callers_back() {
    let (agent, mut used, idle) = agent_before_two().await;
    idle.gateway.seen().knows_own_tokens_only = true;
    used.gateway.seen().otherwise = Reaction::Ignore;
    let waiting = tokio::spawn({
        let agent = agent.clone();
        async move { agent.check(&tool_call("waits")).await }
    });
    bounded(async {
        while used.gateway.seen().checks.len() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    used.kill();
    bounded(waiting).await.unwrap().unwrap();
    let (before, after) = (used.gateway.seen(), idle.gateway.seen());
    assert_eq!(after.registrations.len(), 1);
    assert_eq!(after.registrations[0].public_key, before.registrations[0].public_key);
}

#[tokio::test]
async fn from_a_gateway_that_drains_new_actions_go_to_the_next_and_old_ones_get_their_answers() {
    let (agent, used, idle) = agent_before_two().await;
    used.gateway.seen().script.push_back(Reaction::DrainThenAllow);
    bounded(agent.check(&tool_call("drains"))).await.unwrap();
    bounded(agent.check(&tool_call("after"))).await.unwrap();
    bounded(agent.check(&tool_call("later"))).await.unwrap();
    assert_eq!(used.gateway.seen().checks.len(), 2);
    assert_eq!(idle.gateway.seen().checks.len(), 2);
}

#[tokio::test]
async fn agents_of_one_client_leave_a_dead_gateway_for_the_same_one() {
    let one = Scripted::new([]).start_process();
    let others = [(); 2].map(|()| Scripted::new([]).start_process());
    let all = [one.address, others[0].address, others[1].address];
    let client = Client::connect(config_of(all)).unwrap();
    let mut agents = Vec::new();
    for _ in 0..20 {
        agents.push(bounded(client.register(spec())).await.unwrap());
    }
    let [first, second] = others;
    let (mut used, mut idle): (Vec<_>, Vec<_>) = [one, first, second]
        .into_iter()
        .partition(|process| !process.gateway.seen().session_tokens.is_empty());
    assert_eq!(used.len(), 1, "one client uses one gateway");
    used[0].kill();
    for agent in &agents {
        bounded(agent.check(&tool_call("after"))).await.unwrap();
    }
    idle.retain(|process| !process.gateway.seen().session_tokens.is_empty());
    assert_eq!(idle.len(), 1, "they go on together");
    assert_eq!(idle[0].gateway.seen().session_tokens.len(), 20);
}

#[tokio::test]
async fn a_gateway_that_owes_an_answer_for_too_long_is_left() {
    for reaction in
        [Reaction::Ignore, Reaction::Refuse { code: Code::Unavailable, retry_after_ms: 50 }]
    {
        let one = Scripted::new([Reaction::Allow]).start_process();
        let other = Scripted::new([Reaction::Allow]).start_process();
        let mut config = config_of([one.address, other.address]);
        config.request_timeout = Duration::from_millis(2500);
        let client = Client::connect(config).unwrap();
        let agent = bounded(client.register(spec())).await.unwrap();
        bounded(agent.check(&tool_call("first"))).await.unwrap();
        let (used, idle) =
            if one.gateway.seen().checks.is_empty() { (&other, &one) } else { (&one, &other) };
        used.gateway.seen().otherwise = reaction;
        let asked = Instant::now();
        let checked = bounded(agent.check(&tool_call("owed"))).await.unwrap();
        assert_eq!(checked.decision.verdict, Verdict::Allow);
        assert!(asked.elapsed() >= Duration::from_secs(1), "{:?}", asked.elapsed());
        assert_eq!(idle.gateway.seen().checks.len(), 1);
        // It stays there.
        bounded(agent.check(&tool_call("next"))).await.unwrap();
        assert_eq!(idle.gateway.seen().checks.len(), 2);
    }
}

#[tokio::test]
async fn a_gateway_that_takes_no_session_is_left_at_once() {
    for code in [Code::Unavailable, Code::ResourceExhausted, Code::Internal] {
        let (agent, mut used, idle) = agent_before_two().await;
        idle.gateway.seen().refuse_session = Some(code);
        let third = Scripted::new([]).start_process();
        drop(agent);
        // Whichever of the two is tried first, the third takes it.
        used.kill();
        let all = [used.address, idle.address, third.address];
        let client = Client::connect(config_of(all)).unwrap();
        let begun = Instant::now();
        let agent = bounded(client.register(spec())).await.unwrap();
        bounded(agent.check(&tool_call("taken"))).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        assert_eq!(third.gateway.seen().checks.len(), 1);
    }
}

#[tokio::test]
async fn an_address_where_nothing_answers_costs_an_agent_a_part_of_its_time_only() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let running = Scripted::new([]).start().await;
    let mut config = config_of([silent.local_addr().unwrap(), running.address]);
    config.request_timeout = Duration::from_millis(2500);
    // Until one client has begun at the silent one.
    let meets_silence = async {
        loop {
            let registered = Client::connect(config.clone()).unwrap().register(spec()).await;
            registered.unwrap().check(&tool_call("search")).await.unwrap();
            if let Ok(Ok(_)) = tokio::time::timeout(Duration::ZERO, silent.accept()).await {
                return;
            }
        }
    };
    bounded(meets_silence).await;
}

#[tokio::test]
async fn a_refusal_is_not_taken_to_another_gateway() {
    let one = Scripted::new([]).start().await;
    let other = Scripted::new([]).start().await;
    for running in [&one, &other] {
        running.gateway.seen().refuse_registration = Some(Code::PermissionDenied);
    }
    let client = Client::connect(config_of([one.address, other.address])).unwrap();
    let error = bounded(client.register(spec())).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { code: Code::PermissionDenied, .. }), "{error}");
}

#[tokio::test]
async fn nothing_goes_ungoverned_while_a_gateway_is_left_to_try() {
    let (agent, mut used, idle) = {
        let one = Scripted::new([]).start_process();
        let other = Scripted::new([]).start_process();
        let mut config = config_of([one.address, other.address]);
        config.on_unreachable = OnUnreachable::Allow;
        let agent = bounded(Client::connect(config).unwrap().register(spec())).await.unwrap();
        bounded(agent.check(&tool_call("first"))).await.unwrap();
        let first_is_used = !one.gateway.seen().checks.is_empty();
        if first_is_used { (agent, one, other) } else { (agent, other, one) }
    };
    used.kill();
    for _ in 0..50 {
        assert!(bounded(agent.check(&tool_call("after"))).await.unwrap().governed);
    }
    assert_eq!(idle.gateway.seen().checks.len(), 50);
}

#[tokio::test]
async fn absent_gateways_are_named_with_the_cause() {
    let mut free = Vec::new();
    for _ in 0..2 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        free.push(listener.local_addr().unwrap());
    }
    let mut config = config_of(free.iter().copied());
    config.request_timeout = Duration::from_millis(300);
    let error = Client::connect(config).unwrap().register(spec()).await.unwrap_err().to_string();
    let named = format!("no answer from the gateways at http://{}, http://{}", free[0], free[1]);
    assert!(error.starts_with(&named), "{error}");
    assert!(error.contains("ms: http://127.0.0.1:"), "the one that was tried last: {error}");
    assert!(error.contains("Connection refused"), "{error}");
}

#[tokio::test]
async fn each_gateway_must_prove_the_host_of_its_own_address() {
    let directory = tempfile::tempdir().unwrap();
    let mut trusted = String::new();
    let mut serve = |host: &str, listener| -> Running {
        let made = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
        trusted.push_str(&made.cert.pem());
        let identity = Identity::from_pem(made.cert.pem(), made.signing_key.serialize_pem());
        Scripted::new([]).serve(listener, Some(identity))
    };
    let genuine = serve("localhost", TcpListener::bind("127.0.0.1:0").await.unwrap());
    let misnamed = serve("elsewhere.test", TcpListener::bind("127.0.0.1:0").await.unwrap());
    let by_address = serve("127.0.0.1", TcpListener::bind("127.0.0.1:0").await.unwrap());
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, trusted).unwrap();
    let mut config = config(&format!(
        "https://localhost:{} https://localhost:{} https://127.0.0.1:{}",
        misnamed.address.port(),
        genuine.address.port(),
        by_address.address.port(),
    ));
    config.ca_file = Some(ca_file);
    for _ in 0..16 {
        let client = Client::connect(config.clone()).unwrap();
        let agent = bounded(client.register(spec())).await.unwrap();
        bounded(agent.check(&tool_call("search"))).await.unwrap();
    }
    assert!(misnamed.gateway.seen().registrations.is_empty());
    let taken = [&genuine, &by_address].map(|running| running.gateway.seen().checks.len());
    assert_eq!(taken[0] + taken[1], 16);
}
