//! Which agent a connection or request is of.

use std::{collections::HashMap, fmt, sync::Arc};

use aa_client::AgentSpec;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, header::PROXY_AUTHORIZATION};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::socket_owner::SocketOwner;

/// What is known of who calls, besides what a request says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The agent that the listener is for.
    pub(crate) listener: Option<Arc<str>>,
    /// The name in the client certificate, verified.
    pub(crate) certificate: Option<Arc<str>>,
    /// The process at the other end, on this machine.
    pub(crate) owner: Option<SocketOwner>,
}

/// An agent that may call, and what it is known by.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it registers as.
    pub spec: AgentSpec,
    /// SHA-256 of the password it brings as a proxy credential, its name being the user.
    pub token: Option<TokenDigest>,
    /// The processes that are its own.
    pub processes: Vec<ProcessRule>,
    /// Requests under way at once, at most.
    pub max_requests: usize,
    /// Connections to upstreams at once, at most.
    pub max_connections: usize,
}

/// The SHA-256 of a token. Neither is ever printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenDigest([u8; 32]);

/// Processes of this machine: all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessRule {
    /// The user they run as.
    pub uid: Option<u32>,
    /// The control group they are in, or one above it: `/system.slice/agent.service`.
    pub cgroup: Option<String>,
    /// One process.
    pub pid: Option<u32>,
}

/// Who calls when nothing says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UnknownCaller {
    /// Nobody who may.
    #[default]
    Deny,
    /// This agent.
    Agent(Arc<str>),
}

/// The agents that may call.
#[derive(Clone, Debug)]
pub struct Callers {
    entries: HashMap<Arc<str>, Arc<Entry>>,
    unknown: UnknownCaller,
}

/// Why a caller may not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallerError {
    /// The credentials are wrong, or there is no such agent: who tries is not told which.
    #[error(
        "the proxy credentials name no agent of this proxy; use http://AGENT:TOKEN@HOST:PORT as the proxy's address"
    )]
    Credentials,
    /// They cannot be read.
    #[error("the header Proxy-Authorization is not `Basic` with AGENT:TOKEN in base64 (RFC 7617)")]
    Malformed,
    /// Nothing says who calls.
    #[error(
        "nothing says which agent this is: {seen}. Bring proxy credentials (http://AGENT:TOKEN@HOST:PORT), or have \
         the proxy's operator add a listener, a process rule or `unknown_callers` for it"
    )]
    Unknown {
        /// What is known.
        seen: String,
    },
    /// The listener's or certificate's agent is not configured.
    #[error("there is no agent `{0}` in the proxy's configuration")]
    NotConfigured(Arc<str>),
}

const MAX_CREDENTIALS: usize = 2048;

// === impl Callers ===

impl Callers {
    /// Those of the configuration.
    pub fn new(entries: impl IntoIterator<Item = Entry>, unknown: UnknownCaller) -> Self {
        let entries = entries
            .into_iter()
            .map(|entry| (entry.spec.name.as_str().into(), Arc::new(entry)))
            .collect();
        Self { entries, unknown }
    }

    /// Whether any rule needs to know the process at the other end.
    pub(crate) fn ask_for_owner(&self) -> bool {
        self.entries.values().any(|entry| !entry.processes.is_empty())
    }

    /// Whether a client would do better to bring credentials.
    pub(crate) fn take_credentials(&self) -> bool {
        self.entries.values().any(|entry| entry.token.is_some())
    }

    /// Who calls: by credentials, which must be right once they are brought, by client certificate, by listener, by
    /// process, else by the rule for the unknown.
    pub(crate) fn identify(
        &self,
        seen: &Seen,
        headers: Option<&HeaderMap>,
    ) -> Result<Arc<Entry>, CallerError> {
        if let Some(value) = headers.and_then(|headers| headers.get(PROXY_AUTHORIZATION)) {
            return self.by_credentials(value.as_bytes());
        }
        if let Some(name) = seen.certificate.as_ref().or(seen.listener.as_ref()) {
            return self.by_name(name);
        }
        if let Some(owner) = &seen.owner {
            let mut of_process = self
                .entries
                .values()
                .filter(|entry| entry.processes.iter().any(|rule| rule.holds_for(owner)));
            // Two that claim one process: neither is sure.
            if let (Some(entry), None) = (of_process.next(), of_process.next()) {
                return Ok(Arc::clone(entry));
            }
        }
        match &self.unknown {
            UnknownCaller::Agent(name) => self.by_name(name),
            UnknownCaller::Deny => Err(CallerError::Unknown { seen: seen.to_string() }),
        }
    }

    fn by_name(&self, name: &Arc<str>) -> Result<Arc<Entry>, CallerError> {
        self.entries.get(name).cloned().ok_or_else(|| CallerError::NotConfigured(Arc::clone(name)))
    }

