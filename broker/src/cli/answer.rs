//! `longwire answer`: shows what is asked, and answers.

use std::io::Write;
use std::process::ExitCode;

use longwire::{FieldValue, OpenAsk, PublishError, Session, SessionId};
use serde_json::json;

use crate::cli::clock_text::date_time;
use crate::cli::connect;
use crate::cli::escape::escape;
use crate::cli::publish::parse_pair;
use crate::cli::{Context, EXIT_FAILURE, Usage};

/// Shows what is asked in a session, or answers it.
///
/// The first answer that is valid wins. Later ones are told whose it was, and exit with 1.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  longwire answer acme/build/42\n  longwire answer acme/build/42 deploy-42 yes\n  \
    longwire answer acme/build/42 where-to --value region=eu --value count=3\n  longwire answer acme/build/42 deploy-42 --deny"
)]
pub(crate) struct AnswerArgs {
    /// The session
    #[arg(value_parser = SessionId::parse)]
    session: SessionId,
    /// The id of what is asked; without one, what is asked is shown
    ask: Option<String>,
    /// The option that is chosen
    #[arg(requires = "ask", conflicts_with_all = ["values", "deny", "cancel"])]
    option: Option<String>,
    /// A field of the form; may be repeated
    #[arg(long = "value", value_name = "NAME=VALUE", value_parser = parse_pair, requires = "ask")]
    values: Vec<(String, String)>,
    /// Decline to answer
    #[arg(long, requires = "ask", conflicts_with_all = ["values", "cancel"])]
    deny: bool,
    /// Say that it is not asked any more, as who asked or who manages the session
    #[arg(long, requires = "ask", conflicts_with = "values")]
    cancel: bool,
    /// For humans, kept with the answer
    #[arg(long, default_value = "")]
    note: String,
}

/// Runs the command.
pub(crate) async fn run(args: AnswerArgs, context: Context) -> anyhow::Result<ExitCode> {
    let client = connect::client(&context)?;
    connect::reach(&client).await?;
    let session = client.session(args.session.as_str())?;
    let code = match &args.ask {
        None => {
            show(&session, context.json).await?;
            ExitCode::SUCCESS
        }
        Some(ask) => answer(&args, ask, &session).await?,
    };
    client.shutdown().await?;
    Ok(code)
}

async fn show(session: &Session, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let asks = session.describe().await?.asks;
    if asks.is_empty() && !json {
        eprintln!("longwire: nothing is asked in {}", session.id());
    }
    for open in asks {
        if json {
            writeln!(out, "{}", json!(open))?;
        } else {
            out.write_all(text(&open).as_bytes())?;
        }
    }
    Ok(())
}

/// An ask as people read it. What others wrote cannot move the cursor.
fn text(open: &OpenAsk) -> String {
    let ask = open.ask.clone().unwrap_or_default();
    let mut text = format!("{}  {}  {}\n", escape(&open.id), date_time(open.time_ms), escape(&ask.title));
    for (name, value) in [("about", &ask.subject), ("risk", &ask.risk), ("", &ask.description)] {
        for line in value.lines() {
            text.push_str(&format!("    {name:6}{}\n", escape(line)));
        }
    }
    let to: Vec<_> = open.to.iter().chain(&ask.roles).map(|name| escape(name).into_owned()).collect();
    if !to.is_empty() {
        text.push_str(&format!("    asked of {}\n", to.join(", ")));
    }
    for option in &ask.options {
        text.push_str(&format!("    {}  {}\n", option.id, escape(&option.label)));
    }
    for field in &ask.fields {
        let required = if field.required { ", required" } else { "" };
        let values: Vec<_> = field.values.iter().map(|value| value.id.as_str()).collect();
        let values = if values.is_empty() { String::new() } else { format!(": {}", values.join(", ")) };
        let title = escape(&field.title);
        text.push_str(&format!(
            "    --value {}=…  {title} ({}{values}{required})\n",
            field.name, field.r#type
        ));
    }
    if ask.expires_at_ms > 0 {
        text.push_str(&format!("    expires {}\n", date_time(ask.expires_at_ms)));
    }
    text
}

async fn answer(args: &AnswerArgs, ask: &str, session: &Session) -> anyhow::Result<ExitCode> {
    let mut reply = session.answer(ask).note(&args.note);
    if args.deny {
        reply = reply.deny();
    } else if args.cancel {
        reply = reply.cancel();
    } else if let Some(option) = &args.option {
        reply = reply.option(option);
    } else if args.values.is_empty() {
        let message = format!(
            "what is the answer? Name an option, --value, --deny or --cancel; `longwire answer {}` shows them",
            args.session
        );
        return Err(Usage(message).into());
    } else {
        let open = session.describe().await?.asks.into_iter().find(|open| open.id == ask);
        let fields = open.and_then(|open| open.ask).map(|ask| ask.fields).unwrap_or_default();
        for (name, value) in &args.values {
            let of = fields.iter().find(|field| field.name == *name).map_or("string", |field| &field.r#type);
            reply = reply.value(name, typed(name, of, value)?);
        }
    }
    match reply.await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(PublishError::Refused(refusal)) if refusal.resolved.is_some() => {
            if let Some(resolved) = &refusal.resolved {
                let option =
                    if resolved.option.is_empty() { String::new() } else { format!(": {}", resolved.option) };
                eprintln!(
                    "longwire: it was {} by {} before{}",
                    resolved.outcome,
                    escape(&resolved.by),
                    escape(&option)
                );
            }
            Ok(ExitCode::from(EXIT_FAILURE))
        }
        Err(error) => Err(error.into()),
    }
}

/// What a field is filled in with, as its type has it.
fn typed(name: &str, of: &str, value: &str) -> Result<FieldValue, Usage> {
    let wrong = || Usage(format!("`{name}` takes a {of}, not `{value}`"));
    match of {
        "number" | "integer" => value.parse::<f64>().map(FieldValue::from).map_err(|_| wrong()),
        "boolean" => value.parse::<bool>().map(FieldValue::from).map_err(|_| wrong()),
        _ => Ok(FieldValue::from(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_of_the_type_of_their_field() {
        assert_eq!(typed("n", "integer", "3").unwrap(), FieldValue::from(3.0));
        assert_eq!(typed("f", "boolean", "true").unwrap(), FieldValue::from(true));
        assert_eq!(typed("s", "string", "3").unwrap(), FieldValue::from("3"));
        assert!(typed("n", "number", "three").is_err() && typed("f", "boolean", "yes").is_err());
    }
}
