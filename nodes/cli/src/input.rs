//! Files given on the command line.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use crate::outcome::Failure;

/// Where `-` stands for standard input.
const STDIN: &str = "-";

/// Whether a path means standard input.
pub(crate) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == STDIN
}

/// The name a file is called by in messages.
pub(crate) fn shown(path: &Path) -> String {
    if is_stdin(path) { "<stdin>".to_owned() } else { path.display().to_string() }
}

/// Reads a file or, for `-`, standard input; at most `limit` bytes and one, so that a caller sees that it
/// was more without holding it all.
pub(crate) fn read(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = limit as u64 + 1;
    if is_stdin(path) {
        io::stdin().lock().take(most).read_to_end(&mut bytes)?;
    } else {
        File::open(path)?.take(most).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// Reads a text of at most `limit` bytes.
pub(crate) fn read_text(path: &Path, limit: usize) -> Result<String, Failure> {
    let name = shown(path);
    let bytes = read(path, limit)
        .map_err(|error| Failure::bad_input(format_args!("cannot read {name}: {error}")))?;
    if bytes.len() > limit {
        let message = format_args!("{name} has more than {limit} bytes, the most that is read");
        return Err(Failure::bad_input(message));
    }
    String::from_utf8(bytes).map_err(|_| Failure::bad_input(format_args!("{name} is not UTF-8")))
}
