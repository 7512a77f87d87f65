//! The agents' programs: each sends an action until it is answered, always under the same id, to one node after the
//! other.

use std::{
    error::Error,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use aa_protocol::{
    ActionId, Verdict,
    wire::v1::{self, action::Kind},
};
use bytes::Bytes;
use tonic::{Code, Status};

use super::world::{TOOLS, Told, World};
use crate::{
    invariants::Acknowledged,
    peer::{Peer, PeerError, connect},
};

/// How long a client waits for an answer before it asks elsewhere.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long setting up may take, on a busy machine.
const SET_UP: Duration = Duration::from_secs(60);

/// The model that costs.
pub(super) const MODEL: &str = "weathered";

/// The agents' team, whose budget limits them together.
pub(super) const TEAM: &str = "storm";

struct Client {
    world: Arc<World>,
    name: String,
    number: usize,
    /// The agent, with whichever connection it was registered by.
    agent: Peer,
    /// The agent with a connection to each node, where there is one.
    connected: Vec<Option<Peer>>,
    chance: fastrand::Rng,
    sent: u64,
}

/// Registers the agents, each by another node.
pub(super) async fn register(world: &Arc<World>) -> Result<Vec<Peer>, String> {
    let mut agents = Vec::new();
    for number in 0..world.size.agents {
        let env = world.site.environment(number % world.site.nodes());
        let registering = async {
            let channel = connect(&env).await?;
            Peer::register_in(channel, &env, &format!("agent-{number}"), TEAM).await
        };
        let registered = tokio::time::timeout(SET_UP, registering).await;
        let registered = registered.map_err(|_| "an agent is not registered in time")?;
        agents.push(registered.map_err(|error| format!("an agent is not registered: {error}"))?);
    }
    Ok(agents)
}

/// One client's life: acts until the storm is over, and finishes what it has begun.
pub(super) async fn live(world: Arc<World>, number: usize, agent: Peer) -> Result<(), String> {
    let mut client = Client {
        name: format!("client-{number}"),
        number,
        agent,
        connected: vec![None; world.site.nodes()],
        chance: world.chance(number as u64 + 100),
        sent: 0,
        world,
    };
    let lived = client.act().await;
    if let Err(problem) = &lived {
        client.world.report(problem.clone());
    }
    lived
}

impl Client {
    async fn act(&mut self) -> Result<(), String> {
        while !self.world.has_ended() {
            let pause = self.chance.u64(10..250);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            match self.chance.u8(..10) {
                0..=5 => self.use_a_tool().await?,
                6..=8 => self.call_a_model().await?,
                _ => self.ask_a_person().await?,
            }
        }
        Ok(())
    }

    async fn use_a_tool(&mut self) -> Result<(), String> {
        let tool = self.chance.usize(..TOOLS);
        self.send(tool_call(&format!("tool_{tool}")), None, Some(tool)).await.map(drop)
    }

    /// Calls a model and tells what it did cost.
    async fn call_a_model(&mut self) -> Result<(), String> {
        let most = self.chance.u64(1..1_500);
        let call = v1::LlmCall {
            model: MODEL.to_owned(),
            max_output_tokens: Some(most),
            ..v1::LlmCall::default()
        };
        let (id, decision) = self.send(Kind::LlmCall(call), None, None).await?;
        if decision.verdict() != v1::Verdict::Allow {
            return Ok(());
        }
        let (output, end) = match self.chance.u8(..6) {
            0 => (None, v1::CallEnd::NotCharged),
            1 => (None, v1::CallEnd::CutOff),
            _ => (Some(self.chance.u64(0..=most)), v1::CallEnd::Complete),
        };
        let usage = output.map(|output_tokens| v1::Usage { output_tokens, ..v1::Usage::default() });
        let result = v1::LlmResult {
            model: MODEL.to_owned(),
            usage,
            call_id: id.to_bytes().to_vec().into(),
            end: end.into(),
            ..v1::LlmResult::default()
        };
        let (_, settled) = self.send(Kind::LlmResult(result), None, None).await?;
        if let Some(charge) = settled.charge.filter(|charge| charge.settled) {
            self.world.charged.fetch_add(charge.posted_nano_usd, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Does what a person has to approve, and waits for the answer.
    async fn ask_a_person(&mut self) -> Result<(), String> {
        let (_, asked) = self.send(tool_call("deploy"), None, None).await?;
        let approval = asked.approval.clone().filter(|approval| !approval.id.is_empty());
        let Some(approval) = approval else {
            return Err(format!("{}: `deploy` was not asked about: {asked:?}", self.name));
        };
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let (_, again) = self.send(tool_call("deploy"), Some(&approval.id), None).await?;
            if again.verdict() != v1::Verdict::RequireApproval || self.world.has_ended() {
                break;
            }
        }
        Ok(())
    }

    /// Sends an action until it is answered.
    async fn send(
        &mut self,
        kind: Kind,
        approval: Option<&Bytes>,
        tool: Option<usize>,
    ) -> Result<(ActionId, v1::Decision), String> {
        self.sent += 1;
        let number = (self.number as u128 + 1) << 64 | u128::from(self.sent);
        let id = ActionId::from_bytes(number.to_be_bytes());
        let message = v1::Action {
            id: id.to_bytes().to_vec().into(),
            approval_id: approval.cloned().unwrap_or_default(),
            kind: Some(kind),
            ..v1::Action::default()
        };
        let asked = self.world.elapsed();
        for attempt in 0_u64.. {
            let node = self.chance.usize(..self.world.site.nodes());
            match self.try_once(node, message.clone()).await {
                Ok(decision) => {
                    self.note(id, &decision, asked, tool, attempt)?;
                    return Ok((id, decision));
                }
                Err(problem) => {
                    self.connected[node] = None;
                    let problem = format!("{id} of {}: {problem}", self.world.site.name(node));
                    self.world.waiting.lock().insert(self.name.clone(), problem);
                }
            }
            if self.world.is_lost() {
                return Err("the storm is lost".to_owned());
            }
            let pause = self.chance.u64(10..200);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        unreachable!("it tries for ever")
    }

    /// What went wrong is worth another try elsewhere, or a violation that is reported.
    async fn try_once(&mut self, node: usize, message: v1::Action) -> Result<v1::Decision, String> {
        let asking = async {
            let peer = match &self.connected[node] {
                Some(peer) => peer.clone(),
                None => {
                    let env = self.world.site.environment(node);
                    let peer = self.agent.reconnected(&env).await;
                    let peer = peer.map_err(|error: PeerError| error.to_string())?;
                    self.connected[node].insert(peer).clone()
                }
            };
            match peer.check(message).await {
                Ok(decision) => Ok(decision),
                Err(status) => {
                    if !is_worth_another_try(&status) {
                        let problem = format!("{} was refused: {status}", self.name);
                        self.world.report(problem);
                    }
                    Err(status.to_string())
                }
            }
        };
        let asked = tokio::time::timeout(PATIENCE, asking).await;
        asked.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))
    }

    fn note(
        &self,
        action: ActionId,
        decision: &v1::Decision,
        asked: Duration,
        tool: Option<usize>,
        retries: u64,
    ) -> Result<(), String> {
        let unreadable = |error: &dyn Error| format!("an answer does not read: {error}");
        let verdict = decision.to_decision().map_err(|error| unreadable(&error))?.verdict;
        let event = decision.event_id.parse().map_err(|error| unreadable(&error))?;
        let mut outcome = self.world.outcome.lock();
        outcome.told += 1;
        outcome.allowed += u64::from(verdict == Verdict::Allow);
        outcome.retries += retries;
        let acknowledged = Acknowledged { action, event, verdict: Some(verdict) };
        self.world.told.lock().push(Told { acknowledged, verdict, asked, tool });
        self.world.waiting.lock().remove(&self.name);
        self.world.answers[self.number].fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Whether a refusal is one that passes: no node may say anything else to an agent in good standing.
fn is_worth_another_try(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::ResourceExhausted | Code::Cancelled | Code::DeadlineExceeded => {
            true
        }
        // What this side makes of a connection that broke; a node's own answer has no source.
        _ => status.source().is_some(),
    }
}

fn tool_call(tool: &str) -> Kind {
    Kind::ToolCall(v1::ToolCall { tool: tool.to_owned(), args_json: String::new() })
}
