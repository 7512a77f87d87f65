//! A small HTTP receiver on loopback, in the clear or over TLS.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
};

use aa_notify::{AllowedDestination, Guard, Lookup, Roots, SendLimits, Sender};
use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

/// A certificate for `localhost` and `receiver.example`, and its server's side.
pub(crate) struct Identity {
    pub(crate) pem: String,
    pub(crate) acceptor: TlsAcceptor,
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) line: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

#[derive(Clone)]
pub(crate) enum Reply {
    /// What goes over the wire.
    Raw(String),
    /// A head, then a body without end.
    Endless(String),
    /// Nothing, ever.
    Silence,
}

pub(crate) struct Server {
    pub(crate) port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
    task: tokio::task::JoinHandle<()>,
}

/// Names that resolve as the test says.
#[derive(Default)]
pub(crate) struct Names(pub(crate) HashMap<&'static str, Vec<IpAddr>>);

impl Identity {
    pub(crate) fn new() -> Self {
        let names = ["localhost".to_owned(), "receiver.example".to_owned()];
        let own = rcgen::generate_simple_self_signed(names).unwrap();
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key.into())
            .unwrap();
        Self { pem: own.cert.pem(), acceptor: TlsAcceptor::from(Arc::new(config)) }
    }
}

impl Reply {
    pub(crate) fn status(status: u16, headers: &str) -> Self {
        Self::Raw(format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n{headers}\r\n"))
    }
}

impl Server {
    /// Answers every request with `reply`.
    pub(crate) async fn start(reply: Reply, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (reply, kept, tls) = (reply.clone(), Arc::clone(&kept), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => answer(stream, reply, &kept).await,
                        Some(tls) => {
                            let Ok(stream) = tls.accept(stream).await else { return };
                            answer(stream, reply, &kept).await;
                        }
                    }
                });
            }
        });
        Self { port, requests, task }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    reply: Reply,
    kept: &Mutex<Vec<Request>>,
) {
    while let Some(request) = read(&mut stream).await {
        kept.lock().unwrap().push(request);
        match &reply {
            Reply::Raw(text) => {
                if stream.write_all(text.as_bytes()).await.is_err() {
                    return;
                }
            }
            Reply::Endless(head) => {
                let _ = stream.write_all(head.as_bytes()).await;
                while stream.write_all(&[b'x'; 8_192]).await.is_ok() {}
                return;
            }
            Reply::Silence => std::future::pending::<()>().await,
        }
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Request> {
    let mut text = Vec::new();
    let end = loop {
        if let Some(end) = text.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut text).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(text[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap().to_owned();
    let headers: HeaderMap = lines
        .map(|line| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())
        })
        .collect();
    let length: usize = headers["content-length"].to_str().unwrap().parse().unwrap();
    let mut body = text.split_off(end + 4);
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(Request { line, headers, body })
}

#[async_trait]
impl Lookup for Names {
    async fn lookup(&self, host: &str) -> std::io::Result<Vec<IpAddr>> {
        self.0.get(host).cloned().ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }
}

pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A sender that may dial what is `allowed`, resolves `receiver.example` and `localhost` to loopback, and trusts `pem`.
pub(crate) fn sender(allowed: &[&str], pem: &str) -> Sender {
    let names = HashMap::from([
        ("receiver.example", vec![LOOPBACK]),
        ("localhost", vec![LOOPBACK]),
        ("metadata.example", vec!["169.254.169.254".parse().unwrap()]),
        ("mixed.example", vec!["10.0.0.1".parse().unwrap(), LOOPBACK]),
    ]);
    sender_with(allowed, pem, Names(names))
}

pub(crate) fn sender_with(allowed: &[&str], pem: &str, names: Names) -> Sender {
    let guard = Guard::new(allowed.iter().map(|text| text.parse::<AllowedDestination>().unwrap()));
    let limits = SendLimits::default();
    Sender::new(guard, Arc::new(names), &Roots::from_pem(pem.as_bytes()).unwrap(), limits).unwrap()
}
