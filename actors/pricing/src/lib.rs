//! What a model call costs: a table of prices, the cost of a call that was made, and an upper bound of the
//! cost of one that is about to be made.
//!
//! Budgets that cannot be overspent stand on it, so every doubt is settled to the dear side: a model that is
//! not known has no price until an operator states one, a sum is rounded up, a name never reads as a
//! different, cheaper model, and where a provider lists several prices for one kind of token the highest
//! holds. Money is integer nano-USD throughout; no float takes part.
//!
//! It refuses to know time, storage, sockets and threads: what a price depends on is an argument.
//!
//! The path of a call: [`PriceTable::price_of`] turns the model's name into a [`Priced`] model, or into a
//! refusal; [`estimate::input_tokens`] bounds the prompt; [`ModelPrice::worst_case`] prices both bounds for
//! the reservation; and [`ModelPrice::cost`] prices the [`Usage`](aa_protocol::Usage) that the provider
//! reported. An operator's [`PriceOverride`]s win over the table, and [`UnknownModel`] says what becomes of a
//! model that neither knows.
//!
//! ```
//! use aa_pricing::{PriceTable, UnknownModel, estimate};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let table = PriceTable::builtin();
//! let model = table.price_of("gpt-4o-2024-08-06", &UnknownModel::Deny)?;
//! let prompt = serde_json::json!([{"role": "user", "content": "What is the capital of France?"}]);
//!
//! let tokens = estimate::input_tokens(&prompt, &model);
//! let reserved = model.price.worst_case(tokens, Some(100), 1)?;
//!
//! let usage = aa_protocol::Usage { input_tokens: 14, output_tokens: 8, ..Default::default() };
//! let cost = model.price.cost(&usage)?;
//! assert_eq!(cost.to_string(), "$0.000115");
//! assert!(cost < reserved);
//! # Ok(())
//! # }
//! ```

pub mod estimate;
mod name;
mod overrides;
mod price;
mod rate;
mod table;

pub use self::{
    estimate::Family,
    overrides::{MAX_OVERRIDES, PriceError, PriceOverride},
    price::{CostError, DEFAULT_MAX_OUTPUT_TOKENS, ModelPrice},
    rate::{Rate, RateError},
    table::{PriceTable, Priced, PricedBy, UnknownModel, UnknownModelError},
};
