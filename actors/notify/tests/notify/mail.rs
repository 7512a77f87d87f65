//! Deliveries by mail, to a server on loopback.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aa_notify::{
    Channel, EmailChannel, Failure, Guard, Message, Roots, Secrets, Security, SendError,
    SendLimits, Sender, Sent,
};

use crate::{
    fixture::{NOW, approval_needed, email, name, secret},
    mail_server::{Behaviour, MailServer},
    server::{Identity, LOOPBACK, Names, sender, sender_with},
};

const PASSWORD: &str = "PASSWORD-MARKER";

fn with_account(channel: EmailChannel) -> EmailChannel {
    EmailChannel { username: Some("mailer".to_owned()), password: Some(name("smtp")), ..channel }
}

async fn send(sender: &Sender, channel: EmailChannel) -> Result<Sent, SendError> {
    let secrets = Secrets::from_iter([(name("smtp"), secret(PASSWORD))]);
    let channel = Channel::Email(channel);
    let message = Message::of_event(approval_needed());
    let sending = sender.send(&channel, &secrets, &message, NOW);
    tokio::time::timeout(Duration::from_secs(20), sending).await.unwrap()
}

#[tokio::test]
async fn a_mail_reaches_its_server_encrypted_with_the_account_only_inside() {
    for (implicit, security) in [(false, Security::Starttls), (true, Security::Tls)] {
        let identity = Identity::new();
        let behaviour =
            Behaviour { tls: Some(identity.acceptor), implicit, ..Behaviour::default() };
        let server = MailServer::start(behaviour).await;
        let sender = sender(&["localhost"], &identity.pem);
        let channel = with_account(email(server.port, security));
        assert_eq!(send(&sender, channel).await, Ok(Sent { code: 250 }), "{security:?}");
        let sessions = server.sessions();
        let session = &sessions[0];
        for (command, encrypted) in &session.commands {
            let may_be_clear = command == "EHLO example.com" || command == "STARTTLS";
            assert!(*encrypted || may_be_clear, "{command}");
        }
        let said =
            |text: &str| session.commands.iter().any(|(command, _)| command.starts_with(text));
        assert!(said("AUTH PLAIN ") && said("MAIL FROM:<aasm@example.com>"));
        assert!(said("RCPT TO:<ops@example.com>") && said("RCPT TO:<oncall@example.net>"));
        let mail = session.mail.as_ref().unwrap();
        assert!(mail.contains("billing-agent: approval needed"), "{mail}");
        assert!(mail.contains("Auto-Submitted: auto-generated"), "{mail}");
    }
}

#[tokio::test]
async fn in_the_clear_only_what_an_operator_allowed() {
    let identity = Identity::new();
    let server = MailServer::start(Behaviour::default()).await;
    let channel = || email(server.port, Security::None);
    let error = send(&sender(&[], &identity.pem), channel()).await.unwrap_err();
    assert_eq!(error.failure, Failure::ForGood);
    assert!(error.to_string().contains("unencrypted"), "{error}");
    assert!(server.sessions().is_empty());
    send(&sender(&["localhost"], &identity.pem), channel()).await.unwrap();
    assert!(server.sessions()[0].mail.is_some());
}

#[tokio::test]
async fn a_server_without_starttls_gets_nothing() {
    let identity = Identity::new();
    let server = MailServer::start(Behaviour::default()).await;
    let sender = sender(&["localhost"], &identity.pem);
    let channel = with_account(email(server.port, Security::Starttls));
    let error = send(&sender, channel).await.unwrap_err();
    assert!(error.to_string().contains("no STARTTLS"), "{error}");
    let said: Vec<_> = server.sessions()[0].commands.clone();
    assert_eq!(said, [("EHLO example.com".to_owned(), false)]);
}

#[tokio::test]
async fn what_is_said_in_the_clear_behind_starttls_is_not_taken_for_encrypted() {
    let identity = Identity::new();
    let behaviour = Behaviour {
        tls: Some(identity.acceptor),
        replies: vec![("STARTTLS", "220 go on\r\n250 injected\r\n")],
        ..Behaviour::default()
    };
    let server = MailServer::start(behaviour).await;
    let sender = sender(&["localhost"], &identity.pem);
    let channel = with_account(email(server.port, Security::Starttls));
    send(&sender, channel).await.unwrap_err();
    assert!(server.sessions()[0].commands.iter().all(|(_, encrypted)| !encrypted));
}

