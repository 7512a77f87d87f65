//! The transit engine of HashiCorp Vault as a master key, against a server that speaks its interface.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod key_server;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use aa_vault::{
    MasterKey, MasterKeyError, MasterKeys, SecretValue, Vault, WrappedKey,
    master_key::{
        env::EnvMasterKey,
        key_service::{KeyServiceError, MAX_ANSWER_BYTES},
        transit::{TransitBinding, TransitConfig, TransitMasterKey},
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};
use key_server::{KEY_BYTES, NOW, Reply, Request, Server, context, key, limits};
use serde_json::{Value, json};

const TOKEN: &str = "hvs.TOKEN-MARKER";

/// The engine: what was encrypted, by ciphertext.
#[derive(Clone, Default)]
struct FakeEngine {
    sealed: Arc<Mutex<BTreeMap<String, Value>>>,
}

impl FakeEngine {
    fn handle(&self, request: &Request) -> Reply {
        let errors = |status, text: &str| Reply::Json(status, json!({ "errors": [text] }));
        if request.header("x-vault-token") != Some(TOKEN) {
            return errors(403, "permission denied");
        }
        let body = request.json();
        let mut sealed = self.sealed.lock().unwrap();
        match request.path.as_str() {
            "/v1/secrets/transit/encrypt/agents" => {
                let ciphertext = format!("vault:v1:{}", sealed.len());
                sealed.insert(ciphertext.clone(), body);
                Reply::Json(200, json!({ "data": { "ciphertext": ciphertext, "key_version": 1 } }))
            }
            "/v1/secrets/transit/decrypt/agents" => {
                let stored = sealed.get(body["ciphertext"].as_str().unwrap());
                let bound = |stored: &&Value| {
                    stored["associated_data"] == body["associated_data"]
                        && stored["context"] == body["context"]
                };
                match stored.filter(bound) {
                    Some(stored) => {
                        Reply::Json(200, json!({ "data": { "plaintext": stored["plaintext"] } }))
                    }
                    None => errors(400, "cipher: message authentication failed"),
                }
            }
            _ => Reply::Json(404, json!({ "errors": [] })),
        }
    }
}

fn config(server: &Server) -> TransitConfig {
    TransitConfig {
        address: format!("http://{}", server.address),
        authorities: None,
        namespace: None,
        mount: "secrets/transit".to_owned(),
        key: "agents".to_owned(),
        binding: TransitBinding::AssociatedData,
        token: SecretValue::copy_of(TOKEN.as_bytes()).unwrap(),
        limits: limits(),
    }
}

async fn engine() -> Server {
    let engine = FakeEngine::default();
    Server::start(move |request, _| engine.handle(request)).await
}

/// A server that answers everything with `reply`.
async fn always(reply: impl Fn() -> Reply + Send + Sync + 'static) -> (Server, TransitMasterKey) {
    let server = Server::start(move |_, _| reply()).await;
    let master = TransitMasterKey::new(config(&server)).unwrap();
    (server, master)
}

fn wrapped(master: &TransitMasterKey) -> WrappedKey {
    WrappedKey { master: master.id(), ciphertext: b"vault:v1:0".to_vec() }
}

/// No error shows the token or the key, in no form.
fn discreet(error: &MasterKeyError) -> String {
    let text = format!("{error} {error:?}");
    for secret in [TOKEN, "KEY-MARKER", &STANDARD.encode(KEY_BYTES)] {
        assert!(!text.contains(secret), "{text}");
    }
    error.to_string()
}

#[tokio::test]
async fn a_data_key_comes_back_for_its_own_workspace_only() {
    let server = engine().await;
    for binding in [TransitBinding::AssociatedData, TransitBinding::DerivedKey] {
        let master = TransitMasterKey::new(TransitConfig { binding, ..config(&server) }).unwrap();
        assert_eq!(master.id().as_str(), "transit:secrets/transit/agents");
        let wrapped = master.wrap(&key(), &context(1)).await.unwrap();
        assert!(wrapped.ciphertext.starts_with(b"vault:v1:"));
        let opened = master.unwrap(&wrapped, &context(1)).await.unwrap();
        assert_eq!(opened.expose(), &KEY_BYTES);
        let error = master.unwrap(&wrapped, &context(2)).await.unwrap_err();
        assert!(matches!(error, MasterKeyError::Unopenable(_)), "{error}");
    }
}

