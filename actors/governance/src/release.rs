//! Which secrets leave the vault, and what for: the rule that may stand beside a secret, and what is asked under it.
//!
//! An agent holds a placeholder. A proxy on its way asks for the secret itself, and puts it in place of the placeholder
//! in requests to the hosts that the rule names.

use std::{collections::BTreeSet, fmt, str::FromStr, time::Duration};

use aa_policy::host::{Host, HostGlob};
use aa_protocol::AgentId;
use aa_vault::{SecretName, SecretValue};
use serde::{Deserialize, Serialize};

/// Where a secret may be sent, and by which agents' proxies. Whoever sets one gives the secret with it, so nobody can
/// have a secret sent away that they do not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub struct Release {
    hosts: BTreeSet<ReleaseHost>,
    agents: BTreeSet<AgentId>,
    teams: BTreeSet<String>,
}

/// A host, or all hosts below a suffix. Text form: `api.openai.com`, `*.openai.azure.com` or an IP literal, in the
/// normal form of [`Host`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReleaseHost(Box<str>);

/// A rule that cannot be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseRuleError {
    /// It names no host.
    #[error(
        "a release names at least one host; without a release a secret leaves the vault for no host"
    )]
    NoHost,
    /// A host is none, or too many.
    #[error(
        "`{text}` is no host to release a secret to: {problem}; write a host as api.openai.com, or all below one as \
         *.openai.azure.com"
    )]
    Host {
        /// The beginning of what was given.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A team has no name, or one that a list cannot hold.
    #[error(
        "a team in a release has 1 to {MAX_TEAM_CHARS} characters, none of them a comma or a control character"
    )]
    Team,
    /// There is more in it than a release holds.
    #[error("the {of} of a release are at most {MAX_LISTED}, of {MAX_LISTED_BYTES} bytes together")]
    TooMany {
        /// Hosts, agents or teams.
        of: &'static str,
    },
}

/// A secret that a proxy asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReleaseRequest {
    /// On whose way the proxy stands.
    pub agent: AgentId,
    /// What is known of the agent.
    pub standing: Standing,
    /// What the placeholder names.
    pub secret: SecretName,
    /// The host that the request goes to, normal.
    pub host: String,
    /// Who asks: `key:<id>`.
    pub actor: String,
}

/// What is known of an agent for which a secret is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// No such agent is registered.
    Unknown,
    /// It is suspended.
    Suspended,
    /// It is at work, in this team.
    Active(Option<String>),
}

/// A secret for one host, as a proxy gets it.
#[derive(Debug)]
pub struct Released {
    /// What it is.
    pub value: SecretValue,
    /// Which value of the secret that is.
    pub version: u64,
    /// The longest that it may be kept; then it is to be asked for again.
    pub keep_for: Duration,
}

/// Why a proxy does not get a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseError {
    /// The agent is not registered.
    #[error("agent {0} is not registered in this workspace; no secret is released for it")]
    AgentUnknown(AgentId),
    /// The agent is suspended.
    #[error("agent {0} is suspended; no secret is released for it")]
    AgentSuspended(AgentId),
    /// There is no such secret, or its rule is for others. Which of them, only the audit log tells: names cannot be
    /// found out by asking.
    #[error(
        "no secret of this name is released for this agent to this host; `aasm secret list` shows what is released, \
         and the audit log why this was not"
    )]
    Denied,
    /// The vault or its master key refused, and why.
    #[error("{0}")]
    Vault(String),
}

/// How long a proxy may keep what it got: by then a rotated or revoked secret is gone everywhere.
pub const KEEP_FOR: Duration = Duration::from_secs(60);

/// The most hosts, agents or teams of one release.
pub const MAX_LISTED: usize = 16;

/// The most bytes that all hosts, agents or teams of one release have as a list: an entry of the audit log holds it.
pub const MAX_LISTED_BYTES: usize = 1_000;

/// The longest name of a team, in characters.
const MAX_TEAM_CHARS: usize = 128;

/// A release as it is stored and travels.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    hosts: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    agents: Vec<AgentId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    teams: Vec<String>,
}

// === impl Release ===

