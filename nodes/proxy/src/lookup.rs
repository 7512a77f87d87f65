//! Names whose addresses the configuration says, before the system's resolver is asked.

use std::{collections::HashMap, io, net::IpAddr};

use aa_reach::HostName;
use async_trait::async_trait;

use crate::dial::{Lookup, SystemLookup};

/// Names with fixed addresses; all others are the system's.
#[derive(Debug)]
pub(crate) struct FixedLookup(HashMap<HostName, Vec<IpAddr>>);

// === impl FixedLookup ===

impl FixedLookup {
    pub(crate) const fn new(addresses: HashMap<HostName, Vec<IpAddr>>) -> Self {
        Self(addresses)
    }
}

#[async_trait]
impl Lookup for FixedLookup {
    async fn lookup(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let fixed = self.0.iter().find(|(fixed, _)| fixed.as_str() == name);
        match fixed {
            Some((_, addresses)) => Ok(addresses.clone()),
            None => SystemLookup.lookup(name).await,
        }
    }
}
