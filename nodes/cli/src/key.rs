//! `aasm key`: managing API keys.

use aa_control_plane::rest::keys::{CreateKeyRequest, CreatedKey, Key, KeyList};
use clap::{Args, Subcommand, ValueEnum};

use crate::{
    api::Api,
    connection::ApiArguments,
    moment::short,
    outcome::{Exit, Failure},
    policy::REMOTE_EXIT_CODES,
    table::{Columns, Text},
    terminal::{Format, Style, Terminal, printable},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List API keys
    List(ListArguments),
    /// Make an API key; it is shown once
    Create(CreateArguments),
    /// Revoke an API key
    Revoke(RevokeArguments),
}

#[derive(Args, Debug)]
#[command(after_help = REMOTE_EXIT_CODES)]
pub(crate) struct ListArguments {
    /// Also revoked ones
    #[arg(long)]
    all: bool,
    /// For people, or `{"keys":[…]}`
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = REMOTE_EXIT_CODES)]
pub(crate) struct CreateArguments {
    /// What the key is for
    name: String,
    /// What it may do
    #[arg(long, value_enum)]
    role: Role,
    /// The key alone on a line, or everything known of it as JSON
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = REMOTE_EXIT_CODES)]
pub(crate) struct RevokeArguments {
    /// The key's id, as `aasm key list` shows it
    id: String,
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    /// Registers agents, nothing else: the key an application holds
    Agent,
    /// Registers agents and gets secrets that are released for them: the key a proxy holds
    Proxy,
    /// Administers the workspace
    Owner,
    /// Manages policies and agents, reads the audit log
    Admin,
    /// Reads agents and the audit log, manages the keys it created
    Developer,
    /// Reads agents, the audit log and policies
    Viewer,
}

pub(crate) fn run(command: Command, terminal: &mut Terminal) -> Result<Exit, Failure> {
    match command {
        Command::List(arguments) => list(&arguments, terminal),
        Command::Create(arguments) => create(arguments, terminal),
        Command::Revoke(arguments) => revoke(&arguments, terminal),
    }
}

fn list(arguments: &ListArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let mut list: KeyList = Api::open(&arguments.api)?.get(&["keys"]).read()?;
    if !arguments.all {
        list.keys.retain(|key| key.revoked_at.is_none());
    }
    if arguments.format == Format::Json {
        terminal.json(&list)?;
        return Ok(Exit::Done);
    }
    if list.keys.is_empty() {
        terminal.note("there is no key to show; `aasm key create` makes one");
        return Ok(Exit::Done);
    }
    let headings = ["ID", "NAME", "ROLE", "CREATED", "BY", "REVOKED"];
    let mut columns = Columns::new(&headings, terminal.colour());
    for key in list.keys {
        let revoked = key.revoked_at.as_deref().map(short).unwrap_or_default();
        columns.row([
            Text::styled(key.id, Style::Strong),
            key.name.into(),
            key.role.into(),
            short(&key.created_at).into(),
            key.created_by.into(),
            Text::styled(revoked, Style::Bad),
        ]);
    }
    columns.print(terminal)?;
    Ok(Exit::Done)
}

fn create(arguments: CreateArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let role = match arguments.role {
        Role::Agent => "agent",
        Role::Proxy => "proxy",
        Role::Owner => "owner",
        Role::Admin => "admin",
        Role::Developer => "developer",
        Role::Viewer => "viewer",
    };
    let request = CreateKeyRequest { name: arguments.name, role: role.to_owned() };
    let created: CreatedKey = api.post(&["keys"]).json(&request)?.read()?;
    match arguments.format {
        Format::Json => terminal.json(&created)?,
        Format::Text => {
            terminal.line(&created.secret)?;
            let Key { id, name, role, .. } = &created.key;
            let name = printable(name);
            terminal.note(format_args!(
                "key {id} for {name}, role {role}. It is not shown again: keep it safe."
            ));
        }
    }
    Ok(Exit::Done)
}

fn revoke(arguments: &RevokeArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let request = api.request(reqwest::Method::DELETE, &["keys", &arguments.id]);
    let key: Key = request.read()?;
    match arguments.format {
        Format::Json => terminal.json(&key)?,
        Format::Text => {
            let name = printable(&key.name);
            terminal
                .line(format_args!("revoked {} ({name}): it opens nothing any more", key.id))?;
        }
    }
    Ok(Exit::Done)
}
