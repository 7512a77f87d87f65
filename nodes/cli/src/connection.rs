//! Which operator API is spoken to, with which key.
//!
//! Either everything is given (options, or the variables that `operator.env` sets), or everything comes
//! from the `operator.env` of a data directory. A URL that is given is never sent a key that was meant for
//! another: the file's key goes to the file's URL only.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use clap::Args;
use zeroize::Zeroizing;

use crate::outcome::Failure;

/// How the API is named on the command line and in the environment.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Operator API")]
pub(crate) struct ApiArguments {
    /// URL of the operator API
    #[arg(long, env = "AASM_API_URL", hide_env_values = true, value_name = "URL")]
    api_url: Option<String>,
    /// API key; better set AASM_API_KEY, since other users of the machine can see arguments
    #[arg(long, env = "AASM_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<SecretText>,
    /// Certificate authority of the API, PEM; the system's are trusted without it
    #[arg(long, env = "AASM_CA_FILE", hide_env_values = true, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Data directory of `aasm up` whose operator.env is used when no URL is given
    #[arg(long, env = "AASM_DATA", hide_env_values = true, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// A text that is not printed.
#[derive(Clone)]
pub(crate) struct SecretText(Zeroizing<String>);

/// Where the API is and how to be let in.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) url: String,
    pub(crate) key: Option<SecretText>,
    pub(crate) ca_file: Option<PathBuf>,
}

/// The file in a data directory that names its API and the operator's key.
const OPERATOR_ENV: &str = "operator.env";

/// The most that is read of it.
const MAX_ENV_FILE: usize = 64 << 10;

// === impl SecretText ===

impl SecretText {
    /// The text, for the one place that sends it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl From<&str> for SecretText {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

// === impl ApiArguments ===

impl ApiArguments {
    /// Finds the API.
    pub(crate) fn connection(&self) -> Result<Connection, Failure> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let key = self.api_key.clone().filter(|key| !key.expose().is_empty());
        let ca_file = self.ca_file.clone().filter(|file| !file.as_os_str().is_empty());
        if let Some(url) = given(&self.api_url) {
            return Ok(Connection { url, key, ca_file });
        }
        let data = data_directory(self.data.as_deref())?;
        let path = data.join(OPERATOR_ENV);
        let text = crate::input::read_text(&path, MAX_ENV_FILE).map_err(|_| {
            Failure::bad_input(format_args!(
                "no operator API is named, and {} cannot be read; start one with `aasm up`, name its \
                 data directory with --data, or set AASM_API_URL, AASM_API_KEY and AASM_CA_FILE",
                path.display()
            ))
        })?;
        let from_file = Connection::parse(&text).ok_or_else(|| {
            Failure::bad_input(format_args!("{} does not set AASM_API_URL", path.display()))
        })?;
        Ok(Connection {
            url: from_file.url,
            key: key.or(from_file.key),
            ca_file: ca_file.or(from_file.ca_file),
        })
    }
}

// === impl Connection ===

impl Connection {
    /// Reads lines of the form `export NAME='value'`.
    fn parse(text: &str) -> Option<Self> {
        let value = |name: &str| {
            text.lines().find_map(|line| {
                let (key, value) = line.trim().strip_prefix("export ")?.split_once('=')?;
                (key.trim() == name).then(|| unquote(value.trim())).flatten()
            })
        };
        Some(Self {
            url: value("AASM_API_URL")?,
            key: value("AASM_API_KEY").map(SecretText::from),
            ca_file: value("AASM_CA_FILE").map(PathBuf::from),
        })
    }
}

/// A word as a shell reads it, of the forms that are written here: bare, or in single quotes with `'\''`
/// for a quote.
fn unquote(word: &str) -> Option<String> {
    let Some(quoted) = word.strip_prefix('\'') else {
        let is_bare = !word.is_empty() && !word.contains(['\'', '"', '$', '`', ' ']);
        return is_bare.then(|| word.to_owned());
    };
    Some(quoted.strip_suffix('\'')?.replace("'\\''", "'"))
}

/// The data directory: the one given, else `$XDG_DATA_HOME/aasm`, else `~/.local/share/aasm`.
pub(crate) fn data_directory(given: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(given) = given.filter(|given| !given.as_os_str().is_empty()) {
        return Ok(given.to_owned());
    }
    let absolute = |name: &str| {
        std::env::var_os(name).map(PathBuf::from).filter(|directory| directory.is_absolute())
    };
    let base = absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local").join("share")));
    base.map(|base| base.join("aasm")).ok_or_else(|| {
        Failure::bad_input("HOME is not set; name the data directory with --data DIR")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operator_env_is_read_like_a_shell_reads_it() {
        let text = "# made by aasm up\nexport AASM_API_URL='https://127.0.0.1:7444'\n\
                    export AASM_API_KEY='aak_x_y'\nexport AASM_CA_FILE='/home/o'\\''brien/ca.pem'\n";
        let connection = Connection::parse(text).unwrap();
        assert_eq!(connection.url, "https://127.0.0.1:7444");
        assert_eq!(connection.key.unwrap().expose(), "aak_x_y");
        assert_eq!(connection.ca_file.unwrap(), Path::new("/home/o'brien/ca.pem"));
        assert!(Connection::parse("export AASM_API_KEY='aak_x_y'").is_none());
    }

    #[test]
    fn a_given_url_never_gets_the_key_of_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = "export AASM_API_URL='https://here'\nexport AASM_API_KEY='aak_here_x'\n";
        std::fs::write(directory.path().join(OPERATOR_ENV), file).unwrap();
        let mut arguments = ApiArguments {
            api_url: Some("https://elsewhere".into()),
            api_key: None,
            ca_file: None,
            data: Some(directory.path().to_owned()),
        };
        let connection = arguments.connection().unwrap();
        assert_eq!(connection.url, "https://elsewhere");
        assert!(connection.key.is_none());
        arguments.api_url = None;
        assert_eq!(arguments.connection().unwrap().key.unwrap().expose(), "aak_here_x");
    }

    #[test]
    fn a_key_is_not_printed() {
        assert_eq!(format!("{:?}", SecretText::from("aak_secret")), "SecretText(…)");
    }
}
