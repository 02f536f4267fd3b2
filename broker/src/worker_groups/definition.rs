//! What a worker group was told, and how the store keeps it.

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::wire;
use longwire_proto::worker_group::{GroupName, GroupTerms};
use serde::{Deserialize, Serialize};

use crate::outgoing::url::OutgoingUrl;
use crate::worker_groups::wakes::Attempt;
use crate::worker_groups::webhook::{Secret, Webhooks};

/// Bytes of a hash that name a wake: what is never there twice.
const WAKE_ID_BYTES: usize = 16;

/// See the top of this file. It does not show where webhooks go and what they are signed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The group.
    pub name: GroupName,
    /// Tells it from one that had its name before.
    pub id: u64,
    /// Whom it wakes.
    pub terms: GroupTerms,
    /// Where webhooks go.
    pub url: OutgoingUrl,
    /// What they are signed with.
    pub secret: Secret,
    text: Url,
}

/// As it was given, which has what must not be shown.
#[derive(Clone, PartialEq, Eq)]
struct Url(String);

impl std::fmt::Debug for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Url")
    }
}

/// The value in the store's table, as JSON.
#[derive(Serialize, Deserialize)]
struct Row {
    id: u64,
    pattern: String,
    agent: String,
    url: String,
    secret: String,
    in_flight_max: u32,
    attempts_max: u32,
}

impl Definition {
    /// What somebody wants of a group.
    ///
    /// # Errors
    /// Those of [`GroupTerms::new`], [`Webhooks::check`] and [`Secret::parse`].
    pub fn new(
        name: GroupName,
        id: u64,
        wish: wire::SetWorkerGroup,
        webhooks: &Webhooks,
    ) -> Result<Self, Error> {
        let wire::SetWorkerGroup { pattern, agent, url: text, secret, in_flight_max, attempts_max, .. } =
            wish;
        let terms = GroupTerms::new(&name, &pattern, &agent, in_flight_max, attempts_max)?;
        let url = webhooks.check(&text)?;
        let secret = Secret::parse(&secret)?;
        Ok(Self { name, id, terms, url, secret, text: Url(text) })
    }

    /// As the store keeps it.
    ///
    /// # Errors
    /// [`ErrorCode::Internal`].
    pub fn encode(&self) -> Result<Bytes, Error> {
        let row = Row {
            id: self.id,
            pattern: self.terms.pattern.to_string(),
            agent: self.terms.agent.clone(),
            url: self.text.0.clone(),
            secret: self.secret.reveal(),
            in_flight_max: u32::try_from(self.terms.in_flight_max).unwrap_or(u32::MAX),
            attempts_max: self.terms.attempts_max,
        };
        let failed = |_| Error::new(ErrorCode::Internal, "the worker group cannot be written");
        Ok(serde_json::to_vec(&row).map_err(failed)?.into())
    }

    /// What the store kept under this name; `None` when that is none, as far as this version knows.
    #[must_use]
    pub fn decode(name: &str, value: &[u8]) -> Option<Self> {
        let Row { id, pattern, agent, url: text, secret, in_flight_max, attempts_max } =
            serde_json::from_slice(value).ok()?;
        let name = GroupName::parse(name).ok()?;
        let terms = GroupTerms::new(&name, &pattern, &agent, in_flight_max, attempts_max).ok()?;
        // Where webhooks may go is the configuration's of now, and is looked at with each of them.
        let (url, secret) = (OutgoingUrl::parse(&text).ok()?, Secret::parse(&secret).ok()?);
        Some(Self { name, id, terms, url, secret, text: Url(text) })
    }

    /// What whoever manages it is told.
    #[must_use]
    pub fn to_wire(&self) -> wire::WorkerGroup {
        wire::WorkerGroup {
            group: self.name.to_string(),
            pattern: self.terms.pattern.to_string(),
            agent: self.terms.agent.clone(),
            webhook: self.url.origin(),
            in_flight_max: u32::try_from(self.terms.in_flight_max).unwrap_or(u32::MAX),
            attempts_max: self.terms.attempts_max,
            session: self.name.history().to_string(),
            dead_letters: self.name.dead_letters().to_string(),
        }
    }

    /// The id of a wake: every try of it has the same, in whatever life of the broker, and no other wake has.
    #[must_use]
    pub fn wake_id(&self, attempt: &Attempt) -> String {
        let call = attempt.call;
        let numbers = [self.id, attempt.log.0, call.generation, call.inputs_next, call.runs, call.runs_next];
        let mut named: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        named.extend(self.terms.agent.as_bytes());
        let hash = digest(&SHA256, &named);
        let hex = hash.as_ref().iter().take(WAKE_ID_BYTES).map(|byte| format!("{byte:02x}"));
        format!("wake_{}", hex.collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use longwire_core::entity::call::Call;
    use longwire_proto::position::Position;
    use longwire_proto::session_id::SessionId;

    use super::*;
    use crate::store::LogId;

    fn definition() -> Definition {
        let name = GroupName::parse("acme/coders").unwrap();
        let wish = wire::SetWorkerGroup {
            pattern: "acme/chat/*".into(),
            agent: "coder".into(),
            url: "https://hooks.example/canary?key=canary".into(),
            secret: "whsec_Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5".into(),
            attempts_max: 3,
            ..Default::default()
        };
        Definition::new(name, 7, wish, &Webhooks::new(Vec::new())).unwrap()
    }

    #[test]
    fn the_store_keeps_all_of_it_and_nobody_else_is_shown_a_secret() {
        let definition = definition();
        let kept = definition.encode().unwrap();
        assert_eq!(Definition::decode("acme/coders", &kept), Some(definition.clone()));
        assert_eq!(Definition::decode("acme", &kept), None);
        assert_eq!(Definition::decode("other/coders", &kept), None, "it leads elsewhere");
        assert_eq!(Definition::decode("acme/coders", b"{}"), None);
        let told = definition.to_wire();
        assert_eq!((told.webhook.as_str(), told.attempts_max), ("https://hooks.example", 3));
        for shown in [format!("{definition:?}"), format!("{told:?}")] {
            assert!(!shown.contains("canary") && !shown.contains("Y2FuYXJ5"), "{shown}");
        }
    }

    #[test]
    fn a_wake_has_one_id_and_no_other_has_it() {
        let definition = definition();
        let attempt = |log, generation, number| Attempt {
            serial: number,
            log: LogId(log),
            session: SessionId::parse("acme/chat/1").unwrap(),
            position: Position::default(),
            call: Call { generation, inputs_next: 3, ..Call::default() },
            number: 1,
        };
        let id = definition.wake_id(&attempt(1, 1, 1));
        assert!(id.len() == 5 + 2 * WAKE_ID_BYTES && id.is_ascii());
        assert_eq!(definition.wake_id(&attempt(1, 1, 2)), id);
        let others = [
            definition.wake_id(&attempt(2, 1, 1)),
            definition.wake_id(&attempt(1, 2, 1)),
            Definition { id: 8, ..definition.clone() }.wake_id(&attempt(1, 1, 1)),
        ];
        assert!(!others.contains(&id));
    }
}
