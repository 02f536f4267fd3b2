//! Several people (or agents) in one session, each in a terminal.
//!
//! ```sh
//! cargo run -p longwire-examples --example chat -- ada
//! cargo run -p longwire-examples --example chat -- grace      # in another terminal
//! ```
//! Whoever joins later sees the last ten messages; whoever was cut off misses nothing. What is typed is shown at once as `…` while it is
//! sent, and then as `✓` where it is in the session, or as `✗` with the reason why it is not. `/edit TEXT` replaces what you said last;
//! `/branch NAME` goes on in a session of that name, which has everything that was said so far.

use std::collections::BTreeMap;

use longwire::{
    Client, ConnectionState, From, Publication, PublishError, Record, Session, SessionMeta, Subscription,
};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;

/// Says who wrote a message, as long as everybody is `anonymous` to the broker.
const NAME_HEADER: &str = "name";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().ok_or_else(|| anyhow::anyhow!("usage: chat NAME [SESSION]"))?;
    let id = arguments.next().unwrap_or_else(|| "demo/chat".to_owned());

    let client = Client::from_env()?;
    let mut chat = Chat::join(client.clone(), name, &id).await?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    println!("you are {} in {id}; write, or end with Ctrl-D", chat.name);
    loop {
        tokio::select! {
            line = lines.next_line() => match line? {
                Some(line) => chat.typed(line.trim()).await?,
                None => break,
            },
            next = chat.messages.next() => match next {
                Some(record) => chat.show(&record?),
                None => break,
            },
            Some(sent) = chat.sending.join_next() => chat.settled(sent?),
        }
    }
    chat.settle().await?;
    client.shutdown().await?;
    Ok(())
}

/// The id of a message, and what became of it.
type Sent = (String, Result<(), PublishError>);

struct Chat {
    client: Client,
    name: String,
    /// Who the broker takes us for.
    principal: String,
    session: Session,
    messages: Subscription,
    /// What the broker has not answered yet; there is no more of it than the outbox has room for.
    sending: JoinSet<Sent>,
    /// What is shown as being sent, by the ids that were minted for it.
    echoes: BTreeMap<String, String>,
    /// The message that an edit takes the place of.
    last: Option<String>,
}

impl Chat {
    async fn join(client: Client, name: String, id: &str) -> anyhow::Result<Self> {
        let session = client.session(id)?;
        let messages = session.subscribe(From::Last(10)).wait_for_session().await?;
        let principal = principal(&client).await?;
        let (sending, echoes) = (JoinSet::new(), BTreeMap::new());
        Ok(Self { client, name, principal, session, messages, sending, echoes, last: None })
    }

    async fn typed(&mut self, line: &str) -> anyhow::Result<()> {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("", _) => {}
            ("/edit", text) if !text.is_empty() => match self.last.clone() {
                Some(last) => self.say(Publication::text(text).replaces(last), text).await,
                None => println!("there is nothing that could be edited"),
            },
            ("/branch", name) if !name.is_empty() => self.branch(name).await?,
            ("/edit" | "/branch", _) => println!("/edit TEXT or /branch NAME"),
            _ => self.say(Publication::text(line), line).await,
        }
        Ok(())
    }

    /// Shows it before the broker has it. The record that comes back with the id takes the place of this echo.
    async fn say(&mut self, message: Publication, text: &str) {
        println!("… {}", harmless(text));
        let id = self.client.mint_id();
        self.last = Some(id.clone());
        self.echoes.insert(id.clone(), text.to_owned());
        let accepted = self.session.enqueue(message.id(&id).header(NAME_HEADER, &self.name)).await;
        self.sending.spawn(async move {
            match accepted {
                Ok(acknowledgement) => (id, acknowledgement.await.map(drop)),
                Err(error) => (id, Err(error)),
            }
        });
    }

    /// The broker has answered. What it took comes back as a record; what it refused does not.
    fn settled(&mut self, (id, outcome): Sent) {
        let Err(error) = outcome else { return };
        if self.last.as_ref() == Some(&id) {
            self.last = None;
        }
        if let Some(text) = self.echoes.remove(&id) {
            println!("✗ {}: {error}", harmless(&text));
        }
    }

    /// Waits until it is shown of everything that was typed whether it was sent.
    async fn settle(&mut self) -> anyhow::Result<()> {
        while let Some(sent) = self.sending.join_next().await {
            self.settled(sent?);
        }
        while !self.echoes.is_empty()
            && let Some(record) = self.messages.next().await
        {
            self.show(&record?);
        }
        Ok(())
    }

    fn show(&mut self, record: &Record) {
        let Some(text) = record.text().map(harmless) else { return };
        let from = record.headers.get(NAME_HEADER).unwrap_or(&record.sender.principal);
        let edited = if record.replaces.is_empty() { "" } else { " (edited)" };
        let is_own = record.sender.principal == self.principal;
        if is_own && self.echoes.remove(&record.id).is_some() {
            println!("✓ {text}{edited}");
        } else {
            println!("{}: {text}{edited}", harmless(from));
            if is_own && *from == self.name && !record.id.is_empty() && self.echoes.is_empty() {
                self.last = Some(record.id.clone());
            }
        }
    }

    /// Goes on in another session, which has everything up to here.
    async fn branch(&mut self, name: &str) -> anyhow::Result<()> {
        // What was said before the branch is a part of it.
        self.settle().await?;
        let branch = match self.fork(name).await {
            Ok(branch) => branch,
            Err(error) => {
                println!("✗ no branch: {error}");
                return Ok(());
            }
        };
        // Positions before the fork are the same in both: what was not read here yet is read there.
        let from = self.messages.position().map_or(From::Start, From::Position);
        self.messages = branch.subscribe(from).await?;
        self.session = branch;
        println!("you are {} in {name}", self.name);
        Ok(())
    }

    async fn fork(&self, name: &str) -> anyhow::Result<Session> {
        let branch = self.client.session(name)?;
        let meta = SessionMeta { parent: self.session.id().to_string(), ..SessionMeta::titled(name) };
        self.session.fork(branch.id(), None, Some(meta)).await?;
        Ok(branch)
    }
}

/// Who the broker takes the client for, once it has welcomed it.
async fn principal(client: &Client) -> anyhow::Result<String> {
    let mut state = client.state();
    let welcomed = |state: &ConnectionState| matches!(state, ConnectionState::Connected { .. });
    match &*state.wait_for(welcomed).await? {
        ConnectionState::Connected { principal, .. } => Ok(principal.clone()),
        other => anyhow::bail!("not connected: {other:?}"),
    }
}

/// What others write must not steer this terminal.
fn harmless(text: impl AsRef<str>) -> String {
    text.as_ref().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
