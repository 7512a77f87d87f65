//! The configuration file, and what it comes to.

mod file;

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use aa_client::{AgentSpec, ApiKey};
use aa_dialect::Dialects;
use aa_protocol::GovernanceLevel;
use aa_reach::{Host, HostError, HostName};
use aa_scan::Rules;
use secrecy::SecretSlice;

use self::file::{
    AgentFile, ConfigFile, GatewayFile, ListenerFile, ModeFile, OnMatchFile, OneOrMore, ScreenFile,
    UpstreamFile,
};
use crate::{
    breaker,
    caller::{Callers, Entry, ProcessRule, TokenDigest, UnknownCaller},
    dial::{Allowance, DialOptions, Dialer},
    host_patterns::HostPatterns,
    lookup::FixedLookup,
    screen::{OnMatch, Screening},
    serve::{Listener, Mode},
    settings::{Limits, Parts, Settings},
    target::{Authority, Origin, Scheme},
    tls::{
        UpstreamOptions, UpstreamTls,
        upstream::{ClientCertificate, HostTls, PinError, Revocation, RevocationDepth},
    },
    upstream::Timeouts,
};

/// All that the proxy is told.
pub struct Config {
    /// How the gateway is reached.
    pub gateway: aa_client::Config,
    /// Where it listens; never empty.
    pub listeners: Vec<Listener>,
    /// Where operators ask for health and metrics.
    pub admin: Option<SocketAddr>,
    /// Where the CA is kept.
    pub ca_directory: PathBuf,
    /// What can change while it runs.
    pub settings: Settings,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is no such configuration.
    #[error("{}: {error}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What and where.
        error: Box<toml::de::Error>,
    },
    /// A value cannot be used.
    #[error("{}: {key}: {problem}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Which.
        key: String,
        /// What is wrong and what to write.
        problem: String,
    },
    /// The gateway's settings are missing or malformed.
    #[error(transparent)]
    Gateway(#[from] aa_client::ConfigError),
}

/// What is wrong with one value, and which.
type Problem = (String, String);

const DEFAULT_MAX_REQUESTS: usize = 256;
const DEFAULT_MAX_CONNECTIONS: usize = 256;
const MAX_FILE_BYTES: u64 = 1 << 20;

// === impl Config ===

