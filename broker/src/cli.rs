//! The command line. Each command is a module; what they share is here.

mod answer;
mod archive;
mod ask;
mod backup;
mod batch;
mod cancel;
mod clock_text;
mod connect;
mod duration_text;
mod escape;
mod export;
mod import;
mod key;
mod lines;
mod log;
mod open_files;
mod page_link;
mod publish;
mod restore;
mod run;
mod runs;
mod send;
mod serve;
mod session;
mod share;
mod state;
mod store;
mod tail;
mod token;
mod token_from;
mod workers;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use longwire::{ConnectError, TlsSetupError};

use crate::cli::token_from::TokenFrom;

/// Exit code of a failure that has no code of its own.
pub(crate) const EXIT_FAILURE: u8 = 1;
/// Exit code of wrong usage: what clap refuses, and what the SDK cannot make sense of.
pub(crate) const EXIT_USAGE: u8 = 2;
/// Exit code when the broker does not let one in: without a token, or with one that it does not accept.
pub(crate) const EXIT_UNAUTHENTICATED: u8 = 4;
/// Exit code when the broker cannot be reached.
pub(crate) const EXIT_UNREACHABLE: u8 = 5;

/// A durable session broker for agents: run them, watch them and talk to them from anywhere.
#[derive(Debug, Parser)]
#[command(
    name = "longwire",
    version,
    after_help = "Examples:\n  longwire serve\n  longwire run acme/build/42 -- cargo build\n  \
    longwire tail acme/build/42 --from start\n\nExit codes: 0 done, 1 failed, 2 wrong usage, 4 no token or one that is not \
    accepted, 5 broker unreachable; \
    `run` exits as its command does, and `ask` as it says."
)]
pub(crate) struct Cli {
    /// Print what machines can read: one JSON object on each line
    #[arg(long, global = true)]
    json: bool,
    /// Where the broker is: ws://HOST:PORT, or with TLS longwire:// (QUIC, or WebSocket where UDP is blocked), wss://, quic://
    #[arg(long, global = true, env = longwire::URL_VARIABLE, default_value = longwire::DEFAULT_URL)]
    url: String,
    #[command(flatten)]
    tls: connect::TlsArgs,
    /// A file that has the token, for a broker that asks for one; else the environment variable LONGWIRE_TOKEN
    ///
    /// The file is read again whenever a connection is made, and before the token expires. There is no option that takes
    /// the token itself: every user of the machine could read it in the list of processes, and your shell would keep it.
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Run(run::RunArgs),
    Tail(tail::TailArgs),
    Pub(publish::PublishArgs),
    Ask(Box<ask::AskArgs>),
    Answer(answer::AnswerArgs),
    Runs(runs::RunsArgs),
    Send(send::SendArgs),
    Cancel(cancel::CancelArgs),
    State(state::StateArgs),
    Workers(workers::WorkersArgs),
    Session(session::SessionArgs),
    Share(share::ShareArgs),
    Export(export::ExportArgs),
    Import(import::ImportArgs),
    Backup(backup::BackupArgs),
    Token(token::TokenArgs),
    Key(key::KeyArgs),
    Store(store::StoreArgs),
}

impl Cli {
    /// Parses the command line, and checks what clap cannot: options that belong to every command may stand before or after it.
    ///
    /// # Errors
    /// A usage error, which clap prints and which exits with 2.
    pub(crate) fn parse_from_line(
        line: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let cli = Self::try_parse_from(line)?;
        if cli.json && matches!(&cli.command, Command::Tail(tail) if tail.raw) {
            let message = "--raw and --json cannot be used together: choose one";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, message));
        }
        if cli.tls.are_half() {
            let message = "--client-certificate and --client-key belong together: give both, or none";
            return Err(Self::command().error(ErrorKind::MissingRequiredArgument, message));
        }
        Ok(cli)
    }
}

/// What every client command needs to know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context {
    pub(crate) url: String,
    pub(crate) tls: connect::TlsArgs,
    pub(crate) json: bool,
    pub(crate) token: TokenFrom,
}

/// Runs the command and says with what to exit. Errors are printed here, in one form for all commands.
pub(crate) async fn dispatch(cli: Cli) -> ExitCode {
    let token = cli.token_file.map_or(TokenFrom::Variable, TokenFrom::File);
    let context = Context { url: cli.url, tls: cli.tls, json: cli.json, token };
    let result = match cli.command {
        Command::Serve(args) => serve::run(args, context.json).await,
        Command::Run(args) => Box::pin(run::run(args, context)).await,
        Command::Tail(args) => Box::pin(tail::run(args, context)).await,
        Command::Pub(args) => Box::pin(publish::run(args, context)).await,
        Command::Ask(args) => Box::pin(ask::run(*args, context)).await,
        Command::Answer(args) => Box::pin(answer::run(args, context)).await,
        Command::Runs(args) => Box::pin(runs::run(args, context)).await,
        Command::Send(args) => Box::pin(send::run(args, context)).await,
        Command::Cancel(args) => Box::pin(cancel::run(args, context)).await,
        Command::State(args) => Box::pin(state::run(args, context)).await,
        Command::Workers(args) => Box::pin(workers::run(args, context)).await,
        Command::Session(args) => Box::pin(session::run(args, context)).await,
        Command::Share(args) => Box::pin(share::run(args, context)).await,
        Command::Export(args) => Box::pin(export::run(args, context)).await,
        Command::Import(args) => Box::pin(import::run(args, context)).await,
        Command::Backup(args) => Box::pin(backup::run(args, context)).await,
        Command::Token(args) => Box::pin(token::run(args, context)).await,
        Command::Key(args) => key::run(args, context.json),
        Command::Store(args) => Box::pin(store::run(args, context.json)).await,
    };
    result.unwrap_or_else(|error| {
        if is_broken_pipe(&error) {
            return ExitCode::SUCCESS;
        }
        let code = exit_code(&error);
        eprintln!("longwire: {error:#}");
        if code == EXIT_UNAUTHENTICATED {
            eprintln!("longwire: {}", connect::TOKEN_HINT);
        }
        ExitCode::from(code)
    })
}

