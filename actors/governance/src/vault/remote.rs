//! What is asked of a vault, on its way between nodes. Only here do secrets leave a process in the clear: the relay's
//! connections are encrypted, and both ends have proven to be nodes of the cluster.

use aa_runtime::{Fault, Incoming, Outgoing, Remote, WireError};
use aa_vault::{SecretName, SecretValue};
use serde::{Deserialize, Serialize};

use super::{NewSecret, SecretError, VaultMessage};
use crate::authored::Authored;

/// A secret on its way in.
#[derive(Serialize, Deserialize)]
struct Told {
    name: SecretName,
    value: InTheClear,
}

/// A secret's value. Whoever holds one wipes it when it is dropped.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct InTheClear(#[serde(with = "in_the_clear")] SecretValue);

impl Remote for VaultMessage {
    fn pack(self) -> Option<Outgoing> {
        Some(match self {
            Self::Set(NewSecret { name, value, actor }, reply) => {
                let told = Told { name, value: InTheClear(value) };
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
                let Authored { what: Told { name, value: InTheClear(value) }, actor } =
                    incoming.body()?;
                Ok(Self::Set(NewSecret { name, value, actor }, incoming.reply()?))
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
            Self::Set(_, reply) | Self::Delete(_, _, reply) => reply.send(Err(fault)),
            Self::Open(_, reply) => reply.send(Err(fault)),
            Self::Read(reply) => reply.send(Err(fault)),
            Self::Rotate(_, reply) | Self::RotateMaster(_, reply) => reply.send(Err(fault)),
            Self::Tend | Self::Step => {}
        }
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
