//! A bare gRPC and HTTP peer of a control plane of the test's own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test file uses its part")]

use std::time::Duration;

use aa_control_plane::{ControlPlane, Options, ServeError, admission::Limits, token::TokenKey};
use aa_protocol::{
    ActionId, AgentId, WorkspaceId,
    wire::{registration_message, v1},
};
use ed25519_dalek::{Signer, SigningKey};
use rustls::version::TLS13;
use tokio::{sync::oneshot, task::JoinHandle};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

pub(crate) type TlsStream = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

pub(crate) type Client = v1::gateway_client::GatewayClient<Channel>;

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Peer {
    pub(crate) gateway: Client,
    pub(crate) channel: Channel,
    pub(crate) gateway_url: String,
    pub(crate) workspace: WorkspaceId,
    pub(crate) agent_key: String,
    pub(crate) tokens: TokenKey,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) api: reqwest::Client,
    pub(crate) api_url: String,
    pub(crate) owner_key: String,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<Result<(), ServeError>>,
}

/// A control plane by itself that keeps its data in `directory`.
pub(crate) fn options(directory: &tempfile::TempDir) -> Options {
    let any = "127.0.0.1:0".parse().unwrap();
    Options {
        data: directory.path().join("data"),
        store: None,
        gateway: any,
        api: any,
        workspace_name: "test".to_owned(),
        allowed_destinations: Vec::new(),
        cluster: None,
    }
}

impl Peer {
    pub(crate) async fn start() -> Self {
        Self::start_within(Limits::default()).await
    }

    pub(crate) async fn start_within(limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = options(&directory);
        let control_plane = ControlPlane::start_within(options, limits).await.unwrap();
        Self::of(directory, control_plane).await
    }

    /// A peer of a control plane that keeps its data in `directory`.
    pub(crate) async fn of(directory: tempfile::TempDir, control_plane: ControlPlane) -> Self {
        let summary = control_plane.summary();
        let env = std::fs::read_to_string(&summary.client_env).unwrap()
            + &std::fs::read_to_string(&summary.operator_env).unwrap();
        Self::with_keys(directory, control_plane, &env).await
    }

