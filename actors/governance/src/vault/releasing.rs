//! Secrets that leave the vault for a proxy: the decision, and its record in the log.

use std::collections::HashMap;

use aa_policy::host::Host;
use aa_protocol::{AgentId, Timestamp};
use aa_runtime::Reply;
use aa_vault::SecretName;

use super::{SecretError, VaultActor};
use crate::{
    release::{KEEP_FOR, ReleaseError, ReleaseRequest, Released, Standing},
    secret_record::SecretStatus,
    stored,
};

/// What was answered lately and is in the log: while a proxy may keep a secret, asking again tells nothing new.
#[derive(Default)]
pub(super) struct Told(HashMap<Answered, Timestamp>);

/// One answer to one who asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Answered {
    actor: String,
    agent: AgentId,
    secret: SecretName,
    host: String,
    answer: Verdict,
}

/// Whether a secret is released, and which value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Verdict {
    Released(u64),
    Denied(Denial),
}

/// Why a secret is not released, as the log tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Denial {
    AgentUnknown,
    AgentSuspended,
    UnknownSecret,
    NotReleased,
    Host,
    Agent,
}

/// The most answers that are remembered; what comes beyond is in the log each time.
const MAX_TOLD: usize = 10_000;

// === impl VaultActor ===

impl VaultActor {
    pub(super) async fn release(
        &mut self,
        request: ReleaseRequest,
        now: Timestamp,
        reply: Reply<Result<Released, ReleaseError>>,
    ) {
        let verdict = self.judge(&request);
        let answer = match verdict {
            Verdict::Denied(denial) => Err(denial.told_to(request.agent)),
            Verdict::Released(version) => match self.open(&request.secret).await {
                Ok(value) => Ok(Released { value, version, keep_for: KEEP_FOR }),
                Err(error) => {
                    reply.send(Ok(Err(ReleaseError::Vault(error.to_string()))));
                    return;
                }
            },
        };
        let ReleaseRequest { agent, secret, host, actor, .. } = request;
        let answered = Answered { actor, agent, secret, host, answer: verdict };
        if !self.told.is_news(&answered, now) {
            // The entry that tells of it may still be on its way to the disk.
            self.shard.journal.answer_after(reply, answer);
            return;
        }
        let (agent, version) = (answered.agent.to_string(), verdict.version());
        let mut detail = vec![
            ("change", verdict.change()),
            ("name", answered.secret.as_str()),
            ("agent", &agent),
            ("host", &answered.host),
        ];
        detail.extend(version.as_deref().map(|version| ("version", version)));
        detail.extend(verdict.reason().map(|reason| ("reason", reason)));
        let nothing = (Vec::new(), Vec::new());
        self.commit(Some(&answered.actor), &detail, nothing, now, reply, answer);
    }

    fn judge(&self, request: &ReleaseRequest) -> Verdict {
        let denied = Verdict::Denied;
        let team = match &request.standing {
            Standing::Unknown => return denied(Denial::AgentUnknown),
            Standing::Suspended => return denied(Denial::AgentSuspended),
            Standing::Active(team) => team.as_deref(),
        };
        let Some(record) = self.secrets.get(&request.secret) else {
            return denied(Denial::UnknownSecret);
        };
        let Some(release) = &record.release else { return denied(Denial::NotReleased) };
        if !Host::parse(&request.host).is_some_and(|host| release.reaches(&host)) {
            return denied(Denial::Host);
        }
        if !release.is_for(request.agent, team) {
            return denied(Denial::Agent);
        }
        Verdict::Released(record.sealed.version())
    }

    /// Releases the secret to no host from now on.
    pub(super) fn withdraw(
        &mut self,
        name: &SecretName,
        actor: &str,
        now: Timestamp,
        reply: Reply<Result<SecretStatus, SecretError>>,
    ) {
        let before = self.stored_bytes(name);
        let Some(record) = self.secrets.get_mut(name) else {
            reply.send(Ok(Err(SecretError::Unknown(name.clone()))));
            return;
        };
        if record.release.take().is_none() {
            let status = record.status();
            self.shard.journal.answer_after(reply, Ok(status));
            return;
        }
        (record.updated_at, record.updated_by) = (now, actor.to_owned());
        let (status, stored) = (record.status(), stored::encode(&*record));
        self.bytes = self.bytes + stored.len() - before;
        let write = (crate::keys::secret(self.workspace, name.as_str()), stored);
        let detail = [("change", "release_withdrawn"), ("name", name.as_str())];
        self.commit(Some(actor), &detail, (vec![write], Vec::new()), now, reply, Ok(status));
    }
}

