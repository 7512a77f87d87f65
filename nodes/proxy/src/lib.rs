//! The sidecar proxy.

pub mod dial;
mod recent;
pub mod tls;
