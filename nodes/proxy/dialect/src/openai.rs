//! OpenAI's APIs, and those who speak like them.

pub(crate) mod chat;
