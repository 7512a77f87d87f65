//! Deliveries over HTTP, to receivers on loopback.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aa_notify::{
    Channel, Failure, Guard, Lookup, Message, Roots, Secrets, Security, SendError, SendLimits,
    Sender, Sent, WebhookChannel,
    slack::Interaction,
    webhook::{self, WebhookKey},
};
use async_trait::async_trait;
use serde_json::Value;

use crate::{
    fixture::{NOW, approval_needed, email, name, secret, slack, violation, webhook},
    mail_server::{Behaviour, MailServer},
    server::{Identity, LOOPBACK, Names, Reply, Server, sender, sender_with},
};

const HOOK: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const OLD_HOOK: &str = "whsec_HxwdHh8AAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRo=";
const URL_SECRET: &str = "https://receiver.example/services/T0/B0/SLACK-URL-MARKER";

fn secrets() -> Secrets {
    Secrets::from_iter([
        (name("hook"), secret(HOOK)),
        (name("old-hook"), secret(OLD_HOOK)),
        (name("slack-url"), secret(URL_SECRET)),
    ])
}

fn message() -> Message {
    Message::of_event(violation(7, "bash", NOW))
}

async fn send(sender: &Sender, channel: &Channel) -> Result<Sent, SendError> {
    let (secrets, message) = (secrets(), message());
    let sending = sender.send(channel, &secrets, &message, NOW);
    tokio::time::timeout(Duration::from_secs(20), sending).await.unwrap()
}

fn https(server: &Server) -> Channel {
    webhook(&format!("https://receiver.example:{}/hook?team=a", server.port))
}

#[tokio::test]
async fn a_webhook_is_delivered_over_tls_and_verifies_with_either_secret() {
    let identity = Identity::new();
    let server = Server::start(Reply::status(204, ""), Some(identity.acceptor)).await;
    let sender = sender(&["receiver.example"], &identity.pem);
    assert_eq!(send(&sender, &https(&server)).await, Ok(Sent { code: 204 }));
    let requests = server.requests();
    let [request] = requests.as_slice() else { panic!("one request, not {requests:?}") };
    assert_eq!(request.line, "POST /hook?team=a HTTP/1.1");
    assert_eq!(request.headers["content-type"], "application/json");
    assert!(request.headers["user-agent"].to_str().unwrap().starts_with("agent-assembly/"));
    for key in [HOOK, OLD_HOOK] {
        let keys = [WebhookKey::read(&secret(key)).unwrap()];
        let verified =
            webhook::verify(&keys, &request.headers, &request.body, NOW, webhook::TOLERANCE);
        assert_eq!(verified, Ok(message().id.as_str()));
    }
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(body["type"], "alert.violation");
    assert_eq!(body["data"]["id"], message().id);
}

