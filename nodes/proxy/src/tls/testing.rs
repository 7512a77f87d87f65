//! Clocks and handshakes for tests.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{ClientConfig, ServerConfig, time_provider::TimeProvider};
use rustls_pki_types::{ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, client, server};

/// A clock that stands until it is moved.
#[derive(Debug)]
pub(crate) struct Clock(AtomicU64);

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

// === impl Clock ===

impl Clock {
    /// In 2027.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(1_800_000_000)))
    }

    pub(crate) fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.0.load(Ordering::Relaxed))
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_secs(), Ordering::Relaxed);
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = self.0.load(Ordering::Relaxed);
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

/// A server's side of a handshake, its configuration picked once the client's hello is there; then one byte each way, so
/// that session tickets arrive.
pub(crate) async fn serve(
    stream: DuplexStream,
    config: Arc<ServerConfig>,
) -> io::Result<server::TlsStream<DuplexStream>> {
    let started = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
    let mut stream = started.into_stream(config).await?;
    stream.read_u8().await?;
    stream.write_u8(1).await?;
    stream.flush().await?;
    Ok(stream)
}

/// A handshake in memory, and what both sides have of it.
pub(crate) async fn handshake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    name: &str,
) -> io::Result<(client::TlsStream<DuplexStream>, server::TlsStream<DuplexStream>)> {
    let (near, far) = duplex(64 * 1_024);
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let connect = async {
        let mut stream = TlsConnector::from(client).connect(name, near).await?;
        stream.write_u8(1).await?;
        stream.flush().await?;
        stream.read_u8().await?;
        Ok::<_, io::Error>(stream)
    };
    let (client, server) = tokio::join!(connect, serve(far, server));
    Ok((client?, server?))
}
