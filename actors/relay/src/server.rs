//! Where other nodes' links arrive.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use aa_protocol::wire::relay::{
    FromCaller, Hello, ToCaller, Welcome, from_caller,
    relay_server::{Relay as RelayService, RelayServer as GeneratedServer},
    to_caller,
};
use aa_runtime::{Protocols, Relay};
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    connect::{CONNECTION_WINDOW, FRAME, SEND_BUFFER, STREAM_WINDOW},
    identity::NodeIdentity,
    limits::MAX_MESSAGE,
    message,
    report::Report,
    serving::Serving,
    stats::HandshakeFailure,
    tls,
    transport::{Context, GrpcTransport},
};

/// Takes other nodes' calls. Dropped, it cuts all links at once.
#[derive(Debug)]
pub struct RelayServer {
    address: SocketAddr,
    leaving: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

struct Accepting {
    context: Arc<Context>,
    relay: Relay,
    leaving: watch::Receiver<bool>,
    report: Report,
}

/// What a connection of one node may ask for.
struct Links {
    accepting: Arc<Accepting>,
    peer: NodeIdentity,
}

/// Streams of one connection. A node opens one; more are for what comes later.
const STREAMS: u32 = 16;

/// How long the listener rests when it cannot accept: most likely there are no file descriptors.
const REST: Duration = Duration::from_millis(50);

// === impl RelayServer ===

impl RelayServer {
    /// Takes calls on `listener` and gives them to `relay`, as the node that `transport` is of.
    ///
    /// # Errors
    /// The listener has no address.
    pub fn start(
        listener: TcpListener,
        transport: &GrpcTransport,
        relay: Relay,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (leaving, leaves) = watch::channel(false);
        let context = Arc::clone(transport.context());
        let report = Report::default();
        let accepting = Arc::new(Accepting { context, relay, leaving: leaves, report });
        let accepting = tokio::spawn(accepting.run(listener));
        Ok(Self { address, leaving, accepting })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Tells callers to send no more, answers what they have sent, and ends. What is not answered `within` that
    /// time is cut.
    pub async fn stop(mut self, within: Duration) {
        self.leaving.send_replace(true);
        if tokio::time::timeout(within, &mut self.accepting).await.is_err() {
            tracing::warn!(
                "not all calls of other nodes were answered in time; their links are cut"
            );
        }
    }
}

impl Drop for RelayServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

// === impl Accepting ===

impl Accepting {
    async fn run(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(self.context.options.limits.connections));
        let mut leaving = self.leaving.clone();
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = leaving.wait_for(|leaving| *leaving) => break,
                Some(_) = connections.join_next() => continue,
                accepted = accept(&listener, &places) => accepted,
            };
            match accepted {
                Ok((stream, address, place)) => {
                    let accepting = Arc::clone(&self);
                    connections.spawn(async move {
                        let _place = place;
                        accepting.serve(stream, address).await;
                    });
                }
                Err(error) => {
                    let text = error.to_string();
                    if self.report.is_due(&text) {
                        tracing::warn!("a node's connection could not be accepted: {text}");
                    }
                    tokio::time::sleep(REST).await;
                }
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, address: SocketAddr) {
        let within = self.context.options.limits.connect;
        let handshake = async {
            stream.set_nodelay(true)?;
            TlsAcceptor::from(self.context.tls.server()).accept(stream).await
        };
        let stream = match tokio::time::timeout(within, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return self.report_handshake(&error, address),
            Err(_) => return self.context.counters.failed(HandshakeFailure::TimedOut),
        };
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let peer = match tls::identity_of(chain) {
            Ok(peer) => peer,
            Err(error) => {
                return self.refused(
                    HandshakeFailure::Identity,
                    &format!("a connection from {address} presents a certificate that names no node: {error}"),
                );
            }
        };
        let links = Links { accepting: Arc::clone(&self), peer };
        let service = GeneratedServer::new(links)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .max_send_buf_size(SEND_BUFFER)
            .max_concurrent_streams(STREAMS)
            .keep_alive_interval(self.context.options.limits.keepalive)
            .keep_alive_timeout(self.context.options.limits.keepalive);
        let connection =
            builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        tokio::pin!(connection);
        let mut leaving = self.leaving.clone();
        let leaves = async move {
            let _ = leaving.wait_for(|leaving| *leaving).await;
        };
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = leaves => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%address, %error, "a node's connection ended");
        }
    }

    fn report_handshake(&self, error: &io::Error, address: SocketAddr) {
        if tls::is_about_certificates(error) {
            let remedy = if tls::is_about_time(error) {
                "set its clock, by NTP for example"
            } else {
                "if it is a node, start it on this cluster's store, where it takes its certificate"
            };
            let text = format!(
                "a connection from {address} has no certificate of this cluster ({error}); {remedy}"
            );
            return self.refused(HandshakeFailure::Certificate, &text);
        }
        self.context.counters.failed(HandshakeFailure::Other);
        tracing::debug!(%address, %error, "a handshake failed");
    }

    fn refused(&self, reason: HandshakeFailure, text: &str) {
        self.context.counters.failed(reason);
        if self.report.is_due(text) {
            tracing::warn!("a node was refused: {text}");
        }
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    // Without a place the kernel's backlog holds the next ones back.
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    Ok((stream, address, place))
}

