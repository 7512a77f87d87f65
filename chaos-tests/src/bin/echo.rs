//! The baseline of `throughput`: the same service over the same TLS with the same messages, that decides
//! and records nothing: `echo DATA GATEWAY API`.

use std::{io::Write, path::PathBuf, pin::Pin, sync::Arc};

use aa_control_plane::{
    pki::{Authority, ServerCertificate},
    secrets::SecretError,
    tls::TlsListener,
};
use aa_protocol::{
    Decision, EventId, Reason, ReasonCode, Verdict,
    wire::v1::{self, gateway_server::GatewayServer},
};
use futures::{Stream, StreamExt};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, Streaming, transport::Server};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

struct Echo {
    decision: v1::Decision,
}

fn decision() -> v1::Decision {
    let allowed = "policy `starter` admits the action: it has no rule that speaks against it";
    let decision = Decision {
        verdict: Verdict::Allow,
        reasons: vec![Reason {
            policy: Some("starter".to_owned()),
            revision: Some(1),
            version: Some("1.0.0".to_owned()),
            ..Reason::undocumented(ReasonCode::Allowed, allowed)
        }],
        approval: None,
        findings: Vec::new(),
    };
    v1::Decision::from_parts(&decision, EventId::from_parts(1_800_000_000_000, 7), 12, false)
}

#[tonic::async_trait]
impl v1::gateway_server::Gateway for Echo {
    async fn begin_registration(
        &self,
        _request: Request<v1::BeginRegistrationRequest>,
    ) -> Result<Response<v1::BeginRegistrationResponse>, Status> {
        Ok(Response::new(v1::BeginRegistrationResponse { nonce: vec![7; 32].into() }))
    }

    async fn register_agent(
        &self,
        _request: Request<v1::RegisterAgentRequest>,
    ) -> Result<Response<v1::AgentToken>, Status> {
        let token = v1::AgentToken { token: "none".to_owned(), ..Default::default() };
        Ok(Response::new(token))
    }

    async fn renew_token(
        &self,
        _request: Request<v1::RenewTokenRequest>,
    ) -> Result<Response<v1::AgentToken>, Status> {
        Err(Status::unimplemented("this is an echo"))
    }

    async fn release_secret(
        &self,
        _: Request<v1::ReleaseSecretRequest>,
    ) -> Result<Response<v1::ReleaseSecretResponse>, Status> {
        Err(Status::unimplemented("nothing here is secret"))
    }

    async fn check_policy(
        &self,
        _request: Request<v1::Action>,
    ) -> Result<Response<v1::Decision>, Status> {
        Ok(Response::new(self.decision.clone()))
    }

    async fn record_event(
        &self,
        _request: Request<v1::Event>,
    ) -> Result<Response<v1::Recorded>, Status> {
        Err(Status::unimplemented("this is an echo"))
    }

    async fn await_approval(
        &self,
        _request: Request<v1::AwaitApprovalRequest>,
    ) -> Result<Response<v1::ApprovalState>, Status> {
        Err(Status::unimplemented("this is an echo"))
    }

    type SessionStream = Pin<Box<dyn Stream<Item = Result<v1::ServerFrame, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::ClientFrame>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let decision = self.decision.clone();
        let answers = request.into_inner().map(move |frame| {
            let body = v1::server_frame::Body::Decision(decision.clone());
            Ok(v1::ServerFrame { tag: frame?.tag, body: Some(body) })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: echo DATA GATEWAY API";
    let data = PathBuf::from(arguments.next().ok_or(usage)?);
    let address: std::net::SocketAddr = arguments.next().ok_or(usage)?.parse()?;
    std::fs::create_dir_all(data.join("secrets"))?;
    let authority = Authority::open(&data)?;
    let certificate = Arc::new(ServerCertificate::new(authority.issue(&[address.ip()], None)?));
    let listener = TcpListener::bind(address).await?;
    let url = format!("https://{}", listener.local_addr()?);
    let tls = TlsListener::new(listener, certificate, &["h2"], 1_024)?;
    let ca_file = authority.certificate_file().to_string_lossy().into_owned();
    let client = format!(
        "export AAA_GATEWAY_URL='{url}'\nexport AAA_CA_FILE='{ca_file}'\n\
         export AAA_WORKSPACE_ID='ws-00000000-0000-4000-8000-000000000000'\nexport AAA_API_KEY='none'\n"
    );
    let written = |error| SecretError::Io { path: data.clone(), what: "write", error };
    std::fs::write(data.join("client.env"), client).map_err(written)?;
    let operator = format!("export AASM_API_URL='{url}'\nexport AASM_API_KEY='none'\n");
    std::fs::write(data.join("operator.env"), operator).map_err(written)?;
    let mut output = std::io::stdout().lock();
    writeln!(output, "ready")?;
    output.flush()?;
    drop(output);
    Server::builder()
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .max_concurrent_streams(1_024)
        .add_service(GatewayServer::new(Echo { decision: decision() }))
        .serve_with_incoming(tls)
        .await?;
    Ok(())
}
