use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use aa_client::{AgentSpec, Client, Config};
use aa_protocol::{Action, Verdict};
use serde_json::{Value, json};

use crate::harness::{Up, aasm, run, text};

const FIRST: &str = "apiVersion: agent-assembly/v1\nkind: Policy\nmetadata:\n  name: tools\n  \
                     version: \"1.0.0\"\nspec:\n  tools:\n    bash:\n      allow: false\n";

/// A variable of an environment file.
fn variable(file: &Path, name: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("export {name}=")));
    line.unwrap().trim_matches('\'').to_owned()
}

/// Registers an agent over the gateway and asks about each tool.
fn act(up: &Up, agent: &str, tools: &[&str]) -> Vec<Verdict> {
    let call =
        |tool: &&str| Action::ToolCall { tool: (*tool).to_owned(), args: Default::default() };
    let spec = AgentSpec { name: agent.to_owned(), ..AgentSpec::default() };
    ask(up, spec, tools.iter().map(call))
}

/// Registers an agent over the gateway and asks about each action.
pub(crate) fn ask(
    up: &Up,
    spec: AgentSpec,
    actions: impl IntoIterator<Item = Action>,
) -> Vec<Verdict> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client_env = up.data().join("client.env");
        let config = Config::from_settings(|name| {
            (name != "AAA_ON_UNREACHABLE").then(|| variable(&client_env, name))
        });
        let client = Client::connect(config.unwrap()).unwrap();
        let agent = client.register(spec).await.unwrap();
        let mut verdicts = Vec::new();
        for action in actions {
            verdicts.push(agent.check(&action).await.unwrap().decision.verdict);
        }
        verdicts
    })
}

#[test]
fn a_policy_is_applied_listed_read_rolled_back_and_removed() {
    let up = Up::start();
    let document = up.file("tools.yaml", FIRST);
    let apply = ["policy", "apply", text(&document)];
    let dry = up.run(&["policy", "apply", "--dry-run", text(&document)]).exits(0);
    assert_eq!(dry.out, "would apply tools revision 1 (global)\n");
    assert_eq!(up.run(&apply).exits(0).out, "applied tools revision 1 (global)\n");
    assert_eq!(up.run(&apply).exits(0).out, "unchanged: tools revision 1 (global)\n");
    std::fs::write(&document, FIRST.replace("1.0.0", "2.0.0")).unwrap();
    let second = up.run(&["policy", "apply", text(&document), "--format", "json"]).exits(0).json();
    assert_eq!(
        second["files"][0],
        json!({"file": text(&document), "valid": true, "applied": true, "name": "tools", "revision": 2,
               "changed": true, "errors": [], "warnings": []})
    );

    let list = up.run(&["policy", "list"]).exits(0).out;
    assert!(list.starts_with("NAME     REVISION  VERSION  SCOPE   APPLIED"), "{list}");
    assert!(list.contains("\ntools    2         2.0.0    global  "), "{list}");
    assert_eq!(up.run(&["policy", "get", "tools", "--revision", "1"]).exits(0).out, FIRST);
    let back = up.run(&["policy", "rollback", "tools"]).exits(0).out;
    assert_eq!(back, "rolled tools back: revision 3 is in force and brings back 1\n");
    let history = up.run(&["policy", "history", "tools"]).exits(0).out;
    assert!(history.lines().nth(1).unwrap().ends_with("in force, brings back 1"), "{history}");
    up.run(&["policy", "remove", "tools"]).exits(0);
    let list = up.run(&["policy", "list", "--format", "json"]).exits(0).json();
    assert_eq!(list["policies"].as_array().unwrap().len(), 1);
    let gone = up.run(&["policy", "get", "nothing"]).exits(1);
    assert_eq!(gone.err, "error: there is no policy `nothing` in this workspace\n");
}

#[test]
fn an_invalid_document_is_shown_with_its_place_and_not_in_force() {
    let up = Up::start();
    let document = up.file("bad.yaml", "scope: project:x\n");
    let ran = up.run(&["policy", "apply", text(&document)]).exits(1);
    let place = format!("{}:1:8: error[invalid_scope]", text(&document));
    assert!(ran.err.starts_with(&place), "{}", ran.err);
    assert!(ran.err.contains("1 | scope: project:x"), "{}", ran.err);
    up.run(&["policy", "apply", "missing.yaml"]).exits(2);
}

