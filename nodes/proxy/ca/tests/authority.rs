//! An authority as proxies and operators use it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test, in its fixture too")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aa_ca::{
    AUTHORITY_FILE, Authority, AuthorityError, AuthorityOptions, DirectoryError, IssueError,
    Issued, Rotation,
};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::aws_lc_rs,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

const DAY: Duration = Duration::from_secs(86_400);

/// In 2027.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn open(directory: &Path) -> Authority {
    Authority::open(directory, &AuthorityOptions::default(), now()).unwrap()
}

fn host(text: &'static str) -> ServerName<'static> {
    ServerName::try_from(text).unwrap()
}

/// Whether a client that trusts `roots` takes a leaf for `name`.
fn verify(
    roots: &[CertificateDer<'static>],
    issued: &Issued,
    name: &ServerName<'_>,
    at: SystemTime,
) -> Result<(), rustls::Error> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).unwrap();
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider);
    let at = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap());
    let (leaf, intermediates) = issued.chain.split_first().unwrap();
    let verifier = verifier.build().unwrap();
    verifier.verify_server_cert(leaf, intermediates, name, &[], at).map(drop)
}

#[test]
fn an_authority_is_made_once_and_its_key_is_private() {
    let directory = tempfile::tempdir().unwrap();
    let below = directory.path().join("proxy").join("ca");
    let first = open(&below);
    let again = open(&below);
    assert_eq!(first.fingerprint(), again.fingerprint());
    assert_eq!(first.expires_at(), now() + 730 * DAY);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&below), 0o700);
    assert_eq!(mode(&below.join(AUTHORITY_FILE)), 0o600);
    assert_eq!(first.bundle(now()).matches("BEGIN").count(), 1);
    assert!(!first.bundle(now()).contains("PRIVATE"));
    assert!(!format!("{first:?}").contains("PRIVATE"));
}

#[test]
fn many_that_start_at_once_have_one_authority() {
    let directory = tempfile::tempdir().unwrap();
    let below = directory.path().join("ca");
    let started: Vec<_> = (0..8)
        .map(|_| {
            let below = below.clone();
            thread::spawn(move || open(&below).fingerprint())
        })
        .collect();
    let mut all: Vec<_> = started.into_iter().map(|one| one.join().unwrap()).collect();
    all.dedup();
    assert_eq!(all.len(), 1);
}

#[test]
fn a_leaf_is_taken_for_its_host_alone() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(directory.path());
    let roots = authority.certificates(now());
    let long =
        Box::leak(format!("{}.{}.example.com", "a".repeat(63), "b".repeat(63)).into_boxed_str());
    for name in ["api.example.com", "my_service.internal", "192.0.2.7", "2001:db8::7", long] {
        let leaf = authority.issue(&host(name), DAY, now()).unwrap();
        assert_eq!(leaf.not_after, now() + DAY);
        verify(&roots, &leaf, &host(name), now()).unwrap();
        // From a client whose clock runs behind.
        verify(&roots, &leaf, &host(name), now() - DAY / 2).unwrap();
        verify(&roots, &leaf, &host("other.example.com"), now()).unwrap_err();
        verify(&roots, &leaf, &host(name), now() + DAY + Duration::from_secs(1)).unwrap_err();
    }
}

#[test]
fn no_leaf_outlives_its_authority() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(directory.path());
    let nearly = now() + 729 * DAY;
    let leaf = authority.issue(&host("a.example"), 30 * DAY, nearly).unwrap();
    assert_eq!(leaf.not_after, authority.expires_at());
    for invalid in [authority.expires_at(), now() - 30 * DAY] {
        let error = authority.issue(&host("a.example"), DAY, invalid).unwrap_err();
        assert!(matches!(error, IssueError::Invalid { .. }), "{error}");
    }
}

#[test]
fn an_authority_whose_time_is_not_now_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path());
    let at = |now| Authority::open(directory.path(), &AuthorityOptions::default(), now);
    let error = at(now() + 731 * DAY).unwrap_err().to_string();
    assert!(error.contains("expired on 2029-01-14; run `aasm ca rotate`"), "{error}");
    let error = at(now() - 30 * DAY).unwrap_err().to_string();
    assert!(error.contains("see whether this machine's clock is right"), "{error}");
    // Which works on one that expired.
    let late = now() + 800 * DAY;
    let rotated = Authority::rotate(directory.path(), Rotation::default(), late).unwrap();
    assert_eq!(rotated.bundle(late).matches("BEGIN").count(), 1);
    assert_eq!(rotated.expires_at(), late + 730 * DAY);
}

#[test]
fn clients_of_the_former_authority_go_on_while_the_overlap_lasts() {
    let directory = tempfile::tempdir().unwrap();
    let former = open(directory.path());
    let rotation = Rotation::Overlap(90 * DAY);
    let made = Authority::rotate(directory.path(), rotation, now()).unwrap();
    let reread = open(directory.path());
    assert_eq!(made.fingerprint(), reread.fingerprint());
    assert_ne!(former.fingerprint(), reread.fingerprint());
    assert_eq!(reread.overlap_until(now()), Some(now() + 90 * DAY));
    let bundle = reread.certificates(now());
    assert_eq!(bundle.len(), 2);
    assert_eq!(bundle[1], former.certificates(now())[0]);
    let name = host("api.example.com");
    let leaf = reread.issue(&name, DAY, now()).unwrap();
    for roots in [&bundle[..1], &bundle[1..], &bundle[..]] {
        verify(roots, &leaf, &name, now()).unwrap();
    }
    // Still held by a proxy that has not read the new one.
    verify(&bundle, &former.issue(&name, DAY, now()).unwrap(), &name, now()).unwrap();

    let error = Authority::rotate(directory.path(), rotation, now()).unwrap_err();
    assert!(matches!(error, AuthorityError::Overlapping { .. }), "{error}");
    assert!(error.to_string().contains("until 2027-04-15"), "{error}");

    let later = now() + 91 * DAY;
    assert_eq!(reread.overlap_until(later), None);
    assert_eq!(reread.certificates(later).len(), 1);
    let leaf = reread.issue(&name, DAY, later).unwrap();
    assert_eq!(leaf.chain.len(), 1);
    verify(&bundle[..1], &leaf, &name, later).unwrap();
    verify(&bundle[1..], &leaf, &name, later).unwrap_err();
    Authority::rotate(directory.path(), rotation, later).unwrap();
}

