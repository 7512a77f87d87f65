//! Alerts from the command line: set, tried, delivered, given up and sent again.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::harness::{Up, aasm, run_with_input};

/// A receiver of webhooks, which answers with these statuses and 204 after them.
fn receiver(script: &'static [u16]) -> (String, mpsc::Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/aaa", listener.local_addr().unwrap());
    let (sender, got) = mpsc::channel();
    thread::spawn(move || {
        for (index, stream) in listener.incoming().enumerate() {
            let mut stream = BufReader::new(stream.unwrap());
            let (mut signature, mut length, mut line) = (String::new(), 0, String::new());
            while stream.read_line(&mut line).unwrap() > 2 {
                let lower = line.to_ascii_lowercase();
                if let Some(value) = lower.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                } else if lower.starts_with("webhook-signature:") {
                    signature = line["webhook-signature:".len()..].trim().to_owned();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            let status = script.get(index).copied().unwrap_or(204);
            let answer =
                format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.get_mut().write_all(answer.as_bytes()).unwrap();
            if sender.send((signature, serde_json::from_slice(&body).unwrap())).is_err() {
                return;
            }
        }
    });
    (url, got)
}

fn up() -> Up {
    Up::start_with(tempfile::tempdir().unwrap(), &["--allow-destination", "127.0.0.1"])
}

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_webhook_is_set_tried_and_told_what_its_rule_wants() {
    let up = up();
    let (url, got) = receiver(&[]);
    let nobody = up.run(&["alert", "list"]).exits(0);
    assert!(nobody.err.starts_with("nobody is told anything"), "{}", nobody.err);
    let set =
        up.run(&["alert", "webhook", "ops", "--url", &url, "--new-secret", "alerts/ops"]).exits(0);
    assert_eq!(set.out, "set the destination ops; try it with `aasm alert test ops`\n");
    assert!(set.err.contains("\nwhsec_"), "the receiver's copy, once: {}", set.err);
    let secret = set.err.lines().last().unwrap().to_owned();
    assert_eq!(up.run(&["alert", "test", "ops"]).exits(0).out, "ops took the test message\n");
    let (signature, body) = got.recv_timeout(PATIENCE).unwrap();
    assert!(signature.starts_with("v1,"), "{signature}");
    assert_eq!(body["type"], "alert.test");

    let rule = ["alert", "rule", "set", "people", "--to", "ops", "--event", "agent_suspended"];
    let said = up.run(&rule).exits(0).out;
    assert_eq!(said, "ops are told of agent_suspended\n");
    let agent = crate::budgets::call(&up, "researcher", &[]);
    assert!(agent.is_empty());
    up.run(&["agent", "suspend", "researcher", "--reason", "odd"]).exits(0);
    let (_, body) = got.recv_timeout(PATIENCE).unwrap();
    assert_eq!(body["data"]["kind"], "agent_suspended");
    assert_eq!(body["data"]["agent_name"], "researcher");

    let list = up.run(&["alert", "list"]).exits(0);
    assert!(list.out.starts_with("DESTINATION  TYPE     WHERE"), "{}", list.out);
    assert!(list.out.contains(&format!("\nops          webhook  {url}")), "{}", list.out);
    assert!(list.out.contains("\npeople  ops    agent_suspended"), "{}", list.out);
    let all =
        format!("{}{}", list.out, up.run(&["alert", "list", "--format", "json"]).exits(0).out);
    assert!(!all.contains(&secret) && !all.contains("whsec_"));

    let in_use = up.run(&["alert", "remove", "ops"]).exits(1);
    assert!(in_use.err.contains("is named by the rule `people`"), "{}", in_use.err);
    up.run(&["alert", "rule", "remove", "people"]).exits(0);
    up.run(&["alert", "remove", "ops"]).exits(0);
    let log = up.run(&["audit", "query", "--kind", "alert"]).exits(0).out;
    for said in [
        "webhook destination ops set",
        "rule people set: ops are told of agent_suspended",
        "destination ops removed",
    ] {
        assert!(log.contains(said), "{said}: {log}");
    }
}

#[test]
fn what_is_refused_for_good_is_a_dead_letter_and_can_be_sent_again() {
    let up = up();
    let (url, got) = receiver(&[404]);
    up.run(&["alert", "webhook", "ops", "--url", &url, "--new-secret", "alerts/ops"]).exits(0);
    up.run(&["alert", "rule", "set", "all", "--to", "ops"]).exits(0);
    crate::budgets::call(&up, "researcher", &[]);
    up.run(&["agent", "suspend", "researcher"]).exits(0);
    got.recv_timeout(PATIENCE).unwrap();
    let began = Instant::now();
    let dead = loop {
        let dead = up.run(&["alert", "dead", "list"]).exits(0);
        if dead.err.is_empty() {
            break dead.out;
        }
        assert!(began.elapsed() < PATIENCE, "{}", dead.err);
    };
    assert!(dead.contains("researcher: ") && dead.contains("404"), "{dead}");
    assert!(up.run(&["alert", "list"]).exits(0).err.contains("1 message nobody took"));
    assert_eq!(
        up.run(&["alert", "dead", "replay"]).exits(0).out,
        "1 dead letter on their way again\n"
    );
    let (_, body) = got.recv_timeout(PATIENCE).unwrap();
    assert_eq!(body["data"]["kind"], "agent_suspended");
    assert_eq!(up.run(&["alert", "dead", "discard"]).exits(0).out, "0 dead letters discarded\n");
}

#[test]
fn destinations_that_are_not_what_they_seem_are_refused() {
    let up = up();
    let webhook = |url: &str| {
        up.run(&["alert", "webhook", "ops", "--url", url, "--secret", "alerts/ops"]).exits(1).err
    };
    for url in
        ["https://192.168.1.1/x", "http://hooks.example.com/x", "https://user@hooks.example.com/x"]
    {
        let error = webhook(url);
        assert!(error.contains("ops"), "{url}: {error}");
    }
    let key = up
        .run(&["alert", "slack", "s", "--url-secret", "u", "--approver", "U012AB3CD=aak_x_y"])
        .exits(2);
    assert!(key.err.contains("the id of the key") && !key.err.contains("aak_x_y\n"), "{}", key.err);
    let mail = [
        "alert",
        "email",
        "m",
        "--server",
        "mail.example.com",
        "--from",
        "a@example.com",
        "--to",
        "b\n@x",
    ];
    assert!(up.run(&mail).exits(1).err.contains("no mail address"));
    let none = up.run(&["alert", "rule", "set", "r", "--to", "nowhere"]).exits(1);
    assert!(none.err.contains("which is no destination"), "{}", none.err);
    let kind = up.run(&["alert", "rule", "set", "r", "--to", "x", "--event", "violatoin"]).exits(2);
    assert!(kind.err.contains("use one of"), "{}", kind.err);
    let mut command = aasm();
    command.env("AASM_DATA", up.data()).args(["secret", "set", "alerts/ops"]);
    run_with_input(&mut command, b"not-a-key").exits(0);
    up.run(&[
        "alert",
        "webhook",
        "ops",
        "--url",
        "https://127.0.0.1:1/x",
        "--secret",
        "alerts/ops",
    ])
    .exits(0);
    let test = up.run(&["alert", "test", "ops"]).exits(1);
    assert!(test.err.contains("whsec_") && !test.err.contains("not-a-key"), "{}", test.err);
}
