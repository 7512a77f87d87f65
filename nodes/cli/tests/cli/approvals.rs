use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    sync::mpsc,
    thread,
    time::Duration,
};

use aa_client::AgentSpec;
use aa_protocol::{Action, Verdict};
use serde_json::{Value, json};

use crate::{
    control_plane::ask,
    harness::{Up, aasm, run, text},
};

const ASK_FOR_BASH: &str = "\
apiVersion: agent-assembly/v1
kind: Policy
metadata: {name: ask, version: '1'}
spec:
  tools:
    bash: {requires_approval_if: 'true'}
  approval: {timeout_seconds: 600}
";

/// A control plane whose policy asks about `bash`.
fn asking() -> Up {
    let up = Up::start();
    let document = up.file("ask.yaml", ASK_FOR_BASH);
    up.run(&["policy", "apply", text(&document)]).exits(0);
    up
}

/// Lets an agent of the team `platform` ask for a command, and gives the id of the request.
fn call_bash(up: &Up, command: &str) -> String {
    let team = "platform".to_owned();
    let spec = AgentSpec { name: "researcher".to_owned(), team, ..AgentSpec::default() };
    let args = json!({"cmd": command}).as_object().unwrap().clone();
    let call = Action::ToolCall { tool: "bash".to_owned(), args };
    assert_eq!(ask(up, spec, [call]), [Verdict::RequireApproval]);
    let pending = up.run(&["approval", "list", "--format", "json"]).exits(0).json();
    let asks = |approval: &&Value| approval["action"]["args"]["cmd"] == command;
    let approval = pending["approvals"].as_array().unwrap().iter().find(asks);
    approval.expect("the request is pending")["id"].as_str().unwrap().to_owned()
}

/// A key and its id.
fn key(up: &Up, role: &str) -> (String, String) {
    let key = up.run(&["key", "create", "person", "--role", role]).exits(0).out.trim().to_owned();
    let id = key.split('_').nth(1).unwrap().to_owned();
    (key, id)
}

#[test]
fn a_request_is_listed_shown_approved_and_logged() {
    let up = asking();
    assert_eq!(up.run(&["approval", "list"]).exits(0).err, "nothing is pending\n");
    assert_eq!(up.run(&["approval", "list", "--all"]).exits(0).err, "nothing was ever asked\n");
    let id = call_bash(&up, "ls \u{1b}[2J\u{9b}31m");
    let short = &id[..8];
    let list = up.run(&["approval", "list"]).exits(0).out;
    assert!(list.starts_with("ID        STATE    AGENT       TEAM      WANTS"), "{list}");
    let row = format!("\n{short}  pending  researcher  platform  tool_call bash  ");
    assert!(list.contains(&row) && list.ends_with("  the owners and admins\n"), "{list}");
    let shown = up.run(&["approval", "show", &id[..4]]).exits(0).out;
    assert!(shown.starts_with(&format!("request     {id}\nstate       pending\n")), "{shown}");
    assert!(shown.contains("(ask:6 revision 1, spec.tools.bash.requires_approval_if)"), "{shown}");
    assert!(shown.contains("\n      \"cmd\": \"ls \\u001b[2J\\u009b31m\"\n"), "{shown}");
    let json = up.run(&["approval", "show", &id, "--format", "json"]).exits(0);
    assert!(!json.out.contains('\u{9b}'));
    assert_eq!(json.json()["action"]["args"]["cmd"], "ls \u{1b}[2J\u{9b}31m");

    let approve = ["approval", "approve", short, "--session", "--reason", "harmless"];
    let approved = up.run(&approve).exits(0).out;
    let expected = format!("approved {short}: tool_call bash of researcher, for the session\n");
    assert_eq!(approved, expected);
    let again = up.run(&approve).exits(1);
    assert!(again.err.contains("the request was decided at"), "{}", again.err);
    assert_eq!(up.run(&["approval", "list"]).exits(0).out, "");
    let all = up.run(&["approval", "list", "--all"]).exits(0).out;
    assert!(all.contains(&format!("\n{short}  approved  researcher")), "{all}");
    let shown = up.run(&["approval", "show", short]).exits(0).out;
    assert!(shown.contains("\nstate       approved, for the session\n"), "{shown}");
    assert!(shown.contains(": harmless\n") && !shown.contains("to answer"), "{shown}");

    let log = up.run(&["audit", "query", "--kind", "approval"]).exits(0).out;
    let newest: Vec<_> = log.lines().collect();
    let approved = format!("  request {short} approved, for the session: harmless");
    assert!(newest[0].ends_with(&approved) && newest[0].contains("  by key:"), "{log}");
    assert!(newest[1].contains("  researcher                approval      request "), "{log}");
    assert!(newest[1].contains("is before the workspace's owners and admins until 2"), "{log}");
}