    fn by_credentials(&self, value: &[u8]) -> Result<Arc<Entry>, CallerError> {
        let encoded = value
            .get(..6)
            .filter(|scheme| scheme.eq_ignore_ascii_case(b"basic "))
            .map(|_| value[6..].trim_ascii())
            .filter(|encoded| encoded.len() <= MAX_CREDENTIALS)
            .ok_or(CallerError::Malformed)?;
        let decoded =
            zeroize::Zeroizing::new(STANDARD.decode(encoded).map_err(|_| CallerError::Malformed)?);
        let colon = decoded.iter().position(|byte| *byte == b':').ok_or(CallerError::Malformed)?;
        let name = std::str::from_utf8(&decoded[..colon]).map_err(|_| CallerError::Malformed)?;
        let token = TokenDigest::of(&decoded[colon + 1..]);
        let entry = self.entries.get(name);
        // Compared with something in any case, so that the time does not tell names.
        let expected = entry.and_then(|entry| entry.token).unwrap_or(TokenDigest([0; 32]));
        let is_right = bool::from(expected.0.ct_eq(&token.0));
        match entry {
            Some(entry) if is_right && entry.token.is_some() => Ok(Arc::clone(entry)),
            _ => Err(CallerError::Credentials),
        }
    }
}

// === impl TokenDigest ===

impl TokenDigest {
    /// Of a token.
    pub fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// From 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut digest = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (byte, digits) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).ok()?;
            if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return None;
            }
            *byte = u8::from_str_radix(digits, 16).ok()?;
        }
        Some(Self(digest))
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(..)")
    }
}

// === impl ProcessRule ===

impl ProcessRule {
    /// Whether it names anything at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn holds_for(&self, owner: &SocketOwner) -> bool {
        let cgroup_holds = |wanted: &str| {
            owner.cgroup.as_deref().is_some_and(|cgroup| {
                cgroup == wanted
                    || cgroup.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('/'))
            })
        };
        !self.is_empty()
            && self.uid.is_none_or(|uid| uid == owner.uid)
            && self.pid.is_none_or(|pid| owner.pid == Some(pid))
            && self.cgroup.as_deref().is_none_or(cgroup_holds)
    }
}

// === impl Seen ===

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.owner {
            Some(owner) => write!(f, "no credentials, and {owner}"),
            None => f.write_str("no credentials, and no process of this machine that is known"),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn entry(name: &str, token: Option<&str>, processes: Vec<ProcessRule>) -> Entry {
        Entry {
            spec: AgentSpec { name: name.to_owned(), ..AgentSpec::default() },
            token: token.map(|token| TokenDigest::of(token.as_bytes())),
            processes,
            max_requests: 1,
            max_connections: 1,
        }
    }

    fn credentials(text: &str) -> HeaderMap {
        let value = format!("Basic {}", STANDARD.encode(text));
        HeaderMap::from_iter([(PROXY_AUTHORIZATION, HeaderValue::from_str(&value).unwrap())])
    }

    fn name(found: Result<Arc<Entry>, CallerError>) -> Result<String, CallerError> {
        found.map(|entry| entry.spec.name.clone())
    }

    #[test]
    fn wrong_credentials_are_not_made_up_for_by_anything_else() {
        let callers = Callers::new(
            [entry("a", Some("secret"), Vec::new()), entry("b", None, Vec::new())],
            UnknownCaller::Agent("b".into()),
        );
        let seen = Seen { listener: Some("b".into()), ..Seen::default() };
        let identify = |text: &str| name(callers.identify(&seen, Some(&credentials(text))));
        assert_eq!(identify("a:secret"), Ok("a".to_owned()));
        assert_eq!(identify("a:Secret"), Err(CallerError::Credentials));
        assert_eq!(identify("c:secret"), Err(CallerError::Credentials));
        // An agent without a token is not known by an empty one.
        assert_eq!(identify("b:"), Err(CallerError::Credentials));
        assert_eq!(identify("b"), Err(CallerError::Malformed));
        assert_eq!(name(callers.identify(&seen, None)), Ok("b".to_owned()));
    }

    #[test]
    fn an_unknown_caller_is_denied_by_default() {
        let callers = Callers::new([entry("a", Some("t"), Vec::new())], UnknownCaller::default());
        let refused = callers.identify(&Seen::default(), None).unwrap_err();
        assert!(matches!(refused, CallerError::Unknown { .. }), "{refused}");
    }

    #[test]
    fn a_process_is_known_by_user_and_control_group() {
        let rule = ProcessRule {
            uid: Some(1001),
            cgroup: Some("/system.slice/agent.service".to_owned()),
            pid: None,
        };
        let callers = Callers::new([entry("a", None, vec![rule])], UnknownCaller::Deny);
        let owner = |uid, cgroup: &str| Seen {
            owner: Some(SocketOwner { uid, pid: Some(7), cgroup: Some(cgroup.to_owned()) }),
            ..Seen::default()
        };
        let identify = |seen: &Seen| name(callers.identify(seen, None));
        assert_eq!(identify(&owner(1001, "/system.slice/agent.service")), Ok("a".to_owned()));
        assert_eq!(identify(&owner(1001, "/system.slice/agent.service/x")), Ok("a".to_owned()));
        identify(&owner(1001, "/system.slice/agent.service2")).unwrap_err();
        identify(&owner(1002, "/system.slice/agent.service")).unwrap_err();
    }
}
