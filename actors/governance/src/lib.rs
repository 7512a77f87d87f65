//! The actors of the product: tenant, policy set and agent, and what they share.
//!
//! It refuses to know how requests arrive: no gRPC, no HTTP, no files. What comes in is authorised by
//! [`permission`], and only a permit opens [`Governance`].
//!
//! The path of an action: [`Governance::check`] → [`agent::AgentActor`] → `aa_policy::decide` →
//! [`chain::Chain::seal`] → the shard's journal → the answer. The tenant's actor later takes the entry
//! into its Merkle tree ([`tenant`]), and [`audit`] reads it back.

pub mod agent;
pub mod agent_record;
pub mod alert_record;
pub mod api_key;
pub mod approval;
pub mod approval_record;
pub mod approvers;
pub mod audit;
mod authored;
pub mod backup;
pub mod budget_book;
pub mod budget_window;
mod bulletin;
pub mod chain;
#[cfg(test)]
mod crossing;
pub mod decided;
pub mod governance;
pub mod keys;
pub mod metrics;
pub mod notice;
pub mod notifier;
pub mod permission;
pub mod policy_board;
pub mod policy_record;
pub mod policy_set;
pub mod prices;
pub mod rate_window;
pub mod recent_actions;
pub mod release;
pub mod secret_record;
pub mod services;
pub mod spender;
pub mod stored;
pub mod tenant;
pub mod vault;

pub use governance::{Governance, GovernanceError, GovernanceOptions, Outside};
pub use permission::{Forbidden, Grant, Permit, Principal};
pub use services::AuditKeys;