#[test]
fn a_refusal_is_kept_with_its_reason_and_ids_must_be_unambiguous() {
    let up = asking();
    let id = call_bash(&up, "rm -rf /");
    let denied = up.run(&["approval", "deny", &id, "--reason", "not on a Friday"]).exits(0).out;
    let said = format!("denied {}: tool_call bash of researcher, by key ", &id[..8]);
    assert!(denied.starts_with(&said) && denied.ends_with(": not on a Friday\n"), "{denied}");
    let other = if id.starts_with("0000") { "ffff" } else { "0000" };
    let unknown = up.run(&["approval", "approve", other]).exits(1);
    assert!(unknown.err.contains("whose id begins with"), "{}", unknown.err);
    let none = "00000000-0000-4000-8000-000000000000";
    let unknown = up.run(&["approval", "approve", none]).exits(1);
    assert!(unknown.err.contains("there is no request"), "{}", unknown.err);
    for id in ["", "abc", "xyzw", "\u{1b}[2J"] {
        let bad = up.run(&["approval", "show", id]).exits(2);
        assert!(bad.err.contains("4 or more") && !bad.err.contains('\u{1b}'), "{}", bad.err);
    }
}

#[test]
fn groups_and_chains_decide_who_answers() {
    let up = asking();
    let list = up.run(&["approver", "list"]).exits(0);
    assert_eq!(list.err, "no group and no chain is set: the owners and admins are asked\n");
    let ((alice, alice_id), (bob, bob_id)) = (key(&up, "viewer"), key(&up, "viewer"));
    let group = ["approver", "group", "set", "leads", "--member", &alice_id, "--member", &bob_id];
    let set = up.run(&[group.as_slice(), &["--needed", "2"]].concat()).exits(0).out;
    assert!(set.starts_with("set the group leads: 2 of "), "{set}");
    let stages = ["--stage", "leads:2@60", "--stage", "owners-and-admins@40"];
    let chain = ["approver", "chain", "set", "--team", "platform"];
    let set = up.run(&[chain.as_slice(), &stages].concat()).exits(0).out;
    let terms = "2 of leads 60 %, then the owners and admins 40 %";
    assert_eq!(set, format!("set the chain of team platform: {terms}\n"));
    let list = up.run(&["approver", "list"]).exits(0).out;
    assert!(list.starts_with("GROUP  NEEDED  MEMBERS\nleads  2       "), "{list}");
    assert!(list.ends_with(&format!("\n\nCHAIN OF  STAGES\nplatform  {terms}\n")), "{list}");

    let id = call_bash(&up, "ls");
    let approve = ["approval", "approve", &id];
    let early = up.run(&approve).exits(1);
    assert!(early.err.contains("this key may not answer"), "{}", early.err);
    let first = up.run_as(&alice, &approve).exits(0).out;
    assert!(first.ends_with("is still before the group leads (1 of 2)\n"), "{first}");
    let twice = up.run_as(&alice, &approve).exits(1);
    assert!(twice.err.contains("it needs the approval of others"), "{}", twice.err);
    let shown = up.run_as(&bob, &["approval", "show", &id]).exits(0).out;
    assert!(shown.contains("\nbefore      the group leads: 1 of 2 approved\n"), "{shown}");
    assert!(shown.contains("the owners and admins: 0 of 1 approved; asked in "), "{shown}");
    assert!(up.run_as(&bob, &approve).exits(0).out.starts_with("approved "));

    let refused = up.run_as(&alice, &["approver", "group", "remove", "leads"]).exits(1);
    assert!(refused.err.contains("may not change who approves"), "{}", refused.err);
    let removed = up.run(&["approver", "chain", "remove", "--team", "platform"]).exits(0).out;
    assert_eq!(removed, format!("removed the chain of team platform; it was {terms}\n"));
    up.run(&["approver", "group", "remove", "leads"]).exits(0);
    up.run(&["approver", "group", "remove", "leads"]).exits(1);
    let log = up.run(&["audit", "query", "--kind", "approval"]).exits(0).out;
    assert!(log.contains("approver group leads removed"), "{log}");
    assert!(log.contains("approved, but others must as well"), "{log}");
}

