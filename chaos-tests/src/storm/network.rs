//! Machines of a network of our own: a network namespace each, joined by a bridge, with what can go wrong between them.
//!
//! It takes a process that is root in a network and a mount namespace of its own, so that nothing of the machine's is
//! touched and everything is gone with the process: `unshare --net --mount --pid --fork --mount-proc`.

use std::{
    ffi::OsStr,
    io,
    net::Ipv4Addr,
    process::{Command, Output},
};

/// The machines. They are gone when this process ends.
#[derive(Clone, Debug)]
pub(super) struct Network {
    hosts: Vec<String>,
    impairment: Impairment,
}

/// One of the machines, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Host(usize);

/// How the kernel can disturb what a machine sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Impairment {
    /// By `netem`: loss and delay as told.
    Netem,
    /// By a token bucket with a short queue: what does not fit is late or lost.
    TokenBucket,
    /// Not at all.
    None,
}

/// What becomes of what a machine sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Degraded {
    /// It is late.
    Late,
    /// Some is lost.
    Lossy,
}

/// The network is not as wanted.
#[derive(Debug, thiserror::Error)]
pub(super) enum NetworkError {
    /// A program does not run.
    #[error("{program} does not run: {error}; install iproute2")]
    Program {
        /// The program.
        program: &'static str,
        /// Why.
        error: io::Error,
    },
    /// The system refused.
    #[error("`{command}` was refused: {said}")]
    Refused {
        /// The command.
        command: String,
        /// What it said.
        said: String,
    },
    /// This process has not been given namespaces of its own, and would change the machine's network.
    #[error(
        "a network is built only by the first process of namespaces of its own, and this is process {0}"
    )]
    NotAlone(u32),
    /// The directory of the namespaces' names cannot be made.
    #[error("{NAMES}: {0}")]
    Names(io::Error),
}

/// Machines of a network are counted by one byte.
const MOST_HOSTS: usize = 100;

/// Where `ip netns` keeps names.
const NAMES: &str = "/run/netns";

const BRIDGE: &str = "storm0";

// === impl Network ===

impl Network {
    /// Builds a machine for each name: 1 to 15 letters, digits or `-`, which is what the kernel takes for names.
    ///
    /// # Errors
    /// The kernel or a program does not do it.
    pub(super) fn build<S: AsRef<str>>(names: &[S]) -> Result<Self, NetworkError> {
        if std::process::id() != 1 {
            return Err(NetworkError::NotAlone(std::process::id()));
        }
        std::fs::create_dir_all("/run").map_err(NetworkError::Names)?;
        run("mount", ["-t", "tmpfs", "tmpfs", "/run"])?;
        std::fs::create_dir_all(NAMES).map_err(NetworkError::Names)?;
        ip("link set lo up")?;
        ip(&format!("link add {BRIDGE} type bridge"))?;
        ip(&format!("addr add {}/24 dev {BRIDGE}", Self::outside()))?;
        ip(&format!("link set {BRIDGE} up"))?;
        let mut hosts = Vec::new();
        for name in names.iter().take(MOST_HOSTS) {
            let (name, host) = (name.as_ref(), Host(hosts.len()));
            ip(&format!("netns add {name}"))?;
            let end = format!("v{}", host.0);
            ip(&format!("link add {end} type veth peer name eth0 netns {name}"))?;
            ip(&format!("link set {end} master {BRIDGE} up"))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {name} addr add {}/24 dev eth0", address_of(host)))?;
            ip(&format!("-n {name} link set eth0 up"))?;
            hosts.push(name.to_owned());
        }
        let impairment = hosts.first().map_or(Impairment::None, |name| probe(name));
        Ok(Self { hosts, impairment })
    }

    /// The machines, in the order of their names as given.
    pub(super) fn hosts(&self) -> impl Iterator<Item = Host> + use<> {
        (0..self.hosts.len()).map(Host)
    }

    /// The address of a machine.
    pub(super) fn address(&self, host: Host) -> Ipv4Addr {
        address_of(host)
    }

