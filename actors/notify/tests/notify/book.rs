//! Destinations, rules, and which event goes where.

use std::collections::BTreeSet;

use aa_notify::{
    AlertBook, AllowedDestination, BookError, Channel, Destination, EmailChannel, EventKind, Guard,
    Rule, Security, Severity, SlackChannel, WebhookChannel,
    rule::{MAX_DESTINATIONS, MAX_RULES},
};
use aa_protocol::AgentId;
use serde_json::json;
use uuid::Uuid;

use crate::fixture::{AGENT, NOW, approval_needed, email, name, violation, webhook};

fn destination(name: &str) -> Destination {
    Destination::new(name, webhook("https://hooks.example.com/a"))
}

fn names(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn an_event_goes_once_to_each_destination_that_a_rule_sends_it_to() {
    let mut book = AlertBook::default();
    assert!(book.is_idle());
    for name in ["ops", "security", "log"] {
        assert_eq!(book.set_destination(destination(name)).unwrap(), None);
    }
    let rules = [
        Rule { destinations: names(&["log", "ops"]), ..Rule::all("everything", "log") },
        Rule {
            events: BTreeSet::from([EventKind::Violation]),
            min_severity: Some(Severity::Warning),
            destinations: names(&["ops", "security"]),
            ..Rule::all("violations", "ops")
        },
    ];
    for rule in rules {
        assert_eq!(book.set_rule(rule).unwrap(), None);
    }
    let routed = |event: &_| {
        book.route(event).iter().map(|to| to.name.as_str()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(routed(&violation(1, "bash", NOW)), "log ops security");
    assert_eq!(routed(&approval_needed()), "log ops");
    let restored = AlertBook::restore(book.destinations().cloned(), book.rules().cloned());
    assert_eq!(restored.unwrap(), book);
}

#[test]
fn every_filter_of_a_rule_must_be_passed() {
    let event = violation(1, "bash", NOW).with_agent("a", Some("platform"));
    let rule = || Rule::all("r", "ops");
    assert!(rule().matches(&event));
    let other = AgentId::from_uuid(Uuid::from_u128(99));
    for (expected, rule) in [
        (true, Rule { events: BTreeSet::from([EventKind::Violation]), ..rule() }),
        (false, Rule { events: BTreeSet::from([EventKind::AgentResumed]), ..rule() }),
        (true, Rule { agents: BTreeSet::from([AGENT, other]), ..rule() }),
        (false, Rule { agents: BTreeSet::from([other]), ..rule() }),
        (true, Rule { teams: names(&["platform"]), ..rule() }),
        (false, Rule { teams: names(&["billing"]), ..rule() }),
        (true, Rule { policies: names(&["prod"]), ..rule() }),
        (false, Rule { policies: names(&["test"]), teams: names(&["platform"]), ..rule() }),
        (true, Rule { min_severity: Some(Severity::Warning), ..rule() }),
        (false, Rule { min_severity: Some(Severity::Critical), ..rule() }),
    ] {
        assert_eq!(rule.matches(&event), expected, "{rule:?}");
    }
    let without_policy = approval_needed();
    assert!(!Rule { policies: names(&["prod"]), ..rule() }.matches(&without_policy));
}

#[test]
fn no_rule_is_left_without_its_destination() {
    let mut book = AlertBook::default();
    let error = book.set_rule(Rule::all("all", "ops")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "rule `all` sends to `ops`, which is no destination; set it first"
    );
    book.set_destination(destination("ops")).unwrap();
    book.set_rule(Rule::all("all", "ops")).unwrap();
    let error = book.remove_destination("ops").unwrap_err();
    assert!(matches!(error, BookError::InUse { .. }), "{error}");
    assert_eq!(book.remove_rule("all").unwrap().name, "all");
    assert_eq!(book.remove_destination("ops").unwrap().name, "ops");
    let error = book.remove_rule("all").unwrap_err();
    assert!(matches!(error, BookError::Unknown { what, .. } if what == "rule"));
    assert!(matches!(book.remove_destination("x"), Err(BookError::Unknown { .. })));
}

#[test]
fn a_book_has_bounds_and_what_is_there_can_still_be_changed() {
    let mut book = AlertBook::default();
    for number in 0..MAX_DESTINATIONS {
        book.set_destination(destination(&format!("d{number}"))).unwrap();
    }
    let error = book.set_destination(destination("more")).unwrap_err();
    assert!(matches!(error, BookError::Full { what, .. } if what == "destination"));
    assert!(book.set_destination(destination("d7")).unwrap().is_some());
    for number in 0..MAX_RULES {
        book.set_rule(Rule::all(format!("r{number}"), "d1")).unwrap();
    }
    assert!(matches!(book.set_rule(Rule::all("more", "d1")), Err(BookError::Full { .. })));
    assert!(book.set_rule(Rule::all("r7", "d2")).unwrap().is_some());
}

#[test]
fn rules_are_bounded() {
    let rule = || Rule::all("r", "ops");
    let many = |count| (0..count).map(|n: usize| n.to_string()).collect::<BTreeSet<_>>();
    for (field, rule) in [
        ("name", Rule::all("Not A Name", "ops")),
        ("events", Rule { events: BTreeSet::from([EventKind::Test]), ..rule() }),
        ("teams", Rule { teams: many(101), ..rule() }),
        ("teams", Rule { teams: names(&[""]), ..rule() }),
        ("policies", Rule { policies: names(&[&"p".repeat(513)]), ..rule() }),
        ("destinations", Rule { destinations: BTreeSet::new(), ..rule() }),
        ("destinations", Rule { destinations: many(21), ..rule() }),
    ] {
        let error = rule.validate().unwrap_err().to_string();
        assert!(error.contains(&format!("`{field}`")), "{error}");
    }
}

#[test]
fn a_destination_reads_back_as_it_was_written_and_unknown_fields_are_refused() {
    let text = json!({
        "name": "ops",
        "channel": { "type": "webhook", "url": "https://hooks.example.com/a", "secret": "hooks/ops" },
    });
    let read: Destination = serde_json::from_value(text.clone()).unwrap();
    assert_eq!((read.fold_seconds, read.channel.type_name()), (60, "webhook"));
    read.validate().unwrap();
    let again = serde_json::to_value(&read).unwrap();
    assert_eq!(serde_json::from_value::<Destination>(again).unwrap(), read);
    for (pointer, field) in [("", "colour"), ("/channel", "password")] {
        let mut text = text.clone();
        text.pointer_mut(pointer).unwrap()[field] = "x".into();
        let error = serde_json::from_value::<Destination>(text).unwrap_err().to_string();
        assert!(error.contains("unknown field"), "{error}");
    }
    let mut text = text;
    text["channel"]["secret"] = "whsec_+SECRET-MARKER".into();
    let error = serde_json::from_value::<Destination>(text).unwrap_err().to_string();
    assert!(!error.contains("SECRET-MARKER"), "{error}");
}

#[test]
fn what_is_wrong_with_a_destination_is_said_by_its_field() {
    let hook = |url: &str| {
        let previous_secret = None;
        WebhookChannel { url: url.to_owned(), secret: name("s"), previous_secret }
    };
    let slack = |person: &str, key: &str| SlackChannel {
        url_secret: name("u"),
        signing_secret: Some(name("s")),
        approvers: [(person.to_owned(), key.to_owned())].into(),
    };
    let mail = || email(587, Security::Starttls);
    let with = |text: &str| Some(text.to_owned());
    let channels = [
        ("url", Channel::Webhook(hook("hooks.example.com"))),
        ("url", Channel::Webhook(hook("ftp://hooks.example.com"))),
        ("url", Channel::Webhook(hook("https://user:PASSWORD-MARKER@hooks.example.com"))),
        ("url", Channel::Webhook(hook(&format!("https://a.example/{}", "a".repeat(2_048))))),
        ("previous_secret", {
            let previous_secret = Some(name("s"));
            Channel::Webhook(WebhookChannel { previous_secret, ..hook("https://a.example") })
        }),
        ("approvers", Channel::Slack(slack("@alice", "abcdefghjk"))),
        ("approvers", Channel::Slack(slack("U012AB3CD", "aak_abc_PASSWORD-MARKER"))),
        ("approvers", {
            let signing_secret = None;
            Channel::Slack(SlackChannel { signing_secret, ..slack("U012AB3CD", "abcdefghjk") })
        }),
        ("server", Channel::Email(EmailChannel { server: "a b".to_owned(), ..mail() })),
        ("server", Channel::Email(EmailChannel { server: "mail/x@y".to_owned(), ..mail() })),
        ("port", Channel::Email(EmailChannel { port: 0, ..mail() })),
        ("password", Channel::Email(EmailChannel { username: with("u"), ..mail() })),
        ("username", Channel::Email(EmailChannel { password: Some(name("p")), ..mail() })),
        ("username", {
            let (username, password) = (with("u\r\nx"), Some(name("p")));
            Channel::Email(EmailChannel { username, password, ..mail() })
        }),
        ("security", {
            let (username, password) = (with("u"), Some(name("p")));
            let security = Security::None;
            Channel::Email(EmailChannel { username, password, security, ..mail() })
        }),
        ("from", Channel::Email(EmailChannel { from: "a@b\r\nBcc: c@d".to_owned(), ..mail() })),
        ("to", Channel::Email(EmailChannel { to: vec![], ..mail() })),
        ("to", Channel::Email(EmailChannel { to: vec!["a@b.c".to_owned(); 21], ..mail() })),
        ("to", Channel::Email(EmailChannel { to: vec!["nobody".to_owned()], ..mail() })),
    ];
    for (field, channel) in channels {
        let error = Destination::new("ops", channel.clone()).validate().unwrap_err();
        assert_eq!(error.field, field, "{channel:?}: {error}");
        assert!(!error.to_string().contains("PASSWORD-MARKER"), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    let late = Destination { fold_seconds: 3_601, ..destination("ops") };
    assert_eq!(late.validate().unwrap_err().field, "fold_seconds");
    for name in ["", "Ops", "-ops", "a b", &"a".repeat(65)] {
        assert_eq!(destination(name).validate().unwrap_err().field, "name");
    }
}

#[test]
fn what_reaches_inside_is_refused_when_it_is_set() {
    let public = Guard::public();
    let allowing = |allowed: &[&str]| {
        Guard::new(allowed.iter().map(|text| text.parse::<AllowedDestination>().unwrap()))
    };
    for url in [
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f.0.0.1/",
        "https://0177.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[64:ff9b::a00:1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://10.0.0.1:8443/",
        "https://１２７.0.0.1/",
        "http://hooks.example.com/",
        "https://hooks.example.com:22/",
        "https://hooks.example.com:25/",
        "https://hooks.example.com:0/",
    ] {
        assert!(public.admit(&webhook(url)).is_err(), "{url}");
    }
    for url in
        ["https://hooks.example.com/", "https://hooks.example.com:8443/x?y=z", "https://8.8.8.8/"]
    {
        assert_eq!(public.admit(&webhook(url)), Ok(()), "{url}");
    }
    let allowed = allowing(&["10.1.0.0/16", "Intranet.Example.", "fd00::/8"]);
    for url in [
        "https://10.1.2.3/",
        "http://10.1.2.3:80/",
        "https://[fd00::1]:22/",
        "http://intranet.example:81/",
        "https://[::ffff:10.1.2.3]/",
    ] {
        assert_eq!(allowed.admit(&webhook(url)), Ok(()), "{url}");
    }
    for url in ["https://10.2.0.1/", "http://other.example/", "https://127.0.0.1/"] {
        assert!(allowed.admit(&webhook(url)).is_err(), "{url}");
    }
    let mail = |server: &str, port, security| {
        Channel::Email(EmailChannel { server: server.to_owned(), ..email(port, security) })
    };
    assert_eq!(public.admit(&mail("mail.example.com", 465, Security::Tls)), Ok(()));
    assert!(public.admit(&mail("mail.example.com", 6379, Security::Tls)).is_err());
    assert!(public.admit(&mail("mail.example.com", 25, Security::None)).is_err());
    assert!(public.admit(&mail("192.168.1.1", 25, Security::Starttls)).is_err());
    assert_eq!(allowed.admit(&mail("intranet.example", 1025, Security::None)), Ok(()));
}

#[test]
fn what_an_operator_allows_reads_back_as_it_prints() {
    for (text, printed) in [
        ("10.1.2.3/16", "10.1.0.0/16"),
        ("10.1.2.3", "10.1.2.3"),
        ("[fd00::1]", "fd00::1"),
        ("Hooks.Example.COM", "hooks.example.com"),
    ] {
        let allowed: AllowedDestination = text.parse().unwrap();
        assert_eq!(allowed.to_string(), printed);
        assert_eq!(printed.parse::<AllowedDestination>().unwrap(), allowed);
    }
    for text in ["", "https://a.example", "a.example:443", "a/b", "10.0.0.0/33", "*.example"] {
        assert!(text.parse::<AllowedDestination>().is_err(), "{text}");
    }
}
