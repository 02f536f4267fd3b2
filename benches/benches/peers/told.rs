//! What came of the rounds, as tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::row::{Goal, Measure, Row};
use super::subject::Subject;
use crate::common::quantile;

/// A value a round of everything that was measured.
#[derive(Default)]
pub(crate) struct Told(BTreeMap<(Row, Subject, Measure), Vec<f64>>);

/// The median of the rounds, and the lowest and the highest.
#[derive(Clone, Copy)]
struct Spread {
    median: f64,
    low: f64,
    high: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
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
    pub(crate) fn add(&mut self, row: Row, subject: Subject, values: &[(Measure, f64)]) {
        let texts: Vec<String> = values
            .iter()
            .map(|(measure, value)| format!("{} {}", measure.title(), measure.text(*value)))
            .collect();
        println!("{} {}: {}", row.name(), subject.name(), texts.join(", "));
        for (measure, value) in values {
            self.0.entry((row, subject, *measure)).or_default().push(*value);
        }
    }

    fn values(&self, row: Row, subject: Subject, measure: Measure) -> Option<&Vec<f64>> {
        self.0.get(&(row, subject, measure))
    }

    pub(crate) fn median(&self, row: Row, subject: Subject, measure: Measure) -> Option<f64> {
        Some(Spread::of(self.values(row, subject, measure)?).median)
    }

    /// What one is of the other, round by round: what else the machine did hit both.
    fn ratios(&self, row: Row, measure: Measure, one: Subject, other: Subject) -> Option<Spread> {
        let (one, other) = (self.values(row, one, measure)?, self.values(row, other, measure)?);
        let ratios: Vec<f64> = one.iter().zip(other).map(|(one, other)| one / other).collect();
        Some(Spread::of(&ratios))
    }

    fn goal(&self, row: Row, goal: Goal) -> Option<String> {
        let (measure, other) = match goal {
            Goal::AtLeast(measure, _, other)
            | Goal::AtMost(measure, _, other)
            | Goal::AtMostOr(measure, _, _, other) => (measure, other),
        };
        let spread = self.ratios(row, measure, Subject::Longwire, other)?;
        let (asked, is_met) = match goal {
            Goal::AtLeast(_, times, _) => (format!("≥ {times}"), spread.median >= times),
            Goal::AtMost(_, times, _) => (format!("≤ {times}"), spread.median <= times),
            Goal::AtMostOr(_, value, times, _) => {
                let own = self.median(row, Subject::Longwire, measure)?;
                let asked = format!("≤ {times}, or ≤ {}", measure.text(value));
                (asked, own <= value || spread.median <= times)
            }
        };
        let met = if is_met { "met" } else { "**missed**" };
        let measure = measure.title();
        Some(format!("{asked} × `{}` ({measure}): {} {met}", other.name(), spread.text(ratio)))
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
                    .filter(|subject| self.0.keys().any(|key| key.0 == row && key.1 == *subject))
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
                    let spread = self.values(row, subject, *measure).map(|values| Spread::of(values));
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
                writeln!(text, "Asked for: {}.\n", goals.join("; ")).unwrap();
            }
        }
        text
    }
}
