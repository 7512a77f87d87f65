//! Hosts as requests and settings name them, and who can be reached at an address: the one place that knows which
//! addresses are private.
//!
//! Whatever dials for somebody else stands on it. [`Host`] brings every spelling of a host to one form, so that
//! `0x7f.1`, `127.1` and `[::ffff:127.0.0.1]` are the loopback address they would reach; [`Reach`] says what sort of
//! address that is. Whether it may be dialled is for the caller to decide.
//!
//! It knows no sockets and resolves nothing.

mod host;
mod reach;

pub use self::{
    host::{Host, HostError, HostName},
    reach::{Nat64Prefix, Nat64PrefixError, Reach},
};
