//! The webhook of a worker group: one request, signed as Standard Webhooks has it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::Full;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::{WEBHOOK_SECRET_BYTES_MAX, WEBHOOK_SECRET_BYTES_MIN};
use rustls::ClientConfig;
use tokio::sync::OnceCell;

use crate::outgoing::url::OutgoingUrl;
use crate::outgoing::{OutgoingError, Place, ask, is_private, number, trust};
use crate::worker_groups::wakes::Outcome;

/// What secrets begin with.
const SECRET_PREFIX: &str = "whsec_";
/// Bytes of an answer that are taken: nothing in it is of interest.
const ANSWER_BYTES_MAX: usize = 64 << 10;

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// What webhooks are signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// The secret that a text is.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`], which repeats nothing of it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bytes = text.strip_prefix(SECRET_PREFIX).and_then(|rest| STANDARD.decode(rest).ok());
        match bytes {
            Some(bytes) if (WEBHOOK_SECRET_BYTES_MIN..=WEBHOOK_SECRET_BYTES_MAX).contains(&bytes.len()) => {
                Ok(Self(bytes))
            }
            _ => {
                let message = format!(
                    "a secret is `{SECRET_PREFIX}` and {WEBHOOK_SECRET_BYTES_MIN} to {WEBHOOK_SECRET_BYTES_MAX} random bytes in base64, with padding"
                );
                Err(Error::new(ErrorCode::InvalidArgument, message).field("secret"))
            }
        }
    }

    /// The secret as text.
    pub(super) fn reveal(&self) -> String {
        format!("{SECRET_PREFIX}{}", STANDARD.encode(&self.0))
    }

    /// The signature of a message of this id, sent at this time in seconds.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let mut context = hmac::Context::with_key(&key);
        context.update(format!("{id}.{timestamp}.").as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    }
}

/// What a try came to.
#[derive(Debug)]
pub struct Tried {
    /// The status of the answer, when there was one.
    pub status: Option<u16>,
    /// What is made of it.
    pub outcome: Outcome,
}

/// Where webhooks may go, and how they get there.
pub struct Webhooks {
    /// Hosts that may have addresses of a private network, or be this one.
    hosts: Vec<String>,
    /// Whom they trust, once one went to https; `None` when this host trusts nobody.
    trusted: OnceCell<Option<Arc<ClientConfig>>>,
}

impl Webhooks {
    /// Those that may go to public addresses, and to whatever addresses these hosts have.
    #[must_use]
    pub fn new(hosts: Vec<String>) -> Self {
        let hosts = hosts.into_iter().map(|host| host.to_ascii_lowercase()).collect();
        Self { hosts, trusted: OnceCell::new() }
    }

    fn is_listed(&self, url: &OutgoingUrl) -> bool {
        self.hosts.iter().any(|host| host == url.host())
    }

    /// The address that a text is, when webhooks may go there. What its name leads to is looked at with each of them.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`], which repeats nothing of it.
    pub fn check(&self, text: &str) -> Result<OutgoingUrl, Error> {
        let refused = |why: &str| {
            let message = format!("the webhook's `url` is not taken: {why}");
            Error::new(ErrorCode::InvalidArgument, message).field("url")
        };
        let url = OutgoingUrl::parse(text).map_err(|why| refused(&why.to_string()))?;
        let leads_inside = url.is_this_host() || url.host().parse::<IpAddr>().is_ok_and(is_private);
        if leads_inside && !self.is_listed(&url) {
            return Err(refused(
                "it leads to this host or into a private network; if that is meant, whoever runs the broker lists the host in `webhook_hosts`",
            ));
        }
        Ok(url)
    }

    /// Tries once.
    pub async fn post(&self, url: &OutgoingUrl, secret: &Secret, id: &str, body: Bytes) -> Tried {
        let allow_private = self.is_listed(url);
        if url.is_this_host() && !allow_private {
            return failed(&OutgoingError::Address);
        }
        let tls = if url.is_secure() { self.trust().await } else { None };
        if url.is_secure() && tls.is_none() {
            let why = "the broker's host trusts no certificate authorities, so nothing can be sent by https";
            return Tried { status: None, outcome: Outcome::Failed(why.to_owned(), None) };
        }
        let Some(request) = signed(secret, id, now_s(), body) else { return failed(&OutgoingError::Request) };
        let place = Place { url: url.clone(), allow_private, tls };
        match ask(place, request, ANSWER_BYTES_MAX).await {
            Ok(answer) => {
                let outcome = outcome(answer.status, &answer.headers);
                Tried { status: Some(answer.status.as_u16()), outcome }
            }
            Err(error) => failed(&error),
        }
    }

    async fn trust(&self) -> Option<Arc<ClientConfig>> {
        let load = || {
            let roots = trust::of_this_host();
            if roots.is_empty() { None } else { trust::trusting(roots).ok().map(Arc::new) }
        };
        // It reads files.
        let loaded =
            self.trusted.get_or_init(|| async { tokio::task::spawn_blocking(load).await.ok().flatten() });
        loaded.await.clone()
    }
}

fn failed(error: &OutgoingError) -> Tried {
    Tried { status: None, outcome: Outcome::Failed(error.to_string(), None) }
}

fn outcome(status: StatusCode, headers: &HeaderMap) -> Outcome {
    if status.is_success() {
        return Outcome::Accepted;
    }
    let why = format!("it answers with status {}", status.as_u16());
    if status == StatusCode::GONE {
        return Outcome::Refused(why);
    }
    let retry_after_s = number(headers, RETRY_AFTER.as_str());
    Outcome::Failed(why, retry_after_s.map(|seconds| seconds.saturating_mul(1000)))
}

