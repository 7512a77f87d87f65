//! The sidecar proxy.

mod recent;
pub mod tls;
