//! Asking somebody, and waiting for the answer.

use std::future::IntoFuture;
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use longwire_proto::kind;
use longwire_proto::wire;
use longwire_proto::wire::record::Body as WireBody;

use crate::answered::Answered;
use crate::client::Client;
use crate::error::{AskError, PublishError, RequestError};
use crate::from::From;
use crate::machine::calls::{Answer, Call};
use crate::publication::Publication;
use crate::record::{Body, Record};
use crate::session::Session;

/// A question to be asked: set options, then await it. It is durable as soon as it is asked and goes on without whoever asks: give it
/// an [id](Self::id), and an agent that crashed and asks again under it gets the answer that was given meanwhile.
///
/// ```no_run
/// # async fn example(session: longwire::Session) -> Result<(), longwire::AskError> {
/// let answer = session.ask("Deploy?").id("deploy-42").options(["yes", "no"]).to_role("approver").await?;
/// if answer.is("yes") { /* expired, denied and cancelled are answers that grant nothing */ }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is asked until it is awaited"]
pub struct Ask {
    session: Session,
    id: Option<String>,
    run: String,
    to: Vec<String>,
    ask: wire::Ask,
    /// From when it is asked.
    expires_in: Option<Duration>,
}

impl Ask {
    pub(crate) fn new(session: Session, title: impl Into<String>) -> Self {
        let ask = wire::Ask { title: title.into(), ..Default::default() };
        Self { session, id: None, run: String::new(), to: Vec::new(), ask, expires_in: None }
    }

    /// Names it: at most 64 of `A-Z a-z 0-9 _ -`. Asking again under the same id asks nothing new.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Names the run that it belongs to; it is cancelled when that ends.
    pub fn run(mut self, run: impl Into<String>) -> Self {
        self.run = run.into();
        self
    }

    /// The options to choose from, by their ids.
    pub fn options<T: Into<String>>(mut self, ids: impl IntoIterator<Item = T>) -> Self {
        self.ask.options =
            ids.into_iter().map(|id| wire::AskOption { id: id.into(), label: String::new() }).collect();
        self
    }

    /// One more option, with a label for humans.
    pub fn option(mut self, id: impl Into<String>, label: impl Into<String>) -> Self {
        self.ask.options.push(wire::AskOption { id: id.into(), label: label.into() });
        self
    }

    /// One more field of a form, instead of options.
    pub fn field(mut self, field: wire::FormField) -> Self {
        self.ask.fields.push(field);
        self
    }

    /// A principal that may answer. With neither these nor roles everybody may who has the right to answer.
    pub fn to(mut self, principal: impl Into<String>) -> Self {
        self.to.push(principal.into());
        self
    }

    /// Whoever has this role may answer.
    pub fn to_role(mut self, role: impl Into<String>) -> Self {
        self.ask.roles.push(role.into());
        self
    }

    /// More than the title says.
    pub fn description(mut self, description: impl Into<String>) -> Self {
        self.ask.description = description.into();
        self
    }

