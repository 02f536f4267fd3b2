//! How commands reach the broker.

use longwire::{Client, ClientBuilder, Closed, ConnectionState};

use crate::cli::Context;

/// The broker cannot be reached; `longwire` exits with 5.
#[derive(Debug, thiserror::Error)]
#[error("{error}; start a broker with `longwire serve`, or name another with --url or LONGWIRE_URL")]
pub(crate) struct Unreachable {
    error: String,
}

/// What a client of the command line has in common.
pub(crate) fn builder(context: &Context) -> ClientBuilder {
    let name = concat!("longwire-cli/", env!("CARGO_PKG_VERSION"));
    Client::builder().url(&context.url).client_name(name)
}

/// A client whose driver runs on this runtime.
pub(crate) fn client(context: &Context) -> anyhow::Result<Client> {
    let (client, driver) = builder(context).build()?;
    drop(tokio::spawn(driver));
    Ok(client)
}

/// Waits for the first try to connect.
///
/// # Errors
/// [`Unreachable`] when it failed, whatever later ones may do.
pub(crate) async fn reach(client: &Client) -> anyhow::Result<()> {
    let mut state = client.state();
    let tried = state.wait_for(|state| *state != ConnectionState::Connecting).await;
    let state = tried.map_err(|_| Closed::ShutDown)?.clone();
    match state {
        ConnectionState::Reconnecting { error, .. } => Err(Unreachable { error }.into()),
        ConnectionState::Closed(reason) => Err(reason.into()),
        _ => Ok(()),
    }
}
