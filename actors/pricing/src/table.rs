//! The table of prices, and what becomes of a model that it does not know.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    estimate::Family,
    name::{MAX_NAME_BYTES, spellings},
    overrides::{Overrides, PriceError, PriceOverride, Stated},
    price::ModelPrice,
};

/// The prices of models by the names that SDKs send.
///
/// The built-in table is `prices.json` beside this crate's sources: list prices at a date, written down as
/// facts. It holds one price per kind of token; where a provider asks more for long prompts, at some hours or
/// for a longer cache lifetime, the highest, since a reservation must cover it. Prices of priority tiers, of
/// batches, of audio and of tools that a provider runs are not in it. It is kept by hand: after a change,
/// `sha256sum prices.json > prices.json.sha256` beside it.
///
/// A name is found as it is listed or by an alias, also
/// - in any case, and behind a router's or provider's own prefix (`openai/gpt-4o`, `models/gemini-2.5-pro`);
/// - with the date of a snapshot the table does not list apart (`gpt-4o-2024-08-06`);
/// - as the id of Amazon Bedrock (`us.anthropic.claude-3-5-sonnet-20241022-v2:0`, also in an ARN) or Vertex AI
///   (`claude-opus-4-5@20251101`), at their price where it differs;
/// - fine-tuned (`ft:gpt-4o-mini:org::id`), at the price of fine-tuned models or not at all.
///
/// Nothing else is cut off or guessed: a name that only starts like a known one is unknown.
#[derive(Clone, Debug)]
pub struct PriceTable {
    listed: Arc<Listed>,
    overrides: Overrides,
}

/// What to do about a model that has no price.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownModel {
    /// The call is refused.
    #[default]
    Deny,
    /// The call costs what this says.
    Fallback(ModelPrice),
}

/// A model that has a price.
#[derive(Clone, Copy, Debug)]
pub struct Priced<'t> {
    /// The price.
    pub price: &'t ModelPrice,
    /// Where it is from.
    pub by: PricedBy,
    /// Whose tokenizer counts its prompts.
    pub family: Family,
}

/// Where a price is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PricedBy {
    /// The table.
    Table,
    /// An operator's override.
    Override,
    /// The operator's price for unknown models.
    Fallback,
}

/// A model has no price, and the operator's choice is to refuse such calls.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no price is known for the model {model:?}: add it to the price overrides, or state a fallback price for \
     unknown models"
)]
pub struct UnknownModelError {
    /// The model's name, cut to 128 characters.
    pub model: String,
}

/// The content of `prices.json`, indexed.
#[derive(Debug)]
struct Listed {
    date: String,
    source: String,
    digest: String,
    models: Vec<Model>,
    /// From a lower-case name or alias to its place in `models`.
    names: HashMap<String, usize, RandomState>,
    /// The providers a prefix may name, by their ids.
    prefixes: HashMap<String, Vec<String>, RandomState>,
}

#[derive(Debug)]
struct Model {
    provider: String,
    name: String,
    family: Family,
    price: ModelPrice,
}

/// The form of `prices.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    date: String,
    source: String,
    currency: String,
    providers: Vec<FileProvider>,
    models: Vec<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileProvider {
    id: String,
    family: Family,
    prefixes: Vec<String>,
}

/// What a model of the file has beside its price.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileModel {
    provider: String,
    name: String,
    #[serde(default)]
    aliases: Vec<String>,
    family: Option<Family>,
}

/// Why the table's text is no table.
#[derive(Debug, thiserror::Error)]
enum TableError {
    #[error("the price table is not of its form: {0}")]
    Form(#[from] serde_json::Error),
    #[error("the price table is in {0}, and prices are in USD")]
    Currency(String),
    #[error("model {name:?} is of the provider {provider:?}, which the price table does not list")]
    Provider { name: String, provider: String },
    #[error("the name {0:?} is not in lower case, or too long")]
    Name(String),
    #[error("the name {0:?} is listed twice")]
    Duplicate(String),
}

const BUILTIN: &str = include_str!("../prices.json");
const SHOWN: usize = 128;
const MODEL_FIELDS: [&str; 4] = ["provider", "name", "aliases", "family"];

// === impl PricedBy ===

impl PricedBy {
    /// The name in entries and in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Override => "override",
            Self::Fallback => "fallback",
        }
    }
}

