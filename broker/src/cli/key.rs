//! `longwire key`: the keys that the broker of a data folder signs tokens with.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use longwire_broker::auth::signing_keys::{Earlier, PublicKey, SigningKeys, SigningKeysError};
use longwire_broker::server::SIGNING_KEYS_FILE;
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

use crate::cli::clock_text::{date_time, now_ms};

/// Looks after the keys that tokens are signed with. A broker that runs on the folder takes up a change within a second.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  longwire key show --data longwire-data")]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, clap::Subcommand)]
enum KeyCommand {
    /// Makes a new key that signs from now on
    ///
    /// Tokens that were made before stay valid for as long as they say. When somebody else may have the key, `--drop` lets
    /// none of them be accepted any more, and ends the connections that were made with them.
    #[command(
        after_help = "Examples:\n  longwire key rotate --data longwire-data\n  longwire key rotate --drop"
    )]
    Rotate {
        /// Accept no token any more that was signed before
        #[arg(long)]
        drop: bool,
        #[command(flatten)]
        folder: Folder,
    },
    /// Shows the ids of the keys and their public parts, as a JWKS that others can verify tokens with
    #[command(after_help = "Example:\n  longwire key show --data longwire-data > jwks.json")]
    Show {
        #[command(flatten)]
        folder: Folder,
    },
}

/// Where the keys are.
#[derive(Debug, clap::Args)]
pub(crate) struct Folder {
    /// The data folder
    #[arg(long, value_name = "DIR", default_value = "longwire-data")]
    data: PathBuf,
}

impl Folder {
    /// The file with the keys.
    pub(crate) fn file(&self) -> PathBuf {
        self.data.join(SIGNING_KEYS_FILE)
    }

    /// The keys. They are not made here: in a folder that was mistyped they would be nobody's.
    pub(crate) fn keys(&self) -> anyhow::Result<SigningKeys> {
        SigningKeys::load(&self.file()).map_err(|error| match error {
            SigningKeysError::File { error, .. } if error.kind() == std::io::ErrorKind::NotFound => {
                anyhow::anyhow!(
                    "there are no signing keys in {}: a broker makes them when it starts there for the first time; \
                     name its data folder with --data",
                    self.data.display()
                )
            }
            error => error.into(),
        })
    }
}

/// Runs the command.
pub(crate) fn run(args: KeyArgs, json: bool) -> anyhow::Result<ExitCode> {
    match args.command {
        KeyCommand::Rotate { drop, folder } => rotate(&folder, drop, json)?,
        KeyCommand::Show { folder } => show(&folder.keys()?.public(now_ms()), json)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn rotate(folder: &Folder, drop: bool, json: bool) -> anyhow::Result<()> {
    let _lock = lock(&folder.data)?;
    let before = folder.keys()?;
    let earlier = if drop { Earlier::Dropped } else { Earlier::Kept };
    let keys = before.rotate(&folder.file(), earlier, now_ms())?;
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", json!({ "key": keys.id(), "before": before.id(), "dropped": drop }))?;
        return Ok(());
    }
    writeln!(out, "{}", keys.id())?;
    match drop {
        true => eprintln!("longwire: no token that was signed before is accepted any more"),
        false => eprintln!("longwire: tokens that were signed before stay valid for as long as they say"),
    }
    Ok(())
}

/// Two rotations at once would each start from the same keys: the later one would bring back what the other one dropped.
fn lock(data: &Path) -> anyhow::Result<Option<File>> {
    let folder = match File::open(data) {
        Ok(folder) => folder,
        // What is missing is named when the keys are read.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| data.display().to_string()),
    };
    flock(&folder, FlockOperation::LockExclusive).with_context(|| data.display().to_string())?;
    Ok(Some(folder))
}

fn show(keys: &[PublicKey], json: bool) -> anyhow::Result<()> {
    let jwk = |key: &PublicKey| -> Value {
        json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": key.id, "x": key.x })
    };
    let jwks = json!({ "keys": keys.iter().map(jwk).collect::<Vec<_>>() });
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{jwks}")?;
        return Ok(());
    }
    for key in keys {
        match key.until_ms {
            None => eprintln!("longwire: {} signs", key.id),
            Some(until_ms) => {
                eprintln!("longwire: {} signed before, and counts until {}", key.id, date_time(until_ms));
            }
        }
    }
    writeln!(out, "{jwks:#}")?;
    Ok(())
}
