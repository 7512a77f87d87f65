//! Figures that do not depend on the machine's mood: instructions, counted by `valgrind`, and allocations.
//!
//! `counted` counts every subject and holds the figures against those of `chaos-tests/bench/counted.toml`. It
//! prints a table and ends with 1 when one got worse by more than its tolerance, with 2 when it cannot
//! count.
//!
//! - `--accept` writes the new figures to the file instead.
//! - `--extra FILE` (`-` for standard input) adds figures that another program has counted: lines of
//!   `<subject>.<unit> <number>`; empty lines and those that begin with `#` are passed over.
//! - `--only TEXT` counts only subjects whose name contains the text.
//!
//! Instructions depend on the compiler and the C library besides the code: the file names those it was made
//! with.

mod callgrind;
mod figures;
mod subjects;

use std::{
    io::{self, Read as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use aa_bench::Error;

use self::{
    figures::{Accepted, Measured},
    subjects::Subject,
};

/// What the command was asked to do.
#[derive(Debug, Default)]
struct Arguments {
    accept: bool,
    extra: Option<PathBuf>,
    only: Option<String>,
    /// The subject that this process, itself started under `valgrind`, has to run, and how often.
    run: Option<(String, u64)>,
}

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/counted.toml");

fn main() -> ExitCode {
    match Arguments::read(std::env::args().skip(1)).and_then(run) {
        Ok(code) => code,
        Err(error) => {
            // Where standard error is gone, the code still tells.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    if let Some((name, times)) = &arguments.run {
        let subject =
            Subject::named(name).ok_or_else(|| format!("there is no subject `{name}`"))?;
        let operations = subject.run(*times)?;
        writeln!(io::stdout(), "{operations}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let tools = callgrind::Tools::find()?;
    let mut accepted = Accepted::read(FILE.as_ref())?;
    let mut measured = Measured::default();
    if let Some(path) = &arguments.extra {
        let text = if path.as_os_str() == "-" {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text)?;
            text
        } else {
            std::fs::read_to_string(path)
                .map_err(|error| format!("{} cannot be read: {error}", path.display()))?
        };
        measured.add_lines(&text)?;
    }
    let only = arguments.only.as_deref().unwrap_or_default();
    let chosen: Vec<Subject> =
        Subject::ALL.into_iter().filter(|subject| subject.name().contains(only)).collect();
    for (subject, counts) in chosen.iter().zip(tools.count_all(&chosen)?) {
        measured.add_counts(*subject, &counts);
    }

    let mut out = io::stdout();
    writeln!(out, "{}", tools.versions())?;
    let comparison = accepted.compare(&measured);
    writeln!(out, "{comparison}")?;
    if accepted.made_with != tools.versions() {
        writeln!(out, "the accepted figures were made with {}", accepted.made_with)?;
    }
    if arguments.accept {
        accepted.accept(&measured, &tools.versions());
        accepted.write(FILE.as_ref())?;
        writeln!(out, "accepted: written to {FILE}")?;
        return Ok(ExitCode::SUCCESS);
    }
    if comparison.worse() > 0 {
        writeln!(
            out,
            "{} figures got worse. Mend the code or, when that is the price of something worth it, run this \
             command with --accept and commit counted.toml with the reason.",
            comparison.worse()
        )?;
        return Ok(ExitCode::from(1));
    }
    if comparison.better() > 0 {
        writeln!(
            out,
            "{} figures got better or are new: run this command with --accept and commit counted.toml, so \
             that they stay so.",
            comparison.better()
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

// === impl Arguments ===

impl Arguments {
    fn read(mut given: impl Iterator<Item = String>) -> Result<Self, Error> {
        let mut arguments = Self::default();
        while let Some(argument) = given.next() {
            let mut value = || given.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--accept" => arguments.accept = true,
                "--extra" => arguments.extra = Some(value()?.into()),
                "--only" => arguments.only = Some(value()?),
                callgrind::RUN => arguments.run = Some((value()?, value()?.parse()?)),
                _ => {
                    let known = "--accept, --extra FILE, --only TEXT";
                    return Err(format!("`{argument}` is not known; known are {known}").into());
                }
            }
        }
        Ok(arguments)
    }
}
