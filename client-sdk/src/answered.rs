//! How an ask ended.

use std::collections::BTreeMap;

use longwire_proto::resolution::AskOutcome;
use longwire_proto::wire;
use longwire_proto::wire::value::Value;

/// How an ask ended. Only an answer grants anything: `denied`, `expired` and `cancelled` do not.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// What it came to.
    pub outcome: AskOutcome,
    /// Whose answer it is.
    pub by: String,
    /// The offset of the answer in the session.
    pub offset: u64,
    /// When, in Unix milliseconds.
    pub time_ms: u64,
    /// The id of the option that was chosen; empty when there was a form, or no answer.
    pub option: String,
    /// The fields that were filled in.
    pub values: BTreeMap<String, Value>,
    /// What was said with it, for humans.
    pub note: String,
}

impl Answered {
    /// Whether it was answered with this option.
    ///
    /// ```
    /// # fn deploy() {}
    /// # fn example(answer: longwire::Answered) {
    /// if answer.is("yes") {
    ///     deploy();
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn is(&self, option: &str) -> bool {
        self.outcome == AskOutcome::Answered && self.option == option
    }

    /// The text of a field.
    #[must_use]
    pub fn text(&self, field: &str) -> Option<&str> {
        match self.values.get(field)? {
            Value::String(text) => Some(text),
            Value::Number(_) | Value::Boolean(_) => None,
        }
    }

    /// The number of a field.
    #[must_use]
    pub fn number(&self, field: &str) -> Option<f64> {
        match self.values.get(field)? {
            Value::Number(number) => Some(*number),
            Value::String(_) | Value::Boolean(_) => None,
        }
    }

    /// The yes or no of a field.
    #[must_use]
    pub fn flag(&self, field: &str) -> Option<bool> {
        match self.values.get(field)? {
            Value::Boolean(flag) => Some(*flag),
            Value::String(_) | Value::Number(_) => None,
        }
    }

    /// `None` for an outcome that this SDK does not know.
    pub(crate) fn of(resolution: wire::Resolution) -> Option<Self> {
        let outcome = AskOutcome::parse(&resolution.outcome)?;
        let wire::Answer { outcome: _, option, values, note } = resolution.answer.unwrap_or_default();
        let values = values.into_iter().filter_map(|(name, value)| Some((name, value.value?))).collect();
        let wire::Resolution { by, offset, time_ms, .. } = resolution;
        Some(Self { outcome, by, offset, time_ms, option, values, note })
    }
}
