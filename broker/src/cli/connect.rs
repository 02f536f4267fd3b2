//! How commands reach the broker.

use std::ffi::OsString;
use std::path::PathBuf;

use longwire::{Client, ClientBuilder, Closed, ConnectionState};

use crate::cli::Context;

/// The broker cannot be reached; `longwire` exits with 5.
#[derive(Debug, thiserror::Error)]
#[error("{error}; start a broker with `longwire serve`, or name another with --url or LONGWIRE_URL")]
pub(crate) struct Unreachable {
    error: String,
}

/// Whom to trust, and what to show, over TLS.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct TlsArgs {
    /// Trust the authorities in this PEM file, and not those of the system
    #[arg(long, global = true, env = longwire::CA_VARIABLE, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Trust the certificate with this SHA-256 and no other, such as a development certificate
    #[arg(long, global = true, env = longwire::FINGERPRINT_VARIABLE, value_name = "SHA-256")]
    fingerprint: Option<String>,
    /// Show this certificate, in PEM, to a broker that asks for one
    #[arg(long, global = true, env = longwire::CLIENT_CERTIFICATE_VARIABLE, value_name = "FILE")]
    client_certificate: Option<PathBuf>,
    /// The key of the client certificate, in PEM
    #[arg(long, global = true, env = longwire::CLIENT_KEY_VARIABLE, value_name = "FILE")]
    client_key: Option<PathBuf>,
}

impl TlsArgs {
    /// Whether a certificate is named without its key, or a key without its certificate.
    pub(crate) fn are_half(&self) -> bool {
        self.client_certificate.is_some() != self.client_key.is_some()
    }

    /// The environment that says the same.
    pub(crate) fn variables(&self) -> Vec<(&'static str, OsString)> {
        let fingerprint = self.fingerprint.as_ref().map(OsString::from);
        let file = |path: &Option<PathBuf>| path.as_ref().map(OsString::from);
        [
            (longwire::CA_VARIABLE, file(&self.ca)),
            (longwire::FINGERPRINT_VARIABLE, fingerprint),
            (longwire::CLIENT_CERTIFICATE_VARIABLE, file(&self.client_certificate)),
            (longwire::CLIENT_KEY_VARIABLE, file(&self.client_key)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

/// What a client of the command line has in common.
pub(crate) fn builder(context: &Context) -> ClientBuilder {
    let name = concat!("longwire-cli/", env!("CARGO_PKG_VERSION"));
    let mut builder = Client::builder().url(&context.url).client_name(name);
    let TlsArgs { ca, fingerprint, client_certificate, client_key } = &context.tls;
    if let Some(ca) = ca {
        builder = builder.ca_file(ca);
    }
    if let Some(fingerprint) = fingerprint {
        builder = builder.fingerprint(fingerprint);
    }
    if let (Some(certificate), Some(key)) = (client_certificate, client_key) {
        builder = builder.client_certificate(certificate, key);
    }
    builder
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