    /// The address of this process, which every machine reaches and which reaches every machine.
    pub(super) const fn outside() -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, 254)
    }

    /// A command that runs a program on a machine. The program has the process id that the command is given.
    pub(super) fn command(&self, host: Host, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.name(host)]).arg(program);
        command
    }

    /// Nothing that one machine sends to another leaves it any more, or that ends.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn set_way(&self, from: Host, to: Host, is_open: bool) -> Result<(), NetworkError> {
        let verb = if is_open { "del" } else { "replace" };
        let route = format!("-n {} route {verb} blackhole {}/32", self.name(from), address_of(to));
        match ip(&route) {
            // It was open already.
            Err(NetworkError::Refused { said, .. }) if is_open && said.contains("No such") => {
                Ok(())
            }
            done => done,
        }
    }

    /// What a machine sends is late or lost in part; how that is done, or `None` where the kernel has no means.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn degrade(
        &self,
        host: Host,
        degraded: Degraded,
    ) -> Result<Option<&'static str>, NetworkError> {
        let discipline = match (self.impairment, degraded) {
            (Impairment::None, _) => return Ok(None),
            (Impairment::Netem, Degraded::Late) => "netem delay 60ms 40ms",
            (Impairment::Netem, Degraded::Lossy) => "netem loss 8% delay 2ms",
            (Impairment::TokenBucket, Degraded::Late) => {
                "tbf rate 600kbit burst 3000 latency 400ms"
            }
            (Impairment::TokenBucket, Degraded::Lossy) => "tbf rate 1mbit burst 3000 limit 6000",
        };
        tc(self.name(host), "replace", discipline)?;
        Ok(Some(discipline))
    }

    /// Ends [`Self::degrade`].
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn restore(&self, host: Host) -> Result<(), NetworkError> {
        match self.impairment {
            Impairment::None => Ok(()),
            Impairment::Netem | Impairment::TokenBucket => tc(self.name(host), "del", ""),
        }
    }

    /// What this kernel cannot do, for people.
    pub(super) const fn lacks(&self) -> Option<&'static str> {
        match self.impairment {
            Impairment::Netem => None,
            Impairment::TokenBucket => Some(
                "this kernel has no netem (CONFIG_NET_SCH_NETEM): links lose and delay by a narrow token bucket",
            ),
            Impairment::None => Some(
                "this kernel has neither netem nor tbf (CONFIG_NET_SCH_NETEM, CONFIG_NET_SCH_TBF): no link loses or \
                 delays",
            ),
        }
    }

    fn name(&self, host: Host) -> &str {
        self.hosts.get(host.0).map_or("", String::as_str)
    }
}

fn address_of(host: Host) -> Ipv4Addr {
    // There are at most `MOST_HOSTS`.
    Ipv4Addr::new(10, 77, 0, u8::try_from(host.0 + 1).unwrap_or(u8::MAX))
}

/// What the kernel can do, tried on a machine.
fn probe(host: &str) -> Impairment {
    let works =
        |discipline| tc(host, "replace", discipline).and_then(|()| tc(host, "del", "")).is_ok();
    if works("netem delay 1ms") {
        Impairment::Netem
    } else if works("tbf rate 1mbit burst 3000 latency 50ms") {
        Impairment::TokenBucket
    } else {
        Impairment::None
    }
}

fn tc(host: &str, verb: &str, discipline: &str) -> Result<(), NetworkError> {
    let arguments = format!("-n {host} qdisc {verb} dev eth0 root {discipline}");
    run("tc", arguments.split_whitespace())
}

fn ip(arguments: &str) -> Result<(), NetworkError> {
    run("ip", arguments.split_whitespace())
}

fn run<'a>(
    program: &'static str,
    arguments: impl IntoIterator<Item = &'a str>,
) -> Result<(), NetworkError> {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let done = Command::new(program).args(&arguments).output();
    let Output { status, stderr, .. } =
        done.map_err(|error| NetworkError::Program { program, error })?;
    if status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&stderr).trim().to_owned();
    Err(NetworkError::Refused { command: format!("{program} {}", arguments.join(" ")), said })
}
