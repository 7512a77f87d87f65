mod pki;

use std::{io, path::Path};

use rustls::{
    HandshakeKind, ProtocolVersion, ServerConfig,
    server::{NoClientAuth, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::CertificateDer;
use secrecy::SecretSlice;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::TlsAcceptor;

use self::pki::{Leaf, Pki};
use super::*;
use crate::{
    dial::{DialOptions, Dialer},
    tls::{
        Authority, LeafOptions, Leaves,
        authority::AuthorityOptions,
        testing::{Clock, DAY, serve},
    },
};

struct Fixture {
    pki: Pki,
    clock: Arc<Clock>,
    directory: TempDir,
}

/// What the client's side has of a handshake.
#[derive(Debug, PartialEq)]
struct Done {
    version: ProtocolVersion,
    alpn: Option<Vec<u8>>,
    kind: HandshakeKind,
}

const OLD: &[&SupportedProtocolVersion] = &[&TLS12];
const HOST: &str = "api.example.com";

// === impl Fixture ===

impl Fixture {
    fn new() -> Self {
        let (clock, directory) = (Clock::new(), tempfile::tempdir().unwrap());
        Self { pki: Pki::new(clock.now()), clock, directory }
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Options that trust the root alone.
    fn options(&self) -> UpstreamOptions {
        let roots = vec![self.write("roots.pem", self.pki.root_pem())];
        UpstreamOptions { system_roots: false, roots, ..UpstreamOptions::default() }
    }

    fn upstream(&self, options: UpstreamOptions) -> UpstreamTls {
        UpstreamTls::with_time(options, self.clock.clone()).unwrap()
    }

    fn pinning(&self, pins: &[Pin]) -> UpstreamTls {
        let hosts = vec![HostTls { host: host(), pins: pins.to_vec(), client: None }];
        self.upstream(UpstreamOptions { hosts, ..self.options() })
    }

    fn revoking(&self, lists: &[&str], revocation: Revocation) -> UpstreamTls {
        let write = |(at, list): (usize, &&str)| self.write(&format!("{at}.crl"), list);
        let lists = lists.iter().enumerate().map(write).collect();
        let revocation = Some(Revocation { lists, ..revocation });
        self.upstream(UpstreamOptions { revocation, ..self.options() })
    }

    fn server(&self, leaf: &Leaf) -> Server {
        Server {
            chain: leaf.chain.clone(),
            key: leaf.key.clone_key(),
            versions: BOTH,
            alpn: Alpn::Http2OrHttp1.protocols(),
            clients: Arc::new(NoClientAuth),
            time: self.clock.clone(),
        }
    }
}

/// An upstream to be.
struct Server {
    chain: Vec<CertificateDer<'static>>,
    key: rustls_pki_types::PrivateKeyDer<'static>,
    versions: &'static [&'static SupportedProtocolVersion],
    alpn: Vec<Vec<u8>>,
    clients: Arc<dyn ClientCertVerifier>,
    time: Arc<Clock>,
}

// === impl Server ===

impl Server {
    fn config(self) -> Arc<ServerConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_details(provider, self.time)
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_client_cert_verifier(self.clients)
            .with_single_cert(self.chain, self.key)
            .unwrap();
        config.alpn_protocols = self.alpn;
        Arc::new(config)
    }
}

fn host() -> Host {
    Host::parse(HOST).unwrap()
}

/// A handshake as [`UpstreamTls::connect`] does it, then a byte each way.
async fn connect(
    upstream: &UpstreamTls,
    config: Arc<ServerConfig>,
    alpn: Alpn,
) -> Result<Done, UpstreamProblem> {
    let (near, far) = duplex(64 * 1_024);
    let client = async {
        let stream = upstream.connect(&host(), alpn, near).await;
        let mut stream = stream.map_err(|error| error.problem)?;
        stream.write_u8(1).await.map_err(|error| UpstreamProblem::of(&error))?;
        stream.flush().await.map_err(|error| UpstreamProblem::of(&error))?;
        stream.read_u8().await.map_err(|error| UpstreamProblem::of(&error))?;
        let session = stream.get_ref().1;
        Ok(Done {
            version: session.protocol_version().unwrap(),
            alpn: session.alpn_protocol().map(<[u8]>::to_vec),
            kind: session.handshake_kind().unwrap(),
        })
    };
    tokio::join!(client, serve(far, config)).0
}

async fn problem(upstream: &UpstreamTls, config: Arc<ServerConfig>) -> UpstreamProblem {
    connect(upstream, config, Alpn::Http2OrHttp1).await.unwrap_err()
}

#[tokio::test]
async fn an_upstream_is_taken_with_a_certificate_for_its_name_by_a_trusted_authority() {
    let fixture = Fixture::new();
    let upstream = fixture.upstream(fixture.options());
    let leaf = fixture.pki.leaf(&[HOST]);
    let full = Done {
        version: ProtocolVersion::TLSv1_3,
        alpn: Some(b"h2".to_vec()),
        kind: HandshakeKind::Full,
    };
    let config = fixture.server(&leaf).config();
    assert_eq!(connect(&upstream, config.clone(), Alpn::Http2OrHttp1).await, Ok(full));
    let resumed = connect(&upstream, config.clone(), Alpn::Http1).await.unwrap();
    assert_eq!(resumed.alpn.as_deref(), Some(&b"http/1.1"[..]));
    assert_eq!(resumed.kind, HandshakeKind::Resumed);
    // Not after its roots or pins might have changed.
    let anew = fixture.upstream(fixture.options());
    let done = connect(&anew, config, Alpn::Http1).await.unwrap();
    assert_eq!(done.kind, HandshakeKind::Full);
}

#[tokio::test]
async fn what_is_wrong_with_a_certificate_is_told_apart() {
    let fixture = Fixture::new();
    let upstream = fixture.upstream(fixture.options());
    let (pki, now) = (&fixture.pki, fixture.clock.now());
    let stranger = Pki::new(now);
    let table: [(Leaf, UpstreamProblem, &str); 6] = [
        (
            pki.leaf_between(&[HOST], now - 2 * DAY, now - DAY),
            UpstreamProblem::Expired { at: Some(unix(now - DAY)) },
            "api.example.com presents a certificate that expired on 2027-01-14",
        ),
        (
            pki.leaf_between(&[HOST], now + DAY, now + 2 * DAY),
            UpstreamProblem::NotYetValid { from: Some(unix(now + DAY)) },
            "not valid yet on 2027-01-16; see whether this machine's clock is right",
        ),
        (
            pki.leaf(&["evil.example", "www.evil.example"]),
            UpstreamProblem::WrongHost {
                presented: vec!["evil.example".to_owned(), "www.evil.example".to_owned()],
            },
            "for other names (evil.example, www.evil.example)",
        ),
        (stranger.leaf(&[HOST]), UpstreamProblem::UnknownIssuer, "add that to the upstream roots"),
        (
            pki::self_signed(HOST, now, false),
            UpstreamProblem::UnknownIssuer,
            "no trusted authority",
        ),
        (pki::self_signed(HOST, now, true), UpstreamProblem::AuthorityAsServer, "self-signed"),
    ];
    for (leaf, expected, text) in table {
        for versions in [NEWEST, OLD] {
            let server = Server { versions, ..fixture.server(&leaf) };
            let problem = problem(&upstream, server.config()).await;
            assert_eq!(problem, expected);
            let error = UpstreamError { host: host(), problem };
            assert!(error.to_string().contains(text), "{error}");
        }
    }
    let unreadable = fixture.server(&pki.leaf_for_clients(HOST)).config();
    let problem = problem(&upstream, unreadable).await;
    assert!(matches!(problem, UpstreamProblem::BadCertificate { .. }), "{problem}");
}

#[tokio::test]
async fn tls_1_2_is_spoken_where_there_is_no_1_3_unless_it_is_forbidden() {
    let fixture = Fixture::new();
    let leaf = fixture.pki.leaf(&[HOST]);
    for tls12 in [true, false] {
        let upstream = fixture.upstream(UpstreamOptions { tls12, ..fixture.options() });
        let server = Server { versions: OLD, ..fixture.server(&leaf) };
        let result = connect(&upstream, server.config(), Alpn::Http2OrHttp1).await;
        let version = result.map(|done| done.version);
        let expected =
            if tls12 { Ok(ProtocolVersion::TLSv1_2) } else { Err(UpstreamProblem::Version) };
        assert_eq!(version, expected);
    }
}

#[tokio::test]
async fn a_revoked_certificate_is_not_taken() {
    let fixture = Fixture::new();
    let pki = &fixture.pki;
    let (good, bad) = (pki.leaf(&[HOST]), pki.leaf(&[HOST]));
    let strict = || Revocation {
        lists: Vec::new(),
        depth: RevocationDepth::Chain,
        allow_unknown: false,
        allow_expired_lists: false,
    };
    let of_leaves = pki.leaves_revoked(&[&bad]);
    let of_authorities = pki.authority_revoked(false);
    let lists = [&*of_leaves, &*of_authorities];
    let upstream = fixture.revoking(&lists, strict());
    let taken = async |upstream: &UpstreamTls, leaf: &Leaf| {
        let config = fixture.server(leaf).config();
        connect(upstream, config, Alpn::Http2OrHttp1).await.map(drop)
    };
    assert_eq!(taken(&upstream, &bad).await, Err(UpstreamProblem::Revoked));
    assert_eq!(taken(&upstream, &good).await, Ok(()));

    // The authority's list is missing.
    let unknown = fixture.revoking(&lists[..1], strict());
    assert_eq!(taken(&unknown, &good).await, Err(UpstreamProblem::RevocationUnknown));
    let allowing = Revocation { allow_unknown: true, ..strict() };
    let allowing = fixture.revoking(&lists[..1], allowing);
    assert_eq!(taken(&allowing, &good).await, Ok(()));
    assert_eq!(taken(&allowing, &bad).await, Err(UpstreamProblem::Revoked));
    let leaves_alone = || Revocation { depth: RevocationDepth::Leaf, ..strict() };
    let leaf_alone = fixture.revoking(&lists[..1], leaves_alone());
    assert_eq!(taken(&leaf_alone, &good).await, Ok(()));

    // The authority between was revoked.
    let of_authorities = pki.authority_revoked(true);
    let lists = [&*of_leaves, &*of_authorities];
    let chain = fixture.revoking(&lists, strict());
    assert_eq!(taken(&chain, &good).await, Err(UpstreamProblem::Revoked));
    let leaf_alone = fixture.revoking(&lists, leaves_alone());
    assert_eq!(taken(&leaf_alone, &good).await, Ok(()));

    fixture.clock.advance(8 * DAY);
    assert_eq!(taken(&upstream, &good).await, Err(UpstreamProblem::RevocationListExpired));
    let old = Revocation { allow_expired_lists: true, ..leaves_alone() };
    let old = fixture.revoking(&lists, old);
    assert_eq!(taken(&old, &good).await, Ok(()));
}

#[tokio::test]
async fn a_pinned_host_is_taken_with_a_pinned_key_in_its_chain_alone() {
    let fixture = Fixture::new();
    let pki = &fixture.pki;
    let (leaf, other) = (pki.leaf(&[HOST]), pki.leaf(&[HOST]));
    let pins = [&leaf.chain[0], &leaf.chain[1], pki.root()].map(|one| Pin::of(one).unwrap());
    let strange = Pin::of(&other.chain[0]).unwrap();
    for pin in pins {
        let upstream = fixture.pinning(&[strange, pin]);
        let config = fixture.server(&leaf).config();
        connect(&upstream, config, Alpn::Http2OrHttp1).await.unwrap();
    }
    let mismatch = UpstreamProblem::PinMismatch { found: Some(pins[0]) };
    assert!(mismatch.to_string().contains(&pins[0].to_string()));
    let upstream = fixture.pinning(&[strange]);
    assert_eq!(problem(&upstream, fixture.server(&leaf).config()).await, mismatch);

    // That a pinned certificate is sent along does not put it into the chain.
    let stranger = Pki::new(fixture.clock.now());
    let pinned = stranger.leaf(&[HOST]).chain[1].clone();
    let upstream = fixture.pinning(&[Pin::of(&pinned).unwrap()]);
    let mut server = fixture.server(&leaf);
    server.chain.push(pinned);
    assert_eq!(problem(&upstream, server.config()).await, mismatch);

    // A pin takes nothing of what is verified otherwise.
    let expired =
        pki.leaf_between(&[HOST], fixture.clock.now() - 2 * DAY, fixture.clock.now() - DAY);
    let upstream = fixture.pinning(&[Pin::of(&expired.chain[0]).unwrap()]);
    let problem = problem(&upstream, fixture.server(&expired).config()).await;
    assert!(matches!(problem, UpstreamProblem::Expired { .. }), "{problem}");
}

#[test]
fn a_pin_reads_as_it_is_written() {
    // `openssl x509 -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64`
    let text = "sha256/d6qzRu9zOECb90Uez27xWltNsj0e1Md7GkYYkVoZWmM=";
    assert_eq!(text.parse::<Pin>().unwrap().to_string(), text);
    for wrong in [&text[7..], "sha256/", "sha256/AAAA", "sha1/d6qzRu9z", &text[..50], ""] {
        assert!(wrong.parse::<Pin>().is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn the_proxy_identifies_itself_to_the_hosts_it_has_a_certificate_for() {
    let fixture = Fixture::new();
    let pki = &fixture.pki;
    let leaf = pki.leaf(&[HOST]);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = || {
        let roots = Arc::clone(&fixture.upstream(fixture.options()).trust.store);
        let clients = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
        Server { clients: clients.build().unwrap(), ..fixture.server(&leaf) }.config()
    };
    let upstream = fixture.upstream(fixture.options());
    let refused =
        |problem: &UpstreamProblem| matches!(problem, UpstreamProblem::ClientCertificate { .. });
    // By TLS 1.3 it is told only once something is read.
    let first = problem(&upstream, config()).await;
    assert!(refused(&first), "{first:?}");
    let client = pki.leaf_for_clients("proxy");
    let client = ClientCertificate::from_pem(client.pem().as_bytes(), &client.key_pem()).unwrap();
    upstream.set_client_certificate(&host(), Some(&client)).unwrap();
    connect(&upstream, config(), Alpn::Http1).await.unwrap();
    // A session in which it is identified is not resumed without.
    upstream.set_client_certificate(&host(), None).unwrap();
    let gone = problem(&upstream, config()).await;
    assert!(refused(&gone), "{gone:?}");
    let stranger = Pki::new(fixture.clock.now()).leaf_for_clients("proxy");
    let stranger =
        ClientCertificate::from_pem(stranger.pem().as_bytes(), &stranger.key_pem()).unwrap();
    upstream.set_client_certificate(&host(), Some(&stranger)).unwrap();
    let strange = problem(&upstream, config()).await;
    assert!(refused(&strange), "{strange:?}");
}

#[test]
fn a_client_certificate_that_is_not_usable_is_refused_without_showing_the_key() {
    let pki = Pki::new(Clock::new().now());
    let (one, other) = (pki.leaf_for_clients("one"), pki.leaf_for_clients("other"));
    let from = |chain: &str, key: &SecretSlice<u8>| {
        ClientCertificate::from_pem(chain.as_bytes(), key).unwrap_err()
    };
    let mismatch = from(&one.pem(), &other.key_pem());
    assert_eq!(mismatch, ClientCertificateError::Mismatch);
    let no_chain = from("", &one.key_pem());
    assert!(matches!(no_chain, ClientCertificateError::Chain(_)), "{no_chain}");
    let secret = SecretSlice::from(b"-----BEGIN PRIVATE KEY-----\nhunter2\n".to_vec());
    let no_key = from(&one.pem(), &secret);
    assert_eq!(no_key, ClientCertificateError::Key);
    assert!(!format!("{no_key} {no_key:?}").contains("hunter2"));
    let client = ClientCertificate::from_pem(one.pem().as_bytes(), &one.key_pem()).unwrap();
    assert_eq!(format!("{client:?}"), "ClientCertificate { .. }");
}

#[tokio::test]
async fn no_protocol_in_common_is_told_apart() {
    let fixture = Fixture::new();
    let upstream = fixture.upstream(fixture.options());
    let leaf = fixture.pki.leaf(&[HOST]);
    let server = || Server { alpn: Alpn::Http1.protocols(), ..fixture.server(&leaf) };
    let result = connect(&upstream, server().config(), Alpn::Http2).await;
    assert_eq!(result, Err(UpstreamProblem::Protocol));
    let server = Server { alpn: Vec::new(), ..server() };
    let done = connect(&upstream, server.config(), Alpn::Http2OrHttp1).await.unwrap();
    assert_eq!(done.alpn, None);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_says_nothing_or_something_else_is_told_apart() {
    let fixture = Fixture::new();
    let upstream = fixture.upstream(fixture.options());
    let connect = async |near: DuplexStream| {
        upstream.connect(&host(), Alpn::Http1, near).await.unwrap_err().problem
    };
    let (near, _far) = duplex(64 * 1_024);
    let silent = connect(near).await;
    assert_eq!(silent, UpstreamProblem::TimedOut(Duration::from_secs(10)));
    let (near, far) = duplex(64 * 1_024);
    drop(far);
    let closed = connect(near).await;
    assert!(matches!(closed, UpstreamProblem::Closed(_)), "{closed}");
    let (near, mut far) = duplex(64 * 1_024);
    far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    let plain = connect(near).await;
    assert!(matches!(plain, UpstreamProblem::Handshake { .. }), "{plain}");
    assert!(plain.to_string().contains("see whether it speaks TLS on that port"));
}

#[test]
fn options_that_cannot_be_met_are_refused_with_the_file_and_the_reason() {
    let fixture = Fixture::new();
    let refused = |options| UpstreamTls::new(options).unwrap_err().to_string();
    let with_root = |path: PathBuf| UpstreamOptions { roots: vec![path], ..fixture.options() };
    let missing = refused(with_root(Path::new("/nowhere/roots.pem").to_owned()));
    assert!(missing.contains("could not read /nowhere/roots.pem"), "{missing}");
    let empty = refused(with_root(fixture.write("empty.pem", "")));
    assert!(empty.contains("empty.pem has no root certificate"), "{empty}");
    let none = refused(UpstreamOptions { roots: Vec::new(), ..fixture.options() });
    assert!(none.contains("give files of roots"), "{none}");
    let with_list = |lists: Vec<PathBuf>| {
        let revocation = Revocation {
            lists,
            depth: RevocationDepth::Leaf,
            allow_unknown: true,
            allow_expired_lists: true,
        };
        UpstreamOptions { revocation: Some(revocation), ..fixture.options() }
    };
    let none = refused(with_list(Vec::new()));
    assert!(none.contains("without a list"), "{none}");
    for garbage in
        ["", "garbage", "0 garbage", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"]
    {
        let error = refused(with_list(vec![fixture.write("garbage.crl", garbage)]));
        assert!(error.contains("garbage.crl has no list"), "{error}");
    }
    let one = || HostTls { host: host(), pins: Vec::new(), client: None };
    let twice = refused(UpstreamOptions { hosts: vec![one(), one()], ..fixture.options() });
    assert!(twice.contains("api.example.com is configured twice"), "{twice}");
}

/// The whole way: an agent's side with a leaf of ours, the dialer, and an upstream that is verified, over TCP.
#[tokio::test]
async fn over_tcp_a_dialled_host_is_verified() -> io::Result<()> {
    let directory = tempfile::tempdir()?;
    let authority = Authority::open(
        directory.path(),
        &AuthorityOptions::default(),
        std::time::SystemTime::now(),
    );
    let leaves = Leaves::new(authority.unwrap(), LeafOptions::default()).unwrap();
    let roots = directory.path().join("roots.pem");
    std::fs::write(&roots, leaves.bundle().unwrap())?;
    let options =
        UpstreamOptions { system_roots: false, roots: vec![roots], ..UpstreamOptions::default() };
    let upstream = UpstreamTls::new(options).unwrap();

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    let here = Host::from(at.ip());
    let acceptor = TlsAcceptor::from(leaves.server_config(&here, Alpn::Http2OrHttp1).unwrap());
    let server = tokio::spawn(async move {
        let mut stream = acceptor.accept(listener.accept().await?.0).await?;
        stream.write_all(b"hello").await?;
        stream.shutdown().await
    });
    let dialer = Dialer::new(DialOptions::default(), vec!["127.0.0.1".parse().unwrap()]);
    let dialed = dialer.dial(&here, at.port()).await.unwrap();
    let mut stream = upstream.connect(&here, Alpn::Http2OrHttp1, dialed.stream).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    assert_eq!(text, "hello");
    server.await.unwrap()
}

fn unix(at: std::time::SystemTime) -> rustls_pki_types::UnixTime {
    let since = at.duration_since(std::time::UNIX_EPOCH).unwrap();
    rustls_pki_types::UnixTime::since_unix_epoch(since)
}
