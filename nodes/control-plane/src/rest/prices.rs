//! What models cost: the table this program has, and what operators set over it.

use std::sync::Arc;

use aa_governance::{
    permission::{ManageBudgets, Permit, ReadBudgets},
    prices::{PriceTerms, Prices},
};
use aa_pricing::{Family, ModelPrice, Priced, PricedBy, Rate};
use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiState,
    access::Authorized,
    input::{JsonBody, Params},
    problem::{Problem, ProblemKind},
};

/// The prices in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PriceBook {
    /// The day the listed prices are of, `YYYY-MM-DD`.
    pub date: String,
    /// Where the listed prices are from.
    pub source: String,
    /// SHA-256 of the list, lower-case hex.
    pub sha256: String,
    /// Prices of the workspace that win over the list.
    pub overrides: Vec<PriceOverride>,
    /// What becomes of a call of a model without a price, where a budget applies.
    pub unknown: UnknownModel,
    /// When overrides and choice were last set, RFC 3339; null while they never were.
    pub updated_at: Option<String>,
    /// Who set them: `key:<id>`.
    pub updated_by: Option<String>,
    /// The model that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<PricedModel>,
    /// The listed models that were searched for, with the prices that hold for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<PricedModel>>,
}

/// A model with the price that holds for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PricedModel {
    /// The name.
    pub model: String,
    /// Who sells it, such as `openai`; null where that is not known.
    pub provider: Option<String>,
    /// Where the price is from.
    pub from: PriceSource,
    /// The price.
    pub price: Price,
}

/// Where a price is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PriceSource {
    /// The list.
    Table,
    /// An override of the workspace.
    Override,
    /// The workspace's price for unknown models.
    Fallback,
}

/// What tokens cost, in US dollars per million as decimals (`"2.50"`), 0 to 1 000 000. Cached tokens without a price
/// of their own cost what the input costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Of the prompt.
    #[schema(value_type = String, example = "2.5")]
    pub input: Rate,
    /// Of prompt tokens read from a cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "1.25")]
    pub cached_input: Option<Rate>,
    /// Of prompt tokens written to a cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub cache_write: Option<Rate>,
    /// Of the answer, reasoning included.
    #[schema(value_type = String, example = "10")]
    pub output: Rate,
    /// The most tokens a prompt can have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_window: Option<u64>,
    /// The most tokens an answer can have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u64>,
    /// The most tokens one image of a prompt can count as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_tokens: Option<u64>,
}

/// A price of the workspace that wins over the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PriceOverride {
    /// The model's name in any case, at most 256 bytes; `gpt-*` holds for every name that starts so.
    pub model: String,
    /// Its price.
    pub price: Price,
    /// Whose tokenizer it follows, for a name that does not tell: `openai`, `openai_cl100k`, `anthropic`, `google`,
    /// `mistral`, `llama`, `deepseek`, `xai`, `cohere` or `other`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub family: Option<Family>,
}

/// What becomes of a call of a model without a price, where a budget applies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnknownModel {
    /// It is refused.
    Deny,
    /// It costs this.
    Fallback(Price),
}

/// Which models are asked for.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct PriceParams {
    /// The name of a model as calls have it: the answer then has its price.
    model: Option<String>,
    /// Part of a provider's or model's name, in any case: the answer then has the listed models; all of them when
    /// empty.
    search: Option<String>,
}

/// Prices to be set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetPricesRequest {
    /// All overrides, at most 1 000: those that are not among them are gone.
    pub overrides: Vec<PriceOverride>,
    /// What becomes of a call of a model without a price, where a budget applies.
    pub unknown: UnknownModel,
}

/// Overrides that fit a record have at most 90 kB; with white space they may be longer.
const MAX_BODY: usize = 128 << 10;

