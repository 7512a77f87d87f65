//! What is asked of a vault, on its way between nodes. Here secrets leave a process in the clear: the relay's connections
//! are encrypted, and both ends have proven to be nodes of the cluster.
//!
//! A value is wiped where it is held as one, on either node. What is not wiped is its copy in the packed message or
//! answer, which is freed once it is sent or read, and what HTTP/2 and TLS have buffered of that; `--lock-memory` keeps
//! those out of swap too.

use std::time::Duration;

use aa_runtime::{Fault, Incoming, Outgoing, Remote, WireError};
use aa_vault::{SecretName, SecretValue};
use serde::{Deserialize, Serialize};

use super::{NewSecret, SecretError, VaultMessage};
use crate::{
    authored::Authored,
    release::{Release, ReleaseError, Released},
};

/// A secret on its way in.
#[derive(Serialize, Deserialize)]
struct Told {
    name: SecretName,
    value: InTheClear,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    release: Option<Release>,
}

/// A secret on its way to a proxy.
#[derive(Serialize, Deserialize)]
struct ReleasedInTheClear {
    value: InTheClear,
    version: u64,
    keep_for: Duration,
}

/// A secret's value. Whoever holds one wipes it when it is dropped.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct InTheClear(#[serde(with = "in_the_clear")] SecretValue);

impl Remote for VaultMessage {
    fn pack(self) -> Option<Outgoing> {
        Some(match self {
            Self::Set(NewSecret { name, value, release, actor }, reply) => {
                let told = Told { name, value: InTheClear(value), release };
                Outgoing::new("set", &Authored::new(told, actor)).answering(reply)
            }
            Self::Delete(name, actor, reply) => {
                Outgoing::new("delete", &Authored::new(name, actor)).answering(reply)
            }
            Self::Open(name, reply) => {
                let opened =
                    |opened: Result<InTheClear, SecretError>| opened.map(|InTheClear(value)| value);
                Outgoing::new("open", &name).answering(reply.map(opened))
            }
            Self::Release(request, reply) => {
                let released = |released: Result<ReleasedInTheClear, ReleaseError>| {
                    released.map(ReleasedInTheClear::into_released)
                };
                Outgoing::new("release", &request).answering(reply.map(released))
            }
            Self::Withdraw(name, actor, reply) => {
                Outgoing::new("withdraw", &Authored::new(name, actor)).answering(reply)
            }
            Self::Read(reply) => Outgoing::new("read", &()).answering(reply),
            Self::Rotate(actor, reply) => {
                Outgoing::new("rotate", &Authored::new((), actor)).answering(reply)
            }
            Self::RotateMaster(actor, reply) => {
                Outgoing::new("rotate_master", &Authored::new((), actor)).answering(reply)
            }
            // The steps of a vault that has moved are counted where it is now: there, somebody only has to look.
            Self::Tend | Self::Step => Outgoing::new("tend", &()),
        })
    }

    fn unpack(incoming: &mut Incoming) -> Result<Self, WireError> {
        match incoming.verb() {
            "set" => {
                let Authored { what, actor } = incoming.body()?;
                let Told { name, value: InTheClear(value), release } = what;
                Ok(Self::Set(NewSecret { name, value, release, actor }, incoming.reply()?))
            }
            "delete" => {
                let Authored { what, actor } = incoming.body()?;
                Ok(Self::Delete(what, actor, incoming.reply()?))
            }
            "open" => {
                let name = incoming.body()?;
                let reply = incoming.reply::<Result<InTheClear, SecretError>>()?;
                let opened = |opened: Result<SecretValue, SecretError>| opened.map(InTheClear);
                Ok(Self::Open(name, reply.map(opened)))
            }
            "release" => {
                let request = incoming.body()?;
                let reply = incoming.reply::<Result<ReleasedInTheClear, ReleaseError>>()?;
                let released =
                    |released: Result<Released, ReleaseError>| released.map(ReleasedInTheClear::of);
                Ok(Self::Release(request, reply.map(released)))
            }
            "withdraw" => {
                let Authored { what, actor } = incoming.body()?;
                Ok(Self::Withdraw(what, actor, incoming.reply()?))
            }
            "read" => Ok(Self::Read(incoming.reply()?)),
            "rotate" => {
                let Authored { what: (), actor } = incoming.body()?;
                Ok(Self::Rotate(actor, incoming.reply()?))
            }
            "rotate_master" => {
                let Authored { what: (), actor } = incoming.body()?;
                Ok(Self::RotateMaster(actor, incoming.reply()?))
            }
            "tend" => Ok(Self::Tend),
            _ => incoming.unknown(),
        }
    }

    fn fail(self, fault: Fault) {
        match self {
            Self::Set(_, reply) | Self::Delete(_, _, reply) | Self::Withdraw(_, _, reply) => {
                reply.send(Err(fault));
            }
            Self::Release(_, reply) => reply.send(Err(fault)),
            Self::Open(_, reply) => reply.send(Err(fault)),
            Self::Read(reply) => reply.send(Err(fault)),
            Self::Rotate(_, reply) | Self::RotateMaster(_, reply) => reply.send(Err(fault)),
            Self::Tend | Self::Step => {}
        }
    }
}

// === impl ReleasedInTheClear ===

impl ReleasedInTheClear {
    fn of(released: Released) -> Self {
        let Released { value, version, keep_for } = released;
        Self { value: InTheClear(value), version, keep_for }
    }

    fn into_released(self) -> Released {
        let Self { value: InTheClear(value), version, keep_for } = self;
        Released { value, version, keep_for }
    }
}

/// A value as bytes. They are read in place, so that no copy is left but the one that is wiped.
mod in_the_clear {
    use std::fmt;

    use aa_vault::SecretValue;
    use serde::{
        Deserializer, Serializer,
        de::{Error, Visitor},
    };

    struct ValueVisitor;

    pub(super) fn serialize<S: Serializer>(
        value: &SecretValue,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(value.expose())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<SecretValue, D::Error> {
        deserializer.deserialize_bytes(ValueVisitor)
    }

    impl Visitor<'_> for ValueVisitor {
        type Value = SecretValue;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the bytes of a secret")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<SecretValue, E> {
            SecretValue::copy_of(bytes).map_err(E::custom)
        }

        /// Taken for its bytes: an error about its type would quote it.
        fn visit_str<E: Error>(self, text: &str) -> Result<SecretValue, E> {
            self.visit_bytes(text.as_bytes())
        }
    }
}

#[cfg(test)]
mod tests;
