use std::{
    collections::{HashMap, VecDeque},
    net::{Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;

/// Answers in turn; the last one again and again.
#[derive(Default)]
struct Names {
    answers: Mutex<HashMap<String, VecDeque<Vec<IpAddr>>>>,
    asked: AtomicUsize,
    is_silent: bool,
}

/// Notes what is connected to, and answers as it is told to.
#[derive(Default)]
struct Wire {
    to: Mutex<Vec<SocketAddr>>,
    refusing: Vec<IpAddr>,
    silent: Vec<IpAddr>,
}

// === impl Names ===

impl Names {
    /// Names, each with its answers.
    fn new(names: &[(&str, &[&[&str]])]) -> Arc<Self> {
        let answers = names.iter().map(|(name, answers)| {
            let answers = answers.iter().map(|answer| addresses(answer)).collect();
            ((*name).to_owned(), answers)
        });
        Arc::new(Self { answers: Mutex::new(answers.collect()), ..Self::default() })
    }

    fn silent() -> Arc<Self> {
        Arc::new(Self { is_silent: true, ..Self::default() })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Lookup for Names {
    async fn lookup(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.is_silent {
            std::future::pending::<()>().await;
        }
        let mut answers = self.answers.lock();
        let answers = answers.get_mut(name).ok_or(io::ErrorKind::NotFound)?;
        if answers.len() > 1 { Ok(answers.pop_front().unwrap()) } else { Ok(answers[0].clone()) }
    }
}

// === impl Wire ===

impl Wire {
    fn to(&self) -> Vec<String> {
        self.to.lock().iter().map(ToString::to_string).collect()
    }
}

#[async_trait]
impl Connect for Wire {
    async fn connect(&self, to: Admitted) -> io::Result<TcpStream> {
        let address = to.address();
        self.to.lock().push(address);
        if self.silent.contains(&address.ip()) {
            std::future::pending::<()>().await;
        }
        if self.refusing.contains(&address.ip()) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        // Some connection, made without waiting: the clock of these tests moves whenever something waits.
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let stream = std::net::TcpStream::connect(listener.local_addr()?)?;
        stream.set_nonblocking(true)?;
        TcpStream::from_std(stream)
    }
}

fn dialer(names: &Arc<Names>, wire: &Arc<Wire>, allowed: &[&str]) -> Dialer {
    let allowed = allowed.iter().map(|text| text.parse().unwrap()).collect();
    patient(DialOptions::default(), names, wire, allowed)
}

fn patient(
    options: DialOptions,
    names: &Arc<Names>,
    wire: &Arc<Wire>,
    allowed: Vec<Allowance>,
) -> Dialer {
    Dialer::with_connect(options, allowed, names.clone(), wire.clone())
}

fn host(text: &str) -> Host {
    Host::parse(text).unwrap()
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_public_host_is_connected_to_at_the_address_it_was_checked_at() {
    let (names, wire) = (Names::new(&[("a.example", &[&["8.8.8.8"]])]), Arc::default());
    let dialed = dialer(&names, &wire, &[]).dial(&host("A.Example."), 443).await.unwrap();
    assert_eq!(dialed.peer.to_string(), "8.8.8.8:443");
    assert_eq!((dialed.reach, dialed.passed_over), (Reach::Public, None));
    assert_eq!(wire.to(), ["8.8.8.8:443"]);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_rebound_gains_nothing() {
    let names = Names::new(&[("evil.example", &[&["8.8.8.8"], &["127.0.0.1"]])]);
    let wire = Arc::default();
    let dialer = dialer(&names, &wire, &[]);
    dialer.dial(&host("evil.example"), 80).await.unwrap();
    assert_eq!(names.asked(), 1, "there is no second answer to dial");
    dialer.dial(&host("evil.example"), 80).await.unwrap();
    assert_eq!(names.asked(), 1, "the answer is remembered for a moment");
    tokio::time::advance(Duration::from_secs(6)).await;
    let error = dialer.dial(&host("evil.example"), 80).await.unwrap_err();
    assert!(matches!(error, DialError::Refused { reach: Reach::Loopback, .. }), "{error}");
    assert_eq!(wire.to(), ["8.8.8.8:80", "8.8.8.8:80"]);
}

#[tokio::test(start_paused = true)]
async fn of_mixed_answers_only_the_public_are_dialled() {
    let answer: &[&str] = &["10.0.0.1", "::1", "8.8.8.8", "169.254.169.254", "2606:4700::1111"];
    let names = Names::new(&[("mixed.example", &[answer])]);
    let refusing = addresses(&["8.8.8.8", "2606:4700::1111"]);
    let wire = Arc::new(Wire { refusing, ..Wire::default() });
    let error = dialer(&names, &wire, &[]).dial(&host("mixed.example"), 443).await.unwrap_err();
    assert!(matches!(error, DialError::Unconnected { tried: 2, .. }), "{error}");
    assert_eq!(wire.to(), ["8.8.8.8:443", "[2606:4700::1111]:443"]);
    let wire = Arc::default();
    let dialed = dialer(&names, &wire, &[]).dial(&host("mixed.example"), 443).await.unwrap();
    assert_eq!(dialed.passed_over, Some(Reach::Private));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_what_the_host_is_and_what_allows_it_but_not_where_it_is() {
    let names = Names::new(&[
        ("internal-api.corp", &[&["10.1.2.3"]]),
        ("meta.corp", &[&["169.254.169.254"]]),
    ]);
    let wire = Arc::default();
    let dialer = dialer(&names, &wire, &[]);
    let table = [
        ("internal-api.corp", "an address of a private network", "`internal-api.corp:443`"),
        ("meta.corp", "a cloud's metadata service", "`meta.corp:443=<its address>`"),
        ("127.1", "127.0.0.1 is at an address of this machine", "`127.0.0.1:443`"),
        ("[::1]", "::1 is at an address of this machine", "`[::1]:443`"),
        ("224.0.0.1", "a multicast address", "no connection can be made"),
    ];
    for (to, what, remedy) in table {
        let error = dialer.dial(&host(to), 443).await.unwrap_err();
        assert!(error.is_refusal());
        let text = error.to_string();
        assert!(text.contains(what) && text.contains(remedy), "{text}");
        assert!(!text.contains("10.1.2.3") && !text.contains("169.254"), "{text}");
        let is_literal = host(to).name().is_none();
        assert_eq!(dialer.check(&host(to), 443).is_err(), is_literal);
    }
    assert!(wire.to().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_an_operator_allows_is_dialled_and_nothing_beside_it() {
    let names = Names::new(&[
        ("internal-api.corp", &[&["10.1.2.3"]]),
        ("other.corp", &[&["10.1.2.3"]]),
        ("strayed.corp", &[&["10.9.9.9"]]),
    ]);
    let wire = Arc::default();
    let allowed = ["internal-api.corp:443", "strayed.corp=10.1.0.0/16", "127.0.0.1:11434"];
    let dialing = dialer(&names, &wire, &allowed);
    dialing.dial(&host("internal-api.corp"), 443).await.unwrap();
    dialing.dial(&host("127.1"), 11434).await.unwrap();
    let refused = [
        ("internal-api.corp", 80),
        ("other.corp", 443),
        ("strayed.corp", 443),
        ("10.1.2.3", 443),
        ("127.0.0.1", 22),
        ("127.0.0.2", 11434),
    ];
    for (to, port) in refused {
        let error = dialing.dial(&host(to), port).await.unwrap_err();
        assert!(error.is_refusal(), "{to}: {error}");
    }
    assert_eq!(wire.to(), ["10.1.2.3:443", "127.0.0.1:11434"]);
    // All networks together hold no multicast, and no credentials of a cloud.
    let everything = dialer(&names, &wire, &["0.0.0.0/0", "::/0"]);
    everything.dial(&host("10.9.9.9"), 80).await.unwrap();
    for to in ["224.0.0.1", "ff02::1", "169.254.169.254", "fd00:ec2::254", "100.100.100.200"] {
        assert!(everything.dial(&host(to), 80).await.unwrap_err().is_refusal(), "{to}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_networks_own_nat64_is_no_way_in() {
    let names = Names::new(&[("evil.example", &[&["2a00:1::10.0.0.1"]])]);
    let wire = Arc::default();
    let nat64 = vec!["2a00:1::/96".parse().unwrap()];
    let options = DialOptions { nat64, ..DialOptions::default() };
    let dialer = patient(options, &names, &wire, Vec::new());
    assert!(dialer.dial(&host("evil.example"), 80).await.unwrap_err().is_refusal());
    dialer.dial(&host("[2a00:1::8.8.8.8]"), 80).await.unwrap();
    assert_eq!(wire.to(), ["[2a00:1::808:808]:80"]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_address_is_passed_by_and_a_refusing_one_at_once() {
    let answer: &[&str] = &["8.0.0.1", "8.0.0.2", "2a00::1", "8.0.0.3"];
    let names = Names::new(&[("a.example", &[answer])]);
    let (silent, refusing) = (addresses(&["8.0.0.1"]), addresses(&["2a00::1"]));
    let wire = Arc::new(Wire { silent, refusing, ..Wire::default() });
    let begun = Instant::now();
    let dialed = dialer(&names, &wire, &[]).dial(&host("a.example"), 443).await.unwrap();
    assert_eq!(dialed.peer.to_string(), "8.0.0.2:443");
    assert_eq!(wire.to(), ["8.0.0.1:443", "[2a00::1]:443", "8.0.0.2:443"]);
    let taken = begun.elapsed();
    let expected = Duration::from_millis(250)..Duration::from_millis(260);
    assert!(expected.contains(&taken), "{taken:?}");
}

#[tokio::test(start_paused = true)]
async fn every_wait_ends() {
    let silent: Vec<String> = (1..=9).map(|n| format!("8.0.0.{n}")).collect();
    let silent: Vec<&str> = silent.iter().map(String::as_str).collect();
    let names = Names::new(&[("a.example", &[&silent])]);
    let wire = Arc::new(Wire { silent: addresses(&silent), ..Wire::default() });
    let begun = Instant::now();
    let error = dialer(&names, &wire, &[]).dial(&host("a.example"), 443).await.unwrap_err();
    let DialError::Unconnected { problem, tried, .. } = error else { panic!("{error}") };
    assert_eq!((problem, tried), (io::ErrorKind::TimedOut, 8));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());

    let names = Names::silent();
    let begun = Instant::now();
    let error = dialer(&names, &wire, &[]).dial(&host("a.example"), 443).await.unwrap_err();
    assert!(error.to_string().contains("the resolver does not answer"), "{error}");
    assert_eq!(begun.elapsed().as_secs(), 5);

    let options = DialOptions { total: Duration::from_secs(1), ..DialOptions::default() };
    let hasty = patient(options, &names, &wire, Vec::new());
    let error = hasty.dial(&host("8.0.0.1"), 443).await.unwrap_err();
    assert_eq!(error.to_string(), "8.0.0.1:443 could not be connected to within 1 s");
}

#[tokio::test(start_paused = true)]
async fn many_who_want_a_name_ask_for_it_once_also_when_there_is_none() {
    let names = Names::new(&[("a.example", &[&["8.8.8.8"]])]);
    let wire = Arc::default();
    let dialer = dialer(&names, &wire, &[]);
    let wanted = host("a.example");
    let all = futures::future::join_all((0..100).map(|_| dialer.dial(&wanted, 443))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(names.asked(), 1);
    let none = host("none.example");
    for _ in 0..5 {
        let error = dialer.dial(&none, 443).await.unwrap_err();
        assert!(error.to_string().contains("no address of it is known"), "{error}");
    }
    assert_eq!(names.asked(), 2);
    tokio::time::advance(Duration::from_secs(3)).await;
    dialer.dial(&none, 443).await.unwrap_err();
    assert_eq!(names.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_resolver_that_is_silent_is_asked_for_so_many_names_and_no_more() {
    let (names, wire) = (Names::silent(), Arc::default());
    let dialer = dialer(&names, &wire, &[]);
    let hosts: Vec<Host> = (0..1_200).map(|n| host(&format!("h{n}.example"))).collect();
    let all = futures::future::join_all(hosts.iter().map(|one| dialer.dial(one, 443))).await;
    let busy = all.iter().filter(|result| {
        matches!(result, Err(DialError::Unresolved { problem: Unresolved::Busy, .. }))
    });
    assert!(busy.count() >= 100);
    assert_eq!(names.asked(), 64);
}

#[tokio::test]
async fn a_connection_is_made_without_delay_and_with_probes() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let dialer = Dialer::new(DialOptions::default(), vec!["127.0.0.1".parse().unwrap()]);
    let dialed = dialer.dial(&host("127.1"), at.port()).await.unwrap();
    assert_eq!((dialed.peer, dialed.stream.peer_addr().unwrap()), (at, at));
    assert!(dialed.stream.nodelay().unwrap());
    let socket = socket2::SockRef::from(&dialed.stream);
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(30));
}

/// An address in one of the ways it can be written.
fn spelled(bits: u32, way: u8) -> String {
    let v4 = Ipv4Addr::from_bits(bits);
    let [a, b, c, d] = v4.octets();
    let [high, low] = [bits >> 16, bits & 0xffff];
    match way % 12 {
        0 => v4.to_string(),
        1 => format!("{bits}"),
        2 => format!("{bits:#x}"),
        3 => format!("{a}.{}", bits & 0xff_ffff),
        4 => format!("0{a:o}.{b:#x}.{low}"),
        5 => format!("{v4}."),
        6 => format!("[::ffff:{v4}]"),
        7 => format!("[::{v4}]"),
        8 => format!("[64:ff9b::{v4}]"),
        9 => format!("[2002:{high:x}:{low:x}::1]"),
        10 => format!("[2001::{:x}:{:x}]", !high & 0xffff, !low & 0xffff),
        _ => format!("{a}\u{3002}{b}\u{ff0e}{c}\u{ff61}{d}"),
    }
}

/// Often one of a range that is not public.
fn some_v4() -> impl Strategy<Value = u32> {
    let special = [
        0x0a00_0000u32,
        0x7f00_0000,
        0xa9fe_a900,
        0xc0a8_0000,
        0xac10_0000,
        0x6440_0000,
        0x6464_6400,
        0xe000_0000,
        0xc633_6400,
        0xc612_0000,
        0xa83f_8100,
        0,
    ];
    let near = (prop::sample::select(special.to_vec()), any::<u8>());
    prop_oneof![any::<u32>(), near.prop_map(|(base, low)| base | u32::from(low))]
}

/// What a resolver might answer.
fn some_address() -> impl Strategy<Value = IpAddr> {
    let v4 = || some_v4().prop_map(Ipv4Addr::from_bits);
    prop_oneof![
        v4().prop_map(IpAddr::from),
        v4().prop_map(|v4| v4.to_ipv6_mapped().into()),
        v4().prop_map(|v4| v4.to_ipv6_compatible().into()),
        v4().prop_map(|v4| {
            Ipv6Addr::from_bits((0x64_ff9b << 96) | u128::from(v4.to_bits())).into()
        }),
        any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits).into()),
    ]
}

proptest! {
    #[test]
    fn no_refused_address_is_dialled_whatever_its_spelling(
        bits in some_v4(),
        way: u8,
        answer in prop::collection::vec(some_address(), 0..6),
    ) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let literal = host(&spelled(bits, way));
            let Host::Address(address) = literal else { panic!("{literal} is no address") };
            let names = Arc::new(Names::default());
            names.answers.lock().insert("a.example".to_owned(), [answer.clone()].into());
            // All refuse, so that every address is tried that ever would be.
            let refusing = answer.iter().copied().chain([address]).collect();
            let wire = Arc::new(Wire { refusing, ..Wire::default() });
            let dialer = dialer(&names, &wire, &[]);
            dialer.dial(&literal, 443).await.unwrap_err();
            dialer.dial(&host("a.example"), 443).await.unwrap_err();
            let tried: Vec<IpAddr> = wire.to.lock().iter().map(SocketAddr::ip).collect();
            for one in &tried {
                assert_eq!(Reach::of(*one), Reach::Public, "{one}");
            }
            for public in answer.iter().filter(|one| Reach::of(**one) == Reach::Public) {
                assert!(tried.contains(public), "{public} is not dialled: {tried:?}");
            }
        });
    }
}
