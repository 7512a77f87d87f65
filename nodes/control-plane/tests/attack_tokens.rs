//! Forged, stolen, stale and misplaced credentials.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod peer;

use std::{sync::Arc, time::Duration};

use aa_control_plane::{
    admission::Limits,
    gateway::Gateway,
    throttle::FailureRate,
    token::{LIFETIME_SECONDS, SKEW_SECONDS, TokenKey},
};
use aa_governance::{AuditKeys, Governance, GovernanceOptions, Grant, Outside};
use aa_ledger::MacKey;
use aa_notify::{Guard, Roots, SendLimits, Sender, SystemLookup};
use aa_protocol::{AgentId, Timestamp, WorkspaceId, wire::v1};
use aa_runtime::{Clock, ManualClock, Node, NodeOptions, SystemClock, SystemEntropy};
use aa_store::MemoryStore;
use aa_vault::master_key::env::EnvMasterKey;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};
use futures::StreamExt;
use hmac::{KeyInit, Mac};
use peer::{BASH, Client, PATIENCE, Peer, action, bearing};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, transport::Endpoint};

/// What the gateway signs with, to forge what it would never sign.
struct Forge {
    key: SigningKey,
    header: String,
    claims: Value,
}

impl Forge {
    fn new(peer: &Peer, genuine: &str) -> Self {
        let seed = peer.directory.path().join("data/secrets/token.seed");
        let seed: [u8; 32] = std::fs::read(seed).unwrap().try_into().unwrap();
        let mut parts = genuine.split('.');
        let header = parts.next().unwrap().to_owned();
        let claims = BASE64_URL_SAFE_NO_PAD.decode(parts.next().unwrap()).unwrap();
        let claims = serde_json::from_slice(&claims).unwrap();
        Self { key: SigningKey::from_bytes(&seed), header, claims }
    }

    /// Signed by the gateway's own key.
    fn sign(&self, header: &str, payload: &[u8]) -> String {
        let signed = format!("{header}.{}", BASE64_URL_SAFE_NO_PAD.encode(payload));
        let signature = self.key.sign(signed.as_bytes()).to_bytes();
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }

    /// The genuine claims with some changed, signed by the gateway's own key.
    fn claiming(&self, changes: Value) -> String {
        let mut claims = self.claims.clone();
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        self.sign(&self.header, &serde_json::to_vec(&claims).unwrap())
    }

    /// The genuine claims under another header, signed by the gateway's own key.
    fn headed(&self, header: &str) -> String {
        let payload = serde_json::to_vec(&self.claims).unwrap();
        self.sign(&BASE64_URL_SAFE_NO_PAD.encode(header), &payload)
    }

