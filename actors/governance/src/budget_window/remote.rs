//! What is asked of a window, on its way between nodes.

use aa_budget::ReservationId;
use aa_runtime::{Fault, Incoming, Outgoing, Remote, WireError};
use serde::{Deserialize, Serialize};

use super::{Settlement, WindowMessage};

/// The end of a reservation.
#[derive(Serialize, Deserialize)]
struct Ending {
    id: ReservationId,
    settlement: Settlement,
}

impl Remote for WindowMessage {
    fn pack(self) -> Option<Outgoing> {
        Some(match self {
            Self::Reserve(asks, reply) => Outgoing::new("reserve", &asks).answering(reply),
            Self::Settle(settlements, reply) => {
                let ending = |(id, settlement)| Ending { id, settlement };
                let endings: Vec<_> = settlements.into_iter().map(ending).collect();
                Outgoing::new("settle", &endings).answering(reply)
            }
            Self::Read(reply) => Outgoing::new("read", &()).answering(reply),
        })
    }

    fn unpack(incoming: &mut Incoming) -> Result<Self, WireError> {
        match incoming.verb() {
            "reserve" => Ok(Self::Reserve(incoming.body()?, incoming.reply()?)),
            "settle" => {
                let endings: Vec<Ending> = incoming.body()?;
                let settlements =
                    endings.into_iter().map(|Ending { id, settlement }| (id, settlement));
                Ok(Self::Settle(settlements.collect(), incoming.reply()?))
            }
            "read" => Ok(Self::Read(incoming.reply()?)),
            _ => incoming.unknown(),
        }
    }

    fn fail(self, fault: Fault) {
        match self {
            Self::Reserve(_, reply) => reply.send(Err(fault)),
            Self::Settle(_, reply) => reply.send(Err(fault)),
            Self::Read(reply) => reply.send(Err(fault)),
        }
    }
}

#[cfg(test)]
mod tests;
