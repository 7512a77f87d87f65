//! How a command ends.

use std::{fmt, io, process::ExitCode};

/// What a command that could do its work found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// Done, or the answer is yes.
    Done,
    /// The answer is no.
    No,
    /// Some of the input could not be read.
    BadInput,
}

/// Why a command could not do its work.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The input is not usable: the caller has to change it.
    BadInput(String),
    /// The control plane refused, or cannot be reached.
    Refused(String),
    /// Everything was said already.
    Said(Exit),
    /// Nothing can be written.
    Output(io::Error),
}

// === impl Exit ===

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::No => Self::from(1),
            Exit::BadInput => Self::from(2),
        }
    }
}

// === impl Failure ===

impl Failure {
    /// The input is not usable.
    pub(crate) fn bad_input(message: impl fmt::Display) -> Self {
        Self::BadInput(message.to_string())
    }

    /// The control plane refused, or cannot be reached.
    pub(crate) fn refused(message: impl fmt::Display) -> Self {
        Self::Refused(message.to_string())
    }

    /// The exit it means. Whoever closed the pipe has read enough: that is no error.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::BadInput(_) => Exit::BadInput,
            Self::Refused(_) => Exit::No,
            Self::Said(exit) => *exit,
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
            Self::Output(_) => Exit::No,
        }
    }

    /// What to tell people, if anything.
    pub(crate) fn message(&self) -> Option<String> {
        match self {
            Self::BadInput(message) | Self::Refused(message) => Some(message.clone()),
            Self::Said(_) => None,
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => None,
            Self::Output(error) => Some(format!("cannot write the output: {error}")),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}
