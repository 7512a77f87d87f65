//! AWS KMS as a master key, against a server that speaks its interface and checks each signature by its own
//! reading of the specification.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod key_server;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use aa_protocol::Timestamp;
use aa_vault::{
    MasterKey, MasterKeyError, SecretValue, Vault, WrappedKey,
    master_key::aws_kms::{AwsCredentialSource, AwsCredentials, AwsKmsConfig, AwsKmsMasterKey},
};
use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use key_server::{KEY_BYTES, NOW, Reply, Request, Server, context, key, limits};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const ARN: &str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const SECRET: &str = "SECRET-MARKER/K7MDENG+bPxRfiCY";
const SESSION: &str = "SESSION-MARKER==";

#[derive(Clone, Default)]
struct FakeKms {
    sealed: Arc<Mutex<BTreeMap<String, Value>>>,
}

impl FakeKms {
    fn handle(&self, request: &Request) -> Reply {
        if !is_signed(request) {
            return exception("InvalidSignatureException");
        }
        assert_eq!(request.header("content-type"), Some("application/x-amz-json-1.1"));
        let body = request.json();
        let mut sealed = self.sealed.lock().unwrap();
        match request.header("x-amz-target").unwrap() {
            "TrentService.Encrypt" => {
                let blob = STANDARD.encode(format!("blob {}", sealed.len()));
                sealed.insert(blob.clone(), body.clone());
                Reply::Json(200, json!({ "CiphertextBlob": blob, "KeyId": body["KeyId"] }))
            }
            "TrentService.Decrypt" => {
                let stored = sealed.get(body["CiphertextBlob"].as_str().unwrap());
                let bound = |stored: &&Value| {
                    stored["EncryptionContext"] == body["EncryptionContext"]
                        && stored["KeyId"] == body["KeyId"]
                };
                match stored.filter(bound) {
                    Some(stored) => Reply::Json(
                        200,
                        json!({ "Plaintext": stored["Plaintext"], "KeyId": stored["KeyId"] }),
                    ),
                    None => exception("InvalidCiphertextException"),
                }
            }
            other => panic!("{other}"),
        }
    }
}

fn exception(kind: &str) -> Reply {
    let kind = format!("com.amazonaws.kms#{kind}");
    Reply::Json(400, json!({ "__type": kind, "message": "it said KEY-MARKER" }))
}

