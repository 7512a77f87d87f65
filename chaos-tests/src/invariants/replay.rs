//! Deciding again what is recorded as decided.

use std::{
    collections::{BTreeMap, HashMap, VecDeque, hash_map},
    io::{BufRead, BufReader},
    path::Path,
    sync::Arc,
    time::Duration,
};

use aa_ledger::{ActionSummary, Entry, Kind, Stream};
use aa_policy::{
    AgentPolicies, Cost, Facts, Outcome, Policy, PolicySet, RateFacts, Suspension, Unmetered,
    check, decide,
};
use aa_protocol::{Action, AgentFacts, AgentId, Timestamp, Verdict};

use super::{Violation, record};

/// A policy's name and revision.
pub type SourceKey = (String, u64);

/// The sources of every revision that was ever in force, as the operator API gives them.
pub type PolicySources = BTreeMap<SourceKey, Vec<u8>>;

/// Decides recorded actions again.
///
/// It takes from the log who was registered with what facts, who was suspended when, which revisions were
/// in force when and how many calls were admitted in the hour before each decision; from its caller the
/// sources of the revisions and the actions, of which entries have names and sizes only. Labels of agents
/// are in no entry: agents registered with some, under policies that ask for them, cannot be judged here.
/// Sessions are in no entry either: here nothing is ever armed, and what a sequence restrained counts as stricter.
pub struct Replay<F> {
    action_of: F,
    /// By how much a change of policy and a decision beside it may seem to be in the other order: the time
    /// of a change is when it is asked for, and it is in force once it is committed.
    lag: Duration,
    timeline: Vec<InForce>,
    agents: HashMap<AgentId, Known>,
    replayed: Replayed,
}

/// What a replay found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Decisions that were decided again.
    pub again: u64,
    /// Decisions whose action is unknown.
    pub unknown: u64,
    /// Decisions that were stricter than they are now. An hourly limit past a thousand calls counts by the
    /// second and errs to this side.
    pub stricter: u64,
    /// Changes of policy.
    pub changes: u64,
}

/// The documents in force from a time on.
struct InForce {
    from: Timestamp,
    set: PolicySet,
    /// The part that applies to an agent, made once for each.
    of_agents: HashMap<AgentId, AgentPolicies>,
}

/// An agent as the log has told of it so far.
struct Known {
    facts: AgentFacts,
    suspended: Option<Suspension>,
    /// When its admitted calls were, by tool, within an hour of the newest.
    calls: HashMap<String, VecDeque<Timestamp>>,
}

/// Calls of the hour that ends at a time.
struct CallsAt<'a> {
    calls: &'a HashMap<String, VecDeque<Timestamp>>,
    now: Timestamp,
}

const HOUR: Duration = Duration::from_secs(3_600);

// === impl Replay ===

