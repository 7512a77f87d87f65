//! A figure measured several times over.

use std::fmt;

/// One figure, once per round, in any unit. Its `Display` is `median (least–most)`, with the precision
/// that was asked for.
#[derive(Clone, Debug, Default)]
pub struct Rounds(Vec<f64>);

// === impl Rounds ===

impl Rounds {
    /// Adds the figure of a round.
    pub fn push(&mut self, figure: f64) {
        self.0.push(figure);
        self.0.sort_by(f64::total_cmp);
    }

    /// The figure in the middle; of an even number the upper one, of none zero.
    pub fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }

    /// The least figure of all rounds.
    pub fn least(&self) -> f64 {
        self.0.first().copied().unwrap_or_default()
    }

    /// The greatest figure of all rounds.
    pub fn most(&self) -> f64 {
        self.0.last().copied().unwrap_or_default()
    }
}

impl FromIterator<f64> for Rounds {
    fn from_iter<I: IntoIterator<Item = f64>>(figures: I) -> Self {
        let mut rounds = Self::default();
        figures.into_iter().for_each(|figure| rounds.push(figure));
        rounds
    }
}

impl fmt::Display for Rounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        let (median, least, most) = (self.median(), self.least(), self.most());
        let text = format!("{median:.digits$} ({least:.digits$}–{most:.digits$})");
        write!(f, "{text:>width$}", width = f.width().unwrap_or(0))
    }
}

/// Measures several subjects in turn, round after round, so that a slow minute of the machine falls on all of
/// them. The figures come back in the order of the subjects.
pub fn interleaved(rounds: usize, subjects: &mut [&mut dyn FnMut() -> f64]) -> Vec<Rounds> {
    let mut figures = vec![Rounds::default(); subjects.len()];
    for _ in 0..rounds {
        for (subject, figures) in subjects.iter_mut().zip(&mut figures) {
            figures.push(subject());
        }
    }
    figures
}
