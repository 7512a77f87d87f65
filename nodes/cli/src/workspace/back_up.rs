//! `aasm workspace backup`.

use std::{io::BufReader, path::PathBuf};

use aa_governance::backup::{FileError, verify};
use aa_ledger::Keys;
use clap::Args;

use super::verify::show;
use crate::{
    api::Api,
    connection::ApiArguments,
    outcome::{Exit, Failure},
    terminal::{Format, Terminal},
    whole_file::WholeFile,
};

#[derive(Args, Debug)]
#[command(after_help = "\
It takes the key of an owner. The workspace goes on meanwhile; the backup shows it at one moment. It is verified with \
the key of the control plane's log, and only then is FILE there, readable by its owner only; what was there before is \
replaced. That a backup was taken, and by whom, is in the audit log.

The file holds all of the workspace: policies, agents, budgets, approvals, alerts, the audit log, secrets as they are \
sealed, and of API keys what they are checked against. It holds nothing of the deployment: keep the data directory \
too, above all secrets/master-key.json, without which nothing opens the secrets. Whoever has the file can read \
everything but secrets and keys: keep it like the store itself.

Exit codes:
  0  taken, and proven whole
  1  the control plane refused, cannot be reached or broke off, or the file cannot be written
  2  bad input: wrong usage, or no operator API is named")]
pub(crate) struct Arguments {
    /// Where to write
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
    /// For people, or the JSON of `workspace verify`
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

pub(crate) fn run(arguments: &Arguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let Arguments { out, format, api } = arguments;
    let api = Api::open(api)?;
    let mut file = WholeFile::create(out)?;
    let keys = api.get(&["audit", "keys"]).bytes()?;
    let keys = Keys::parse(&String::from_utf8_lossy(&keys)).map_err(Failure::refused)?;
    let taken = api.post(&["workspace", "backup"]).stream(|piece| file.write(piece));
    let found = verify(BufReader::with_capacity(1 << 16, file.read_back()?), Some(&keys), None);
    let contents = match (taken, found) {
        // What came last may say why there was no more.
        (_, Err(FileError::NotTaken(why))) => {
            return Err(Failure::refused(format_args!("no backup was taken: {why}")));
        }
        (Err(failure), _) => return Err(failure),
        (Ok(()), Err(error)) => {
            return Err(Failure::refused(format_args!("what was received is no backup: {error}")));
        }
        (Ok(()), Ok(contents)) => contents,
    };
    file.finish()?;
    match format {
        Format::Json => terminal.json_line(&contents)?,
        Format::Text => show(&contents, terminal)?,
    }
    Ok(Exit::Done)
}
