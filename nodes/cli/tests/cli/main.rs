//! `aasm` as its users run it: real processes, real files, a real control plane on free ports.

#![allow(clippy::unwrap_used, reason = "a test ends where what it stands on fails")]

mod alerts;
mod approvals;
mod budgets;
mod ca;
mod control_plane;
mod harness;
mod offline_audit;
mod policy_check;
mod policy_eval;
mod policy_test;
mod secrets;
mod stores;
mod workspaces;
