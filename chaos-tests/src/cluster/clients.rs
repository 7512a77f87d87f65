//! The agents' programs: each sends an action until it is answered, always under the same id, to whichever node it
//! reaches.

use std::{sync::Arc, time::Duration};

use aa_governance::agent::{AgentKeyId, Answer, Request};
use aa_protocol::{Action, ActionId, ApprovalId, CallEnd, Usage, Verdict};
use aa_runtime::{Clock, Fault, Reply};
use serde_json::{Map, Value};

use super::world::{TOOLS, Told, World};

/// How long a client waits for an answer before it asks elsewhere.
const PATIENCE: Duration = Duration::from_secs(5);

/// The model that costs.
pub(super) const MODEL: &str = "simulated";

struct Client {
    world: Arc<World>,
    name: String,
    agent: AgentKeyId,
    chance: fastrand::Rng,
    number: u64,
    sent: u64,
}

/// One client's life: acts until the run ends, and finishes what it has begun.
pub(super) async fn live(world: Arc<World>, number: usize) -> Result<(), String> {
    let agent = world.agent_of(number);
    let seed = world.seed.wrapping_add((number as u64 + 1).wrapping_mul(0x2545_f491_4f6c_dd1d));
    let mut client = Client {
        name: format!("client-{number}"),
        agent,
        chance: fastrand::Rng::with_seed(seed),
        number: number as u64,
        sent: 0,
        world,
    };
    while !client.world.has_ended() {
        let pause = client.chance.u64(20..1_500);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        match client.chance.u8(..10) {
            0..=5 => client.use_a_tool().await?,
            6..=8 => client.call_a_model().await?,
            _ => client.ask_a_person().await?,
        }
    }
    Ok(())
}

impl Client {
    async fn use_a_tool(&mut self) -> Result<(), String> {
        let tool = self.chance.usize(..TOOLS);
        let action = tool_call(&format!("tool_{tool}"));
        self.send(action, None, Some(tool)).await.map(drop)
    }

    /// Calls a model and tells what it did cost.
    async fn call_a_model(&mut self) -> Result<(), String> {
        let output = self.chance.u64(1..1_500);
        let call = Action::LlmCall {
            model: MODEL.into(),
            host: None,
            messages: Value::Null,
            max_output_tokens: Some(output),
            choices: None,
        };
        let (id, answer) = self.send(call, None, None).await?;
        if answer.decision.verdict != Verdict::Allow || self.chance.u8(..10) == 0 {
            return Ok(());
        }
        let (usage, end) = match self.chance.u8(..6) {
            0 => (None, CallEnd::NotCharged),
            1 => (None, CallEnd::CutOff),
            _ => (Some(self.chance.u64(0..=output)), CallEnd::Complete),
        };
        let usage = usage.map(|output_tokens| Usage { output_tokens, ..Usage::default() });
        let (content, model, observed) = (Value::Null, MODEL.to_owned(), None);
        let result = Action::LlmResult { model, content, usage, call: Some(id), end, observed };
        self.send(result, None, None).await.map(drop)
    }

    /// Does what a person has to approve, and waits for the answer.
    async fn ask_a_person(&mut self) -> Result<(), String> {
        let (_, asked) = self.send(tool_call("deploy"), None, None).await?;
        let Some(approval) = asked.approval else {
            return Err(format!("{}: `deploy` was not asked about: {asked:?}", self.name));
        };
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let (_, again) = self.send(tool_call("deploy"), Some(approval), None).await?;
            if again.decision.verdict != Verdict::RequireApproval || self.world.has_ended() {
                break;
            }
        }
        Ok(())
    }

    /// Sends an action until it is answered.
    async fn send(
        &mut self,
        action: Action,
        approval: Option<ApprovalId>,
        tool: Option<usize>,
    ) -> Result<(ActionId, Answer), String> {
        self.sent += 1;
        let id = ActionId::from_bytes(
            (u128::from(self.number + 1) << 64 | u128::from(self.sent)).to_be_bytes(),
        );
        let asked = self.world.elapsed();
        for attempt in 0_u32.. {
            let received = self.world.clock.now();
            let request = Request { approval, ..Request::new(id, action.clone(), received) };
            match self.try_once(request).await {
                Some(Ok(answer)) => {
                    self.world.waiting.lock().remove(&self.name);
                    self.note(id, &answer, asked, tool, attempt);
                    return Ok((id, answer));
                }
                Some(Err(problem)) => return Err(format!("{}: {problem}", self.name)),
                None => {}
            }
            let pause = self.chance.u64(10..400);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            if self.world.violation.lock().is_some() {
                return Err("the run is over".to_owned());
            }
        }
        unreachable!("it tries for ever")
    }

    /// `None` when it has to be tried again.
    async fn try_once(&mut self, request: Request) -> Option<Result<Answer, String>> {
        let governance = self.world.any_governance(&mut self.chance)?;
        let (reply, answer) = Reply::channel();
        let id = request.id;
        governance.check(&self.agent, request, reply);
        let fault = match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(Ok(Ok(answer)))) => return Some(Ok(answer)),
            Ok(Ok(Ok(Err(unknown)))) => return Some(Err(unknown.to_string())),
            Ok(Ok(Err(fault))) if !fault.is_retryable() => return Some(Err(fault.to_string())),
            Ok(Ok(Err(fault))) => fault,
            Ok(Err(_)) => Fault::Gone,
            Err(_) => Fault::Unreachable { node: "?".to_owned(), why: "no answer".to_owned() },
        };
        self.world.waiting.lock().insert(self.name.clone(), format!("{id}: {fault}"));
        None
    }

    fn note(
        &self,
        action: ActionId,
        answer: &Answer,
        asked: Duration,
        tool: Option<usize>,
        retries: u32,
    ) {
        let verdict = answer.decision.verdict;
        let mut outcome = self.world.outcome.lock();
        outcome.told += 1;
        outcome.allowed += u64::from(verdict == Verdict::Allow);
        outcome.retries += u64::from(retries);
        outcome.slowest = outcome.slowest.max(self.world.elapsed().saturating_sub(asked));
        let workspace = self.agent.workspace;
        let event = answer.event;
        self.world.told.lock().push(Told { workspace, action, event, verdict, asked, tool });
    }
}

fn tool_call(tool: &str) -> Action {
    Action::ToolCall { tool: tool.to_owned(), args: Map::new() }
}