#[tokio::test]
async fn a_previous_secret_that_is_gone_is_not_needed_and_the_present_one_is() {
    let identity = Identity::new();
    let server = Server::start(Reply::status(200, ""), Some(identity.acceptor)).await;
    let sender = sender(&["receiver.example"], &identity.pem);
    let only = Secrets::from_iter([(name("hook"), secret(HOOK))]);
    sender.send(&https(&server), &only, &message(), NOW).await.unwrap();
    let error = sender.send(&https(&server), &Secrets::default(), &message(), NOW).await;
    let error = error.unwrap_err();
    assert!(!error.is_permanent(), "somebody may set it in time");
    assert!(error.to_string().contains("secret `hook`"), "{error}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_certificate_of_nobody_trusted_is_not_spoken_to() {
    let (identity, other) = (Identity::new(), Identity::new());
    let server = Server::start(Reply::status(200, ""), Some(identity.acceptor)).await;
    let error =
        send(&sender(&["receiver.example"], &other.pem), &https(&server)).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    assert!(!error.is_permanent());
    assert!(server.requests().is_empty());
    // A trusted certificate of another name neither.
    let names = Names(HashMap::from([("other.example", vec![LOOPBACK])]));
    let sender = sender_with(&["other.example"], &identity.pem, names);
    let channel = webhook(&format!("https://other.example:{}/", server.port));
    let error = send(&sender, &channel).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let target = Server::start(Reply::status(200, ""), None).await;
    let location = format!("location: http://127.0.0.1:{}/\r\n", target.port);
    let identity = Identity::new();
    for status in [301, 302, 307, 308] {
        let reply = Reply::status(status, &location);
        let server = Server::start(reply, Some(identity.acceptor.clone())).await;
        let sender = sender(&["receiver.example", "127.0.0.1"], &identity.pem);
        let error = send(&sender, &https(&server)).await.unwrap_err();
        assert_eq!(error.failure, Failure::ForGood);
        assert!(error.to_string().contains("redirects are not followed"), "{error}");
    }
    assert!(target.requests().is_empty());
}

#[tokio::test]
async fn statuses_mean_what_they_say() {
    let identity = Identity::new();
    let sender = sender(&["receiver.example"], &identity.pem);
    let for_now =
        |seconds: Option<u64>| Failure::ForNow { retry_after: seconds.map(Duration::from_secs) };
    // 1790000000 is 2026-09-21 14:13:20 UTC.
    let date = "retry-after: Mon, 21 Sep 2026 14:15:20 GMT\r\n";
    for (status, headers, failure) in [
        (400, "", Failure::ForGood),
        (401, "", Failure::ForGood),
        (404, "retry-after: 5\r\n", Failure::ForGood),
        (410, "", Failure::Gone),
        (408, "", for_now(None)),
        (425, "", for_now(None)),
        (429, "retry-after: 120\r\n", for_now(Some(120))),
        (429, date, for_now(Some(120))),
        (429, "retry-after: soon\r\n", for_now(None)),
        (500, "", for_now(None)),
        (503, "retry-after: 7\r\n", for_now(Some(7))),
        (600, "", for_now(None)),
    ] {
        let reply = Reply::status(status, headers);
        let server = Server::start(reply, Some(identity.acceptor.clone())).await;
        let error = send(&sender, &https(&server)).await.unwrap_err();
        assert_eq!(error.failure, failure, "{status}: {error}");
        assert!(error.problem.contains(&status.to_string()), "{error}");
    }
}

#[tokio::test]
async fn an_answer_without_end_holds_nobody_up() {
    let identity = Identity::new();
    let head = "HTTP/1.1 200 x\r\ntransfer-encoding: identity\r\nconnection: close\r\n\r\n";
    let reply = Reply::Endless(head.to_owned());
    let server = Server::start(reply, Some(identity.acceptor.clone())).await;
    let sender = sender(&["receiver.example"], &identity.pem);
    assert_eq!(send(&sender, &https(&server)).await, Ok(Sent { code: 200 }));
    // Nor do headers without end.
    let reply = Reply::Endless("HTTP/1.1 200 x\r\nx: ".to_owned());
    let server = Server::start(reply, Some(identity.acceptor)).await;
    let error = send(&sender, &https(&server)).await.unwrap_err();
    assert!(!error.is_permanent(), "{error}");
}

#[tokio::test]
async fn a_receiver_that_is_silent_is_given_up() {
    let identity = Identity::new();
    let server = Server::start(Reply::Silence, Some(identity.acceptor)).await;
    let limits = SendLimits { http: Duration::from_millis(200), ..SendLimits::default() };
    let names = Names(HashMap::from([("receiver.example", vec![LOOPBACK])]));
    let guard = Guard::new(["receiver.example".parse().unwrap()]);
    let roots = Roots::from_pem(identity.pem.as_bytes()).unwrap();
    let sender = Sender::new(guard, Arc::new(names), &roots, limits).unwrap();
    let error = send(&sender, &https(&server)).await.unwrap_err();
    assert!(error.to_string().contains("did not answer within 0.2 s"), "{error}");
    assert_eq!(error.failure, Failure::ForNow { retry_after: None });
}

#[tokio::test]
async fn a_name_that_resolves_inside_is_not_dialled() {
    let identity = Identity::new();
    let server = Server::start(Reply::status(200, ""), Some(identity.acceptor)).await;
    let at = |host: &str| webhook(&format!("https://{host}:{}/", server.port));
    let public = sender(&[], &identity.pem);
    let error = send(&public, &at("receiver.example")).await.unwrap_err();
    assert_eq!(error.failure, Failure::ForGood);
    let text = error.to_string();
    assert!(text.contains("receiver.example is at an address of this machine"), "{text}");
    assert!(!text.contains("127.0.0.1"), "what a name resolves to inside is not told: {text}");
    for host in ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "localhost"] {
        let error = send(&public, &at(host)).await.unwrap_err();
        assert_eq!(error.failure, Failure::ForGood, "{host}: {error}");
    }
    // A name that is allowed does not open what serves a cloud's credentials.
    let allowing = sender(&["metadata.example", "mixed.example"], &identity.pem);
    let error = send(&allowing, &at("metadata.example")).await.unwrap_err();
    assert!(error.to_string().contains("the address of a cloud's metadata service"), "{error}");
    let error = send(&public, &at("nowhere.example")).await.unwrap_err();
    assert_eq!(error.failure, Failure::ForNow { retry_after: None });
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn of_many_addresses_only_the_admitted_are_dialled() {
    let identity = Identity::new();
    let server = Server::start(Reply::status(200, ""), Some(identity.acceptor)).await;
    // The network of this machine is allowed, the private one is not.
    let names =
        Names(HashMap::from([("receiver.example", vec!["10.0.0.1".parse().unwrap(), LOOPBACK])]));
    let sender = sender_with(&["127.0.0.0/8"], &identity.pem, names);
    assert_eq!(send(&sender, &https(&server)).await, Ok(Sent { code: 200 }));
}

/// A name that points elsewhere each time it is looked up.
#[derive(Clone, Default)]
struct Rebinding(Arc<AtomicUsize>);

#[async_trait]
impl Lookup for Rebinding {
    async fn lookup(&self, _: &str) -> std::io::Result<Vec<IpAddr>> {
        let is_first = self.0.fetch_add(1, Ordering::SeqCst) == 0;
        Ok(vec![if is_first { LOOPBACK } else { "10.0.0.1".parse().unwrap() }])
    }
}

#[tokio::test]
async fn a_name_is_looked_up_once_so_there_is_no_second_answer_to_dial() {
    let identity = Identity::new();
    let web = Server::start(Reply::status(200, ""), Some(identity.acceptor)).await;
    let mail = MailServer::start(Behaviour::default()).await;
    for channel in [https(&web), Channel::Email(email(mail.port, Security::None))] {
        let names = Rebinding::default();
        let guard =
            Guard::new(["127.0.0.0/8", "localhost"].map(|allowed| allowed.parse().unwrap()));
        let roots = Roots::from_pem(identity.pem.as_bytes()).unwrap();
        let lookup = Arc::new(names.clone());
        let sender = Sender::new(guard, lookup, &roots, SendLimits::default()).unwrap();
        send(&sender, &channel).await.unwrap();
        assert_eq!(names.0.load(Ordering::SeqCst), 1);
    }
    assert_eq!(web.requests().len(), 1);
}

#[tokio::test]
async fn in_the_clear_only_what_an_operator_allowed() {
    let identity = Identity::new();
    let server = Server::start(Reply::status(200, ""), None).await;
    let channel = webhook(&format!("http://localhost:{}/", server.port));
    let error = send(&sender(&[], &identity.pem), &channel).await.unwrap_err();
    assert!(error.to_string().contains("unencrypted"), "{error}");
    assert_eq!(error.failure, Failure::ForGood);
    assert!(server.requests().is_empty());
    send(&sender(&["localhost"], &identity.pem), &channel).await.unwrap();
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn slack_gets_blocks_and_what_it_says_is_wrong_is_told() {
    let identity = Identity::new();
    let body = "HTTP/1.1 404 x\r\ncontent-length: 10\r\n\r\nno_service";
    for (reply, expected) in [
        (Reply::status(200, ""), Ok(Sent { code: 200 })),
        (Reply::Raw(body.to_owned()), Err("the Slack channel answered 404 (no_service)")),
    ] {
        let server = Server::start(reply, Some(identity.acceptor.clone())).await;
        let url = URL_SECRET.replace("example/", &format!("example:{}/", server.port));
        let secrets = Secrets::from_iter([(name("slack-url"), secret(&url))]);
        let sender = sender(&["receiver.example"], &identity.pem);
        let needed = Message::of_event(approval_needed());
        let sent = sender.send(&slack(true), &secrets, &needed, NOW).await;
        match (sent, expected) {
            (Ok(sent), Ok(expected)) => assert_eq!(sent, expected),
            (Err(error), Err(expected)) => {
                assert!(error.to_string().starts_with(expected), "{error}");
            }
            (sent, _) => panic!("{sent:?}"),
        }
        let requests = server.requests();
        let body: Value = serde_json::from_slice(&requests[0].body).unwrap();
        assert_eq!(body.pointer("/blocks/3/elements/0/action_id").unwrap(), "aa_approve");
    }
}

#[tokio::test]
async fn no_error_and_no_debug_form_shows_a_secret() {
    let identity = Identity::new();
    let server = Server::start(Reply::status(500, ""), Some(identity.acceptor.clone())).await;
    let sender = sender(&["receiver.example"], &identity.pem);
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let mut shown = format!("{sender:?} {:?}", secrets());
    let marked = |port: u16| format!("https://receiver.example:{port}/SLACK-URL-MARKER?a=b");
    for url in [
        marked(server.port),
        marked(port),
        "https://10.0.0.1/SLACK-URL-MARKER".to_owned(),
        "https://nowhere.example/SLACK-URL-MARKER".to_owned(),
        "https://u:SLACK-URL-MARKER@receiver.example/".to_owned(),
        "http://receiver.invalid/SLACK-URL-MARKER".to_owned(),
        "SLACK-URL-MARKER".to_owned(),
    ] {
        let secrets = Secrets::from_iter([(name("slack-url"), secret(&url))]);
        let error = sender.send(&slack(false), &secrets, &message(), NOW).await.unwrap_err();
        shown.push_str(&format!("{error} {error:?}\n"));
        // The path of a webhook's URL may be one as well.
        let error = send(&sender, &webhook(&url)).await.unwrap_err();
        shown.push_str(&format!("{error} {error:?}\n"));
    }
    let weak = Secrets::from_iter([(name("hook"), secret("HOOK-MARKER"))]);
    let channel = Channel::Webhook(WebhookChannel {
        url: marked(server.port),
        secret: name("hook"),
        previous_secret: None,
    });
    let error = sender.send(&channel, &weak, &message(), NOW).await.unwrap_err();
    assert_eq!(error.failure, Failure::ForGood);
    shown.push_str(&format!("{error} {error:?}"));
    for marker in ["SLACK-URL-MARKER", "HOOK-MARKER", "AAECAwQF"] {
        assert!(!shown.contains(marker), "{shown}");
    }
}

#[tokio::test]
async fn a_follow_up_goes_to_slack_only() {
    let identity = Identity::new();
    let sender = sender(&[], &identity.pem);
    let payload = serde_json::json!({
        "type": "block_actions", "user": { "id": "U2CERLKJA" },
        "actions": [{ "action_id": "aa_deny", "value": crate::fixture::APPROVAL.to_string(), "action_ts": "1.2" }],
        "response_url": "https://hooks.slack.com/actions/SLACK-URL-MARKER",
    });
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("payload", &payload.to_string());
    let pressed = Interaction::parse(form.finish().as_bytes()).unwrap();
    let body = aa_notify::slack::follow_up("denied", true);
    // The test's resolver does not know Slack: nothing leaves this machine.
    let error = sender.follow_up(&pressed.response_url, body, NOW).await.unwrap_err();
    assert!(error.to_string().contains("hooks.slack.com could not be resolved"), "{error}");
    assert!(!error.to_string().contains("SLACK-URL-MARKER"));
}

#[test]
fn certificates_are_read_or_said_to_be_none() {
    assert!(Roots::from_pem(b"").is_err());
    assert!(
        Roots::from_pem(b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n").is_err()
    );
}