// === impl PriceTable ===

impl PriceTable {
    /// The table this program was built with.
    pub fn builtin() -> &'static Self {
        static TABLE: LazyLock<PriceTable> = LazyLock::new(|| {
            let listed =
                Listed::read(BUILTIN).expect("the embedded table is read in this crate's tests");
            PriceTable { listed: Arc::new(listed), overrides: Overrides::default() }
        });
        &TABLE
    }

    /// The day the listed prices are of, as `YYYY-MM-DD`.
    pub fn date(&self) -> &str {
        &self.listed.date
    }

    /// Where the listed prices are from, in a sentence.
    pub fn source(&self) -> &str {
        &self.listed.source
    }

    /// SHA-256 of the listed prices' file, in lower-case hexadecimal. Overrides do not change it.
    pub fn digest(&self) -> &str {
        &self.listed.digest
    }

    /// The listed models, overrides aside: provider, name and price.
    pub fn listed(&self) -> impl Iterator<Item = (&str, &str, &ModelPrice)> {
        let models = self.listed.models.iter();
        models.map(|model| (model.provider.as_str(), model.name.as_str(), &model.price))
    }

    /// The price of a model, if one is known.
    pub fn get(&self, model: &str) -> Option<&ModelPrice> {
        self.find(model).map(|priced| priced.price)
    }

    /// The price of a model, or what the operator chose for one that is not known.
    pub fn price_of<'t>(
        &'t self,
        model: &str,
        unknown: &'t UnknownModel,
    ) -> Result<Priced<'t>, UnknownModelError> {
        match (self.find(model), unknown) {
            (Some(priced), _) => Ok(priced),
            (None, UnknownModel::Fallback(price)) => {
                Ok(Priced { price, by: PricedBy::Fallback, family: Family::Other })
            }
            (None, UnknownModel::Deny) => {
                Err(UnknownModelError { model: model.chars().take(SHOWN).collect() })
            }
        }
    }

    /// The listed prices with these overrides, at most [`MAX_OVERRIDES`](crate::MAX_OVERRIDES), instead of
    /// any that this table has.
    pub fn with_overrides(&self, overrides: Vec<PriceOverride>) -> Result<Self, PriceError> {
        let overrides = Overrides::new(overrides, |name, price| {
            if let Some(model) = self.listed.find(name) {
                price.context_window = price.context_window.or(model.price.context_window);
                price.max_output_tokens = price.max_output_tokens.or(model.price.max_output_tokens);
                price.image_tokens = price.image_tokens.or(model.price.image_tokens);
            }
        })?;
        Ok(Self { listed: Arc::clone(&self.listed), overrides })
    }

    fn find(&self, model: &str) -> Option<Priced<'_>> {
        if model.len() > MAX_NAME_BYTES {
            return None;
        }
        let lower = model.to_ascii_lowercase();
        for spelling in spellings(&lower, &|word| self.listed.prefixes.contains_key(word)) {
            if let Some(stated) = self.overrides.get(&spelling.name) {
                return Some(stated.priced(self.listed.find(&lower)));
            }
            if let Some(model) = self.listed.model(&spelling.name, spelling.prefix) {
                if let Some(stated) = self.overrides.exact(&model.name) {
                    return Some(stated.priced(Some(model)));
                }
                return Some(Priced {
                    price: &model.price,
                    by: PricedBy::Table,
                    family: model.family,
                });
            }
        }
        None
    }
}

// === impl Stated ===

