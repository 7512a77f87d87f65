//! One run from one seed: the agents, what they do, and the comparison at the end.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use aa_budget::{Limits, Period, ReservationId};
use aa_governance::{
    AuditKeys, Governance, GovernanceOptions, Grant, Permit, Principal,
    agent::{AgentKeyId, Answer, Charge, NotRegistered, Request},
    budget_book::{BudgetTerms, OnExceeded},
    keys,
    permission::Operation,
    prices::PriceTerms,
    spender::{Spender, WindowId},
};
use aa_ledger::{Entry, Kind, MacKey};
use aa_protocol::{
    Action, ActionId, AgentFacts, AgentId, CallEnd, GovernanceLevel, NanoUsd, Timestamp, Usage,
    Verdict, WorkspaceId,
};
use aa_runtime::{Clock, Fault, ManualClock, Node, NodeOptions, Reply, SeededEntropy, journal};
use aa_store::{FaultRates, Faults, KeyRange, MemoryStore, Order, Store, SystemClock};
use futures::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::watched_store::WatchedStore;

/// A run.
pub struct Simulation {
    seed: u64,
    chance: fastrand::Rng,
    clock: ManualClock,
    faults: Faults,
    store: WatchedStore,
    node: Option<Node>,
    /// The door to the process that holds the shards now.
    door: Arc<Mutex<Option<Governance>>>,
    workspace: WorkspaceId,
    agents: Vec<SimAgent>,
    next_action: u128,
    takeovers: u64,
    rates: FaultRates,
    /// How many actions it will do: limits are in proportion.
    actions: u64,
}

/// What a run did, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Actions that were answered, or given up by a client that vanished.
    pub actions: u64,
    /// Calls let go.
    pub allowed: u64,
    /// Calls refused for want of budget.
    pub refused: u64,
    /// Results that were settled.
    pub settled: u64,
    /// Reservations that nobody settled.
    pub expired: u64,
    /// Clients that went away before their answer came.
    pub vanished: u64,
    /// How often an action was sent again after a fault.
    pub retries: u64,
    /// Processes that took over from another.
    pub takeovers: u64,
    /// Windows in which something was spent.
    pub windows: u64,
    /// Commits that were looked at.
    pub commits: u64,
    /// Money that was posted in all windows, in nano-USD.
    pub posted: i64,
}

#[derive(Clone, Debug)]
struct SimAgent {
    id: AgentKeyId,
    /// Calls let go whose result is still to come.
    open: Vec<OpenCall>,
}

#[derive(Clone, Copy, Debug)]
struct OpenCall {
    id: ActionId,
    output: u64,
}

/// What a client is about to do.
struct Errand {
    agent: usize,
    kind: ErrandKind,
    request: (ActionId, Action),
    /// It does not wait for the answer.
    vanishes: bool,
    /// It sends the same action again right away.
    doubles: bool,
}

enum ErrandKind {
    Call { output: u64 },
    Result,
}

/// How an errand ended.
struct Report {
    agent: usize,
    kind: ErrandKind,
    action: ActionId,
    answer: Option<Answer>,
    retries: u64,
}

/// The actions of a run for which the limits are made.
const FULL: u64 = 50_000;

const TEAMS: usize = 12;
const MODEL: &str = "simulated";
const MAC_SECRET: [u8; 32] = [3; 32];

/// How often an action is sent before the run is given up.
const PATIENCE: u64 = 20_000;

impl Simulation {
    /// A run of `actions` actions of `agents` agents that begins at `start`.
    ///
    /// # Panics
    /// When the actors do not start: then there is nothing to simulate.
    pub async fn new(seed: u64, agents: usize, actions: u64, start: Timestamp) -> Self {
        let clock = ManualClock::new(start);
        let faults = Faults::seeded(seed, FaultRates::default());
        let memory = MemoryStore::with(Arc::new(SystemClock::default()), faults.clone());
        let mut simulation = Self {
            seed,
            chance: fastrand::Rng::with_seed(seed),
            store: WatchedStore::new(memory),
            clock,
            faults,
            node: None,
            door: Arc::default(),
            workspace: "ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890".parse().expect("it is an id"),
            agents: Vec::new(),
            next_action: 0,
            takeovers: 0,
            rates: FaultRates::default(),
            actions,
        };
        simulation.take_over().await;
        simulation
            .latest()
            .set_up_workspace(simulation.workspace, "money")
            .await
            .expect("a workspace");
        simulation.write_rules().await;
        for number in 0..agents {
            simulation.register(number).await;
        }
        simulation
    }