// === impl Told ===

impl Told {
    /// Whether nothing in the log tells of this yet, as long as a proxy may keep what it got.
    fn is_news(&mut self, answered: &Answered, now: Timestamp) -> bool {
        let stands = |until: &Timestamp| {
            // A clock that was set back makes nothing stand for longer.
            now < *until && *until <= now.saturating_add(KEEP_FOR)
        };
        if self.0.get(answered).is_some_and(stands) {
            return false;
        }
        if self.0.len() >= MAX_TOLD {
            self.0.retain(|_, until| stands(until));
        }
        if self.0.len() < MAX_TOLD {
            self.0.insert(answered.clone(), now.saturating_add(KEEP_FOR));
        }
        true
    }
}

// === impl Verdict ===

impl Verdict {
    const fn change(self) -> &'static str {
        match self {
            Self::Released(_) => "released",
            Self::Denied(_) => "release_denied",
        }
    }

    fn version(self) -> Option<String> {
        match self {
            Self::Released(version) => Some(version.to_string()),
            Self::Denied(_) => None,
        }
    }

    const fn reason(self) -> Option<&'static str> {
        match self {
            Self::Released(_) => None,
            Self::Denied(denial) => Some(denial.as_str()),
        }
    }
}

// === impl Denial ===

impl Denial {
    const fn as_str(self) -> &'static str {
        match self {
            Self::AgentUnknown => "agent_unknown",
            Self::AgentSuspended => "agent_suspended",
            Self::UnknownSecret => "unknown_secret",
            Self::NotReleased => "not_released",
            Self::Host => "host",
            Self::Agent => "agent",
        }
    }

    /// What the proxy hears: what it may know of the agent, and nothing of the secret.
    const fn told_to(self, agent: AgentId) -> ReleaseError {
        match self {
            Self::AgentUnknown => ReleaseError::AgentUnknown(agent),
            Self::AgentSuspended => ReleaseError::AgentSuspended(agent),
            Self::UnknownSecret | Self::NotReleased | Self::Host | Self::Agent => {
                ReleaseError::Denied
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn answered(number: usize) -> Answered {
        Answered {
            actor: "key:k".to_owned(),
            agent: AgentId::of_name(
                "ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890".parse().unwrap(),
                "a",
            ),
            secret: "openai".parse().unwrap(),
            host: format!("h{number}.example"),
            answer: Verdict::Released(1),
        }
    }

    #[test]
    fn an_answer_is_news_once_in_the_time_that_it_may_be_kept() {
        let start = Timestamp::from_micros(1_800_000_000_000_000);
        let mut told = Told::default();
        assert!(told.is_news(&answered(1), start));
        assert!(!told.is_news(&answered(1), start.saturating_add(Duration::from_secs(59))));
        let denied = Answered { answer: Verdict::Denied(Denial::Host), ..answered(1) };
        assert!(told.is_news(&denied, start));
        let rotated = Answered { answer: Verdict::Released(2), ..answered(1) };
        assert!(told.is_news(&rotated, start));
        assert!(told.is_news(&answered(1), start.saturating_add(KEEP_FOR)));
        assert!(told.is_news(&answered(1), start.saturating_sub(Duration::from_secs(3_600))));
    }

    #[test]
    fn more_answers_than_are_remembered_are_told_each_time() {
        let start = Timestamp::from_micros(1_800_000_000_000_000);
        let mut told = Told::default();
        for number in 0..MAX_TOLD {
            assert!(told.is_news(&answered(number), start));
        }
        for _ in 0..2 {
            assert!(told.is_news(&answered(MAX_TOLD), start));
        }
        assert!(!told.is_news(&answered(0), start));
        assert!(told.is_news(&answered(MAX_TOLD), start.saturating_add(KEEP_FOR)));
        assert_eq!(told.0.len(), 1);
    }
}
