//! The page for people, in a real browser: `tests/browser/story.mjs` does what a person does, and says what it sees.

use std::fs::File;
use std::future::IntoFuture;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longwire::{AskOption, AskOutcome, Client, FormField, From, Publication, Right, Session};
use rustix::process::{Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::support::broker::{Broker, LONGWIRE, folder, longwire};
use crate::support::proxy::Proxy;
use crate::support::rng::Rng;
use crate::support::tokens::Tokens;

/// What one step of a story may take on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// The browser that `scripts/test` set up; without one the test is skipped, loudly, and fails in CI.
pub(crate) fn browser_is_there() -> bool {
    let there = ["LONGWIRE_TEST_BROWSER", "LONGWIRE_TEST_CHROMIUM"].map(|name| std::env::var(name).is_ok());
    if there == [true, true] {
        return true;
    }
    let message = "SKIPPED: the page is not tested in a browser; run ./scripts/test, which sets it up, with Node.js 20, \
                   npm and Chromium (Debian: `apt-get install nodejs npm chromium`)";
    assert!(std::env::var("CI").is_err(), "{message}");
    eprintln!("{message}");
    false
}

/// A story that is being told.
pub(crate) struct Story {
    _process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    input: ChildStdin,
}

impl Story {
    pub(crate) fn tell(name: &str, url: &str, arguments: &[&str]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/story.mjs");
        let mut command = Command::new("node");
        command.arg(script).arg(name).arg(url.replace("ws://", "http://")).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let input = process.stdin.take().unwrap();
        Self { _process: process, lines, input }
    }

    async fn line(&mut self) -> String {
        let line = timeout(PATIENCE, self.lines.next_line()).await.expect("the story goes on in time");
        line.unwrap().unwrap_or_else(|| "(the story ended)".into())
    }

    /// The next line is this one; what comes instead is the failure.
    pub(crate) async fn says(&mut self, wanted: &str) {
        let mut line = self.line().await;
        if line != wanted {
            while let Ok(Some(more)) = self.lines.next_line().await {
                line = line + "\n" + &more;
            }
            panic!("the story was to say {wanted:?}, and said: {line}");
        }
    }

    async fn texts(&mut self) -> Vec<String> {
        let line = self.line().await;
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("no texts: {line}"))
    }

    pub(crate) async fn told(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }
}

/// A client whose driver runs for as long as the test.
fn client(url: &str, token: &str) -> Client {
    let (client, driver) = Client::builder().url(url).token(token).build().unwrap();
    drop(tokio::spawn(driver));
    client
}

fn session(url: &str, id: &str) -> Session {
    client(url, "").session(id).unwrap()
}

