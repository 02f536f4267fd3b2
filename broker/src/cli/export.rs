//! `longwire export`: a session into a file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use longwire::{ImportBegin, Position, SessionId};
use longwire_proto::wire;

use crate::cli::Context;
use crate::cli::archive::{Form, Writer};
use crate::cli::connect;

/// Records asked for at a time.
const PAGE_RECORDS: u32 = 1000;

/// Writes a session into a file, which `longwire import` makes a session of again, here or on another broker.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  longwire export acme/build/42 --output build-42.jsonl")]
pub(crate) struct ExportArgs {
    /// The session
    #[arg(value_parser = SessionId::parse)]
    id: SessionId,
    /// The file [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// How it is written
    #[arg(long, value_enum, default_value = "jsonl")]
    format: Form,
}

/// Runs the command.
pub(crate) async fn run(args: ExportArgs, context: Context) -> anyhow::Result<ExitCode> {
    let client = connect::client(&context)?;
    connect::reach(&client).await?;
    let session = client.session(args.id.as_str())?;
    let info = session.describe().await?;
    let entry = |entry: &longwire::LineageEntry| wire::LineageEntry {
        epoch: entry.epoch,
        from_offset: entry.from_offset,
    };
    let meta = wire::SessionMeta {
        title: info.meta.title.clone(),
        labels: info.meta.labels.clone(),
        parent: info.meta.parent.clone(),
        retention: info.meta.retention.to_wire(),
        expiry: info.meta.expiry.to_wire(),
    };
    let head = ImportBegin {
        start: info.start,
        end: info.end,
        lineage: info.lineage.iter().map(entry).collect(),
        meta: Some(meta),
        session: info.session.clone(),
        closed: info.closed,
    };
    let out: Box<dyn Write + Send> = match &args.output {
        Some(path) => Box::new(
            File::create_new(path)
                .map_err(|error| anyhow::anyhow!("{} cannot be written: {error}", path.display()))?,
        ),
        None => Box::new(std::io::stdout()),
    };
    let mut writer = Writer::new(BufWriter::new(out), args.format, &head)?;
    let mut next = info.start;
    while next < info.end {
        // A position is of the epoch that its offset belongs to.
        let begun = info.lineage.iter().rfind(|entry| entry.from_offset <= next);
        let at = Position { epoch: begun.map_or(info.epoch, |entry| entry.epoch), offset: next };
        let page = session.read().after(at).limit(PAGE_RECORDS).as_sent().await?;
        anyhow::ensure!(
            page.from == next && page.next > next,
            "records from offset {next} on were trimmed meanwhile"
        );
        for (offset, record) in (page.from..page.next.min(info.end)).zip(page.records) {
            writer.record(offset, record)?;
        }
        next = page.next.min(info.end);
    }
    let records = writer.finish()?;
    if args.output.is_some() && !context.json {
        eprintln!("{records} records of {}, offsets {} to {}", info.session, info.start, info.end);
    }
    client.close().await?;
    Ok(ExitCode::SUCCESS)
}
