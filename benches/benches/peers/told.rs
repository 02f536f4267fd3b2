//! What came of the rounds, as tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::row::{Goal, Measure, Row};
use super::subject::Subject;
use crate::common::quantile;

/// The values of the rounds.
type Values = BTreeMap<usize, f64>;

/// Everything that was measured, and who failed.
#[derive(Default)]
pub(crate) struct Told {
    values: BTreeMap<(Row, Subject, Measure), Values>,
    failed: BTreeSet<(Row, Subject)>,
}

/// The median of the rounds, and the lowest and the highest.
#[derive(Clone, Copy)]
struct Spread {
    median: f64,
    low: f64,
    high: f64,
}

impl Spread {
    fn of(values: &Values) -> Self {
        let mut sorted: Vec<f64> = values.values().copied().collect();
        sorted.sort_by(f64::total_cmp);
        Self { median: quantile(&sorted, 0.5), low: quantile(&sorted, 0.0), high: quantile(&sorted, 1.0) }
    }

    fn text(self, text: impl Fn(f64) -> String) -> String {
        format!("{} ({}–{})", text(self.median), text(self.low), text(self.high))
    }
}

fn ratio(value: f64) -> String {
    format!("{value:.2}")
}

impl Told {
    pub(crate) fn add(&mut self, round: usize, row: Row, subject: Subject, values: &[(Measure, f64)]) {
        let texts: Vec<String> = values
            .iter()
            .map(|(measure, value)| format!("{} {}", measure.title(), measure.text(*value)))
            .collect();
        println!("{} {}: {}", row.name(), subject.name(), texts.join(", "));
        for (measure, value) in values {
            self.values.entry((row, subject, *measure)).or_default().insert(round, *value);
        }
    }

    /// What fails once is not tried again.
    pub(crate) fn fail(&mut self, row: Row, subject: Subject) {
        println!("{} FAILED with {}", row.name(), subject.name());
        self.failed.insert((row, subject));
    }

    pub(crate) fn has_failed(&self, row: Row, subject: Subject) -> bool {
        self.failed.contains(&(row, subject))
    }

    pub(crate) fn failures(&self) -> Vec<String> {
        self.failed.iter().map(|(row, subject)| format!("`{}` in `{}`", subject.name(), row.name())).collect()
    }

    fn values(&self, row: Row, subject: Subject, measure: Measure) -> Option<&Values> {
        self.values.get(&(row, subject, measure))
    }

    pub(crate) fn median(&self, row: Row, subject: Subject, measure: Measure) -> Option<f64> {
        Some(Spread::of(self.values(row, subject, measure)?).median)
    }

    /// What one is of the other, round by round: what else the machine did hit both.
    fn ratios(&self, row: Row, measure: Measure, one: Subject, other: Subject) -> Option<Spread> {
        let (one, other) = (self.values(row, one, measure)?, self.values(row, other, measure)?);
        let ratio = |(round, value): (&usize, &f64)| Some((*round, value / other.get(round)?));
        let ratios: Values = one.iter().filter_map(ratio).collect();
        (!ratios.is_empty()).then(|| Spread::of(&ratios))
    }

    fn goal(&self, row: Row, goal: Goal) -> Option<String> {
        let (measure, other) = match goal {
            Goal::Least(measure, _, other)
            | Goal::Stretch(measure, _, _, other)
            | Goal::Most(measure, _, other)
            | Goal::MostOr(measure, _, _, other) => (measure, other),
        };
        let spread = self.ratios(row, measure, Subject::Longwire, other)?;
        let (asked, is_met) = match goal {
            Goal::Least(_, times, _) => (format!("≥ {times}"), spread.median >= times),
            Goal::Stretch(_, times, better, _) => {
                (format!("≥ {times} (better {better})"), spread.median >= times)
            }
            Goal::Most(_, times, _) => (format!("≤ {times}"), spread.median <= times),
            Goal::MostOr(_, value, times, _) => {
                let own = self.median(row, Subject::Longwire, measure)?;
                let asked = format!("≤ {}, or ≤ {times}", measure.text(value));
                (asked, own <= value || spread.median <= times)
            }
        };
        let met = if is_met { "met" } else { "**missed**" };
        let measure = measure.title();
        Some(format!("| {asked} × `{}` ({measure}) | {} | {met} |", other.name(), spread.text(ratio)))
    }

    /// The tables of the rows that were run.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        for row in Row::ALL {
            let subjects: Vec<Subject> = {
                let mut subjects = row.subjects().to_vec();
                subjects.sort();
                subjects
                    .into_iter()
                    .filter(|subject| self.values.keys().any(|key| key.0 == row && key.1 == *subject))
                    .collect()
            };
            if subjects.is_empty() {
                continue;
            }
            let (measures, main) = (row.measures(), row.measures()[0]);
            let titles: Vec<&str> = measures.iter().map(|measure| measure.title()).collect();
            writeln!(text, "**{}** (`{}`)\n", row.title(), row.name()).unwrap();
            writeln!(text, "| what | | {} | {} of Longwire's |", titles.join(" | "), main.title()).unwrap();
            writeln!(text, "|---|---|{}---|", "---|".repeat(measures.len())).unwrap();
            for subject in subjects {
                write!(text, "| {} | `{}` |", subject.title(), subject.name()).unwrap();
                for measure in measures {
                    let spread = self.values(row, subject, *measure).map(Spread::of);
                    let cell =
                        spread.map_or_else(String::new, |spread| spread.text(|value| measure.text(value)));
                    write!(text, " {cell} |").unwrap();
                }
                let times = self.ratios(row, main, subject, Subject::Longwire);
                let times = times.filter(|_| subject != Subject::Longwire);
                writeln!(text, " {} |", times.map_or_else(String::new, |times| times.text(ratio))).unwrap();
            }
            text.push('\n');
            let goals: Vec<String> = row.goals().iter().filter_map(|goal| self.goal(row, *goal)).collect();
            if !goals.is_empty() {
                let goals = goals.join("\n");
                writeln!(text, "| asked of Longwire | it is | |\n|---|---|---|\n{goals}\n").unwrap();
            }
        }
        text
    }
}
