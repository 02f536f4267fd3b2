//! `longwire pub`: publishes text or the lines of stdin.

use std::collections::VecDeque;
use std::process::ExitCode;

use longwire::{Acknowledgement, Client, Position, Publication, Session, SessionId};
use tokio::io::AsyncReadExt;

use crate::cli::Context;
use crate::cli::batch::Batch;
use crate::cli::connect;
use crate::cli::lines::{LINE_BYTES_MAX, Line, LineSplitter};
use crate::cli::run::{PARTIAL_HEADER, TRUE};

/// Batches whose acknowledgement is awaited later: enough to fill a slow connection.
const BATCHES_UNDER_WAY_MAX: usize = 16;
/// Bytes of stdin read at a time.
const READ_BYTES: usize = 64 << 10;

/// Publishes a text, or each line of stdin, to a session.
///
/// The session is created when it does not exist. When the command ends well, everything is on the broker's disk.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  longwire pub acme/notes \"anybody there?\"\n  \
    generate | longwire pub acme/data --type sample --content-type application/json")]
pub(crate) struct PublishArgs {
    /// The session
    #[arg(value_parser = SessionId::parse)]
    id: SessionId,
    /// What to publish, as one record; `-` or nothing for each line of stdin
    text: Option<String>,
    /// Media type of the body
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// What the record means to the application
    #[arg(long = "type", value_name = "TYPE")]
    record_type: Option<String>,
    /// A header; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_pair)]
    headers: Vec<(String, String)>,
}

/// Parses `name=value`.
pub(crate) fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it must be NAME=VALUE")?;
    if name.is_empty() {
        return Err("the name before `=` is empty".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

impl PublishArgs {
    fn publication(&self, body: Vec<u8>) -> Publication {
        let mut publication = Publication::bytes(self.content_type.clone().unwrap_or_default(), body);
        if let Some(record_type) = &self.record_type {
            publication = publication.record_type(record_type);
        }
        for (name, value) in &self.headers {
            publication = publication.header(name, value);
        }
        publication
    }
}

/// Runs the command.
pub(crate) async fn run(args: PublishArgs, context: Context) -> anyhow::Result<ExitCode> {
    let client = connect::client(&context)?;
    connect::reach(&client).await?;
    let session = client.session(args.id.as_str())?;
    let mut publisher = Publisher { session, json: context.json, under_way: VecDeque::new() };
    match args.text.as_deref() {
        Some(text) if text != "-" => {
            let mut batch = Batch::default();
            batch.push(args.publication(text.as_bytes().to_vec()));
            publisher.publish(&mut batch).await?;
        }
        _ => publish_stdin(&args, &mut publisher).await?,
    }
    publisher.settle(0).await?;
    end(&client).await
}

async fn end(client: &Client) -> anyhow::Result<ExitCode> {
    client.shutdown().await?;
    Ok(ExitCode::SUCCESS)
}

async fn publish_stdin(args: &PublishArgs, publisher: &mut Publisher) -> anyhow::Result<()> {
    let mut stdin = tokio::io::stdin();
    let mut splitter = LineSplitter::new(LINE_BYTES_MAX);
    let mut buffer = vec![0; READ_BYTES];
    let mut batch = Batch::default();
    loop {
        let length = stdin.read(&mut buffer).await?;
        let mut lines = Vec::new();
        splitter.push(&buffer[..length], |line| lines.push(line));
        if length == 0 {
            // That the last line has no newline is how many programs end, and no news to a reader.
            lines.extend(splitter.finish().map(|line| Line { partial: false, ..line }));
        }
        for line in lines {
            let mut publication = args.publication(line.bytes);
            if line.partial {
                publication = publication.header(PARTIAL_HEADER, TRUE);
            }
            batch.push(publication);
            if batch.is_full() {
                publisher.publish(&mut batch).await?;
            }
        }
        publisher.publish(&mut batch).await?;
        if length == 0 {
            return Ok(());
        }
    }
}

struct Publisher {
    session: Session,
    json: bool,
    under_way: VecDeque<Acknowledgement>,
}

impl Publisher {
    async fn publish(&mut self, batch: &mut Batch) -> anyhow::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        self.under_way.push_back(self.session.enqueue_all(batch.take()).await?);
        self.settle(BATCHES_UNDER_WAY_MAX).await
    }

    /// Waits until at most so many batches are under way.
    async fn settle(&mut self, left: usize) -> anyhow::Result<()> {
        while self.under_way.len() > left {
            let Some(acknowledgement) = self.under_way.pop_front() else { break };
            let published = acknowledgement.await?;
            if self.json {
                use std::io::Write;
                let mut out = std::io::stdout().lock();
                for offset in published.from.offset..published.next.offset {
                    let position = Position { epoch: published.from.epoch, offset };
                    let session = self.session.id().as_str();
                    let value = serde_json::json!({
                        "session": session, "position": position.to_string(), "offset": offset,
                    });
                    writeln!(out, "{value}")?;
                }
            }
        }
        Ok(())
    }
}
