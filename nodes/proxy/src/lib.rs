//! The sidecar proxy: agents that know nothing of governance are governed at the wire.
//!
//! It refuses to decide: every request becomes an action that the gateway decides ([`aa_client`]), before any byte of
//! it leaves. It knows no provider's format (`aa-dialect` does) and no patterns (`aa-scan`).
//!
//! The path of a request: accepted (`serve`), its target and caller found out (`tunnel`, `target`, `caller`),
//! recognised, decided, sent on over a connection that was checked and verified ([`dial`], [`tls`], `upstream`), its
//! answer passed on piece by piece while it is read, screened and metered (`call`, `screen`), its cost settled
//! (`settle`).

mod admin;
mod agents;
mod body;
mod breaker;
mod call;
mod caller;
pub mod config;
mod decide;
pub mod dial;
mod exchange;
mod headers;
mod host_patterns;
mod intake;
mod lookup;
mod metrics;
mod placeholders;
mod prefixed;
mod proxy;
mod recent;
mod refusal;
mod screen;
mod serve;
mod settings;
mod settle;
mod socket_owner;
pub mod start;
mod target;
pub mod tls;
mod trace;
mod tunnel;
mod upgrade;
mod upstream;
