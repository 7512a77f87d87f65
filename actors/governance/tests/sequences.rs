//! What results arm in an agent's sessions, and what comes of it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use aa_governance::{
    Grant,
    agent::{AgentKeyId, Answer, Report, ReportOutcome, Request, SessionId},
    approval_record::ApprovalScope,
};
use aa_ledger::Kind;
use aa_protocol::{ActionId, EventId, ReasonCode, Verdict};
use aa_runtime::Reply;
use world::{World, action_of};

const MAIL: &str = "\
apiVersion: agent-assembly/v1
kind: Policy
metadata: {name: mail}
spec:
  sequences:
    no-mail:
      after: {tools: [read_file], result_matches: confidential}
      then: {tools: [send_email], decision: deny}
  data: {sensitive_patterns: [hunter2]}
";

const SEND: &str = r#"{"kind":"tool_call","tool":"send_email","args":{"to":"x"}}"#;
const READ: &str = r#"{"kind":"tool_result","tool":"read_file","content":"confidential"}"#;
const BLOCKED: &str =
    r#"{"kind":"tool_result","tool":"read_file","content":"confidential hunter2"}"#;

const FIRST: Option<SessionId> = Some(SessionId(1));
const SECOND: Option<SessionId> = Some(SessionId(2));

async fn world(source: &str) -> (World, AgentKeyId) {
    let world = World::new().await;
    world.apply(source).await;
    let agent = world.register("a").await;
    (world, agent)
}

async fn ask(
    world: &World,
    agent: &AgentKeyId,
    action: u128,
    session: Option<SessionId>,
    json: &str,
) -> Answer {
    let request = Request { session, ..world.request(action, json) };
    world.ask(agent, request).await.unwrap()
}

async fn verdict(
    world: &World,
    agent: &AgentKeyId,
    action: u128,
    session: Option<SessionId>,
) -> Verdict {
    ask(world, agent, action, session, SEND).await.decision.verdict
}

