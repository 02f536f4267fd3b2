//! Somebody who receives webhooks, and verifies them from what is published about their signatures, with code of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::support::certificates::Files;

/// What a broker is told, so that webhooks may come here.
pub(crate) const HOSTS: (&str, &str) = ("WEBHOOK_HOSTS", r#"["127.0.0.1"]"#);
/// What they are signed with: 24 bytes.
pub(crate) const SECRET: &str = "whsec_Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5";

/// One that came, and was verified.
#[derive(Clone, Debug)]
pub(crate) struct Webhook {
    pub(crate) id: String,
    pub(crate) session: String,
    pub(crate) agent: String,
    pub(crate) position: String,
}

/// Listens until it is dropped.
pub(crate) struct Receiver {
    address: SocketAddr,
    is_secure: bool,
    webhooks: mpsc::UnboundedReceiver<Webhook>,
    serving: JoinHandle<()>,
}

impl Receiver {
    /// Answers the n-th webhook of each id with this status, from 0.
    pub(crate) async fn start(status: impl Fn(usize) -> u16 + Send + 'static) -> Self {
        Self::listen(None, status).await
    }

    /// The same by TLS, as `localhost`.
    pub(crate) async fn start_secure(files: &Files, status: impl Fn(usize) -> u16 + Send + 'static) -> Self {
        let certificate = CertificateDer::from_pem_file(&files.certificate).unwrap();
        let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let config = config.with_single_cert(vec![certificate], key).unwrap();
        Self::listen(Some(TlsAcceptor::from(Arc::new(config))), status).await
    }

    async fn listen(tls: Option<TlsAcceptor>, status: impl Fn(usize) -> u16 + Send + 'static) -> Self {
        let is_secure = tls.is_some();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (came, webhooks) = mpsc::unbounded_channel();
        let serving = tokio::spawn(async move {
            let mut seen: BTreeMap<String, usize> = BTreeMap::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream: Box<dyn Stream> = match &tls {
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => Box::new(stream),
                        // It is not trusted.
                        Err(_) => continue,
                    },
                    None => Box::new(stream),
                };
                // A broker that is killed leaves half a request.
                let Some(webhook) = receive(&mut stream).await else { continue };
                let times = seen.entry(webhook.id.clone()).or_default();
                let answer = format!("HTTP/1.1 {} X\r\ncontent-length: 0\r\n\r\n", status(*times));
                *times += 1;
                drop(came.send(webhook));
                drop(stream.write_all(answer.as_bytes()).await);
                drop(stream.shutdown().await);
            }
        });
        Self { address, is_secure, webhooks, serving }
    }

    pub(crate) fn url(&self) -> String {
        let port = self.address.port();
        let origin = if self.is_secure { "https://localhost" } else { "http://127.0.0.1" };
        format!("{origin}:{port}/hooks/longwire?key=canary")
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Webhook {
        self.webhooks.recv().await.unwrap()
    }

    /// One that has come already.
    pub(crate) fn try_next(&mut self) -> Option<Webhook> {
        self.webhooks.try_recv().ok()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A socket, with TLS or without.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

async fn receive(stream: &mut Box<dyn Stream>) -> Option<Webhook> {
    let (mut request, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut piece).await.ok().filter(|read| *read > 0)?;
        request.extend_from_slice(&piece[..read]);
        let text = String::from_utf8(request.clone()).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let mut lines = head.split("\r\n");
        assert_eq!(lines.next(), Some("POST /hooks/longwire?key=canary HTTP/1.1"));
        let headers: BTreeMap<String, &str> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .collect();
        if body.len() < headers["content-length"].parse().unwrap() {
            continue;
        }
        return Some(verified(&headers, body));
    }
}

fn verified(headers: &BTreeMap<String, &str>, body: &str) -> Webhook {
    let (id, timestamp) = (headers["webhook-id"], headers["webhook-timestamp"]);
    let key = STANDARD.decode(&SECRET["whsec_".len()..]).unwrap();
    let signature = hmac_sha256(&key, format!("{id}.{timestamp}.{body}").as_bytes());
    assert_eq!(headers["webhook-signature"], format!("v1,{}", STANDARD.encode(signature)));
    let sent_s: u64 = timestamp.parse().unwrap();
    let now_s = crate::support::tokens::now_ms() / 1000;
    assert!(now_s.abs_diff(sent_s) < 300, "receivers refuse what is older");
    assert_eq!(headers["content-type"], "application/json");
    let body: Value = serde_json::from_str(body).unwrap();
    let names: Vec<&String> = body.as_object().unwrap().keys().collect();
    assert_eq!(names, ["agent", "position", "session"]);
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    Webhook { id: id.to_owned(), session: text("session"), agent: text("agent"), position: text("position") }
}

/// RFC 2104.
fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 64;
    let mut block = [0; BLOCK];
    block[..key.len()].copy_from_slice(key);
    let inner = Sha256::digest([&block.map(|byte| byte ^ 0x36)[..], message].concat());
    Sha256::digest([&block.map(|byte| byte ^ 0x5c)[..], &inner].concat()).to_vec()
}
