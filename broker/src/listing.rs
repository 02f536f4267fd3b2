//! Pages of the list of sessions: the conditions of a request, and the token that says where its next page begins.

use std::sync::Arc;

use longwire_core::entity::view::Status;
use longwire_core::term;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::{LIST_PAGE_DEFAULT, LIST_PAGE_MAX, SESSION_ID_BYTES_MAX};
use longwire_proto::meta::Meta;
use longwire_proto::pattern::Pattern;
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;
use xxhash_rust::xxh3::xxh3_64;

use crate::auth::authorise::authorise;
use crate::auth::operation::Operation;
use crate::auth::principal::Principal;
use crate::kept_secret::NoRandom;
use crate::page_token::PageTokens;
use crate::store::reconcile::retry_read;
use crate::store::{ListPage, ListQuery, Store};
use crate::store_error::to_error;

/// Pages of the store that one page looks at: a pattern that few sessions match gives short pages, not long waits.
const STORE_PAGES_MAX: usize = 8;

/// The conditions of a list, and where it goes on.
#[derive(Clone)]
pub struct Listing {
    query: ListQuery,
    pattern: Option<Pattern>,
    hash: u64,
    tokens: Arc<PageTokens>,
}

/// One page.
#[derive(Clone, Debug)]
pub struct Page {
    /// The sessions.
    pub found: ListPage,
    /// Names the next page; empty when there is none.
    pub next_page: String,
}

impl Listing {
    /// The conditions of a request.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidPattern`], [`ErrorCode::InvalidArgument`], [`ErrorCode::InvalidSessionId`] or
    /// [`ErrorCode::PageMismatch`].
    pub fn from_wire(list: wire::ListSessions, tokens: Arc<PageTokens>) -> Result<Self, Error> {
        let wire::ListSessions { request: _, prefix, page, limit, pattern, labels, status, parent } = list;
        let hash = conditions_hash(&[&prefix, &pattern, &status, &parent], &labels);
        // A prefix may end within a segment, so it need not be an id.
        longwire_proto::meta::check_length("prefix", &prefix, SESSION_ID_BYTES_MAX)?;
        let pattern = match pattern.as_str() {
            "" => None,
            text => Some(text.parse::<Pattern>().map_err(|error| {
                Error::new(ErrorCode::InvalidPattern, error.to_string()).field("pattern")
            })?),
        };
        // Labels and parent have the limits of metadata.
        let meta = Meta::from_wire(wire::SessionMeta { labels, parent, ..Default::default() })?;
        let mut terms: Vec<_> = meta.labels.iter().map(|(name, value)| term::label(name, value)).collect();
        terms.extend(meta.parent.as_ref().map(term::parent));
        match status.as_str() {
            "" => {}
            "open" => terms.push(term::status(false)),
            "closed" => terms.push(term::status(true)),
            "working" => terms.extend(term::doing(Status::Working)),
            "input_required" => terms.extend(term::doing(Status::InputRequired)),
            other => {
                let message =
                    format!("`status` is `open`, `closed`, `working` or `input_required`, not `{other}`");
                return Err(Error::new(ErrorCode::InvalidArgument, message).field("status"));
            }
        }
        let after = (!page.is_empty()).then(|| after(&tokens, &page, hash)).transpose()?;
        let limit = match usize::try_from(limit) {
            Ok(0) => LIST_PAGE_DEFAULT,
            Ok(limit) => limit.min(LIST_PAGE_MAX),
            Err(_) => LIST_PAGE_MAX,
        };
        Ok(Self { query: ListQuery { prefix, after, terms, limit }, pattern, hash, tokens })
    }

