//! The example in which several people talk: its real process, with what is typed and what is shown.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use longwire::{Client, From, Record, Session};

use crate::support::broker::{Broker, example, folder};
use crate::support::tokens::Tokens;

/// Somebody at a terminal. Whoever is dropped is killed.
struct Person {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Person {
    fn comes(broker: &Broker, token: &str, name: &str, session: &str) -> Self {
        let mut command = Command::new(example("chat"));
        command.args([name, session]).env("LONGWIRE_URL", broker.url()).env("LONGWIRE_TOKEN", token);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut person = Self { stdin: child.stdin.take(), child, stdout };
        person.reads(&format!("you are {name} in {session}; write, or end with Ctrl-D"));
        person
    }

    fn types(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn next(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// The next line is this.
    #[track_caller]
    fn reads(&mut self, line: &str) {
        assert_eq!(self.next(), line);
    }

    /// Ends with Ctrl-D; what was shown until then and not read.
    fn leaves(mut self) -> Vec<String> {
        drop(self.stdin.take());
        let rest = std::iter::from_fn(|| Some(self.next()).filter(|line| !line.is_empty())).collect();
        assert!(self.child.wait().unwrap().success());
        rest
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

async fn messages(session: &Session) -> Vec<Record> {
    let mut records = session.subscribe(From::Start).kinds([0]).until_end().await.unwrap();
    let mut all = Vec::new();
    while let Some(record) = records.next().await {
        all.push(record.unwrap());
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_typed_is_shown_at_once_edited_and_branched() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[]);
    let rights = ["demo/**:read,publish,create,manage"];
    let [ada_token, grace_token] = ["ada", "grace"].map(|name| tokens.token(name, &rights));
    let mut ada = Person::comes(&broker, &ada_token, "ada", "demo/chat");
    let mut grace = Person::comes(&broker, &grace_token, "grace", "demo/chat");
    ada.types("/edit nothing yet");
    ada.reads("there is nothing that could be edited");
    ada.types("helo");
    ada.reads("… helo");
    ada.reads("✓ helo");
    grace.reads("ada: helo");
    ada.types("/edit hello");
    ada.reads("… hello");
    ada.reads("✓ hello (edited)");
    grace.reads("ada: hello (edited)");
    grace.types("hi");
    grace.reads("… hi");
    grace.reads("✓ hi");
    ada.reads("grace: hi");

    // Whoever comes back edits what was said before, of the own messages the last one.
    assert_eq!(ada.leaves(), Vec::<String>::new());
    let mut ada = Person::comes(&broker, &ada_token, "ada", "demo/chat");
    for line in ["ada: helo", "ada: hello (edited)", "grace: hi"] {
        ada.reads(line);
    }
    ada.types("/edit hello!");
    ada.reads("… hello!");
    ada.reads("✓ hello! (edited)");
    grace.reads("ada: hello! (edited)");

    // Who goes on elsewhere takes along what was said, and nobody else.
    ada.types("/branch demo/chat");
    assert!(ada.next().starts_with("✗ no branch: the session `demo/chat` exists already"));
    ada.types("/branch demo/other");
    ada.reads("you are ada in demo/other");
    ada.types("alone");
    ada.reads("… alone");
    grace.types("together");
    grace.reads("… together");
    grace.reads("✓ together");
    // Nobody leaves before what was typed is there.
    assert_eq!((ada.leaves(), grace.leaves()), (vec!["✓ alone".to_owned()], vec![]));

    let (client, driver) = Client::builder().url(broker.url()).token(ada_token).build().unwrap();
    drop(tokio::spawn(driver));
    let [chat, other] = ["demo/chat", "demo/other"].map(|id| client.session(id).unwrap());
    let (said, branched) = (messages(&chat).await, messages(&other).await);
    let texts = |records: &[Record]| -> Vec<String> {
        records.iter().map(|record| record.text().unwrap().to_owned()).collect()
    };
    assert_eq!(texts(&said), ["helo", "hello", "hi", "hello!", "together"]);
    assert_eq!(texts(&branched), ["helo", "hello", "hi", "hello!", "alone"]);
    assert_eq!(said[..4], branched[..4], "and at the same offsets");
    // Each edit takes the place of the one before it.
    let replaces: Vec<&str> = said.iter().map(|record| record.replaces.as_str()).collect();
    assert_eq!(replaces, ["", &said[0].id, "", &said[1].id, ""]);
    let info = other.describe().await.unwrap();
    assert_eq!((info.meta.title.as_str(), info.meta.parent.as_str()), ("demo/other", "demo/chat"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_shown_as_not_sent() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[]);
    let ada = tokens.token("ada", &["demo/**:read,publish,create"]);
    let (client, driver) = Client::builder().url(broker.url()).token(ada).build().unwrap();
    drop(tokio::spawn(driver));
    let session = client.session("demo/chat").unwrap();
    session.publish("come in").await.unwrap();
    let mut eve = Person::comes(&broker, &tokens.token("eve", &["demo/**:read"]), "eve", "demo/chat");
    eve.reads("ada: come in");
    eve.types("let me say this");
    eve.reads("… let me say this");
    let refused = eve.next();
    assert!(refused.starts_with("✗ let me say this: ") && refused.ends_with("(forbidden)"), "{refused}");
    // What was not sent cannot be edited.
    eve.types("/edit or this");
    eve.reads("there is nothing that could be edited");
    assert_eq!(eve.leaves(), Vec::<String>::new());
    assert_eq!(messages(&session).await.len(), 1);
}