// === impl Links ===

impl Links {
    /// Whether this node talks to the one that says `hello`, and in which protocol.
    fn admit(&self, hello: &Hello) -> Result<u32, (HandshakeFailure, Status)> {
        let context = &self.accepting.context;
        let (own, peer) = (context.tls.identity(), &self.peer);
        let deny = |text: String| (HandshakeFailure::Identity, Status::permission_denied(text));
        if peer.cluster() != own.cluster() {
            return Err(deny(format!(
                "{peer} is of another cluster than {own}; give every cluster a store and addresses of its own"
            )));
        }
        if hello.cluster != peer.cluster() || hello.node != peer.node() {
            return Err(deny(format!(
                "the certificate is of {peer}, the greeting of node `{}` of cluster `{}`; start the node anew, so that it takes a certificate of its own",
                shortened(&hello.node),
                shortened(&hello.cluster),
            )));
        }
        if hello.to != own.node() {
            return Err(deny(format!(
                "this is node `{}`, not `{}`; correct the address that `{}` advertises",
                own.node(),
                shortened(&hello.to),
                shortened(&hello.to),
            )));
        }
        let theirs = Protocols { lowest: hello.lowest_protocol, highest: hello.highest_protocol };
        let ours = context.options.protocols;
        ours.common(theirs).ok_or_else(|| {
            let text = format!(
                "node `{}` speaks protocols {} to {}, node `{}` {} to {}, so they cannot talk; upgrade by one version at \
                 a time, all nodes before the next",
                peer.node(),
                theirs.lowest,
                theirs.highest,
                own.node(),
                ours.lowest,
                ours.highest
            );
            (HandshakeFailure::Protocol, Status::failed_precondition(text))
        })
    }

    fn welcome(&self, protocol: u32) -> ToCaller {
        let context = &self.accepting.context;
        let (own, options) = (context.tls.identity(), &context.options);
        message::to_caller(to_caller::Frame::Welcome(Welcome {
            cluster: own.cluster().to_owned(),
            node: own.node().to_owned(),
            lowest_protocol: options.protocols.lowest,
            highest_protocol: options.protocols.highest,
            protocol,
            version: options.version.clone(),
        }))
    }
}

#[tonic::async_trait]
impl RelayService for Links {
    type LinkStream = Serving;

    async fn link(
        &self,
        request: Request<Streaming<FromCaller>>,
    ) -> Result<Response<Serving>, Status> {
        let context = &self.accepting.context;
        let mut calls = request.into_inner();
        let within = context.options.limits.connect;
        let first = tokio::time::timeout(within, calls.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no greeting came"))??;
        let Some(from_caller::Frame::Hello(hello)) = first.and_then(|first| first.frame) else {
            context.counters.failed(HandshakeFailure::Other);
            return Err(Status::invalid_argument("the first frame is no greeting"));
        };
        let protocol = self.admit(&hello).map_err(|(reason, status)| {
            self.accepting.refused(reason, status.message());
            status
        })?;
        let welcome = self.welcome(protocol);
        let (context, relay) = (Arc::clone(context), self.accepting.relay.clone());
        let leaving = self.accepting.leaving.clone();
        let caller = self.peer.node().to_owned();
        Ok(Response::new(Serving::new(context, relay, caller, calls, welcome, leaving)))
    }
}

/// As much of a name as an error shows.
fn shortened(name: &str) -> String {
    name.chars().take(crate::identity::MAX_NAME).collect()
}

#[cfg(test)]
mod tests;
