//! How commands reach the broker.

use std::ffi::OsString;
use std::path::PathBuf;

use longwire::{
    Client, ClientBuilder, Closed, ConnectionState, ErrorCode, PublishError, RequestError, SubscriptionError,
};

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

/// What a client of the command line has in common, but for its token.
fn named(context: &Context) -> ClientBuilder {
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

/// A client that goes on, without a connection, when its token has expired: what it is given is kept in its outbox.
pub(crate) fn lasting_builder(context: &Context) -> anyhow::Result<ClientBuilder> {
    context.token.keep(named(context))
}

/// A client whose driver runs on this runtime.
pub(crate) fn client(context: &Context) -> anyhow::Result<Client> {
    let (client, driver) = context.token.give(named(context))?.build()?;
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
        // A file, or somebody else, may have another token later; this command does not wait for it.
        ConnectionState::Reconnecting { code: Some(ErrorCode::TokenExpired), .. } => {
            Err(Closed::TokenExpired.into())
        }
        ConnectionState::Reconnecting { code: Some(ErrorCode::TokenRevoked), .. } => {
            Err(Closed::TokenRevoked.into())
        }
        ConnectionState::Reconnecting { code: Some(ErrorCode::Unauthenticated), error, .. } => {
            Err(Closed::Unauthenticated(error).into())
        }
        ConnectionState::Reconnecting { error, .. } => Err(Unreachable { error }.into()),
        ConnectionState::Closed(reason) => Err(reason.into()),
        _ => Ok(()),
    }
}

/// What to do when the broker does not let one in.
pub(crate) const TOKEN_HINT: &str =
    "put a token that is valid into LONGWIRE_TOKEN, or name a file with it by --token-file";

/// Whether a command failed because of its token.
pub(crate) fn is_unauthenticated(error: &anyhow::Error) -> bool {
    let closed = error.downcast_ref::<Closed>().or(match error.downcast_ref() {
        Some(PublishError::Closed(closed)) => Some(closed),
        _ => None,
    });
    let closed = closed.or(match error.downcast_ref() {
        Some(RequestError::Closed(closed)) => Some(closed),
        _ => None,
    });
    let closed = closed.or(match error.downcast_ref() {
        Some(SubscriptionError::Closed(closed)) => Some(closed),
        _ => None,
    });
    matches!(closed, Some(Closed::TokenExpired | Closed::TokenRevoked | Closed::Unauthenticated(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_a_token_is_found_in_every_kind_of_error() {
        let closed = || Closed::Unauthenticated("no".into());
        let errors: [anyhow::Error; 4] = [
            closed().into(),
            PublishError::Closed(closed()).into(),
            RequestError::Closed(Closed::TokenExpired).into(),
            SubscriptionError::Closed(Closed::TokenRevoked).into(),
        ];
        assert!(errors.iter().all(is_unauthenticated));
        assert!(!is_unauthenticated(&Closed::ShutDown.into()));
        assert!(!is_unauthenticated(&anyhow::anyhow!("token")));
    }
}
