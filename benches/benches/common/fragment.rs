//! What a bench has to say in docs/performance.md.

use std::fmt::Write as _;
use std::path::Path;

use crate::common::quantile;

/// A part of that page, as Markdown. Written when it is finished.
pub(crate) struct Fragment {
    name: &'static str,
    text: String,
}

impl Fragment {
    /// The part between the markers of this name.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, text: String::new() }
    }

    /// A line, which is told at once too.
    pub(crate) fn line(&mut self, line: &str) {
        println!("{line}");
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// The head of a table.
    pub(crate) fn head(&mut self, columns: &[&str]) {
        self.row(columns);
        self.row(&vec!["---"; columns.len()]);
    }

    /// A row of a table.
    pub(crate) fn row(&mut self, cells: &[&str]) {
        let mut line = String::from("|");
        for cell in cells {
            write!(line, " {cell} |").unwrap();
        }
        self.line(&line);
    }

    /// Puts it where `scripts/performance` finds it.
    pub(crate) fn finish(self) {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("performance");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{}.md", self.name)), self.text).unwrap();
    }
}

/// Whether what was asked for was reached.
pub(crate) fn met(met: bool) -> &'static str {
    if met { "yes" } else { "**no**" }
}

/// Values of rounds: the median, and between which they are.
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { low: values[0], median: quantile(&values, 0.5), high: values[values.len() - 1] }
    }

    /// With so many digits after the point.
    pub(crate) fn text(&self, digits: usize) -> String {
        format!("{:.digits$} ({:.digits$} to {:.digits$})", self.median, self.low, self.high)
    }
}
