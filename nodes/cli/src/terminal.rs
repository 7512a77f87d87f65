//! Writing to people and programs: standard output, complaints, colour.

use std::{
    borrow::Cow,
    fmt::Display,
    io::{self, BufWriter, IsTerminal, Write},
};

use clap::ValueEnum;
use serde::Serialize;

use crate::outcome::Failure;

/// Whom the output is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// What a piece of text means; how it looks follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Good,
    Warning,
    Bad,
    Strong,
    Quiet,
}

/// Where a command writes.
pub(crate) struct Terminal {
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    colour: bool,
    err_colour: bool,
}

// === impl Style ===

impl Style {
    const fn sgr(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Warning => "33",
            Self::Bad => "31",
            Self::Strong => "1",
            Self::Quiet => "2",
        }
    }

    /// The text in this style, where colours are wanted.
    pub(crate) fn paint(self, text: &str, colour: bool) -> Cow<'_, str> {
        if colour { format!("\u{1b}[{}m{text}\u{1b}[0m", self.sgr()).into() } else { text.into() }
    }
}

// === impl Terminal ===

impl Terminal {
    /// The process's own streams, coloured where they are terminals and `NO_COLOR` is not set.
    pub(crate) fn standard() -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let (out, err) = (io::stdout(), io::stderr());
        let colour = !plain && out.is_terminal();
        let err_colour = !plain && err.is_terminal();
        Self { out: Box::new(BufWriter::new(out)), err: Box::new(err), colour, err_colour }
    }

    /// Whether standard output is coloured.
    pub(crate) const fn colour(&self) -> bool {
        self.colour
    }

    /// Whether complaints are coloured.
    pub(crate) const fn err_colour(&self) -> bool {
        self.err_colour
    }

    /// The text in a style.
    pub(crate) fn paint<'t>(&self, style: Style, text: &'t str) -> Cow<'t, str> {
        style.paint(text, self.colour)
    }

    /// Writes a line.
    pub(crate) fn line(&mut self, line: impl Display) -> io::Result<()> {
        writeln!(self.out, "{line}")
    }

    /// Writes bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// Writes a value as indented JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut self.out, value)?;
        self.out.write_all(b"\n")
    }

    /// Writes a value as JSON on one line.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, value)?;
        self.out.write_all(b"\n")
    }

    /// Sends what was written on its way.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Tells people something beside the output, on standard error. If nobody listens there, so be it.
    pub(crate) fn note(&mut self, text: impl Display) {
        let _ = self.out.flush();
        let _ = writeln!(self.err, "{text}");
    }

    /// Tells people why the command failed.
    pub(crate) fn complain(&mut self, failure: &Failure) {
        if let Some(message) = failure.message() {
            let label = Style::Bad.paint("error:", self.err_colour).into_owned();
            self.note(format_args!("{label} {message}"));
        }
    }
}

/// Text from elsewhere without what a terminal would obey.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect::<String>().into()
    } else {
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_command_the_terminal() {
        assert_eq!(printable("agent\u{1b}[2J"), "agent\u{fffd}[2J");
        assert_eq!(printable("Grüße"), "Grüße");
    }

    #[test]
    fn colour_is_only_there_when_wanted() {
        assert_eq!(Style::Bad.paint("deny", false), "deny");
        assert_eq!(Style::Bad.paint("deny", true), "\u{1b}[31mdeny\u{1b}[0m");
    }
}