#[test]
fn of_several_documents_all_are_applied_or_none() {
    let up = Up::start();
    let good = up.file("good.yaml", "scope: global\n");
    let bad = up.file("bad.yaml", "scope: project:x\n");
    let tools = up.file("tools.yaml", FIRST);
    let twin = up.file("twin.yaml", FIRST);
    let apply = |files: &[&Path]| {
        let mut arguments = vec!["policy", "apply"];
        arguments.extend(files.iter().map(|file| text(file)));
        up.run(&arguments)
    };
    let refused = apply(&[&good, &bad]).exits(1);
    assert!(refused.err.ends_with("1 of 2 invalid; none was applied\n"), "{}", refused.err);
    assert_eq!(refused.out, "");
    let twins = apply(&[&tools, &twin]).exits(2);
    assert!(twins.err.contains("are both named `tools`; rename one"), "{}", twins.err);
    let list = up.run(&["policy", "list", "--format", "json"]).exits(0).json();
    assert_eq!(list["policies"].as_array().unwrap().len(), 1, "{list}");
    let applied = apply(&[&good, &tools]).exits(0).out;
    assert_eq!(applied, "applied good revision 1 (global)\napplied tools revision 1 (global)\n");
}

#[test]
fn agents_are_seen_suspended_and_resumed_and_their_decisions_are_in_the_log() {
    let up = Up::start();
    assert_eq!(up.run(&["agent", "list"]).exits(0).err, "no agent has registered yet\n");
    let document = up.file("tools.yaml", FIRST);
    up.run(&["policy", "apply", text(&document)]).exits(0);
    assert_eq!(act(&up, "researcher", &["search", "bash"]), [Verdict::Allow, Verdict::Deny]);

    let agents = up.run(&["agent", "list", "--format", "json"]).exits(0).json();
    assert_eq!(agents["agents"][0]["name"], "researcher");
    let suspend = ["agent", "suspend", "researcher", "--reason", "odd behaviour"];
    assert!(up.run(&suspend).exits(0).out.ends_with("is suspended: every action is denied\n"));
    assert_eq!(act(&up, "researcher", &["search"]), [Verdict::Deny]);
    let shown = up.run(&["agent", "get", "researcher"]).exits(0).out;
    assert!(shown.contains(": odd behaviour\n"), "{shown}");
    up.run(&["agent", "resume", "researcher"]).exits(0);
    assert_eq!(act(&up, "researcher", &["search"]), [Verdict::Allow]);
    up.run(&["agent", "get", "nobody"]).exits(1);

    let denied = up.run(&["audit", "query", "--verdict", "deny", "--agent", "researcher"]).exits(0);
    assert_eq!(denied.out.lines().count(), 2, "{}", denied.out);
    assert!(denied.out.contains("researcher"), "{}", denied.out);
    assert!(denied.out.contains("deny          tool_call bash"), "{}", denied.out);
    assert!(denied.out.contains("(tools:9)\n"), "{}", denied.out);
    let json = ["audit", "query", "--kind", "decision", "--format", "json", "-n", "3"];
    let entries = up.run(&json).exits(0).json();
    assert_eq!(entries["entries"].as_array().unwrap().len(), 3);
    let tail = up.run(&["audit", "tail", "--no-follow", "-n", "2", "--format", "json"]).exits(0);
    let lines: Vec<Value> =
        tail.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[1]["id"], entries["entries"][0]["id"]);
    // A scope that no registered agent is in is only seen against the workspace.
    let nobody = up.file("nobody.yaml", "scope: team:nobody\n");
    let check = up.run(&["policy", "check", "--registered", text(&nobody)]).exits(0).out;
    assert!(check.contains("warning[unused_scope]"), "{check}");
}

