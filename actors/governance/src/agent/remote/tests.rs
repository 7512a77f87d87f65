#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use aa_budget::{Amount, Period};
use aa_protocol::{
    Action, ActionId, AgentFacts, ApprovalId, ApprovalTerms, BudgetStanding, CallEnd, Decision,
    EventId, Finding, GovernanceLevel, NanoUsd, Observed, Reason, ReasonCode, Usage, Verdict,
};
use aa_runtime::Reply;
use serde_json::json;

use super::*;
use crate::{
    agent::{
        Answer, Basis, Charge, Metered, NotRegistered, Refusal, Registration, Report,
        ReportOutcome, SessionId, StatusChange,
    },
    agent_record::{AgentKey, AgentRecord, BudgetSuspension, Suspension},
    crossing::{Crossing, NOW, agent, reply_of},
};

fn facts() -> AgentFacts {
    AgentFacts {
        id: agent(),
        name: "a".to_owned(),
        org: Some("acme".to_owned()),
        team: None,
        governance_level: GovernanceLevel::L2,
        labels: [("env".to_owned(), "prod".to_owned())].into(),
    }
}

fn actions() -> Vec<Action> {
    let call = ActionId::from_bytes([7; 16]);
    let usage = Usage { input_tokens: u64::MAX, output_tokens: 2, ..Usage::default() };
    let json = json!({"deep": [{"er": [null, true, -1, u64::MAX, 1.5e300, "ü\n\u{0}"]}], "": {}});
    let args = json.as_object().unwrap().clone();
    let text = |text: &str| text.to_owned();
    let observed = Observed {
        latency_us: u64::MAX,
        first_token_us: Some(0),
        status: Some(200),
        finish_reason: Some(text("stop")),
        conversation: None,
        response_id: Some(text("resp_1")),
    };
    vec![
        Action::ToolCall { tool: text("bash"), args },
        Action::ToolResult { tool: text("bash"), content: json.clone() },
        Action::LlmCall {
            model: text("gpt-4o"),
            host: Some(text("api.openai.com")),
            messages: json.clone(),
            max_output_tokens: Some(9),
            choices: None,
        },
        Action::LlmResult {
            model: text("gpt-4o"),
            content: json,
            usage: Some(usage),
            call: Some(call),
            end: CallEnd::CutOff,
            observed: Some(Box::new(observed)),
        },
        Action::NetworkConnect { host: text("h"), port: 65_535 },
        Action::NetworkListen { port: 0 },
        Action::FileRead { path: text("/a") },
        Action::FileWrite { path: String::new() },
        Action::ProcessExec { argv: vec![text("ls"), text("-l")] },
        Action::AgentSpawn { child: text("b") },
    ]
}

fn requests() -> Vec<Request> {
    let requests = actions().into_iter().zip(0_u8..).map(|(action, number)| {
        let plain = Request::new(ActionId::from_bytes([number; 16]), action, NOW);
        if number % 2 == 0 {
            return plain;
        }
        Request {
            trace: Some([number; 16]),
            parent_span: Some([number; 8]),
            approval: Some(ApprovalId::of_action(agent(), plain.id)),
            session: Some(SessionId(u64::MAX)),
            context: Some("because".to_owned()),
            ..plain
        }
    });
    requests.collect()
}

fn reason() -> Reason {
    let standing = BudgetStanding {
        window: "daily".to_owned(),
        limit: Some(NanoUsd(5)),
        spent: NanoUsd(4),
        reserved: NanoUsd(3),
        limit_tokens: None,
        spent_tokens: 2,
        reserved_tokens: 1,
        resets_at: NOW,
    };
    Reason {
        policy: Some("p".to_owned()),
        revision: Some(3),
        path: Some("spec.tools.bash.allow".to_owned()),
        line: Some(7),
        budget: Some(Box::new(standing)),
        ..Reason::undocumented(ReasonCode::BudgetExceeded, "too much")
    }
}

fn answers() -> Vec<Result<Answer, NotRegistered>> {
    let terms = ApprovalTerms { timeout_seconds: 300, roles: vec!["ops".to_owned()] };
    let finding = Finding {
        policy: "p".to_owned(),
        pattern: 1,
        pointer: "/args/x".to_owned(),
        in_key: true,
        offset: 2,
        length: 3,
    };
    let decision = |verdict| Decision {
        verdict,
        reasons: vec![reason()],
        approval: Some(terms.clone()),
        findings: vec![finding.clone()],
    };
    let answer = |verdict, charge| Answer {
        decision: decision(verdict).into(),
        event: EventId::from_parts(1_700_000_000_000, 42),
        latency_us: 12,
        repeated: true,
        charge,
        approval: Some(ApprovalId::of_action(agent(), ActionId::from_bytes([1; 16]))),
    };
    let settled = |basis| {
        let amount = Amount::new(NanoUsd(i64::MAX), 8).unwrap();
        Some(Charge::Settled { amount, basis })
    };
    vec![
        Ok(answer(Verdict::Allow, None)),
        Ok(answer(Verdict::RequireApproval, Some(Charge::NotOpen))),
        Ok(answer(Verdict::Deny, settled(Basis::Usage))),
        Ok(answer(Verdict::Deny, settled(Basis::Produced))),
        Ok(answer(Verdict::Deny, settled(Basis::Reservation))),
        Ok(answer(Verdict::Deny, settled(Basis::NotCharged))),
        Err(NotRegistered(agent())),
    ]
}