async fn report(world: &World, agent: &AgentKeyId, action: u128, json: &str) -> EventId {
    let (reply, answer) = Reply::channel();
    let report = Report {
        id: ActionId::from_bytes(action.to_be_bytes()),
        trace: None,
        parent_span: None,
        action: action_of(json),
        outcome: ReportOutcome::Ok,
        duration_us: 1,
        occurred_at: None,
        session: SECOND,
    };
    world.governance.record(agent, report, reply);
    tokio::time::timeout(world::PATIENCE, answer).await.unwrap().unwrap().unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_arms_its_session_and_no_other() {
    let (world, agent) = world(MAIL).await;
    assert_eq!(verdict(&world, &agent, 1, FIRST).await, Verdict::Allow);
    let read = ask(&world, &agent, 2, FIRST, READ).await;
    assert_eq!(read.decision.verdict, Verdict::Allow);
    let refused = ask(&world, &agent, 3, FIRST, SEND).await;
    assert_eq!(refused.decision.reasons[0].code, ReasonCode::SequenceDenied);
    assert_eq!(verdict(&world, &agent, 4, SECOND).await, Verdict::Allow);
    assert_eq!(verdict(&world, &agent, 5, None).await, Verdict::Allow);
    ask(&world, &agent, 6, None, READ).await;
    assert_eq!(verdict(&world, &agent, 7, None).await, Verdict::Deny);
    assert_eq!(verdict(&world, &agent, 8, SECOND).await, Verdict::Allow);
    let other = world.register("b").await;
    assert_eq!(verdict(&world, &other, 9, FIRST).await, Verdict::Allow, "nor another agent");

    let entries = world.verified_entries().await;
    let entry = entries.iter().find(|entry| entry.id == read.event).unwrap();
    assert_eq!(entry.detail["armed"], "mail/no-mail");
    let arming = entries.iter().filter(|entry| entry.detail.contains_key("armed"));
    assert_eq!(arming.count(), 2, "only the result that arms tells so");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_armed_stays_so_over_restarts_and_revisions() {
    let (world, agent) = world(MAIL).await;
    ask(&world, &agent, 1, FIRST, READ).await;
    ask(&world, &agent, 2, None, READ).await;
    let world = world.restarted().await;
    assert_eq!(verdict(&world, &agent, 3, FIRST).await, Verdict::Deny);
    assert_eq!(verdict(&world, &agent, 4, None).await, Verdict::Deny);
    assert_eq!(verdict(&world, &agent, 5, SECOND).await, Verdict::Allow);

    let revised = MAIL.replace("[read_file]", "[read_mail]").replace("deny", "require_approval");
    assert_eq!(world.apply(&revised).await.revision.revision, 2);
    assert_eq!(verdict(&world, &agent, 6, FIRST).await, Verdict::RequireApproval);

    world.apply(&MAIL.replace("no-mail:", "another:")).await;
    assert_eq!(verdict(&world, &agent, 7, FIRST).await, Verdict::Allow, "it has no such sequence");
    world.apply(MAIL).await;
    assert_eq!(verdict(&world, &agent, 8, FIRST).await, Verdict::Deny, "it has it again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_result_arms_nothing() {
    let (world, agent) = world(MAIL).await;
    let blocked = ask(&world, &agent, 1, FIRST, BLOCKED).await;
    assert_eq!(blocked.decision.verdict, Verdict::Deny);
    assert_eq!(verdict(&world, &agent, 2, FIRST).await, Verdict::Allow);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reported_result_was_seen_and_arms_its_session_whatever_was_decided_of_it() {
    let (world, agent) = world(MAIL).await;
    ask(&world, &agent, 1, FIRST, READ).await;
    let event = report(&world, &agent, 2, BLOCKED).await;
    assert_eq!(report(&world, &agent, 2, BLOCKED).await, event, "a repeat is the same event");
    report(&world, &agent, 3, BLOCKED).await;
    let world = world.restarted().await;
    assert_eq!(verdict(&world, &agent, 4, SECOND).await, Verdict::Deny);
    assert_eq!(verdict(&world, &agent, 5, None).await, Verdict::Allow);
    let entries = world.verified_entries().await;
    let events: Vec<_> = entries.iter().filter(|entry| entry.kind == Kind::Event).collect();
    assert_eq!(events.len(), 2);
    assert_eq!(events[0].detail["armed"], "mail/no-mail");
    assert!(!events[1].detail.contains_key("armed"), "it was armed by then");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_the_bound_a_sequence_is_armed_for_every_session() {
    const BOUND: u64 = 4_096;
    let (world, agent) = world(MAIL).await;
    let mut answers = Vec::new();
    for session in 0..=BOUND {
        let (reply, answer) = Reply::channel();
        let request = world.request(u128::from(session) + 10, READ);
        let request = Request { session: Some(SessionId(session)), ..request };
        world.governance.check(&agent, request, reply);
        answers.push(answer);
        if session + 1 == BOUND {
            for answer in answers.drain(..) {
                let answer = world::settled(answer).await.unwrap().unwrap();
                assert_eq!(answer.decision.verdict, Verdict::Allow);
            }
            let last = Some(SessionId(BOUND - 1));
            assert_eq!(verdict(&world, &agent, 1, last).await, Verdict::Deny);
            let unarmed = Some(SessionId(BOUND + 7));
            assert_eq!(verdict(&world, &agent, 2, unarmed).await, Verdict::Allow);
        }
    }
    for answer in answers {
        world::settled(answer).await.unwrap().unwrap();
    }
    for (action, session) in (3..).zip([Some(SessionId(0)), Some(SessionId(BOUND + 7)), None]) {
        assert_eq!(verdict(&world, &agent, action, session).await, Verdict::Deny);
    }
    let world = world.restarted().await;
    assert_eq!(verdict(&world, &agent, 6, Some(SessionId(0))).await, Verdict::Deny);
    assert_eq!(verdict(&world, &agent, 7, Some(SessionId(BOUND + 8))).await, Verdict::Deny);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_lets_one_armed_call_go_on_and_no_other() {
    let (world, agent) = world(&MAIL.replace("deny", "require_approval")).await;
    ask(&world, &agent, 1, FIRST, READ).await;
    let asked = ask(&world, &agent, 2, FIRST, SEND).await;
    assert_eq!(asked.decision.reasons[0].code, ReasonCode::SequenceRequiresApproval);
    let id = asked.approval.unwrap();
    let record = world.governance.approval(&world.permit(), id).await.unwrap();
    assert_eq!(record.reasons[0].path.as_deref(), Some("spec.sequences.no-mail"));
    let permit = world.permit_of("somebody", Grant::Owner);
    world.governance.answer_approval(&permit, id, true, ApprovalScope::Session, "").await.unwrap();
    let send = |action, json| Request {
        approval: Some(id),
        session: FIRST,
        ..world.request(action, json)
    };
    let other = SEND.replace("\"x\"", "\"y\"");
    let changed = world.ask(&agent, send(3, &other)).await.unwrap();
    assert_eq!(changed.decision.verdict, Verdict::RequireApproval, "other arguments");
    let approved = world.ask(&agent, send(4, SEND)).await.unwrap();
    assert_eq!(approved.decision.verdict, Verdict::Allow);
    let again = ask(&world, &agent, 5, FIRST, &other).await;
    assert_eq!(again.decision.verdict, Verdict::Allow, "it was approved for the session");
    ask(&world, &agent, 6, SECOND, READ).await;
    let elsewhere = ask(&world, &agent, 7, SECOND, SEND).await;
    assert_eq!(elsewhere.decision.verdict, Verdict::RequireApproval);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_for_the_session_covers_no_sequence_armed_later() {
    let asking = MAIL.replace("deny", "require_approval")
        + "  tools:\n    send_email: {requires_approval_if: 'true'}\n";
    let (world, agent) = world(&asking).await;
    let id = ask(&world, &agent, 1, FIRST, SEND).await.approval.unwrap();
    let permit = world.permit_of("somebody", Grant::Owner);
    world.governance.answer_approval(&permit, id, true, ApprovalScope::Session, "").await.unwrap();
    let request = Request { approval: Some(id), session: FIRST, ..world.request(2, SEND) };
    assert_eq!(world.ask(&agent, request).await.unwrap().decision.verdict, Verdict::Allow);
    assert_eq!(verdict(&world, &agent, 3, FIRST).await, Verdict::Allow);
    ask(&world, &agent, 4, FIRST, READ).await;
    assert_eq!(verdict(&world, &agent, 5, FIRST).await, Verdict::RequireApproval);
}
