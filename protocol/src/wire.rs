//! The generated gRPC messages and their conversions to and from the vocabulary.

mod convert;
mod released;

pub use convert::{MAX_STRING, WireError, registration_message};

/// The generated code of `agent_assembly.v1`.
#[allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications)]
pub mod v1 {
    tonic::include_proto!("agent_assembly.v1");
}

/// The generated code of `agent_assembly.relay.v1`: what nodes say to each other.
#[allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications)]
pub mod relay {
    tonic::include_proto!("agent_assembly.relay.v1");
}

/// The compiled descriptors of the gateway, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/gateway.bin"));
