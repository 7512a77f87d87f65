//! Nodes that say what no node says.

use aa_protocol::wire::relay::{Call, Hello};
use aa_runtime::{Node, NodeOptions, Peer, SystemClock, SystemEntropy};
use futures::{Stream, StreamExt};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::{crypto::aws_lc_rs::sign::any_supported_type, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::*;
use crate::{
    LinkError, RelayOptions,
    connect::{self, Connection},
    tls::NodeTls,
};

struct World {
    _node: Node,
    server: RelayServer,
    transport: GrpcTransport,
    caller: GrpcTransport,
}

/// Two nodes' certificates of one new authority.
fn certificates() -> [NodeTls; 2] {
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root: CertificateDer<'static> = params.self_signed(&authority_key).unwrap().der().clone();
    let issuer = Issuer::new(params, authority_key);
    ["a", "b"].map(|name| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let uri = NodeIdentity::new("test", name).unwrap().to_string();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &issuer).unwrap().der().clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let certified = CertifiedKey::new(vec![certificate], any_supported_type(&key).unwrap());
        NodeTls::new(certified, std::slice::from_ref(&root)).unwrap()
    })
}

async fn world() -> World {
    let [a, b] = certificates();
    let transport =
        |tls| GrpcTransport::new(Arc::new(tls), Arc::new(SystemClock), RelayOptions::new("1"));
    let (caller, transport) = (transport(a), transport(b));
    let store = Arc::new(aa_store::MemoryStore::new());
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
    let node = Node::start(store, clock, entropy, NodeOptions::embedded()).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = RelayServer::start(listener, &transport, node.relay().clone()).unwrap();
    World { _node: node, server, transport, caller }
}

impl World {
    fn hello(&self) -> Hello {
        let peer = self.peer();
        match connect::hello(self.caller.context(), &peer).frame {
            Some(from_caller::Frame::Hello(hello)) => hello,
            other => panic!("{other:?}"),
        }
    }

    fn peer(&self) -> Peer {
        let address = self.server.address().to_string();
        Peer { name: "b".into(), incarnation: 1, address: address.into() }
    }

    async fn link(
        &self,
        frames: impl Stream<Item = FromCaller> + Send + 'static,
    ) -> Result<Connection, LinkError> {
        connect::connect(self.caller.context(), &self.peer(), frames).await
    }

    /// Says this first, and hears why there is no link.
    async fn refused(&self, first: Option<from_caller::Frame>) -> String {
        let frames = futures::stream::iter([FromCaller { frame: first }]);
        let frames = frames.chain(futures::stream::pending());
        self.link(frames).await.err().expect("it is refused").to_string()
    }

    /// Says hello and then this, and hears how the link ends.
    async fn ended(&self, call: Call) -> String {
        let frames = [from_caller::Frame::Hello(self.hello()), from_caller::Frame::Call(call)];
        let frames = futures::stream::iter(frames.map(message::from_caller));
        let mut link = self.link(frames.chain(futures::stream::pending())).await.unwrap();
        let next = tokio::time::timeout(Duration::from_secs(20), link.inbound.message());
        next.await.expect("the link ends").expect_err("with a reason").message().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_greet_as_who_it_is_is_refused() {
    let world = world().await;
    let why = world.refused(Some(from_caller::Frame::Call(Call::default()))).await;
    assert!(why.contains("no greeting"), "{why}");
    let why = world.refused(None).await;
    assert!(why.contains("no greeting"), "{why}");

    let stranger = Hello { node: "x".repeat(10_000), ..world.hello() };
    let why = world.refused(Some(from_caller::Frame::Hello(stranger))).await;
    assert!(why.contains("the certificate is of aasm://test/node/a"), "{why}");
    assert!(why.len() < 1_000, "what a peer says is not repeated at length");

    let lost = Hello { to: "c".to_owned(), ..world.hello() };
    let why = world.refused(Some(from_caller::Frame::Hello(lost))).await;
    assert!(why.contains("this is node `b`, not `c`"), "{why}");
    assert_eq!(world.transport.stats().failures(HandshakeFailure::Identity), 2);
    assert_eq!(world.transport.stats().calls_in, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_cannot_be_ends_its_link_and_no_other() {
    let world = world().await;
    let hello = message::from_caller(from_caller::Frame::Hello(world.hello()));
    let frames = futures::stream::iter([hello]).chain(futures::stream::pending());
    let _beside = world.link(frames).await.unwrap();

    let why = world.ended(Call { shard: 70_000, ..Call::default() }).await;
    assert!(why.contains("70000"), "{why}");
    let why = world.ended(Call { replies: 1_000_000, ..Call::default() }).await;
    assert!(why.contains("1000000"), "{why}");
    let why = world.ended(Call { body: vec![0; MAX_MESSAGE + 1].into(), ..Call::default() }).await;
    assert!(why.contains("too large"), "{why}");
    tokio::time::timeout(Duration::from_secs(20), async {
        while world.transport.stats().links_in > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("their links are gone");
    assert_eq!(world.transport.stats().links_in, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_caller_has_given_up_long_ago_is_not_taken() {
    let world = world().await;
    let late = Call { id: 7, replies: 1, deadline_ms: 1, ..Call::default() };
    let frames = [from_caller::Frame::Hello(world.hello()), from_caller::Frame::Call(late)];
    let frames = futures::stream::iter(frames.map(message::from_caller));
    let mut link = world.link(frames.chain(futures::stream::pending())).await.unwrap();
    let frame = link.inbound.message().await.unwrap().unwrap().frame;
    assert!(matches!(frame, Some(to_caller::Frame::Refused(refused)) if refused.id == 7));
    assert_eq!(world.transport.stats().late, 1);
}
