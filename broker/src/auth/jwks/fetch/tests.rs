use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::outgoing::url::OutgoingUrl;

/// Answers one request with these bytes, and then again and again with the second ones until the peer has gone.
async fn serve_once(answer: Vec<u8>, more: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        let mut gone = stream.write_all(&answer).await.is_err();
        while !gone && !more.is_empty() {
            gone = stream.write_all(&more).await.is_err();
        }
    });
    address
}

fn place(url: &str, allow_private: bool) -> Place {
    Place { url: OutgoingUrl::parse(url).unwrap(), allow_private, tls: None }
}

async fn answered(answer: &str) -> Result<Fetched, FetchError> {
    let address = serve_once(answer.as_bytes().to_vec(), Vec::new()).await;
    fetch(place(&format!("http://{address}/jwks"), false)).await
}

#[tokio::test]
async fn takes_a_plain_answer() {
    let fetched = answered(
        "HTTP/1.1 200 OK\r\ncache-control: public, max-age=90\r\nage: 30\r\ncontent-length: 2\r\n\r\n{}",
    );
    let fetched = fetched.await.unwrap();
    assert_eq!((fetched.text.as_str(), fetched.max_age), ("{}", Some(Duration::from_secs(60))));
    // Its end is the end of the connection.
    assert_eq!(answered("HTTP/1.1 200 OK\r\n\r\n[1]").await.unwrap().text, "[1]");
}

#[tokio::test]
async fn follows_nothing_and_takes_no_more_than_it_asked_for() {
    let bait = serve_once(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_vec(), Vec::new()).await;
    for status in ["301", "302", "303", "307", "308"] {
        let answer = format!("HTTP/1.1 {status} Go\r\nlocation: http://{bait}/\r\ncontent-length: 0\r\n\r\n");
        assert!(matches!(answered(&answer).await, Err(FetchError::Outgoing(OutgoingError::Redirect))));
    }
    let refused = answered("HTTP/1.1 404 No\r\ncontent-length: 2\r\n\r\n{}").await;
    assert!(matches!(refused, Err(FetchError::Status(404))));
    let packed = answered("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}").await;
    assert!(matches!(packed, Err(FetchError::Outgoing(OutgoingError::Encoding))));
    let long = answered("HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\n\r\n{").await;
    assert!(matches!(long, Err(FetchError::Outgoing(OutgoingError::Length(_)))));
    let short = answered("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{}").await;
    assert!(matches!(short, Err(FetchError::Outgoing(OutgoingError::Http(_)))));
    let other = answered("220 mail.example ESMTP\r\n").await;
    assert!(matches!(other, Err(FetchError::Outgoing(OutgoingError::Http(_)))));
    let binary = serve_once(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n\xff".to_vec(), Vec::new()).await;
    assert!(matches!(fetch(place(&format!("http://{binary}/"), false)).await, Err(FetchError::Text)));
}

#[tokio::test]
async fn an_answer_without_end_ends() {
    for (answer, more) in [
        ("HTTP/1.1 200 OK\r\n\r\n", vec![b' '; 4096]),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"10\r\n                \r\n".to_vec()),
    ] {
        let address = serve_once(answer.as_bytes().to_vec(), more).await;
        let outcome = fetch(place(&format!("http://{address}/"), false)).await;
        assert!(matches!(outcome, Err(FetchError::Outgoing(OutgoingError::Length(_)))), "{outcome:?}");
    }
    let headers = serve_once(b"HTTP/1.1 200 OK\r\n".to_vec(), b"x: 0123456789\r\n".to_vec()).await;
    let outcome = fetch(place(&format!("http://{headers}/"), false)).await;
    assert!(matches!(outcome, Err(FetchError::Outgoing(OutgoingError::Http(_)))), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    assert!(matches!(fetch(place(&url, false)).await, Err(FetchError::Outgoing(OutgoingError::Timeout))));
}

#[tokio::test]
async fn nobody_there_is_an_error() {
    let outcome = fetch(place("http://127.0.0.1:1/", false)).await;
    assert!(matches!(outcome, Err(FetchError::Outgoing(OutgoingError::Connect(_)))), "{outcome:?}");
    let outcome = fetch(place("https://127.0.0.1:1/", false)).await;
    assert!(matches!(outcome, Err(FetchError::Outgoing(OutgoingError::Connect(_)))), "{outcome:?}");
    // What a resolver makes of it is this host, by whatever name.
    let outcome = fetch(place("https://2130706433/", false)).await;
    assert!(
        matches!(outcome, Err(FetchError::Outgoing(OutgoingError::Address | OutgoingError::Resolve(_)))),
        "{outcome:?}"
    );
}

#[test]
fn the_time_that_an_answer_is_good_for() {
    let headers = |lines: &[(&'static str, &'static str)]| -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    };
    let age = |lines: &[(&'static str, &'static str)]| max_age(&headers(lines)).map(|age| age.as_secs());
    assert_eq!(age(&[("cache-control", "max-age=60")]), Some(60));
    assert_eq!(age(&[("cache-control", "no-cache, Max-Age = \"60\"")]), Some(60));
    assert_eq!(age(&[("cache-control", "s-maxage=5")]), None);
    assert_eq!(age(&[("cache-control", "max-age=-1")]), None);
    assert_eq!(age(&[("cache-control", "max-age=99999999999999999999999")]), None);
    assert_eq!(age(&[("cache-control", "max-age=60"), ("age", "100")]), Some(0));
    assert_eq!(age(&[]), None);
}
