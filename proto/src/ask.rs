//! An ask, what it may be, and which answers it takes. Pure: of the two alone.

use std::collections::BTreeSet;

use prost::Message;

use crate::error::{Error, ErrorCode};
use crate::limits::{
    ANSWER_BYTES_MAX, ASK_BYTES_MAX, FORM_FIELDS_MAX, OPTIONS_MAX, PRINCIPAL_BYTES_MAX, ROLES_MAX,
    TITLE_BYTES_MAX,
};
use crate::resolution::AskOutcome;
use crate::short_id::{check_short_id, is_short_id};
use crate::wire;
use crate::wire::value::Value;

/// The risks that an ask can name.
pub const RISKS: [&str; 4] = ["", "low", "medium", "high"];
/// The types of the fields of a form.
pub const FIELD_TYPES: [&str; 5] = ["string", "number", "integer", "boolean", "enum"];

/// What is asked, as its record has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ask(wire::Ask);

/// An answer, as its record has it, or another end of an ask.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer(wire::Answer);

impl Ask {
    /// An ask from the wire.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidAsk`] names the first field that is not allowed, and the rule.
    pub fn from_wire(ask: wire::Ask) -> Result<Self, Error> {
        check(&ask)?;
        Ok(Self(ask))
    }

    /// The ask as the wire carries it.
    #[must_use]
    pub fn to_wire(&self) -> wire::Ask {
        self.0.clone()
    }

    /// Roles of which whoever has one may answer.
    #[must_use]
    pub fn roles(&self) -> &[String] {
        &self.0.roles
    }

    /// When it expires, in Unix milliseconds.
    #[must_use]
    pub fn expires_at_ms(&self) -> Option<u64> {
        Some(self.0.expires_at_ms).filter(|at_ms| *at_ms > 0)
    }

    /// Whether it takes an answer.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidAnswer`] names the field, and what the ask takes.
    pub fn check_takes(&self, answer: &Answer) -> Result<(), Error> {
        check_fits(&self.0, &answer.0)
    }

    /// Bytes that it has when it is encoded.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.encoded_len()
    }

    /// The ask as bytes of a row.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.0.encode_to_vec()
    }

    /// The ask of such bytes; `None` when they are none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        wire::Ask::decode(bytes).ok().map(Self)
    }
}

impl Answer {
    /// An answer from the wire, and which end of the ask it is.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidAnswer`].
    pub fn from_wire(answer: wire::Answer) -> Result<(Self, AskOutcome), Error> {
        let outcome = check_answer(&answer)?;
        Ok((Self(answer), outcome))
    }

    /// The answer as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.0.encode_to_vec()
    }
}

fn invalid(field: &'static str, message: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidAsk, message).field(field)
}

fn too_many(field: &'static str, found: usize, limit: usize) -> Result<(), Error> {
    if found <= limit {
        return Ok(());
    }
    Err(invalid(field, format!("the ask has {found} of `{field}`; at most {limit} are allowed")).limit(limit))
}

/// Checks an ask as it was sent.
///
/// # Errors
/// [`ErrorCode::InvalidAsk`] names the first field that is not allowed, and the rule.
fn check(ask: &wire::Ask) -> Result<(), Error> {
    let bytes = ask.encoded_len();
    if bytes > ASK_BYTES_MAX {
        let message = format!(
            "the ask has {bytes} bytes; at most {ASK_BYTES_MAX} are allowed: put what is long into a message before it"
        );
        return Err(invalid("ask", message).limit(ASK_BYTES_MAX));
    }
    if ask.title.trim().is_empty() || ask.title.len() > TITLE_BYTES_MAX {
        let message =
            format!("an ask has a `title` of 1 to {TITLE_BYTES_MAX} bytes, which says what is asked");
        return Err(invalid("title", message).limit(TITLE_BYTES_MAX));
    }
    if !RISKS.contains(&ask.risk.as_str()) {
        return Err(invalid(
            "risk",
            format!("`risk` is `low`, `medium` or `high`, not `{}`", short(&ask.risk)),
        ));
    }
    too_many("roles", ask.roles.len(), ROLES_MAX)?;
    if let Some(role) = ask.roles.iter().find(|role| role.is_empty() || role.len() > PRINCIPAL_BYTES_MAX) {
        let message = format!("a role has 1 to {PRINCIPAL_BYTES_MAX} bytes, not {}", role.len());
        return Err(invalid("roles", message).limit(PRINCIPAL_BYTES_MAX));
    }
    match (ask.options.is_empty(), ask.fields.is_empty()) {
        (false, true) => options("options", &ask.options),
        (true, false) => form(&ask.fields),
        (true, true) => Err(invalid("options", "an ask has `options` to choose from or `fields` to fill in")),
        (false, false) => Err(invalid("fields", "an ask has either `options` or `fields`, not both")),
    }
}

