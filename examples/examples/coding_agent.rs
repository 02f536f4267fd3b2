//! An agent that does a job: it builds a small cargo project step by step, shows the compiler's output while it comes, reports a tree of
//! runs, and asks before it deploys. It can be steered and cancelled, and killed: the next one goes on where it was.
//!
//! ```sh
//! cargo run -p longwire-examples --example coding_agent -- 'demo/code/*'     # as many of them as you like
//! longwire pub demo/code/hello "let us build something"                      # makes the session
//! longwire send demo/code/hello "hello, world"                               # builds a program that says it
//! longwire answer demo/code/hello                                            # or in the page
//! longwire runs demo/code/hello
//! ```

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use longwire::{Client, Context, Input, Mode, Publication, Run, RunInfo};
use tokio::fs;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// Who takes over does so soon.
const TTL: Duration = Duration::from_secs(2);
/// Bytes of the compiler's output that become one piece of a message.
const PIECE_BYTES: usize = 4096;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let pattern = std::env::args().nth(1).unwrap_or_else(|| "demo/code/*".to_owned());
    let lw = Client::from_env()?;
    lw.worker(pattern, "coder")
        .ttl(TTL)
        .serve(|ctx| async move {
            while let Some(input) = ctx.next_input().await? {
                if input.mode() == Mode::Steer {
                    input.refuse("nothing is being built that could be steered").await?;
                    continue;
                }
                let done = tokio::select! {
                    done = job(&ctx, &input) => done?,
                    () = input.stopped().cancelled() => Done::Stopped,
                };
                match done {
                    Done::Deployed(path) => {
                        ctx.session().publish(format!("deployed to {}", path.display())).await?;
                        input.done().await?;
                    }
                    Done::NotAllowed => input.refuse("nobody allowed it").await?,
                    Done::Stopped => input.refuse("stopped").await?,
                }
            }
            Ok(())
        })
        .await?;
    Ok(())
}

/// What a job came to.
enum Done {
    Deployed(PathBuf),
    NotAllowed,
    Stopped,
}

/// Everything that is begun here is named after the input: who goes on with the job finds what there is.
async fn job(ctx: &Context, input: &Input) -> anyhow::Result<Done> {
    let job = Job { ctx, id: input.id(), folder: folder(input.id()) };
    if ctx.is_resumed() {
        ctx.session().publish("I go on with what was begun").await?;
    }
    job.step("write", "Write the program", async |_| write(&job.folder, input.text()).await).await?;
    for (step, title) in [("test", "Test it"), ("build", "Build it")] {
        let profile = job.steered().await?;
        job.step(step, title, async |run| cargo(ctx, run, &job.folder, step, &profile).await).await?;
    }
    let (program, target) = (job.program().await, job.folder.join("deployed"));
    let ask = ctx.ask("Deploy it?").id(job.name("deploy")).options(["yes", "no"]).risk("high");
    let answer = ask.subject(format!("cp {} {}", program.display(), target.display())).await?;
    if !answer.is("yes") {
        return Ok(Done::NotAllowed);
    }
    let copy = async |_: &Run| fs::copy(&program, &target).await.map(drop).context("it cannot be copied");
    job.step("copy", "Deploy it", copy).await?;
    Ok(Done::Deployed(target))
}

struct Job<'a> {
    ctx: &'a Context,
    id: &'a str,
    folder: PathBuf,
}

impl Job<'_> {
    fn name(&self, step: &str) -> String {
        format!("{}-{step}", self.id)
    }

    /// A run of its own, unless it has ended well before.
    async fn step(
        &self,
        name: &str,
        title: &str,
        work: impl AsyncFnOnce(&Run) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let id = self.name(name);
        let known = self.known(&id).await?;
        let state = known.map(|run| run.state).unwrap_or_default();
        if state == "completed" {
            return Ok(());
        }
        let run = match state.as_str() {
            "" => self.ctx.start_run(title).id(&id).await?,
            _ => self.ctx.session().run(&id),
        };
        if state == "suspended" {
            run.set_state(longwire::RunState::Working, "again").await?;
        }
        match work(&run).await {
            Ok(()) => run.complete().await?,
            Err(error) => {
                run.fail(error.to_string()).await?;
                return Err(error);
            }
        }
        Ok(())
    }

    /// The profile that it is built with, which can be steered. It is kept in a file, for who goes on with the job.
    async fn steered(&self) -> anyhow::Result<String> {
        while let Some(input) = self.ctx.next_steering().await? {
            match input.text() {
                profile @ ("dev" | "release") => {
                    fs::write(self.folder.join("profile"), profile).await?;
                    input.done().await?;
                }
                _ => input.refuse("it can be steered to `dev` or to `release`").await?,
            }
        }
        Ok(self.profile().await)
    }

    async fn profile(&self) -> String {
        fs::read_to_string(self.folder.join("profile")).await.unwrap_or_else(|_| "dev".to_owned())
    }

    async fn program(&self) -> PathBuf {
        let folder = if self.profile().await == "release" { "release" } else { "debug" };
        self.folder.join("target").join(folder).join("said")
    }

    async fn known(&self, run: &str) -> anyhow::Result<Option<RunInfo>> {
        Ok(self.ctx.session().describe().await?.runs.into_iter().find(|known| known.id == run))
    }
}

/// Where the project of an input is: the same for whoever goes on with it.
fn folder(input: &str) -> PathBuf {
    let base = std::env::var_os("CODING_AGENT_FOLDER").map_or_else(std::env::temp_dir, PathBuf::from);
    base.join(format!("longwire-coding-agent-{input}"))
}

/// A program that says something, and a test of it.
async fn write(folder: &Path, text: &str) -> anyhow::Result<()> {
    fs::create_dir_all(folder.join("src")).await?;
    let manifest = "[package]\nname = \"said\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[workspace]\n";
    fs::write(folder.join("Cargo.toml"), manifest).await?;
    let program = format!(
        "fn said() -> &'static str {{\n    {text:?}\n}}\n\nfn main() {{\n    println!(\"{{}}\", said());\n}}\n\n\
         #[test]\nfn something_is_said() {{\n    assert!(!said().is_empty());\n}}\n"
    );
    fs::write(folder.join("src/main.rs"), program).await?;
    Ok(())
}

/// Runs cargo; what it says becomes a message that grows while it comes.
async fn cargo(ctx: &Context, run: &Run, folder: &Path, step: &str, profile: &str) -> anyhow::Result<()> {
    let line = format!("cargo {step} --profile {profile} --offline");
    let call = Publication::text(line.clone());
    ctx.session().publish(call.record_type("lw.tool.call").run(run.id()).header("tool", "shell")).await?;
    let mut command = Command::new("cargo");
    command.args(line.split(' ').skip(1)).current_dir(folder).env("CARGO_TERM_COLOR", "never");
    command.env("CARGO_TARGET_DIR", folder.join("target"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("cargo cannot be run")?;
    let mut said = child.stderr.take().context("cargo says nothing")?;
    let mut message = run.open_message("text/plain").await?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match said.read(&mut piece).await? {
            0 => break,
            bytes => message.push(String::from_utf8_lossy(&piece[..bytes])).await?,
        }
    }
    message.close().await?;
    let status = child.wait().await?;
    if !status.success() {
        bail!("{line}: {status}");
    }
    Ok(())
}
