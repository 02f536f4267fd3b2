//! The one binary `longwire`.

mod cli {
    pub(crate) mod serve;
}

use clap::Parser;

#[derive(Parser)]
struct Cli {
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Sub,
}
#[derive(clap::Subcommand)]
enum Sub {
    Serve(cli::serve::ServeArgs),
}

fn main() -> anyhow::Result<std::process::ExitCode> {
    let cli = Cli::parse();
    let Sub::Serve(args) = cli.command;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(cli::serve::run(args, cli.json))
}
