use std::{
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore};
use rustls_pki_types::CertificateDer;
use tempfile::TempDir;

use super::*;
use crate::tls::{
    authority::{AuthorityOptions, Rotation},
    testing::{Clock, DAY, handshake},
};

struct Fixture {
    leaves: Leaves,
    clock: Arc<Clock>,
    directory: TempDir,
}

fn fixture(options: LeafOptions) -> Fixture {
    let (directory, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let authority =
        Authority::open(directory.path(), &AuthorityOptions::default(), clock.now()).unwrap();
    let time: Arc<dyn TimeProvider> = clock.clone();
    let leaves = Leaves::with_time(authority, options, time).unwrap();
    Fixture { leaves, clock, directory }
}

impl Fixture {
    fn roots(&self) -> Vec<CertificateDer<'static>> {
        Authority::load(self.directory.path()).unwrap().certificates(self.clock.now())
    }

    fn client(
        &self,
        roots: &[CertificateDer<'static>],
        versions: &[&'static SupportedProtocolVersion],
        alpn: Alpn,
    ) -> Arc<ClientConfig> {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots.iter().cloned());
        let time: Arc<dyn TimeProvider> = self.clock.clone();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_details(provider, time)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(store)
            .with_no_client_auth();
        config.alpn_protocols = alpn.protocols();
        Arc::new(config)
    }

    fn config(&self, name: &str, alpn: Alpn) -> Arc<ServerConfig> {
        self.leaves.server_config(&host(name), alpn).unwrap()
    }
}

fn host(name: &str) -> Host {
    Host::parse(name).unwrap()
}

#[tokio::test]
async fn clients_that_trust_the_authority_take_a_leaf_for_any_host() {
    let fixture = fixture(LeafOptions::default());
    let client = fixture.client(&fixture.roots(), BOTH, Alpn::Http2OrHttp1);
    for name in
        ["api.openai.com", "xn--bcher-kva.example", "my_service", "192.0.2.1", "2001:db8::1"]
    {
        let config = fixture.config(name, Alpn::Http2OrHttp1);
        let (client, _) = handshake(client.clone(), config, name).await.unwrap();
        let (_, session) = client.get_ref();
        assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
    }
    let config = fixture.config("api.openai.com", Alpn::Http2OrHttp1);
    handshake(client, config, "api.anthropic.com").await.unwrap_err();
}

#[tokio::test]
async fn only_what_is_offered_is_spoken() {
    let fixture = fixture(LeafOptions::default());
    let roots = fixture.roots();
    let table = [
        (Alpn::Http1, Alpn::Http2OrHttp1, Some(&b"http/1.1"[..])),
        (Alpn::Http2OrHttp1, Alpn::Http1, Some(b"http/1.1")),
        (Alpn::Http2, Alpn::Http2OrHttp1, Some(b"h2")),
        (Alpn::Http1, Alpn::Http2, None),
    ];
    for (offered, asked, spoken) in table {
        let client = fixture.client(&roots, BOTH, asked);
        let config = fixture.config("a.example", offered);
        let result = handshake(client, config, "a.example").await;
        let result =
            result.ok().map(|(client, _)| client.get_ref().1.alpn_protocol().map(<[u8]>::to_vec));
        assert_eq!(result.flatten().as_deref(), spoken, "{offered:?} {asked:?}");
    }
}

#[tokio::test]
async fn tls_1_2_is_taken_unless_it_is_switched_off() {
    for tls12 in [true, false] {
        let fixture = fixture(LeafOptions { tls12, ..LeafOptions::default() });
        let client = fixture.client(&fixture.roots(), &[&TLS12], Alpn::Http2OrHttp1);
        let config = fixture.config("a.example", Alpn::Http2OrHttp1);
        let result = handshake(client, config, "a.example").await;
        assert_eq!(result.is_ok(), tls12);
    }
}

#[tokio::test]
async fn sessions_are_resumed_for_the_same_host_alone() {
    let fixture = fixture(LeafOptions::default());
    let roots = fixture.roots();
    for versions in [&[&TLS13][..], &[&TLS12][..]] {
        let client = fixture.client(&roots, versions, Alpn::Http2OrHttp1);
        let kind = async |name: &str, config| {
            let (client, _) = handshake(client.clone(), config, name).await.unwrap();
            client.get_ref().1.handshake_kind()
        };
        let config = || fixture.config("a.example", Alpn::Http2OrHttp1);
        assert_eq!(kind("a.example", config()).await, Some(HandshakeKind::Full));
        assert_eq!(kind("a.example", config()).await, Some(HandshakeKind::Resumed));
        let other = fixture.config("b.example", Alpn::Http2OrHttp1);
        assert_eq!(kind("b.example", other).await, Some(HandshakeKind::Full));
        // Also with what is offered to it when it asks for WebSocket.
        let narrower = fixture.config("a.example", Alpn::Http1);
        assert_eq!(kind("a.example", narrower).await, Some(HandshakeKind::Resumed));
    }
}

#[test]
fn a_thousand_that_ask_at_once_for_a_host_get_one_leaf() {
    let fixture = fixture(LeafOptions::default());
    let (barrier, different) = (Barrier::new(8), AtomicUsize::new(0));
    let name = host("a.example");
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                barrier.wait();
                let first = fixture.leaves.server_config(&name, Alpn::Http2OrHttp1).unwrap();
                for _ in 0..125 {
                    let again = fixture.leaves.server_config(&name, Alpn::Http2OrHttp1).unwrap();
                    different
                        .fetch_add(usize::from(!Arc::ptr_eq(&first, &again)), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(different.into_inner(), 0);
    assert_eq!(fixture.leaves.hosts.len(), 1);
}

#[test]
fn hosts_are_forgotten_when_there_are_too_many() {
    let fixture = fixture(LeafOptions { capacity: 8, ..LeafOptions::default() });
    for n in 0..50 {
        fixture.config(&format!("h{n}.example"), Alpn::Http1);
        assert!(fixture.leaves.hosts.len() <= 8);
    }
}

#[tokio::test]
async fn a_leaf_is_renewed_before_it_expires() {
    let fixture = fixture(LeafOptions::default());
    let first = fixture.config("a.example", Alpn::Http1);
    fixture.clock.advance(DAY);
    assert!(Arc::ptr_eq(&first, &fixture.config("a.example", Alpn::Http1)));
    fixture.clock.advance(DAY);
    let renewed = fixture.config("a.example", Alpn::Http1);
    assert!(!Arc::ptr_eq(&first, &renewed));
    fixture.clock.advance(2 * DAY);
    let client = fixture.client(&fixture.roots(), BOTH, Alpn::Http1);
    handshake(client.clone(), first, "a.example").await.unwrap_err();
    handshake(client, renewed, "a.example").await.unwrap();
}

#[tokio::test]
async fn clients_notice_no_rotation() {
    let fixture = fixture(LeafOptions::default());
    let before = fixture.roots();
    let old = fixture.config("a.example", Alpn::Http1);
    let now = fixture.clock.now();
    let rotated = Authority::rotate(fixture.directory.path(), Rotation::default(), now).unwrap();
    fixture.leaves.replace_authority(rotated).unwrap();
    let after = fixture.roots();
    let new = fixture.config("a.example", Alpn::Http1);
    assert!(!Arc::ptr_eq(&old, &new));
    for roots in [&before[..], &after[..], &after[..1]] {
        let client = fixture.client(roots, BOTH, Alpn::Http1);
        handshake(client, new.clone(), "a.example").await.unwrap();
    }
    assert_eq!(fixture.leaves.bundle().unwrap().matches("BEGIN").count(), 2);
}

#[test]
fn what_no_certificate_can_carry_is_refused_by_name() {
    let fixture = fixture(LeafOptions::default());
    let error = fixture.leaves.server_config(&host("-a.example"), Alpn::Http1).unwrap_err();
    assert!(error.to_string().contains("-a.example"), "{error}");
    fixture.clock.advance(800 * DAY);
    let error = fixture.leaves.server_config(&host("a.example"), Alpn::Http1).unwrap_err();
    assert!(error.to_string().contains("`aasm ca rotate`"), "{error}");
}

/// What things cost: `cargo test -p aa-proxy cost -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "measures"]
async fn cost() {
    let fixture = fixture(LeafOptions::default());
    let each = |count: u32, begun: Instant| begun.elapsed() / count;
    let names: Vec<Host> = (0..500).map(|n| host(&format!("h{n}.example"))).collect();
    let begun = Instant::now();
    for name in &names {
        fixture.leaves.server_config(name, Alpn::Http2OrHttp1).unwrap();
    }
    println!("a new leaf and its configuration: {:?}", each(500, begun));
    let begun = Instant::now();
    for name in names.iter().cycle().take(100_000) {
        fixture.leaves.server_config(name, Alpn::Http2OrHttp1).unwrap();
    }
    println!("a cached one: {:?}", each(100_000, begun));
    let roots = fixture.roots();
    for (what, resumes) in [("full", false), ("resumed", true)] {
        let client = fixture.client(&roots, BOTH, Alpn::Http2OrHttp1);
        let begun = Instant::now();
        for _ in 0..500 {
            let client = if resumes {
                client.clone()
            } else {
                fixture.client(&roots, BOTH, Alpn::Http2OrHttp1)
            };
            let config = fixture.config("h0.example", Alpn::Http2OrHttp1);
            handshake(client, config, "h0.example").await.unwrap();
        }
        println!("a {what} handshake, both sides, with a byte each way: {:?}", each(500, begun));
    }
}