/// Wrong usage that clap cannot see; `longwire` exits with 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<ConnectError>() {
        _ if error.is::<Usage>() => EXIT_USAGE,
        _ if error.is::<connect::Unreachable>() => EXIT_UNREACHABLE,
        _ if connect::is_unauthenticated(error) => EXIT_UNAUTHENTICATED,
        Some(
            ConnectError::InvalidUrl { .. }
            | ConnectError::PlainText { .. }
            | ConnectError::Tls(TlsSetupError::InvalidFingerprint(_) | TlsSetupError::HalfIdentity),
        ) => EXIT_USAGE,
        _ => EXIT_FAILURE,
    }
}

/// Whether whoever read our output has gone, as `head` does: no failure of ours.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_an_example() {
        Cli::command().debug_assert();
        fn check(command: &clap::Command) {
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains("Example"), "{}", command.get_name());
            command.get_subcommands().filter(|sub| sub.get_name() != "help").for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn takes_what_the_documentation_shows() {
        for line in [
            "longwire run -- date",
            "longwire run a/b --title T --stdin --close --spool /x -- sh -c 'x'",
            "longwire run a/b --agent coder --ttl 10s -- date",
            "longwire tail a/b --from start",
            "longwire tail ~/workers/acme/chat/coders",
            "longwire workers set acme/coders --pattern acme/* --agent coder --webhook https://x --secret-file s --attempts 3",
            "longwire --json workers list",
            "longwire tail a/b -n 3 --no-follow --raw",
            "longwire --json tail a/b --from 0000000000000000_0000000000000042",
            "longwire pub a/b hello --type t --header k=v --content-type text/plain",
            "longwire pub a/b -",
            "longwire ask Deploy? --session a/b --id d-1 --options yes,no --to ada --role approver --expires 1h --risk high",
            "longwire answer a/b",
            "longwire answer a/b d-1 yes --note fine",
            "longwire answer a/b d-1 --value region=eu --value count=3",
            "longwire answer a/b d-1 --deny",
            "longwire --json runs a/b --no-follow",
            "longwire send a/b hello --to coder --mode steer --id i --no-wait",
            "longwire state a/b",
            "longwire --json state get a/b branch",
            "longwire state set a/b branch main --if-revision 0",
            "longwire state rm a/b branch",
            "longwire cancel a/b deps --deadline 5s --reason enough",
            "longwire session list acme/ --status input-required",
            "longwire session list acme/",
            "longwire session create a --title T --label k=v",
            "longwire session show a --json",
            "longwire session close a --reason done",
            "longwire session delete a",
            "longwire share a/b --rights read,publish --ttl 1h",
            "longwire --json share a/b --token-file t",
            "longwire share revoke -",
            "longwire share revoke --id x",
            "longwire serve --listen 127.0.0.1:0 --data d",
            "longwire token create --sub ada --grant acme/**:read,publish --ttl 1h --kind human --device d",
            "longwire token inspect - --data d",
            "longwire token revoke --id abc",
            "longwire token revoke --id -abc",
            "longwire token revoke -",
            "longwire key rotate --drop --data d",
            "longwire key show --json",
            "longwire serve --dev-tls --tls-client-ca f",
            "longwire serve --tls-certificate c --tls-key k --auth",
            "longwire serve --plain-text --auth",
            "longwire tail a --url wss://h --ca f --client-certificate c --client-key k",
            "longwire --url wss://h --fingerprint ab tail a",
            "longwire --url longwire://h --ca f tail a",
            "longwire store check --data d",
            "longwire store compact --data d --json",
            "longwire store restore b --data d --erasures f --json",
            "longwire store erasures --data d",
        ] {
            Cli::parse_from_line(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in [
            "longwire run a/b",
            "longwire serve --tls-key k",
            "longwire serve --dev-tls --tls-certificate c --tls-key k",
            "longwire tail a --client-key k",
            "longwire run a//b -- date",
            "longwire run a --agent a/b -- date",
            "longwire run a --ttl soon -- date",
            "longwire tail a/b --from yesterday",
            "longwire tail a/b --raw --json",
            "longwire tail a/b -n 3 --from start",
            "longwire pub a/b x --header novalue",
            "longwire ask",
            "longwire ask Deploy? --expires soon",
            "longwire answer",
            "longwire answer a/b d-1 yes --deny",
            "longwire answer a/b --deny",
            "longwire send a/b",
            "longwire send a/b hello --mode loudly",
            "longwire cancel a/b deps --deadline never",
            "longwire token create --sub ada",
            "longwire token create --sub ada --grant acme/**:fly",
            "longwire token create --sub ada --grant acme/**:read --kind robot",
            "longwire token revoke",
            "longwire token revoke - --id abc",
            "longwire share",
            "longwire share a/b --rights fly",
            "longwire share a/b --ttl forever",
            "longwire share revoke",
            "longwire share revoke - --id x",
        ] {
            let error = Cli::parse_from_line(line.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}: {error}");
        }
    }
}