    /// Lets the clients act, some `at_once` of them at a time, under faults; then lets everything
    /// come to rest and compares.
    ///
    /// # Errors
    /// What is wrong, with the seed it is reached by.
    pub async fn run(mut self, at_once: usize) -> Result<Outcome, String> {
        let mut outcome = Outcome::default();
        self.rates = FaultRates {
            conflict: 0.001,
            unknown_applied: 0.001,
            unknown_lost: 0.001,
            unavailable: 0.001,
            ..FaultRates::default()
        };
        self.faults.set_rates(self.rates);
        while outcome.actions < self.actions {
            let errands: Vec<_> = (0..at_once).map(|_| self.errand()).collect();
            let reports = self.carry_out(errands).await?;
            for report in reports {
                self.note(report, &mut outcome);
            }
            self.change_the_world().await;
            if let Some(violation) = self.store.ledger().violations().first() {
                return Err(self.failed(violation));
            }
        }
        self.rates = FaultRates::default();
        self.faults.set_rates(self.rates);
        self.come_to_rest().await?;
        self.compare(&mut outcome).await?;
        Ok(outcome)
    }

    fn failed(&self, what: impl std::fmt::Display) -> String {
        format!("seed {}: {what}", self.seed)
    }

    fn latest(&self) -> Governance {
        self.door.lock().clone().expect("a node runs")
    }

    /// Another process takes every shard while the one before still serves: whatever that one has under way is fenced
    /// off, as after a crash.
    async fn take_over(&mut self) {
        let number = self.chance.u64(..);
        let entropy = Arc::new(SeededEntropy::new(number));
        let options = NodeOptions { name: "node".into(), shards: 3, cluster: None };
        let store: Arc<dyn Store> = Arc::new(self.store.clone());
        let clock = Arc::new(self.clock.clone());
        // Starting under faults is another test's affair.
        self.faults.set_rates(FaultRates::default());
        let node = Node::start(store, clock, entropy, options).await.expect("a node starts");
        self.faults.set_rates(self.rates);
        let keys = AuditKeys {
            log_seed: Zeroizing::new([9; 32]),
            mac: MacKey::new("k1", &MAC_SECRET).expect("a key"),
        };
        let options = GovernanceOptions {
            agent_idle: Duration::from_secs(300),
            // Checkpoints have tests of their own.
            checkpoint_every: Duration::from_secs(1_000_000_000),
            verify_every: Duration::from_secs(1_000_000_000),
        };
        let governance = Governance::start(node.clone(), keys, crate::outside::outside(), options);
        *self.door.lock() = Some(governance);
        if let Some(before) = self.node.replace(node) {
            tokio::spawn(async move { before.stop().await });
        }
    }

    async fn write_rules(&mut self) {
        let prices = serde_json::json!({"overrides": [
            {"model": MODEL, "price": {"input": "0", "output": "100"}},
        ]});
        let terms: PriceTerms = serde_json::from_value(prices).expect("prices");
        let set = self.latest().set_prices(&self.permit(), terms).await;
        set.expect("the prices are set");
        for team in 0..TEAMS {
            for period in Period::ALL.into_iter().filter(|period| has_budget(team, *period)) {
                let action = if team == 0 { OnExceeded::Alert } else { OnExceeded::Deny };
                let limit = self.limit(period);
                self.set_budget(Spender::Team(team_name(team).into()), period, limit, action).await;
            }
        }
        let limit = NanoUsd(self.limit(Period::Monthly).0 * TEAMS as i64 / 2);
        self.set_budget(Spender::Workspace, Period::Monthly, limit, OnExceeded::Deny).await;
        for (team, zone, action) in [
            (1, "America/New_York", "deny"),
            (2, "Australia/Lord_Howe", "deny"),
            (3, "Asia/Beirut", "suspend"),
        ] {
            let source = format!(
                "apiVersion: agent-assembly/v1\nkind: Policy\nmetadata: {{name: team-{team}, version: '1'}}\nspec:\n  scope: team:{}\n  budget: {{daily_limit_usd: 1, monthly_limit_usd: 9, timezone: {zone}, action_on_exceed: {action}}}\n",
                team_name(team),
            );
            let applied =
                self.latest().apply_policy(&self.permit(), source.into(), "p".into(), false).await;
            applied.expect("the policy is applied");
        }
    }

