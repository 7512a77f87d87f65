//! The price of one model, and what a call to it costs.

use aa_protocol::{NanoUsd, Usage};
use serde::{Deserialize, Serialize};

use crate::rate::Rate;

/// What a model's tokens cost, in US dollars per million, and the limits that bound a call.
///
/// One price per kind of token: where a provider asks more above a prompt length, at some hours or for a
/// longer cache lifetime, the highest is the one to write here. What is not stated is never cheaper than
/// what is: cached tokens without a price cost what the input costs. Reasoning is priced as output, audio as
/// text. Its JSON form is `{"input":"2.50","cached_input":"1.25","output":"10"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelPrice {
    /// Of the prompt.
    pub input: Rate,
    /// Of prompt tokens read from a cache; the input's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input: Option<Rate>,
    /// Of prompt tokens written to a cache; the input's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<Rate>,
    /// Of the answer, reasoning included.
    pub output: Rate,
    /// The most tokens a prompt can have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_window: Option<u64>,
    /// The most tokens an answer can have; 0 for a model that answers with no tokens, such as an embedding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u64>,
    /// The most tokens one image of a prompt can count as; the provider family's worst case when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_tokens: Option<u64>,
}

/// Why a usage has no cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CostError {
    /// More of the prompt was cached than the prompt has.
    #[error(
        "the usage reports {cached} cached and {written} cache-write tokens in a prompt of {input}: \
         input tokens must count the whole prompt, those included"
    )]
    PartsExceedInput {
        /// Tokens read from a cache.
        cached: u64,
        /// Tokens written to a cache.
        written: u64,
        /// Tokens of the whole prompt.
        input: u64,
    },
    /// More of the answer was reasoning than the answer has.
    #[error(
        "the usage reports {reasoning} reasoning tokens in an answer of {output}: output tokens must \
         count the whole answer, reasoning included"
    )]
    ReasoningExceedsOutput {
        /// Tokens of reasoning.
        reasoning: u64,
        /// Tokens of the whole answer.
        output: u64,
    },
    /// The cost does not fit [`NanoUsd`].
    #[error(
        "the cost of {input} input and {output} output tokens is above the most an amount can be"
    )]
    Overflow {
        /// Tokens of the prompt.
        input: u64,
        /// Tokens of the answer, or of all answers asked for.
        output: u64,
    },
}

/// The most output tokens a call is reserved with when neither the call nor its model says: 131,072, what
/// the longest answers of common models have. A model that can say more states its `max_output_tokens`.
pub const DEFAULT_MAX_OUTPUT_TOKENS: u64 = 131_072;

const TOKENS_PER_RATE: u128 = 1_000_000;

// === impl ModelPrice ===

impl ModelPrice {
    /// Whether every token is free.
    pub fn is_free(&self) -> bool {
        self.dearest_input() == Rate::ZERO
            && self.cached() == Rate::ZERO
            && self.output == Rate::ZERO
    }

    /// What a call cost, by the tokens its provider counted: the exact sum, rounded up to the nano-dollar
    /// once. An error when the counts contradict each other or the sum does not fit.
    pub fn cost(&self, usage: &Usage) -> Result<NanoUsd, CostError> {
        let Usage { input_tokens: input, output_tokens: output, .. } = *usage;
        let (cached, written) = (usage.cached_input_tokens, usage.cache_write_tokens);
        let plain = input
            .checked_sub(cached)
            .and_then(|rest| rest.checked_sub(written))
            .ok_or(CostError::PartsExceedInput { cached, written, input })?;
        if usage.reasoning_tokens > output {
            let reasoning = usage.reasoning_tokens;
            return Err(CostError::ReasoningExceedsOutput { reasoning, output });
        }
        let sum = self.input.of(plain)
            + self.cached().of(cached)
            + self.written().of(written)
            + self.output.of(output);
        rounded_up(sum).ok_or(CostError::Overflow { input, output })
    }

    /// The most a call can cost: `input_tokens` at the dearest price a prompt token can have, and for each of
    /// `choices` answers `max_output_tokens`, else the model's own most, else
    /// [`DEFAULT_MAX_OUTPUT_TOKENS`]. Zero output tokens or choices count as not said.
    pub fn worst_case(
        &self,
        input_tokens: u64,
        max_output_tokens: Option<u64>,
        choices: u64,
    ) -> Result<NanoUsd, CostError> {
        let each =
            max_output_tokens.filter(|most| *most > 0).unwrap_or_else(|| self.longest_answer());
        let choices = choices.max(1);
        let overflow =
            CostError::Overflow { input: input_tokens, output: each.saturating_mul(choices) };
        let output = each.checked_mul(choices).ok_or(overflow)?;
        rounded_up(self.dearest_input().of(input_tokens) + self.output.of(output)).ok_or(overflow)
    }

    /// The most output tokens one answer can have, when the call does not bound it.
    pub fn longest_answer(&self) -> u64 {
        self.max_output_tokens.unwrap_or_else(|| {
            let window = self.context_window.unwrap_or(DEFAULT_MAX_OUTPUT_TOKENS);
            DEFAULT_MAX_OUTPUT_TOKENS.min(window)
        })
    }

    fn cached(&self) -> Rate {
        self.cached_input.unwrap_or(self.input)
    }

    fn written(&self) -> Rate {
        self.cache_write.unwrap_or(self.input)
    }

    fn dearest_input(&self) -> Rate {
        self.input.max(self.cached()).max(self.written())
    }
}

fn rounded_up(sum: u128) -> Option<NanoUsd> {
    i64::try_from(sum.div_ceil(TOKENS_PER_RATE)).ok().map(NanoUsd)
}
