//! Messages to actors as bytes, for those that live on another node.
//!
//! A message is its verb, a body of plain data, and the ways back. The body is MessagePack with named
//! fields, so that a node of the next version may add fields that this one does not know: it passes them over. What
//! must not be passed over gets a verb or a variant of its own. A node that does not know it says so
//! ([`Fault::NotUnderstood`]) and has done nothing; better, it is not sent before all nodes know it
//! ([`Node::protocol`](crate::Node::protocol)).

mod tolerant;

use std::borrow::Cow;

use bytes::Bytes;
use rmp_serde::decode::Error;
use serde::{Serialize, de::DeserializeOwned};

use self::tolerant::Tolerant;
use crate::fault::{Fault, Reply};

/// The longest body of a message or an answer, in bytes. What is larger does not leave its node.
pub const MAX_BODY: usize = 8 << 20;

/// A message that can reach an actor on another node.
pub trait Remote: Sized + Send + 'static {
    /// Takes the message apart; `None` for one that stays here.
    fn pack(self) -> Option<Outgoing>;

    /// Whether it is for one life of its actor, which lives on this node: it reaches that or nobody, whoever has the
    /// shard by now.
    fn stays_here(&self) -> bool {
        false
    }

    /// Puts a message together.
    ///
    /// # Errors
    /// The verb is unknown or the body is not of its form: the sender is of another version, or broken.
    fn unpack(incoming: &mut Incoming) -> Result<Self, WireError>;

    /// Answers all its replies with the reason why it is not handled.
    fn fail(self, fault: Fault);
}

/// A message on its way out.
#[derive(Debug)]
pub struct Outgoing {
    pub(crate) verb: &'static str,
    pub(crate) body: Result<Bytes, WireError>,
    pub(crate) replies: Vec<Reply<Bytes>>,
}

/// A message that came in.
#[derive(Debug)]
pub struct Incoming {
    verb: Cow<'static, str>,
    body: Bytes,
    replies: std::vec::IntoIter<Reply<Bytes>>,
}

/// A message or an answer that does not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// No message of this kind has the verb.
    #[error("no message is called `{0}`; the sender is of another version")]
    UnknownVerb(String),
    /// The body is not of the form of its verb.
    #[error("the message `{verb}` does not read: {problem}; the sender is of another version")]
    Malformed {
        /// The verb.
        verb: String,
        /// What is wrong, without the contents.
        problem: String,
    },
    /// Fewer ways back came with the message than it has answers.
    #[error("the message `{0}` came without a way back")]
    NoReply(String),
    /// The body is over [`MAX_BODY`].
    #[error("the message `{verb}` has {bytes} bytes, over the limit of {MAX_BODY}")]
    TooLarge {
        /// The verb.
        verb: String,
        /// Its length in bytes.
        bytes: usize,
    },
}

// === impl Outgoing ===

impl Outgoing {
    /// A message of `verb` with its data.
    pub fn new<B: Serialize>(verb: &'static str, body: &B) -> Self {
        Self { verb, body: encode(verb, body), replies: Vec::new() }
    }

    /// The same with one more way back: the first that was added is the first that
    /// [`Incoming::reply`] gives.
    #[must_use]
    pub fn answering<T: DeserializeOwned + Send + 'static>(mut self, reply: Reply<T>) -> Self {
        let verb = self.verb;
        self.replies.push(Reply::new(move |answer: Result<Bytes, Fault>| {
            reply.send(answer.and_then(|bytes| {
                decode(&bytes).map_err(|problem| {
                    // It did happen, but what came of it cannot be told.
                    tracing::warn!(verb, problem, "an answer of another version does not read");
                    Fault::AnswerNotUnderstood { verb: verb.to_owned() }
                })
            }));
        }));
        self
    }
}

// === impl Incoming ===

impl Incoming {
    /// A message as it came off the wire.
    pub fn new(
        verb: impl Into<Cow<'static, str>>,
        body: Bytes,
        replies: Vec<Reply<Bytes>>,
    ) -> Self {
        Self { verb: verb.into(), body, replies: replies.into_iter() }
    }

    /// What the message is called.
    pub fn verb(&self) -> &str {
        &self.verb
    }

    /// Its data.
    ///
    /// # Errors
    /// It is not of this form.
    pub fn body<B: DeserializeOwned>(&self) -> Result<B, WireError> {
        decode(&self.body)
            .map_err(|problem| WireError::Malformed { verb: self.verb.to_string(), problem })
    }

