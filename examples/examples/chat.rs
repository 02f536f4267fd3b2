//! Several people (or agents) in one session, each in a terminal.
//!
//! ```sh
//! cargo run -p longwire-examples --example chat -- ada
//! cargo run -p longwire-examples --example chat -- grace      # in another terminal
//! ```
//! Whoever joins later sees the last ten messages; whoever was cut off misses nothing.

use longwire::{Client, From, Publication, Record};
use tokio::io::{AsyncBufReadExt, BufReader};

/// Says who wrote a message, as long as everybody is `anonymous` to the broker.
const NAME_HEADER: &str = "name";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().ok_or_else(|| anyhow::anyhow!("usage: chat NAME [SESSION]"))?;
    let id = arguments.next().unwrap_or_else(|| "demo/chat".to_owned());

    let client = Client::from_env()?;
    let session = client.session(&id)?;
    let mut messages = session.subscribe(From::Last(10)).wait_for_session().await?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    println!("you are {name} in {id}; write, or end with Ctrl-D");
    loop {
        tokio::select! {
            line = lines.next_line() => match line? {
                Some(line) if line.trim().is_empty() => {}
                Some(line) => {
                    session.publish(Publication::text(line).header(NAME_HEADER, &name)).await?;
                }
                None => break,
            },
            next = messages.next() => match next {
                Some(record) => show(&record?, &name),
                None => break,
            },
        }
    }
    client.shutdown().await?;
    Ok(())
}

fn show(record: &Record, own: &str) {
    let from = record.headers.get(NAME_HEADER).unwrap_or(&record.sender.principal);
    if let Some(text) = record.text().filter(|_| from != own) {
        // What others write must not steer this terminal.
        let safe: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        let from: String = from.chars().filter(|c| !c.is_control()).collect();
        println!("{from}: {safe}");
    }
}
