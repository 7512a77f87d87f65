use aa_protocol::{ActionId, ActionKind, ApprovalId, Reason, ReasonCode};
use serde_json::json;

use super::*;
use crate::{
    approval::{Answer, Claim, Claimed, NotAnswered},
    approval_record::{
        AnswerError, ApprovalAnswer, ApprovalRecord, ApprovalScope, OpenStage, Outcome,
    },
    crossing::{Crossing, NOW, agent, reply_of, workspace},
    permission::{Grant, Principal},
};

fn id() -> ApprovalId {
    ApprovalId::of_action(agent(), ActionId::from_bytes([1; 16]))
}

fn record(outcome: Option<Outcome>) -> ApprovalRecord {
    let answer = ApprovalAnswer {
        by: "k2".to_owned(),
        approved: true,
        scope: ApprovalScope::Session,
        reason: String::new(),
        groups: vec![String::new(), "ops".to_owned()],
        at: NOW,
    };
    ApprovalRecord {
        id: id(),
        workspace: workspace(),
        agent: agent(),
        agent_name: "a".to_owned(),
        team: Some("t".to_owned()),
        registered_by: "k".to_owned(),
        action: json!({"kind": "tool_call", "tool": "bash", "args": {"n": [1, -2, 0.1, null]}}),
        kind: ActionKind::ToolCall,
        digest: "00ff".to_owned(),
        reasons: vec![Reason::undocumented(ReasonCode::ApprovalRequired, "ask")],
        context: None,
        asked_at: NOW,
        deadline: NOW,
        stages: vec![OpenStage { group: "ops".to_owned(), needed: 2, opens_at: NOW }],
        needs_every_stage: true,
        asked: 3,
        answers: vec![answer],
        outcome,
        used_by: Some(ActionId::from_bytes([9; 16])),
    }
}

fn records() -> Vec<ApprovalRecord> {
    let (by, reason) = ("k2".to_owned(), "no".to_owned());
    vec![
        record(None),
        record(Some(Outcome::Approved { scope: ApprovalScope::Once, at: NOW })),
        record(Some(Outcome::Denied { by, reason, at: NOW })),
        record(Some(Outcome::Expired { at: NOW })),
    ]
}

#[tokio::test(start_paused = true)]
async fn what_a_request_is_asked_and_answers_crosses_between_nodes() {
    let mut crossing = Crossing::new().await;
    crossing
        .is_answered(
            |reply| ApprovalMessage::Ask(Box::new(record(None)), reply),
            reply_of!(ApprovalMessage::Ask(_, reply) => reply),
            records(),
        )
        .await;
    let refused = [
        AnswerError::Decided { state: "expired".into(), at: NOW },
        AnswerError::Own,
        AnswerError::NotAsked("the group `ops`".to_owned()),
        AnswerError::Twice,
    ];
    let refused = refused.map(|error| Err(NotAnswered::Refused(error)));
    let answers = records().into_iter().map(Ok).chain(refused);
    let who =
        || Principal { workspace: workspace(), key_id: "k2".to_owned(), grant: Grant::Developer };
    crossing
        .is_answered(
            |reply| {
                let (scope, reason) = (ApprovalScope::Session, "fine".to_owned());
                let answer = Answer { who: who(), approved: true, scope, reason };
                ApprovalMessage::Answer(answer, reply)
            },
            reply_of!(ApprovalMessage::Answer(_, reply) => reply),
            answers.chain([Err(NotAnswered::Unknown(id()))]),
        )
        .await;
    let reason = Reason::undocumented(ReasonCode::ApprovalDenied, "no");
    crossing
        .is_answered(
            |reply| {
                let action = ActionId::from_bytes([2; 16]);
                ApprovalMessage::Claim(Claim { action, digest: "00ff".to_owned() }, reply)
            },
            reply_of!(ApprovalMessage::Claim(_, reply) => reply),
            [
                Claimed::Granted(ApprovalScope::Once),
                Claimed::Granted(ApprovalScope::Session),
                Claimed::Pending,
                Claimed::Refused(Box::new(reason)),
                Claimed::NotForThis,
            ],
        )
        .await;
    crossing
        .is_answered(
            ApprovalMessage::Read,
            reply_of!(ApprovalMessage::Read(reply) => reply),
            [Some(record(None)), None],
        )
        .await;
    crossing
        .is_answered(ApprovalMessage::Wake, reply_of!(ApprovalMessage::Wake(reply) => reply), [()])
        .await;
}