impl<F: Fn(&ActionSummary<'_>) -> Option<Action>> Replay<F> {
    /// A replay under the documents of `sources`, which an export's policy entries put in force. `action_of`
    /// knows the actions that were sent.
    ///
    /// # Errors
    /// A source is missing, is not what the log's digest says, or does not compile.
    pub fn new(
        export: impl BufRead,
        sources: &PolicySources,
        action_of: F,
        lag: Duration,
    ) -> Result<Self, Violation> {
        let mut compiled = HashMap::<SourceKey, Arc<Policy>>::new();
        let mut active = BTreeMap::<String, u64>::new();
        let mut timeline = vec![InForce::from(Timestamp::from_micros(0), PolicySet::empty())];
        for entry in record::entries(export) {
            let entry = entry?;
            if entry.kind != Kind::Policy {
                continue;
            }
            let detail = |key: &str| entry.detail.get(key).map(String::as_str).unwrap_or_default();
            let name = detail("name").to_owned();
            if detail("change") == "removed" {
                active.remove(&name);
            } else {
                let revision = detail("revision").parse().unwrap_or_default();
                let key = (name.clone(), revision);
                if let hash_map::Entry::Vacant(vacant) = compiled.entry(key) {
                    let policy = compile(vacant.key(), sources, detail("sha256"))?;
                    vacant.insert(Arc::new(policy));
                }
                active.insert(name, revision);
            }
            let documents = active.iter().filter_map(|(name, revision)| {
                let policy = compiled.get(&(name.clone(), *revision))?;
                Some((Arc::clone(policy), Some(*revision)))
            });
            let set = PolicySet::new(documents).map_err(|twin| Violation::Source {
                name: twin.name,
                revision: 0,
                problem: "two documents have this name".to_owned(),
            })?;
            timeline.push(InForce::from(entry.time, set));
        }
        let changes = timeline.len() as u64 - 1;
        let replayed = Replayed { changes, ..Replayed::default() };
        Ok(Self { action_of, lag, timeline, agents: HashMap::new(), replayed })
    }

    /// The whole of it over an export's file.
    ///
    /// # Errors
    /// The first violation.
    pub fn run(
        path: &Path,
        sources: &PolicySources,
        action_of: F,
        lag: Duration,
    ) -> Result<Replayed, Violation> {
        let read = || record::open(path).map(|file| BufReader::with_capacity(1 << 20, file));
        let mut replay = Self::new(read()?, sources, action_of, lag)?;
        for entry in record::entries(read()?) {
            replay.take(&entry?)?;
        }
        Ok(replay.replayed)
    }

    /// Takes the next entry of the log; entries of one agent must come in their order.
    ///
    /// # Errors
    /// The decision was more lenient than the policies in force, or named others.
    pub fn take(&mut self, entry: &Entry) -> Result<(), Violation> {
        let Stream::Agent(agent) = entry.stream else { return Ok(()) };
        match entry.kind {
            Kind::Registration => self.register(agent, entry),
            Kind::Status => {
                if let Some(known) = self.agents.get_mut(&agent) {
                    let detail = |key: &str| entry.detail.get(key).cloned().unwrap_or_default();
                    known.suspended = (detail("status") == "suspended")
                        .then(|| Suspension { reason: detail("reason") });
                }
            }
            Kind::Decision => self.decide_again(agent, entry)?,
            _ => {}
        }
        Ok(())
    }

    /// What was found so far.
    pub const fn replayed(&self) -> Replayed {
        self.replayed
    }

    fn register(&mut self, id: AgentId, entry: &Entry) {
        let detail = |key: &str| entry.detail.get(key).cloned();
        let facts = AgentFacts {
            id,
            name: detail("name").unwrap_or_default(),
            org: detail("org"),
            team: detail("team"),
            governance_level: detail("governance_level")
                .and_then(|level| level.parse().ok())
                .unwrap_or_default(),
            labels: BTreeMap::new(),
        };
        match self.agents.get_mut(&id) {
            // Its facts may have changed, and with them which documents cover it.
            Some(known) => {
                known.facts = facts;
                for in_force in &mut self.timeline {
                    in_force.of_agents.remove(&id);
                }
            }
            None => {
                let known = Known { facts, suspended: None, calls: HashMap::new() };
                self.agents.insert(id, known);
            }
        }
    }

    fn decide_again(&mut self, agent: AgentId, entry: &Entry) -> Result<(), Violation> {
        let Some(known) = self.agents.get_mut(&agent) else {
            return Err(Violation::Unregistered { event: entry.id, agent });
        };
        let (Some(summary), Some(recorded)) = (&entry.action, entry.verdict) else { return Ok(()) };
        let Some(action) = (self.action_of)(summary) else {
            self.replayed.unknown += 1;
            return Ok(());
        };
        self.replayed.again += 1;
        let facts = Facts {
            agent: &known.facts,
            suspended: known.suspended.as_ref(),
            rates: &CallsAt { calls: &known.calls, now: entry.time },
            budgets: &Unmetered,
            shared_budgets: &[],
            is_approved: false,
            cost: Cost::default(),
            armed: &Unmetered,
        };
        let latest = entry.time.saturating_add(self.lag);
        let earliest = entry.time.saturating_sub(self.lag);
        // Newest first, and back to the one that was in force when the lag began.
        let until = self.timeline.partition_point(|in_force| in_force.from <= latest);
        let mut outcome: Option<Outcome> = None;
        let mut due = None;
        for in_force in self.timeline[..until].iter_mut().rev() {
            let policies = in_force
                .of_agents
                .entry(agent)
                .or_insert_with(|| in_force.set.for_agent(&known.facts));
            let tried = decide(policies, &facts, &action, entry.time);
            let applied = tried.applied.iter();
            let applied =
                applied.map(|policy| (&*policy.name, policy.revision.unwrap_or_default()));
            if applied
                .eq(entry.policies.iter().map(|policy| (policy.name.as_str(), policy.revision)))
            {
                outcome = Some(tried);
                break;
            }
            let in_time = in_force.from <= earliest;
            due.get_or_insert(tried);
            if in_time {
                break;
            }
        }
        let Some(outcome) = outcome else {
            let recorded =
                entry.policies.iter().map(|policy| (policy.name.as_str(), policy.revision));
            let due = due.as_ref().map(named).unwrap_or_default();
            return Err(Violation::NotInForce {
                event: entry.id,
                time: entry.time,
                recorded: list(recorded),
                due,
            });
        };
        let verdict = outcome.decision.verdict;
        if recorded < verdict {
            let reason = outcome.decision.reasons.first();
            return Err(Violation::AgainstPolicy {
                event: entry.id,
                time: entry.time,
                recorded,
                due: verdict,
                policies: named(&outcome),
                reason: reason.map(|reason| reason.message.clone()).unwrap_or_default(),
            });
        }
        if recorded > verdict {
            self.replayed.stricter += 1;
        }
        if let (Verdict::Allow, Action::ToolCall { tool, .. }) = (recorded, &action)
            && outcome.counted_limit.is_some()
        {
            let calls = known.calls.entry(tool.clone()).or_default();
            let start = entry.time.saturating_sub(HOUR);
            while calls.front().is_some_and(|time| *time <= start) {
                calls.pop_front();
            }
            calls.push_back(entry.time);
        }
        Ok(())
    }
}

