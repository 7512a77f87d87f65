//! Who talks to whom, and what those hear who may not.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod world;

use std::sync::Arc;

use aa_relay::{
    GrpcTransport, HandshakeFailure, LinkLimits, NodeTls, RelayOptions, RelayServer, TlsError,
};
use aa_runtime::{
    Fault, Frame, Node, NodeOptions, Peer, Protocols, Request, ShardId, SystemClock, SystemEntropy,
    Transport,
};
use aa_store::MemoryStore;
use bytes::Bytes;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};
use world::{PATIENCE, authority::Authority, until};

/// A server of a node that has nothing.
struct Server {
    _node: Node,
    server: RelayServer,
    transport: GrpcTransport,
}

async fn server(tls: NodeTls) -> Server {
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
    let store = Arc::new(MemoryStore::new());
    let node = Node::start(store, clock, entropy, NodeOptions::embedded()).await.unwrap();
    let transport = transport(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = RelayServer::start(listener, &transport, node.relay().clone()).unwrap();
    Server { _node: node, server, transport }
}

fn transport(tls: Arc<NodeTls>) -> GrpcTransport {
    GrpcTransport::new(tls, Arc::new(SystemClock), RelayOptions::new("1.0.0"))
}

fn request(shard: u16) -> Request {
    Request {
        shard: ShardId(shard),
        kind: "nothing".to_owned(),
        id: Bytes::new(),
        verb: "ask".to_owned(),
        body: Bytes::new(),
        replies: 1,
    }
}

fn peer(name: &str, server: &Server) -> Peer {
    let address = server.server.address().to_string();
    Peer { name: name.into(), incarnation: 1, address: address.into() }
}

/// What a call comes to.
async fn call(transport: &GrpcTransport, peer: &Peer, shard: u16) -> Option<Frame> {
    let mut frames = transport.call(peer, request(shard));
    tokio::time::timeout(PATIENCE, frames.recv()).await.expect("every call ends")
}

/// Calls node `b`, and returns why there was no link to it.
async fn refused(caller: NodeTls, by: &Server, reason: HandshakeFailure) -> String {
    let caller = transport(Arc::new(caller));
    let peer = peer("b", by);
    let frame = call(&caller, &peer, 3).await;
    assert!(
        matches!(frame, Some(Frame::Refused(Fault::ShardAway { shard: 3 }))),
        "it may be sent elsewhere: {frame:?}"
    );
    assert!(caller.stats().failures(reason) > 0, "{:?}", caller.stats());
    assert_eq!(by.transport.stats().calls_in, 0);
    caller.problems().remove("b").expect("the problem is known")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_one_cluster_talk() {
    let authority = Authority::new();
    let server = server(authority.node("test", "b")).await;
    let caller = transport(Arc::new(authority.node("test", "a")));
    // The node has no actors of that kind.
    let frame = call(&caller, &peer("b", &server), 3).await;
    assert!(matches!(frame, Some(Frame::Refused(Fault::ShardAway { shard: 3 }))), "{frame:?}");
    assert_eq!(server.transport.stats().calls_in, 1);
    assert!(caller.problems().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_certificate_of_another_authority_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = server(authority.node("test", "b")).await;
    let why = refused(other.node("test", "a"), &server, HandshakeFailure::Certificate).await;
    assert!(why.contains("`b`") && why.contains("from the store of one cluster"), "{why}");

    // One that trusts both, and is itself of the other.
    let both = [authority.certificate(), other.certificate()];
    let caller = NodeTls::new(other.issue("test", "a"), &both).unwrap();
    let why = refused(caller, &server, HandshakeFailure::Certificate).await;
    assert!(why.contains("does not take this node's certificate"), "{why}");
    until("the server counts them", || {
        server.transport.stats().failures(HandshakeFailure::Certificate) >= 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_cluster_or_another_name_is_refused() {
    let authority = Authority::new();
    let here = server(authority.node("test", "b")).await;
    let why = refused(authority.node("prod", "a"), &here, HandshakeFailure::Identity).await;
    assert!(
        why.contains("aasm://test/node/b answers") && why.contains("aasm://prod/node/b"),
        "{why}"
    );

    let other = server(authority.node("test", "c")).await;
    let why = refused(authority.node("test", "a"), &other, HandshakeFailure::Identity).await;
    assert!(why.contains("aasm://test/node/c") && why.contains("advertise"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_name_no_node_or_two_are_not_used() {
    let authority = Authority::new();
    let roots = [authority.certificate()];
    let error = NodeTls::new(authority.issue_to(&[]), &roots).unwrap_err();
    assert!(matches!(error, TlsError::Nameless(0)), "{error}");
    let two = ["aasm://test/node/a", "aasm://test/node/b"];
    let error = NodeTls::new(authority.issue_to(&two), &roots).unwrap_err();
    assert!(matches!(error, TlsError::Nameless(2)), "{error}");
    let error = NodeTls::new(authority.issue_to(&["https://a"]), &roots).unwrap_err();
    assert!(matches!(error, TlsError::Name(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_without_a_common_protocol_do_not_talk() {
    let authority = Authority::new();
    let server = server(authority.node("test", "b")).await;
    let tls = Arc::new(authority.node("test", "a"));
    let protocols = Protocols { lowest: 7, highest: 9 };
    let options = RelayOptions { protocols, ..RelayOptions::new("9.0.0") };
    let caller = GrpcTransport::new(tls, Arc::new(SystemClock), options);
    let peer = peer("b", &server);
    assert!(matches!(call(&caller, &peer, 0).await, Some(Frame::Refused(_))));
    assert_eq!(caller.stats().failures(HandshakeFailure::Protocol), 1);
    let why = caller.problems().remove("b").unwrap();
    assert!(why.contains("7 to 9") && why.contains("one version at a time"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_replaced_while_links_are_up() {
    let (former, next) = (Authority::new(), Authority::new());
    let both = [former.certificate(), next.certificate()];
    let server = server(NodeTls::new(former.issue("test", "b"), &both).unwrap()).await;
    let tls = Arc::new(former.node("test", "a"));
    let limits = LinkLimits { links: 2, ..LinkLimits::default() };
    let options = RelayOptions { limits, ..RelayOptions::new("1.0.0") };
    let caller = GrpcTransport::new(Arc::clone(&tls), Arc::new(SystemClock), options);
    let peer = peer("b", &server);
    call(&caller, &peer, 0).await.unwrap();
    assert_eq!(server.transport.stats().links_in, 1);

    let stranger = tls.replace(next.issue("test", "c"), &both).unwrap_err();
    assert!(matches!(stranger, TlsError::OtherNode { .. }), "{stranger}");
    tls.replace(next.issue("test", "a"), &both).unwrap();
    call(&caller, &peer, 0).await.unwrap();
    call(&caller, &peer, 1).await.unwrap();
    assert_eq!(server.transport.stats().links_in, 2, "the former link stands beside a new one");
    assert!(caller.problems().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_who_speaks_something_else_keeps_nodes_from_talking() {
    let authority = Authority::new();
    let server = server(authority.node("test", "b")).await;
    for garbage in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &[0; 4_096], &[0x16, 3, 1, 0xff, 0xff]] {
        let mut stream = TcpStream::connect(server.server.address()).await.unwrap();
        // It may hang up before all is written.
        let _ = stream.write_all(garbage).await;
    }
    let caller = transport(Arc::new(authority.node("test", "a")));
    let frame = call(&caller, &peer("b", &server), 3).await;
    assert!(matches!(frame, Some(Frame::Refused(Fault::ShardAway { .. }))));
    assert_eq!(server.transport.stats().calls_in, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_there_is_given_up_soon() {
    let authority = Authority::new();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let caller = transport(Arc::new(authority.node("test", "a")));
    let peer = Peer { name: "b".into(), incarnation: 1, address: free.to_string().into() };
    let frame = call(&caller, &peer, 3).await;
    assert!(matches!(frame, Some(Frame::Refused(Fault::ShardAway { shard: 3 }))), "{frame:?}");
    assert_eq!(caller.stats().calls_out, 0, "it was never sent");
    let why = caller.problems().remove("b").unwrap();
    assert!(why.contains(&free.to_string()), "{why}");
}