impl Stated {
    fn priced(&self, listed: Option<&Model>) -> Priced<'_> {
        let family = self.family.or(listed.map(|model| model.family)).unwrap_or(Family::Other);
        Priced { price: &self.price, by: PricedBy::Override, family }
    }
}

// === impl Listed ===

impl Listed {
    fn read(text: &str) -> Result<Self, TableError> {
        let file: File = serde_json::from_str(text)?;
        if file.currency != "USD" {
            return Err(TableError::Currency(file.currency));
        }
        let mut prefixes = HashMap::<String, Vec<String>, _>::default();
        for provider in &file.providers {
            for prefix in &provider.prefixes {
                prefixes.entry(prefix.clone()).or_default().push(provider.id.clone());
            }
        }
        let mut models = Vec::with_capacity(file.models.len());
        let mut names = HashMap::default();
        for fields in file.models {
            // Two strict forms share the object: what names the model, and its price.
            let (named, priced) =
                fields.into_iter().partition(|(key, _)| MODEL_FIELDS.contains(&key.as_str()));
            let FileModel { provider, name, aliases, family } =
                serde_json::from_value(serde_json::Value::Object(named))?;
            let price = serde_json::from_value(serde_json::Value::Object(priced))?;
            for name in std::iter::once(&name).chain(&aliases) {
                let is_lower = !name.bytes().any(|byte| byte.is_ascii_uppercase());
                if !is_lower || name.len() > MAX_NAME_BYTES {
                    return Err(TableError::Name(name.clone()));
                }
                if names.insert(name.clone(), models.len()).is_some() {
                    return Err(TableError::Duplicate(name.clone()));
                }
            }
            let Some(listed) = file.providers.iter().find(|listed| listed.id == provider) else {
                return Err(TableError::Provider { name, provider });
            };
            let family = family.unwrap_or(listed.family);
            models.push(Model { provider, name, family, price });
        }
        let digest = Sha256::digest(text.as_bytes());
        let digest = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { date: file.date, source: file.source, digest, models, names, prefixes })
    }

    /// The model of exactly this lower-case name or alias, which the prefix before it must fit.
    fn model(&self, name: &str, prefix: Option<&str>) -> Option<&Model> {
        let model = &self.models[*self.names.get(name)?];
        let fits = prefix.is_none_or(|prefix| {
            self.prefixes.get(prefix).is_some_and(|providers| providers.contains(&model.provider))
        });
        fits.then_some(model)
    }

    /// The model of any spelling of this lower-case name.
    fn find(&self, name: &str) -> Option<&Model> {
        spellings(name, &|word| self.prefixes.contains_key(word))
            .iter()
            .find_map(|spelling| self.model(&spelling.name, spelling.prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Listed::read(text).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn a_table_that_is_not_of_its_form_is_refused_with_its_place() {
        let table = |models: &str| {
            format!(
                r#"{{"date":"2026-01-01","source":"s","currency":"USD","providers":[{{"id":"p","family":"other","prefixes":[]}}],"models":[{models}]}}"#
            )
        };
        assert!(Listed::read(&table("")).is_ok());
        let one = r#"{"provider":"p","name":"m","input":"1","output":"2"}"#;
        assert!(Listed::read(&table(one)).is_ok());
        assert!(refused(&table(&format!("{one},{one}"))).contains("listed twice"));
        assert!(refused(&table(&one.replace(r#""p""#, r#""q""#))).contains("does not list"));
        assert!(refused(&table(&one.replace(r#""m""#, r#""M""#))).contains("lower case"));
        assert!(refused(&table(&one.replace(r#""1""#, r#""-1""#))).contains("negative"));
        assert!(refused(&table(&one.replace(r#""input":"1","#, ""))).contains("missing field"));
        assert!(refused(&table(&one.replace("output", "outptu"))).contains("unknown field"));
        assert!(refused(&table(one).replace("USD", "EUR")).contains("EUR"));
    }
}
