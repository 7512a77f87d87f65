//! Requests that nothing more is known of than where they go.

use http::Response;

use crate::{
    provider::{Provider, whole},
    world::{TOKEN, World},
};

const ALLOWED: &str = "  network:\n    allowlist: [api.example.com]\n";

async fn echo(world: &World) -> Provider {
    let tls =
        world.authority.server(&["api.example.com", "elsewhere.example.com"], &["h2", "http/1.1"]);
    Provider::start(Some(tls), |seen| async move { Response::new(whole(seen.body)) }).await
}

#[tokio::test]
async fn a_request_to_an_allowed_host_arrives_and_is_recorded() {
    let world = World::start(ALLOWED).await;
    let provider = echo(&world).await;
    let url = format!("https://api.example.com:{}/things?x=1", provider.address.port());
    let body = vec![b'x'; 300_000];
    let answer = world.client().post(url).body(body.clone()).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.bytes().await.unwrap(), body);
    {
        let seen = provider.seen();
        assert_eq!(seen[0].uri.path_and_query().unwrap(), "/things?x=1");
        assert_eq!(seen[0].body, body);
        assert!(!seen[0].headers.contains_key("proxy-authorization"));
    }
    let entry = world.entry(|entry| entry["action"]["kind"] == "network_connect").await;
    assert_eq!(entry["action"]["host"], "api.example.com");
    world.stop().await;
}

#[tokio::test]
async fn a_request_to_another_host_is_refused_before_any_byte_leaves() {
    let world = World::start(ALLOWED).await;
    let provider = echo(&world).await;
    let url = format!("https://elsewhere.example.com:{}/", provider.address.port());
    let answer = world.client().post(url).body("secret").send().await.unwrap();
    assert_eq!(answer.status(), 403);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let problem: serde_json::Value = answer.json().await.unwrap();
    let said = problem.to_string();
    assert!(said.contains("spec.network.allowlist"), "{said}");
    assert!(provider.seen().is_empty());
    world.stop().await;
}

#[tokio::test]
async fn wrong_credentials_get_nowhere() {
    let world = World::start(ALLOWED).await;
    let provider = echo(&world).await;
    let url = format!("https://api.example.com:{}/", provider.address.port());
    for (agent, token) in [("research", "wrong"), ("nobody", TOKEN)] {
        let refused = world.client_as(agent, token).get(&url).send().await.unwrap_err();
        let said = format!("{refused:?}");
        assert!(said.contains("ProxyAuthRequired"), "{said}");
    }
    assert!(provider.seen().is_empty());
    assert!(world.metrics().await.contains("aa_proxy_unknown_callers_total 2\n"));
    world.stop().await;
}

#[tokio::test]
async fn a_placeholder_becomes_its_secret_for_the_allowed_host_alone() {
    let world = World::start("  network:\n    allowlist: ['*']\n").await;
    let provider = echo(&world).await;
    world.set_secret("api-key", "api.example.com", "the-real-key").await;
    let ask = async |host: &str| {
        let url = format!("https://{host}:{}/", provider.address.port());
        let request = world.client().get(url).header("authorization", "Bearer aasm-secret:api-key");
        request.send().await.unwrap()
    };
    assert_eq!(ask("api.example.com").await.status(), 200);
    assert_eq!(provider.seen()[0].headers["authorization"], "Bearer the-real-key");
    let refused = ask("elsewhere.example.com").await;
    assert_eq!(refused.status(), 403);
    let said = refused.text().await.unwrap();
    assert!(said.contains("api-key") && !said.contains("the-real-key"), "{said}");
    assert_eq!(provider.seen().len(), 1);
    world.stop().await;
}
