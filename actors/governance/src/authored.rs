//! What somebody asks of an actor on another node.

use serde::{Deserialize, Serialize};

/// A wish, and whose it is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Authored<T> {
    /// What is wished.
    pub(crate) what: T,
    /// Who: `key:<id>`.
    pub(crate) actor: String,
}

// === impl Authored ===

impl<T> Authored<T> {
    pub(crate) const fn new(what: T, actor: String) -> Self {
        Self { what, actor }
    }
}
