//! The control plane: the gRPC gateway that agents speak to, the REST API that operators use, and the
//! start of both on one machine.
//!
//! It refuses to decide: what comes in is checked for form and identity here, bounded, and handed to
//! `aa-governance`.
//!
//! The path of an action: [`tls`] → [`gateway`] (token, form, [`admission`]) → `Governance::check` → the
//! answer, once it is durable.

pub mod admission;
pub mod cluster_secrets;
mod drain;
pub mod gateway;
pub mod network;
pub mod nonce;
pub mod pki;
pub mod receiving;
pub mod rest;
pub mod secrets;
pub mod server;
pub mod throttle;
pub mod tls;
pub mod token;
pub mod vault_key;

pub use server::{ControlPlane, JoinOptions, Membership, Options, ServeError, StartError, Summary};