impl Config {
    /// Reads a file; what it does not say of the gateway is read from the environment, as SDKs do.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read_bounded(path)
            .map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?;
        Self::parse(&text, path, |name| std::env::var(name).ok())
    }

    fn parse(
        text: &str,
        path: &Path,
        environment: impl Fn(&'static str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let file: ConfigFile = toml::from_str(text).map_err(|error| ConfigError::Malformed {
            path: path.to_owned(),
            error: Box::new(error),
        })?;
        let base = path.parent().unwrap_or(Path::new("."));
        let gateway = gateway(&file.gateway, base, environment)?;
        Self::build(file, base, gateway).map_err(|(key, problem)| ConfigError::Value {
            path: path.to_owned(),
            key,
            problem,
        })
    }

    fn build(file: ConfigFile, base: &Path, gateway: aa_client::Config) -> Result<Self, Problem> {
        let entries = agents(&file.agents)?;
        let names: HashSet<&str> = entries.iter().map(|entry| entry.spec.name.as_str()).collect();
        let known = |key: String, name: &str| {
            if names.contains(name) {
                Ok(Arc::<str>::from(name))
            } else {
                Err((key, format!("there is no agent `{name}` under [[agents]]")))
            }
        };
        let unknown = match file.unknown_callers.as_deref() {
            None | Some("deny") => UnknownCaller::Deny,
            Some(name) => UnknownCaller::Agent(known("unknown_callers".to_owned(), name)?),
        };
        let mut listeners = Vec::with_capacity(file.listeners.len());
        for (index, listener) in file.listeners.iter().enumerate() {
            listeners.push(self::listener(listener, &format!("listeners[{index}]"), &known)?);
        }
        if listeners.is_empty() {
            return Err((
                "listeners".to_owned(),
                "there is none; add [[listeners]] with address = \"127.0.0.1:8888\"".to_owned(),
            ));
        }
        let pass_through = HostPatterns::parse(&file.hosts.pass_through)
            .map_err(|error| ("hosts.pass_through".to_owned(), error.to_string()))?;
        let allowed = file
            .hosts
            .allow_internal
            .iter()
            .map(|text| text.parse())
            .collect::<Result<Vec<Allowance>, _>>()
            .map_err(|error| ("hosts.allow_internal".to_owned(), error.to_string()))?;
        let lookup = FixedLookup::new(fixed_addresses(&file)?);
        let mut dialects = Dialects::built_in();
        for (index, host) in file.hosts.dialects.iter().enumerate() {
            let key = || format!("hosts.dialects[{index}]");
            let dialect = host.dialect.parse().map_err(|error| (key(), format!("{error}")))?;
            dialects = dialects
                .with_host(&host.host, dialect, &host.prefix)
                .map_err(|error| (key(), error.to_string()))?;
        }
        let upstream_tls = UpstreamTls::new(upstream_options(&file.upstream, base)?)
            .map_err(|error| ("upstream".to_owned(), error.to_string()))?;
        let timeouts = &file.timeouts;
        let timeouts = Timeouts {
            connect: timeouts.connect.0,
            answer: timeouts.answer.0,
            silence: timeouts.silence.0,
            head: timeouts.head.0,
            drain: timeouts.drain.0,
            idle: timeouts.idle.0,
        };
        let dialing = DialOptions { total: timeouts.connect, ..DialOptions::default() };
        let limits = Limits {
            call_bytes: file.limits.call_bytes,
            uri_bytes: file.limits.uri_bytes,
            decoded_bytes: file.limits.decoded_bytes,
            held_bytes: file.limits.held_bytes,
            connections: file.limits.connections,
            streams: file.limits.streams,
        };
        let settings = Settings::new(Parts {
            callers: Callers::new(entries, unknown),
            dialects,
            pass_through,
            limits,
            timeouts,
            approval_wait: file.approvals.wait.0,
            breaker: breaker::Settings {
                failures: file.breaker.failures,
                pause: file.breaker.pause.0,
            },
            dialer: Dialer::with_lookup(dialing, allowed, Arc::new(lookup)),
            upstream_tls,
            screening: screening(&file.screen)?,
        });
        let ca_directory = file.ca_directory.map_or_else(
            || PathBuf::from("/var/lib/aa-proxy/ca"),
            |directory| base.join(directory),
        );
        Ok(Self { gateway, listeners, admin: file.admin, ca_directory, settings })
    }
}

fn fixed_addresses(file: &ConfigFile) -> Result<HashMap<HostName, Vec<IpAddr>>, Problem> {
    let mut fixed = HashMap::new();
    for (name, addresses) in &file.hosts.addresses {
        let key = || format!("hosts.addresses.{name}");
        let host: Host = name.parse().map_err(|error| (key(), format!("{error}")))?;
        let host = host.name().ok_or_else(|| (key(), "it is an address already".to_owned()))?;
        if addresses.is_empty() {
            return Err((key(), "there is no address".to_owned()));
        }
        fixed.insert(host.clone(), addresses.clone());
    }
    Ok(fixed)
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let bytes = fs::metadata(path)?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(io::Error::other(format!(
            "it is {bytes} bytes long and at most {MAX_FILE_BYTES} are read"
        )));
    }
    fs::read_to_string(path)
}

