use std::fs;

use longwire_proto::error::{Error, ErrorCode};
use serde_json::Value;

use super::*;
use crate::auth::operation::Operation;
use crate::auth::testing::principal;

fn managed(session: &str) -> Entry {
    Entry::managed(&principal(&["**:manage"]), Operation::Trim, session, Ok(()))
}

fn refused() -> Entry {
    Entry::not_admitted(&Error::new(ErrorCode::Unauthenticated, "no"))
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn what_is_told_is_written_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let audit = Audit::open(&path).unwrap();
    for number in 0..100 {
        audit.record(|| managed(&format!("a/{number}")));
    }
    audit.close().await;
    let found = lines(&path);
    assert_eq!(found.len(), 100);
    for (number, line) in found.iter().enumerate() {
        assert_eq!(line["session"], format!("a/{number}"));
        assert!(line["time_ms"].as_u64().unwrap() > 1_700_000_000_000);
    }
    // It goes on afterwards, and a second broker goes on in the same file.
    audit.record(|| managed("b"));
    audit.close().await;
    drop(audit);
    let again = Audit::open(&path).unwrap();
    again.record(|| managed("c"));
    again.close().await;
    assert_eq!(lines(&path).len(), 102);
}

#[tokio::test]
async fn a_flood_of_refusals_is_counted_and_pushes_nothing_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let audit = Audit::open(&path).unwrap();
    let flood: u64 = 100_000;
    for _ in 0..flood {
        audit.record(refused);
    }
    audit.record(|| managed("acme/a"));
    audit.close().await;
    let found = lines(&path);
    let dropped: u64 = found.iter().filter_map(|line| line["count"].as_u64()).sum();
    let told = found.iter().filter(|line| line["event"] == "authentication").count() as u64;
    let managed = found.iter().filter(|line| line["event"] == "management").count() as u64;
    // The disk may have been slower than the flood, which is the only other reason to drop one.
    assert_eq!(told + managed + dropped, flood + 1);
    assert!(told >= 1 && managed <= 1 && dropped > flood / 2, "{told} {dropped}");
}

#[test]
fn who_tells_it_something_never_waits() {
    let (audit, messages) = Audit::new();
    let more = 10;
    for _ in 0..QUEUE + more {
        audit.record(|| managed("a"));
    }
    let shared = audit.0.as_ref().unwrap();
    assert_eq!(shared.dropped.load(Ordering::Relaxed), more as u64);
    drop(messages);
    // Nobody is there to write any more, and nobody is told to wait for that.
    audit.record(|| managed("a"));
    assert_eq!(shared.dropped.load(Ordering::Relaxed), more as u64);
}

#[tokio::test]
async fn nothing_is_made_when_nobody_wants_it() {
    let audit = Audit::off();
    audit.record(|| unreachable!("nobody wants it"));
    audit.close().await;
    assert!(matches!(Audit::open(Path::new("/no/such/folder/audit")), Err(AuditError::File { .. })));
}

#[test]
fn refusals_are_earned_again() {
    let start = Instant::now();
    let mut budget = Budget { left: 1, since: start };
    assert_eq!((budget.take(start), budget.take(start), budget.take(start)), (true, false, false));
    let mut taken = |seconds| {
        let now = start + Duration::from_secs(seconds);
        (0..2 * REFUSALS_BURST).filter(|_| budget.take(now)).count() as u64
    };
    assert_eq!(taken(10), 10 * REFUSALS_PER_SECOND);
    assert_eq!(taken(100_000), REFUSALS_BURST);
    // A clock that goes back gives nothing.
    assert_eq!(taken(0), 0);
}

#[tokio::test]
async fn a_token_is_never_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let audit = Audit::open(&path).unwrap();
    let canary = "eyJhbGciOiJFZERTQSJ9.c2VjcmV0LWNhbmFyeQ.c2ln";
    let error = Error::new(ErrorCode::Unauthenticated, canary).field("token");
    let somebody = principal(&["acme/**:manage"]);
    audit.record(|| Entry::not_admitted(&error));
    audit.record(|| Entry::refused(&somebody, Operation::Share, "acme/a", &error));
    audit.record(|| Entry::managed(&somebody, Operation::RevokeToken, "", Err(&error)).target("t-2"));
    audit.record(|| Entry::admitted(&somebody).connection(1).remote(None).device("d"));
    audit.close().await;
    assert_eq!(lines(&path).len(), 4);
    assert!(!fs::read_to_string(&path).unwrap().contains("c2VjcmV0"));
}