#[tokio::test]
async fn a_workspace_moves_from_another_master_key_to_transit() {
    let server = engine().await;
    let old = EnvMasterKey::from_lookup("X", None, |_| Some("a".repeat(42) + "A")).unwrap();
    let first = Vault::create(context(1).workspace, NOW, &old).await.unwrap();
    let mut vault = Vault::found(first);
    let name = "a".parse().unwrap();
    let sealed = vault.seal(&name, 1, &SecretValue::copy_of(b"x").unwrap()).unwrap();
    let transit = TransitMasterKey::new(config(&server)).unwrap();
    let masters = MasterKeys::new(Arc::new(transit), vec![Arc::new(old)]);
    vault.adopt(vault.rotate_master(&masters)).unwrap();
    let id = vault.ring().active();
    let change = vault.rewrap(id, &masters).await.unwrap().unwrap();
    vault.adopt(change).unwrap();
    let only_transit = TransitMasterKey::new(config(&server)).unwrap();
    let again = Vault::open_ring(vault.ring().clone(), &only_transit).await.unwrap();
    assert_eq!(again.open(&name, 1, &sealed).unwrap().expose(), b"x");
}

#[tokio::test]
async fn namespace_and_token_travel_as_headers() {
    let server = Server::start(|request, _| {
        assert_eq!(request.header("x-vault-namespace"), Some("team/a"));
        assert_eq!(request.header("x-vault-request"), Some("true"));
        assert!(request.json().get("context").is_none());
        Reply::Json(200, json!({ "data": { "ciphertext": "vault:v3:abc" } }))
    })
    .await;
    let namespace = Some("team/a".to_owned());
    let master = TransitMasterKey::new(TransitConfig { namespace, ..config(&server) }).unwrap();
    master.wrap(&key(), &context(1)).await.unwrap();
}

#[tokio::test]
async fn a_wrong_token_is_refused_once_and_a_renewed_one_works() {
    let server = engine().await;
    let token = SecretValue::copy_of(b"hvs.TOKEN-MARKER-OLD").unwrap();
    let master = TransitMasterKey::new(TransitConfig { token, ..config(&server) }).unwrap();
    let error = master.wrap(&key(), &context(1)).await.unwrap_err();
    assert!(matches!(error, MasterKeyError::Refused(_)) && !error.is_transient());
    let text = discreet(&error);
    assert!(text.contains("403") && text.contains("permission denied"), "{text}");
    assert_eq!(server.requests(), 1, "a refusal is not asked for twice");
    master.set_token(SecretValue::copy_of(TOKEN.as_bytes()).unwrap()).unwrap();
    master.wrap(&key(), &context(1)).await.unwrap();
}

#[tokio::test]
async fn a_missing_key_or_mount_says_what_to_check() {
    let server = engine().await;
    let key_name = "missing".to_owned();
    let master = TransitMasterKey::new(TransitConfig { key: key_name, ..config(&server) }).unwrap();
    let text = discreet(&master.wrap(&key(), &context(1)).await.unwrap_err());
    assert!(text.contains("404") && text.contains("check mount, key and namespace"), "{text}");
}

#[tokio::test]
async fn an_overloaded_or_failed_server_is_asked_again() {
    for status in [429, 500, 502, 503] {
        let engine = FakeEngine::default();
        let server = Server::start(move |request, before| match before {
            0 | 1 => Reply::Json(status, json!({ "errors": ["busy"] })),
            _ => engine.handle(request),
        })
        .await;
        let master = TransitMasterKey::new(config(&server)).unwrap();
        master.wrap(&key(), &context(1)).await.unwrap();
        assert_eq!(server.requests(), 3);
    }
}

#[tokio::test]
async fn a_server_that_stays_down_is_unavailable_after_the_tries() {
    let (server, master) =
        always(|| Reply::Json(503, json!({ "errors": ["Vault is sealed"] }))).await;
    let error = master.wrap(&key(), &context(1)).await.unwrap_err();
    assert!(error.is_transient());
    assert!(discreet(&error).contains("Vault is sealed"), "{error}");
    assert_eq!(server.requests(), 3);
}

