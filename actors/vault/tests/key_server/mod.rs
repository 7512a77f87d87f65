//! A small HTTP server that speaks for a key service, one request a connection.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use aa_protocol::{Timestamp, WorkspaceId};
use aa_vault::{DataKey, DataKeyId, WrapContext, master_key::key_service::CallLimits};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use uuid::Uuid;
use zeroize::Zeroizing;

pub(crate) struct Request {
    pub(crate) path: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

pub(crate) enum Reply {
    Json(u16, Value),
    Raw(u16, Vec<u8>),
    /// Headers only, then nothing.
    Stall,
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<usize>>,
    task: tokio::task::JoinHandle<()>,
}

pub(crate) const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

/// 43 characters of it in any output are a leak.
pub(crate) const KEY_BYTES: [u8; 32] = *b"KEY-MARKER-KEY-MARKER-KEY-MARKER";

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(known, _)| known == name);
        header.map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Server {
    /// Answers each request with what `handle` makes of it and of how many came before.
    pub(crate) async fn start(
        handle: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        install_tls();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(0));
        let (handle, counter) = (Arc::new(handle), Arc::clone(&requests));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (handle, counter) = (Arc::clone(&handle), Arc::clone(&counter));
                tokio::spawn(async move { answer(stream, &*handle, &counter).await });
            }
        });
        Self { address, requests, task }
    }

    pub(crate) fn requests(&self) -> usize {
        *self.requests.lock().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    mut stream: TcpStream,
    handle: &(impl Fn(&Request, usize) -> Reply + Sync),
    counter: &Mutex<usize>,
) -> Option<()> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        stream.read_buf(&mut bytes).await.ok().filter(|read| *read > 0)?;
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
    let mut lines = text.split("\r\n");
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let header = |line: &str| {
        let (name, value) = line.split_once(':').unwrap();
        (name.to_ascii_lowercase(), value.trim().to_owned())
    };
    let headers = lines.map(header).collect();
    let mut request = Request { path, headers, body: Vec::new() };
    let length: usize =
        request.header("content-length").map_or(0, |length| length.parse().unwrap());
    while bytes.len() < head + 4 + length {
        stream.read_buf(&mut bytes).await.ok().filter(|read| *read > 0)?;
    }
    request.body = bytes[head + 4..].to_vec();
    let before = {
        let mut count = counter.lock().unwrap();
        *count += 1;
        *count - 1
    };
    let (status, body) = match handle(&request, before) {
        Reply::Json(status, value) => (status, serde_json::to_vec(&value).unwrap()),
        Reply::Raw(status, body) => (status, body),
        Reply::Stall => {
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n";
            stream.write_all(head.as_bytes()).await.ok()?;
            std::future::pending().await
        }
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nlocation: /elsewhere\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(&body).await.ok()?;
    stream.shutdown().await.ok()
}

fn install_tls() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    });
}

/// Pauses too short to be noticed, and a try that ends soon.
pub(crate) fn limits() -> CallLimits {
    CallLimits {
        tries: 3,
        first_pause: Duration::from_millis(1),
        per_try: Duration::from_millis(400),
        in_all: Duration::from_secs(5),
    }
}

pub(crate) fn context(workspace: u128) -> WrapContext {
    let data_key: DataKeyId = "dk_00000000000000000000000007".parse().unwrap();
    WrapContext { workspace: WorkspaceId::from_uuid(Uuid::from_u128(workspace)), data_key }
}

pub(crate) fn key() -> DataKey {
    DataKey::from_bytes(context(1).data_key, &Zeroizing::new(KEY_BYTES))
}