    /// What it is about, such as a command or an address.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.ask.subject = subject.into();
        self
    }

    /// `low`, `medium` or `high`.
    pub fn risk(mut self, risk: impl Into<String>) -> Self {
        self.ask.risk = risk.into();
        self
    }

    /// Expires so long after it is asked, by this machine's clock.
    pub fn expires_in(mut self, time: Duration) -> Self {
        self.expires_in = Some(time);
        self
    }

    /// Asks, and does not wait for the answer: the id under which it was asked.
    ///
    /// # Errors
    /// [`AskError::Publish`]
    pub async fn send(self) -> Result<String, AskError> {
        let (session, id, publication) = self.publication();
        session.publish(publication).await?;
        Ok(id)
    }

    fn publication(mut self) -> (Session, String, Publication) {
        if let Some(time) = self.expires_in {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.ask.expires_at_ms = u64::try_from((now + time).as_millis()).unwrap_or(u64::MAX);
        }
        let id = self.id.unwrap_or_else(|| self.session.client().mint_id());
        let mut publication = Publication::entity(kind::ASK, WireBody::Ask(self.ask)).id(&id).run(self.run);
        for principal in self.to {
            publication = publication.to(principal);
        }
        (self.session, id, publication)
    }

    async fn answered(self) -> Result<Answered, AskError> {
        let (session, id, publication) = self.publication();
        // Before it is asked, so that no answer comes before somebody listens.
        let mut answers = session.subscribe(From::End).wait_for_session().kinds([kind::ANSWER]).await?;
        if session.publish(publication).await?.duplicate
            && let Some(answered) = session.ask_state(&id).await?
        {
            return Ok(answered);
        }
        while let Some(record) = answers.next().await {
            match record {
                Ok(record) if record.reply_to == id => {
                    if let Some(answered) = from_record(record) {
                        return Ok(answered);
                    }
                }
                Ok(_) => {}
                // The answer may have been in what is missing.
                Err(error) if error.goes_on() => {
                    if let Some(answered) = session.ask_state(&id).await? {
                        return Ok(answered);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(AskError::SessionClosed(id))
    }
}

fn from_record(record: Record) -> Option<Answered> {
    let Body::Answer(answer) = record.body else { return None };
    let outcome = if answer.outcome.is_empty() { "answered".to_owned() } else { answer.outcome.clone() };
    let (by, offset, time_ms) = (record.sender.principal, record.offset, record.time_ms);
    Answered::of(wire::Resolution { outcome, by, offset, time_ms, answer: Some(*answer) })
}

impl IntoFuture for Ask {
    type Output = Result<Answered, AskError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.answered())
    }
}

/// How the ask of this id ended; `None` while it is open.
pub(crate) async fn state(
    client: &Client,
    session: &str,
    id: &str,
) -> Result<Option<Answered>, RequestError> {
    let call = wire::DescribeAsk { request: 0, session: session.to_owned(), ask: id.to_owned() };
    match client.handle().call(Call::DescribeAsk(call)).await? {
        Answer::Ask(description) => Ok(description.resolved.and_then(Answered::of)),
        _ => Err(RequestError::UnexpectedAnswer),
    }
}

/// The end of an ask to be published: set how it ends, then await it.
#[derive(Clone, Debug)]
#[must_use = "nothing is answered until it is awaited"]
pub struct Reply {
    session: Session,
    ask: String,
    answer: wire::Answer,
}

impl Reply {
    pub(crate) fn new(session: Session, ask: impl Into<String>) -> Self {
        Self { session, ask: ask.into(), answer: wire::Answer::default() }
    }

    /// Chooses an option.
    pub fn option(mut self, id: impl Into<String>) -> Self {
        self.answer.option = id.into();
        self
    }

    /// Fills a field in.
    pub fn value(mut self, field: impl Into<String>, value: impl Into<FieldValue>) -> Self {
        self.answer.values.insert(field.into(), wire::Value { value: Some(value.into().0) });
        self
    }

    /// Says something with it.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.answer.note = note.into();
        self
    }

    /// Declines to answer.
    pub fn deny(mut self) -> Self {
        self.answer.outcome = "denied".to_owned();
        self
    }

    /// Ends it because it is not asked any more; only who asked may, and who manages the session.
    pub fn cancel(mut self) -> Self {
        self.answer.outcome = "cancelled".to_owned();
        self
    }
}

impl IntoFuture for Reply {
    type Output = Result<(), PublishError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let publication = Publication::entity(kind::ANSWER, WireBody::Answer(self.answer)).reply_to(self.ask);
        Box::pin(async move { self.session.publish(publication).await.map(drop) })
    }
}

/// What a field of a form is filled in with: text, a number, or yes or no.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldValue(wire::value::Value);

impl std::convert::From<&str> for FieldValue {
    fn from(text: &str) -> Self {
        Self(wire::value::Value::String(text.to_owned()))
    }
}

impl std::convert::From<String> for FieldValue {
    fn from(text: String) -> Self {
        Self(wire::value::Value::String(text))
    }
}

impl std::convert::From<f64> for FieldValue {
    fn from(number: f64) -> Self {
        Self(wire::value::Value::Number(number))
    }
}

impl std::convert::From<bool> for FieldValue {
    fn from(flag: bool) -> Self {
        Self(wire::value::Value::Boolean(flag))
    }
}