    fn limit(&mut self, period: Period) -> NanoUsd {
        let cents = match period {
            Period::Hourly => 200..4_000,
            Period::Daily => 2_000..20_000,
            Period::Weekly => 10_000..60_000,
            Period::Monthly => 40_000..200_000,
        };
        // Tight enough for some calls to be refused, in a short run too.
        let cents = self.chance.i64(cents) * self.actions.min(FULL) as i64 / FULL as i64;
        NanoUsd(cents.max(10) * 10_000_000)
    }

    async fn set_budget(
        &mut self,
        spender: Spender,
        period: Period,
        limit: NanoUsd,
        action: OnExceeded,
    ) {
        let window = WindowId::utc(self.workspace, spender.clone(), period);
        if action == OnExceeded::Alert {
            self.store.ledger().set_unlimited(&window, true);
        }
        let terms =
            BudgetTerms { spender, period, limits: Limits::of_cost(limit), action, alert_at: None };
        // Under faults a change may have to be made again: it is the same change.
        for _ in 0..PATIENCE {
            if self.latest().set_budget(&self.permit(), terms.clone()).await.is_ok() {
                return;
            }
            self.tick().await;
        }
    }

    async fn register(&mut self, number: usize) {
        let name = format!("agent-{number}");
        let id = AgentKeyId {
            workspace: self.workspace,
            agent: AgentId::of_name(self.workspace, &name),
        };
        let facts = AgentFacts {
            id: id.agent,
            name,
            org: None,
            team: Some(team_name(number % TEAMS)),
            governance_level: GovernanceLevel::L0,
            labels: BTreeMap::new(),
        };
        let registered = self.latest().register(&self.permit(), facts, "key".into()).await;
        registered.expect("the agent is registered");
        self.agents.push(SimAgent { id, open: Vec::new() });
    }

    fn permit<O: Operation>(&self) -> Permit<O> {
        let principal =
            Principal { workspace: self.workspace, key_id: "sim".into(), grant: Grant::Owner };
        principal.authorize().expect("an owner may")
    }

    fn errand(&mut self) -> Errand {
        let agent = self.chance.usize(..self.agents.len());
        let settles = !self.agents[agent].open.is_empty() && self.chance.u8(..) < 140;
        self.next_action += 1;
        let id = ActionId::from_bytes(self.next_action.to_be_bytes());
        let (kind, action) = if settles {
            let open = &mut self.agents[agent].open;
            let call = open.swap_remove(self.chance.usize(..open.len()));
            (ErrandKind::Result, self.result_of(call))
        } else {
            let output = self.chance.u64(1..1_500);
            let action = Action::LlmCall {
                model: MODEL.into(),
                host: None,
                messages: serde_json::Value::Null,
                max_output_tokens: Some(output),
                choices: None,
            };
            (ErrandKind::Call { output }, action)
        };
        Errand {
            agent,
            kind,
            request: (id, action),
            vanishes: !settles && self.chance.u8(..) < 8,
            doubles: self.chance.u8(..) < 8,
        }
    }

    fn result_of(&mut self, call: OpenCall) -> Action {
        let (usage, end) = match self.chance.u8(..16) {
            0 => (None, CallEnd::NotCharged),
            1 => (None, CallEnd::CutOff),
            2 => (None, CallEnd::Complete),
            // A provider that reports more than it was asked for.
            3 => (Some(call.output + self.chance.u64(1..200)), CallEnd::Complete),
            _ => (Some(self.chance.u64(0..=call.output)), CallEnd::Complete),
        };
        let usage = usage.map(|output_tokens| Usage { output_tokens, ..Usage::default() });
        let (content, model, observed) = (serde_json::Value::Null, MODEL.to_owned(), None);
        Action::LlmResult { model, content, usage, call: Some(call.id), end, observed }
    }

