//! How a message to an actor can end without its answer, and the reply that is never forgotten.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why an actor did not answer. Each says whether the same message may be sent again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Fault {
    /// The actor stopped before it took the message, or its shard is moving.
    #[error("the actor stopped before it answered; try again")]
    Gone,
    /// The actor panicked on this very message; sending it again would do the same.
    #[error("the actor failed on this message; it is not tried again")]
    Crashed,
    /// The commit failed or its result is unknown: the effect may or may not have happened.
    #[error("the answer could not be made durable ({0}); try again with the same action id")]
    NotDurable(String),
    /// The actor failed repeatedly and is held back.
    #[error("the actor failed {failures} times in a row; it starts again in {retry_after:?}")]
    BackingOff {
        /// Failures in a row.
        failures: u32,
        /// When it may be tried again.
        retry_after: Duration,
    },
    /// The shard is not held by this node just now.
    #[error("shard {shard} is not served by this node at the moment; try again")]
    ShardAway {
        /// The shard's number.
        shard: u16,
    },
    /// The actor lives on another node, which took the message and then was not heard of: the effect may
    /// or may not have happened.
    #[error("node `{node}` did not answer ({why}); try again with the same action id")]
    Unreachable {
        /// The node.
        node: String,
        /// What happened to the connection.
        why: String,
    },
    /// More is on its way to another node than may be. The message was not sent.
    #[error("too much is waiting to be sent to node `{node}`; try again shortly")]
    Congested {
        /// The node.
        node: String,
    },
    /// The actor lives on a node of another version, which does not know this message: nothing was done.
    #[error(
        "node `{node}` is of another version and does not know `{verb}`, so nothing was done; try again, and bring all nodes to one version"
    )]
    NotUnderstood {
        /// The node.
        node: String,
        /// What the message is called.
        verb: String,
    },
    /// The actor lives on a node of another version, whose answer does not read here: what was asked may have been
    /// done.
    #[error(
        "the answer to `{verb}` is of another version and does not read here; try again with the same action id, and bring all nodes to one version"
    )]
    AnswerNotUnderstood {
        /// What the message is called.
        verb: String,
    },
    /// A message or an answer does not go over a link, because it is too large for example. An effect may have
    /// happened.
    #[error("two nodes do not understand each other: {0}; bring them to one version")]
    Unreadable(String),
}

type Answer<T> = Box<dyn FnOnce(Result<T, Fault>) + Send>;

/// The way back to who sent a message. It answers exactly once: if it is dropped unused, it answers
/// [`Fault::Crashed`] when that happens in a panic and [`Fault::Gone`] otherwise, so no caller waits for
/// an actor that is no more, and a message that kills its actor is told from those queued behind it.
pub struct Reply<T>(Option<Answer<T>>);

impl Fault {
    /// Whether the same message can succeed later.
    pub const fn is_retryable(&self) -> bool {
        !matches!(self, Self::Crashed | Self::Unreadable(_))
    }
}

impl<T> Reply<T> {
    /// A reply that runs `answer`, which must not block or panic.
    pub fn new(answer: impl FnOnce(Result<T, Fault>) + Send + 'static) -> Self {
        Self(Some(Box::new(answer)))
    }

    /// A reply that nobody waits for.
    pub fn ignored() -> Self {
        Self(None)
    }

    /// A reply to another question, whose answer is made into this one's.
    pub fn map<U>(mut self, make: impl FnOnce(U) -> T + Send + 'static) -> Reply<U>
    where
        T: 'static,
    {
        match self.0.take() {
            Some(deliver) => Reply::new(move |answer: Result<U, Fault>| deliver(answer.map(make))),
            None => Reply(None),
        }
    }

    /// A reply together with the future of its answer.
    pub fn channel() -> (Self, tokio::sync::oneshot::Receiver<Result<T, Fault>>)
    where
        T: Send + 'static,
    {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let reply = Self::new(move |answer| {
            // A caller that stopped waiting needs no answer.
            let _ = sender.send(answer);
        });
        (reply, receiver)
    }

    /// Answers.
    pub fn send(mut self, answer: Result<T, Fault>) {
        if let Some(deliver) = self.0.take() {
            deliver(answer);
        }
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        if let Some(deliver) = self.0.take() {
            let fault = if std::thread::panicking() { Fault::Crashed } else { Fault::Gone };
            deliver(Err(fault));
        }
    }
}

impl<T> std::fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reply")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_reply_tells_a_panic_from_an_ordinary_end() {
        let (reply, mut answer) = Reply::<()>::channel();
        drop(reply);
        assert_eq!(answer.try_recv().unwrap(), Err(Fault::Gone));

        let (reply, mut answer) = Reply::<()>::channel();
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _held = reply;
            panic!("poison");
        }));
        assert_eq!(answer.try_recv().unwrap(), Err(Fault::Crashed));
    }
}
