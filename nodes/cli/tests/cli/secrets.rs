//! Secrets from the command line: set, listed, rotated, deleted, and nowhere on disk in the clear.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use crate::harness::{Up, aasm, run_with_input, text};

const MARKER: &str = "sk-marker-91c2d7";

fn set(up: &Up, name: &str, value: &str) -> String {
    let mut command = aasm();
    command.env("AASM_DATA", up.data()).args(["secret", "set", name]);
    run_with_input(&mut command, value.as_bytes()).exits(0).out
}

/// Until the rotations under way are over.
fn settle(up: &Up) {
    let began = Instant::now();
    loop {
        let vault = up.run(&["secret", "list", "--format", "json"]).exits(0).json();
        let left =
            ["to_rewrap", "to_reseal", "to_retire"].map(|part| vault["rotation"][part].as_u64());
        if left == [Some(0); 3] {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{vault}");
    }
}

fn holds(directory: &Path, needle: &str) -> bool {
    fs::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds(&path, needle);
        }
        let bytes = fs::read(&path).unwrap_or_default();
        bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
    })
}

#[test]
fn a_secret_is_set_listed_rotated_and_deleted_without_a_restart_and_never_shown() {
    let up = Up::start();
    assert_eq!(
        set(&up, "OPENAI_API_KEY", &format!("{MARKER}\n")),
        "set the secret OPENAI_API_KEY, version 1\n"
    );
    assert_eq!(set(&up, "OPENAI_API_KEY", MARKER), "set the secret OPENAI_API_KEY, version 1\n");
    let file = up.file("key", "another");
    let said = up.run(&["secret", "set", "tls/client-key", "--file", text(&file)]).exits(0).out;
    assert_eq!(said, "set the secret tls/client-key, version 2\n");

    let released = ["--release-to", "api.openai.com", "--release-to", "*.azure.example"];
    let mut command = aasm();
    command.env("AASM_DATA", up.data()).args(["secret", "set", "OPENAI_API_KEY"]).args(released);
    let said = run_with_input(&mut command, MARKER.as_bytes()).exits(0).out;
    let hosts = "*.azure.example, api.openai.com";
    assert_eq!(said, format!("set the secret OPENAI_API_KEY, version 1, released to {hosts}\n"));
    let list = up.run(&["secret", "list"]).exits(0).out;
    assert!(list.contains(hosts), "{list}");
    let said = up.run(&["secret", "withdraw", "OPENAI_API_KEY"]).exits(0).out;
    assert_eq!(said, "the secret OPENAI_API_KEY is released to no host\n");
    let told = up.run(&["audit", "query", "--kind", "secret"]).exits(0).out;
    assert!(told.contains(&format!("secret OPENAI_API_KEY set, version 1, released to {hosts}")));
    assert!(told.contains("secret OPENAI_API_KEY released to no host any more"), "{told}");
    let key = up.run(&["key", "create", "sidecar", "--role", "proxy"]).exits(0).out;
    assert!(key.starts_with("aak_"));

    let list = up.run(&["secret", "list"]).exits(0).out;
    assert!(list.starts_with("NAME            VERSION  SET"), "{list}");
    assert!(
        list.contains("\nOPENAI_API_KEY  1 ") && list.contains("\ntls/client-key  2 "),
        "{list}"
    );
    let keys = |up: &Up| up.run(&["secret", "list", "--keys"]).exits(0).out;
    let before = keys(&up);

    let said = up.run(&["secret", "rotate"]).exits(0).out;
    assert!(
        said.starts_with("a fresh data key seals from now on; left: 2 secrets to seal"),
        "{said}"
    );
    settle(&up);
    assert!(keys(&up).contains(" retired "), "{}", keys(&up));
    let said = up.run(&["secret", "rotate-master"]).exits(0).out;
    assert!(said.starts_with("data keys go under the next key of the master key file"), "{said}");
    settle(&up);
    let master = |keys: &str| {
        keys.lines()
            .find(|line| line.contains(" active "))
            .unwrap()
            .rsplit(' ')
            .next()
            .unwrap()
            .to_owned()
    };
    assert_ne!(master(&before), master(&keys(&up)));

    let log = up.run(&["audit", "query", "--kind", "secret"]).exits(0).out;
    for said in [
        "secret OPENAI_API_KEY set, version 1",
        "data key rotated",
        "master key rotated to file:",
        "rotation of the data key finished",
    ] {
        assert!(log.contains(said), "{said}: {log}");
    }
    assert!(!log.contains(MARKER));
    let (directory, _) = up.stop("-TERM");
    assert!(!holds(directory.path(), MARKER), "nothing on disk is in the clear");

    let up = Up::start_in(directory);
    let said = up.run(&["secret", "delete", "OPENAI_API_KEY"]).exits(0).out;
    assert_eq!(said, "deleted the secret OPENAI_API_KEY\n");
    let gone = up.run(&["secret", "delete", "OPENAI_API_KEY"]).exits(1);
    assert!(gone.err.contains("there is no secret `OPENAI_API_KEY`"), "{}", gone.err);
}

#[test]
fn what_is_no_secret_is_refused_and_not_repeated() {
    let up = Up::start();
    let mut command = aasm();
    command.env("AASM_DATA", up.data()).args(["secret", "set", "a"]);
    let empty = run_with_input(&mut command, b"\n").exits(2);
    assert!(empty.err.contains("the secret is empty"), "{}", empty.err);
    let long = run_with_input(
        aasm().env("AASM_DATA", up.data()).args(["secret", "set", "a"]),
        &vec![b'x'; 65_537],
    );
    assert!(long.exits(2).err.contains("more than 65536 bytes"));
    // The value in the place of the name.
    let mixed = up.run(&["secret", "set", "sk proj!SECRET"]).exits(2);
    assert!(mixed.err.contains("no name for a secret"), "{}", mixed.err);
    let none = up.run(&["secret", "rotate"]).exits(1);
    assert!(none.err.contains("no secrets, and so no keys to rotate"), "{}", none.err);
    let viewer = up.run(&["key", "create", "eyes", "--role", "viewer"]).exits(0).out;
    let refused = up.run_as(viewer.trim(), &["secret", "list"]).exits(1);
    assert!(refused.err.contains("may not list secrets"), "{}", refused.err);
}

#[test]
fn a_lost_master_key_is_not_replaced_by_a_new_one() {
    let up = Up::start();
    set(&up, "a", MARKER);
    let (directory, _) = up.stop("-TERM");
    let key = directory.path().join("data/secrets/master-key.json");
    fs::remove_file(&key).unwrap();
    let mut command = aasm();
    command.arg("up").args(["--gateway", "127.0.0.1:0", "--api", "127.0.0.1:0", "--data"]);
    let refused = crate::harness::run(command.arg(directory.path().join("data"))).exits(1);
    assert!(refused.err.contains("restore it from a backup"), "{}", refused.err);
    assert!(!key.exists());
}
