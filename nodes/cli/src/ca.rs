//! `aasm ca`: the authority of the sidecar proxy, which agents have to trust.

mod trust_store;

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use aa_ca::{Authority, AuthorityError, Rotation};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;

use self::trust_store::{Certificate, TrustStore};
use crate::{
    connection::data_directory,
    outcome::{Exit, Failure},
    terminal::{Format, Style, Terminal},
    whole_file::WholeFile,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the certificates that agents behind the proxy are to trust
    Export(ExportArguments),
    /// Have this machine trust the proxy, and say what its agents' runtimes need besides
    Install(InstallArguments),
    /// Make the next authority; agents that trust only the present one go on for a while
    Rotate(RotateArguments),
}

/// Which authority is meant.
#[derive(Args, Debug)]
pub(crate) struct Place {
    /// The directory of the proxy's authority [default: proxy-ca in the data directory]
    #[arg(long, env = "AASM_PROXY_CA", hide_env_values = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Data directory
    #[arg(long, env = "AASM_DATA", hide_env_values = true, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(after_help = "\
The proxy makes its authority when it first starts. After a rotation the former certificate stays among \
those printed until the overlap ends.

Exit codes:
  0  printed, or written
  1  the authority cannot be read, or the file not written
  2  bad input: wrong usage, no authority there")]
pub(crate) struct ExportArguments {
    #[command(flatten)]
    place: Place,
    /// Write them to a file that everybody may read, instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Takes root. Debian and its kin have update-ca-certificates, Red Hat and its kin update-ca-trust; certificates \
of this proxy that are there and no longer exported are removed. curl, Go, Ruby, git and .NET trust what the \
system trusts. Python, Node and Java do not by themselves; the lines that are printed are for them.

Exit codes:
  0  trusted, or shown with --dry-run
  1  not trusted: no trust store that is known, no right to write to it, or its command failed
  2  bad input: wrong usage, no authority there")]
pub(crate) struct InstallArguments {
    #[command(flatten)]
    place: Place,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// The system below this directory, such as an image that is being built; its update command is named and not run
    #[arg(long, default_value = "/", value_name = "DIR")]
    root: PathBuf,
}

#[derive(Args, Debug)]
#[command(after_help = "\
The present authority vouches for the next one, so agents that know only the present one notice nothing until \
the overlap ends. Its key is removed at once. A proxy that runs takes the next one when it reads the directory \
again. Have agents' machines trust it meanwhile: `aasm ca install`, or `aasm ca export`.

When somebody else may have read the key, use --replace, remove the former certificate from every trust \
store, and install the next one: until then agents refuse the proxy.

Exit codes:
  0  rotated
  1  not rotated: an overlap still lasts, or the directory cannot be used
  2  bad input: wrong usage, no authority there")]
pub(crate) struct RotateArguments {
    #[command(flatten)]
    place: Place,
    /// For how many days agents that trust only the present authority go on
    #[arg(long, default_value_t = 90, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..=3650))]
    overlap: u16,
    /// End the trust in the present authority at once
    #[arg(long, conflicts_with = "overlap")]
    replace: bool,
    /// For people, or `{"fingerprint","expires_at","overlap_until","file"}`
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What a program reads of an authority.
#[derive(Serialize)]
struct Described {
    /// The SHA-256 of its certificate.
    fingerprint: String,
    expires_at: String,
    overlap_until: Option<String>,
    file: PathBuf,
}

/// The authority's directory in the data directory.
const DIRECTORY: &str = "proxy-ca";
const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn run(command: Command, terminal: &mut Terminal) -> Result<Exit, Failure> {
    match command {
        Command::Export(arguments) => export(&arguments, terminal),
        Command::Install(arguments) => install(&arguments, terminal),
        Command::Rotate(arguments) => rotate(&arguments, terminal),
    }
}

fn export(arguments: &ExportArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let authority = arguments.place.load()?;
    let bundle = authority.bundle(SystemTime::now());
    match &arguments.out {
        None => terminal.raw(bundle.as_bytes())?,
        Some(path) => {
            let mut file = WholeFile::create(path)?;
            file.write(bundle.as_bytes())?;
            file.share()?;
            file.finish()?;
            terminal.note(format_args!("written to {}", path.display()));
        }
    }
    Ok(Exit::Done)
}

fn install(arguments: &InstallArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let InstallArguments { place, dry_run, root } = arguments;
    let authority = place.load()?;
    let wanted: Vec<Certificate> =
        authority.named_certificates(SystemTime::now()).iter().map(Certificate::new).collect();
    let Some(store) = TrustStore::of(root) else {
        let shown = root.display();
        return Err(Failure::refused(format_args!(
            "there is no trust store known below {shown}: neither that of Debian nor that of Red Hat; write the \
             certificates to a file with `aasm ca export --out FILE`, and have agents trust it: {}",
            trust_store::by_environment("FILE")
        )));
    };
    let removed = store.superfluous(&wanted)?;
    let is_own = root == Path::new("/");
    let verb = |done: &'static str, not: &'static str| if *dry_run { not } else { done };
    for certificate in &wanted {
        if !dry_run {
            store.write(certificate)?;
        }
        let path = store.path(certificate);
        terminal.line(format_args!("{} {}", verb("wrote", "would write"), path.display()))?;
    }
    for path in &removed {
        if !dry_run {
            store.remove(path)?;
        }
        terminal.line(format_args!("{} {}", verb("removed", "would remove"), path.display()))?;
    }
    let command = store.command();
    match (is_own, dry_run) {
        (true, false) => {
            // What was done is told before what may fail.
            terminal.flush()?;
            store.update()?;
            terminal.line(format_args!("ran {command}"))?;
        }
        (true, true) => terminal.line(format_args!("would run {command}"))?,
        (false, _) => terminal.line(format_args!("run {command} in that system"))?,
    }
    terminal.line("")?;
    terminal.line(trust_store::by_environment(store.bundle()))?;
    Ok(Exit::Done)
}

fn rotate(arguments: &RotateArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let RotateArguments { place, overlap, replace, format } = arguments;
    let rotation =
        if *replace { Rotation::Replace } else { Rotation::Overlap(DAY * u32::from(*overlap)) };
    let now = SystemTime::now();
    let directory = place.directory()?;
    let authority = Authority::rotate(&directory, rotation, now).map_err(failed)?;
    let described = Described::of(&authority, now);
    if *format == Format::Json {
        terminal.json_line(&described)?;
        return Ok(Exit::Done);
    }
    let done = terminal.paint(Style::Good, "rotated").into_owned();
    let Described { fingerprint, expires_at, overlap_until, file } = described;
    terminal
        .line(format_args!("{done}: {fingerprint}, until {expires_at}, in {}", file.display()))?;
    terminal.line(match overlap_until {
        Some(until) => format!(
            "have agents' machines trust it before {until}: `aasm ca install`, or `aasm ca export`"
        ),
        None => {
            "agents refuse the proxy until they trust it: `aasm ca install`, or `aasm ca export`"
                .to_owned()
        }
    })?;
    Ok(Exit::Done)
}

fn failed(error: AuthorityError) -> Failure {
    match error {
        AuthorityError::Missing { .. } => {
            Failure::bad_input(format_args!("{error}; name another directory with --dir"))
        }
        error => Failure::refused(error),
    }
}

// === impl Place ===

impl Place {
    fn directory(&self) -> Result<PathBuf, Failure> {
        match &self.dir {
            Some(directory) if !directory.as_os_str().is_empty() => Ok(directory.clone()),
            _ => Ok(data_directory(self.data.as_deref())?.join(DIRECTORY)),
        }
    }

    fn load(&self) -> Result<Authority, Failure> {
        Authority::load(&self.directory()?).map_err(failed)
    }
}

// === impl Described ===

impl Described {
    fn of(authority: &Authority, now: SystemTime) -> Self {
        Self {
            fingerprint: authority.fingerprint(),
            expires_at: shown(authority.expires_at()),
            overlap_until: authority.overlap_until(now).map(shown),
            file: authority.file().to_owned(),
        }
    }
}

/// In RFC 3339.
fn shown(moment: SystemTime) -> String {
    Timestamp::try_from(moment).map(|moment| moment.to_string()).unwrap_or_default()
}
