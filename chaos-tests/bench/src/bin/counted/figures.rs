//! The figures of a run and those that were accepted before.

use std::{collections::BTreeMap, fmt, fmt::Write as _, fs, path::Path};

use aa_bench::Error;
use serde::Deserialize;

use crate::{callgrind::Counts, subjects::Subject};

/// Figures of subjects, each by its unit.
type Figures = BTreeMap<String, BTreeMap<String, f64>>;

/// What this run has counted.
#[derive(Debug, Default)]
pub(crate) struct Measured(Figures);

/// The content of the file of accepted figures.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Accepted {
    /// The versions of what they were made with.
    #[serde(default)]
    pub(crate) made_with: String,
    /// How much worse a figure may get, in per cent, by its unit.
    tolerance_percent: BTreeMap<String, f64>,
    #[serde(default)]
    figures: Figures,
}

/// New figures beside accepted ones.
pub(crate) struct Comparison(Vec<Row>);

struct Row {
    name: String,
    old: Option<f64>,
    new: Option<f64>,
    change: Change,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Same,
    Better,
    Worse,
    New,
    NotCounted,
}

const HEADER: &str = "\
# Counted figures, compared by the command `counted` of this crate; `counted --accept` rewrites this file.
# Per operation: instructions outside SHA-256's compression function, instructions in it (of its form in
# plain code), and allocations. `scan` is per KiB of text, `compile` per rule. Of durable decisions: bytes and fsyncs of the
# log, and bytes of all files, as `written` of aa-chaos-tests counts them.
";

/// Fractions below this are noise of the counting, not of the code: one in a hundred operations.
const GRAIN: f64 = 0.01;

// === impl Measured ===

impl Measured {
    /// Adds what a subject's run cost, per operation.
    pub(crate) fn add_counts(&mut self, subject: Subject, counts: &Counts) {
        let per_operation = |count: u64| {
            let figure = count as f64 / counts.operations as f64;
            (figure * 100.0).round() / 100.0
        };
        let figures = self.0.entry(subject.name().to_owned()).or_default();
        figures.insert("instructions".to_owned(), per_operation(counts.instructions).round());
        figures.insert("allocations".to_owned(), per_operation(counts.allocations));
        if counts.sha256 > 0 {
            figures.insert("sha256_instructions".to_owned(), per_operation(counts.sha256).round());
        }
    }

    /// Adds lines of `<subject>.<unit> <number>`.
    ///
    /// # Errors
    /// A line is of another form.
    pub(crate) fn add_lines(&mut self, text: &str) -> Result<(), Error> {
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let parts = line.split_once(char::is_whitespace).and_then(|(name, figure)| {
                let (subject, unit) = name.rsplit_once('.')?;
                let figure = figure.trim().parse::<f64>().ok().filter(|figure| figure.is_finite());
                Some((subject, unit, figure?))
            });
            let (subject, unit, figure) = parts.ok_or_else(|| {
                format!("extra figures, line {}: `<subject>.<unit> <number>` expected", number + 1)
            })?;
            self.0.entry(subject.to_owned()).or_default().insert(unit.to_owned(), figure);
        }
        Ok(())
    }
}

// === impl Accepted ===

impl Accepted {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read or is malformed.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path)
            .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        Ok(toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?)
    }

    /// Holds new figures against these.
    pub(crate) fn compare(&self, measured: &Measured) -> Comparison {
        let mut rows = BTreeMap::new();
        for (figures, is_new) in [(&self.figures, false), (&measured.0, true)] {
            for (subject, units) in figures {
                for (unit, figure) in units {
                    let key = (subject, unit);
                    let (old, new) = rows.entry(key).or_insert((None, None));
                    *if is_new { new } else { old } = Some(*figure);
                }
            }
        }
        let row = |((subject, unit), (old, new)): ((&String, &String), _)| {
            let tolerance = self.tolerance_percent.get(unit).copied().unwrap_or_default();
            let change = Change::of(old, new, tolerance);
            Row { name: format!("{subject}.{unit}"), old, new, change }
        };
        Comparison(rows.into_iter().map(row).collect())
    }

    /// Takes the new figures; those not counted this time stay.
    pub(crate) fn accept(&mut self, measured: &Measured, made_with: &str) {
        made_with.clone_into(&mut self.made_with);
        for (subject, units) in &measured.0 {
            self.figures.insert(subject.clone(), units.clone());
        }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Error> {
        fs::write(path, self.to_string())
            .map_err(|error| format!("{} cannot be written: {error}", path.display()).into())
    }
}

