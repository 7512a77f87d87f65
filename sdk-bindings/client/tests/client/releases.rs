//! Secrets for proxies, from gateways that refuse, are busy, or are not there.

use std::time::Duration;

use aa_client::{Client, ClientError};
use aa_protocol::AgentId;
use tonic::{Code, Status};

use super::{
    bounded, config, config_of,
    gateway::{AGENT, SECRET, Scripted, WORKSPACE, workspace},
};

fn agent() -> AgentId {
    AgentId::of_name(workspace(), AGENT)
}

fn hinting(code: Code) -> Status {
    let mut status = Status::new(code, "as told");
    status.metadata_mut().insert("retry-after-ms", 1.into());
    status
}

#[tokio::test]
async fn a_proxy_gets_a_secret_for_an_agent_and_a_host_and_keeps_it_for_a_minute_at_most() {
    let running = Scripted::new([]).start().await;
    let client = Client::connect(config_of(&running)).unwrap();
    let released = bounded(client.release(agent(), "OPENAI", "api.openai.com")).await.unwrap();
    assert_eq!(released.value.expose(), SECRET.as_bytes());
    assert_eq!((released.version, released.keep_for), (3, Duration::from_secs(60)));
    assert!(!format!("{released:?}").contains(SECRET), "{released:?}");
    let asked = running.gateway.seen().releases[0].clone();
    assert_eq!((asked.workspace_id.as_str(), asked.agent_id), (WORKSPACE, agent().to_string()));
    assert_eq!((asked.secret.as_str(), asked.host.as_str()), ("OPENAI", "api.openai.com"));
}

#[tokio::test]
async fn what_is_not_released_is_refused_at_once() {
    let running = Scripted::new([]).start().await;
    running.gateway.seen().refuse_releases = [Status::permission_denied("not this one")].into();
    let client = Client::connect(config_of(&running)).unwrap();
    let refused = bounded(client.release(agent(), "OPENAI", "evil.example")).await.unwrap_err();
    assert!(
        matches!(&refused, ClientError::Refused { code: Code::PermissionDenied, message } if message == "not this one"),
        "{refused}"
    );
    assert_eq!(running.gateway.seen().releases.len(), 1);
}

#[tokio::test]
async fn a_gateway_that_is_busy_is_asked_again_and_one_that_stays_so_is_told() {
    let running = Scripted::new([]).start().await;
    let busy = [Code::ResourceExhausted, Code::Unavailable, Code::ResourceExhausted];
    running.gateway.seen().refuse_releases = busy.map(hinting).into();
    let mut config = config_of(&running);
    config.request_timeout = Duration::from_millis(500);
    let client = Client::connect(config).unwrap();
    bounded(client.release(agent(), "OPENAI", "api.openai.com")).await.unwrap();
    assert_eq!(running.gateway.seen().releases.len(), 4);
    running.gateway.seen().refuse_releases =
        (0..10_000).map(|_| hinting(Code::ResourceExhausted)).collect();
    let refused = bounded(client.release(agent(), "OPENAI", "api.openai.com")).await.unwrap_err();
    assert!(matches!(refused, ClientError::Overloaded { .. }), "{refused}");
}

#[tokio::test]
async fn a_gateway_that_is_not_there_is_left_for_the_next() {
    let mut gone = Scripted::new([]).start_process();
    gone.kill();
    let draining = Scripted::new([]).start().await;
    draining.gateway.seen().refuse_releases =
        (0..100).map(|_| Status::unavailable("the gateway is shutting down")).collect();
    let running = Scripted::new([]).start().await;
    let urls = [gone.address, draining.address, running.address].map(|at| format!("http://{at}"));
    // Whichever comes first.
    for _ in 0..5 {
        let client = Client::connect(config(&urls.join(" "))).unwrap();
        let released = bounded(client.release(agent(), "OPENAI", "api.openai.com")).await;
        assert_eq!(released.unwrap().value.expose(), SECRET.as_bytes());
    }
    drop(running);
    let nobody = Client::connect(aa_client::Config {
        request_timeout: Duration::from_millis(300),
        ..config(&urls[0])
    });
    let nobody = nobody.unwrap();
    let refused = bounded(nobody.release(agent(), "OPENAI", "api.openai.com")).await.unwrap_err();
    assert!(matches!(refused, ClientError::Unreachable { .. }), "{refused}");
}