impl Release {
    /// A release to these hosts, for every agent when neither agents nor teams are named, else for those named and
    /// those of the teams.
    ///
    /// # Errors
    /// There is no host, one that is none, or more of anything than a release holds.
    pub fn new<S: AsRef<str>>(
        hosts: &[S],
        agents: &[AgentId],
        teams: &[S],
    ) -> Result<Self, ReleaseRuleError> {
        let hosts: BTreeSet<ReleaseHost> =
            hosts.iter().map(|host| host.as_ref().parse()).collect::<Result<_, _>>()?;
        if hosts.is_empty() {
            return Err(ReleaseRuleError::NoHost);
        }
        let is_team = |team: &str| {
            (1..=MAX_TEAM_CHARS).contains(&team.chars().count())
                && !team.chars().any(|c| c == ',' || c.is_control())
        };
        if !teams.iter().all(|team| is_team(team.as_ref())) {
            return Err(ReleaseRuleError::Team);
        }
        let agents = agents.iter().copied().collect();
        let teams = teams.iter().map(|team| team.as_ref().to_owned()).collect();
        let release = Self { hosts, agents, teams };
        for (of, listed, count) in [
            ("hosts", release.hosts_listed(), release.hosts.len()),
            ("agents", release.agents_listed(), release.agents.len()),
            ("teams", release.teams_listed(), release.teams.len()),
        ] {
            if count > MAX_LISTED || listed.len() > MAX_LISTED_BYTES {
                return Err(ReleaseRuleError::TooMany { of });
            }
        }
        Ok(release)
    }

    /// Whether the secret may go to this host.
    pub fn reaches(&self, host: &Host) -> bool {
        self.hosts.iter().any(|allowed| allowed.matches(host))
    }

    /// Whether the secret may go there for this agent, which is in this team.
    pub fn is_for(&self, agent: AgentId, team: Option<&str>) -> bool {
        let is_for_all = self.agents.is_empty() && self.teams.is_empty();
        is_for_all
            || self.agents.contains(&agent)
            || team.is_some_and(|team| self.teams.contains(team))
    }

    /// The hosts, in their order.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(|host| &*host.0)
    }

    /// The agents that it is restricted to, beside the teams.
    pub fn agents(&self) -> impl Iterator<Item = AgentId> {
        self.agents.iter().copied()
    }

    /// The teams that it is restricted to, beside the agents.
    pub fn teams(&self) -> impl Iterator<Item = &str> {
        self.teams.iter().map(String::as_str)
    }

    /// What an entry of the audit log tells of it.
    pub(crate) fn detail(&self) -> Vec<(&'static str, String)> {
        let lists = [
            ("release_to", self.hosts_listed()),
            ("release_agents", self.agents_listed()),
            ("release_teams", self.teams_listed()),
        ];
        lists.into_iter().filter(|(_, listed)| !listed.is_empty()).collect()
    }

    fn hosts_listed(&self) -> String {
        self.hosts().collect::<Vec<_>>().join(",")
    }

    fn agents_listed(&self) -> String {
        self.agents().map(|agent| agent.to_string()).collect::<Vec<_>>().join(",")
    }

    fn teams_listed(&self) -> String {
        self.teams().collect::<Vec<_>>().join(",")
    }
}

impl TryFrom<Parts> for Release {
    type Error = ReleaseRuleError;

    fn try_from(parts: Parts) -> Result<Self, ReleaseRuleError> {
        Self::new(&parts.hosts, &parts.agents, &parts.teams)
    }
}

impl From<Release> for Parts {
    fn from(release: Release) -> Self {
        Self {
            hosts: release.hosts().map(str::to_owned).collect(),
            agents: release.agents().collect(),
            teams: release.teams.into_iter().collect(),
        }
    }
}

// === impl ReleaseHost ===

impl ReleaseHost {
    fn matches(&self, host: &Host) -> bool {
        HostGlob::parse(&self.0).is_ok_and(|glob| glob.matches(host))
    }
}

impl FromStr for ReleaseHost {
    type Err = ReleaseRuleError;

    fn from_str(text: &str) -> Result<Self, ReleaseRuleError> {
        let refused = |problem| {
            let text = text.chars().take(64).collect();
            Err(ReleaseRuleError::Host { text, problem })
        };
        // A port would be dropped silently: the secret would go to all of them.
        let has_port = text.rsplit_once(':').is_some_and(|(name, _)| !name.contains(':'))
            || text.starts_with('[');
        if has_port {
            return refused("it names a port, and a release is for a host whatever the port");
        }
        match HostGlob::parse(text) {
            Ok(HostGlob::Exact(host)) => Ok(Self(host.to_string().into())),
            Ok(HostGlob::Below(suffix)) if suffix.contains('.') => {
                Ok(Self(format!("*.{suffix}").into()))
            }
            Ok(HostGlob::Any | HostGlob::Below(_)) => refused("it would be released to anybody"),
            Ok(HostGlob::Labels { .. }) => refused("a `*` stands for the first labels only"),
            Err(_) => refused("no host has such a name"),
        }
    }
}