/// What the file says of the gateway, then what the environment says.
fn gateway(
    file: &GatewayFile,
    base: &Path,
    environment: impl Fn(&'static str) -> Option<String>,
) -> Result<aa_client::Config, ConfigError> {
    let api_key = match &file.api_key_file {
        None => None,
        Some(path) => {
            let path = base.join(path);
            let key = read_bounded(&path)
                .map(zeroize::Zeroizing::new)
                .map_err(|error| ConfigError::Unreadable { path, error })?;
            Some(ApiKey::new(key.trim())?)
        }
    };
    let has_key = api_key.is_some();
    let mut config = aa_client::Config::from_settings(|name| {
        let said = match name {
            "AAA_WORKSPACE_ID" => file.workspace_id.clone(),
            "AAA_GATEWAY_URL" => file.urls.as_ref().map(OneOrMore::joined),
            "AAA_CA_FILE" => {
                file.ca_file.as_ref().map(|path| base.join(path).to_string_lossy().into_owned())
            }
            "AAA_ON_UNREACHABLE" => file.on_unreachable.clone(),
            // Replaced below: a key is not passed around as text.
            "AAA_API_KEY" if has_key => Some("-".to_owned()),
            _ => None,
        };
        said.or_else(|| environment(name))
    })?;
    if let Some(key) = api_key {
        config.api_key = key;
    }
    Ok(config)
}

fn agents(files: &[AgentFile]) -> Result<Vec<Entry>, Problem> {
    let mut entries: Vec<Entry> = Vec::with_capacity(files.len());
    for (index, file) in files.iter().enumerate() {
        let key = |field: &str| format!("agents[{index}].{field}");
        if file.name.is_empty() || file.name.chars().count() > 128 || file.name.contains(':') {
            let problem = "write 1 to 128 characters without a colon";
            return Err((key("name"), problem.to_owned()));
        }
        if entries.iter().any(|entry| entry.spec.name == file.name) {
            return Err((key("name"), format!("there are two agents `{}`", file.name)));
        }
        let token = match &file.token_sha256 {
            None => None,
            Some(text) => Some(TokenDigest::from_hex(text).ok_or_else(|| {
                let how = "write 64 hexadecimal digits: printf %s \"$TOKEN\" | sha256sum";
                (key("token_sha256"), how.to_owned())
            })?),
        };
        let governance_level = match &file.level {
            None => GovernanceLevel::default(),
            Some(level) => level
                .parse()
                .map_err(|_| (key("level"), format!("`{level}` is none of L0, L1, L2, L3")))?,
        };
        let processes: Vec<ProcessRule> = file
            .processes
            .iter()
            .map(|rule| ProcessRule { uid: rule.uid, cgroup: rule.cgroup.clone(), pid: rule.pid })
            .collect();
        if processes.iter().any(ProcessRule::is_empty) {
            return Err((key("processes"), "name a uid, a cgroup or a pid".to_owned()));
        }
        entries.push(Entry {
            spec: AgentSpec {
                name: file.name.clone(),
                id: None,
                org: file.org.clone(),
                team: file.team.clone(),
                governance_level,
                labels: file.labels.clone(),
            },
            token,
            processes,
            max_requests: positive(file.max_requests, DEFAULT_MAX_REQUESTS, || {
                key("max_requests")
            })?,
            max_connections: positive(file.max_connections, DEFAULT_MAX_CONNECTIONS, || {
                key("max_connections")
            })?,
        });
    }
    Ok(entries)
}

fn positive(
    given: Option<usize>,
    default: usize,
    key: impl Fn() -> String,
) -> Result<usize, Problem> {
    match given.unwrap_or(default) {
        0 => Err((key(), "write 1 or more".to_owned())),
        count => Ok(count),
    }
}

fn listener(
    file: &ListenerFile,
    key: &str,
    known: &impl Fn(String, &str) -> Result<Arc<str>, Problem>,
) -> Result<Listener, Problem> {
    let agent =
        file.agent.as_deref().map(|name| known(format!("{key}.agent"), name)).transpose()?;
    if !file.address.ip().is_loopback() && !file.allow_remote && file.mode != ModeFile::Transparent
    {
        let problem = "connections to it are not encrypted, so it is refused beyond this machine; listen on a \
                       loopback address, or write allow_remote = true where the network itself is trusted";
        return Err((format!("{key}.address"), problem.to_owned()));
    }
    let mode = match (file.mode, &file.upstream) {
        (ModeFile::Forward, None) => Mode::Forward,
        (ModeFile::Transparent, None) => Mode::Transparent,
        (ModeFile::Reverse, Some(url)) => {
            let (upstream, path) =
                upstream_url(url).map_err(|problem| (format!("{key}.upstream"), problem))?;
            Mode::Reverse { upstream, path }
        }
        (ModeFile::Reverse, None) => {
            let problem = "a reverse listener needs one, such as https://api.openai.com";
            return Err((format!("{key}.upstream"), problem.to_owned()));
        }
        (ModeFile::Forward | ModeFile::Transparent, Some(_)) => {
            return Err((format!("{key}.upstream"), "only a reverse listener has one".to_owned()));
        }
    };
    Ok(Listener { address: file.address, mode, agent })
}

fn upstream_url(text: &str) -> Result<(Origin, String), String> {
    let uri: http::Uri = text.parse().map_err(|error| format!("`{text}` is no URL: {error}"))?;
    let scheme = match uri.scheme_str() {
        Some("https") => Scheme::Https,
        Some("http") => Scheme::Http,
        _ => return Err(format!("`{text}` begins with neither https:// nor http://")),
    };
    if uri.query().is_some() {
        return Err(format!("`{text}` has a query; write scheme, host and path only"));
    }
    let authority = uri.authority().ok_or_else(|| format!("`{text}` names no host"))?;
    let authority = Authority::parse(authority.as_str(), scheme.default_port())
        .map_err(|error| format!("`{text}` {error}"))?;
    Ok((Origin { scheme, authority }, uri.path().trim_end_matches('/').to_owned()))
}

fn screening(file: &ScreenFile) -> Result<Screening, Problem> {
    let on_match = match file.on_match {
        OnMatchFile::Cut => OnMatch::Cut,
        OnMatchFile::Redact => OnMatch::Redact,
        OnMatchFile::Flag => OnMatch::Flag,
    };
    let rules = Rules::compile(&file.patterns).map_err(|error| {
        (format!("screen.patterns[{}]", error.pattern), error.problem.to_string())
    })?;
    Ok(Screening { rules: (!rules.is_empty()).then_some(rules), on_match })
}

fn upstream_options(file: &UpstreamFile, base: &Path) -> Result<UpstreamOptions, Problem> {
    let below = |paths: &[PathBuf]| paths.iter().map(|path| base.join(path)).collect::<Vec<_>>();
    let revocation = (!file.crl_files.is_empty()).then(|| Revocation {
        lists: below(&file.crl_files),
        depth: RevocationDepth::Chain,
        allow_unknown: !file.require_revocation_status,
        allow_expired_lists: false,
    });
    let mut hosts: Vec<HostTls> = Vec::new();
    for (name, pins) in &file.pins {
        let key = || format!("upstream.pins.{name}");
        let host = name.parse().map_err(|error: HostError| (key(), error.to_string()))?;
        let pins = pins
            .iter()
            .map(|pin| pin.parse())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error: PinError| (key(), error.to_string()))?;
        hosts.push(HostTls { host, pins, client: None });
    }
    for (index, client) in file.client_certificates.iter().enumerate() {
        let key = || format!("upstream.client_certificates[{index}]");
        let host: Host =
            client.host.parse().map_err(|error: HostError| (key(), error.to_string()))?;
        let read = |path: &Path| {
            let path = base.join(path);
            fs::read(&path).map_err(|error| (key(), format!("{}: {error}", path.display())))
        };
        let chain = read(&client.certificate_file)?;
        let secret = SecretSlice::from(read(&client.key_file)?);
        let certificate = ClientCertificate::from_pem(&chain, &secret)
            .map_err(|error| (key(), error.to_string()))?;
        match hosts.iter_mut().find(|of_host| of_host.host == host) {
            Some(of_host) if of_host.client.is_none() => of_host.client = Some(certificate),
            Some(_) => return Err((key(), format!("{host} has two client certificates"))),
            None => hosts.push(HostTls { host, pins: Vec::new(), client: Some(certificate) }),
        }
    }
    Ok(UpstreamOptions {
        system_roots: file.system_roots.unwrap_or(true),
        roots: below(&file.ca_files),
        tls12: !file.tls13_only,
        revocation,
        hosts,
        ..UpstreamOptions::default()
    })
}