fn compile(key: &SourceKey, sources: &PolicySources, sha256: &str) -> Result<Policy, Violation> {
    let (name, revision) = (key.0.clone(), key.1);
    let wrong = |problem: String| Violation::Source { name: name.clone(), revision, problem };
    let source = sources.get(key).ok_or_else(|| wrong("its source is missing".to_owned()))?;
    let digest = sha256_hex(source);
    if digest != sha256 {
        return Err(wrong(format!("its source has digest {digest}, the log says {sha256}")));
    }
    let checked = check(source, &name);
    checked.policy.ok_or_else(|| wrong(format!("{:?}", checked.errors)))
}

fn sha256_hex(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn named(outcome: &Outcome) -> String {
    list(outcome.applied.iter().map(|policy| (&*policy.name, policy.revision.unwrap_or_default())))
}

fn list<'a>(policies: impl Iterator<Item = (&'a str, u64)>) -> String {
    let all: Vec<_> = policies.map(|(name, revision)| format!("{name}@{revision}")).collect();
    if all.is_empty() { "no document".to_owned() } else { all.join(", ") }
}

// === impl InForce ===

impl InForce {
    fn from(from: Timestamp, set: PolicySet) -> Self {
        Self { from, set, of_agents: HashMap::new() }
    }
}

// === impl CallsAt ===

impl RateFacts for CallsAt<'_> {
    fn admitted_in_window(&self, tool: &str) -> u64 {
        let start = self.now.saturating_sub(HOUR);
        let calls = self.calls.get(tool).into_iter().flatten();
        calls.filter(|time| **time > start).count() as u64
    }
}
