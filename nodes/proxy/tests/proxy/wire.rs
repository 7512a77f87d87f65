//! What goes over the wire: versions, tunnels, refusals before anything is sent.

use std::{io::Write, process::Stdio};

use bytes::Bytes;
use http::Response;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
    time::timeout,
};

use crate::{
    provider::{Provider, ProviderAuthority, Seen, whole},
    world::{PATIENCE, TOKEN, World},
};

const ALLOWED: &str = "  network:\n    allowlist: ['*']\n";

async fn echo(world: &World, protocols: &[&str]) -> Provider {
    let tls = world.authority.server(&["api.example.com"], protocols);
    let answer = |seen: Seen| async move { Response::new(whole(seen.body)) };
    Provider::start(Some(tls), answer).await
}

/// Sends bytes to the proxy's own port and reads what it answers until it closes, or until a head is complete.
async fn raw(world: &World, request: &str) -> String {
    let mut stream = TcpStream::connect(world.proxy.addresses()[0]).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let reading = async {
        while !answer.windows(4).any(|window| window == b"\r\n\r\n") {
            if stream.read_buf(&mut answer).await.unwrap() == 0 {
                break;
            }
        }
    };
    timeout(PATIENCE, reading).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn credentials() -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(format!("research:{TOKEN}"))
}

/// curl through the proxy, where this machine has it.
async fn curl(world: &World, url: &str, more: &[&str]) -> Option<String> {
    let mut ca = tempfile::NamedTempFile::new().unwrap();
    ca.write_all(world.proxy.ca_pem().unwrap().as_bytes()).unwrap();
    let ran = Command::new("curl")
        .args(["-sS", "--noproxy", "", "--max-time", "20", "--proxy-basic", "--proxy-user"])
        .arg(format!("research:{TOKEN}"))
        .arg("--proxy")
        .arg(format!("http://{}", world.proxy.addresses()[0]))
        .arg("--cacert")
        .arg(ca.path())
        .args(["-w", " %{http_version} %{http_code}"])
        .args(more)
        .arg(url)
        .stdin(Stdio::null())
        .output()
        .await
        .ok()?;
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    Some(String::from_utf8(ran.stdout).unwrap())
}

#[tokio::test]
async fn curl_speaks_either_version_whatever_the_upstream_speaks() {
    let world = World::start(ALLOWED).await;
    for protocols in [&["h2", "http/1.1"][..], &["http/1.1"], &["h2"]] {
        let provider = echo(&world, protocols).await;
        let url = format!("https://api.example.com:{}/", provider.address.port());
        let Some(old) = curl(&world, &url, &["--http1.1", "-d", "hello"]).await else {
            eprintln!("NOT RUN: there is no curl on this machine");
            return;
        };
        assert_eq!(old, "hello 1.1 200");
        let new = curl(&world, &url, &["--http2", "-d", "hello"]).await.unwrap();
        assert_eq!(new, "hello 2 200");
        let chunked = ["--http1.1", "-H", "transfer-encoding: chunked", "-d", "in pieces"];
        assert_eq!(curl(&world, &url, &chunked).await.unwrap(), "in pieces 1.1 200");
    }
    world.stop().await;
}

#[tokio::test]
async fn internal_addresses_are_not_reached_in_any_spelling() {
    let world = World::start(ALLOWED).await;
    for target in [
        "169.254.169.254:80",
        "10.0.0.1:80",
        "0xa9.0xfe.0xa9.0xfe:80",
        "2852039166:80",
        "[::ffff:169.254.169.254]:80",
        "[fd00:ec2::254]:80",
    ] {
        let request = format!(
            "GET http://{target}/latest/meta-data HTTP/1.1\r\nHost: {target}\r\n\
             Proxy-Authorization: Basic {}\r\nConnection: close\r\n\r\n",
            credentials()
        );
        let answer = raw(&world, &request).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{target}: {answer}");
    }
    world.stop().await;
}

#[tokio::test]
async fn requests_that_contradict_themselves_are_refused() {
    let world = World::start(ALLOWED).await;
    let authorization = format!("Proxy-Authorization: Basic {}\r\n", credentials());
    for request in [
        "GET http://api.example.com/ HTTP/1.1\r\nHost: elsewhere.example.com\r\n",
        "GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\nHost: api.example.com\r\n",
        "GET http://api.example.com/ HTTP/1.1\r\n",
        "GET http://user@api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n",
        "GET http://api.example.com:8080/ HTTP/1.1\r\nHost: api.example.com\r\n",
        "GET ftp://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n",
        "GET / HTTP/1.1\r\nHost: api.example.com\r\n",
        "CONNECT api.example.com HTTP/1.1\r\nHost: api.example.com\r\n",
        "CONNECT api.example.com:0 HTTP/1.1\r\nHost: api.example.com:0\r\n",
        "POST http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 1\r\nContent-Length: 2\r\n",
        "POST http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: gzip\r\n",
    ] {
        let answer = raw(&world, &format!("{request}{authorization}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{request}\n{answer}");
    }
    world.stop().await;
}

#[tokio::test]
async fn one_length_is_sent_on_where_two_were_given() {
    let world = World::start(ALLOWED).await;
    let provider =
        Provider::start(None, |seen: Seen| async move { Response::new(whole(seen.body)) }).await;
    let target = format!("api.example.com:{}", provider.address.port());
    // RFC 9112, section 6.1: who forwards it sends the chunked body and drops the length.
    let request = format!(
        "POST http://{target}/ HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Basic {}\r\n\
         Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
         b\r\nGET /admin \r\n0\r\n\r\n",
        credentials()
    );
    let answer = raw(&world, &request).await;
    let seen = provider.seen().clone();
    if answer.starts_with("HTTP/1.1 200") {
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].body, Bytes::from_static(b"GET /admin "));
        let has_length = seen[0].headers.contains_key("content-length");
        assert!(!(has_length && seen[0].headers.contains_key("transfer-encoding")));
    } else {
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(seen.is_empty());
    }
    world.stop().await;
}

