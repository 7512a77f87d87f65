//! JSON of answers, read leniently and with places: what cannot be made sense of is passed on all the same.
//! Requests are read strictly instead, by `aa_protocol::json`.

pub(crate) mod string;
pub(crate) mod strings;
pub(crate) mod tree;
