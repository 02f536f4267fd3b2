//! A host that publishes keys, well or badly.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// What it answers.
#[derive(Clone)]
pub(crate) enum Answer {
    /// Keys.
    Jwks(Vec<Value>),
    /// Something else.
    Text(String),
    /// That it has none.
    Status(u16),
    /// That they are elsewhere.
    Redirect(String),
    /// Nothing, until the peer has gone.
    Silent,
    /// More and more, until the peer has gone.
    Endless,
}

struct Shared {
    answer: Mutex<Answer>,
    asked: AtomicU64,
}

/// Serves until the test's process ends: each connection on a thread of its own.
pub(crate) struct Elsewhere {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Elsewhere {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { answer: Mutex::new(Answer::Silent), asked: AtomicU64::new(0) });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                // A peer that goes in the middle is what some tests are about.
                std::thread::spawn(move || drop(answer(&shared, stream)));
            }
        });
        Self { address, shared }
    }

    pub(crate) fn says(&self, answer: Answer) {
        *self.shared.answer.lock().unwrap() = answer;
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/jwks.json", self.address)
    }

    /// How often it was asked.
    pub(crate) fn asked(&self) -> u64 {
        self.shared.asked.load(Ordering::SeqCst)
    }
}

fn answer(shared: &Shared, mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    // Counted before it is answered, and after what it says was taken: who waits for the count sees what follows from it.
    let answer = shared.answer.lock().unwrap().clone();
    shared.asked.fetch_add(1, Ordering::SeqCst);
    let text = |body: &str| {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let response = match answer {
        Answer::Jwks(keys) => text(&json!({ "keys": keys }).to_string()),
        Answer::Text(body) => text(&body),
        Answer::Status(status) => format!("HTTP/1.1 {status} No\r\ncontent-length: 0\r\n\r\n"),
        Answer::Redirect(to) => format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n"),
        Answer::Silent => {
            stream.read_exact(&mut byte)?;
            return Ok(());
        }
        Answer::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
            loop {
                stream.write_all(&[b' '; 4096])?;
            }
        }
    };
    stream.write_all(response.as_bytes())
}
