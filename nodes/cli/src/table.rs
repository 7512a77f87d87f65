//! Tables for people: aligned columns, nothing drawn around them.

use std::io;

use comfy_table::{Attribute, Cell, Color, Table, presets};

use crate::terminal::{Style, Terminal, printable};

/// A table under construction.
pub(crate) struct Columns {
    table: Table,
}

/// A cell's text and what it means.
pub(crate) struct Text {
    text: String,
    style: Option<Style>,
}

// === impl Columns ===

impl Columns {
    /// A table with these headings.
    pub(crate) fn new(headings: &[&str], colour: bool) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        let headings = headings.iter().map(|text| Cell::new(text).add_attribute(Attribute::Bold));
        table.set_header(headings);
        Self { table }
    }

    /// Adds a row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [Text; N]) {
        self.table.add_row(cells.map(|Text { text, style }| {
            let cell = Cell::new(printable(&text));
            match style {
                None => cell,
                Some(Style::Good) => cell.fg(Color::DarkGreen),
                Some(Style::Warning) => cell.fg(Color::DarkYellow),
                Some(Style::Bad) => cell.fg(Color::DarkRed),
                Some(Style::Strong) => cell.add_attribute(Attribute::Bold),
                Some(Style::Quiet) => cell.add_attribute(Attribute::Dim),
            }
        }));
    }

    /// Writes the lines.
    pub(crate) fn print(self, terminal: &mut Terminal) -> io::Result<()> {
        self.lines().into_iter().try_for_each(|line| terminal.line(line))
    }

    /// The lines.
    pub(crate) fn lines(mut self) -> Vec<String> {
        for column in self.table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        self.table.lines().map(|line| line.trim_end().to_owned()).collect()
    }
}

// === impl Text ===

impl Text {
    /// Text with a meaning.
    pub(crate) fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style: Some(style) }
    }
}

impl<T: Into<String>> From<T> for Text {
    fn from(text: T) -> Self {
        Self { text: text.into(), style: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_without_trailing_blanks() {
        let mut columns = Columns::new(&["NAME", "SCOPE"], false);
        columns.row(["starter".into(), "global".into()]);
        columns.row(["a".into(), Text::styled("team:platform", Style::Good)]);
        assert_eq!(
            columns.lines(),
            ["NAME     SCOPE", "starter  global", "a        team:platform"]
        );
    }
}