fn hmac(key: &[u8], message: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(message.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Recomputes the signature of what arrived.
fn is_signed(request: &Request) -> bool {
    let text = request.header("authorization").unwrap();
    let text = text.strip_prefix("AWS4-HMAC-SHA256 ").unwrap();
    let parts: BTreeMap<&str, &str> =
        text.split(", ").map(|part| part.split_once('=').unwrap()).collect();
    let (access_key, area) = parts["Credential"].split_once('/').unwrap();
    let signed: Vec<&str> = parts["SignedHeaders"].split(';').collect();
    assert_eq!(access_key, "AKIDEXAMPLE");
    assert!(signed.is_sorted());
    for required in ["host", "x-amz-date", "x-amz-target", "content-type"] {
        assert!(signed.contains(&required), "{required} is signed");
    }
    let has_token = request.header("x-amz-security-token").is_some();
    assert_eq!(has_token, signed.contains(&"x-amz-security-token"));
    let lines: String =
        signed.iter().map(|name| format!("{name}:{}\n", request.header(name).unwrap())).collect();
    let hash = hex(&Sha256::digest(&request.body));
    let canonical =
        format!("POST\n{}\n\n{lines}\n{}\n{hash}", request.path, parts["SignedHeaders"]);
    let date = request.header("x-amz-date").unwrap();
    assert_eq!(area, format!("{}/eu-central-1/kms/aws4_request", &date[..8]));
    let to_sign =
        format!("AWS4-HMAC-SHA256\n{date}\n{area}\n{}", hex(&Sha256::digest(canonical.as_bytes())));
    let mut signing_key = format!("AWS4{SECRET}").into_bytes();
    for part in area.split('/') {
        signing_key = hmac(&signing_key, part);
    }
    hex(&hmac(&signing_key, &to_sign)) == parts["Signature"]
}

fn credentials(secret: &str, session: Option<&str>) -> Arc<AwsCredentials> {
    let value = |text: &str| SecretValue::copy_of(text.as_bytes()).unwrap();
    Arc::new(AwsCredentials {
        access_key_id: "AKIDEXAMPLE".to_owned(),
        secret_access_key: value(secret),
        session_token: session.map(value),
    })
}

fn config(server: &Server) -> AwsKmsConfig {
    AwsKmsConfig {
        key_arn: ARN.to_owned(),
        endpoint: Some(format!("http://{}", server.address)),
        authorities: None,
        credentials: Arc::new(credentials(SECRET, None)),
        now: Arc::new(|| Timestamp::from_micros(1_700_000_000_000_000)),
        limits: limits(),
    }
}

async fn kms() -> Server {
    let kms = FakeKms::default();
    Server::start(move |request, _| kms.handle(request)).await
}

async fn always(reply: impl Fn() -> Reply + Send + Sync + 'static) -> (Server, AwsKmsMasterKey) {
    let server = Server::start(move |_, _| reply()).await;
    let master = AwsKmsMasterKey::new(config(&server)).unwrap();
    (server, master)
}

fn discreet(error: &MasterKeyError) -> String {
    let text = format!("{error} {error:?}");
    for secret in [SECRET, SESSION, "KEY-MARKER", &STANDARD.encode(KEY_BYTES)] {
        assert!(!text.contains(secret), "{text}");
    }
    error.to_string()
}

#[tokio::test]
async fn a_signed_request_wraps_and_opens_for_its_own_workspace_only() {
    let server = kms().await;
    for session in [None, Some(SESSION)] {
        let credentials = Arc::new(credentials(SECRET, session));
        let master = AwsKmsMasterKey::new(AwsKmsConfig { credentials, ..config(&server) }).unwrap();
        assert_eq!(master.id().as_str(), format!("aws-kms:{ARN}"));
        let wrapped = master.wrap(&key(), &context(1)).await.unwrap();
        let opened = master.unwrap(&wrapped, &context(1)).await.unwrap();
        assert_eq!(opened.expose(), &KEY_BYTES);
        let error = master.unwrap(&wrapped, &context(2)).await.unwrap_err();
        assert!(matches!(error, MasterKeyError::Unopenable(_)), "{error}");
    }
}

#[tokio::test]
async fn the_encryption_context_names_workspace_and_data_key() {
    let server = Server::start(|request, _| {
        let expected = json!({
            "agent-assembly:workspace": context(1).workspace.to_string(),
            "agent-assembly:data-key": context(1).data_key.to_string(),
        });
        assert_eq!(request.json()["EncryptionContext"], expected);
        Reply::Json(200, json!({ "CiphertextBlob": "AAAA", "KeyId": ARN }))
    })
    .await;
    let master = AwsKmsMasterKey::new(config(&server)).unwrap();
    master.wrap(&key(), &context(1)).await.unwrap();
}

#[tokio::test]
async fn a_vault_opens_again_with_kms() {
    let server = kms().await;
    let master = AwsKmsMasterKey::new(config(&server)).unwrap();
    let first = Vault::create(context(1).workspace, NOW, &master).await.unwrap();
    let ring = first.ring().clone();
    Vault::open_ring(ring, &master).await.unwrap();
}

#[tokio::test]
async fn a_wrong_secret_key_is_refused_by_the_signature() {
    let server = kms().await;
    let credentials = Arc::new(credentials("another", None));
    let master = AwsKmsMasterKey::new(AwsKmsConfig { credentials, ..config(&server) }).unwrap();
    let error = master.wrap(&key(), &context(1)).await.unwrap_err();
    assert!(discreet(&error).contains("InvalidSignatureException"), "{error}");
    assert!(error.to_string().contains("clock"), "{error}");
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn throttling_is_waited_out_although_its_status_is_400() {
    let kms = FakeKms::default();
    let server = Server::start(move |request, before| match before {
        0 => exception("ThrottlingException"),
        1 => Reply::Json(500, json!({ "__type": "KMSInternalException" })),
        _ => kms.handle(request),
    })
    .await;
    let master = AwsKmsMasterKey::new(config(&server)).unwrap();
    master.wrap(&key(), &context(1)).await.unwrap();
    assert_eq!(server.requests(), 3);
    let (server, master) = always(|| exception("ThrottlingException")).await;
    assert!(master.wrap(&key(), &context(1)).await.unwrap_err().is_transient());
    assert_eq!(server.requests(), 3);
}

#[tokio::test]
async fn each_refusal_says_what_to_do() {
    let cases = [
        ("AccessDeniedException", "policy"),
        ("DisabledException", "enable"),
        ("NotFoundException", "region"),
        ("ExpiredTokenException", "renew"),
        ("UnrecognizedClientException", "credentials"),
        ("ValidationException", "reference"),
    ];
    for (kind, remedy) in cases {
        let (_server, master) = always(move || exception(kind)).await;
        let error = master.wrap(&key(), &context(1)).await.unwrap_err();
        assert!(matches!(error, MasterKeyError::Refused(_)) && !error.is_transient());
        let text = discreet(&error);
        assert!(text.contains(kind) && text.contains(remedy), "{text}");
    }
}

#[tokio::test]
async fn garbage_slow_and_foreign_answers_are_told_apart() {
    let answers: [fn() -> Reply; 6] = [
        || Reply::Raw(200, b"KEY-MARKER".to_vec()),
        || Reply::Raw(400, b"KEY-MARKER".to_vec()),
        || Reply::Json(400, json!({ "__type": "KEY-MARKER <script>" })),
        || Reply::Json(200, json!({ "CiphertextBlob": "*", "Plaintext": "AAAA", "KeyId": ARN })),
        || {
            Reply::Json(
                200,
                json!({ "CiphertextBlob": "AAAA", "Plaintext": "AAAA", "KeyId": "other" }),
            )
        },
        || Reply::Raw(200, vec![b' '; 70_000]),
    ];
    for answer in answers {
        let (_server, master) = always(answer).await;
        let error = master.wrap(&key(), &context(1)).await.unwrap_err();
        assert!(matches!(error, MasterKeyError::Answer(_)), "{error}");
        discreet(&error);
        let wrapped = WrappedKey { master: master.id(), ciphertext: b"x".to_vec() };
        let error = master.unwrap(&wrapped, &context(1)).await.unwrap_err();
        assert!(matches!(error, MasterKeyError::Answer(_)), "{error}");
        discreet(&error);
    }
    let (_server, master) = always(|| Reply::Stall).await;
    let error = master.wrap(&key(), &context(1)).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
}

#[tokio::test]
async fn without_credentials_nothing_is_sent() {
    struct Nobody;
    #[async_trait]
    impl AwsCredentialSource for Nobody {
        async fn credentials(&self) -> Result<Arc<AwsCredentials>, String> {
            Err("the role is not assigned".to_owned())
        }
    }
    let server = kms().await;
    let config = AwsKmsConfig { credentials: Arc::new(Nobody), ..config(&server) };
    let error = AwsKmsMasterKey::new(config).unwrap().wrap(&key(), &context(1)).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("not assigned"), "{error}");
    assert_eq!(server.requests(), 0);
    assert!(!format!("{:?}", credentials(SECRET, Some(SESSION))).contains("MARKER"));
}

#[tokio::test]
async fn only_the_arn_of_a_key_is_taken() {
    let server = kms().await;
    for arn in [
        "",
        "alias/agents",
        "1234abcd-12ab-34cd-56ef-1234567890ab",
        "arn:aws:kms:eu-central-1:111122223333:alias/agents",
        "arn:aws:s3:eu-central-1:111122223333:key/1",
        "arn:aws:kms:eu-central-1.evil.example/:111122223333:key/1",
        "arn:aws:kms::111122223333:key/1",
    ] {
        let config = AwsKmsConfig { key_arn: arn.to_owned(), ..config(&server) };
        assert!(AwsKmsMasterKey::new(config).is_err(), "{arn}");
    }
}