#[test]
fn what_the_client_decides_by_itself_is_right() {
    if !browser_is_there() {
        return;
    }
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/client.test.mjs");
    let output = std::process::Command::new("node").arg("--test").arg(tests).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_follows_a_command_over_two_kills_of_the_broker() {
    const ROUNDS: usize = 3;
    const LINES: usize = 250;
    if !browser_is_there() {
        return;
    }
    let (folder, data) = folder();
    let mut broker = Broker::start(&data);
    let proxy = Proxy::start(broker.address()).await;
    let last_of = |round: usize| format!("line {}", (round + 1) * LINES - 1);
    let marks: Vec<String> = (0..ROUNDS - 1).map(last_of).collect();
    let arguments: Vec<&str> = std::iter::once("demo/job").chain(marks.iter().map(String::as_str)).collect();
    let mut story = Story::tell("follow", &proxy.url(), &arguments);
    story.says("waiting").await;
    let fifo = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().await.unwrap().success());
    let mut run = Command::new(LONGWIRE);
    run.env("LONGWIRE_URL", proxy.url()).env("XDG_STATE_HOME", folder.path().join("state"));
    run.args(["run", "--close", "demo/job", "--", "sh", "-c", "cat < \"$0\""]).arg(&fifo);
    let run = run.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut feed = File::options().write(true).open(&fifo).unwrap();
    for round in 0..ROUNDS {
        for line in 0..LINES {
            writeln!(feed, "line {}", round * LINES + line).unwrap();
        }
        if let Some(mark) = marks.get(round) {
            story.says(&format!("seen {mark}")).await;
            // The next lines are said while the broker is away, and only noticed to be so afterwards.
            proxy.set_upstream(None);
            broker.kill();
            story.told("killed").await;
            story.says("noticed").await;
            broker = Broker::start(&data);
            proxy.set_upstream(Some(broker.address()));
        }
    }
    drop(feed);
    let output = run.wait_with_output().await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    let link = format!("in a browser: {}/#/s/demo/job\n", proxy.url().replace("ws://", "http://"));
    assert!(stderr.contains(&link), "{stderr}");
    let texts = story.texts().await;
    assert!(texts[0].as_bytes() == output.stdout, "{}", texts[0]);
    // What else there is has each something to say: that a stream is whole has not.
    assert!(texts[1..].iter().all(|text| !text.is_empty()), "{texts:?}");
    let exit = texts.iter().position(|text| text == "exit status 0").unwrap();
    assert!(texts[exit + 1].ends_with("completed"), "{texts:?}");
    // The answer to a claim may have been lost with the broker: then it is another agent that acts.
    let left = &texts[exit + 2..];
    assert!(left[0].starts_with("The agent run") && left[0].ends_with(" is released"), "{texts:?}");
    assert_eq!(left.last().unwrap(), "The session was changed.");
    story.says("ok").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_wants_to_be_more_than_text_is_shown_as_text() {
    if !browser_is_there() {
        return;
    }
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    // What is published, and how it is shown.
    let records = [
        ("<script>window.ran = true</script>", "<script>window.ran = true</script>"),
        ("<img src=x onerror='window.ran = true'>", "<img src=x onerror='window.ran = true'>"),
        ("</span></li><a href='javascript:ran'>x</a>", "</span></li><a href='javascript:ran'>x</a>"),
        ("https://evil.example/ [a](javascript:ran)", "https://evil.example/ [a](javascript:ran)"),
        ("\u{1b}[2J\u{1b}]0;owned\u{7}\u{8}\r\0", "^[[2J^[]0;owned^G^H^M^@"),
        ("user\u{202e}gpj.exe\u{2066}\u{200b}\u{e0041}", "user⟨U+202E⟩gpj.exe⟨U+2066⟩⟨U+200B⟩⟨U+E0041⟩"),
        ("\u{9b}31m\u{7f}\u{2028}", "⟨U+009B⟩31m^?⟨U+2028⟩"),
        ("tab\tand\nline, 👩‍💻, שלום", "tab\tand\nline, 👩‍💻, שלום"),
        ("\u{feff}x", "⟨U+FEFF⟩x"),
    ];
    let session = session(&broker.url(), "demo/hostile");
    for (text, _) in records {
        let record =
            Publication::text(text).record_type("<b>type</b>").header("longwire-stream", "unseen stderr");
        session.publish(record).await.unwrap();
    }
    session.publish(Publication::bytes("image/png", b"\x89PNG\xff".to_vec())).await.unwrap();
    let title = "<b>title</b>\u{202e}\u{1b}[0m".to_owned();
    session.create_or_update(longwire::SessionMeta::titled(title)).await.unwrap();
    let count = records.len() + 2;
    let mut story = Story::tell("hostile", &broker.url(), &["demo/hostile", &count.to_string()]);
    let mut wanted: Vec<String> = records.iter().map(|(_, shown)| (*shown).to_owned()).collect();
    wanted.extend(["\u{fffd}PNG\u{fffd}".to_owned(), "The session was changed.".to_owned()]);
    assert_eq!(story.texts().await, wanted);
    story.says("<b>title</b>⟨U+202E⟩^[[0m · Longwire").await;
    story.says("ok").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_page_sends_is_in_the_session_once_whatever_happens() {
    if !browser_is_there() {
        return;
    }
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let proxy = Proxy::start(broker.address()).await;
    let mut story = Story::tell("send", &proxy.url(), &["demo/talk"]);
    story.says("sent").await;
    proxy.set_upstream(None);
    broker.kill();
    story.told("killed").await;
    story.says("pending").await;
    let broker = Broker::start(&data);
    proxy.set_upstream(Some(broker.address()));
    story.says("ok").await;
    let url = broker.url();
    let arguments = ["--url", &url, "tail", "demo/talk", "--from", "start", "--raw", "--no-follow"];
    let tail = tokio::task::block_in_place(|| longwire(&arguments));
    let wanted = "hello from the page\ntwo\nlines <b>while it was away</b>\n";
    assert_eq!(String::from_utf8(tail.stdout).unwrap(), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_page_sends_is_there_once_and_in_order_wherever_connections_are_cut() {
    const MESSAGES: usize = 50;
    // Enough for an upgrade and a hello, so that each connection comes to something, and a few messages at most.
    const UP: (u64, u64) = (900, 2_500);
    const DOWN: (u64, u64) = (800, 4_000);
    if !browser_is_there() {
        return;
    }
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    // The page itself comes through whole.
    let cutting = Arc::new(AtomicBool::new(false));
    let armed = Arc::clone(&cutting);
    let rng = Mutex::new(Rng::from_env(29));
    let plan = move |_| {
        let mut rng = rng.lock().unwrap();
        let mut between = |(least, most): (u64, u64)| least + rng.below(most - least);
        armed.load(Ordering::SeqCst).then(|| (between(UP), between(DOWN)))
    };
    let proxy = Proxy::start_with(broker.address(), Arc::new(plan)).await;
    let mut story = Story::tell("cuts", &proxy.url(), &["demo/cuts", &MESSAGES.to_string()]);
    story.says("waiting").await;
    cutting.store(true, Ordering::SeqCst);
    broker.kill();
    let broker = Broker::start(&data);
    proxy.set_upstream(Some(broker.address()));
    story.told("cutting").await;
    let wanted: Vec<String> = (0..MESSAGES).map(|number| format!("message {number}")).collect();
    assert_eq!(story.texts().await, wanted);
    story.says("ok").await;
    assert!(proxy.cuts() >= 5, "only {} connections were cut", proxy.cuts());
    let url = broker.url();
    let arguments = ["--url", &url, "tail", "demo/cuts", "--from", "start", "--raw", "--no-follow"];
    let tail = tokio::task::block_in_place(|| longwire(&arguments));
    assert_eq!(String::from_utf8(tail.stdout).unwrap(), wanted.join("\n") + "\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_wakes_up_finds_out_at_once_that_its_connection_is_dead() {
    if !browser_is_there() {
        return;
    }
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let session = session(&broker.url(), "demo/sleep");
    session.publish("before").await.unwrap();
    let mut story = Story::tell("sleep", &broker.url(), &["demo/sleep"]);
    story.says("live").await;
    // It answers nothing and closes nothing, as a network that is gone.
    kill_process(broker.pid(), Signal::STOP).unwrap();
    story.told("stopped").await;
    story.says("noticed").await;
    kill_process(broker.pid(), Signal::CONT).unwrap();
    session.publish("after").await.unwrap();
    story.told("published").await;
    story.says("ok").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_scrolls_back_to_the_first_of_two_thousand_records() {
    const RECORDS: usize = 2_000;
    if !browser_is_there() {
        return;
    }
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let session = session(&broker.url(), "demo/long");
    for chunk in (0..RECORDS).collect::<Vec<_>>().chunks(500) {
        let lines = chunk.iter().map(|line| Publication::text(format!("line {line}")));
        session.publish_all(lines).await.unwrap();
    }
    let mut story = Story::tell("scroll", &broker.url(), &["demo/long", &RECORDS.to_string()]);
    story.says("at the start").await;
    session.publish(format!("line {RECORDS}")).await.unwrap();
    story.told("published").await;
    story.says("ok").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_laptop_and_a_phone_share_a_session_by_links_until_one_is_revoked() {
    if !browser_is_there() {
        return;
    }
    let (folder, data) = folder();
    let log = folder.path().join("log");
    let broker = Broker::start_traced(&data, &[("AUTH", "true")], &log);
    let tokens = Tokens::of(&data);
    let url = broker.url().replace("ws://", "http://");
    let link = |token: &str| format!("{url}/#/s/a/chat?token={token}");
    let own = tokens.token("ada", &["a/**:read,publish,manage"]);
    let client = client(&broker.url(), &own);
    let session = client.session("a/chat").unwrap();
    let stranger = tokens.token("eve", &["b/**:read,publish,create,manage"]);
    let phone = session.share(Right::Read | Right::Publish, None).await.unwrap();
    let reader = session.share(Right::Read, None).await.unwrap();
    let again = session.share(Right::Read, None).await.unwrap();
    let expired = tokens.short("ada", &["a/**:read"], 1_000);
    let mut story = Story::tell("shared", &broker.url(), &["a/chat"]);
    for token in [&own, &phone.token, &stranger, &reader.token, &expired] {
        story.told(&link(token)).await;
    }
    story.says("sharing").await;
    client.revoke_token(&phone.token).await.unwrap();
    story.told("revoked").await;
    story.told(&link(&again.token)).await;
    story.says("ok").await;
    assert_eq!(broker.get_bearer(&own, "/metrics").0, 403);
    assert!(broker.terminate());
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("connected"), "nothing was logged");
    for token in [own, stranger, phone.token, reader.token, again.token, expired] {
        // Not even a part of it that is nobody else's.
        let signature = token.rsplit('.').next().unwrap();
        let line = log.lines().find(|line| line.contains(signature));
        assert!(line.is_none(), "the log has a token in: {}", &line.unwrap_or_default()[..100]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_reaches_a_phone_by_a_link_and_the_answer_comes_back() {
    if !browser_is_there() {
        return;
    }
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[]);
    let ada = tokens.token("ada", &["a/**:read,publish,create,answer,manage"]);
    let session = client(&broker.url(), &ada).session("a/deploy").unwrap();
    let agent =
        client(&broker.url(), &tokens.token("agent", &["a/**:read,publish"])).session("a/deploy").unwrap();
    session.publish("building").await.unwrap();
    let phone = session.share(Right::Read | Right::Answer, None).await.unwrap();
    let mut story = Story::tell("asked", &broker.url(), &["a/deploy"]);
    let link =
        |token: &str| format!("{}/#/s/a/deploy?token={token}", broker.url().replace("ws://", "http://"));
    story.told(&link(&ada)).await;
    story.told(&link(&phone.token)).await;
    let ask = agent
        .ask("Deploy <b>it</b>?")
        .option("yes", "Yes, go")
        .option("no", "")
        .risk("high")
        .subject("./deploy.sh");
    let answer = tokio::spawn(ask.into_future());
    story.says("asked").await;
    story.says("answered").await;
    let answered = answer.await.unwrap().unwrap();
    assert!(answered.is("yes") && answered.by.starts_with("guest-"), "{answered:?}");
    let field = |name: &str, of: &str, title: &str| FormField {
        name: name.into(),
        r#type: of.into(),
        title: title.into(),
        ..Default::default()
    };
    let values = ["us", "eu"].map(|id| AskOption { id: id.into(), label: String::new() }).into();
    let form = agent.ask("Where to?").field(FormField {
        required: true,
        values,
        ..field("region", "enum", "Region")
    });
    let form = form.field(field("count", "integer", "Count")).field(field("force", "boolean", "Force"));
    let mut asks = session.subscribe(From::End).kinds([3]).await.unwrap();
    let filled = tokio::spawn(form.into_future());
    asks.next().await.unwrap().unwrap();
    let elsewhere = tokio::spawn(agent.ask("Also?").id("elsewhere").options(["yes"]).into_future());
    story.says("filled in").await;
    let filled = filled.await.unwrap().unwrap();
    assert_eq!(
        (filled.text("region"), filled.number("count"), filled.flag("force")),
        (Some("eu"), Some(3.0), Some(true))
    );
    session.answer("elsewhere").deny().await.unwrap();
    assert_eq!(elsewhere.await.unwrap().unwrap().outcome, AskOutcome::Denied);
    story.says("ok").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_shows_it_without_scrolling_sideways() {
    if !browser_is_there() {
        return;
    }
    let (folder, data) = folder();
    let broker = Broker::start(&data);
    let build = session(&broker.url(), "acme/build/42");
    build.create_or_update(longwire::SessionMeta::titled("Nightly build".to_owned())).await.unwrap();
    let line = |stream: &str, text: &str| Publication::text(text).header("longwire-stream", stream);
    let output = [
        ("stdout", "$ cargo build --release && cargo nextest run".to_owned()),
        ("stdout", "   Compiling longwire-proto v0.1.0".to_owned()),
        ("stdout", "   Compiling longwire-core v0.1.0".to_owned()),
        ("stdout", "   Compiling longwire-broker v0.1.0".to_owned()),
        ("stderr", "warning: unused variable: `offset`".to_owned()),
        ("stderr", "  --> broker/src/tail.rs:217:9".to_owned()),
        ("stdout", "    Finished `release` profile in 2m 41s".to_owned()),
        ("stdout", "   Starting 212 tests across 9 binaries".to_owned()),
        ("stdout", "       PASS kill9::nothing_is_lost".to_owned()),
        ("stdout", "       PASS cuts::exactly_once_in_order".to_owned()),
        ("stdout", "       PASS drain::clients_go_on".to_owned()),
        ("stdout", "    Summary 212 tests run: 212 passed".to_owned()),
        ("stdout", format!("sha256 {}", "5f3a9c07d1e8b246".repeat(4))),
    ];
    for (stream, text) in output {
        build.publish(line(stream, &text)).await.unwrap();
    }
    build.publish("Everything is green. Shall I deploy it to staging?").await.unwrap();
    session(&broker.url(), "demo/notes").publish("anybody there?").await.unwrap();
    let picture =
        std::env::var("LONGWIRE_TEST_PICTURE").map_or_else(|_| folder.path().join("page.png"), PathBuf::from);
    let picture = picture.to_str().unwrap();
    let mut story = Story::tell("phone", &broker.url(), &["acme/build/42", picture]);
    story.says("ok").await;
    assert!(Path::new(picture).is_file());
}
