use std::collections::VecDeque;
use std::sync::Mutex;

use longwire_proto::error::ErrorCode;
use longwire_proto::grants::Grants;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

use super::*;
use crate::auth::issuer::Issuer;
use crate::auth::signing_keys::SigningKeys;
use crate::auth::testing::{Signer, with};
use crate::clock::Clock;
use crate::outgoing::url::OutgoingUrl;
use crate::store::memory::MemoryStore;

const REFRESH: Duration = Duration::from_secs(600);
const KEEP: Duration = Duration::from_secs(3600);

async fn guard(names: &[&str]) -> Arc<Guard> {
    let folder = tempfile::tempdir().unwrap();
    let signing = SigningKeys::load_or_make(&folder.path().join("keys")).unwrap();
    let bounds = Grants::parse(&["acme/**:read"]).unwrap();
    let issuers = names.iter().map(|name| Issuer::foreign(name, "longwire", name, bounds.clone()).unwrap());
    let store = Arc::new(MemoryStore::new());
    Arc::new(Guard::open(store, Clock::start(), signing, issuers.collect(), false).await.unwrap())
}

fn published(name: &str) -> Published {
    let url = OutgoingUrl::parse(&format!("http://127.0.0.1:1/{name}")).unwrap();
    let place = Place { url, allow_private: false, tls: None };
    Published { issuer: name.to_owned(), place, refresh: REFRESH, keep: KEEP }
}

fn token(signer: &Signer, kid: &str, issuer: &str) -> String {
    let now = Clock::start().now_ms() / 1000;
    let claims = json!({
        "iss": issuer, "sub": "bob", "aud": "longwire", "exp": now + 86_400 * 30, "kind": "human",
        "grants": ["acme/**:read"],
    });
    signer.token(&signer.header(kid), &claims)
}

