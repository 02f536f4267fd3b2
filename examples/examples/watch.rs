//! A reader that goes on where it stopped: it saves its position with what it did, and resumes from there.
//!
//! ```sh
//! cargo run -p longwire-examples --example watch -- acme/report/7 watch.position
//! ```
//! Stop it with Ctrl-C and start it again: every record is shown once.

use std::path::{Path, PathBuf};

use longwire::{Client, From, Position};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let id = arguments.next().unwrap_or_else(|| "demo/progress".to_owned());
    let file = PathBuf::from(arguments.next().unwrap_or_else(|| "watch.position".to_owned()));

    let client = Client::from_env()?;
    let from = match std::fs::read_to_string(&file) {
        Ok(text) => From::Position(text.trim().parse()?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => From::Start,
        Err(error) => return Err(error.into()),
    };
    let mut records = client.session(&id)?.subscribe(from).wait_for_session().await?;
    while let Some(next) = records.next().await {
        match next {
            Ok(record) => println!("{:>6}  {}", record.offset, record.text().unwrap_or("(data)")),
            // Something of what was asked for does not exist any more; what follows does.
            Err(error) if error.goes_on() => eprintln!("{error}"),
            Err(error) => return Err(error.into()),
        }
        if let Some(position) = records.position() {
            save(&file, position)?;
        }
    }
    println!("the session is closed");
    Ok(())
}

/// Replaces the file as a whole, so that a kill leaves the old position or the new one. A program with a database would
/// save the position in the transaction that does the work.
fn save(file: &Path, position: Position) -> std::io::Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, position.to_string())?;
    std::fs::rename(new, file)
}