    /// Carries the errands out side by side, moving the clock on while they wait.
    async fn carry_out(&mut self, errands: Vec<Errand>) -> Result<Vec<Report>, String> {
        let mut under_way: FuturesUnordered<_> = errands
            .into_iter()
            .map(|errand| {
                let id = self.agents[errand.agent].id;
                carry_out(errand, id, Arc::clone(&self.door), self.clock.clone())
            })
            .collect();
        let mut reports = Vec::new();
        let mut ticks = 0_u64;
        let taken_over_at = (self.chance.u16(..400) == 0).then(|| self.chance.u64(1..6));
        loop {
            tokio::select! {
                biased;
                report = under_way.next() => match report {
                    Some(Ok(report)) => reports.push(report),
                    Some(Err(stuck)) => return Err(self.failed(stuck)),
                    None => return Ok(reports),
                },
                () = tokio::task::yield_now() => {
                    ticks += 1;
                    if taken_over_at == Some(ticks) {
                        self.take_over().await;
                        self.takeovers += 1;
                    }
                    // Most wait for a commit only, and time would but expire what they hold.
                    if ticks.is_multiple_of(64) {
                        self.clock.advance(Duration::from_millis(50));
                    }
                }
            }
        }
    }

    async fn tick(&self) {
        self.clock.advance(Duration::from_millis(50));
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
    }

    fn note(&mut self, report: Report, outcome: &mut Outcome) {
        let Report { agent, kind, action, answer, retries } = report;
        outcome.actions += 1;
        outcome.retries += retries;
        let Some(answer) = answer else {
            outcome.vanished += 1;
            return;
        };
        match kind {
            ErrandKind::Call { output } if answer.decision.verdict == Verdict::Allow => {
                outcome.allowed += 1;
                // Some never come back with the result.
                if self.chance.u8(..) >= 12 {
                    self.agents[agent].open.push(OpenCall { id: action, output });
                }
            }
            ErrandKind::Call { .. } => outcome.refused += 1,
            ErrandKind::Result => {
                outcome.settled += u64::from(matches!(answer.charge, Some(Charge::Settled { .. })));
            }
        }
    }

    /// Between rounds: time passes, sometimes to the edge of a window; limits change; a process takes over.
    async fn change_the_world(&mut self) {
        match self.chance.u8(..) {
            0..=3 => self.clock.advance(Duration::from_secs(self.chance.u64(600..5_000))),
            4 => self.clock.advance(Duration::from_secs(self.chance.u64(40_000..100_000))),
            5..=8 => self.go_to_the_edge(),
            9..=12 => {
                let team = self.chance.usize(1..TEAMS);
                let period = Period::ALL[self.chance.usize(..4)];
                if has_budget(team, period) {
                    let limit = self.limit(period);
                    let spender = Spender::Team(team_name(team).into());
                    self.set_budget(spender, period, limit, OnExceeded::Deny).await;
                }
            }
            _ => self.clock.advance(Duration::from_millis(self.chance.u64(1..3_000))),
        }
    }

    /// To a few microseconds around the next full hour, where windows end in every zone.
    fn go_to_the_edge(&mut self) {
        let hour = 3_600_000_000_i64;
        let now = self.clock.now().as_micros();
        let edge = (now.div_euclid(hour) + 1) * hour - self.chance.i64(0..3);
        self.clock.advance(Duration::from_micros((edge - now).max(0) as u64));
    }

