//! Actions that wait for other actors: for windows, for a request for approval.

use aa_policy::Judgement;
use aa_protocol::{ActionId, ApprovalId};
use aa_runtime::{Fault, Reply};

use super::{
    Answer, Check, NotRegistered,
    quote::{Charge, OpenCall, Quote},
};
use crate::{
    approval::Claimed, approval_record::ApprovalRecord, budget_window::Asked, spender::WindowId,
};

/// An action that waits.
pub(super) struct Parked {
    pub(super) check: Check,
    /// Repeats that came meanwhile.
    pub(super) also: Vec<Reply<Result<Answer, NotRegistered>>>,
    /// How many actors have not answered.
    pub(super) waiting: usize,
    /// Why one did not.
    pub(super) fault: Option<Fault>,
    pub(super) stage: Stage,
}

/// What an action waits for.
pub(super) enum Stage {
    /// A large prompt is being measured aside.
    Pricing,
    /// The windows are setting amounts aside.
    Reserving { call: Quote, answers: Vec<(WindowId, Asked)>, attempt: u8 },
    /// It was refused: what was set aside is being given back.
    Voiding { judgement: Box<Judgement> },
    /// It is a result: the windows are posting what the call did cost.
    Posting { call: OpenCall, charge: Charge },
    /// A person is being asked.
    Asking { judgement: Box<Judgement> },
    /// The request that it refers to is saying what it is worth.
    Claiming { id: ApprovalId, judgement: Box<Judgement> },
}

/// What a waiting action waits for.
#[derive(Debug)]
pub enum Metered {
    /// A prompt that was measured aside.
    Quoted(ActionId, Quote),
    /// A window's answers to what this agent's calls asked of it.
    Reserved(WindowId, Vec<Asked>),
    /// A window has settled what it was told, on behalf of these actions.
    Settled(Vec<ActionId>),
    /// The request for approval that this action led to.
    Asked(ActionId, Box<ApprovalRecord>),
    /// What the request for approval is worth that this action referred to.
    Claimed(ActionId, Claimed),
    /// An actor did not answer these actions.
    Unanswered(Vec<ActionId>, Fault),
}

// === impl Metered ===

impl Metered {
    /// The actions that wait for it.
    pub(super) fn actions(self) -> Vec<ActionId> {
        match self {
            Self::Quoted(id, _) | Self::Asked(id, _) | Self::Claimed(id, _) => vec![id],
            Self::Reserved(_, answers) => answers.iter().map(|asked| asked.id.action).collect(),
            Self::Settled(ids) | Self::Unanswered(ids, _) => ids,
        }
    }
}

// === impl Parked ===

impl Parked {
    pub(super) fn new(check: Check, stage: Stage) -> Self {
        Self { check, also: Vec::new(), waiting: 0, fault: None, stage }
    }

    pub(super) fn refuse(self, fault: &Fault) {
        self.also.into_iter().for_each(|reply| reply.send(Err(fault.clone())));
        self.check.reply.send(Err(fault.clone()));
    }
}
