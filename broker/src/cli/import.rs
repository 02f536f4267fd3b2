//! `longwire import`: an exported session into a new one.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use longwire::{ImportBegin, SessionId};
use longwire_proto::limits::BATCH_RECORDS_MAX;
use longwire_proto::wire::Record;
use prost::Message;
use serde_json::json;
use xxhash_rust::xxh3::xxh3_64;

use crate::cli::Context;
use crate::cli::archive::Reader;
use crate::cli::connect;

/// Bytes of records sent at a time: far below what a step may have, marks of the import included.
const STEP_BYTES: usize = 1 << 20;

/// Makes a session of a file that `longwire export` wrote: all of it, or nothing.
///
/// Records keep their offsets; senders and times are marked as imported. An import that was interrupted goes on where it
/// was when it is repeated.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  longwire import build-42.jsonl --to acme/build/42")]
pub(crate) struct ImportArgs {
    /// The file
    file: PathBuf,
    /// The new session [default: the name that it was exported from]
    #[arg(long, value_name = "ID", value_parser = SessionId::parse)]
    to: Option<SessionId>,
}

/// Runs the command.
pub(crate) async fn run(args: ImportArgs, context: Context) -> anyhow::Result<ExitCode> {
    // The whole file is checked before anything is sent.
    let (head, name) = check(&args.file)?;
    let session = match args.to {
        Some(to) => to,
        None => SessionId::parse(&head.session)
            .context("the export does not say of which session it is; name one with --to")?,
    };
    let client = connect::client(&context)?;
    connect::reach(&client).await?;
    let import = client.import(&session, &name, head);
    let mut reader = open(&args.file)?;
    let mut from = reader.head().start;
    let (mut records, mut bytes, mut more): (Vec<Record>, usize, bool) = (Vec::new(), 0, true);
    let step = loop {
        match reader.next()? {
            Some((_, record)) => {
                bytes += record.encoded_len();
                records.push(record);
            }
            None => more = false,
        }
        if more && records.len() < BATCH_RECORDS_MAX && bytes < STEP_BYTES {
            continue;
        }
        let count = records.len() as u64;
        let step = import.step(from, std::mem::take(&mut records), !more).await?;
        (from, bytes) = (from + count, 0);
        if !more {
            break step;
        }
    };
    let mut out = std::io::stdout().lock();
    if context.json {
        writeln!(out, "{}", json!({ "session": session.as_str(), "end": step.next }))?;
    } else {
        writeln!(out, "{session} has the records up to offset {}", step.next)?;
    }
    drop(out);
    client.close().await?;
    Ok(ExitCode::SUCCESS)
}

fn open(file: &Path) -> anyhow::Result<Reader<BufReader<File>>> {
    let opened = File::open(file).with_context(|| format!("{} cannot be read", file.display()))?;
    Reader::open(BufReader::new(opened)).with_context(|| format!("{} cannot be imported", file.display()))
}

/// Reads the whole file. Answers its head, and a name for its import: the same file has the same.
fn check(file: &Path) -> anyhow::Result<(ImportBegin, String)> {
    let mut reader = open(file)?;
    let head = reader.head().clone();
    let mut sum = xxh3_64(&head.encode_to_vec());
    while let Some((offset, record)) =
        reader.next().with_context(|| format!("{} cannot be imported", file.display()))?
    {
        sum = sum.rotate_left(1) ^ xxh3_64(&record.encode_to_vec()).wrapping_add(offset);
    }
    Ok((head, format!("{sum:016x}")))
}