#[tokio::test]
async fn an_upstream_that_does_not_prove_who_it_is_gets_nothing() {
    let world = World::start(ALLOWED).await;
    let stranger = ProviderAuthority::new();
    let tls = stranger.server(&["api.example.com"], &["http/1.1"]);
    let unknown = Provider::start(Some(tls), |_| async { Response::new(whole("")) }).await;
    let tls = world.authority.server(&["other.example.com"], &["http/1.1"]);
    let other = Provider::start(Some(tls), |_| async { Response::new(whole("")) }).await;
    for provider in [&unknown, &other] {
        let url = format!("https://api.example.com:{}/", provider.address.port());
        let answer = world.client().post(url).body("secret").send().await.unwrap();
        assert_eq!(answer.status(), 502);
        let problem: Value = answer.json().await.unwrap();
        assert!(problem.to_string().contains("api.example.com"), "{problem}");
        assert!(provider.seen().is_empty());
    }
    world.stop().await;
}

#[tokio::test]
async fn a_host_that_passes_through_is_recorded_as_unseen() {
    let world = World::start(ALLOWED).await;
    let provider = echo(&world, &["http/1.1"]).await;
    let port = provider.address.port();
    // Its own certificate, not one of ours, is what the client sees.
    let proxy = reqwest::Proxy::all(format!("http://{}", world.proxy.addresses()[0])).unwrap();
    let client = reqwest::Client::builder()
        .proxy(proxy.basic_auth("research", TOKEN))
        .tls_certs_only([reqwest::Certificate::from_pem(world.authority.pem().as_bytes()).unwrap()])
        .timeout(PATIENCE)
        .build()
        .unwrap();
    let seen_by_us = client.get(format!("https://api.example.com:{port}/")).send().await;
    assert!(seen_by_us.is_err(), "the client does not trust the proxy");
    let tls = world.authority.server(&["pinned.example.com"], &["http/1.1"]);
    let pinned = Provider::start(Some(tls), |_| async { Response::new(whole("itself")) }).await;
    let url = format!("https://pinned.example.com:{}/", pinned.address.port());
    let answer = client.get(url).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "itself");
    drop(client);
    let entry = world.entry(|entry| entry["detail"]["outcome"] == "unseen").await;
    assert!(entry.to_string().contains("pinned.example.com"), "{entry:#}");
    world.stop().await;
}

#[tokio::test]
async fn websockets_go_both_ways() {
    let world = World::start(ALLOWED).await;
    // A server that switches is nothing but bytes after its head.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("api.example.com:{}", listener.local_addr().unwrap().port());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.windows(4).any(|window| window == b"\r\n\r\n") {
            stream.read_buf(&mut head).await.unwrap();
        }
        let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        stream.write_all(switched.as_bytes()).await.unwrap();
        let mut ping = [0; 4];
        stream.read_exact(&mut ping).await.unwrap();
        stream.write_all(b"pong").await.unwrap();
        (String::from_utf8(head).unwrap(), ping)
    });
    let mut stream = TcpStream::connect(world.proxy.addresses()[0]).await.unwrap();
    let request = format!(
        "GET http://{target}/socket HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Basic {}\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        credentials()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    let reading = async {
        while !head.windows(4).any(|window| window == b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut head).await.unwrap(), 0, "{head:?}");
        }
        stream.write_all(b"ping").await.unwrap();
        let mut pong = [0; 4];
        stream.read_exact(&mut pong).await.unwrap();
        pong
    };
    assert_eq!(&timeout(PATIENCE, reading).await.unwrap(), b"pong");
    assert!(head.starts_with(b"HTTP/1.1 101"));
    let (asked, ping) = server.await.unwrap();
    assert_eq!(&ping, b"ping");
    assert!(asked.contains("GET /socket HTTP/1.1"), "{asked}");
    assert!(!asked.to_lowercase().contains("proxy-authorization"), "{asked}");
    drop(stream);
    world.stop().await;
}
