//! The file as it is written.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Deserializer, de::Error as _};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfigFile {
    #[serde(default)]
    pub(super) gateway: GatewayFile,
    #[serde(default)]
    pub(super) listeners: Vec<ListenerFile>,
    #[serde(default)]
    pub(super) agents: Vec<AgentFile>,
    pub(super) unknown_callers: Option<String>,
    pub(super) admin: Option<SocketAddr>,
    pub(super) ca_directory: Option<PathBuf>,
    #[serde(default)]
    pub(super) hosts: HostsFile,
    #[serde(default)]
    pub(super) upstream: UpstreamFile,
    #[serde(default)]
    pub(super) limits: LimitsFile,
    #[serde(default)]
    pub(super) timeouts: TimeoutsFile,
    #[serde(default)]
    pub(super) approvals: ApprovalsFile,
    #[serde(default)]
    pub(super) breaker: BreakerFile,
    #[serde(default)]
    pub(super) screen: ScreenFile,
}

/// What streams are looked through for while they pass.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ScreenFile {
    pub(super) patterns: Vec<String>,
    pub(super) on_match: OnMatchFile,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnMatchFile {
    #[default]
    Cut,
    Redact,
    Flag,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GatewayFile {
    pub(super) workspace_id: Option<String>,
    pub(super) api_key_file: Option<PathBuf>,
    pub(super) urls: Option<OneOrMore>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) on_unreachable: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListenerFile {
    pub(super) address: SocketAddr,
    #[serde(default)]
    pub(super) mode: ModeFile,
    pub(super) agent: Option<String>,
    pub(super) upstream: Option<String>,
    #[serde(default)]
    pub(super) allow_remote: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ModeFile {
    #[default]
    Forward,
    Transparent,
    Reverse,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AgentFile {
    pub(super) name: String,
    #[serde(default)]
    pub(super) org: String,
    #[serde(default)]
    pub(super) team: String,
    pub(super) level: Option<String>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    pub(super) token_sha256: Option<String>,
    #[serde(default)]
    pub(super) processes: Vec<ProcessFile>,
    pub(super) max_requests: Option<usize>,
    pub(super) max_connections: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProcessFile {
    pub(super) uid: Option<u32>,
    pub(super) cgroup: Option<String>,
    pub(super) pid: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct HostsFile {
    pub(super) pass_through: Vec<String>,
    pub(super) allow_internal: Vec<String>,
    pub(super) addresses: BTreeMap<String, Vec<IpAddr>>,
    pub(super) dialects: Vec<DialectFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DialectFile {
    pub(super) host: String,
    pub(super) dialect: String,
    #[serde(default)]
    pub(super) prefix: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct UpstreamFile {
    pub(super) ca_files: Vec<PathBuf>,
    pub(super) system_roots: Option<bool>,
    pub(super) crl_files: Vec<PathBuf>,
    pub(super) require_revocation_status: bool,
    pub(super) tls13_only: bool,
    pub(super) pins: BTreeMap<String, Vec<String>>,
    pub(super) client_certificates: Vec<ClientCertificateFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClientCertificateFile {
    pub(super) host: String,
    pub(super) certificate_file: PathBuf,
    pub(super) key_file: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LimitsFile {
    pub(super) call_bytes: usize,
    pub(super) uri_bytes: usize,
    pub(super) decoded_bytes: u64,
    pub(super) held_bytes: usize,
    pub(super) connections: usize,
    pub(super) streams: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TimeoutsFile {
    pub(super) connect: Span,
    pub(super) answer: Span,
    pub(super) silence: Span,
    pub(super) head: Span,
    pub(super) drain: Span,
    pub(super) idle: Span,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ApprovalsFile {
    pub(super) wait: Span,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct BreakerFile {
    pub(super) failures: u32,
    pub(super) pause: Span,
}

/// A length of time, written `250ms`, `30s` or `10m`; at most a day.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span(pub(super) Duration);

const MAX_SPAN: Duration = Duration::from_secs(24 * 60 * 60);

// === impl OneOrMore ===

impl OneOrMore {
    pub(super) fn joined(&self) -> String {
        match self {
            Self::One(text) => text.clone(),
            Self::More(texts) => texts.join(","),
        }
    }
}

// === impl Span ===

impl Span {
    const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let millis = match unit {
            "ms" => Some(1),
            "s" => Some(1_000),
            "m" => Some(60_000),
            "h" => Some(3_600_000),
            _ => None,
        };
        number
            .parse::<u64>()
            .ok()
            .zip(millis)
            .and_then(|(number, millis)| number.checked_mul(millis))
            .map(Duration::from_millis)
            .filter(|span| *span <= MAX_SPAN)
            .map(Self)
            .ok_or_else(|| {
                D::Error::custom(format!(
                    "`{text}` is no length of time; write a number and ms, s, m or h, at most 24h"
                ))
            })
    }
}

// === impl LimitsFile ===

impl Default for LimitsFile {
    fn default() -> Self {
        let limits = crate::settings::Limits::default();
        Self {
            call_bytes: limits.call_bytes,
            uri_bytes: limits.uri_bytes,
            decoded_bytes: limits.decoded_bytes,
            held_bytes: limits.held_bytes,
            connections: limits.connections,
            streams: limits.streams,
        }
    }
}

// === impl TimeoutsFile ===

impl Default for TimeoutsFile {
    fn default() -> Self {
        Self {
            connect: Span::seconds(10),
            answer: Span::seconds(600),
            silence: Span::seconds(300),
            head: Span::seconds(120),
            drain: Span::seconds(30),
            idle: Span::seconds(90),
        }
    }
}

// === impl ApprovalsFile ===

impl Default for ApprovalsFile {
    fn default() -> Self {
        Self { wait: Span::seconds(60) }
    }
}

// === impl BreakerFile ===

impl Default for BreakerFile {
    fn default() -> Self {
        Self { failures: 5, pause: Span::seconds(10) }
    }
}
