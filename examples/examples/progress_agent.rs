//! An agent that works for a while and says how far it is. It needs nobody to listen, and no broker to be up: what it
//! says waits in the outbox file, also over a kill of this program.
//!
//! ```sh
//! cargo run -p longwire-examples --example progress_agent -- acme/report/7
//! longwire tail acme/report/7 --from start
//! ```

use std::time::Duration;

use longwire::{Client, ConnectionState, DEFAULT_URL, Publication, SessionMeta, URL_VARIABLE};

const STEPS: u32 = 10;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let id = std::env::args().nth(1).unwrap_or_else(|| "demo/progress".to_owned());
    let url = std::env::var(URL_VARIABLE).unwrap_or_else(|_| DEFAULT_URL.to_owned());
    let outbox = std::env::temp_dir().join("longwire-progress-agent.outbox");
    let (client, driver) = Client::builder().url(url).device("agent").outbox_file(outbox).build()?;
    let driver = tokio::spawn(driver);
    tokio::spawn(tell(client.state()));

    let session = client.session(&id)?;
    for step in 1..=STEPS {
        tokio::time::sleep(Duration::from_millis(500)).await; // the work
        let progress = Publication::text(format!("step {step} of {STEPS}"))
            .record_type("progress")
            .header("percent", (step * 100 / STEPS).to_string());
        // Accepted by the outbox is enough to go on; the acknowledgement may come much later.
        drop(session.enqueue(progress).await?);
        println!("step {step} of {STEPS}");
    }
    let done = session.publish(Publication::text("done").record_type("result")).await?;
    println!("the result is on disk at {}", done.from);
    session.create_or_update(SessionMeta::titled("A report, finished")).await?;
    client.shutdown().await?;
    driver.await?;
    Ok(())
}

/// Says when the broker comes and goes; the work does not care.
async fn tell(mut state: tokio::sync::watch::Receiver<ConnectionState>) {
    while state.changed().await.is_ok() {
        match &*state.borrow_and_update() {
            ConnectionState::Connected { .. } => eprintln!("connected"),
            ConnectionState::Reconnecting { attempt: 1, error, .. } => eprintln!("working on alone: {error}"),
            _ => {}
        }
    }
}
