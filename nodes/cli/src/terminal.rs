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
        let json = indented_json(value)?;
        self.line(json)
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

/// Text from elsewhere on one line, without what a terminal would obey: control characters, ends of lines, and marks
/// that turn the direction of text around, so that it reads as something else.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().any(commands) {
        text.chars().map(|c| if commands(c) { '\u{fffd}' } else { c }).collect::<String>().into()
    } else {
        text.into()
    }
}

/// JSON on one line that a terminal can be given: what [`printable`] would take away stands there in the escapes of JSON,
/// and so do characters that nobody sees. It is the same value, and no two values look the same.
pub(crate) fn printable_json(value: &impl Serialize) -> io::Result<String> {
    Ok(escaped(&serde_json::to_string(value)?))
}

/// As [`printable_json`], indented.
pub(crate) fn indented_json(value: &impl Serialize) -> io::Result<String> {
    Ok(escaped(&serde_json::to_string_pretty(value)?))
}

/// JSON with escapes for what should not reach a terminal as it is. That stands in strings only, where an escape is in
/// its place; the ends of lines are those between the values.
fn escaped(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        if c == '\n' || !(commands(c) || is_invisible(c)) {
            shown.push(c);
            continue;
        }
        let mut units = [0; 2];
        for unit in c.encode_utf16(&mut units) {
            shown += &format!("\\u{unit:04x}");
        }
    }
    shown
}

/// What a terminal obeys: controls, line and paragraph separators, and the bidirectional controls of Unicode
/// (UAX #9, section 2).
fn commands(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}'..='\u{2029}' | '\u{61c}' | '\u{200e}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Characters without a look of their own: joiners, fillers, tags, variation selectors, blanks that are no space.
const fn is_invisible(c: char) -> bool {
    matches!(c, '\u{a0}' | '\u{ad}' | '\u{34f}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{2000}'..='\u{200d}' | '\u{202f}' | '\u{205f}'..='\u{2065}'
        | '\u{206a}'..='\u{206f}' | '\u{2800}' | '\u{3000}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
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
    fn text_cannot_be_turned_around() {
        assert_eq!(printable("a\u{202e}b\u{2066}c"), "a\u{fffd}b\u{fffd}c");
        assert_eq!(printable("a\nb\u{2028}c"), "a\u{fffd}b\u{fffd}c");
    }

    #[test]
    fn json_for_people_is_the_same_value_with_nothing_hidden() {
        let value = serde_json::json!({
            "a\u{202e}": "x\u{1b}[2J\u{7f}\u{9b}y\nz",
            "b": ["Grüße", 1.5, null, "\u{200b}\u{e0041}"],
        });
        let shown = indented_json(&value).unwrap();
        assert_eq!(
            shown,
            "{\n  \"a\\u202e\": \"x\\u001b[2J\\u007f\\u009by\\nz\",\n  \"b\": [\n    \"Grüße\",\n    1.5,\n    \
             null,\n    \"\\u200b\\udb40\\udc41\"\n  ]\n}"
        );
        for shown in [shown, printable_json(&value).unwrap()] {
            assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        }
    }

    #[test]
    fn colour_is_only_there_when_wanted() {
        assert_eq!(Style::Bad.paint("deny", false), "deny");
        assert_eq!(Style::Bad.paint("deny", true), "\u{1b}[31mdeny\u{1b}[0m");
    }
}
