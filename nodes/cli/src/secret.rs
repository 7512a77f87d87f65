//! `aasm secret`: what agents and alerts need and nobody may see.

use std::{
    io::{self, IsTerminal, Read},
    path::PathBuf,
};

use aa_control_plane::rest::secrets::{DataKey, Rotation, Secret, SecretRelease, Vault};
use aa_vault::{MAX_SECRET_BYTES, SecretName};
use clap::{Args, Subcommand};
use reqwest::Method;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::{
    agent,
    api::Api,
    connection::ApiArguments,
    input,
    moment::short,
    outcome::{Exit, Failure},
    policy::remote_help,
    table::{Columns, Text},
    terminal::{Format, Style, Terminal, printable},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Keep a secret, in the place of the one there was
    Set(SetArguments),
    /// List secrets by name, and how far rotations are; what they are is never shown
    List(ListArguments),
    /// Seal all secrets under a fresh data key, while everything goes on
    Rotate(RotateArguments),
    /// Wrap the data keys under the next master key, while everything goes on
    RotateMaster(RotateArguments),
    /// Let no proxy send a secret anywhere any more
    Withdraw(DeleteArguments),
    /// Forget a secret
    Delete(DeleteArguments),
}

#[derive(Args, Debug)]
#[command(after_help = remote_help(
    "aasm secret set slack/webhook                 # typed, without being shown\n  \
     pass show openai | aasm secret set OPENAI_API_KEY\n  \
     aasm secret set tls/client-key --file client.key\n  \
     aasm secret set OPENAI_API_KEY --release-to api.openai.com --release-to '*.openai.azure.com'"
))]
pub(crate) struct SetArguments {
    /// What it is called: letters, digits and _ - . /
    name: SecretName,
    /// The file that holds it, or - for standard input, which is read without this, too; one line end after it is not
    /// part of it
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Keep every byte, a line end after it included
    #[arg(long)]
    raw: bool,
    /// A host that proxies may send it to in the place of an agent's placeholder, or *. and a suffix for all below it; in
    /// the place of those there were. May be repeated; without any, that stays as it is
    #[arg(long, value_name = "HOST")]
    release_to: Vec<String>,
    /// For this agent only, its id or name; may be repeated
    #[arg(long, value_name = "AGENT", requires = "release_to")]
    release_agent: Vec<String>,
    /// For the agents of this team only; may be repeated
    #[arg(long, value_name = "TEAM", requires = "release_to")]
    release_team: Vec<String>,
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = remote_help("aasm secret list\n  aasm secret list --keys"))]
pub(crate) struct ListArguments {
    /// The data keys instead of the secrets
    #[arg(long)]
    keys: bool,
    /// For people, or everything as JSON
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = remote_help("aasm secret rotate"))]
pub(crate) struct RotateArguments {
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = remote_help("aasm secret delete OPENAI_API_KEY\n  aasm secret withdraw OPENAI_API_KEY"))]
pub(crate) struct DeleteArguments {
    /// What it is called
    name: SecretName,
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

pub(crate) fn run(command: Command, terminal: &mut Terminal) -> Result<Exit, Failure> {
    match command {
        Command::Set(arguments) => set(&arguments, terminal),
        Command::List(arguments) => list(&arguments, terminal),
        Command::Rotate(arguments) => rotate(&arguments, "rotate", terminal),
        Command::RotateMaster(arguments) => rotate(&arguments, "rotate-master", terminal),
        Command::Withdraw(arguments) => withdraw(&arguments, terminal),
        Command::Delete(arguments) => delete(&arguments, terminal),
    }
}

fn set(arguments: &SetArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let SetArguments { name, file, raw, format, api, .. } = arguments;
    let api = Api::open(api)?;
    let agents = arguments.release_agent.iter();
    let agents: Vec<_> =
        agents.map(|agent| agent::resolve(&api, agent)).collect::<Result<_, _>>()?;
    let mut value = read_value(file.as_ref(), name, terminal)?;
    if !raw && value.last() == Some(&b'\n') {
        value.pop();
        if value.last() == Some(&b'\r') {
            value.pop();
        }
    }
    if value.is_empty() {
        return Err(Failure::bad_input("the secret is empty; nothing was set"));
    }
    if value.len() > MAX_SECRET_BYTES {
        let message = format_args!("the secret has more than {MAX_SECRET_BYTES} bytes, the most");
        return Err(Failure::bad_input(message));
    }
    let mut request = api.request(Method::PUT, &["secrets", name.as_str()]);
    for (parameter, listed) in [
        ("release_to", &arguments.release_to),
        ("release_agent", &agents),
        ("release_team", &arguments.release_team),
    ] {
        for value in listed {
            request = request.query(parameter, Some(value));
        }
    }
    let secret: Secret = request.bytes_body(&value).read()?;
    match format {
        Format::Json => terminal.json(&secret)?,
        Format::Text => {
            let (name, version) = (&secret.name, secret.version);
            let released = match released_to(&secret) {
                hosts if hosts.is_empty() => String::new(),
                hosts => format!(", released to {}", printable(&hosts)),
            };
            terminal.line(format_args!("set the secret {name}, version {version}{released}"))?;
        }
    }
    Ok(Exit::Done)
}

fn withdraw(arguments: &DeleteArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let path = ["secrets", arguments.name.as_str(), "release"];
    let secret: Secret = api.request(Method::DELETE, &path).read()?;
    match arguments.format {
        Format::Json => terminal.json(&secret)?,
        Format::Text => {
            terminal.line(format_args!("the secret {} is released to no host", secret.name))?;
            terminal.note("a proxy that has it keeps it for a minute at most");
        }
    }
    Ok(Exit::Done)
}

fn list(arguments: &ListArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let vault: Vault = Api::open(&arguments.api)?.get(&["secrets"]).read()?;
    if arguments.format == Format::Json {
        terminal.json(&vault)?;
        return Ok(Exit::Done);
    }
    let lines = match arguments.keys {
        true => key_lines(&vault.keys, terminal.colour()),
        false => secret_lines(&vault.secrets, terminal.colour()),
    };
    if (arguments.keys && vault.keys.is_empty()) || (!arguments.keys && vault.secrets.is_empty()) {
        terminal.note("there is no secret; `aasm secret set NAME` makes one");
    } else {
        for line in lines {
            terminal.line(line)?;
        }
    }
    if let Some(left) = left(vault.rotation) {
        terminal.note(format_args!("a rotation is under way: {left}"));
    }
    Ok(Exit::Done)
}

fn rotate(
    arguments: &RotateArguments,
    what: &str,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let vault: Vault = Api::open(&arguments.api)?.post(&["vault", what]).read()?;
    if arguments.format == Format::Json {
        terminal.json(&vault)?;
        return Ok(Exit::Done);
    }
    let left = left(vault.rotation).unwrap_or_else(|| "nothing".to_owned());
    let master = printable(&vault.master_key);
    match what {
        "rotate" => {
            terminal.line(format_args!("a fresh data key seals from now on; left: {left}"))?;
        }
        _ => terminal
            .line(format_args!("data keys go under the next key of {master}; left: {left}"))?,
    }
    terminal
        .note("it goes on by itself, across restarts too; `aasm secret list` shows how far it is");
    Ok(Exit::Done)
}

fn delete(arguments: &DeleteArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let request = api.request(Method::DELETE, &["secrets", arguments.name.as_str()]);
    let secret: Secret = request.read()?;
    match arguments.format {
        Format::Json => terminal.json(&secret)?,
        Format::Text => terminal.line(format_args!("deleted the secret {}", secret.name))?,
    }
    Ok(Exit::Done)
}

fn secret_lines(secrets: &[Secret], colour: bool) -> Vec<String> {
    let mut columns = Columns::new(&["NAME", "VERSION", "SET", "BY", "RELEASED TO"], colour);
    for secret in secrets {
        columns.row([
            Text::styled(secret.name.as_str(), Style::Strong),
            secret.version.to_string().into(),
            short(&secret.updated_at).into(),
            secret.updated_by.as_str().into(),
            released_to(secret).into(),
        ]);
    }
    columns.lines()
}

/// `api.openai.com, *.azure.com for team platform`; nothing when it is released to no host.
fn released_to(secret: &Secret) -> String {
    let Some(SecretRelease { hosts, agents, teams }) = &secret.release else {
        return String::new();
    };
    let agents = agents.iter().map(|agent| format!("agent {agent}"));
    let only: Vec<_> = agents.chain(teams.iter().map(|team| format!("team {team}"))).collect();
    let only = if only.is_empty() { String::new() } else { format!(" for {}", only.join(", ")) };
    format!("{}{only}", hosts.join(", "))
}

fn key_lines(keys: &[DataKey], colour: bool) -> Vec<String> {
    let mut columns = Columns::new(&["DATA KEY", "STATE", "MADE", "MASTER KEY"], colour);
    for key in keys {
        columns.row([
            Text::styled(key.id.as_str(), Style::Strong),
            key.state.as_str().into(),
            short(&key.created_at).into(),
            key.master_key.as_deref().unwrap_or("").into(),
        ]);
    }
    columns.lines()
}

/// `2 data keys to wrap, 14 secrets to seal`; nothing when nothing is left.
fn left(rotation: Rotation) -> Option<String> {
    let Rotation { to_rewrap, to_reseal, to_retire } = rotation;
    let part = |count: usize, what: &str, verb: &str| {
        let plural = if count == 1 { "" } else { "s" };
        (count > 0).then(|| format!("{count} {what}{plural} to {verb}"))
    };
    let parts = [
        part(to_rewrap, "data key", "wrap"),
        part(to_reseal, "secret", "seal"),
        part(to_retire, "data key", "retire"),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Reads the secret from a file or from standard input; from a terminal without showing it.
fn read_value(
    file: Option<&PathBuf>,
    name: &SecretName,
    terminal: &mut Terminal,
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    // As much at once as there can be: a buffer that grows leaves copies behind.
    let most = MAX_SECRET_BYTES + 3;
    let mut value = Zeroizing::new(Vec::with_capacity(most));
    let path = file.filter(|path| !input::is_stdin(path));
    let read = if let Some(path) = path {
        std::fs::File::open(path).and_then(|file| file.take(most as u64).read_to_end(&mut value))
    } else if io::stdin().is_terminal() {
        terminal
            .note(format_args!("type the secret {name} and end it with Enter (it is not shown)"));
        let _hidden = Hidden::begin();
        read_line(&mut value, most)
    } else {
        io::stdin().lock().take(most as u64).read_to_end(&mut value)
    };
    let place = path.map_or("standard input".to_owned(), |path| path.display().to_string());
    read.map_err(|error| Failure::bad_input(format_args!("cannot read {place}: {error}")))?;
    Ok(value)
}

fn read_line(value: &mut Vec<u8>, most: usize) -> io::Result<usize> {
    let mut byte = [0];
    while value.len() < most && io::stdin().lock().read(&mut byte)? == 1 {
        value.push(byte[0]);
        if byte[0] == b'\n' {
            break;
        }
    }
    Ok(value.len())
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Hidden(Option<Termios>);

// === impl Hidden ===

impl Hidden {
    fn begin() -> Self {
        let before = tcgetattr(io::stdin()).ok();
        if let Some(before) = &before {
            let mut hidden = before.clone();
            hidden.local_modes.remove(LocalModes::ECHO);
            hidden.local_modes.insert(LocalModes::ECHONL);
            // One that cannot be hidden was refused by the system; the secret is the operator's to type or not.
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &hidden);
        }
        Self(before)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_rotation_is_said_in_words() {
        let rotation =
            |to_rewrap, to_reseal, to_retire| Rotation { to_rewrap, to_reseal, to_retire };
        assert_eq!(left(rotation(0, 0, 0)), None);
        assert_eq!(
            left(rotation(1, 14, 1)).unwrap(),
            "1 data key to wrap, 14 secrets to seal, 1 data key to retire"
        );
    }
}