#[test]
fn a_followed_log_shows_what_comes() {
    let up = Up::start();
    let mut command = aasm();
    command.env("AASM_DATA", up.data()).args(["audit", "tail", "-n", "1", "--format", "json"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let next = || -> Value {
        let line = receiver.recv_timeout(Duration::from_secs(30)).expect("an entry comes");
        serde_json::from_str(&line).unwrap()
    };
    next();
    let document = up.file("tools.yaml", FIRST);
    up.run(&["policy", "apply", text(&document)]).exits(0);
    let entry = next();
    assert_eq!((&entry["kind"], &entry["detail"]["name"]), (&json!("policy"), &json!("tools")));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn an_export_verifies_offline_until_one_byte_is_changed() {
    let up = Up::start();
    let pinned = up.path("earlier.txt");
    up.run(&["audit", "checkpoint", "--out", text(&pinned)]).exits(0);
    let keys = up.path("keys.json");
    up.run(&["audit", "keys", "--out", text(&keys)]).exits(0);
    act(&up, "researcher", &["search", "search"]);
    let export = up.path("export.jsonl");
    up.run(&["audit", "export", "--out", text(&export)]).exits(0);
    let printed = up.run(&["audit", "export", "--format", "cef"]).exits(0).out;
    assert!(printed.lines().all(|line| line.starts_with("CEF:0|Agent Assembly|")), "{printed}");

    let verify = |more: &[&str]| {
        run(aasm().args(["audit", "verify", text(&export)]).args(more).args(["--format", "json"]))
    };
    let trusting = verify(&[]).exits(0).json();
    assert_eq!(trusting["exports"][0]["trust"], "on_first_use");
    let strict = ["--keys", text(&keys), "--checkpoint", text(&pinned)];
    let report = verify(&strict).exits(0).json();
    assert_eq!(
        (&report["intact"], &report["exports"][0]["trust"]),
        (&json!(true), &json!("pinned"))
    );

    let mut bytes = std::fs::read(&export).unwrap();
    let place = bytes.windows(8).position(|text| text == b"\"search\"").unwrap();
    bytes[place + 1] = b'z';
    std::fs::write(&export, &bytes).unwrap();
    let report = verify(&strict).exits(1).json();
    assert_eq!(report["intact"], false);
    assert!(report["failure"]["event"].as_str().unwrap().starts_with("evt_"), "{report}");
}

#[test]
fn roles_bound_what_a_key_may_do() {
    let up = Up::start();
    let created = up.run(&["key", "create", "dashboards", "--role", "viewer"]).exits(0);
    let viewer = created.out.trim().to_owned();
    up.run_as(&viewer, &["policy", "list"]).exits(0);
    let document = up.file("tools.yaml", FIRST);
    let refused = up.run_as(&viewer, &["policy", "apply", text(&document)]).exits(1);
    assert!(refused.err.contains("which may not change policies; it takes owner or admin"));
    assert!(!refused.err.contains(&viewer));
    up.run_as(&viewer, &["key", "list"]).exits(1);
    let id = viewer.split('_').nth(1).unwrap();
    up.run(&["key", "revoke", id]).exits(0);
    let unknown = up.run_as(&viewer, &["policy", "list"]).exits(1);
    assert!(unknown.err.contains("does not know the caller"), "{}", unknown.err);
    let listed = up.run(&["key", "list", "--all"]).exits(0).out;
    assert!(listed.contains(id) && !listed.contains(&viewer), "{listed}");
}

#[test]
fn health_is_known_without_a_key() {
    let up = Up::start();
    let health = up.run(&["health", "--format", "json"]).exits(0).json();
    assert_eq!((&health["status"], &health["url"]), (&json!("ok"), &up.started["api_url"]));
    let elsewhere = run(aasm().env("AASM_API_URL", "https://127.0.0.1:1").arg("health")).exits(1);
    assert!(elsewhere.err.contains("is `aasm up` running?"), "{}", elsewhere.err);
    let plain = run(aasm().env("AASM_API_URL", "http://127.0.0.1:1").arg("health")).exits(2);
    assert!(plain.err.contains("must begin with https://"), "{}", plain.err);
    // Without its CA the control plane is not believed.
    let url = up.started["api_url"].as_str().unwrap();
    let stranger = run(aasm().env("AASM_API_URL", url).arg("health")).exits(1);
    assert!(stranger.err.contains("certificate"), "{}", stranger.err);
}

#[test]
fn a_port_that_is_taken_and_data_in_use_are_said_plainly() {
    let up = Up::start();
    let other = up.path("other");
    let taken = up.started["gateway_url"].as_str().unwrap().trim_start_matches("https://");
    let arguments = ["up", "--gateway", taken, "--api", "127.0.0.1:0", "--data", text(&other)];
    let ran = run(aasm().args(arguments)).exits(1);
    assert!(ran.err.contains(&format!("cannot listen on {taken}")), "{}", ran.err);
    assert!(ran.err.contains("choose another with --gateway"), "{}", ran.err);
    let data = up.data();
    let free = ["up", "--gateway", "127.0.0.1:0", "--api", "127.0.0.1:0", "--data", text(&data)];
    let ran = run(aasm().args(free)).exits(1);
    assert!(ran.err.contains("is in use by another process"), "{}", ran.err);
    up.run(&["health"]).exits(0);
}

#[test]
fn a_signal_ends_it_in_order_and_the_next_start_goes_on() {
    for signal in ["-TERM", "-INT"] {
        let up = Up::start();
        assert_eq!(up.started["first_run"], true);
        let document = up.file("tools.yaml", FIRST);
        up.run(&["policy", "apply", text(&document)]).exits(0);
        let (directory, code) = up.stop(signal);
        assert_eq!(code, Some(0), "{signal}");
        let up = Up::start_in(directory);
        assert_eq!(up.started["first_run"], false);
        up.run(&["policy", "get", "tools"]).exits(0);
    }
}

#[test]
fn secrets_are_in_files_that_only_their_owner_reads() {
    use std::os::unix::fs::PermissionsExt;
    let up = Up::start();
    for name in ["client.env", "operator.env"] {
        let mode = std::fs::metadata(up.data().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let key = variable(&up.data().join("operator.env"), "AASM_API_KEY");
    assert!(!up.started.to_string().contains(&key));
}

/// What `aasm up` tells people until it is ready; then it is stopped.
fn banner(data: &Path) -> String {
    let mut command = aasm();
    command.args(["up", "--gateway", "127.0.0.1:0", "--api", "127.0.0.1:0", "--data", text(data)]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let mut said = String::new();
    while !said.ends_with("Stop with Ctrl-C.\n") {
        said += &receiver.recv_timeout(Duration::from_secs(60)).expect("aasm up becomes ready");
        said.push('\n');
    }
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    said
}

#[test]
fn only_the_first_start_shows_the_key_of_the_agents() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let first = banner(&data);
    let key = variable(&data.join("client.env"), "AAA_API_KEY");
    let operator = variable(&data.join("operator.env"), "AASM_API_KEY");
    assert!(first.starts_with("Agent Assembly is running (workspace default)\n"), "{first}");
    for name in ["AAA_WORKSPACE_ID", "AAA_API_KEY", "AAA_GATEWAY_URL", "AAA_CA_FILE"] {
        assert!(first.contains(&format!("  export {name}='")), "{first}");
    }
    assert!(first.contains(&key) && !first.contains(&operator));
    let second = banner(&data);
    assert!(!second.contains(&key) && !second.contains(&operator));
    assert!(second.contains(&format!("source {}", data.join("client.env").display())), "{second}");
}

#[test]
fn a_control_plane_whose_banner_nobody_reads_serves_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut command = aasm();
    command.args(["up", "--gateway", "127.0.0.1:0", "--api", "127.0.0.1:0", "--data", text(&data)]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    // Its last word on standard error comes after it was asked to stop, so it lived until then.
    let mut errors = BufReader::new(child.stderr.take().unwrap()).lines();
    let deadline = Instant::now() + Duration::from_secs(60);
    while run(aasm().env("AASM_DATA", &data).arg("health")).code != 0 {
        assert!(Instant::now() < deadline, "aasm up becomes ready");
    }
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(errors.next().unwrap().unwrap(), "stopped in order");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
