//! What is asked of a policy set, on its way between nodes.

use aa_budget::Period;
use aa_runtime::{Fault, Incoming, Outgoing, Remote, WireError};
use serde::{Deserialize, Serialize};

use super::{ApproversMessage, MoneyMessage, PolicySetMessage};
use crate::{authored::Authored, spender::Spender};

/// Which budget is meant.
#[derive(Serialize, Deserialize)]
struct BudgetName {
    spender: Spender,
    period: Period,
}

impl Remote for PolicySetMessage {
    fn pack(self) -> Option<Outgoing> {
        Some(match self {
            // The cell is shared memory: every node has its own.
            Self::Apply(upload, reply) => Outgoing::new("apply", &upload).answering(reply),
            Self::Rollback(rollback, reply) => {
                Outgoing::new("rollback", &rollback).answering(reply)
            }
            Self::Remove(removal, reply) => Outgoing::new("remove", &removal).answering(reply),
            Self::Money(message) => return message.pack(),
            Self::Approvers(message) => return message.pack(),
        })
    }

    fn unpack(incoming: &mut Incoming) -> Result<Self, WireError> {
        match incoming.verb() {
            "apply" => Ok(Self::Apply(incoming.body()?, incoming.reply()?)),
            "rollback" => Ok(Self::Rollback(incoming.body()?, incoming.reply()?)),
            "remove" => Ok(Self::Remove(incoming.body()?, incoming.reply()?)),
            "set_budget" | "remove_budget" | "set_prices" => {
                MoneyMessage::unpack(incoming).map(Self::Money)
            }
            "set_group" | "remove_group" | "set_chain" | "remove_chain" => {
                ApproversMessage::unpack(incoming).map(Self::Approvers)
            }
            _ => incoming.unknown(),
        }
    }

    fn fail(self, fault: Fault) {
        match self {
            Self::Apply(_, reply) => reply.send(Err(fault)),
            Self::Rollback(_, reply) => reply.send(Err(fault)),
            Self::Remove(_, reply) => reply.send(Err(fault)),
            Self::Money(message) => message.fail(fault),
            Self::Approvers(message) => message.fail(fault),
        }
    }
}

impl Remote for MoneyMessage {
    fn pack(self) -> Option<Outgoing> {
        Some(match self {
            Self::SetBudget(terms, actor, reply) => {
                Outgoing::new("set_budget", &Authored::new(terms, actor)).answering(reply)
            }
            Self::RemoveBudget(spender, period, actor, reply) => {
                let name = BudgetName { spender, period };
                Outgoing::new("remove_budget", &Authored::new(name, actor)).answering(reply)
            }
            Self::SetPrices(terms, actor, reply) => {
                Outgoing::new("set_prices", &Authored::new(terms, actor)).answering(reply)
            }
        })
    }

    fn unpack(incoming: &mut Incoming) -> Result<Self, WireError> {
        match incoming.verb() {
            "set_budget" => {
                let Authored { what, actor } = incoming.body()?;
                Ok(Self::SetBudget(what, actor, incoming.reply()?))
            }
            "remove_budget" => {
                let Authored { what: BudgetName { spender, period }, actor } = incoming.body()?;
                Ok(Self::RemoveBudget(spender, period, actor, incoming.reply()?))
            }
            "set_prices" => {
                let Authored { what, actor } = incoming.body()?;
                Ok(Self::SetPrices(what, actor, incoming.reply()?))
            }
            _ => incoming.unknown(),
        }
    }

    fn fail(self, fault: Fault) {
        match self {
            Self::SetBudget(_, _, reply) | Self::RemoveBudget(_, _, _, reply) => {
                reply.send(Err(fault));
            }
            Self::SetPrices(_, _, reply) => reply.send(Err(fault)),
        }
    }
}

impl Remote for ApproversMessage {
    fn pack(self) -> Option<Outgoing> {
        Some(match self {
            Self::SetGroup(group, actor, reply) => {
                Outgoing::new("set_group", &Authored::new(group, actor)).answering(reply)
            }
            Self::RemoveGroup(name, actor, reply) => {
                Outgoing::new("remove_group", &Authored::new(name, actor)).answering(reply)
            }
            Self::SetChain(chain, actor, reply) => {
                Outgoing::new("set_chain", &Authored::new(chain, actor)).answering(reply)
            }
            Self::RemoveChain(team, actor, reply) => {
                Outgoing::new("remove_chain", &Authored::new(team, actor)).answering(reply)
            }
        })
    }

    fn unpack(incoming: &mut Incoming) -> Result<Self, WireError> {
        match incoming.verb() {
            "set_group" => {
                let Authored { what, actor } = incoming.body()?;
                Ok(Self::SetGroup(what, actor, incoming.reply()?))
            }
            "remove_group" => {
                let Authored { what, actor } = incoming.body()?;
                Ok(Self::RemoveGroup(what, actor, incoming.reply()?))
            }
            "set_chain" => {
                let Authored { what, actor } = incoming.body()?;
                Ok(Self::SetChain(what, actor, incoming.reply()?))
            }
            "remove_chain" => {
                let Authored { what, actor } = incoming.body()?;
                Ok(Self::RemoveChain(what, actor, incoming.reply()?))
            }
            _ => incoming.unknown(),
        }
    }

    fn fail(self, fault: Fault) {
        match self {
            Self::SetGroup(_, _, reply) | Self::RemoveGroup(_, _, reply) => reply.send(Err(fault)),
            Self::SetChain(_, _, reply) | Self::RemoveChain(_, _, reply) => reply.send(Err(fault)),
        }
    }
}

#[cfg(test)]
mod tests;
