//! What is asked of a request for approval, on its way between nodes.

use aa_runtime::{Fault, Incoming, Outgoing, Remote, WireError};

use super::ApprovalMessage;

impl Remote for ApprovalMessage {
    fn pack(self) -> Option<Outgoing> {
        Some(match self {
            Self::Ask(record, reply) => Outgoing::new("ask", &record).answering(reply),
            Self::Answer(answer, reply) => Outgoing::new("answer", &answer).answering(reply),
            Self::Claim(claim, reply) => Outgoing::new("claim", &claim).answering(reply),
            Self::Read(reply) => Outgoing::new("read", &()).answering(reply),
            Self::Wake(reply) => Outgoing::new("wake", &()).answering(reply),
        })
    }

    fn unpack(incoming: &mut Incoming) -> Result<Self, WireError> {
        match incoming.verb() {
            "ask" => Ok(Self::Ask(incoming.body()?, incoming.reply()?)),
            "answer" => Ok(Self::Answer(incoming.body()?, incoming.reply()?)),
            "claim" => Ok(Self::Claim(incoming.body()?, incoming.reply()?)),
            "read" => Ok(Self::Read(incoming.reply()?)),
            "wake" => Ok(Self::Wake(incoming.reply()?)),
            _ => incoming.unknown(),
        }
    }

    fn fail(self, fault: Fault) {
        match self {
            Self::Ask(_, reply) => reply.send(Err(fault)),
            Self::Answer(_, reply) => reply.send(Err(fault)),
            Self::Claim(_, reply) => reply.send(Err(fault)),
            Self::Read(reply) => reply.send(Err(fault)),
            Self::Wake(reply) => reply.send(Err(fault)),
        }
    }
}

#[cfg(test)]
mod tests;
