//! Secrets for proxies, over the wire: who gets them, and who does not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod peer;

use aa_protocol::wire::v1;
use peer::{Peer, bearing};
use serde_json::{Value, json};
use tonic::{Code, Status};

const MARKER: &str = "sk-marker-0b77";
const HOST: &str = "api.openai.com";

impl Peer {
    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let url = format!("{}/api/v1/{path}", self.api_url);
        let request = self.api.request(method.parse().unwrap(), url).bearer_auth(&self.owner_key);
        let request = match &body {
            Some(body) => request.json(body),
            None => request,
        };
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn set_secret(&self, name: &str, release_to: &str, value: &str) {
        let url = format!("{}/api/v1/secrets/{name}?release_to={release_to}", self.api_url);
        let request = self.api.put(url).bearer_auth(&self.owner_key);
        let request = request.header("content-type", "application/octet-stream");
        let answer = request.body(value.to_owned()).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{}", answer.text().await.unwrap());
    }

    /// A new key of this role: its id, and itself.
    async fn key(&self, role: &str) -> (String, String) {
        let request = json!({ "name": role, "role": role });
        let (status, made) = self.call("POST", "keys", Some(request)).await;
        assert_eq!(status, 201, "{made}");
        let text = |member: &str| made[member].as_str().unwrap().to_owned();
        (text("id"), text("secret"))
    }

    fn asking(&self, secret: &str, host: &str) -> v1::ReleaseSecretRequest {
        v1::ReleaseSecretRequest {
            workspace_id: self.workspace.to_string(),
            agent_id: self.agent("a").to_string(),
            secret: secret.to_owned(),
            host: host.to_owned(),
        }
    }

    async fn release(
        &self,
        key: &str,
        asking: v1::ReleaseSecretRequest,
    ) -> Result<v1::ReleaseSecretResponse, Status> {
        let answer = self.gateway.clone().release_secret(bearing(asking, key)).await?;
        Ok(answer.into_inner())
    }

    /// What the log tells of releases, newest first.
    async fn told(&self) -> Vec<Value> {
        let page = self.get("audit/entries?kind=secret&limit=1000").await;
        let entries = page["entries"].as_array().unwrap().iter();
        let change = |entry: &&Value| {
            ["released", "release_denied"].contains(&entry["detail"]["change"].as_str().unwrap())
        };
        entries.filter(change).cloned().collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_gets_the_secret_for_its_host_and_the_log_tells_who_got_it() {
    let peer = Peer::start().await;
    peer.register("a").await;
    peer.set_secret("OPENAI", HOST, MARKER).await;
    let (id, key) = peer.key("proxy").await;
    for _ in 0..2 {
        let released = peer.release(&key, peer.asking("OPENAI", "API.OpenAI.com.")).await.unwrap();
        assert_eq!(released.value.as_ref(), MARKER.as_bytes());
        assert_eq!((released.version, released.keep_for_ms), (1, 60_000));
    }
    peer.set_secret("OPENAI", HOST, "sk-rotated").await;
    let rotated = peer.release(&key, peer.asking("OPENAI", HOST)).await.unwrap();
    assert_eq!((rotated.value.as_ref(), rotated.version), (b"sk-rotated".as_slice(), 2));
    let told = peer.told().await;
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[1]["actor"], format!("key:{id}"));
    let agent = peer.agent("a").to_string();
    let detail = json!({
        "agent": agent, "change": "released", "host": HOST, "name": "OPENAI", "version": "1",
    });
    assert_eq!(told[1]["detail"], detail);
    assert!(!json!(told).to_string().contains(MARKER));

    // From the moment that it is revoked, a key gets nothing.
    let (status, answer) = peer.call("DELETE", &format!("keys/{id}"), None).await;
    assert_eq!(status, 200, "{answer}");
    let refused = peer.release(&key, peer.asking("OPENAI", HOST)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_an_agent_nor_an_operator_gets_a_secret_and_a_proxy_gets_nothing_else() {
    let peer = Peer::start().await;
    let token = peer.register("a").await;
    peer.set_secret("OPENAI", HOST, MARKER).await;
    let asking = || peer.asking("OPENAI", HOST);
    let refused = peer.release(&token, asking()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "an agent's token is no API key");
    for key in [&peer.agent_key, &peer.owner_key] {
        let refused = peer.release(key, asking()).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(refused.message().ends_with("may not have secrets released; it takes proxy"));
    }
    let (_, proxy) = peer.key("proxy").await;
    let theirs = v1::ReleaseSecretRequest {
        workspace_id: "ws-ffffffff-e5f6-4890-abcd-ef1234567890".to_owned(),
        ..asking()
    };
    let refused = peer.release(&proxy, theirs).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");

    // The key registers agents, and opens nothing of the operator API.
    let begin = v1::BeginRegistrationRequest { workspace_id: peer.workspace.to_string() };
    peer.gateway.clone().begin_registration(bearing(begin, &proxy)).await.unwrap();
    for path in ["secrets", "agents", "audit/entries", "keys", "policies"] {
        let url = format!("{}/api/v1/{path}", peer.api_url);
        let answer = peer.api.get(url).bearer_auth(&proxy).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 403, "{path}");
    }
    assert!(peer.told().await.is_empty(), "none of these came to the vault");
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_released_is_denied_alike_and_in_the_log_with_the_reason() {
    let peer = Peer::start().await;
    peer.register("a").await;
    peer.set_secret("OPENAI", HOST, MARKER).await;
    let (_, key) = peer.key("proxy").await;
    let mut messages = Vec::new();
    for (secret, host) in [("OPENAI", "evil.example"), ("NONE", HOST)] {
        let refused = peer.release(&key, peer.asking(secret, host)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        messages.push(refused.message().to_owned());
    }
    assert_eq!(messages[0], messages[1]);
    let agent = peer.agent("a");
    peer.post(&format!("agents/{agent}/suspend"), "application/json", "{}".to_owned()).await;
    let refused = peer.release(&key, peer.asking("OPENAI", HOST)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("is suspended"), "{refused}");
    let reasons: Vec<_> =
        peer.told().await.iter().map(|entry| entry["detail"]["reason"].clone()).collect();
    assert_eq!(reasons, ["agent_suspended", "unknown_secret", "host"]);

    for malformed in [
        v1::ReleaseSecretRequest { agent_id: "a".to_owned(), ..peer.asking("OPENAI", HOST) },
        peer.asking("sk+secret", HOST),
        peer.asking("OPENAI", "not a host"),
        peer.asking("OPENAI", ""),
    ] {
        let refused = peer.release(&key, malformed).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(!refused.message().contains("sk+secret"), "{refused}");
    }
    peer.stop().await;
}