impl fmt::Display for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let made_with = toml::Value::from(self.made_with.as_str());
        write!(f, "{HEADER}\nmade_with = {made_with}\n\n[tolerance_percent]\n")?;
        for (unit, tolerance) in &self.tolerance_percent {
            writeln!(f, "{unit} = {tolerance:?}")?;
        }
        for (subject, units) in &self.figures {
            writeln!(f, "\n[figures.{}]", toml::Value::from(subject.as_str()))?;
            for (unit, figure) in units {
                writeln!(f, "{unit} = {figure:?}")?;
            }
        }
        Ok(())
    }
}

// === impl Change ===

impl Change {
    fn of(old: Option<f64>, new: Option<f64>, tolerance_percent: f64) -> Self {
        let (old, new) = match (old, new) {
            (Some(old), Some(new)) => (old, new),
            (None, _) => return Self::New,
            (_, None) => return Self::NotCounted,
        };
        let margin = old.abs() * tolerance_percent / 100.0 + GRAIN;
        if new > old + margin {
            Self::Worse
        } else if new < old - margin {
            Self::Better
        } else {
            Self::Same
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Same => "",
            Self::Better => "better",
            Self::Worse => "WORSE",
            Self::New => "new",
            Self::NotCounted => "not counted",
        }
    }
}

// === impl Comparison ===

impl Comparison {
    /// Figures that got worse.
    pub(crate) fn worse(&self) -> usize {
        self.0.iter().filter(|row| row.change == Change::Worse).count()
    }

    /// Figures that got better or are new.
    pub(crate) fn better(&self) -> usize {
        let good = |row: &&Row| matches!(row.change, Change::Better | Change::New);
        self.0.iter().filter(good).count()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widest = self.0.iter().map(|row| row.name.len()).max().unwrap_or_default();
        let figure = |figure: Option<f64>| {
            figure.map_or_else(|| "–".to_owned(), |figure| format!("{figure:.2}"))
        };
        writeln!(f, "{:widest$} {:>12} {:>12} {:>9}", "", "accepted", "now", "change")?;
        for Row { name, old, new, change } in &self.0 {
            let mut percent = String::new();
            if let (Some(old), Some(new)) = (old, new)
                && *old != 0.0
            {
                write!(percent, "{:+.1} %", (new - old) / old * 100.0)?;
            }
            let (old, new, word) = (figure(*old), figure(*new), change.word());
            writeln!(f, "{name:widest$} {old:>12} {new:>12} {percent:>9} {word}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted() -> Accepted {
        let text = "made_with = \"x\"\n[tolerance_percent]\ninstructions = 3.0\nallocations = 0.0\n\
            [figures.seal]\ninstructions = 1000.0\nallocations = 0.0\n[figures.gateway]\nfsyncs = 0.5\n";
        toml::from_str(text).expect("it is well formed")
    }

    fn changes(lines: &str) -> Vec<(String, Change)> {
        let mut measured = Measured::default();
        measured.add_lines(lines).expect("they are well formed");
        let comparison = accepted().compare(&measured);
        comparison.0.into_iter().map(|row| (row.name, row.change)).collect()
    }

    #[test]
    fn a_figure_is_worse_past_its_tolerance_only() {
        let name = |name: &str| name.to_owned();
        let same = changes("seal.instructions 1030\nseal.allocations 0\ngateway.fsyncs 0.5");
        assert!(same.iter().all(|(_, change)| *change == Change::Same), "{same:?}");
        let changed = changes("# more\nseal.instructions 1031\nseal.allocations 1\n\nnew.bytes 7");
        let expected = [
            (name("gateway.fsyncs"), Change::NotCounted),
            (name("new.bytes"), Change::New),
            (name("seal.allocations"), Change::Worse),
            (name("seal.instructions"), Change::Worse),
        ];
        assert_eq!(changed, expected);
        assert!(
            changes("seal.instructions 900").contains(&(name("seal.instructions"), Change::Better))
        );
    }

    #[test]
    fn what_is_accepted_reads_back() {
        let mut measured = Measured::default();
        measured.add_lines("other.instructions 12.5").expect("it is well formed");
        let mut figures = accepted();
        figures.accept(&measured, "rustc \"1\"");
        let again: Accepted = toml::from_str(&figures.to_string()).expect("it was just written");
        assert_eq!(again.to_string(), figures.to_string());
        assert_eq!(again.figures.len(), 3);
    }

    #[test]
    fn a_malformed_extra_line_is_refused_with_its_number() {
        let error = Measured::default().add_lines("a.b 1\nnonsense").expect_err("line 2 is none");
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
