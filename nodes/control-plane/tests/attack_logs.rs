//! What the server's own log holds after an attack: little, and no secret.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod peer;

use std::{
    io,
    sync::{Arc, Mutex},
};

use aa_control_plane::{admission::Limits, throttle::FailureRate, tls::ConnectionLimits};
use aa_runtime::{Clock, SystemClock};
use peer::{BASH, PATIENCE, Peer, action};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attacker_cannot_fill_the_log_nor_read_secrets_in_it() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_env_filter("info")
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let failures = FailureRate { burst: 5, per_second: 1 };
    let connections = ConnectionLimits { per_network: 12, ..ConnectionLimits::of(64) };
    let limits = Limits { failures, connections, ..Limits::default() };
    let peer = Peer::start_within(limits).await;
    let token = peer.register("a").await;
    let started = log.0.lock().unwrap().len();

    let past = aa_protocol::Timestamp::from_micros(SystemClock.now().as_micros() - 7_200_000_000);
    let expired = peer.tokens.issue(peer.workspace, peer.agent("a"), past, uuid::Uuid::nil()).0;
    for number in 0..300 {
        peer.check(&expired, action(number, BASH)).await.unwrap_err();
        peer.check("guess", action(number, BASH)).await.unwrap_err();
        let url = format!("{}/api/v1/keys", peer.api_url);
        peer.api.get(url).bearer_auth("aak_guess_secret").send().await.unwrap();
    }
    for number in 0..50 {
        let malformed = aa_protocol::wire::v1::Action { kind: None, ..action(number, BASH) };
        peer.check(&token, malformed).await.unwrap_err();
        peer.send_bytes(&token, "CheckPolicy", b"\xff\xff\xff").await.unwrap_err();
    }
    let mut taken = Vec::new();
    for number in 0..200 {
        let address = peer.gateway_url.trim_start_matches("https://");
        let mut stream = TcpStream::connect(address).await.unwrap();
        let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await;
        if number % 2 == 0 {
            taken.push(stream);
        } else {
            let mut answer = Vec::new();
            let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
        }
    }
    drop(taken);
    peer.check(&token, action(1_000, BASH)).await.expect("the agent goes on");

    let written = String::from_utf8(log.0.lock().unwrap()[started..].to_vec()).unwrap();
    let lines = written.lines().count();
    assert!(lines <= 20, "{lines} lines, such as\n{written:.2000}");
    for secret in [&token, &expired, &peer.agent_key, &peer.owner_key, "aak_guess_secret"] {
        assert!(!written.contains(secret), "a credential is in the log");
    }
    assert!(written.contains("more failed authentications than the rate admits"), "{written}");
    peer.stop().await;
}
