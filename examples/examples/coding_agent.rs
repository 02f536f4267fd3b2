//! An agent that does a job: it builds a small cargo project step by step, shows the compiler's output while it comes, reports a tree of
//! runs, and asks before it deploys. It can be steered and cancelled, and killed: the next one goes on where it was. What it says follows
//! docs/conventions.md, so that pages and people know what it thinks, which tools it calls and what came of that.
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

use anyhow::Context as _;
use longwire::{
    Client, Context, ErrorCode, Input, MessageEnd, Mode, Publication, PublishError, Run, RunInfo, StateValue,
};
use tokio::fs;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// Where it is kept that somebody has allowed it for good.
const MAY_DEPLOY: &str = "lw.permission/deploy";
/// Who takes over does so soon.
const TTL: Duration = Duration::from_secs(2);
/// Bytes of the compiler's output that become one piece of a message.
const PIECE_BYTES: usize = 4096;
/// The only tool that it has.
const TOOL: &str = "shell";

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
                    Done::Deployed => input.done().await?,
                    Done::Failed(step) => input.refuse(format!("it failed: {step}")).await?,
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
    Deployed,
    Failed(&'static str),
    NotAllowed,
    Stopped,
}

/// Everything that is begun here is named after the input: who goes on with the job finds what there is.
async fn job(ctx: &Context, input: &Input) -> anyhow::Result<Done> {
    let job = Job { ctx, id: input.id(), folder: folder(input.id()) };
    if ctx.is_resumed() {
        ctx.session().publish("I go on with what was begun").await?;
    }
    job.think(input.text()).await?;
    job.step("write", "Write the program", async |_| write(&job.folder, input.text()).await).await?;
    for (step, title) in [("test", "Test it"), ("build", "Build it")] {
        let profile = job.steered().await?;
        if !job.step(step, title, async |run| job.cargo(run, step, &profile).await).await? {
            return Ok(Done::Failed(title));
        }
    }
    let (program, target) = (job.program().await, job.folder.join("deployed"));
    let line = format!("cp {} {}", program.display(), target.display());
    let call = job.name("copy-call");
    job.call(ctx.run(), &call, &line, "").await?;
    if !job.may_deploy(&call, &line).await? {
        job.result(ctx.run(), &call, "nobody allowed it", false).await?;
        return Ok(Done::NotAllowed);
    }
    let copied = job.step("copy", "Deploy it", async |_| {
        let status = Command::new("cp").args([&program, &target]).status().await?;
        job.result(ctx.run(), &call, &status.to_string(), status.success()).await?;
        Ok(status.success())
    });
    if !copied.await? {
        return Ok(Done::Failed("Deploy it"));
    }
    job.tell(&target).await?;
    Ok(Done::Deployed)
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

    /// A run of its own, unless it has ended before; whether it went well.
    async fn step(
        &self,
        name: &str,
        title: &str,
        work: impl AsyncFnOnce(&Run) -> anyhow::Result<bool>,
    ) -> anyhow::Result<bool> {
        let id = self.name(name);
        let known = self.known(&id).await?;
        let state = known.map(|run| run.state).unwrap_or_default();
        if state == "completed" || state == "failed" {
            return Ok(state == "completed");
        }
        let run = match state.as_str() {
            "" => self.ctx.start_run(title).id(&id).await?,
            _ => self.ctx.session().run(&id),
        };
        if state == "suspended" {
            run.set_state(longwire::RunState::Working, "again").await?;
        }
        let went_well = work(&run).await?;
        if went_well {
            run.complete().await?;
        } else {
            run.fail("see what it says").await?;
        }
        Ok(went_well)
    }

    /// Thinks aloud, before anything is done. Whoever goes on with the job does not think again.
    async fn think(&self, text: &str) -> anyhow::Result<()> {
        let thought = self.ctx.open_message("text/markdown").id(self.name("thought"));
        let Some(mut thought) = if_new(thought.record_type("lw.reasoning").await)? else { return Ok(()) };
        thought.push(format!("The program has to say {text:?}, so I write it with a test of that. ")).await?;
        thought.push("I run the test before I build it, and ask before I deploy it.").await?;
        Ok(thought.close().await?)
    }

    /// Says a whole message under an id, once; whether that is now. The broker keeps the ids of messages that grow, so this one is begun
    /// and closed, in one batch with what belongs to it.
    async fn once(
        &self,
        run: &Run,
        id: &str,
        message: Publication,
        beside: Option<Publication>,
    ) -> anyhow::Result<bool> {
        let close = Publication::text("").piece_of(id).closing(MessageEnd::Complete);
        let batch = [message.id(id).grows(), close].into_iter().chain(beside);
        let batch = batch.map(|publication| publication.run(run.id()));
        Ok(if_new(self.ctx.session().publish_all(batch).await)?.is_some())
    }

    /// Says that a command is about to be run, in the place of the call `replaces`, if that is one; `false` when it was said before.
    async fn call(&self, run: &Run, call: &str, line: &str, replaces: &str) -> anyhow::Result<bool> {
        let arguments = serde_json::json!({ "command": line }).to_string();
        let arguments = Publication::text(arguments).content_type("application/json");
        let arguments = arguments.record_type("lw.tool.call").header("tool", TOOL).replaces(replaces);
        self.once(run, call, arguments, None).await
    }

    /// Says how a call ended: its last result, and the only one with a status.
    async fn result(&self, run: &Run, call: &str, text: &str, is_ok: bool) -> anyhow::Result<()> {
        let result = Publication::text(text).content_type("text/plain").record_type("lw.tool.result");
        let status = if is_ok { "ok" } else { "error" };
        let result = result.reply_to(call).header("tool", TOOL).header("status", status);
        self.once(run, &format!("{call}-result"), result, None).await.map(drop)
    }

    /// Whether somebody allows a call, or has allowed it for good. It is asked under one id: whoever goes on with the job gets the answer
    /// that was given meanwhile.
    async fn may_deploy(&self, call: &str, line: &str) -> anyhow::Result<bool> {
        let session = self.ctx.session();
        if let Some(StateValue::Text(allowed)) = session.get(MAY_DEPLOY).await?.and_then(|entry| entry.value)
        {
            return Ok(allowed == "always");
        }
        let ask =
            self.ctx.ask("Deploy it?").id(self.name("deploy")).options(["yes", "always", "no"]).risk("high");
        let answer = ask.subject(call).description(line).await?;
        if answer.is("always") && session.set(MAY_DEPLOY, "always").await.is_err() {
            session.publish("I may not keep that, and ask again next time").await?;
        }
        Ok(answer.is("yes") || answer.is("always"))
    }

    /// Says where it is, and cites what that means.
    async fn tell(&self, target: &Path) -> anyhow::Result<()> {
        let (profile, id) = (self.profile().await, self.name("deployed"));
        let (said, cited) = (format!("deployed to {}, built as ", target.display()), format!("`{profile}`"));
        let range = format!("{}-{}", said.len(), said.len() + cited.len());
        let message = Publication::text(said + &cited).content_type("text/markdown");
        let quotation = match profile.as_str() {
            "release" => "intended for optimized artifacts used for releases and in production",
            _ => "used for normal development and debugging",
        };
        let url = format!("https://doc.rust-lang.org/cargo/reference/profiles.html#{profile}");
        let citation = Publication::text(quotation).record_type("lw.citation").reply_to(&id);
        let citation = citation.header("url", url).header("title", "The Cargo Book").header("range", range);
        self.once(self.ctx.run(), &id, message, Some(citation)).await.map(drop)
    }

    /// Runs cargo; what it says becomes a message that grows while it comes. Run again because whoever ran it was killed, it is another
    /// call, in the place of that one.
    async fn cargo(&self, run: &Run, step: &str, profile: &str) -> anyhow::Result<bool> {
        let line = format!("cargo {step} --profile {profile} --offline");
        let (mut attempt, mut before) = (1, String::new());
        let call = loop {
            let call = self.name(&format!("{step}-call-{attempt}"));
            if self.call(run, &call, &line, &before).await? {
                break call;
            }
            (attempt, before) = (attempt + 1, call);
        };
        let mut command = Command::new("cargo");
        command.args(line.split(' ').skip(1)).current_dir(&self.folder).env("CARGO_TERM_COLOR", "never");
        command.env("CARGO_TARGET_DIR", self.folder.join("target"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("cargo cannot be run")?;
        let mut said = child.stderr.take().context("cargo says nothing")?;
        let output = run.open_message("text/plain").id(format!("{call}-output"));
        let output = output.record_type("lw.tool.result").reply_to(&call).header("tool", TOOL);
        let mut output = output.await?;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match said.read(&mut piece).await? {
                0 => break,
                bytes => output.push(String::from_utf8_lossy(&piece[..bytes])).await?,
            }
        }
        output.close().await?;
        let status = child.wait().await?;
        self.result(run, &call, &status.to_string(), status.success()).await?;
        Ok(status.success())
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

/// `None` when there was something under this id before.
fn if_new<T>(begun: Result<T, PublishError>) -> Result<Option<T>, PublishError> {
    match begun {
        Err(PublishError::Refused(refusal)) if refusal.code == Some(ErrorCode::IdInUse) => Ok(None),
        begun => begun.map(Some),
    }
}

/// Where the project of an input is: the same for whoever goes on with it.
fn folder(input: &str) -> PathBuf {
    let base = std::env::var_os("CODING_AGENT_FOLDER").map_or_else(std::env::temp_dir, PathBuf::from);
    base.join(format!("longwire-coding-agent-{input}"))
}

/// A program that says something, and a test of it.
async fn write(folder: &Path, text: &str) -> anyhow::Result<bool> {
    fs::create_dir_all(folder.join("src")).await?;
    let manifest = "[package]\nname = \"said\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[workspace]\n";
    fs::write(folder.join("Cargo.toml"), manifest).await?;
    let program = format!(
        "fn said() -> &'static str {{\n    {text:?}\n}}\n\nfn main() {{\n    println!(\"{{}}\", said());\n}}\n\n\
         #[test]\nfn something_is_said() {{\n    assert!(!said().is_empty());\n}}\n"
    );
    fs::write(folder.join("src/main.rs"), program).await?;
    Ok(true)
}
