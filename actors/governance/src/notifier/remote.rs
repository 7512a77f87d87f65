//! What is asked of a notifier, on its way between nodes.

use aa_runtime::{Fault, Incoming, Outgoing, Remote, WireError};

use super::NotifierMessage;
use crate::authored::Authored;

impl Remote for NotifierMessage {
    fn pack(self) -> Option<Outgoing> {
        Some(match self {
            Self::SetDestination(destination, actor, reply) => {
                Outgoing::new("set_destination", &Authored::new(destination, actor))
                    .answering(reply)
            }
            Self::RemoveDestination(name, actor, reply) => {
                Outgoing::new("remove_destination", &Authored::new(name, actor)).answering(reply)
            }
            Self::SetRule(rule, actor, reply) => {
                Outgoing::new("set_rule", &Authored::new(rule, actor)).answering(reply)
            }
            Self::RemoveRule(name, actor, reply) => {
                Outgoing::new("remove_rule", &Authored::new(name, actor)).answering(reply)
            }
            Self::Test(name, reply) => Outgoing::new("test", &name).answering(reply),
            Self::Replay(which, actor, reply) => {
                Outgoing::new("replay", &Authored::new(which, actor)).answering(reply)
            }
            Self::Discard(which, actor, reply) => {
                Outgoing::new("discard", &Authored::new(which, actor)).answering(reply)
            }
            Self::Read(reply) => Outgoing::new("read", &()).answering(reply),
            Self::Look => Outgoing::new("look", &()),
            // What a notifier has begun is its own. One that has moved reads on from its cursor, and delivers again
            // what it does not know to be taken.
            Self::Gathered(_) | Self::Attempted(..) => return None,
        })
    }

    fn stays_here(&self) -> bool {
        matches!(self, Self::Gathered(_) | Self::Attempted(..))
    }

    fn unpack(incoming: &mut Incoming) -> Result<Self, WireError> {
        match incoming.verb() {
            "set_destination" => {
                let Authored { what, actor } = incoming.body()?;
                Ok(Self::SetDestination(what, actor, incoming.reply()?))
            }
            "remove_destination" => {
                let Authored { what, actor } = incoming.body()?;
                Ok(Self::RemoveDestination(what, actor, incoming.reply()?))
            }
            "set_rule" => {
                let Authored { what, actor } = incoming.body()?;
                Ok(Self::SetRule(what, actor, incoming.reply()?))
            }
            "remove_rule" => {
                let Authored { what, actor } = incoming.body()?;
                Ok(Self::RemoveRule(what, actor, incoming.reply()?))
            }
            "test" => Ok(Self::Test(incoming.body()?, incoming.reply()?)),
            "replay" => {
                let Authored { what, actor } = incoming.body()?;
                Ok(Self::Replay(what, actor, incoming.reply()?))
            }
            "discard" => {
                let Authored { what, actor } = incoming.body()?;
                Ok(Self::Discard(what, actor, incoming.reply()?))
            }
            "read" => Ok(Self::Read(incoming.reply()?)),
            "look" => Ok(Self::Look),
            _ => incoming.unknown(),
        }
    }

    fn fail(self, fault: Fault) {
        match self {
            Self::SetDestination(_, _, reply) | Self::RemoveDestination(_, _, reply) => {
                reply.send(Err(fault));
            }
            Self::SetRule(_, _, reply) | Self::RemoveRule(_, _, reply) => reply.send(Err(fault)),
            Self::Test(_, reply) => reply.send(Err(fault)),
            Self::Replay(_, _, reply) => reply.send(Err(fault)),
            Self::Discard(_, _, reply) => reply.send(Err(fault)),
            Self::Read(reply) => reply.send(Err(fault)),
            Self::Look | Self::Gathered(_) | Self::Attempted(..) => {}
        }
    }
}

#[cfg(test)]
mod tests;
