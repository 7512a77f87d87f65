//! The storm as a program: which sites there are on this machine, what was shown on each, and, loudly, what was not.
//!
//! The part that builds networks is this program once more, in namespaces of its own; so are the placeholders by which
//! those networks are tried where there is no cluster to put into them.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it tells its runs")]

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, geteuid, kill_process};

use super::{
    Outcome, Size, StormError, in_namespaces, in_one_process,
    network::{Degraded, Host, Network, NetworkError},
    processes::Programs,
};

/// A part of the storm that runs or cannot.
struct Part {
    name: &'static str,
    /// What it shows, and does not where it is not run.
    shows: &'static str,
    run: fn(Plan) -> Done,
}

/// How long, and which faults.
#[derive(Clone, Copy, Debug)]
struct Plan {
    seed: u64,
    size: Size,
}

enum Done {
    Held(String),
    Failed(String),
    /// Why not, one line each.
    NotRun(Vec<String>),
}

const PARTS: [Part; 3] = [
    Part {
        name: "a_storm_over_control_planes_in_one_process",
        shows: "whole control planes that are killed, cut off from each other and from the store",
        run: one_process,
    },
    Part {
        name: "machines_of_a_network_are_cut_off_and_come_back",
        shows: "the network of machines that processes are put into",
        run: network,
    },
    Part {
        name: "a_storm_over_processes_in_network_namespaces",
        shows: "nodes as processes over FoundationDB: kill -9, SIGSTOP, partitions and loss in the kernel's \
                network, servers of the store that die",
        run: namespaces,
    },
];

/// What the namespaces are made with; the parent's end is theirs.
const UNSHARE: [&str; 6] = ["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"];

/// The roles that this program gives itself, as its first argument.
const INSIDE: &str = "@inside";
const NETWORK: &str = "@network";
const LISTEN: &str = "@listen";
const ASK: &str = "@ask";

/// The longest storm: an agent's token stands for an hour.
const LONGEST: Duration = Duration::from_secs(50 * 60);

/// How long a placeholder waits for an answer.
const ANSWER: Duration = Duration::from_millis(800);

/// How long a machine may take to be reached again: what was sent in vain is sent again later and later.
const RECOVERY: usize = 20;

/// `storm [SECONDS] [SEED] [NODES]`.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let Some(done) = in_role(&arguments) {
        return done;
    }
    match Plan::read(&arguments) {
        Ok(plan) => run(plan, &PARTS.iter().collect::<Vec<_>>()),
        Err(problem) => {
            eprintln!("{problem}\nusage: storm [SECONDS] [SEED] [NODES]");
            ExitCode::from(2)
        }
    }
}

/// The same as a test without a harness, whose output nobody swallows: short, with a new seed each time. Takes the
/// arguments that `cargo test` passes on, of which it knows names and `--list`.
pub fn test_main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let Some(done) = in_role(&arguments) {
        return done;
    }
    if arguments.iter().any(|argument| argument == "--list") {
        // None is ignored.
        let is_wanted = !arguments.iter().any(|argument| argument == "--ignored");
        for part in PARTS.iter().filter(|_| is_wanted) {
            println!("{}: test", part.name);
        }
        return ExitCode::SUCCESS;
    }
    let names: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |part: &&Part| {
        names.is_empty() || names.iter().any(|name| part.name.contains(name.as_str()))
    };
    let wanted: Vec<_> = PARTS.iter().filter(is_wanted).collect();
    run(Plan { seed: fastrand::u64(..1_000_000_000), size: Size::default() }, &wanted)
}

