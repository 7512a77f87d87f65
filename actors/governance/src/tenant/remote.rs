//! What is asked of a tenant, on its way between nodes.

use aa_runtime::{Fault, Incoming, Outgoing, Remote, WireError};
use serde::{Deserialize, Serialize};

use super::{ClusterChange, KeyError, TenantMessage};
use crate::api_key::{ApiKey, KeyRecord};

/// A key that was made. It is shown to its owner once, and crosses from node to node for that only.
#[derive(Serialize, Deserialize)]
struct NewlyMade {
    record: KeyRecord,
    #[serde(with = "shown_once")]
    key: ApiKey,
}

/// Who changed what of the cluster.
#[derive(Serialize, Deserialize)]
struct ClusterNote {
    actor: String,
    change: ClusterChange,
}

impl Remote for TenantMessage {
    fn pack(self) -> Option<Outgoing> {
        Some(match self {
            Self::Create(new, reply) => Outgoing::new("create", &new).answering(reply),
            Self::CreateKey(new, reply) => {
                let made = |made: Result<NewlyMade, KeyError>| {
                    made.map(|NewlyMade { record, key }| (record, key))
                };
                Outgoing::new("create_key", &new).answering(reply.map(made))
            }
            Self::RevokeKey(revocation, reply) => {
                Outgoing::new("revoke_key", &revocation).answering(reply)
            }
            Self::NoteBroken(problem, reply) => {
                Outgoing::new("note_broken", &problem).answering(reply)
            }
            Self::NoteCluster(actor, change, reply) => {
                Outgoing::new("note_cluster", &ClusterNote { actor, change }).answering(reply)
            }
            Self::NoteBackup(actor, reply) => Outgoing::new("note_backup", &actor).answering(reply),
            Self::Checkpoint(reply) => Outgoing::new("checkpoint", &()).answering(reply),
        })
    }

    fn unpack(incoming: &mut Incoming) -> Result<Self, WireError> {
        match incoming.verb() {
            "create" => Ok(Self::Create(incoming.body()?, incoming.reply()?)),
            "create_key" => {
                let new = incoming.body()?;
                let reply = incoming.reply::<Result<NewlyMade, KeyError>>()?;
                let made = |made: Result<(KeyRecord, ApiKey), KeyError>| {
                    made.map(|(record, key)| NewlyMade { record, key })
                };
                Ok(Self::CreateKey(new, reply.map(made)))
            }
            "revoke_key" => Ok(Self::RevokeKey(incoming.body()?, incoming.reply()?)),
            "note_broken" => Ok(Self::NoteBroken(incoming.body()?, incoming.reply()?)),
            "note_cluster" => {
                let ClusterNote { actor, change } = incoming.body()?;
                Ok(Self::NoteCluster(actor, change, incoming.reply()?))
            }
            "note_backup" => Ok(Self::NoteBackup(incoming.body()?, incoming.reply()?)),
            "checkpoint" => Ok(Self::Checkpoint(incoming.reply()?)),
            _ => incoming.unknown(),
        }
    }

    fn fail(self, fault: Fault) {
        match self {
            Self::Create(_, reply) => reply.send(Err(fault)),
            Self::CreateKey(_, reply) => reply.send(Err(fault)),
            Self::RevokeKey(_, reply) => reply.send(Err(fault)),
            Self::NoteBroken(_, reply)
            | Self::NoteBackup(_, reply)
            | Self::NoteCluster(_, _, reply) => reply.send(Err(fault)),
            Self::Checkpoint(reply) => reply.send(Err(fault)),
        }
    }
}

/// A key in the clear. It is read in place, so that no copy of it is left but the one that is wiped.
mod shown_once {
    use std::fmt;

    use serde::{
        Deserializer, Serializer,
        de::{Error, Visitor},
    };

    use crate::api_key::ApiKey;

    struct KeyVisitor;

    pub(super) fn serialize<S: Serializer>(key: &ApiKey, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(key.expose())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<ApiKey, D::Error> {
        deserializer.deserialize_str(KeyVisitor)
    }

    impl Visitor<'_> for KeyVisitor {
        type Value = ApiKey;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an API key")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<ApiKey, E> {
            ApiKey::parse(text).ok_or_else(|| E::custom("what is there is no API key"))
        }
    }
}

#[cfg(test)]
mod tests;