    /// Looks the page up, as somebody may see it.
    ///
    /// # Errors
    /// [`ErrorCode::DataCorrupt`] or [`ErrorCode::StorageUnavailable`].
    pub async fn page(mut self, store: &dyn Store, principal: &Principal) -> Result<Page, Error> {
        let pattern = self.pattern.take();
        // Who is of one tenant does not wait for others to be passed over.
        let narrower =
            [pattern.as_ref().map_or("", Pattern::prefix), principal.tenant.as_deref().unwrap_or_default()];
        for prefix in narrower {
            if prefix.starts_with(&self.query.prefix) {
                self.query.prefix = prefix.to_owned();
            } else if !self.query.prefix.starts_with(prefix) {
                return Ok(Page { found: ListPage::default(), next_page: String::new() });
            }
        }
        let shown = |session: &SessionId| {
            pattern.as_ref().is_none_or(|pattern| pattern.matches(session))
                && authorise(principal, Operation::List, session).is_ok()
        };
        let limit = self.query.limit;
        let mut found = ListPage::default();
        for _ in 0..STORE_PAGES_MAX {
            self.query.limit = limit - found.sessions.len();
            let page =
                retry_read(|| store.list(self.query.clone())).await.map_err(|error| to_error(&error))?;
            found.sessions.extend(page.sessions.into_iter().filter(|listed| shown(&listed.session)));
            found.more_after = page.more_after;
            if found.more_after.is_none() || found.sessions.len() >= limit {
                break;
            }
            self.query.after.clone_from(&found.more_after);
        }
        let Some(after) = &found.more_after else { return Ok(Page { found, next_page: String::new() }) };
        let no_token = || Error::new(ErrorCode::Internal, NoRandom.to_string());
        let next_page = self.tokens.seal(self.hash, after).ok_or_else(no_token)?;
        Ok(Page { found, next_page })
    }
}

fn conditions_hash(texts: &[&str], labels: &std::collections::BTreeMap<String, String>) -> u64 {
    let labels = labels.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]);
    let mut bytes = Vec::new();
    for text in texts.iter().copied().chain(labels) {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    xxh3_64(&bytes)
}

fn after(tokens: &PageTokens, page: &str, hash: u64) -> Result<SessionId, Error> {
    let refuse = |message: &str| Error::new(ErrorCode::PageMismatch, message.to_owned()).field("page");
    let unsealed = tokens.unseal(page);
    let (of, session) = unsealed.ok_or_else(|| refuse("`page` is not the `next_page` of a list"))?;
    if of != hash {
        return Err(refuse("`page` is of a list with other conditions; begin again without it"));
    }
    Ok(session)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    async fn tokens() -> Arc<PageTokens> {
        Arc::new(PageTokens::open(&MemoryStore::new()).await.unwrap())
    }

    #[tokio::test]
    async fn a_token_belongs_to_its_conditions() {
        let tokens = tokens().await;
        let list = |prefix: &str, page: &str| {
            let list = wire::ListSessions { prefix: prefix.into(), page: page.into(), ..Default::default() };
            Listing::from_wire(list, Arc::clone(&tokens)).map_err(|error| error.code)
        };
        let hash = list("acme/", "").ok().unwrap().hash;
        let token = tokens.seal(hash, &SessionId::parse("acme/7").unwrap()).unwrap();
        let next = list("acme/", &token).ok().unwrap();
        assert_eq!(next.query.after.unwrap().as_str(), "acme/7");
        for (prefix, page) in [("acme", token.as_str()), ("acme/", "x"), ("acme/", &token[..token.len() - 4])]
        {
            assert_eq!(list(prefix, page).err(), Some(ErrorCode::PageMismatch), "{prefix} {page}");
        }
    }

    #[tokio::test]
    async fn conditions_are_checked() {
        let tokens = tokens().await;
        let refused = |list: wire::ListSessions| Listing::from_wire(list, Arc::clone(&tokens)).err().unwrap();
        let error = refused(wire::ListSessions { status: "busy".into(), ..Default::default() });
        assert_eq!((error.code, error.field), (ErrorCode::InvalidArgument, "status"));
        let error = refused(wire::ListSessions { pattern: "a/b*".into(), ..Default::default() });
        assert_eq!((error.code, error.field), (ErrorCode::InvalidPattern, "pattern"));
        let error = refused(wire::ListSessions { parent: "a//b".into(), ..Default::default() });
        assert_eq!((error.code, error.field), (ErrorCode::InvalidSessionId, "parent"));
    }
}
