//! What the entry of a decision tells beside it, and the state that changes with it.

use aa_protocol::{Action, ActionId, ApprovalId, Timestamp};
use bytes::Bytes;

use super::{
    AgentKeyId,
    quote::{Charge, OpenCall, Quote},
};
use crate::{budget_window::RESERVED_FOR, keys, spender::WindowId, stored};

/// What an entry tells beside its decision, and the state that changes with it.
#[derive(Default)]
pub(super) struct Particulars {
    pub(super) detail: Vec<(&'static str, String)>,
    /// The request for approval that the answer names.
    pub(super) approval: Option<ApprovalId>,
    pub(super) writes: Vec<(Bytes, Bytes)>,
    pub(super) removes: Vec<Bytes>,
    /// The call that is open from now on.
    pub(super) opens: Option<OpenCall>,
    /// The call that is settled now.
    pub(super) closes: Option<ActionId>,
    pub(super) charge: Option<Charge>,
}

// === impl Particulars ===

impl Particulars {
    pub(super) fn nothing() -> Self {
        Self::default()
    }

    pub(super) fn of_approval(id: ApprovalId) -> Self {
        Self { detail: vec![("approval", id.to_string())], ..Self::default() }
    }

    pub(super) fn call(call: &Quote, windows: &[WindowId], now: Timestamp) -> Self {
        let amount = call.cost.amount;
        if windows.is_empty() {
            return Self::nothing();
        }
        let detail = vec![
            ("price", call.priced_by().to_owned()),
            ("reserved_nano_usd", amount.cost().0.to_string()),
            ("reserved_tokens", amount.tokens().to_string()),
        ];
        let opens = OpenCall {
            windows: windows.to_vec(),
            amount,
            input_tokens: call.input_tokens,
            price: call.price.clone(),
            expires_at: now.saturating_add(RESERVED_FOR),
        };
        Self { detail, opens: Some(opens), ..Self::default() }
    }

    pub(super) fn result(action: &Action, call: &OpenCall, charge: Charge) -> Self {
        let Action::LlmResult { call: Some(of), .. } = action else { return Self::nothing() };
        let mut detail = vec![("call", of.to_string())];
        if let Charge::Settled { amount, basis } = charge {
            detail.push(("posted_nano_usd", amount.cost().0.to_string()));
            detail.push(("posted_tokens", amount.tokens().to_string()));
            detail.push(("posted_by", basis.as_str().to_owned()));
            detail.push(("reserved_nano_usd", call.amount.cost().0.to_string()));
        }
        Self { detail, closes: Some(*of), charge: Some(charge), ..Self::default() }
    }

    /// The state that changes with the entry.
    pub(super) fn changes(
        &self,
        id: AgentKeyId,
        action: ActionId,
    ) -> (Option<(Bytes, Bytes)>, Option<Bytes>) {
        // Most actions cost nothing, and need no key.
        let key = |call: ActionId| keys::calls(id.workspace, id.agent).key(call.to_bytes());
        let write = self.opens.as_ref().map(|open| (key(action), stored::encode(open)));
        (write, self.closes.map(key))
    }
}
