//! Hosts by name or by suffix.

use aa_reach::{Host, HostError};

/// Names (`api.example.com`), everything below one (`*.example.com`), or addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPatterns {
    exact: Vec<Host>,
    /// Each begins with a dot.
    suffixes: Vec<String>,
}

/// A text that names no hosts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` names no hosts: {problem}; write a name, an address, or `*.` before a name")]
pub struct HostPatternError {
    text: String,
    problem: HostError,
}

// === impl HostPatterns ===

impl HostPatterns {
    /// Reads patterns.
    ///
    /// # Errors
    /// The first that is none.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self, HostPatternError> {
        let mut patterns = Self::default();
        for text in texts.iter().map(AsRef::as_ref) {
            let (below, name) = match text.strip_prefix("*.") {
                Some(name) => (true, name),
                None => (false, text),
            };
            let host: Host = name
                .parse()
                .map_err(|problem| HostPatternError { text: text.to_owned(), problem })?;
            if below {
                patterns.suffixes.push(format!(".{host}"));
            } else {
                patterns.exact.push(host);
            }
        }
        Ok(patterns)
    }

    /// Whether the host is one of them.
    pub fn contain(&self, host: &Host) -> bool {
        self.exact.contains(host)
            || (!self.suffixes.is_empty() && {
                let name = host.to_string();
                self.suffixes.iter().any(|suffix| name.ends_with(suffix.as_str()))
            })
    }
}