#[tokio::test]
async fn no_server_and_no_answer_are_unavailable_in_bounded_time() {
    let (server, master) = always(|| Reply::Stall).await;
    let started = std::time::Instant::now();
    let error = master.unwrap(&wrapped(&master), &context(1)).await.unwrap_err();
    assert!(error.is_transient() && started.elapsed() < limits().in_all, "{error}");
    assert!(discreet(&error).contains("no answer in time"), "{error}");
    assert_eq!(server.requests(), 1);
    drop(server);
    let error = master.wrap(&key(), &context(1)).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
}

#[tokio::test]
async fn garbage_is_named_and_not_quoted() {
    let echo = STANDARD.encode(KEY_BYTES);
    let bodies: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"<html>KEY-MARKER</html>".to_vec(),
        b"{}".to_vec(),
        format!(r#"{{"data":{{"ciphertext":5,"plaintext":"{echo}AAAA"}}}}"#).into_bytes(),
        br#"{"data":{"ciphertext":"KEY-MARKER","plaintext":"not base64 KEY-MARKER"}}"#.to_vec(),
        br#"{"data":{"ciphertext":"","plaintext":""}}"#.to_vec(),
        vec![0xff; 100],
    ];
    for body in bodies {
        let (_server, master) = always(move || Reply::Raw(200, body.clone())).await;
        let error = master.wrap(&key(), &context(1)).await.unwrap_err();
        assert!(matches!(error, MasterKeyError::Answer(_)), "{error}");
        discreet(&error);
        let error = master.unwrap(&wrapped(&master), &context(1)).await.unwrap_err();
        assert!(matches!(error, MasterKeyError::Answer(_)), "{error}");
        discreet(&error);
    }
}

#[tokio::test]
async fn an_answer_that_repeats_what_was_sent_is_not_passed_on() {
    let echo = STANDARD.encode(KEY_BYTES);
    for text in
        [format!("bad token {TOKEN}"), format!("bad plaintext {echo}"), "KEY-MARKER\n".to_owned()]
    {
        let (_server, master) =
            always(move || Reply::Json(400, json!({ "errors": [text.clone()] }))).await;
        discreet(&master.wrap(&key(), &context(1)).await.unwrap_err());
    }
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let (_server, master) = always(|| Reply::Raw(200, vec![b' '; MAX_ANSWER_BYTES + 1])).await;
    let error = master.wrap(&key(), &context(1)).await.unwrap_err();
    assert!(matches!(error, MasterKeyError::Answer(_)), "{error}");
    assert!(error.to_string().contains("more than 65536 bytes"), "{error}");
}

#[tokio::test]
async fn keys_are_never_sent_after_a_redirect() {
    let (server, master) = always(|| Reply::Raw(307, Vec::new())).await;
    let error = master.wrap(&key(), &context(1)).await.unwrap_err();
    assert!(matches!(error, MasterKeyError::Answer(_)), "{error}");
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn a_wrapping_of_another_master_key_is_not_sent() {
    let (server, master) = always(|| Reply::Raw(200, Vec::new())).await;
    let foreign = WrappedKey { master: "file:0011".parse().unwrap(), ciphertext: b"x".to_vec() };
    let error = master.unwrap(&foreign, &context(1)).await.unwrap_err();
    assert!(matches!(error, MasterKeyError::Unknown(_)), "{error}");
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused_at_once() {
    type Change = fn(&mut TransitConfig);
    let server = engine().await;
    let with = |change: Change| {
        let mut config = config(&server);
        change(&mut config);
        TransitMasterKey::new(config).err().unwrap()
    };
    let cases: [(Change, &str); 7] = [
        (|config| config.address = "http://vault.example".to_owned(), "address"),
        (|config| config.mount = "a/../sys".to_owned(), "mount"),
        (|config| config.key = "../sys/seal".to_owned(), "key"),
        (|config| config.namespace = Some("a\nb".to_owned()), "namespace"),
        (|config| config.token = SecretValue::copy_of(b"hvs.x\n").unwrap(), "token"),
        (|config| config.limits.tries = 0, "limits"),
        (|config| config.authorities = Some(b"no PEM".to_vec()), "certificates"),
    ];
    for (change, expected) in cases {
        let error = with(change);
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!matches!(error, KeyServiceError::Client { .. }), "{error}");
    }
}