    /// The next way back.
    ///
    /// # Errors
    /// There is none.
    pub fn reply<T: Serialize + 'static>(&mut self) -> Result<Reply<T>, WireError> {
        let reply = self.replies.next().ok_or_else(|| WireError::NoReply(self.verb.to_string()))?;
        let verb = self.verb.clone();
        Ok(Reply::new(move |answer: Result<T, Fault>| {
            reply.send(answer.and_then(|answer| {
                encode(&verb, &answer).map_err(|error| Fault::Unreadable(error.to_string()))
            }));
        }))
    }

    /// The refusal of a message whose verb is not known.
    ///
    /// # Errors
    /// Always.
    pub fn unknown<T>(&self) -> Result<T, WireError> {
        Err(WireError::UnknownVerb(self.verb.to_string()))
    }

    /// Answers what is left of its ways back.
    pub(crate) fn fail(self, fault: &Fault) {
        self.replies.for_each(|reply| reply.send(Err(fault.clone())));
    }
}

/// Reads what another node wrote. What is wrong with it is told without its contents, which may be a secret: the error
/// goes to a log.
pub(crate) fn decode<B: DeserializeOwned>(bytes: &[u8]) -> Result<B, String> {
    let mut written = rmp_serde::Deserializer::from_read_ref(bytes);
    B::deserialize(Tolerant(&mut written)).map_err(|error| match error {
        // These name what is in the sender's or the reader's program; other texts quote values.
        Error::Syntax(text)
            if ["missing field", "duplicate field"].iter().any(|known| text.starts_with(known)) =>
        {
            text
        }
        Error::Syntax(_) | Error::Uncategorized(_) => "a value is not what it should be".to_owned(),
        error => error.to_string(),
    })
}

fn encode<B: Serialize>(verb: &str, body: &B) -> Result<Bytes, WireError> {
    let malformed = |error: rmp_serde::encode::Error| WireError::Malformed {
        verb: verb.to_owned(),
        problem: error.to_string(),
    };
    let encoded = rmp_serde::to_vec_named(body).map_err(malformed)?;
    let bytes = encoded.len();
    if bytes > MAX_BODY {
        return Err(WireError::TooLarge { verb: verb.to_owned(), bytes });
    }
    Ok(encoded.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Greeting {
        Hello(String, Reply<usize>, Reply<()>),
    }

    impl Remote for Greeting {
        fn pack(self) -> Option<Outgoing> {
            let Self::Hello(name, length, done) = self;
            Some(Outgoing::new("hello", &name).answering(length).answering(done))
        }

        fn unpack(incoming: &mut Incoming) -> Result<Self, WireError> {
            match incoming.verb() {
                "hello" => Ok(Self::Hello(incoming.body()?, incoming.reply()?, incoming.reply()?)),
                _ => incoming.unknown(),
            }
        }

        fn fail(self, fault: Fault) {
            let Self::Hello(_, length, done) = self;
            length.send(Err(fault.clone()));
            done.send(Err(fault));
        }
    }

    fn over_the_wire(outgoing: Outgoing) -> Incoming {
        Incoming::new(outgoing.verb, outgoing.body.unwrap(), outgoing.replies)
    }

    fn received(verb: &'static str, body: Bytes) -> Result<Greeting, WireError> {
        Greeting::unpack(&mut Incoming::new(verb, body, Vec::new()))
    }

    #[test]
    fn a_message_and_its_answers_come_through() {
        let (length, mut length_answer) = Reply::channel();
        let (done, mut done_answer) = Reply::channel();
        let sent = Greeting::Hello("world".to_owned(), length, done).pack().unwrap();
        let Greeting::Hello(name, length, done) =
            Greeting::unpack(&mut over_the_wire(sent)).unwrap();
        length.send(Ok(name.len()));
        done.send(Err(Fault::NotDurable("the disk is full".to_owned())));
        assert_eq!(length_answer.try_recv().unwrap(), Ok(5));
        let fault = Fault::NotDurable("the disk is full".to_owned());
        assert_eq!(done_answer.try_recv().unwrap(), Err(fault));
    }

    #[test]
    fn what_does_not_read_is_not_repeated() {
        #[derive(Debug, serde::Deserialize)]
        struct Reading {
            #[expect(dead_code, reason = "only read")]
            count: u64,
        }
        let packed = |value: serde_json::Value| rmp_serde::to_vec_named(&value).unwrap();
        let problem = |value| decode::<Reading>(&packed(value)).unwrap_err();
        let of_another_type = problem(serde_json::json!({"count": "hunter2"}));
        assert!(!of_another_type.contains("hunter2"), "{of_another_type}");
        assert_eq!(problem(serde_json::json!({})), "missing field `count`");
        let missing = problem(serde_json::json!({"more": "hunter2"}));
        assert_eq!(missing, "missing field `count`");
    }

    #[test]
    fn what_another_version_sends_is_refused_by_name() {
        let error = received("adieu", Bytes::new()).err();
        assert_eq!(error, Some(WireError::UnknownVerb("adieu".to_owned())));
        let error = received("hello", Bytes::from_static(&[1]));
        assert!(matches!(error.err(), Some(WireError::Malformed { verb, .. }) if verb == "hello"));
        let body = rmp_serde::to_vec_named("world").unwrap();
        let error = received("hello", body.into()).err();
        assert_eq!(error, Some(WireError::NoReply("hello".to_owned())));
    }
}
