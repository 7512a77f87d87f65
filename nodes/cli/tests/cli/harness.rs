//! Running `aasm` and a control plane, each wait bounded.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

/// The longest any single step may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How a command ended and what it said.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A control plane of its own, on free ports and fresh data.
pub(crate) struct Up {
    child: Child,
    /// What `up --format json` printed.
    pub(crate) started: Value,
    directory: TempDir,
}

/// `aasm` without anything of the caller's environment but where shared libraries are.
pub(crate) fn aasm() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aasm"));
    command.env_clear().stdin(Stdio::null());
    command.envs(std::env::var_os("LD_LIBRARY_PATH").map(|path| ("LD_LIBRARY_PATH", path)));
    command
}

/// Runs to the end.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Ran {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    finish(child)
}

/// Runs to the end with an input.
#[track_caller]
pub(crate) fn run_with_input(command: &mut Command, input: &[u8]) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    finish(child)
}

#[track_caller]
fn finish(child: Child) -> Ran {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let output: Output = receiver.recv_timeout(PATIENCE).expect("aasm ends in time").unwrap();
    Ran {
        code: output.status.code().expect("no signal ended it"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A directory with these files.
pub(crate) fn files(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(directory.path().join(name), content).unwrap();
    }
    directory
}

impl Ran {
    /// The one JSON value on standard output.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.all()))
    }

    /// Checks the exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}", self.all());
        self
    }

    fn all(&self) -> String {
        format!("exit {}\n--- out\n{}\n--- err\n{}", self.code, self.out, self.err)
    }
}

impl Up {
    /// Starts one on fresh data.
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    /// Starts one on the data of an earlier one.
    pub(crate) fn start_in(directory: TempDir) -> Self {
        Self::start_with(directory, &[])
    }

    /// The same with further options.
    pub(crate) fn start_with(directory: TempDir, options: &[&str]) -> Self {
        let mut command = aasm();
        command
            .args(["up", "--format", "json", "--gateway", "127.0.0.1:0", "--api", "127.0.0.1:0"])
            .arg("--data")
            .arg(directory.path().join("data"))
            .args(options)
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(lines.next()));
        let line = receiver.recv_timeout(PATIENCE).expect("aasm up starts in time");
        let line = line.expect("aasm up says that it started").unwrap();
        let started = serde_json::from_str(&line).unwrap();
        Self { child, started, directory }
    }

    /// The data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A path beside the data.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file beside the data.
    pub(crate) fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Runs a command as its operator.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        run(aasm().env("AASM_DATA", self.data()).args(arguments))
    }

    /// Runs a command with another key.
    #[track_caller]
    pub(crate) fn run_as(&self, key: &str, arguments: &[&str]) -> Ran {
        let data = self.data();
        run(aasm().env("AASM_DATA", data).env("AASM_API_KEY", key).args(arguments))
    }

    /// Sends a signal and waits for the end; gives the data back with the exit code.
    pub(crate) fn stop(mut self, signal: &str) -> (TempDir, Option<i32>) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let (sender, receiver) = mpsc::channel();
        let mut child = std::mem::replace(&mut self.child, Command::new("true").spawn().unwrap());
        thread::spawn(move || sender.send(child.wait()));
        let status = receiver.recv_timeout(PATIENCE).expect("aasm up ends in time").unwrap();
        let empty = tempfile::tempdir().unwrap();
        (std::mem::replace(&mut self.directory, empty), status.code())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