fn run(plan: Plan, parts: &[&Part]) -> ExitCode {
    let mut has_failed = false;
    for part in parts {
        println!("test {} (seed {}) ...", part.name, plan.seed);
        match (part.run)(plan) {
            Done::Held(what) => println!("test {} ... ok: {what}", part.name),
            Done::Failed(problem) => {
                println!("test {} ... FAILED\n{problem}", part.name);
                println!(
                    "the same faults again: make storm SECONDS={} SEED={}",
                    plan.size.lasts.as_secs(),
                    plan.seed
                );
                has_failed = true;
            }
            Done::NotRun(reasons) => banner(part, &reasons),
        }
    }
    if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Nobody shall believe that it ran.
fn banner(part: &Part, reasons: &[String]) {
    let frame = "#".repeat(100);
    println!("\n{frame}\n#\n#   NOT RUN: {}\n#", part.name);
    for reason in reasons {
        println!("#     - {reason}");
    }
    println!("#\n#   So nothing was shown here of {}.\n#\n{frame}\n", part.shows);
}

fn one_process(plan: Plan) -> Done {
    told(on_runtime(in_one_process(plan.seed, plan.size)), None)
}

fn network(_: Plan) -> Done {
    let missing = missing_tools();
    if missing.is_empty() { inside(&[NETWORK.to_owned()]) } else { Done::NotRun(missing) }
}

fn namespaces(plan: Plan) -> Done {
    let mut missing = missing_tools();
    missing.extend(Programs::find().err().into_iter().flatten());
    if !missing.is_empty() {
        return Done::NotRun(missing);
    }
    let Size { nodes, lasts, .. } = plan.size;
    let numbers = [lasts.as_secs().to_string(), plan.seed.to_string(), nodes.to_string()];
    inside(&[&[INSIDE.to_owned()][..], &numbers].concat())
}

/// What it takes to have a network of one's own.
fn missing_tools() -> Vec<String> {
    if !geteuid().is_root() {
        return vec!["this process is not root, and cannot make network namespaces".to_owned()];
    }
    let mut missing = Vec::new();
    for (program, probe) in [("ip", "-V"), ("tc", "-V"), ("mount", "--version")] {
        if Command::new(program).arg(probe).stdout(Stdio::null()).status().is_err() {
            missing.push(format!("there is no `{program}` on the path"));
        }
    }
    let unshared = Command::new("unshare").args(UNSHARE).arg("true").output();
    match unshared {
        Err(error) => missing.push(format!("`unshare` does not run: {error}")),
        Ok(output) if !output.status.success() => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            missing.push(format!("the system makes no namespaces: {said}"));
        }
        Ok(_) => {}
    }
    missing
}

/// This program in namespaces of its own.
fn inside(arguments: &[String]) -> Done {
    let program = match env::current_exe() {
        Ok(program) => program,
        Err(error) => return Done::Failed(error.to_string()),
    };
    match Command::new("unshare").args(UNSHARE).arg(program).args(arguments).status() {
        Ok(status) if status.success() => Done::Held("as told above".to_owned()),
        Ok(status) => Done::Failed(format!("as told above; {status}")),
        Err(error) => Done::Failed(format!("`unshare` does not run: {error}")),
    }
}

fn in_role(arguments: &[String]) -> Option<ExitCode> {
    let (role, arguments) = arguments.split_first()?;
    let done = match role.as_str() {
        INSIDE => Plan::read(arguments).and_then(storm_inside),
        NETWORK => check_network(),
        LISTEN => listen(arguments),
        ASK => ask(arguments),
        _ => return None,
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            if role != ASK {
                println!("{problem}");
            }
            ExitCode::FAILURE
        }
    })
}

fn storm_inside(plan: Plan) -> Result<(), String> {
    let programs = Programs::find().map_err(|missing| missing.join("\n"))?;
    match told(on_runtime(in_namespaces(programs, plan.seed, plan.size)), Some("processes")) {
        Done::Held(what) => println!("{what}"),
        Done::Failed(problem) => return Err(problem),
        Done::NotRun(reasons) => return Err(reasons.join("\n")),
    }
    Ok(())
}

fn on_runtime(
    storm: impl Future<Output = Result<Outcome, StormError>>,
) -> Result<Outcome, StormError> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(storm);
            runtime.shutdown_background();
            outcome
        }
        Err(error) => {
            let problem = format!("there is no runtime: {error}");
            Err(StormError { problem, seed: 0, log: String::new() })
        }
    }
}

fn told(outcome: Result<Outcome, StormError>, over: Option<&str>) -> Done {
    match outcome {
        Ok(outcome) => Done::Held(format!(
            "{}{outcome}",
            over.map_or_else(String::new, |over| format!("{over}: "))
        )),
        Err(error) => Done::Failed(error.to_string()),
    }
}

// === impl Plan ===

impl Plan {
    fn read(arguments: &[String]) -> Result<Self, String> {
        let mut numbers = arguments.iter().map(|text| {
            text.parse::<u64>().map_err(|error| format!("`{text}` is no number: {error}"))
        });
        let mut next = |otherwise| numbers.next().unwrap_or(Ok(otherwise));
        let size = Size::default();
        let lasts = Duration::from_secs(next(size.lasts.as_secs())?);
        let seed = next(fastrand::u64(..1_000_000_000))?;
        let nodes = usize::try_from(next(size.nodes as u64)?).unwrap_or(usize::MAX);
        if lasts > LONGEST || !(2..=9).contains(&nodes) {
            return Err(format!("at most {LONGEST:?}, and 2 to 9 nodes"));
        }
        Ok(Self { seed, size: Size { lasts, nodes, ..size } })
    }
}

/// A network with placeholders in it: a machine that listens and one that asks.
struct Placeholders {
    network: Network,
    program: PathBuf,
    one: Host,
    two: Host,
}