    /// Settles what clients still hold, and lets the rest expire.
    async fn come_to_rest(&mut self) -> Result<(), String> {
        // Whatever a deposed process still holds is answered before it is let go.
        for _ in 0..1_000 {
            self.tick().await;
        }
        self.clock.advance(Duration::from_secs(3_700));
        for _ in 0..10_000 {
            tokio::task::yield_now().await;
        }
        let windows: Vec<_> = self.store.ledger().windows().keys().cloned().collect();
        let budgets = self.latest().budgets(&self.permit(), None, 1_000).await;
        budgets.map_err(|error| self.failed(error))?;
        for agent in self.agents.clone() {
            let spending = self.latest().agent_spending(&self.permit(), agent.id.agent).await;
            spending.map_err(|error| self.failed(error))?;
        }
        let ledger = self.store.ledger();
        let open: usize = windows.iter().map(|window| ledger.windows()[window].open.len()).sum();
        if open > 0 {
            return Err(self.failed(format!("{open} reservations are open after they expired")));
        }
        match ledger.violations().first() {
            Some(violation) => Err(self.failed(violation)),
            None => Ok(()),
        }
    }

    /// Every window's total is what the log says that its calls did cost.
    async fn compare(&mut self, outcome: &mut Outcome) -> Result<(), String> {
        let mut expired: HashMap<(String, ReservationId), NanoUsd> = HashMap::new();
        let mut posted: HashMap<ReservationId, NanoUsd> = HashMap::new();
        let mut denied: HashMap<ReservationId, bool> = HashMap::new();
        for entry in self.entries().await.map_err(|error| self.failed(error))? {
            let nanos = |name: &str| entry.detail.get(name).and_then(|text| text.parse().ok());
            match entry.kind {
                Kind::Budget
                    if entry.detail.get("change").is_some_and(|what| what == "expired") =>
                {
                    let agent = entry.detail["agent"].parse().map_err(|_| "no agent")?;
                    let action = entry.detail["action"].parse().map_err(|_| "no action")?;
                    let amount = nanos("posted_nano_usd").map(NanoUsd).ok_or("no amount")?;
                    let of = (entry.stream.to_string(), ReservationId { agent, action });
                    if expired.insert(of, amount).is_some() {
                        return Err(self.failed(format!("{action} expired twice")));
                    }
                }
                Kind::Decision => {
                    let (Some(agent), Some(action)) = (entry.agent(), &entry.action) else {
                        continue;
                    };
                    let of = ReservationId { agent, action: action.id };
                    denied.insert(of, entry.verdict != Some(Verdict::Allow));
                    let call = entry.detail.get("call").and_then(|call| call.parse().ok());
                    if let (Some(action), Some(amount)) = (call, nanos("posted_nano_usd")) {
                        posted.insert(ReservationId { agent, action }, NanoUsd(amount));
                    }
                }
                _ => {}
            }
        }
        outcome.expired = expired.len() as u64;
        outcome.takeovers = self.takeovers;
        let ids = self.window_ids();
        let ledger = self.store.ledger();
        outcome.commits = ledger.commits();
        for (key, state) in ledger.windows() {
            let Some(id) = ids.get(&key[..]) else {
                return Err(self.failed(format!("a window nobody has: {}", key.escape_ascii())));
            };
            let stream = id.stream().to_string();
            let mut due = 0_i64;
            for (call, reserved) in &state.ever {
                let settled = match expired.get(&(stream.clone(), *call)) {
                    Some(amount) if *amount == reserved.cost() => *amount,
                    Some(amount) => {
                        return Err(self.failed(format!("{amount} expired of {reserved:?}")));
                    }
                    None => match posted.get(call) {
                        Some(amount) => *amount,
                        // It was given back, because the call was refused; the refusal of a client that vanished
                        // may have been lost.
                        None if denied.get(call) != Some(&false) => NanoUsd::ZERO,
                        None => {
                            let action = call.action;
                            return Err(self.failed(format!("{action} in {id} ended nowhere")));
                        }
                    },
                };
                due += settled.0;
            }
            let total = state.record.as_ref().map_or(0, |record| record.total.cost().0);
            if total != due {
                let (total, due) = (NanoUsd(total), NanoUsd(due));
                return Err(self.failed(format!("{id} posted {total}; its calls did cost {due}")));
            }
            outcome.windows += 1;
            outcome.posted += total;
        }
        Ok(())
    }

