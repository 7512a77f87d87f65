//! The proxy as agents, providers and operators see it: between real clients of HTTP, a real control plane and
//! providers on this machine.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod calls;
mod plain;
mod provider;
mod wire;
mod world;
