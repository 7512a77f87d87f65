//! Telling people, as the notifier uses it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test, in its fixture too")]

mod book;
mod events;
mod fixture;
mod folding;
mod forms;
mod mail;
mod mail_server;
mod sending;
mod server;
mod slack;
