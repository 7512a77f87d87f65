//! What a verification trusts from elsewhere: a keys file and a checkpoint kept from earlier.

use std::path::Path;

use aa_ledger::Keys;

use crate::{input, outcome::Failure};

const MAX_KEYS: usize = 1 << 20;
const MAX_CHECKPOINT: usize = 64 << 10;

/// The keys in a file, if one was named.
pub(crate) fn read_keys(path: Option<&Path>) -> Result<Option<Keys>, Failure> {
    let Some(path) = path else { return Ok(None) };
    let keys = Keys::parse(&input::read_text(path, MAX_KEYS)?);
    let name = input::shown(path);
    keys.map(Some).map_err(|error| Failure::bad_input(format_args!("{name}: {error}")))
}

/// The checkpoint in a file, if one was named.
pub(crate) fn read_checkpoint(path: Option<&Path>) -> Result<Option<String>, Failure> {
    path.map(|path| input::read_text(path, MAX_CHECKPOINT)).transpose()
}
