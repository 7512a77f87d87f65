//! Who a node is, as its certificate says it.

use std::{fmt, str::FromStr, sync::Arc};

/// The longest name of a cluster or a node, in bytes.
pub const MAX_NAME: usize = 63;

/// A node of a cluster. As text it is the URI `aasm://<cluster>/node/<name>`, which its certificate has as its only
/// subject alternative name of that kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeIdentity {
    cluster: Arc<str>,
    node: Arc<str>,
}

/// A name that no cluster or node can have, or a URI that names none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has a character that it may not have, or too many, or none.
    #[error(
        "`{name}` cannot be the name of a {what}: take 1 to {MAX_NAME} of a-z, 0-9, `-`, `.` and `_`, a letter or a digit first"
    )]
    Name {
        /// `cluster` or `node`.
        what: &'static str,
        /// The name, shortened.
        name: String,
    },
    /// The URI is not of the form.
    #[error("`{0}` is not of the form aasm://<cluster>/node/<name>")]
    Uri(String),
}

const SCHEME: &str = "aasm://";

// === impl NodeIdentity ===

impl NodeIdentity {
    /// The node `node` of `cluster`.
    ///
    /// # Errors
    /// A name is not one: see [`NameError::Name`].
    pub fn new(cluster: &str, node: &str) -> Result<Self, NameError> {
        check("cluster", cluster)?;
        check("node", node)?;
        Ok(Self { cluster: cluster.into(), node: node.into() })
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The node's name, unique in its cluster.
    pub fn node(&self) -> &str {
        &self.node
    }
}

impl fmt::Display for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/node/{}", self.cluster, self.node)
    }
}

impl FromStr for NodeIdentity {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let names = text.strip_prefix(SCHEME).and_then(|rest| rest.split_once("/node/"));
        let (cluster, node) = names.ok_or_else(|| NameError::Uri(shortened(text)))?;
        Self::new(cluster, node)
    }
}

fn check(what: &'static str, name: &str) -> Result<(), NameError> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_name = name.len() <= MAX_NAME
        && name.bytes().next().is_some_and(is_plain)
        && name.bytes().all(|byte| is_plain(byte) || b"-._".contains(&byte));
    if is_name { Ok(()) } else { Err(NameError::Name { what, name: shortened(name) }) }
}

/// As much of a text as an error shows.
fn shortened(text: &str) -> String {
    text.chars().take(2 * MAX_NAME).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_its_uri() {
        let identity = NodeIdentity::new("prod-1", "node_a.example").unwrap();
        assert_eq!(identity.to_string(), "aasm://prod-1/node/node_a.example");
        assert_eq!(identity.to_string().parse(), Ok(identity));
    }

    #[test]
    fn what_is_no_name_is_refused_with_what_would_be_one() {
        let long = "a".repeat(MAX_NAME + 1);
        for name in ["", "A", "a b", "a/b", "-a", "ä", long.as_str()] {
            let error = NodeIdentity::new("c", name).unwrap_err();
            assert!(matches!(error, NameError::Name { what: "node", .. }), "{error}");
            assert!(NodeIdentity::new(name, "n").is_err(), "{name}");
        }
        for uri in ["https://c/node/n", "aasm://c/n", "aasm://c/node/", "aasm://c/node/n/m"] {
            assert!(uri.parse::<NodeIdentity>().is_err(), "{uri}");
        }
    }
}