fn options(field: &'static str, options: &[wire::AskOption]) -> Result<(), Error> {
    too_many(field, options.len(), OPTIONS_MAX)?;
    let mut seen = BTreeSet::new();
    for option in options {
        check_short_id(ErrorCode::InvalidAsk, field, option.id.as_bytes())?;
        if option.label.len() > TITLE_BYTES_MAX {
            let message = format!(
                "the label of `{}` has {} bytes; at most {TITLE_BYTES_MAX} are allowed",
                option.id,
                option.label.len()
            );
            return Err(invalid(field, message).limit(TITLE_BYTES_MAX));
        }
        if !seen.insert(&option.id) {
            return Err(invalid(field, format!("`{}` is there twice", option.id)));
        }
    }
    Ok(())
}

fn form(fields: &[wire::FormField]) -> Result<(), Error> {
    too_many("fields", fields.len(), FORM_FIELDS_MAX)?;
    let mut seen = BTreeSet::new();
    for field in fields {
        let name = &field.name;
        check_short_id(ErrorCode::InvalidAsk, "fields", name.as_bytes())?;
        if !seen.insert(name) {
            return Err(invalid("fields", format!("the field `{name}` is there twice")));
        }
        if !FIELD_TYPES.contains(&field.r#type.as_str()) {
            let message = format!(
                "the field `{name}` is of type `{}`; it can be {}",
                short(&field.r#type),
                FIELD_TYPES.join(", ")
            );
            return Err(invalid("fields", message));
        }
        let is_number = matches!(field.r#type.as_str(), "number" | "integer");
        if (field.minimum.is_some() || field.maximum.is_some()) && !is_number {
            return Err(invalid(
                "fields",
                format!("the field `{name}` is no number, so it has no `minimum` and no `maximum`"),
            ));
        }
        if field.minimum.iter().chain(&field.maximum).any(|bound| !bound.is_finite())
            || matches!((field.minimum, field.maximum), (Some(minimum), Some(maximum)) if minimum > maximum)
        {
            return Err(invalid(
                "fields",
                format!("no number is between the `minimum` and the `maximum` of the field `{name}`"),
            ));
        }
        if (field.length_min.is_some() || field.length_max.is_some()) && field.r#type != "string" {
            return Err(invalid("fields", format!("the field `{name}` is no string, so it has no length")));
        }
        if matches!((field.length_min, field.length_max), (Some(minimum), Some(maximum)) if minimum > maximum)
        {
            return Err(invalid("fields", format!("no string is as long as the field `{name}` asks")));
        }
        match (field.r#type.as_str(), field.values.is_empty()) {
            ("enum", true) => {
                return Err(invalid("fields", format!("the field `{name}` is an enum and has no `values`")));
            }
            ("enum", false) => options("fields", &field.values)?,
            (_, false) => {
                return Err(invalid(
                    "fields",
                    format!("the field `{name}` is no enum, so it has no `values`"),
                ));
            }
            (_, true) => {}
        }
    }
    Ok(())
}

/// Checks an answer as it was sent, whatever its ask is.
///
/// # Errors
/// [`ErrorCode::InvalidAnswer`].
fn check_answer(answer: &wire::Answer) -> Result<AskOutcome, Error> {
    let refuse = |field, message: String| Err(Error::new(ErrorCode::InvalidAnswer, message).field(field));
    let bytes = answer.encoded_len();
    if bytes > ANSWER_BYTES_MAX {
        let message = format!("the answer has {bytes} bytes; at most {ANSWER_BYTES_MAX} are allowed");
        return Err(Error::new(ErrorCode::InvalidAnswer, message).field("answer").limit(ANSWER_BYTES_MAX));
    }
    let Some(outcome) = AskOutcome::of(answer).filter(|_| answer.outcome != AskOutcome::Answered.as_str())
    else {
        let message = format!(
            "`outcome` is empty for an answer, or `denied` or `cancelled`, not `{}`",
            short(&answer.outcome)
        );
        return refuse("outcome", message);
    };
    if outcome != AskOutcome::Answered && !(answer.option.is_empty() && answer.values.is_empty()) {
        return refuse("outcome", format!("what is {outcome} has neither an `option` nor `values`"));
    }
    Ok(outcome)
}

/// Whether an ask takes an answer.
///
/// # Errors
/// [`ErrorCode::InvalidAnswer`] names the field, and what the ask takes.
fn check_fits(ask: &wire::Ask, answer: &wire::Answer) -> Result<(), Error> {
    let refuse = |field, message: String| Err(Error::new(ErrorCode::InvalidAnswer, message).field(field));
    if ask.fields.is_empty() {
        if !answer.values.is_empty() {
            return refuse("values", "the ask has options and no form: answer with one `option`".to_owned());
        }
        if !ask.options.iter().any(|option| option.id == answer.option) {
            let known: Vec<_> = ask.options.iter().map(|option| option.id.as_str()).collect();
            let message = format!("`{}` is none of the options: {}", short(&answer.option), known.join(", "));
            return refuse("option", message);
        }
        return Ok(());
    }
    if !answer.option.is_empty() {
        return refuse("option", "the ask has a form and no options: answer with `values`".to_owned());
    }
    if let Some(name) = answer.values.keys().find(|name| !ask.fields.iter().any(|field| field.name == **name))
    {
        return refuse("values", format!("the form has no field `{}`", short(name)));
    }
    for field in &ask.fields {
        match answer.values.get(&field.name).and_then(|value| value.value.as_ref()) {
            None if field.required => {
                return refuse("values", format!("the field `{}` must be filled in", field.name));
            }
            None => {}
            Some(value) => {
                if let Some(rule) = violation(field, value) {
                    return refuse("values", format!("the field `{}` {rule}", field.name));
                }
            }
        }
    }
    Ok(())
}

/// The rule of a field that a value does not keep.
fn violation(field: &wire::FormField, value: &Value) -> Option<String> {
    match (field.r#type.as_str(), value) {
        ("string", Value::String(text)) => {
            let length = u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
            let (minimum, maximum) = (field.length_min.unwrap_or(0), field.length_max.unwrap_or(u32::MAX));
            (!(minimum..=maximum).contains(&length))
                .then(|| format!("takes {minimum} to {maximum} characters, not {length}"))
        }
        ("number" | "integer", Value::Number(number)) => {
            if !number.is_finite() || (field.r#type == "integer" && number.fract() != 0.0) {
                return Some(format!(
                    "takes a{}",
                    if field.r#type == "integer" { "n integer" } else { " number" }
                ));
            }
            if field.minimum.is_some_and(|minimum| *number < minimum) {
                return field.minimum.map(|minimum| format!("takes {minimum} or more, not {number}"));
            }
            field
                .maximum
                .filter(|maximum| number > maximum)
                .map(|maximum| format!("takes {maximum} or less, not {number}"))
        }
        ("boolean", Value::Boolean(_)) => None,
        ("enum", Value::String(text)) => {
            let known: Vec<_> = field.values.iter().map(|value| value.id.as_str()).collect();
            (!known.contains(&text.as_str())).then(|| format!("takes one of {}", known.join(", ")))
        }
        ("enum", _) => Some("takes one of its values, as a string".to_owned()),
        (of, _) => Some(format!("takes a {of}")),
    }
}

/// What a client sent, short enough for a message and without what a terminal would obey.
fn short(text: &str) -> String {
    const CHARS_MAX: usize = 64;
    if is_short_id(text.as_bytes()) {
        return text.to_owned();
    }
    text.chars().take(CHARS_MAX).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(ids: &[&str]) -> Vec<wire::AskOption> {
        ids.iter().map(|id| wire::AskOption { id: (*id).into(), label: String::new() }).collect()
    }

    fn question() -> wire::Ask {
        wire::Ask { title: "Deploy?".into(), options: choice(&["yes", "no"]), ..Default::default() }
    }

    fn field(name: &str, of: &str) -> wire::FormField {
        wire::FormField { name: name.into(), r#type: of.into(), ..Default::default() }
    }

    fn with_form(fields: Vec<wire::FormField>) -> wire::Ask {
        wire::Ask { title: "Where to?".into(), fields, ..Default::default() }
    }

    #[test]
    fn an_ask_that_cannot_be_answered_is_refused_with_what_is_wrong() {
        check(&question()).unwrap();
        let form = with_form(vec![field("count", "integer"), field("why", "string")]);
        check(&form).unwrap();
        let wrong = [
            ("title", wire::Ask { title: " ".into(), ..question() }),
            ("title", wire::Ask { title: "x".repeat(513), ..question() }),
            ("risk", wire::Ask { risk: "huge".into(), ..question() }),
            ("roles", wire::Ask { roles: vec![String::new()], ..question() }),
            ("roles", wire::Ask { roles: vec!["r".into(); 17], ..question() }),
            ("options", wire::Ask { options: vec![], ..question() }),
            ("options", wire::Ask { options: choice(&["yes", "yes"]), ..question() }),
            ("options", wire::Ask { options: choice(&["not an id"]), ..question() }),
            ("options", wire::Ask { options: choice(&["a"; 65]), ..question() }),
            ("fields", wire::Ask { fields: form.fields.clone(), ..question() }),
            ("fields", with_form(vec![field("a", "date")])),
            ("fields", with_form(vec![field("a", "string"), field("a", "number")])),
            ("fields", with_form(vec![field("a", "enum")])),
            ("fields", with_form(vec![wire::FormField { values: choice(&["x"]), ..field("a", "string") }])),
            (
                "fields",
                with_form(vec![wire::FormField {
                    minimum: Some(2.0),
                    maximum: Some(1.0),
                    ..field("a", "number")
                }]),
            ),
            ("fields", with_form(vec![wire::FormField { minimum: Some(f64::NAN), ..field("a", "number") }])),
            ("fields", with_form(vec![wire::FormField { minimum: Some(1.0), ..field("a", "string") }])),
            (
                "fields",
                with_form(vec![wire::FormField {
                    length_min: Some(2),
                    length_max: Some(1),
                    ..field("a", "string")
                }]),
            ),
            ("fields", with_form(vec![wire::FormField { length_min: Some(2), ..field("a", "boolean") }])),
            ("fields", with_form((0..33).map(|n| field(&format!("f{n}"), "string")).collect())),
            ("ask", wire::Ask { description: "x".repeat(33 << 10), ..question() }),
        ];
        for (name, ask) in wrong {
            let error = check(&ask).unwrap_err();
            assert_eq!((error.code, error.field), (ErrorCode::InvalidAsk, name), "{error}");
        }
    }

    #[test]
    fn an_answer_is_one_that_the_ask_takes() {
        let option = |option: &str| wire::Answer { option: option.into(), ..Default::default() };
        check_fits(&question(), &option("yes")).unwrap();
        assert_eq!(check_fits(&question(), &option("maybe")).unwrap_err().field, "option");
        assert_eq!(check_fits(&question(), &option("")).unwrap_err().field, "option");

        let form = with_form(vec![
            wire::FormField {
                required: true,
                minimum: Some(1.0),
                maximum: Some(3.0),
                ..field("count", "integer")
            },
            wire::FormField { length_min: Some(2), length_max: Some(4), ..field("name", "string") },
            wire::FormField { values: choice(&["eu", "us"]), ..field("region", "enum") },
            field("force", "boolean"),
        ]);
        check(&form).unwrap();
        let values = |values: &[(&str, Value)]| {
            let value = |value: &Value| wire::Value { value: Some(value.clone()) };
            let values = values.iter().map(|(name, it)| ((*name).to_owned(), value(it))).collect();
            wire::Answer { values, ..Default::default() }
        };
        let number = Value::Number;
        let text = |text: &str| Value::String(text.into());
        check_fits(&form, &values(&[("count", number(2.0))])).unwrap();
        let whole = [
            ("count", number(3.0)),
            ("name", text("äöüß")),
            ("region", text("eu")),
            ("force", Value::Boolean(true)),
        ];
        check_fits(&form, &values(&whole)).unwrap();
        let wrong: [&[(&str, Value)]; 10] = [
            &[],
            &[("count", number(0.0))],
            &[("count", number(4.0))],
            &[("count", number(1.5))],
            &[("count", number(f64::INFINITY))],
            &[("count", text("2"))],
            &[("count", number(2.0)), ("name", text("x"))],
            &[("count", number(2.0)), ("region", text("mars"))],
            &[("count", number(2.0)), ("force", text("true"))],
            &[("count", number(2.0)), ("other", text("x"))],
        ];
        for wrong in wrong {
            let error = check_fits(&form, &values(wrong)).unwrap_err();
            assert_eq!((error.code, error.field), (ErrorCode::InvalidAnswer, "values"), "{wrong:?}");
        }
        assert_eq!(check_fits(&form, &option("yes")).unwrap_err().field, "option");
        assert_eq!(check_fits(&question(), &values(&whole)).unwrap_err().field, "values");
    }

    #[test]
    fn the_outcomes_of_an_answer_are_distinct() {
        let answer = |outcome: &str| wire::Answer { outcome: outcome.into(), ..Default::default() };
        assert_eq!(check_answer(&answer("")).unwrap(), AskOutcome::Answered);
        assert_eq!(check_answer(&answer("denied")).unwrap(), AskOutcome::Denied);
        assert_eq!(check_answer(&answer("cancelled")).unwrap(), AskOutcome::Cancelled);
        for wrong in ["answered", "yes", "DENIED"] {
            assert_eq!(check_answer(&answer(wrong)).unwrap_err().field, "outcome");
        }
        let both = wire::Answer { option: "yes".into(), ..answer("denied") };
        assert_eq!(check_answer(&both).unwrap_err().field, "outcome");
    }
}