    fn window_ids(&self) -> HashMap<Vec<u8>, WindowId> {
        let teams = (0..TEAMS).map(|team| Spender::Team(team_name(team).into()));
        let shared = teams.chain([Spender::Workspace]).flat_map(|spender| {
            Period::ALL.map(|period| WindowId::utc(self.workspace, spender.clone(), period))
        });
        let zones = ["America/New_York", "Australia/Lord_Howe", "Asia/Beirut"];
        let own = self.agents.iter().flat_map(|agent| {
            zones.into_iter().flat_map(|zone| {
                [Period::Daily, Period::Monthly].map(|period| WindowId {
                    workspace: self.workspace,
                    spender: Spender::Agent(agent.id.agent),
                    period,
                    zone: zone.into(),
                })
            })
        });
        let prefix = aa_store::Subspace::root().with("window").to_key();
        shared.chain(own).map(|id| (keys::window(&id)[prefix.len()..].to_vec(), id)).collect()
    }

    async fn entries(&self) -> Result<Vec<Entry>, String> {
        let mut entries = Vec::new();
        for shard in 0..3 {
            let mut range =
                KeyRange::prefix(&journal::log_prefix(self.workspace, aa_runtime::ShardId(shard)));
            loop {
                let mut txn = self.store.begin().await.map_err(|error| error.to_string())?;
                let page = txn.range_snapshot(&range, 4_096, Order::Forward).await;
                let page = page.map_err(|error| error.to_string())?;
                let Some((last, _)) = page.last() else { break };
                range = range.after(last);
                for (_, stored) in &page {
                    let (_, line) = aa_governance::chain::decode_entry(stored).ok_or("no entry")?;
                    entries.push(Entry::parse(&line).map_err(|error| error.to_string())?);
                }
            }
        }
        Ok(entries)
    }
}

/// Every other period has a budget, in turn.
const fn has_budget(team: usize, period: Period) -> bool {
    (team + period as usize).is_multiple_of(2)
}

fn team_name(number: usize) -> String {
    format!("team-{number}")
}

/// One client: sends until it is answered, always under the same id.
async fn carry_out(
    errand: Errand,
    id: AgentKeyId,
    door: Arc<Mutex<Option<Governance>>>,
    clock: ManualClock,
) -> Result<Report, String> {
    let Errand { agent, kind, request: (action, body), vanishes, doubles, .. } = errand;
    let mut retries = 0;
    if vanishes {
        // The answer goes nowhere.
        drop(send(&door, &id, action, &body, &clock));
        return Ok(Report { agent, kind, action, answer: None, retries });
    }
    loop {
        let answer = send(&door, &id, action, &body, &clock);
        let second = doubles.then(|| send(&door, &id, action, &body, &clock));
        let answer = answer.await.unwrap_or(Err(Fault::Gone));
        if let Some(second) = second {
            let second = second.await.unwrap_or(Err(Fault::Gone));
            if let (Ok(Ok(first)), Ok(Ok(second))) = (&answer, &second)
                && (first.event, first.decision.verdict) != (second.event, second.decision.verdict)
            {
                return Err(format!("{action} was answered twice, differently"));
            }
        }
        match answer {
            Ok(Ok(answer)) => {
                return Ok(Report { agent, kind, action, answer: Some(answer), retries });
            }
            Ok(Err(unknown)) => return Err(unknown.to_string()),
            Err(fault) if !fault.is_retryable() => return Err(fault.to_string()),
            Err(fault) if retries == PATIENCE => return Err(format!("{action} is stuck: {fault}")),
            Err(_) => {
                retries += 1;
                tokio::task::yield_now().await;
            }
        }
    }
}

type Answered = tokio::sync::oneshot::Receiver<Result<Result<Answer, NotRegistered>, Fault>>;

fn send(
    door: &Mutex<Option<Governance>>,
    id: &AgentKeyId,
    action: ActionId,
    body: &Action,
    clock: &ManualClock,
) -> Answered {
    let (reply, answer) = Reply::channel();
    let request = Request::new(action, body.clone(), clock.now());
    if let Some(governance) = &*door.lock() {
        governance.check(id, request, reply);
    }
    answer
}
