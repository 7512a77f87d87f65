//! Peers that connect and do not behave: too many, too silent, too slow.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod peer;

use std::time::{Duration, Instant};

use aa_control_plane::{admission::Limits, tls::ConnectionLimits};
use peer::{BASH, PATIENCE, Peer, TlsStream, action};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Short enough for a test to see the end of it, long enough for a busy machine.
const SHORT: Duration = Duration::from_millis(1_200);

fn limits() -> Limits {
    let connections = ConnectionLimits {
        handshake: SHORT,
        silence: SHORT,
        stall: SHORT,
        ..ConnectionLimits::of(64)
    };
    Limits { connections, headers: SHORT, ..Limits::default() }
}

/// Waits until the other side closes; returns what it said before. Bounded.
async fn until_closed(mut stream: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut said = Vec::new();
    // Whether it ends orderly or is reset does not matter here.
    let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said));
    let _ = ended.await.expect("the connection is closed");
    said
}

fn host(url: &str) -> &str {
    url.trim_start_matches("https://")
}

async fn still_serves(peer: &Peer, token: &str, number: u128) {
    peer.check(token, action(number, BASH)).await.expect("agents are served");
    peer.get("health").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_is_never_finished_is_cut_and_holds_up_nobody() {
    let peer = Peer::start_within(limits()).await;
    let token = peer.register("a").await;
    let mut half_open = Vec::new();
    for url in [&peer.gateway_url, &peer.api_url] {
        for _ in 0..8 {
            half_open.push(TcpStream::connect(host(url)).await.unwrap());
        }
        // The first bytes of a ClientHello, and then nothing.
        let mut begun = TcpStream::connect(host(url)).await.unwrap();
        begun.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
        half_open.push(begun);
        let mut garbage = TcpStream::connect(host(url)).await.unwrap();
        garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        half_open.push(garbage);
    }
    still_serves(&peer, &token, 1).await;
    for stream in half_open {
        until_closed(stream).await;
    }
    still_serves(&peer, &token, 2).await;
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_says_nothing_after_its_handshake_is_cut() {
    let peer = Peer::start_within(limits()).await;
    let token = peer.register("a").await;
    let mut silent = Vec::new();
    for (url, protocol) in
        [(&peer.gateway_url, "h2"), (&peer.api_url, "h2"), (&peer.api_url, "http/1.1")]
    {
        silent.push(peer.tls(url, protocol).await);
        let mut almost = peer.tls(url, protocol).await;
        almost.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r").await.unwrap();
        silent.push(almost);
    }
    still_serves(&peer, &token, 1).await;
    for stream in silent {
        until_closed(stream).await;
    }
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_do_not_arrive_are_given_up() {
    let peer = Peer::start_within(limits()).await;
    let mut slow: Vec<TlsStream> = Vec::new();
    for start in
        ["GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", "GET /api/v1/health?"]
    {
        let mut stream = peer.tls(&peer.api_url, "http/1.1").await;
        stream.write_all(start.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    // One that was answered and then stays without a further request.
    let mut idle = peer.tls(&peer.api_url, "http/1.1").await;
    let request = "GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    idle.write_all(request.as_bytes()).await.unwrap();
    peer.get("health").await;
    let answered = until_closed(idle).await;
    assert!(answered.starts_with(b"HTTP/1.1 200 OK\r\n"));
    for stream in slow {
        let said = until_closed(stream).await;
        assert!(!said.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&said));
    }
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_asks_without_reading_the_answers_is_cut() {
    let peer = Peer::start_within(limits()).await;
    let mut stream = peer.tls(&peer.api_url, "http/1.1").await;
    let request = "GET /api/v1/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
    let asking = async {
        // Until the sockets of both sides are full of questions and answers, and then on.
        while stream.write_all(request.as_bytes()).await.is_ok() {}
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("it is cut, not waited for");
    peer.get("health").await;
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_network_cannot_take_every_place() {
    let connections = ConnectionLimits { per_network: 4, ..ConnectionLimits::of(8) };
    let peer = Peer::start_within(Limits { connections, ..Limits::default() }).await;
    let token = peer.register("a").await;
    // The test's own channel has one of the four.
    let mut taken = Vec::new();
    for _ in 0..3 {
        taken.push(peer.tls(&peer.gateway_url, "h2").await);
    }
    let beyond = TcpStream::connect(host(&peer.gateway_url)).await.unwrap();
    assert_eq!(until_closed(beyond).await, b"", "it is closed before any handshake");
    still_serves(&peer, &token, 1).await;

    // A place that is left can be taken again.
    drop(taken.pop());
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut stream = TcpStream::connect(host(&peer.gateway_url)).await.unwrap();
        let refused = tokio::time::timeout(SHORT, stream.read(&mut [0])).await.is_ok();
        if !refused {
            break;
        }
        assert!(Instant::now() < deadline, "the place comes back");
    }
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_come_and_go_leave_nothing_behind() {
    let connections = ConnectionLimits::of(16);
    let peer = Peer::start_within(Limits { connections, ..Limits::default() }).await;
    let token = peer.register("a").await;
    for round in 0..100 {
        // Far more in all than there are places: each must come back.
        let stream = TcpStream::connect(host(&peer.gateway_url)).await.unwrap();
        if round % 2 == 0 {
            stream.set_zero_linger().unwrap();
        }
        drop(stream);
    }
    let opened = async {
        for _ in 0..50 {
            // Those before may still be on their way out.
            let mut stream = loop {
                match peer.try_tls(&peer.gateway_url, "h2").await {
                    Ok(stream) => break stream,
                    Err(_) => tokio::task::yield_now().await,
                }
            };
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, opened).await.expect("there is a place for each");
    still_serves(&peer, &token, 1).await;
    peer.stop().await;
}