/// The prices in force.
#[utoipa::path(
    get, path = "/prices", tag = "budgets", operation_id = "get_prices",
    security(("api_key" = [])),
    params(PriceParams),
    responses(
        (status = 200, description = "The prices", body = PriceBook),
        (status = 404, description = "No price is known for the model", body = Problem,
            content_type = "application/problem+json"),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get_prices(
    Authorized(permit): Authorized<ReadBudgets>,
    State(state): State<Arc<ApiState>>,
    Params(params): Params<PriceParams>,
) -> Result<Json<PriceBook>, Problem> {
    let prices = state.governance.prices(&permit).await?;
    let model = params.model.map(|name| priced(&prices, name)).transpose()?;
    let models = params.search.map(|text| search(&prices, &text));
    Ok(Json(PriceBook { model, models, ..PriceBook::new(&prices) }))
}

/// Sets the workspace's prices, in the place of all that were set before. Calls that are decided from now on are
/// priced by them.
#[utoipa::path(
    put, path = "/prices", tag = "budgets", operation_id = "set_prices",
    security(("api_key" = [])),
    request_body = SetPricesRequest,
    responses(
        (status = 200, description = "The prices as they are in force", body = PriceBook),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn set_prices(
    Authorized(permit): Authorized<ManageBudgets>,
    State(state): State<Arc<ApiState>>,
    JsonBody(request): JsonBody<SetPricesRequest, MAX_BODY>,
) -> Result<Json<PriceBook>, Problem> {
    // Whoever may set prices may also read them.
    let reading: Permit<ReadBudgets> = permit.principal().authorize()?;
    state.governance.set_prices(&permit, request.into()).await?;
    let prices = state.governance.prices(&reading).await?;
    Ok(Json(PriceBook::new(&prices)))
}

fn priced(prices: &Prices, model: String) -> Result<PricedModel, Problem> {
    let found = prices.table.price_of(&model, &prices.unknown);
    let found = found.map_err(|error| Problem::new(ProblemKind::NotFound, error.to_string()))?;
    Ok(PricedModel::new(model, None, &found))
}

fn search(prices: &Prices, text: &str) -> Vec<PricedModel> {
    let text = text.to_lowercase();
    let listed = prices.table.listed();
    let found = listed.filter(|(provider, name, _)| format!("{provider}/{name}").contains(&text));
    let priced = found.filter_map(|(provider, name, _)| {
        let priced = prices.table.price_of(name, &prices.unknown).ok()?;
        Some(PricedModel::new(name.to_owned(), Some(provider.to_owned()), &priced))
    });
    priced.collect()
}

// === impl PriceBook ===

impl PriceBook {
    fn new(prices: &Prices) -> Self {
        let Prices { table, unknown, record } = prices;
        let overrides = record.iter().flat_map(|record| record.terms.overrides.iter().cloned());
        Self {
            date: table.date().to_owned(),
            source: table.source().to_owned(),
            sha256: table.digest().to_owned(),
            overrides: overrides.map(Into::into).collect(),
            unknown: unknown.clone().into(),
            updated_at: record.as_ref().map(|record| record.updated_at.to_string()),
            updated_by: record.as_ref().map(|record| record.updated_by.clone()),
            model: None,
            models: None,
        }
    }
}

// === impl PricedModel ===

impl PricedModel {
    fn new(model: String, provider: Option<String>, priced: &Priced<'_>) -> Self {
        let from = match priced.by {
            PricedBy::Table => PriceSource::Table,
            PricedBy::Override => PriceSource::Override,
            PricedBy::Fallback => PriceSource::Fallback,
        };
        Self { model, provider, from, price: priced.price.clone().into() }
    }
}

// === impl PriceSource ===

impl PriceSource {
    /// The name in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Override => "override",
            Self::Fallback => "fallback",
        }
    }
}

// === impl Price ===

impl From<ModelPrice> for Price {
    fn from(price: ModelPrice) -> Self {
        let ModelPrice {
            input,
            cached_input,
            cache_write,
            output,
            context_window,
            max_output_tokens,
            image_tokens,
        } = price;
        Self {
            input,
            cached_input,
            cache_write,
            output,
            context_window,
            max_output_tokens,
            image_tokens,
        }
    }
}

impl From<Price> for ModelPrice {
    fn from(price: Price) -> Self {
        let Price {
            input,
            cached_input,
            cache_write,
            output,
            context_window,
            max_output_tokens,
            image_tokens,
        } = price;
        Self {
            input,
            cached_input,
            cache_write,
            output,
            context_window,
            max_output_tokens,
            image_tokens,
        }
    }
}

// === impl PriceOverride ===

impl From<aa_pricing::PriceOverride> for PriceOverride {
    fn from(stated: aa_pricing::PriceOverride) -> Self {
        let aa_pricing::PriceOverride { model, price, family } = stated;
        Self { model, price: price.into(), family }
    }
}

impl From<PriceOverride> for aa_pricing::PriceOverride {
    fn from(stated: PriceOverride) -> Self {
        let PriceOverride { model, price, family } = stated;
        Self { model, price: price.into(), family }
    }
}

// === impl UnknownModel ===

impl From<aa_pricing::UnknownModel> for UnknownModel {
    fn from(choice: aa_pricing::UnknownModel) -> Self {
        match choice {
            aa_pricing::UnknownModel::Deny => Self::Deny,
            aa_pricing::UnknownModel::Fallback(price) => Self::Fallback(price.into()),
        }
    }
}

impl From<UnknownModel> for aa_pricing::UnknownModel {
    fn from(choice: UnknownModel) -> Self {
        match choice {
            UnknownModel::Deny => Self::Deny,
            UnknownModel::Fallback(price) => Self::Fallback(price.into()),
        }
    }
}

// === impl SetPricesRequest ===

impl From<SetPricesRequest> for PriceTerms {
    fn from(request: SetPricesRequest) -> Self {
        let overrides = request.overrides.into_iter().map(Into::into).collect();
        Self { overrides, unknown: request.unknown.into() }
    }
}
