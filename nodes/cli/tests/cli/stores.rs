use std::path::Path;

use serde_json::Value;

use crate::harness::{Ran, Up, aasm, run, text};

fn copy(from: &str, to: &str) -> Ran {
    run(aasm().args(["store", "copy", "--format", "json", "--from", from, "--to", to]))
}

/// A stopped deployment with something in its store.
fn stopped() -> tempfile::TempDir {
    let up = Up::start();
    up.run(&["key", "create", "kept", "--role", "viewer"]).exits(0);
    let (directory, code) = up.stop("-TERM");
    assert_eq!(code, Some(0));
    directory
}

fn has_the_key(up: &Up) -> bool {
    let keys: Value = up.run(&["key", "list", "--format", "json"]).exits(0).json();
    keys["keys"].as_array().unwrap().iter().any(|key| key["name"] == "kept")
}

#[test]
fn a_deployment_goes_on_from_the_copy_of_its_store() {
    let directory = stopped();
    let (data, target) = (directory.path().join("data"), directory.path().join("moved/here"));
    let copied = copy(text(&data), text(&target)).exits(0).json();
    assert!(copied["pairs"].as_u64().unwrap() > 10, "{copied}");
    // Copied back, it is the same to the byte.
    let back = directory.path().join("back");
    assert_eq!(copy(text(&target), text(&back)).exits(0).json(), copied);

    std::fs::rename(data.join("store.redb"), data.join("old.redb")).unwrap();
    let up = Up::start_with(directory, &["--store", text(&target)]);
    assert!(has_the_key(&up));
    assert!(!up.data().join("store.redb").exists(), "the store is where it was said to be");
    let in_use = copy(text(&target), text(&up.path("never"))).exits(1);
    assert!(in_use.err.contains("in use"), "{}", in_use.err);
}

#[test]
fn what_cannot_be_copied_is_refused_with_what_to_do() {
    let directory = stopped();
    let data = directory.path().join("data");
    let target = directory.path().join("target");
    let (from, to) = (text(&data), text(&target));
    copy(from, to).exits(0);
    let again = copy(from, to).exits(1);
    assert!(again.err.contains("not empty"), "{}", again.err);
    assert!(copy(from, from).exits(2).err.contains("same store"));
    let nothing = copy(text(Path::new("/nonexistent")), to).exits(2);
    assert!(nothing.err.contains("no store.redb"), "{}", nothing.err);
    let other = copy(from, "postgres://host").exits(2);
    assert!(other.err.contains("postgres://"), "{}", other.err);
}

#[cfg(not(feature = "foundationdb"))]
#[test]
fn a_program_without_foundationdb_says_so() {
    let directory = stopped();
    let data = directory.path().join("data");
    let refused = copy(text(&data), "fdb:///etc/foundationdb/fdb.cluster").exits(1);
    assert!(refused.err.contains("--features foundationdb"), "{}", refused.err);
}

#[cfg(feature = "foundationdb")]
#[test]
#[allow(clippy::print_stderr, reason = "who runs the tests must see what was not tested")]
fn a_deployment_moves_to_foundationdb_and_back() {
    let server = match aa_store::conformance::FdbServer::start().unwrap() {
        Ok(server) => server,
        Err(why) => {
            eprintln!("\n####  NOT RUN: a deployment moves to FoundationDB and back: {why}\n");
            return;
        }
    };
    let directory = stopped();
    let data = directory.path().join("data");
    let cluster = server.url("moved/").to_string();
    let copied = copy(text(&data), &cluster).exits(0).json();
    let back = directory.path().join("back");
    assert_eq!(copy(&cluster, text(&back)).exits(0).json(), copied);
    let again = copy(text(&data), &cluster).exits(1);
    assert!(again.err.contains("not empty"), "{}", again.err);

    let alone = run(aasm().args(["up", "--data", text(&data), "--store", &cluster])).exits(1);
    assert!(alone.err.contains("--cluster NAME"), "{}", alone.err);

    std::fs::rename(data.join("store.redb"), data.join("old.redb")).unwrap();
    let a = node(directory, &cluster, "a");
    assert!(has_the_key(&a), "its keys came along");
    let second = tempfile::tempdir().unwrap();
    let secrets = second.path().join("data/secrets");
    std::fs::create_dir_all(&secrets).unwrap();
    let lost =
        run(aasm().args(as_node(&cluster, "b")).arg("--data").arg(secrets.parent().unwrap()));
    assert!(lost.exits(1).err.contains("no master key file"));
    std::fs::copy(data.join("secrets/master-key.json"), secrets.join("master-key.json")).unwrap();
    let b = node(second, &cluster, "b");
    until(|| is_whole(&b, 2));
    assert_eq!(b.started["workspace_id"], a.started["workspace_id"]);
    b.run(&["key", "create", "later", "--role", "viewer"]).exits(0);

    a.run(&["cluster", "drain", "a"]).exits(0);
    let (_directory, code) = a.stop("-TERM");
    assert_eq!(code, Some(0), "the client's thread is stopped in order");
    assert!(has_the_key(&b));
    until(|| is_whole(&b, 1));
    let log = b.run(&["audit", "query", "--kind", "workspace"]).exits(0).out;
    assert!(log.contains("drained"), "{log}");
    let (_directory, code) = b.stop("-KILL");
    assert_eq!(code, None);
}

#[cfg(feature = "foundationdb")]
fn as_node<'a>(cluster: &'a str, name: &'a str) -> [&'a str; 13] {
    let any = "127.0.0.1:0";
    [
        "up",
        "--gateway",
        any,
        "--api",
        any,
        "--store",
        cluster,
        "--cluster",
        "prod",
        "--node",
        name,
        "--relay",
        any,
    ]
}

#[cfg(feature = "foundationdb")]
fn node(directory: tempfile::TempDir, cluster: &str, name: &str) -> Up {
    Up::start_with(directory, &as_node(cluster, name)[5..])
}

/// Whether so many nodes serve all shards, as one of them says.
#[cfg(feature = "foundationdb")]
fn is_whole(up: &Up, nodes: u64) -> bool {
    let status: Value = up.run(&["cluster", "status", "--format", "json"]).json();
    status["status"] == "ok" && status["nodes_alive"] == nodes
}

#[cfg(feature = "foundationdb")]
fn until(reached: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !reached() {
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "it does not come");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}