/// Receivers refuse what was not sent just now, by the clocks of everybody.
fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn signed(secret: &Secret, id: &str, timestamp: u64, body: Bytes) -> Option<Request<Full<Bytes>>> {
    let signature = secret.sign(id, timestamp, &body);
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ID, HeaderValue::from_str(id).ok()?);
    headers.insert(TIMESTAMP, HeaderValue::from(timestamp));
    headers.insert(SIGNATURE, HeaderValue::from_str(&signature).ok()?);
    Some(request)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn signatures_are_those_of_the_published_examples() {
        let secret = Secret::parse(SECRET).unwrap();
        let signature =
            secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let (id, body) = (
            "wake_5d41402abc4b2a76b9719d911017c592",
            br#"{"agent":"coder","position":"0000000000000000_0000000000000004","session":"acme/chat/1"}"#,
        );
        // That of docs/protocol.md.
        assert_eq!(secret.sign(id, 1_764_000_000, body), "v1,STqDo736Skc/j5sFvTNof3EQFuJZVCCyaWWl7MbTFoA=");
        assert_eq!((secret.reveal().as_str(), format!("{secret:?}").as_str()), (SECRET, "Secret"));
    }

    #[test]
    fn what_is_no_secret_is_refused_and_not_repeated() {
        let encoded = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
        assert!(Secret::parse(&encoded(24)).is_ok() && Secret::parse(&encoded(64)).is_ok());
        for text in ["", "whsec_", "canary", "whsec_canary!", &encoded(23), &encoded(65), &SECRET[6..]] {
            let error = Secret::parse(text).unwrap_err();
            assert_eq!((error.code, error.field), (ErrorCode::InvalidArgument, "secret"));
            assert!(!error.message.contains("canary"), "{error}");
        }
    }

    #[test]
    fn webhooks_go_out_or_to_hosts_that_are_listed() {
        let (open, listed) =
            (Webhooks::new(Vec::new()), Webhooks::new(vec!["127.0.0.1".into(), "Inside.example".into()]));
        for url in ["https://hooks.example/a?key=canary", "https://1.1.1.1/"] {
            assert!(open.check(url).is_ok() && listed.check(url).is_ok(), "{url}");
        }
        for url in ["http://127.0.0.1:9/", "https://127.0.0.1/"] {
            assert!(open.check(url).is_err() && listed.check(url).is_ok(), "{url}");
        }
        for url in [
            "https://10.0.0.1/canary",
            "https://169.254.169.254/canary",
            "https://[::1]/canary",
            "https://localhost/canary",
            "http://hooks.example/canary",
            "http://inside.example/canary",
            "https://me:canary@hooks.example/",
            "canary",
        ] {
            for error in [open.check(url).unwrap_err(), listed.check(url).unwrap_err()] {
                assert_eq!((error.code, error.field), (ErrorCode::InvalidArgument, "url"), "{url}");
                assert!(!error.message.contains("canary"), "{error}");
            }
        }
    }

    /// Answers one request so.
    async fn answered(answer: String) -> Tried {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            drop(stream.write_all(answer.as_bytes()).await);
        });
        let webhooks = Webhooks::new(vec!["127.0.0.1".into()]);
        let url = webhooks.check(&url).unwrap();
        webhooks.post(&url, &Secret::parse(SECRET).unwrap(), "wake_1", Bytes::from_static(b"{}")).await
    }

    #[tokio::test]
    async fn what_is_answered_decides() {
        let empty =
            |status: &str, more: &str| format!("HTTP/1.1 {status} X\r\n{more}content-length: 0\r\n\r\n");
        for status in ["200", "202", "204"] {
            assert_eq!(answered(empty(status, "")).await.outcome, Outcome::Accepted);
        }
        for status in ["400", "404", "429", "500"] {
            let tried = answered(empty(status, "retry-after: 7\r\n")).await;
            let why = format!("it answers with status {status}");
            assert_eq!(
                (tried.status, tried.outcome),
                (status.parse().ok(), Outcome::Failed(why, Some(7000)))
            );
        }
        let tried = answered(empty("503", "retry-after: soon\r\n")).await;
        assert!(matches!(tried.outcome, Outcome::Failed(_, None)));
        assert!(matches!(answered(empty("410", "")).await.outcome, Outcome::Refused(_)));
        // What it says at length, or elsewhere, is not heard.
        for answer in [
            empty("302", "location: http://127.0.0.1:1/\r\n"),
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", ANSWER_BYTES_MAX + 1),
            "SSH-2.0\r\n".to_owned(),
        ] {
            let tried = answered(answer).await;
            assert!(
                matches!(&tried.outcome, Outcome::Failed(_, None)) && tried.status.is_none(),
                "{tried:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_is_found_out() {
        let url = OutgoingUrl::parse("https://localhost./").unwrap();
        let secret = Secret::parse(SECRET).unwrap();
        let tried = Webhooks::new(Vec::new()).post(&url, &secret, "wake_1", Bytes::new()).await;
        assert!(matches!(tried.outcome, Outcome::Failed(_, None)), "{tried:?}");
        let url = OutgoingUrl::parse("http://localhost:1/").unwrap();
        let tried = Webhooks::new(Vec::new()).post(&url, &secret, "wake_1", Bytes::new()).await;
        let Outcome::Failed(why, _) = tried.outcome else { panic!("{tried:?}") };
        assert_eq!(why, OutgoingError::Address.to_string());
    }
}