/// Tries everything that a network does to its machines.
fn check_network() -> Result<(), String> {
    let network = Network::build(&["one", "two"]).map_err(|error| error.to_string())?;
    if let Some(lacks) = network.lacks() {
        println!("{lacks}");
    }
    let mut hosts = network.hosts();
    let (Some(one), Some(two)) = (hosts.next(), hosts.next()) else {
        return Err("there are no machines".to_owned());
    };
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let placeholders = Placeholders { network, program, one, two };
    let mut listener = placeholders.listener()?;
    let checked = placeholders.check(&mut listener);
    // It may have ended by itself.
    let _ = listener.kill();
    let _ = listener.wait();
    checked
}

// === impl Placeholders ===

impl Placeholders {
    fn check(&self, listener: &mut Child) -> Result<(), String> {
        let said = |error: NetworkError| error.to_string();
        self.expect(true, "when it is whole")?;
        for (from, to, what) in [(self.one, self.two, "there"), (self.two, self.one, "back")] {
            self.network.set_way(from, to, false).map_err(said)?;
            self.expect(false, &format!("when nothing gets {what}"))?;
            if !self.outside() {
                return Err(format!("a third machine is cut off when nothing gets {what}"));
            }
            self.network.set_way(from, to, true).map_err(said)?;
            self.network.set_way(from, to, true).map_err(said)?;
            self.expect(true, &format!("when it gets {what} again"))?;
        }
        for degraded in [Degraded::Late, Degraded::Lossy] {
            self.network.degrade(self.one, degraded).map_err(said)?;
            self.expect(true, &format!("when what is sent is {degraded:?}"))?;
            self.network.restore(self.one).map_err(said)?;
        }
        let pid = i32::try_from(listener.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or("the listener has no id")?;
        let signal = |signal| kill_process(pid, signal).map_err(|error| error.to_string());
        signal(Signal::STOP)?;
        self.expect(false, "when it stands still")?;
        signal(Signal::CONT)?;
        self.expect(true, "when it goes on")?;
        signal(Signal::KILL)?;
        listener.wait().map_err(|error| error.to_string())?;
        self.expect(false, "when it is killed")
    }

    fn address(&self) -> String {
        format!("{}:9000", self.network.address(self.two))
    }

    fn listener(&self) -> Result<Child, String> {
        let mut command = self.network.command(self.two, &self.program);
        let command = command.args([LISTEN, &self.address()]).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let mut line = String::new();
        let output = child.stdout.take().ok_or("the listener has no output")?;
        BufReader::new(output).read_line(&mut line).map_err(|error| error.to_string())?;
        if line.is_empty() { Err("the listener does not listen".to_owned()) } else { Ok(child) }
    }

    /// Whether the second machine answers this process.
    fn outside(&self) -> bool {
        ask(&[self.address()]).is_ok()
    }

    /// Whether the second machine answers the first one; where it must, in the end.
    fn expect(&self, is_answered: bool, when: &str) -> Result<(), String> {
        for _ in 0..RECOVERY {
            let mut command = self.network.command(self.one, &self.program);
            let asked = command.args([ASK, &self.address()]).stdout(Stdio::null()).status();
            let answers = asked.map_err(|error| error.to_string())?.success();
            match (is_answered, answers) {
                (false, true) => return Err(format!("a machine is answered {when}")),
                (true, false) => {}
                _ => return Ok(()),
            }
        }
        Err(format!("a machine is not answered {when}"))
    }
}

/// Says the same back to whoever asks, one at a time, until it is killed.
fn listen(arguments: &[String]) -> Result<(), String> {
    let said = |error: std::io::Error| error.to_string();
    let address = arguments.first().ok_or("listen where?")?;
    let listener = TcpListener::bind(address.as_str()).map_err(said)?;
    println!("listening");
    std::io::stdout().flush().map_err(said)?;
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut word = [0; 4];
        // One that broke off has not heard an answer.
        let _ = stream.set_read_timeout(Some(ANSWER));
        let _ = stream.read_exact(&mut word).and_then(|()| stream.write_all(&word));
    }
    Ok(())
}

fn ask(arguments: &[String]) -> Result<(), String> {
    let said = |error: std::io::Error| error.to_string();
    let address: SocketAddr =
        arguments.first().and_then(|text| text.parse().ok()).ok_or("whom?")?;
    let mut stream = TcpStream::connect_timeout(&address, ANSWER).map_err(said)?;
    stream.set_read_timeout(Some(ANSWER)).map_err(said)?;
    stream.write_all(b"ping").map_err(said)?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).map_err(said)?;
    if &answer == b"ping" { Ok(()) } else { Err("another word came back".to_owned()) }
}