#[test]
fn a_replaced_authority_is_trusted_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let former = open(directory.path()).certificates(now());
    Authority::rotate(directory.path(), Rotation::default(), now()).unwrap();
    let made = Authority::rotate(directory.path(), Rotation::Replace, now()).unwrap();
    assert_eq!(made.certificates(now()).len(), 1);
    let leaf = made.issue(&host("a.example"), DAY, now()).unwrap();
    verify(&former, &leaf, &host("a.example"), now()).unwrap_err();
    let text = fs::read_to_string(directory.path().join(AUTHORITY_FILE)).unwrap();
    assert_eq!(text.matches("BEGIN CERTIFICATE").count(), 1);
}

#[test]
fn an_authority_of_some_domains_vouches_for_nothing_else_also_after_a_rotation() {
    let directory = tempfile::tempdir().unwrap();
    let options = AuthorityOptions {
        domains: vec!["openai.com".to_owned(), "internal".to_owned()],
        name: "The CA of a team".to_owned(),
        ..AuthorityOptions::default()
    };
    let first = Authority::open(directory.path(), &options, now()).unwrap();
    let rotated = Authority::rotate(directory.path(), Rotation::default(), now()).unwrap();
    for authority in [&first, &rotated] {
        assert_eq!(authority.domains(), ["openai.com", "internal"]);
        for name in ["openai.com", "api.openai.com", "a.b.internal"] {
            let leaf = authority.issue(&host(name), DAY, now()).unwrap();
            verify(&authority.certificates(now()), &leaf, &host(name), now()).unwrap();
            verify(&first.certificates(now()), &leaf, &host(name), now()).unwrap();
        }
        for name in ["notopenai.com", "example.com", "10.0.0.1", "::1"] {
            let error = authority.issue(&host(name), DAY, now()).unwrap_err();
            assert!(matches!(error, IssueError::Outside { .. }), "{error}");
        }
    }
}

#[test]
fn an_exposed_key_is_refused_with_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let below = directory.path().join("ca");
    open(&below);
    let file = below.join(AUTHORITY_FILE);
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    for mode in [0o640, 0o604, 0o644, 0o660] {
        set(&file, mode).unwrap();
        let error = Authority::load(&below).unwrap_err();
        let exposed =
            AuthorityError::Directory(DirectoryError::Exposed { path: file.clone(), mode });
        assert_eq!(error.to_string(), exposed.to_string());
        assert!(error.to_string().contains(&format!("chmod 600 {}", file.display())), "{error}");
    }
    set(&file, 0o400).unwrap();
    Authority::load(&below).unwrap();
    set(&below, 0o770).unwrap();
    let error = Authority::load(&below).unwrap_err().to_string();
    assert!(error.contains("can be written to by others (mode 770); run `chmod 700"), "{error}");
}

#[test]
fn what_is_no_authority_is_refused_by_name_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (directory.path().join("one"), directory.path().join("other"));
    open(&one);
    open(&other);
    let (file, foreign) = (one.join(AUTHORITY_FILE), other.join(AUTHORITY_FILE));
    let whole = fs::read_to_string(&file).unwrap();
    let foreign = fs::read_to_string(&foreign).unwrap();
    let at = whole.find("-----BEGIN CERTIFICATE").unwrap();
    let foreign_at = foreign.find("-----BEGIN CERTIFICATE").unwrap();
    let table = [
        (String::new(), "it has no private key"),
        ("not PEM".to_owned(), "it has no private key"),
        (whole[..100].to_owned(), "it has no private key"),
        (whole[at..].to_owned(), "it has no private key"),
        (whole[..at].to_owned(), "it has no certificate of its key"),
        (whole[..at].to_owned() + &foreign[foreign_at..], "it has no certificate of its key"),
        (
            whole[..at].to_owned()
                + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "a certificate does not read",
        ),
    ];
    for (text, problem) in table {
        fs::write(&file, &text).unwrap();
        for result in [
            Authority::load(&one),
            Authority::open(&one, &AuthorityOptions::default(), now()),
            Authority::rotate(&one, Rotation::Replace, now()),
        ] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
            assert!(error.contains(&file.display().to_string()), "{error}");
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
    fs::write(&file, " ".repeat(300_000)).unwrap();
    let error = Authority::load(&one).unwrap_err().to_string();
    assert!(error.contains("has 300000 bytes"), "{error}");
    let error = Authority::load(&directory.path().join("none")).unwrap_err();
    assert!(matches!(error, AuthorityError::Missing { .. }), "{error}");
    assert!(!directory.path().join("none").exists());
}

#[test]
fn what_a_crash_left_behind_is_no_hindrance() {
    let directory = tempfile::tempdir().unwrap();
    let draft = directory.path().join("authority.pem.new");
    fs::write(&draft, "half a key").unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o644)).unwrap();
    let made = open(directory.path());
    assert_eq!(made.fingerprint(), open(directory.path()).fingerprint());
    assert!(!draft.exists());
    let mode = fs::metadata(made.file()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
}