    /// HS256 with the public key as the secret: the classic confusion of algorithms.
    fn hs256(&self) -> String {
        let header = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
        let payload = BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(&self.claims).unwrap());
        let public = self.key.verifying_key().to_bytes();
        let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(&public).unwrap();
        mac.update(format!("{header}.{payload}").as_bytes());
        let tag = BASE64_URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
        format!("{header}.{payload}.{tag}")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_forged_token_is_accepted_and_each_refusal_says_why() {
    let peer = Peer::start().await;
    let genuine = peer.register("a").await;
    let forge = Forge::new(&peer, &genuine);
    peer.check(&forge.claiming(json!({})), action(1, BASH)).await.expect("the forge works");

    let (signed, signature) = genuine.rsplit_once('.').unwrap();
    let (header, payload) = signed.split_once('.').unwrap();
    let raw = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
    // S + L: the same signature to a verifier that does not insist on the canonical scalar.
    let mut malleable = raw.clone();
    let order: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut carry = 0;
    for (byte, add) in malleable[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    let malleable = format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(malleable));
    let stranger = TokenKey::new(&[1; 32]);
    let foreign =
        stranger.issue(peer.workspace, peer.agent("a"), SystemClock.now(), uuid::Uuid::nil()).0;
    let (_, foreign_rest) = foreign.split_once('.').unwrap();
    let now = SystemClock.now().unix_seconds();
    let other_algorithm = "is not an EdDSA token of this gateway's current key";
    let malformed = "the token is malformed";
    let bad_signature = "signature does not verify";
    let cases: Vec<(&str, String, &str)> = vec![
        ("alg none", forge.headed(r#"{"alg":"none"}"#), other_algorithm),
        (
            "alg none, unsigned",
            format!("{}.{payload}.", BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#)),
            other_algorithm,
        ),
        ("alg HS256 keyed with the public key", forge.hs256(), other_algorithm),
        ("alg ES256", forge.headed(r#"{"alg":"ES256","typ":"JWT"}"#), other_algorithm),
        (
            "a key of its own in the header",
            forge.headed(r#"{"alg":"EdDSA","jwk":{"kty":"OKP"},"typ":"JWT"}"#),
            other_algorithm,
        ),
        ("another key's token", foreign.clone(), other_algorithm),
        (
            "another key's token under this key's header",
            format!("{header}.{foreign_rest}"),
            bad_signature,
        ),
        ("a non-canonical signature", malleable, bad_signature),
        (
            "an all-zero signature",
            format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode([0; 64])),
            bad_signature,
        ),
        ("another issuer", forge.claiming(json!({"iss": "somebody"})), malformed),
        ("an audience", forge.claiming(json!({"aud": "else"})), malformed),
        ("a claim that is not ours", forge.claiming(json!({"nbf": now + 7_200})), malformed),
        ("a workspace that is none", forge.claiming(json!({"ws": "acme"})), malformed),
        ("times that are no integers", forge.claiming(json!({"exp": "9999999999"})), malformed),
        ("a negative end", forge.claiming(json!({"exp": -1})), "expired"),
        (
            "an end long past",
            forge.claiming(json!({"iat": now - 7_200, "exp": now - 3_600})),
            "expired at",
        ),
        (
            "issued in the future",
            forge.claiming(json!({"iat": now + 600, "exp": now + 4_200})),
            "valid from",
        ),
        ("claims that are no JSON", forge.sign(header, b"\xff\xfe{"), malformed),
        ("truncated", genuine[..genuine.len() - 1].to_owned(), malformed),
        ("without a signature", signed.to_owned(), malformed),
        ("padded base64", format!("{genuine}=="), malformed),
        ("a part too many", format!("{genuine}.{signature}"), bad_signature),
        ("giant", format!("{genuine}{}", "A".repeat(6_000)), malformed),
        ("an agent key", peer.agent_key.clone(), malformed),
        ("an owner key", peer.owner_key.clone(), malformed),
        ("empty", String::new(), malformed),
    ];
    for (what, token, expected) in cases {
        let refused = peer.check(&token, action(2, BASH)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{what}: {refused}");
        assert!(refused.message().contains(expected), "{what}: {refused}");
        if token.len() > 8 {
            assert!(!refused.message().contains(&token), "{what}: the credential is not repeated");
        }
    }
    // Only a token that this gateway signed names an agent for certain.
    let mut codes = peer.refusals("a").await;
    codes.sort();
    assert_eq!(codes, ["token_expired", "token_expired", "token_not_yet_valid"]);
    peer.check(&genuine, action(3, BASH)).await.expect("the genuine token goes on");
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_credential_opens_what_it_is_not_for() {
    let peer = Peer::start().await;
    let token = peer.register("a").await;
    for (credential, status) in [(&token, 401), (&peer.agent_key, 403)] {
        for path in ["policies", "agents", "audit/export", "audit/entries", "keys", "metrics"] {
            let url = format!("{}/api/v1/{path}", peer.api_url);
            let answer = peer.api.get(url).bearer_auth(credential).send().await.unwrap();
            assert_eq!(answer.status().as_u16(), status, "{path}");
            assert!(!answer.text().await.unwrap().contains(credential.as_str()), "{path}");
        }
    }
    let mut gateway = peer.gateway.clone();
    let workspace_id = peer.workspace.to_string();
    let begin = || v1::BeginRegistrationRequest { workspace_id: workspace_id.clone() };
    let refused = gateway.begin_registration(bearing(begin(), &token)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "a token registers nobody: {refused}");
    for key in [&peer.agent_key, &peer.owner_key] {
        let renewal = bearing(v1::RenewTokenRequest {}, key);
        let refused = gateway.renew_token(renewal).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "a key is no token: {refused}");
    }
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_proves_one_key_for_one_name_in_one_workspace_once() {
    let peer = Peer::start().await;
    let nonce = peer.nonce().await.unwrap();
    let genuine = peer.registration("a", &nonce);
    peer.send(genuine.clone()).await.unwrap();
    let replayed = peer.send(genuine).await.unwrap_err();
    assert_eq!(replayed.code(), Code::FailedPrecondition);
    assert!(replayed.message().contains("begin the registration again"), "{replayed}");

    let never = peer.send(peer.registration("a", &[7; 32])).await.unwrap_err();
    assert_eq!(never.code(), Code::FailedPrecondition, "a nonce of the caller's own");

    // The signature covers every field that says who registers.
    type Change = fn(&mut v1::RegisterAgentRequest);
    let changes: [(&str, Change, Code); 5] = [
        ("name", |message| message.name = "b".to_owned(), Code::Unauthenticated),
        (
            "agent id",
            |message| message.agent_id = uuid::Uuid::from_u128(7).to_string(),
            Code::Unauthenticated,
        ),
        (
            "key",
            |message| {
                message.public_key =
                    SigningKey::from_bytes(&[6; 32]).verifying_key().to_bytes().to_vec().into();
            },
            Code::Unauthenticated,
        ),
        ("signature", |message| message.signature = vec![0; 64].into(), Code::Unauthenticated),
        (
            "a key of small order",
            |message| {
                // With a weak key one signature would fit many messages.
                message.public_key = [&[1_u8][..], &[0; 31]].concat().into();
            },
            Code::Unauthenticated,
        ),
    ];
    for (what, change, code) in changes {
        let mut forged = peer.registration("c", &peer.nonce().await.unwrap());
        change(&mut forged);
        let refused = peer.send(forged.clone()).await.unwrap_err();
        assert_eq!(refused.code(), code, "{what}: {refused}");
        // A failed proof uses its nonce up, so nothing can be tried twice over one.
        let again = peer.send(forged).await.unwrap_err();
        assert_eq!(again.code(), Code::FailedPrecondition, "{what}");
    }
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_keeps_failing_is_held_to_a_rate_and_a_valid_token_from_there_is_not() {
    let failures = FailureRate { burst: 10, per_second: 1 };
    let peer = Peer::start_within(Limits { failures, ..Limits::default() }).await;
    let token = peer.register("a").await;
    let expired = Forge::new(&peer, &token).claiming(json!({"iat": 1_000_000, "exp": 1_003_600}));
    let (mut told, mut throttled) = (0, 0);
    for number in 0..500 {
        let refused = peer.check(&expired, action(2, BASH)).await.unwrap_err();
        match refused.code() {
            Code::Unauthenticated => told += 1,
            Code::ResourceExhausted => {
                throttled += 1;
                assert!(
                    refused.message().contains("present a valid credential, or wait"),
                    "{refused}"
                );
                let wait = refused.metadata().get("retry-after-ms").unwrap();
                let wait: u64 = wait.to_str().unwrap().parse().unwrap();
                assert!((1..=1_000).contains(&wait), "{wait}");
            }
            _ => panic!("{refused}"),
        }
        if number % 50 == 0 {
            peer.check(&token, action(1_000 + number, BASH)).await.expect("a valid token goes on");
            peer.nonce().await.expect("so does a valid key");
        }
    }
    assert!(told >= 10 && throttled > 300, "{told} told, {throttled} throttled");
    // What is beyond the rate leaves no entry: nobody fills the log with one stale token.
    assert_eq!(peer.refusal_details("a").await.len(), told);
    let failed = peer.metric("aa_authentication_failures_total{answer=\"unauthenticated\"}").await;
    let beyond = peer.metric("aa_authentication_failures_total{answer=\"throttled\"}").await;
    assert_eq!((failed, beyond), (told as u64, throttled));
    // The API counts together with the gateway.
    let url = format!("{}/api/v1/policies", peer.api_url);
    let answer = peer.api.get(&url).bearer_auth("aak_guess_x").send().await.unwrap();
    assert!(matches!(answer.status().as_u16(), 401 | 429), "{}", answer.status());
    let answer = peer.api.get(&url).bearer_auth(&peer.owner_key).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    peer.stop().await;
}

// --- the clock

/// A gateway over a clock that stands still until it is told otherwise.
struct Still {
    client: Client,
    clock: ManualClock,
    tokens: TokenKey,
    workspace: WorkspaceId,
    agent: AgentId,
    _draining: tokio::sync::watch::Sender<bool>,
}

impl Still {
    async fn start() -> Self {
        let clock = ManualClock::new(SystemClock.now());
        let node = Node::start(
            Arc::new(MemoryStore::new()),
            Arc::new(clock.clone()),
            Arc::new(SystemEntropy),
            NodeOptions::embedded(),
        )
        .await
        .unwrap();
        let mac = MacKey::new("k1", &[7; 32]).unwrap();
        let master = EnvMasterKey::from_lookup("TEST_MASTER_KEY", None, |_| Some("A".repeat(43)));
        let roots = Roots::Only(Vec::new());
        let limits = SendLimits::default();
        let sender = Sender::new(
            Guard::new(["127.0.0.0/8".parse().unwrap()]),
            Arc::new(SystemLookup),
            &roots,
            limits,
        );
        let (master_key, sender) = (Arc::new(master.unwrap()), Arc::new(sender.unwrap()));
        let outside = Outside { master_key, sender };
        let keys = AuditKeys { log_seed: [9; 32].into(), mac };
        let governance = Governance::start(node, keys, outside, GovernanceOptions::default());
        let workspace: WorkspaceId = "ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890".parse().unwrap();
        governance.set_up_workspace(workspace, "test").await.unwrap();
        let (_, key) = governance.set_up_key(workspace, "sdk", Grant::Agent).await.unwrap();
        let tokens = TokenKey::new(&[7; 32]);
        let (draining_in, draining) = tokio::sync::watch::channel(false);
        let gateway = Gateway::new(governance, tokens.clone(), Limits::default(), draining);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = futures::stream::unfold(listener, |listener| async {
            Some((listener.accept().await.map(|(stream, _)| stream), listener))
        });
        let service = v1::gateway_server::GatewayServer::new(gateway);
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(incoming));
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        let mut client = Client::new(channel);

        let signing = SigningKey::from_bytes(&[5; 32]);
        let public = signing.verifying_key().to_bytes();
        let workspace_id = workspace.to_string();
        let begin = v1::BeginRegistrationRequest { workspace_id: workspace_id.clone() };
        let begun = client.begin_registration(bearing(begin, key.expose())).await.unwrap();
        let nonce: [u8; 32] = begun.into_inner().nonce.as_ref().try_into().unwrap();
        let signed =
            aa_protocol::wire::registration_message(&nonce, &public, &workspace_id, "a", "");
        let message = v1::RegisterAgentRequest {
            workspace_id,
            name: "a".to_owned(),
            public_key: public.to_vec().into(),
            nonce: nonce.to_vec().into(),
            signature: signing.sign(&signed).to_bytes().to_vec().into(),
            ..Default::default()
        };
        client.register_agent(bearing(message, key.expose())).await.unwrap();
        let agent = AgentId::of_name(workspace, "a");
        Self { client, clock, tokens, workspace, agent, _draining: draining_in }
    }

    /// A token issued this many seconds from now.
    fn token(&self, offset: i64) -> String {
        let at = Timestamp::from_micros(self.clock.now().as_micros() + offset * 1_000_000);
        self.tokens.issue(self.workspace, self.agent, at, uuid::Uuid::nil()).0
    }

    async fn check(&self, token: &str, number: u128) -> Result<(), Status> {
        let mut client = self.client.clone();
        let answer = client.check_policy(bearing(action(number, BASH), token));
        let answer = tokio::time::timeout(PATIENCE, answer).await.expect("an answer comes");
        answer.map(|_decision| ())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_ends_to_the_second_and_clocks_may_differ_by_sixty() {
    let still = Still::start().await;
    still.check(&still.token(-LIFETIME_SECONDS + 1), 1).await.expect("a second before its end");
    let ended = still.check(&still.token(-LIFETIME_SECONDS), 2).await.unwrap_err();
    assert_eq!(ended.code(), Code::Unauthenticated);
    assert!(ended.message().contains("expired at"), "{ended}");
    still.check(&still.token(SKEW_SECONDS), 3).await.expect("a clock sixty seconds ahead");
    let early = still.check(&still.token(SKEW_SECONDS + 1), 4).await.unwrap_err();
    assert_eq!(early.code(), Code::Unauthenticated);
    assert!(early.message().contains("check the clocks"), "{early}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_with_its_token_unless_that_was_renewed() {
    use v1::{client_frame::Body as Ask, server_frame::Body as Said};
    let still = Still::start().await;
    let (frames, outgoing) = mpsc::unbounded_channel();
    let request = bearing(UnboundedReceiverStream::new(outgoing), &still.token(0));
    let mut answers = still.client.clone().session(request).await.unwrap().into_inner();
    let send =
        |tag: u64, body: Ask| frames.send(v1::ClientFrame { tag, body: Some(body) }).unwrap();
    let mut next = async || {
        let next = tokio::time::timeout(PATIENCE, answers.next());
        next.await.expect("an answer comes").expect("the session is open")
    };
    send(1, Ask::Check(action(1, BASH)));
    assert!(matches!(next().await.unwrap().body, Some(Said::Decision(_))));
    let lifetime = Duration::from_secs(LIFETIME_SECONDS.unsigned_abs());

    still.clock.advance(lifetime - Duration::from_secs(1));
    send(2, Ask::Token(still.token(0)));
    assert!(matches!(next().await.unwrap().body, Some(Said::TokenAccepted(_))));
    still.clock.advance(Duration::from_secs(1));
    // An older token that still stands is taken too; a stale one is refused and changes nothing.
    send(3, Ask::Token(still.token(-LIFETIME_SECONDS)));
    let Some(Said::Refusal(refusal)) = next().await.unwrap().body else { panic!() };
    assert_eq!(refusal.code, Code::Unauthenticated as i32);
    send(4, Ask::Check(action(2, BASH)));
    assert!(matches!(next().await.unwrap().body, Some(Said::Decision(_))), "it was renewed");

    still.clock.advance(lifetime);
    send(5, Ask::Check(action(3, BASH)));
    let ended = next().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unauthenticated);
    assert!(ended.message().contains("the session's token expired at"), "{ended}");
}