fn records() -> Vec<Result<AgentRecord, NotRegistered>> {
    let suspension = Suspension { at: NOW, by: "key:k".to_owned(), reason: String::new() };
    let by_budget = BudgetSuspension {
        policy: "p".to_owned(),
        revision: Some(1),
        window: Period::Monthly,
        at: NOW,
        until: NOW,
        spent: NanoUsd(1),
        reserved: NanoUsd(0),
    };
    let record = AgentRecord {
        facts: facts(),
        registered_at: NOW,
        keys: vec![AgentKey { public_key: "abc".to_owned(), proven_at: NOW }],
        suspended: Some(suspension),
        budget_suspension: Some(by_budget),
        registered_by: "k".to_owned(),
    };
    let active = AgentRecord { suspended: None, budget_suspension: None, ..record.clone() };
    vec![Ok(record), Ok(active), Err(NotRegistered(agent()))]
}

fn report(action: Action, outcome: ReportOutcome) -> Report {
    Report {
        id: ActionId::from_bytes([3; 16]),
        trace: Some([255; 16]),
        parent_span: Some([255; 8]),
        action,
        outcome,
        duration_us: 5,
        occurred_at: Some(NOW),
        session: None,
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_agent_is_asked_and_answers_crosses_between_nodes() {
    let mut crossing = Crossing::new().await;
    let registration =
        || Registration { facts: facts(), public_key: "abc".to_owned(), actor: "key:k".to_owned() };
    crossing
        .is_answered(
            |reply| AgentMessage::Register(registration(), reply),
            reply_of!(AgentMessage::Register(_, reply) => reply),
            [facts()],
        )
        .await;
    let outcomes = [
        ReportOutcome::Ok,
        ReportOutcome::Error,
        ReportOutcome::Cancelled,
        ReportOutcome::Ungoverned,
        ReportOutcome::Unseen,
    ];
    for (action, outcome) in actions().into_iter().zip(outcomes) {
        crossing
            .is_answered(
                |reply| AgentMessage::Record(report(action.clone(), outcome), reply),
                reply_of!(AgentMessage::Record(_, reply) => reply),
                [Ok(EventId::from_parts(1, 2)), Err(NotRegistered(agent()))],
            )
            .await;
    }
    let refusal = || Refusal { code: "malformed_action".into(), message: "it is cut".to_owned() };
    crossing
        .is_answered(
            |reply| AgentMessage::Refuse(refusal(), reply),
            reply_of!(AgentMessage::Refuse(_, reply) => reply),
            [()],
        )
        .await;
    let change = || StatusChange {
        suspend: true,
        actor: "key:k".to_owned(),
        reason: "it misbehaves".to_owned(),
    };
    crossing
        .is_answered(
            |reply| AgentMessage::SetStatus(change(), reply),
            reply_of!(AgentMessage::SetStatus(_, reply) => reply),
            records(),
        )
        .await;
    crossing.stays(AgentMessage::Metered(Metered::Settled(Vec::new())));
}

#[tokio::test(start_paused = true)]
async fn actions_that_cross_together_are_answered_each_by_itself() {
    let mut crossing = Crossing::new().await;
    let (checks, received): (Vec<_>, Vec<_>) = requests()
        .into_iter()
        .map(|request| {
            let (reply, received) = Reply::channel();
            (Check { request, reply }, received)
        })
        .unzip();
    let sent = AgentMessage::Check(checks);
    let shown = format!("{sent:?}");
    let arrived = crossing.carry(sent).await;
    assert_eq!(format!("{arrived:?}"), shown);
    let AgentMessage::Check(checks) = arrived else { panic!("{arrived:?}") };
    // The last first: none waits for another.
    let answers: Vec<_> = answers().into_iter().cycle().take(checks.len()).collect();
    let expected: Vec<_> =
        answers.iter().map(|answer| format!("{:?}", Ok::<_, Fault>(answer))).collect();
    let mut left: Vec<_> = checks.into_iter().zip(answers).zip(received).zip(expected).collect();
    while let Some((((check, answer), received), expected)) = left.pop() {
        check.reply.send(Ok(answer));
        assert_eq!(format!("{:?}", received.await.unwrap()), expected);
    }
}

#[tokio::test]
async fn actions_that_are_not_handled_are_all_told_why() {
    let (checks, received): (Vec<_>, Vec<_>) = requests()
        .into_iter()
        .map(|request| {
            let (reply, received) = Reply::channel();
            (Check { request, reply }, received)
        })
        .unzip();
    AgentMessage::Check(checks).fail(Fault::ShardAway { shard: 3 });
    for received in received {
        assert_eq!(received.await.unwrap().unwrap_err(), Fault::ShardAway { shard: 3 });
    }
}