fn jwks(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// Answers as it is told, and says what it is asked.
#[derive(Clone)]
struct Elsewhere {
    asked: mpsc::UnboundedSender<String>,
    answers: Arc<Mutex<VecDeque<Result<String, ()>>>>,
    /// Requests that may be answered.
    free: Arc<Semaphore>,
}

impl Elsewhere {
    fn new() -> (Self, mpsc::UnboundedReceiver<String>) {
        let (asked, asks) = mpsc::unbounded_channel();
        let free = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        (Self { asked, answers: Arc::default(), free }, asks)
    }

    fn says(&self, answer: Result<String, ()>) {
        self.answers.lock().unwrap().push_back(answer);
    }

    async fn fetch(self, place: Place) -> Result<Fetched, FetchError> {
        self.asked.send(place.url.target().trim_start_matches('/').to_owned()).unwrap();
        self.free.acquire().await.unwrap().forget();
        match self.answers.lock().unwrap().pop_front() {
            Some(Ok(text)) => Ok(Fetched { text, max_age: None }),
            _ => Err(FetchError::Text),
        }
    }

    fn work(&self, guard: &Arc<Guard>, names: &[&str]) -> tokio::task::JoinHandle<()> {
        let elsewhere = self.clone();
        let published = names.iter().map(|name| published(name)).collect();
        let refresh = JwksRefresh::new(Arc::clone(guard), published);
        tokio::spawn(refresh.work(move |place| elsewhere.clone().fetch(place)))
    }
}

fn code(guard: &Guard, token: &str) -> Option<ErrorCode> {
    guard.admit(token, "").err().map(|error| error.code)
}

/// Waits until the guard has taken up a change.
async fn changed(guard: &Guard, change: impl Future<Output = ()>) {
    let mut changes = guard.changes();
    changes.mark_unchanged();
    change.await;
    changes.changed().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_at_the_start_and_who_comes_before_may_come_again() {
    let (guard, signer, (elsewhere, mut asks)) = (guard(&["id"]).await, Signer::ed(), Elsewhere::new());
    elsewhere.free.forget_permits(Semaphore::MAX_PERMITS);
    elsewhere.says(Ok(jwks(&[signer.jwk("k")])));
    let token = token(&signer, "k", "id");
    elsewhere.work(&guard, &["id"]);
    assert_eq!(asks.recv().await.unwrap(), "id");
    let error = guard.admit(&token, "").unwrap_err();
    assert_eq!((error.code, error.retry_after_ms > 0), (ErrorCode::Overloaded, true));
    changed(&guard, async { elsewhere.free.add_permits(1) }).await;
    assert_eq!(guard.admit(&token, "").unwrap().id, "id/bob");
    // Nothing is to come any more.
    assert_eq!(code(&guard, &with_kid(&signer, "other")), Some(ErrorCode::Unauthenticated));
}

fn with_kid(signer: &Signer, kid: &str) -> String {
    signer.token(&with(&signer.header(kid), "kid", kid), &json!({}))
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_unknown_keys_is_one_request() {
    let (guard, signer, (elsewhere, mut asks)) = (guard(&["id"]).await, Signer::es(), Elsewhere::new());
    elsewhere.says(Ok(jwks(&[signer.jwk("k")])));
    changed(&guard, async { drop(elsewhere.work(&guard, &["id"])) }).await;
    assert_eq!(asks.recv().await.unwrap(), "id");
    let start = Instant::now();
    let next = Signer::rs();
    for at in 1..=3u32 {
        elsewhere.says(Ok(jwks(&[signer.jwk("k"), next.jwk(&format!("k{at}"))])));
        for number in 0..1000 {
            assert_eq!(
                code(&guard, &with_kid(&signer, &format!("x{number}"))),
                Some(ErrorCode::Unauthenticated)
            );
        }
        changed(&guard, async {}).await;
        assert_eq!(asks.try_recv().unwrap(), "id");
        assert!(asks.try_recv().is_err());
        assert_eq!(start.elapsed(), EARLY_EVERY * at);
        assert_eq!(code(&guard, &token(&next, &format!("k{at}"), "id")), None);
    }
    // What another key signed, or what is no token, brings nothing about.
    for wrong in ["", "a.b.c", &token(&Signer::es(), "k", "id"), &token(&Signer::ed(), "k", "id")] {
        assert!(code(&guard, wrong).is_some());
    }
    assert_eq!(asks.recv().await.unwrap(), "id");
    assert_eq!(start.elapsed(), EARLY_EVERY * 3 + REFRESH);
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_does_not_answer_keeps_no_other_one_out() {
    let (guard, signer, (elsewhere, mut asks)) =
        (guard(&["slow", "id"]).await, Signer::ed(), Elsewhere::new());
    elsewhere.free.forget_permits(Semaphore::MAX_PERMITS);
    let slow = Elsewhere::new().0;
    slow.free.forget_permits(Semaphore::MAX_PERMITS);
    elsewhere.says(Ok(jwks(&[signer.jwk("k")])));
    elsewhere.free.add_permits(1);
    let refresh = JwksRefresh::new(Arc::clone(&guard), vec![published("slow"), published("id")]);
    let (fast, hung) = (elsewhere.clone(), slow.clone());
    changed(&guard, async {
        tokio::spawn(refresh.work(move |place| {
            let (fast, hung) = (fast.clone(), hung.clone());
            async move {
                match place.url.target() {
                    "/slow" => {
                        hung.free.acquire().await.unwrap().forget();
                        Err(FetchError::Text)
                    }
                    _ => fast.fetch(place).await,
                }
            }
        }));
    })
    .await;
    assert_eq!(asks.recv().await.unwrap(), "id");
    assert_eq!(code(&guard, &token(&signer, "k", "id")), None);
    assert_eq!(code(&guard, &token(&signer, "k", "slow")), Some(ErrorCode::Unauthenticated));
}

#[tokio::test(start_paused = true)]
async fn keys_stay_while_they_cannot_be_fetched_and_not_for_ever() {
    let (guard, signer, (elsewhere, mut asks)) = (guard(&["id"]).await, Signer::ed(), Elsewhere::new());
    elsewhere.says(Ok(jwks(&[signer.jwk("k")])));
    elsewhere.says(Ok("{\"keys\":[]}".to_owned()));
    elsewhere.says(Ok("<html>".to_owned()));
    // A secret that comes over a network is none, and one bad key is all of them.
    elsewhere.says(Ok(jwks(&[signer.jwk("k"), Signer::hs().jwk("h")])));
    let token = token(&signer, "k", "id");
    changed(&guard, async { drop(elsewhere.work(&guard, &["id"])) }).await;
    let start = Instant::now();
    let principal = guard.admit(&token, "").unwrap();
    for _ in 0..6 {
        asks.recv().await.unwrap();
        assert_eq!(code(&guard, &token), None);
    }
    changed(&guard, async {}).await;
    assert_eq!(start.elapsed(), KEEP);
    assert_eq!(code(&guard, &token), Some(ErrorCode::Overloaded));
    assert_eq!(guard.check(&principal).unwrap_err().code, ErrorCode::Overloaded);
    elsewhere.says(Ok(jwks(&[signer.jwk("k")])));
    changed(&guard, async {}).await;
    assert_eq!((code(&guard, &token), guard.check(&principal)), (None, Ok(())));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_its_issuer_gives_up_ends_who_came_with_it() {
    let (guard, signer, (elsewhere, _asks)) = (guard(&["id"]).await, Signer::ed(), Elsewhere::new());
    elsewhere.says(Ok(jwks(&[signer.jwk("k")])));
    elsewhere.says(Ok(jwks(&[Signer::ed().jwk("l")])));
    changed(&guard, async { drop(elsewhere.work(&guard, &["id"])) }).await;
    let principal = guard.admit(&token(&signer, "k", "id"), "").unwrap();
    changed(&guard, async {}).await;
    assert_eq!(guard.check(&principal).unwrap_err().code, ErrorCode::Unauthenticated);
}

#[tokio::test(start_paused = true)]
async fn it_stops_in_the_middle_of_a_request() {
    let guard = guard(&["id"]).await;
    let stop = CancellationToken::new();
    let task = tokio::spawn(JwksRefresh::new(Arc::clone(&guard), vec![published("id")]).run(stop.clone()));
    stop.cancel();
    task.await.unwrap();
}