#[tokio::test]
async fn a_server_with_another_certificate_gets_nothing() {
    for (implicit, security) in [(false, Security::Starttls), (true, Security::Tls)] {
        let (identity, other) = (Identity::new(), Identity::new());
        let behaviour =
            Behaviour { tls: Some(identity.acceptor), implicit, ..Behaviour::default() };
        let server = MailServer::start(behaviour).await;
        let sender = sender(&["localhost"], &other.pem);
        let error = send(&sender, with_account(email(server.port, security))).await.unwrap_err();
        assert!(error.to_string().contains("certificate"), "{error}");
        assert!(server.sessions()[0].mail.is_none());
    }
}

#[tokio::test]
async fn a_refusal_is_for_good_or_for_now_as_the_server_says_and_repeats_no_secret() {
    let identity = Identity::new();
    let for_now = Failure::ForNow { retry_after: None };
    for (start, reply, failure, shown) in [
        ("AUTH", "535 5.7.8 no: PASSWORD-MARKER\r\n", Failure::ForGood, "535 (5.7.8)"),
        ("RCPT", "550 5.1.1 nobody PASSWORD-MARKER\r\n", Failure::ForGood, "550 (5.1.1)"),
        ("RCPT", "450 4.2.0 greylisted\r\n", for_now, "450 (4.2.0)"),
        ("DATA", "554 PASSWORD-MARKER\r\n", Failure::ForGood, "554"),
        ("MAIL", "nonsense\r\n", for_now, "failed at the mail"),
    ] {
        let behaviour = Behaviour {
            tls: Some(identity.acceptor.clone()),
            implicit: true,
            replies: vec![(start, reply)],
        };
        let server = MailServer::start(behaviour).await;
        let sender = sender(&["localhost"], &identity.pem);
        let channel = with_account(email(server.port, Security::Tls));
        let error = send(&sender, channel).await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert_eq!(error.failure, failure, "{text}");
        assert!(text.contains(shown) && !text.contains("PASSWORD-MARKER"), "{text}");
    }
}

#[tokio::test]
async fn a_server_that_says_too_much_or_nothing_is_given_up() {
    let identity = Identity::new();
    let endless: &'static str = Box::leak("x".repeat(100_000).into_boxed_str());
    let behaviour = Behaviour { replies: vec![("EHLO", endless)], ..Behaviour::default() };
    let server = MailServer::start(behaviour).await;
    let allowing = sender(&["localhost"], &identity.pem);
    for security in [Security::None, Security::Starttls] {
        let error = send(&allowing, email(server.port, security)).await.unwrap_err();
        assert!(!error.is_permanent(), "{error}");
    }
    let silent =
        MailServer::start(Behaviour { replies: vec![("EHLO", "")], ..Behaviour::default() }).await;
    let limits = SendLimits { mail: Duration::from_millis(200), ..SendLimits::default() };
    let names = Names(HashMap::from([("localhost", vec![LOOPBACK])]));
    let guard = Guard::new(["localhost".parse().unwrap()]);
    let roots = Roots::from_pem(identity.pem.as_bytes()).unwrap();
    let hasty = Sender::new(guard, Arc::new(names), &roots, limits).unwrap();
    let error = send(&hasty, email(silent.port, Security::None)).await.unwrap_err();
    assert!(error.to_string().contains("did not answer within 0.2 s"), "{error}");
}

#[tokio::test]
async fn a_mail_server_inside_is_not_dialled() {
    let identity = Identity::new();
    let names = Names(HashMap::from([
        ("mail.example", vec![LOOPBACK]),
        ("metadata.example", vec!["169.254.169.254".parse().unwrap()]),
    ]));
    let sender = sender_with(&["metadata.example"], &identity.pem, names);
    for (server, reach) in [
        ("mail.example", "this machine"),
        ("metadata.example", "metadata service"),
        ("127.0.0.1", "this machine"),
    ] {
        let channel = EmailChannel { server: server.to_owned(), ..email(587, Security::Starttls) };
        let error = send(&sender, channel).await.unwrap_err();
        assert_eq!(error.failure, Failure::ForGood);
        assert!(error.to_string().contains(reach), "{error}");
    }
}
