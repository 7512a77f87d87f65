//! The proxy's authority, as operators export, install and rotate it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use aa_ca::{Authority, AuthorityOptions};
use tempfile::TempDir;

use crate::harness::{Ran, aasm, run, text};

/// A directory with an authority in `data/proxy-ca`.
fn with_authority() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("data/proxy-ca");
    Authority::open(&place, &AuthorityOptions::default(), SystemTime::now()).unwrap();
    directory
}

fn ca(directory: &TempDir, arguments: &[&str]) -> Ran {
    let data = directory.path().join("data");
    run(aasm().env("AASM_DATA", data).arg("ca").args(arguments))
}

/// What is in a directory, by name.
fn listed(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A system with one kind of trust store.
fn system(directory: &TempDir, store: &str) -> (PathBuf, PathBuf) {
    let root = directory.path().join("root");
    let anchors = root.join(store);
    fs::create_dir_all(&anchors).unwrap();
    fs::write(anchors.join("other.crt"), "of somebody else").unwrap();
    (root, anchors)
}

#[test]
fn what_agents_trust_is_printed_or_written_for_all_to_read() {
    let directory = with_authority();
    let printed = ca(&directory, &["export"]).exits(0).out;
    assert!(printed.starts_with("-----BEGIN CERTIFICATE-----\n"), "{printed}");
    assert!(!printed.contains("PRIVATE"));
    let out = directory.path().join("ca.pem");
    ca(&directory, &["export", "--out", text(&out)]).exits(0);
    assert_eq!(fs::read_to_string(&out).unwrap(), printed);
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o644);
    let place = directory.path().join("data/proxy-ca");
    let named = run(aasm().args(["ca", "export", "--dir", text(&place)])).exits(0);
    assert_eq!(named.out, printed);
}

#[test]
fn a_rotation_adds_to_what_is_exported_until_the_overlap_ends() {
    let directory = with_authority();
    let former = ca(&directory, &["export"]).exits(0).out;
    let rotated =
        ca(&directory, &["rotate", "--overlap", "30", "--format", "json"]).exits(0).json();
    assert!(rotated["fingerprint"].as_str().unwrap().starts_with("sha256:"), "{rotated}");
    assert!(rotated["overlap_until"].is_string(), "{rotated}");
    let both = ca(&directory, &["export"]).exits(0).out;
    assert_eq!(both.matches("BEGIN CERTIFICATE").count(), 2);
    assert!(both.ends_with(&former) && both != former);
    let again = ca(&directory, &["rotate"]).exits(1);
    assert!(again.err.contains("--replace"), "{}", again.err);
    let replaced = ca(&directory, &["rotate", "--replace"]).exits(0);
    assert!(
        replaced.out.contains("agents refuse the proxy until they trust it"),
        "{}",
        replaced.out
    );
    let one = ca(&directory, &["export"]).exits(0).out;
    assert_eq!(one.matches("BEGIN CERTIFICATE").count(), 1);
    assert!(!both.contains(&one));
    ca(&directory, &["rotate", "--replace", "--overlap", "3"]).exits(2);
    ca(&directory, &["rotate", "--overlap", "0"]).exits(2);
}

#[test]
fn a_system_takes_what_is_trusted_now_and_loses_what_was() {
    for (store, command) in [
        ("usr/local/share/ca-certificates", "update-ca-certificates"),
        ("etc/pki/ca-trust/source/anchors", "update-ca-trust"),
    ] {
        let directory = with_authority();
        let (root, anchors) = system(&directory, store);
        let install = |more: &[&str]| {
            ca(&directory, &[&["install", "--root", text(&root)], more].concat()).exits(0).out
        };
        let shown = install(&["--dry-run"]);
        assert!(shown.contains("would write") && shown.contains(command), "{shown}");
        assert_eq!(listed(&anchors), ["other.crt"]);
        let done = install(&[]);
        for part in [
            "wrote ",
            command,
            "SSL_CERT_FILE",
            "REQUESTS_CA_BUNDLE",
            "NODE_EXTRA_CA_CERTS",
            "keytool",
        ] {
            assert!(done.contains(part), "{part}: {done}");
        }
        let first = listed(&anchors);
        assert_eq!(first.len(), 2);
        let path = anchors.join(&first[0]);
        assert_eq!(fs::read_to_string(&path).unwrap(), ca(&directory, &["export"]).out);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        install(&[]);
        assert_eq!(listed(&anchors), first, "again is the same");
        ca(&directory, &["rotate"]).exits(0);
        install(&[]);
        assert_eq!(listed(&anchors).len(), 3, "both, each in a file of its own");
        ca(&directory, &["rotate", "--replace"]).exits(0);
        assert!(install(&["--dry-run"]).contains("would remove"));
        install(&[]);
        let last = listed(&anchors);
        assert_eq!(last.len(), 2);
        assert!(!last.contains(&first[0]));
    }
}

#[test]
fn what_cannot_be_done_is_refused_with_what_to_do() {
    let directory = with_authority();
    let bare = directory.path().join("bare");
    fs::create_dir(&bare).unwrap();
    let unknown = ca(&directory, &["install", "--root", text(&bare)]).exits(1);
    for part in ["no trust store known", "aasm ca export --out FILE", "NODE_EXTRA_CA_CERTS=FILE"] {
        assert!(unknown.err.contains(part), "{}", unknown.err);
    }
    for command in ["export", "install", "rotate"] {
        let missing = ca(&directory, &[command, "--dir", text(&bare)]).exits(2);
        assert!(missing.err.contains("--dir"), "{}", missing.err);
    }
    let file = directory.path().join("data/proxy-ca/authority.pem");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    for command in ["export", "install", "rotate"] {
        let exposed = ca(&directory, &[command]).exits(1);
        assert!(exposed.err.contains("chmod 600"), "{}", exposed.err);
    }
}