    /// The same with the keys in `env`.
    pub(crate) async fn with_keys(
        directory: tempfile::TempDir,
        control_plane: ControlPlane,
        env: &str,
    ) -> Self {
        let data = directory.path().join("data");
        let summary = control_plane.summary().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(control_plane.serve_until(async {
            let _ = stopped.await;
        }));
        let ca = std::fs::read(&summary.ca_file).unwrap();
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&ca));
        let endpoint = Endpoint::from_shared(summary.gateway_url.clone()).unwrap();
        let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
        let api = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(&ca).unwrap()])
            // One that is kept may be closed at the moment it is used again.
            .pool_max_idle_per_host(0)
            .timeout(PATIENCE)
            .build()
            .unwrap();
        let value = |name: &str| {
            let prefix = format!("export {name}='");
            let value = env.lines().find_map(|line| line.strip_prefix(&prefix)?.strip_suffix('\''));
            value.unwrap().to_owned()
        };
        // That of a cluster is in its store.
        let seed = std::fs::read(data.join("secrets").join("token.seed"));
        let seed = seed.unwrap_or_else(|_| vec![0; 32]);
        Self {
            gateway: Client::new(channel.clone()),
            channel,
            gateway_url: summary.gateway_url,
            workspace: summary.workspace_id.parse().unwrap(),
            agent_key: value("AAA_API_KEY"),
            owner_key: value("AASM_API_KEY"),
            tokens: TokenKey::new(seed.as_slice().try_into().unwrap()),
            directory,
            api,
            api_url: summary.api_url,
            stop: Some(stop),
            serving,
        }
    }

    pub(crate) async fn nonce(&self) -> Result<Vec<u8>, Status> {
        let request = v1::BeginRegistrationRequest { workspace_id: self.workspace.to_string() };
        let answer =
            self.gateway.clone().begin_registration(bearing(request, &self.agent_key)).await?;
        Ok(answer.into_inner().nonce.to_vec())
    }

    /// A registration that would be accepted.
    pub(crate) fn registration(&self, name: &str, nonce: &[u8]) -> v1::RegisterAgentRequest {
        let key = SigningKey::from_bytes(&[5; 32]);
        let public = key.verifying_key().to_bytes();
        let workspace_id = self.workspace.to_string();
        let nonce_bytes: [u8; 32] = nonce.try_into().unwrap();
        let signed = registration_message(&nonce_bytes, &public, &workspace_id, name, "");
        v1::RegisterAgentRequest {
            workspace_id,
            name: name.to_owned(),
            public_key: public.to_vec().into(),
            nonce: nonce.to_vec().into(),
            signature: key.sign(&signed).to_bytes().to_vec().into(),
            ..Default::default()
        }
    }

    pub(crate) async fn send(
        &self,
        registration: v1::RegisterAgentRequest,
    ) -> Result<v1::AgentToken, Status> {
        let request = bearing(registration, &self.agent_key);
        Ok(self.gateway.clone().register_agent(request).await?.into_inner())
    }

    pub(crate) async fn register(&self, name: &str) -> String {
        let nonce = self.nonce().await.unwrap();
        self.send(self.registration(name, &nonce)).await.unwrap().token
    }

    pub(crate) fn agent(&self, name: &str) -> AgentId {
        AgentId::of_name(self.workspace, name)
    }

    pub(crate) async fn check(
        &self,
        token: &str,
        action: v1::Action,
    ) -> Result<v1::Decision, Status> {
        let answer = self.gateway.clone().check_policy(bearing(action, token)).await?;
        Ok(answer.into_inner())
    }

    /// Sends bytes in place of a message.
    pub(crate) async fn send_bytes(
        &self,
        token: &str,
        method: &str,
        bytes: &'static [u8],
    ) -> Result<(), Status> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.unwrap();
        let path = format!("/agent_assembly.v1.Gateway/{method}").parse().unwrap();
        let request = bearing(bytes::Bytes::from_static(bytes), token);
        grpc.unary(request, path, RawCodec).await.map(|_answer| ())
    }

    /// The codes of the refusals recorded for an agent, newest first.
    pub(crate) async fn refusals(&self, name: &str) -> Vec<String> {
        let agent = self.agent(name);
        let path = format!("audit/entries?kind=refusal&agent={agent}");
        let page = self.get(&path).await;
        let entries = page["entries"].as_array().unwrap().iter();
        entries.map(|entry| entry["detail"]["code"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) async fn get(&self, path: &str) -> serde_json::Value {
        let url = format!("{}/api/v1/{path}", self.api_url);
        let answer = self.api.get(url).bearer_auth(&self.owner_key).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.json().await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, kind: &'static str, body: String) {
        let url = format!("{}/api/v1/{path}", self.api_url);
        let request = self.api.post(url).bearer_auth(&self.owner_key);
        let answer = request.header("content-type", kind).body(body).send().await.unwrap();
        let status = answer.status();
        assert!(status.is_success(), "{path}: {status} {}", answer.text().await.unwrap());
    }

    /// Applies a document; returns the status and the answer.
    pub(crate) async fn apply(&self, query: &str, document: Vec<u8>) -> (u16, serde_json::Value) {
        let url = format!("{}/api/v1/policies{query}", self.api_url);
        let request = self.api.post(url).bearer_auth(&self.owner_key);
        let answer = request.header("content-type", "application/yaml").body(document);
        let answer = answer.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// The refusals recorded for an agent, newest first: code and message.
    pub(crate) async fn refusal_details(&self, name: &str) -> Vec<(String, String)> {
        let path = format!("audit/entries?kind=refusal&agent={}&limit=1000", self.agent(name));
        let page = self.get(&path).await;
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let entries = page["entries"].as_array().unwrap().iter();
        entries
            .map(|entry| (text(&entry["detail"]["code"]), text(&entry["detail"]["message"])))
            .collect()
    }

    /// The value of a metric.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let url = format!("{}/api/v1/metrics", self.api_url);
        let answer = self.api.get(url).bearer_auth(&self.owner_key).send().await.unwrap();
        let text = answer.text().await.unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap().parse().unwrap()
    }

    /// A bare TLS connection to one of the listeners.
    pub(crate) async fn tls(&self, url: &str, protocol: &str) -> TlsStream {
        self.try_tls(url, protocol).await.unwrap()
    }

    /// A bare TLS connection, unless the listener has no place for it.
    pub(crate) async fn try_tls(&self, url: &str, protocol: &str) -> std::io::Result<TlsStream> {
        let mut config = rustls::ClientConfig::builder_with_protocol_versions(&[&TLS13])
            .with_root_certificates(self.roots())
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
        let socket = tokio::net::TcpStream::connect(url.trim_start_matches("https://")).await?;
        connector.connect("localhost".try_into().unwrap(), socket).await
    }

    pub(crate) fn roots(&self) -> rustls::RootCertStore {
        use rustls_pki_types::pem::PemObject;
        let ca = self.directory.path().join("data").join("ca.pem");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(rustls_pki_types::CertificateDer::from_pem_file(ca).unwrap()).unwrap();
        roots
    }

    /// Stops the control plane and waits for its end: bounded.
    pub(crate) async fn stop(mut self) {
        self.begin_to_stop();
        tokio::time::timeout(PATIENCE, self.serving).await.expect("it stops").unwrap().unwrap();
    }

    pub(crate) fn begin_to_stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }
}

pub(crate) fn bearing<T>(message: T, credential: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value: MetadataValue<Ascii> = format!("Bearer {credential}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

pub(crate) fn action(number: u128, json: &str) -> v1::Action {
    let action = serde_json::from_str(json).unwrap();
    v1::Action::from_parts(ActionId::from_bytes(number.to_be_bytes()), None, &action)
}

pub(crate) const BASH: &str = r#"{"kind":"tool_call","tool":"bash","args":{"cmd":"ls"}}"#;

/// Bytes as they are, in both directions.
#[derive(Clone, Copy, Default)]
struct RawCodec;

impl tonic::codec::Codec for RawCodec {
    type Encode = bytes::Bytes;
    type Decode = bytes::Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl tonic::codec::Encoder for RawCodec {
    type Item = bytes::Bytes;
    type Error = Status;

    fn encode(
        &mut self,
        bytes: bytes::Bytes,
        out: &mut tonic::codec::EncodeBuf<'_>,
    ) -> Result<(), Status> {
        bytes::BufMut::put(out, bytes);
        Ok(())
    }
}

impl tonic::codec::Decoder for RawCodec {
    type Item = bytes::Bytes;
    type Error = Status;

    fn decode(
        &mut self,
        bytes: &mut tonic::codec::DecodeBuf<'_>,
    ) -> Result<Option<bytes::Bytes>, Status> {
        let length = bytes::Buf::remaining(bytes);
        Ok(Some(bytes::Buf::copy_to_bytes(bytes, length)))
    }
}
