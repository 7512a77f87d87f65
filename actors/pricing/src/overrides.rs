//! Prices an operator states for a workspace.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};

use crate::{estimate::Family, name::MAX_NAME_BYTES, price::ModelPrice};

/// A price that wins over the table's: of a model the table does not know, of a contract, of a region.
///
/// Its JSON form is `{"model":"gpt-4o","price":{"input":"2","output":"8"}}`. What the price does not state of
/// the token kinds is not taken from the table (see [`ModelPrice`]); the limits of a call are, where the table
/// knows the model. A model is free only when its prices are written as 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceOverride {
    /// The model's name, case-insensitive, at most 256 bytes. A name that ends in `*` holds for every name
    /// that starts so; an exact name wins over a prefix, a longer prefix over a shorter. The name a table
    /// entry leads with holds for all of its aliases and dated snapshots.
    pub model: String,
    /// Its price.
    pub price: ModelPrice,
    /// Whose tokenizer and image rules it follows, for a name that does not tell, such as that of an Azure
    /// deployment. Else the listed model's, else [`Family::Other`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
}

/// Why overrides were refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum PriceError {
    /// There are too many.
    #[error(
        "there are {0} price overrides, and the most is {MAX_OVERRIDES}: use prefixes (`name*`)"
    )]
    TooMany(usize),
    /// One has no name.
    #[error("price override {index} has no model name")]
    Unnamed {
        /// Its place, from 0.
        index: usize,
    },
    /// A name is too long.
    #[error("the model name of price override {index} has {bytes} bytes, and the most is 256")]
    NameTooLong {
        /// Its place, from 0.
        index: usize,
        /// Its length.
        bytes: usize,
    },
    /// A name holds what no model's name does.
    #[error(
        "the model name of price override {index}, {model:?}, holds white space or a control character"
    )]
    NotAName {
        /// Its place, from 0.
        index: usize,
        /// The name.
        model: String,
    },
    /// A `*` stands elsewhere than at the end.
    #[error("the model name of price override {index}, {model:?}, may hold one `*`, at its end")]
    MisplacedStar {
        /// Its place, from 0.
        index: usize,
        /// The name.
        model: String,
    },
    /// A `*` stands alone.
    #[error(
        "price override {index} is for every model: state a fallback price for unknown models instead, \
         or a prefix"
    )]
    EveryModel {
        /// Its place, from 0.
        index: usize,
    },
    /// Two are for the same name.
    #[error("price override {index} is the second for {model:?}: keep one of them")]
    Duplicate {
        /// Its place, from 0.
        index: usize,
        /// The name.
        model: String,
    },
}

/// The most overrides of one table.
pub const MAX_OVERRIDES: usize = 1_000;

/// Overrides by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overrides {
    exact: HashMap<String, Stated, RandomState>,
    /// Without the `*`, the longest first.
    prefixes: Vec<(String, Stated)>,
}

/// What an override states.
#[derive(Clone, Debug)]
pub(crate) struct Stated {
    pub(crate) price: ModelPrice,
    pub(crate) family: Option<Family>,
}

// === impl Overrides ===

impl Overrides {
    /// Validates and indexes; `limits` fills in of a named model's price what was left open.
    pub(crate) fn new(
        list: Vec<PriceOverride>,
        limits: impl Fn(&str, &mut ModelPrice),
    ) -> Result<Self, PriceError> {
        if list.len() > MAX_OVERRIDES {
            return Err(PriceError::TooMany(list.len()));
        }
        let mut overrides = Self::default();
        for (index, PriceOverride { model, mut price, family }) in list.into_iter().enumerate() {
            let bytes = model.len();
            if bytes > MAX_NAME_BYTES {
                return Err(PriceError::NameTooLong { index, bytes });
            }
            if model.is_empty() {
                return Err(PriceError::Unnamed { index });
            }
            if model.contains(|char: char| char.is_whitespace() || char.is_control()) {
                return Err(PriceError::NotAName { index, model });
            }
            let name = model.to_ascii_lowercase();
            let second = match name.strip_suffix('*') {
                Some("") => return Err(PriceError::EveryModel { index }),
                Some(prefix) if prefix.contains('*') => {
                    return Err(PriceError::MisplacedStar { index, model });
                }
                None if name.contains('*') => {
                    return Err(PriceError::MisplacedStar { index, model });
                }
                Some(prefix) => {
                    let second = overrides.prefixes.iter().any(|(known, _)| known == prefix);
                    overrides.prefixes.push((prefix.to_owned(), Stated { price, family }));
                    second
                }
                None => {
                    limits(&name, &mut price);
                    overrides.exact.insert(name, Stated { price, family }).is_some()
                }
            };
            if second {
                return Err(PriceError::Duplicate { index, model });
            }
        }
        overrides.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Ok(overrides)
    }

    /// The override of exactly this lower-case name.
    pub(crate) fn exact(&self, name: &str) -> Option<&Stated> {
        self.exact.get(name)
    }

    /// The override of this lower-case name, exact or by its longest prefix.
    pub(crate) fn get(&self, name: &str) -> Option<&Stated> {
        self.exact(name).or_else(|| {
            let found = self.prefixes.iter().find(|(prefix, _)| name.starts_with(prefix.as_str()));
            found.map(|(_, stated)| stated)
        })
    }
}
