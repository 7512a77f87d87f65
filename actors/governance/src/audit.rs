//! Reading the audit log: queries, and exports that a stranger can verify.

mod export;
mod leaves;
mod log_verifier;
mod query;
mod self_check;
mod turns;

pub use export::{Export, ExportFormat};
pub(crate) use leaves::{Leaves, Run};
pub use query::{Cursor, CursorError, Filter, MAX_PAGE, Page};
pub(crate) use turns::Turns;