impl fmt::Display for ReleaseHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(hosts: &[&str], teams: &[&str]) -> Result<Release, ReleaseRuleError> {
        Release::new(hosts, &[], teams)
    }

    fn agent(name: &str) -> AgentId {
        AgentId::of_name("ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890".parse().unwrap(), name)
    }

    #[test]
    fn a_secret_goes_to_the_hosts_named_and_to_no_others() {
        let release = release(&["API.openai.com.", "*.openai.azure.com", "10.0.0.1"], &[]).unwrap();
        let listed: Vec<_> = release.hosts().collect();
        assert_eq!(listed, ["*.openai.azure.com", "10.0.0.1", "api.openai.com"]);
        for (host, reaches) in [
            ("api.openai.com", true),
            ("Api.OpenAI.com", true),
            ("a.openai.azure.com", true),
            ("a.b.openai.azure.com", true),
            ("10.0.0.1", true),
            ("openai.azure.com", false),
            ("evilopenai.azure.com", false),
            ("api.openai.com.evil.example", false),
            ("evil.api.openai.com", false),
            ("openai.com", false),
            ("10.0.0.10", false),
        ] {
            assert_eq!(release.reaches(&Host::parse(host).unwrap()), reaches, "{host}");
        }
    }

    #[test]
    fn what_is_too_broad_or_no_host_is_refused_with_what_to_write() {
        for text in [
            "*",
            "*.com",
            "api.*.com",
            "a*.b.com",
            "https://api.openai.com",
            "api.openai.com/v1",
            "api.openai.com:443",
            "[::1]:443",
            "",
            "a b",
            "*.1.2.3",
            "0x7f000001",
        ] {
            let refused = release(&[text], &[]).unwrap_err();
            assert!(matches!(refused, ReleaseRuleError::Host { .. }), "{text}");
            assert!(refused.to_string().contains("*.openai.azure.com"), "{refused}");
        }
        assert_eq!(release(&[], &[]), Err(ReleaseRuleError::NoHost));
    }

    #[test]
    fn a_release_is_bounded_by_what_an_entry_can_hold() {
        let many: Vec<_> = (0..17).map(|number| format!("h{number}.example")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert!(release(&many[..16], &[]).is_ok());
        assert_eq!(release(&many, &[]), Err(ReleaseRuleError::TooMany { of: "hosts" }));
        let long: Vec<_> = (0..9).map(|number| format!("{number}{}", "t".repeat(127))).collect();
        let long: Vec<_> = long.iter().map(String::as_str).collect();
        assert_eq!(release(&["a.example"], &long), Err(ReleaseRuleError::TooMany { of: "teams" }));
        for team in ["", "a,b", "a\nb", &"t".repeat(129)] {
            assert_eq!(release(&["a.example"], &[team]), Err(ReleaseRuleError::Team), "{team}");
        }
    }

    #[test]
    fn a_release_may_be_for_some_agents_and_teams_only() {
        let for_all = release(&["a.example"], &[]).unwrap();
        assert!(for_all.is_for(agent("x"), None));
        let for_some = Release::new(&["a.example"], &[agent("x")], &["platform"]).unwrap();
        assert!(for_some.is_for(agent("x"), Some("other")));
        assert!(for_some.is_for(agent("y"), Some("platform")));
        assert!(!for_some.is_for(agent("y"), Some("Platform")));
        assert!(!for_some.is_for(agent("y"), None));
    }

    #[test]
    fn a_release_reads_back_and_a_stored_one_is_checked_like_a_given_one() {
        let release = Release::new(&["b.example", "a.example"], &[agent("x")], &["t"]).unwrap();
        let text = serde_json::to_string(&release).unwrap();
        assert_eq!(serde_json::from_str::<Release>(&text).unwrap(), release);
        assert!(serde_json::from_str::<Release>(r#"{"hosts":["*"]}"#).is_err());
        assert!(serde_json::from_str::<Release>(r#"{"hosts":["a.example"],"any":1}"#).is_err());
        let plain = serde_json::to_string(&super::tests::release(&["a.example"], &[]).unwrap());
        assert_eq!(plain.unwrap(), r#"{"hosts":["a.example"]}"#);
    }
}
