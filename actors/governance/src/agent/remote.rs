//! What is asked of an agent, on its way between nodes.

use aa_runtime::{Fault, Incoming, Outgoing, Remote, WireError};

use super::{AgentMessage, Check, Request};

impl Remote for AgentMessage {
    fn pack(self) -> Option<Outgoing> {
        Some(match self {
            Self::Register(registration, reply) => {
                Outgoing::new("register", &registration).answering(reply)
            }
            Self::Check(checks) => {
                let (requests, replies): (Vec<_>, Vec<_>) =
                    checks.into_iter().map(|Check { request, reply }| (request, reply)).unzip();
                // One way back for each, so that a decision that waits for people or windows holds up no other.
                replies.into_iter().fold(Outgoing::new("check", &requests), Outgoing::answering)
            }
            Self::Record(report, reply) => Outgoing::new("record", &report).answering(reply),
            Self::Refuse(refusal, reply) => Outgoing::new("refuse", &refusal).answering(reply),
            Self::SetStatus(change, reply) => Outgoing::new("set_status", &change).answering(reply),
            // The actions that wait for this are where the agent was. If it has moved, their clients repeat them.
            Self::Metered(_) => return None,
        })
    }

    fn stays_here(&self) -> bool {
        matches!(self, Self::Metered(_))
    }

    fn unpack(incoming: &mut Incoming) -> Result<Self, WireError> {
        match incoming.verb() {
            "register" => Ok(Self::Register(incoming.body()?, incoming.reply()?)),
            "check" => {
                let requests: Vec<Request> = incoming.body()?;
                let checks = requests
                    .into_iter()
                    .map(|request| Ok(Check { request, reply: incoming.reply()? }));
                Ok(Self::Check(checks.collect::<Result<_, _>>()?))
            }
            "record" => Ok(Self::Record(incoming.body()?, incoming.reply()?)),
            "refuse" => Ok(Self::Refuse(incoming.body()?, incoming.reply()?)),
            "set_status" => Ok(Self::SetStatus(incoming.body()?, incoming.reply()?)),
            _ => incoming.unknown(),
        }
    }

    fn fail(self, fault: Fault) {
        match self {
            Self::Register(_, reply) => reply.send(Err(fault)),
            Self::Check(checks) => {
                checks.into_iter().for_each(|check| check.reply.send(Err(fault.clone())));
            }
            Self::Record(_, reply) => reply.send(Err(fault)),
            Self::Refuse(_, reply) => reply.send(Err(fault)),
            Self::SetStatus(_, reply) => reply.send(Err(fault)),
            Self::Metered(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