#[test]
fn a_watch_shows_requests_as_they_come_and_go() {
    let up = asking();
    let mut command = aasm();
    command.env("AASM_DATA", up.data()).args(["approval", "watch"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let next = || receiver.recv_timeout(Duration::from_secs(30)).expect("a line comes");
    let id = call_bash(&up, "ls");
    let came = next();
    let about = format!("  pending   {}  researcher  tool_call bash  before the owners", &id[..8]);
    assert!(came.contains(&about), "{came}");
    up.run(&["approval", "deny", &id, "--reason", "no"]).exits(0);
    let went = next();
    let about = format!("  denied    {}  researcher  tool_call bash, by key ", &id[..8]);
    assert!(went.contains(&about) && went.ends_with(": no"), "{went}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn wrong_usage_is_said_before_anything_is_asked() {
    let approver = |arguments: &str| {
        let words = arguments.split_whitespace();
        let mut command = aasm();
        command.env("AASM_API_URL", "https://127.0.0.1:1").arg("approver").args(words);
        run(&mut command).exits(2).err
    };
    for (arguments, reason) in [
        ("group set owners-and-admins", "stands for the owners and admins"),
        ("group set ..", "no group can be named"),
        ("group set a --needed x", "invalid digit"),
        ("chain set --stage a@100", "--team"),
        ("chain set --team a", "--stage"),
        ("chain set --team a --workspace-wide --stage a@100", "cannot be used with"),
        ("chain set --team . --stage a@100", "no team can be named"),
        ("chain set --team a --stage a", "GROUP[:NEEDED]@SHARE"),
        ("chain remove", "--team"),
    ] {
        let err = approver(arguments);
        assert!(err.contains(reason), "{arguments}: {err}");
    }
    let err = approver("group set a --member aak_0123456789_secret");
    assert!(err.contains("the id of a key") && !err.contains("secret"), "{err}");
}

#[test]
fn a_rule_is_proposed_from_a_request_written_and_put_in_force() {
    let up = asking();
    let id = call_bash(&up, "df -h");
    let proposed = up.run(&["approval", "propose", &id[..8]]).exits(0);
    assert_eq!(
        proposed.out,
        "policy ask, revision 1, line 6, spec.tools.bash.requires_approval_if\n- true\n\
         + !(args == {\"cmd\": \"df -h\"}) && (true)\n"
    );
    assert!(proposed.err.starts_with("nothing is in force by this"), "{}", proposed.err);
    let directory = up.path("rules");
    std::fs::create_dir(&directory).unwrap();
    let write = ["approval", "propose", &id, "--out", text(&directory)];
    up.run(&write).exits(0);
    let document = directory.join("ask.yaml");
    run(aasm().args(["policy", "check", text(&document)])).exits(0);
    let there = up.run(&write).exits(2);
    assert!(there.err.contains("cannot write"), "{}", there.err);

    let viewer = key(&up, "viewer").0;
    let refused = up.run_as(&viewer, &["approval", "propose", &id, "--apply"]).exits(1);
    assert!(refused.err.contains("may not change policies"), "{}", refused.err);
    let applied = up.run(&["approval", "propose", &id, "--apply"]).exits(0).out;
    assert!(applied.ends_with("in force: ask, revision 2\n"), "{applied}");
    let team = "platform".to_owned();
    let spec = AgentSpec { name: "researcher".to_owned(), team, ..AgentSpec::default() };
    let call = |command: &str| {
        let args = json!({"cmd": command}).as_object().unwrap().clone();
        Action::ToolCall { tool: "bash".to_owned(), args }
    };
    let verdicts = ask(&up, spec, [call("df -h"), call("df -H")]);
    assert_eq!(verdicts, [Verdict::Allow, Verdict::RequireApproval]);
}
