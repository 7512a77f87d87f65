//! What goes over links, to and from the form it has there.

use std::time::Duration;

use aa_protocol::wire::relay::{
    Answer, Call, Fault as WireFault, FromCaller, Refused, ToCaller,
    answer::Outcome,
    fault::{self, Kind},
    from_caller, to_caller,
};
use aa_runtime::{Fault, Frame, Request, ShardId};

use crate::limits::MAX_REPLIES;

/// A call that is none: the sender is broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    #[error("shard {0} cannot be; shards are numbered below 65,536")]
    Shard(u32),
    #[error("{0} answers are asked for, and {MAX_REPLIES} may be")]
    Replies(u32),
}

pub(crate) fn from_caller(frame: from_caller::Frame) -> FromCaller {
    FromCaller { frame: Some(frame) }
}

pub(crate) fn to_caller(frame: to_caller::Frame) -> ToCaller {
    ToCaller { frame: Some(frame) }
}

/// A request on its way out.
pub(crate) fn call(id: u64, request: Request, deadline_ms: i64) -> FromCaller {
    let Request { shard, kind, id: actor, verb, body, replies } = request;
    from_caller(from_caller::Frame::Call(Call {
        id,
        shard: u32::from(shard.0),
        kind,
        actor,
        verb,
        body,
        replies: u32::from(replies),
        deadline_ms,
    }))
}

/// A request that came in.
pub(crate) fn request(call: Call) -> Result<Request, CallError> {
    let Call { shard, kind, actor, verb, body, replies, .. } = call;
    let shard = ShardId(u16::try_from(shard).map_err(|_| CallError::Shard(shard))?);
    if replies > MAX_REPLIES {
        return Err(CallError::Replies(replies));
    }
    let replies = u16::try_from(replies).map_err(|_| CallError::Replies(replies))?;
    Ok(Request { shard, kind, id: actor, verb, body, replies })
}

/// A frame on its way back.
pub(crate) fn frame(id: u64, frame: Frame) -> ToCaller {
    to_caller(match frame {
        Frame::Refused(fault) => {
            to_caller::Frame::Refused(Refused { id, fault: Some(wire_fault(fault)) })
        }
        Frame::Answer { index, answer } => {
            let outcome = match answer {
                Ok(body) => Outcome::Ok(body),
                Err(fault) => Outcome::Fault(wire_fault(fault)),
            };
            let index = u32::from(index);
            to_caller::Frame::Answer(Answer { id, index, outcome: Some(outcome) })
        }
    })
}

/// The bytes that actors gave for a frame.
pub(crate) fn payload(frame: &Frame) -> usize {
    match frame {
        Frame::Answer { answer: Ok(body), .. } => body.len(),
        _ => 0,
    }
}

/// An answer that came back from `node`. An index that cannot be, nobody asked for.
pub(crate) fn answer(answer: Answer, node: &str) -> Frame {
    let index = u16::try_from(answer.index).unwrap_or(u16::MAX);
    let outcome = match answer.outcome {
        Some(Outcome::Ok(body)) => Ok(body),
        Some(Outcome::Fault(fault)) => Err(read_fault(fault, node)),
        None => Err(unknown(node)),
    };
    Frame::Answer { index, answer: outcome }
}

/// A refusal that came back from `node`.
pub(crate) fn refusal(refused: Refused, node: &str) -> Frame {
    Frame::Refused(refused.fault.map_or_else(|| unknown(node), |fault| read_fault(fault, node)))
}

