//! Which hosts speak which dialect.

use std::{fmt, str::FromStr};

use crate::{
    head::{Head, Route},
    operation::Operation,
    wire::Wire,
};

/// The dialects, and the hosts that speak them.
#[derive(Clone, Debug, Default)]
pub struct Dialects {
    rules: Vec<HostRule>,
}

/// A dialect by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DialectName {
    /// OpenAI: chat completions, responses, completions, embeddings.
    OpenAi,
}

/// A name that no dialect has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no dialect is named `{name}`; write one of {}", DialectName::all_names())]
pub struct UnknownDialect {
    /// The name.
    pub name: String,
}

/// Why a rule for a host was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostRuleError {
    /// The host is none.
    #[error(
        "`{0}` is no host: write a name or an address without scheme, port and path, or `*.` and a suffix"
    )]
    Host(String),
    /// The prefix is none.
    #[error("`{0}` is no path prefix: write one that begins with `/`, without query, or nothing")]
    Prefix(String),
}

#[derive(Clone, Debug)]
struct HostRule {
    /// Lower case; `.suffix` for all hosts below it.
    host: String,
    dialect: DialectName,
    prefix: String,
}

/// Hosts of providers: exact, or all below a suffix that begins with a dot.
const BUILT_IN: [(&str, DialectName); 2] =
    [("api.openai.com", DialectName::OpenAi), (".api.openai.com", DialectName::OpenAi)];

// === impl Dialects ===

impl Dialects {
    /// The providers whose hosts are known.
    pub const fn built_in() -> Self {
        Self { rules: Vec::new() }
    }

    /// Also hosts that speak a dialect: exact or `*.suffix`, below a path prefix or, when it is empty, anywhere.
    /// Such a rule goes before those that are built in, and of several the first that fits.
    ///
    /// # Errors
    /// The host or the prefix is none.
    pub fn with_host(
        mut self,
        host: &str,
        dialect: DialectName,
        prefix: &str,
    ) -> Result<Self, HostRuleError> {
        let lower = host.trim_end_matches('.').to_ascii_lowercase();
        let name = lower.strip_prefix("*.").unwrap_or(&lower);
        let is_address = name.parse::<std::net::Ipv6Addr>().is_ok();
        let is_host = !name.is_empty()
            && name.len() <= 253
            && !name.contains(|char: char| char.is_whitespace() || "/@?#*[]".contains(char))
            && (is_address || !name.contains(':'));
        if !is_host {
            return Err(HostRuleError::Host(host.to_owned()));
        }
        let is_prefix =
            prefix.is_empty() || prefix.starts_with('/') && !prefix.contains(['?', '#', '%', ' ']);
        if !is_prefix {
            return Err(HostRuleError::Prefix(prefix.to_owned()));
        }
        let host = lower.strip_prefix('*').map_or(lower.clone(), str::to_owned);
        self.rules.push(HostRule { host, dialect, prefix: prefix.to_owned() });
        Ok(self)
    }

    /// The dialect that a host speaks at this path, whether or not it is a call that is known.
    pub fn speaks(&self, host: &str, path: &str) -> Option<DialectName> {
        let route = Route::of(path);
        self.dialect(host, &route)
    }

    /// Which call a request is, from its host and its shape.
    pub fn recognise(&self, head: &Head<'_>) -> Option<Operation> {
        if !head.is_call() {
            return None;
        }
        let route = Route::of(head.path);
        let dialect = self.dialect(head.host, &route)?;
        let wire = dialect.wire(&route)?;
        Some(Operation::new(dialect, wire, None))
    }

    fn dialect(&self, host: &str, route: &Route) -> Option<DialectName> {
        let own = self.rules.iter().find(|rule| {
            fits(host, &rule.host)
                && (rule.prefix.is_empty() || route.starts_with(&Route::of(&rule.prefix)))
        });
        let built_in = || BUILT_IN.iter().find(|(pattern, _)| fits(host, pattern));
        own.map(|rule| rule.dialect).or_else(|| built_in().map(|(_, dialect)| *dialect))
    }
}

fn fits(host: &str, pattern: &str) -> bool {
    match pattern.strip_prefix('.') {
        Some(suffix) => {
            host.strip_suffix(suffix).is_some_and(|label| label.len() > 1 && label.ends_with('.'))
        }
        None => host == pattern,
    }
}

// === impl DialectName ===

impl DialectName {
    /// Every dialect.
    pub const ALL: [Self; 1] = [Self::OpenAi];

    /// The name in configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
        }
    }

    fn all_names() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }

    fn wire(self, route: &Route) -> Option<Wire> {
        route.ends_with(&["chat", "completions"]).then_some(Wire::Chat)
    }
}

impl fmt::Display for DialectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DialectName {
    type Err = UnknownDialect;

    fn from_str(name: &str) -> Result<Self, UnknownDialect> {
        let mut all = Self::ALL.into_iter();
        all.find(|dialect| dialect.as_str() == name)
            .ok_or_else(|| UnknownDialect { name: name.to_owned() })
    }
}
