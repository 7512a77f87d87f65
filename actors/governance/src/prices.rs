//! What models cost in a workspace: the vendored table under what its operators set.

use aa_pricing::{PriceError, PriceOverride, PriceTable, UnknownModel};
use aa_protocol::Timestamp;
use serde::{Deserialize, Serialize};

use crate::stored;

/// What operators set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriceTerms {
    /// Prices that win over the table's.
    #[serde(default)]
    pub overrides: Vec<PriceOverride>,
    /// What becomes of a call of a model without a price, where a budget applies.
    #[serde(default)]
    pub unknown: UnknownModel,
}

/// The terms in force, with who set them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriceRecord {
    /// The terms.
    pub terms: PriceTerms,
    /// When they were set.
    pub updated_at: Timestamp,
    /// Who set them: `key:<id>`.
    pub updated_by: String,
}

/// The prices in force.
#[derive(Clone, Debug)]
pub struct Prices {
    /// The table with the operators' own prices.
    pub table: PriceTable,
    /// What becomes of a call of a model without a price.
    pub unknown: UnknownModel,
    /// What operators set, if anything.
    pub record: Option<PriceRecord>,
}

/// Why prices were refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum PricesError {
    /// An override is wrong.
    #[error(transparent)]
    Override(#[from] PriceError),
    /// They do not fit a record.
    #[error("the prices take {0} bytes, and at most {MAX_BYTES} are kept; use prefixes (`name*`)")]
    TooLarge(usize),
}

/// A store's values are at most 100 kB.
const MAX_BYTES: usize = 90_000;

// === impl Prices ===

impl Prices {
    /// The vendored table alone.
    pub fn builtin() -> Self {
        let table = PriceTable::builtin().clone();
        Self { table, unknown: UnknownModel::default(), record: None }
    }

    /// The vendored table under these terms.
    ///
    /// # Errors
    /// What is wrong with them; see [`PricesError`].
    pub fn new(record: PriceRecord) -> Result<Self, PricesError> {
        let bytes = stored::encode(&record).len();
        if bytes > MAX_BYTES {
            return Err(PricesError::TooLarge(bytes));
        }
        let table = PriceTable::builtin().with_overrides(record.terms.overrides.clone())?;
        Ok(Self { table, unknown: record.terms.unknown.clone(), record: Some(record) })
    }
}