fn wire_fault(fault: Fault) -> WireFault {
    let kind = match fault {
        Fault::Gone => Kind::Gone(fault::Gone {}),
        Fault::Crashed => Kind::Crashed(fault::Crashed {}),
        Fault::NotDurable(why) => Kind::NotDurable(fault::NotDurable { why }),
        Fault::BackingOff { failures, retry_after } => {
            let retry_after_ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
            Kind::BackingOff(fault::BackingOff { failures, retry_after_ms })
        }
        Fault::ShardAway { shard } => Kind::ShardAway(fault::ShardAway { shard: u32::from(shard) }),
        Fault::Unreachable { node, why } => Kind::Unreachable(fault::Unreachable { node, why }),
        Fault::Congested { node } => Kind::Congested(fault::Congested { node }),
        Fault::Unreadable(why) => Kind::Unreadable(fault::Unreadable { why }),
        Fault::NotUnderstood { node, verb } => {
            Kind::NotUnderstood(fault::NotUnderstood { node, verb })
        }
        Fault::AnswerNotUnderstood { verb } => {
            Kind::AnswerNotUnderstood(fault::AnswerNotUnderstood { verb })
        }
    };
    WireFault { kind: Some(kind) }
}

fn read_fault(fault: WireFault, node: &str) -> Fault {
    match fault.kind {
        Some(Kind::Gone(_)) => Fault::Gone,
        Some(Kind::Crashed(_)) => Fault::Crashed,
        Some(Kind::NotDurable(fault)) => Fault::NotDurable(fault.why),
        Some(Kind::BackingOff(fault::BackingOff { failures, retry_after_ms })) => {
            Fault::BackingOff { failures, retry_after: Duration::from_millis(retry_after_ms) }
        }
        Some(Kind::ShardAway(fault)) => {
            Fault::ShardAway { shard: u16::try_from(fault.shard).unwrap_or(u16::MAX) }
        }
        Some(Kind::Unreachable(fault)) => Fault::Unreachable { node: fault.node, why: fault.why },
        Some(Kind::Congested(fault)) => Fault::Congested { node: fault.node },
        Some(Kind::Unreadable(fault)) => Fault::Unreadable(fault.why),
        Some(Kind::NotUnderstood(fault::NotUnderstood { node, verb })) => {
            Fault::NotUnderstood { node, verb }
        }
        Some(Kind::AnswerNotUnderstood(fault)) => Fault::AnswerNotUnderstood { verb: fault.verb },
        None => unknown(node),
    }
}

/// What a later version says, of which no more is known than that the answer is none.
fn unknown(node: &str) -> Fault {
    let why = "its reason is of a later version".to_owned();
    Fault::Unreachable { node: node.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_comes_through() {
        let text = || "why".to_owned();
        let faults = [
            Fault::Gone,
            Fault::Crashed,
            Fault::NotDurable(text()),
            Fault::BackingOff { failures: 3, retry_after: Duration::from_millis(1_500) },
            Fault::ShardAway { shard: 65_535 },
            Fault::Unreachable { node: "a".to_owned(), why: text() },
            Fault::Congested { node: "a".to_owned() },
            Fault::Unreadable(text()),
            Fault::NotUnderstood { node: "a".to_owned(), verb: text() },
            Fault::AnswerNotUnderstood { verb: text() },
        ];
        for fault in faults {
            assert_eq!(read_fault(wire_fault(fault.clone()), "b"), fault);
        }
    }

    #[test]
    fn a_fault_of_a_later_version_is_one_to_try_again_after() {
        let fault = read_fault(WireFault { kind: None }, "b");
        assert!(
            fault.is_retryable()
                && matches!(&fault, Fault::Unreachable { node, .. } if node == "b")
        );
        let frame = answer(Answer { id: 1, index: 0, outcome: None }, "b");
        assert!(matches!(frame, Frame::Answer { answer: Err(Fault::Unreachable { .. }), .. }));
    }

    #[test]
    fn a_call_that_cannot_be_is_refused() {
        let good = Call { shard: 65_535, replies: MAX_REPLIES, ..Call::default() };
        assert!(request(good.clone()).is_ok());
        let error = request(Call { shard: 65_536, ..good.clone() }).unwrap_err();
        assert_eq!(error, CallError::Shard(65_536));
        let error = request(Call { replies: u32::MAX, ..good }).unwrap_err();
        assert_eq!(error, CallError::Replies(u32::MAX));
    }
}
