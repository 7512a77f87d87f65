//! What a call of a model can cost before it, and does cost after it.

use aa_budget::Amount;
use aa_policy::Cost;
use aa_pricing::{DEFAULT_MAX_OUTPUT_TOKENS, Family, ModelPrice, Priced, PricedBy, estimate};
use aa_protocol::{Action, CallEnd, NanoUsd, Timestamp, Usage};
use serde::{Deserialize, Serialize};

use crate::{prices::Prices, spender::WindowId};

/// What a call can cost.
#[derive(Clone, Debug)]
pub struct Quote {
    pub(super) cost: Cost,
    pub(super) input_tokens: u64,
    pub(super) price: Option<Price>,
}

/// The price a call is let go at; what it does cost is counted by the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Price {
    model: ModelPrice,
    by: PricedBy,
    family: Family,
}

/// A call for which something is reserved, as stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct OpenCall {
    /// The windows that set it aside.
    pub(super) windows: Vec<WindowId>,
    /// How much.
    pub(super) amount: Amount,
    /// The estimate of the prompt.
    pub(super) input_tokens: u64,
    /// Its price; none where only tokens are limited and nobody knows one.
    pub(super) price: Option<Price>,
    /// When the windows post it in full by themselves.
    pub(super) expires_at: Timestamp,
}

/// What a result did to what was reserved for its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Charge {
    /// It was settled at this amount.
    Settled {
        /// What was posted in every window.
        amount: Amount,
        /// What that is known from.
        basis: Basis,
    },
    /// Nothing is reserved for the call: it was settled before, it expired, or it is no call of this agent.
    NotOpen,
}

/// What an amount is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// The provider's usage.
    Usage,
    /// The prompt and what was produced, counted here.
    Produced,
    /// The reservation: nobody knows more.
    Reservation,
    /// The call was not charged.
    NotCharged,
}

// === impl Quote ===

impl Quote {
    /// The most the call can cost, under these prices.
    pub(super) fn of(action: &Action, prices: &Prices) -> Self {
        let Action::LlmCall { model, messages, max_output_tokens, choices, .. } = action else {
            return Self::unpriced(Amount::ZERO, 0);
        };
        let choices = choices.unwrap_or(1).max(1);
        let Ok(priced) = prices.table.price_of(model, &prices.unknown) else {
            // A token is at least one byte.
            let input = text_bytes(messages);
            let each = max_output_tokens.unwrap_or(DEFAULT_MAX_OUTPUT_TOKENS);
            let tokens = input.saturating_add(each.saturating_mul(choices));
            let amount = Amount::new(NanoUsd::ZERO, tokens).unwrap_or_default();
            return Self::unpriced(amount, input);
        };
        let input = estimate::input_tokens(messages, &priced);
        let each = max_output_tokens.filter(|most| *most > 0);
        let each = each.unwrap_or_else(|| priced.price.longest_answer());
        let tokens = input.saturating_add(each.saturating_mul(choices));
        // What does not fit an amount fits no budget.
        let cost = priced.price.worst_case(input, *max_output_tokens, choices);
        let cost = cost.unwrap_or(NanoUsd(i64::MAX));
        Self {
            cost: Amount::new(cost, tokens).unwrap_or_default().into(),
            input_tokens: input,
            price: Some(Price {
                model: priced.price.clone(),
                by: priced.by,
                family: priced.family,
            }),
        }
    }

    /// Where the price is from, for entries.
    pub(super) fn priced_by(&self) -> &'static str {
        self.price.as_ref().map_or("unknown", |price| price.by.as_str())
    }

    fn unpriced(amount: Amount, input_tokens: u64) -> Self {
        let cost = Cost { amount, is_unpriced: true };
        Self { cost, input_tokens, price: None }
    }
}

// === impl OpenCall ===

impl OpenCall {
    /// What the call did cost, from the best that is known.
    pub(super) fn charge(
        &self,
        usage: Option<Usage>,
        content: &serde_json::Value,
        end: CallEnd,
    ) -> Charge {
        let of_usage = |usage: Usage| {
            let cost = match &self.price {
                Some(price) => price.model.cost(&usage).ok()?,
                None => NanoUsd::ZERO,
            };
            let tokens = usage.input_tokens.saturating_add(usage.output_tokens);
            Amount::new(cost, tokens).ok()
        };
        let settled = |amount, basis| Charge::Settled { amount, basis };
        let whole = settled(self.amount, Basis::Reservation);
        match (end, usage) {
            (CallEnd::NotCharged, _) => settled(Amount::ZERO, Basis::NotCharged),
            (_, Some(usage)) => {
                of_usage(usage).map_or(whole, |amount| settled(amount, Basis::Usage))
            }
            (CallEnd::CutOff, None) if !is_nothing(content) => {
                let output_tokens = match &self.price {
                    Some(Price { model, by, family }) => {
                        let priced = Priced { price: model, by: *by, family: *family };
                        estimate::output_tokens(content, &priced)
                    }
                    None => text_bytes(content),
                };
                let usage =
                    Usage { input_tokens: self.input_tokens, output_tokens, ..Usage::default() };
                of_usage(usage).map_or(whole, |amount| settled(amount, Basis::Produced))
            }
            (CallEnd::CutOff | CallEnd::Complete, None) => whole,
        }
    }
}

/// Whether a content holds no text at all.
fn is_nothing(content: &serde_json::Value) -> bool {
    match content {
        serde_json::Value::Null => true,
        serde_json::Value::String(text) => text.is_empty(),
        serde_json::Value::Array(items) => items.iter().all(is_nothing),
        serde_json::Value::Object(members) => members.is_empty(),
        serde_json::Value::Bool(_) | serde_json::Value::Number(_) => false,
    }
}

/// The bytes of all strings and keys of a value.
pub(super) fn text_bytes(value: &serde_json::Value) -> u64 {
    match value {
        serde_json::Value::String(text) => text.len() as u64,
        serde_json::Value::Array(items) => items.iter().map(text_bytes).sum(),
        serde_json::Value::Object(members) => {
            members.iter().map(|(key, value)| key.len() as u64 + text_bytes(value)).sum()
        }
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => 1,
    }
}

// === impl Basis ===

impl Basis {
    /// The name in entries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Produced => "produced",
            Self::Reservation => "reservation",
            Self::NotCharged => "not_charged",
        }
    }
}
