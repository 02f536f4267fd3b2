//! What an engine must do beside the logs: projections, finding sessions, the change feed, deadlines, and the table.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use crate::store::batch::{TERM_BYTES_MAX, TERMS_MAX};
use crate::store::conformance::{Session, batch, id};
use crate::store::table::{KEY_BYTES_MAX, VALUE_BYTES_MAX, WRITES_MAX};
use crate::store::{
    Batch, Cas, Change, Changes, Due, ListQuery, Listed, LogId, Projection, Store, StoreError,
};

/// How long a hint is waited for before it counts as missed.
const HINT_TIMEOUT: Duration = Duration::from_millis(100);

/// A projection of text.
pub(crate) fn projection(row: &str, terms: &[&str], deadline_ms: Option<u64>) -> Projection {
    let terms = terms.iter().map(|term| Bytes::copy_from_slice(term.as_bytes())).collect();
    Projection { row: Bytes::copy_from_slice(row.as_bytes()), terms, deadline_ms }
}

impl Session {
    /// Appends records with a projection.
    pub(crate) async fn project(
        &mut self,
        store: &impl Store,
        records: &[&str],
        projection: Projection,
    ) -> Result<(), StoreError> {
        self.batches += 1;
        let batch = Batch { projection: Some(projection), ..batch(self.batches, self.end, records) };
        self.version = store.append(self.opened.log, self.opened.term, self.version, batch).await?;
        self.end += records.len() as u64;
        Ok(())
    }

    pub(crate) async fn delete(self, store: &impl Store) {
        store.delete(self.opened.log, self.opened.term).await.unwrap();
    }
}

async fn list_all(store: &impl Store) -> Vec<Listed> {
    store.list(ListQuery { limit: 99, ..ListQuery::default() }).await.unwrap().sessions
}

pub(crate) async fn takes_projections_without_records(store: impl Store) {
    let mut session = Session::open(&store, "a").await;
    session.project(&store, &[], projection("first", &[], None)).await.unwrap();
    session.append(&store, &["x"]).await.unwrap();
    session.project(&store, &[], projection("second", &["t"], Some(7))).await.unwrap();
    session.append(&store, &["y"]).await.unwrap();
    assert_eq!(session.read(&store).await, ["x", "y"]);
    let listed = list_all(&store).await;
    assert_eq!((listed.len(), listed[0].end, &listed[0].projection[..]), (1, 2, &b"second"[..]));
    let again = Session::open(&store, "a").await;
    assert!(again.opened.exists);
    assert_eq!((again.end, again.version), (2, session.version));
}

pub(crate) async fn refuses_terms_beyond_the_limits(store: impl Store) {
    let mut session = Session::open(&store, "a").await;
    let terms: Vec<String> = (0..=TERMS_MAX).map(|term| format!("{term:03}")).collect();
    let mut terms: Vec<&str> = terms.iter().map(String::as_str).collect();
    let refused = session.project(&store, &["x"], projection("", &terms, None)).await;
    let (found, limit) = (TERMS_MAX + 1, TERMS_MAX);
    assert_eq!(refused, Err(StoreError::BatchTooLarge { what: "terms", found, limit }));
    terms.pop();
    session.project(&store, &["x"], projection("", &terms, None)).await.unwrap();
    let long = "x".repeat(TERM_BYTES_MAX + 1);
    let refused = session.project(&store, &["x"], projection("", &[&long], None)).await;
    let (found, limit) = (TERM_BYTES_MAX + 1, TERM_BYTES_MAX);
    assert_eq!(refused, Err(StoreError::BatchTooLarge { what: "bytes in a term", found, limit }));
    session.project(&store, &["x"], projection("", &[&long[1..]], None)).await.unwrap();
    for terms in [["b", "a"], ["a", "a"]] {
        let refused = session.project(&store, &["x"], projection("", &terms, None)).await;
        let what = "terms out of order";
        assert_eq!(refused, Err(StoreError::BatchTooLarge { what, found: 1, limit: 0 }));
    }
    assert_eq!(session.read(&store).await, ["x", "x"], "what was refused is nowhere");
}

/// The ids that a query finds, page by page; each page has at most `limit`.
async fn pages(store: &impl Store, prefix: &str, terms: &[&str], limit: usize) -> Vec<String> {
    let terms: Vec<Bytes> = terms.iter().map(|term| Bytes::copy_from_slice(term.as_bytes())).collect();
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let query = ListQuery { prefix: prefix.into(), after: after.clone(), terms: terms.clone(), limit };
        let page = store.list(query).await.unwrap();
        assert!(page.sessions.len() <= limit);
        let last = page.sessions.last().map(|last| last.session.clone());
        all.extend(page.sessions.into_iter().map(|listed| listed.session.to_string()));
        match page.more_after {
            Some(more) => {
                assert!(Some(&more) > after.as_ref() && last.is_none_or(|last| last <= more));
                after = Some(more);
            }
            None => return all,
        }
    }
}

pub(crate) async fn finds_by_terms(store: impl Store) {
    let sessions: [(&str, &[&str]); 5] =
        [("b/2", &["x", "y"]), ("a", &["x"]), ("b/1", &["x", "xy", "z"]), ("c", &[]), ("b/10", &["y", "z"])];
    let mut open = Vec::new();
    for (name, terms) in sessions {
        let mut session = Session::open(&store, name).await;
        session.project(&store, &["r"], projection(name, terms, None)).await.unwrap();
        open.push(session);
    }
    for limit in [1, 2, 99] {
        let find = async |prefix, terms: &'static [&str]| pages(&store, prefix, terms, limit).await;
        assert_eq!(find("", &[]).await, ["a", "b/1", "b/10", "b/2", "c"]);
        assert_eq!(find("", &["x"]).await, ["a", "b/1", "b/2"]);
        assert_eq!(find("b/", &["x"]).await, ["b/1", "b/2"]);
        assert_eq!(find("b/1", &["z"]).await, ["b/1", "b/10"]);
        assert_eq!(find("", &["x", "z"]).await, ["b/1"]);
        assert_eq!(find("", &["z", "x", "x"]).await, ["b/1"]);
        assert_eq!(find("", &["y", "x"]).await, ["b/2"]);
        assert_eq!(find("", &["xy", "y"]).await, Vec::<String>::new());
        assert_eq!(find("c", &["x"]).await, Vec::<String>::new());
        assert_eq!(find("", &["never"]).await, Vec::<String>::new());
    }
    let page = store.list(ListQuery { limit: 5, ..ListQuery::default() }).await.unwrap();
    assert_eq!((page.sessions.len(), page.more_after), (5, None), "there is no sixth");
    let page = store.list(ListQuery { limit: 4, ..ListQuery::default() }).await.unwrap();
    assert_eq!((page.sessions.len(), page.more_after), (4, Some(id("b/2"))));
    // Terms change, records do not change them, deleted sessions have none, and a new one has its own.
    open[1].project(&store, &[], projection("a", &["z"], None)).await.unwrap();
    open[0].append(&store, &["more"]).await.unwrap();
    open.remove(2).delete(&store).await;
    assert_eq!(pages(&store, "", &["x"], 9).await, ["b/2"]);
    assert_eq!(pages(&store, "", &["z"], 9).await, ["a", "b/10"]);
    let mut again = Session::open(&store, "b/1").await;
    again.append(&store, &["again"]).await.unwrap();
    assert_eq!(pages(&store, "", &["x"], 9).await, ["b/2"]);
    again.project(&store, &[], projection("b/1", &["x"], None)).await.unwrap();
    assert_eq!(pages(&store, "", &["x"], 9).await, ["b/1", "b/2"]);
    let query = ListQuery { terms: vec!["x".into()], limit: 9, ..ListQuery::default() };
    let listed = store.list(query).await.unwrap().sessions;
    assert_eq!((listed[1].end, listed[1].last_time_ms), (2, 1002), "with what was appended since");
}

/// Follows the feed to its end, as a consumer does that merges what it is told.
async fn follow(store: &impl Store, after: &mut u64, limit: usize, seen: &mut BTreeMap<LogId, Change>) {
    loop {
        let Changes { changes, through, .. } = store.changes(*after, limit).await.unwrap();
        assert!(through >= *after);
        assert!(changes.is_sorted_by_key(|change| change.commit));
        for change in changes {
            assert!(change.commit > *after && change.commit <= through);
            if let Some(earlier) = seen.insert(change.log, change.clone()) {
                assert!(earlier.commit < change.commit && earlier.end <= change.end);
            }
        }
        *after = through;
        if through >= *store.commits().borrow() {
            return;
        }
    }
}

pub(crate) async fn tells_changes_in_order(store: impl Store) {
    assert_eq!(store.changes(0, 9).await, Ok(Changes::default()));
    let mut sessions = Vec::new();
    for name in ["b", "a", "c"] {
        let mut session = Session::open(&store, name).await;
        session.append(&store, &["x"]).await.unwrap();
        sessions.push(session);
    }
    sessions[0].append(&store, &["y", "z"]).await.unwrap();
    let told = async |after, limit| {
        let Changes { changes, through, .. } = store.changes(after, limit).await.unwrap();
        let text = |change: &Change| {
            assert_eq!((change.start, change.lineage.epoch()), (0, 0));
            format!("{}{}{}", change.session, change.end, if change.deleted { " deleted" } else { "" })
        };
        (changes.iter().map(text).collect::<Vec<_>>(), through)
    };
    let last = *store.commits().borrow();
    assert_eq!(told(0, 9).await, (vec!["a1".into(), "c1".into(), "b3".into()], last));
    let (mut first, mut through) = told(0, 1).await;
    while first.is_empty() && through < last {
        // A page can be full of what has changed since, when that is being settled.
        (first, through) = told(through, 1).await;
    }
    assert_eq!(first, ["a1"]);
    assert_eq!(told(through, 9).await.0, ["c1", "b3"]);
    assert_eq!(told(last, 9).await, (Vec::new(), last));
    // A projection is a change, and so is a deletion; a value is none, and is passed.
    sessions[1].project(&store, &[], projection("row", &[], None)).await.unwrap();
    assert_eq!(told(last, 9).await.0, ["a1"]);
    store.cas(vec![write("k", None, Some("v"))]).await.unwrap();
    let last = *store.commits().borrow();
    assert_eq!(told(last - 1, 9).await, (Vec::new(), last));
    for limit in [1, 2, 9] {
        let (mut after, mut seen) = (0, BTreeMap::new());
        follow(&store, &mut after, limit, &mut seen).await;
        assert_eq!((after, seen.len()), (last, 3));
        let ends: Vec<u64> = sessions.iter().map(|session| seen[&session.opened.log].end).collect();
        assert_eq!(ends, [3, 1, 1]);
    }
    sessions.remove(0).delete(&store).await;
    let deleted = *store.commits().borrow();
    let Changes { changes, through, forgotten } = store.changes(last, 9).await.unwrap();
    assert_eq!(through, deleted);
    match &changes[..] {
        [change] => assert!((change.session.as_str(), change.end, change.deleted) == ("b", 3, true)),
        // It is told while it is being removed. From then on it is told that something was.
        others => {
            assert!(others.is_empty() && forgotten == deleted, "{others:?}, forgotten up to {forgotten}")
        }
    }
    let mut again = Session::open(&store, "b").await;
    again.append(&store, &["x"]).await.unwrap();
    let Changes { changes, .. } = store.changes(through, 9).await.unwrap();
    assert_eq!((changes.len(), changes[0].lineage.epoch(), changes[0].deleted), (1, 1, false));
}

/// Writers and a consumer at the same time: at the end the consumer has the latest end of every log.
pub(crate) async fn tells_everyone_everything(store: impl Store) {
    const WRITERS: usize = 6;
    const APPENDS: usize = 60;
    let store = Arc::new(store);
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut session = Session::open(&*store, &format!("s{writer}")).await;
                for count in 0..APPENDS {
                    let records = vec!["x"; count % 3];
                    match session.append(&*store, &records).await {
                        Ok(()) => {}
                        // It was idle for long enough to be forgotten.
                        Err(StoreError::Fenced) => {
                            session = Session::open(&*store, &format!("s{writer}")).await
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
                (session.opened.log, session.end)
            })
        })
        .collect();
    let consumer = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let (mut after, mut seen) = (0, BTreeMap::new());
            for limit in (1..4).cycle() {
                follow(&*store, &mut after, limit, &mut seen).await;
                if store.get("done".into()).await.unwrap().is_some() {
                    follow(&*store, &mut after, limit, &mut seen).await;
                    return seen;
                }
                tokio::task::yield_now().await;
            }
            seen
        })
    };
    let mut ends = BTreeMap::new();
    for writer in writers {
        let (log, end) = writer.await.unwrap();
        ends.insert(log, end);
    }
    store.cas(vec![write("done", None, Some(""))]).await.unwrap();
    let seen = consumer.await.unwrap();
    let seen: BTreeMap<LogId, u64> = seen.into_iter().map(|(log, change)| (log, change.end)).collect();
    assert_eq!(seen, ends);
}

pub(crate) async fn wakes_at_deadlines(store: impl Store) {
    let due = async |until, after: Option<(u64, LogId)>, limit| store.due(until, after, limit).await.unwrap();
    let text =
        |due: &[Due]| due.iter().map(|due| format!("{}@{}", due.session, due.when_ms)).collect::<Vec<_>>();
    assert_eq!(due(u64::MAX, None, 9).await, []);
    let mut sessions = Vec::new();
    for (name, deadline) in [("b", Some(30)), ("a", Some(10)), ("c", Some(10)), ("d", None), ("e", Some(0))] {
        let mut session = Session::open(&store, name).await;
        session.project(&store, &["x"], projection(name, &[], deadline)).await.unwrap();
        sessions.push(session);
    }
    let all = due(u64::MAX, None, 9).await;
    assert_eq!(text(&all), ["e@0", "a@10", "c@10", "b@30"]);
    assert_eq!(all[3].log, sessions[0].opened.log);
    assert_eq!(text(&due(10, None, 9).await), ["e@0", "a@10", "c@10"]);
    assert_eq!(text(&due(9, None, 9).await), ["e@0"]);
    assert_eq!(text(&due(30, None, 2).await), ["e@0", "a@10"]);
    assert_eq!(text(&due(30, Some((10, all[1].log)), 9).await), ["c@10", "b@30"]);
    assert_eq!(text(&due(30, Some((all[3].when_ms, all[3].log)), 9).await), Vec::<String>::new());
    // A record keeps the deadline; another projection and a deletion do not.
    sessions[1].append(&store, &["y"]).await.unwrap();
    sessions[0].project(&store, &[], projection("b", &[], Some(5))).await.unwrap();
    sessions[4].project(&store, &[], projection("e", &[], None)).await.unwrap();
    sessions.remove(2).delete(&store).await;
    assert_eq!(text(&due(u64::MAX, None, 9).await), ["b@5", "a@10"]);
    sessions[0].project(&store, &[], projection("b", &[], Some(40))).await.unwrap();
    assert_eq!(text(&due(u64::MAX, None, 9).await), ["a@10", "b@40"]);
}

fn write(key: &str, expected: Option<&str>, value: Option<&str>) -> Cas {
    let copy = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    Cas { key: copy(key), expected: expected.map(copy), value: value.map(copy) }
}

pub(crate) async fn keeps_values(store: impl Store) {
    let get = async |key: &'static str| store.get(key.into()).await.unwrap();
    let scan = async |prefix: &'static str, after: Option<&'static str>, limit| {
        let found = store.scan(prefix.into(), after.map(Into::into), limit).await.unwrap();
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        found.into_iter().map(|(key, value)| format!("{}={}", text(key), text(value))).collect::<Vec<_>>()
    };
    let cas = async |writes: &[Cas]| store.cas(writes.to_vec()).await;
    assert_eq!(get("a").await, None);
    assert_eq!(cas(&[]).await, Ok(()));
    for key in ["b/2", "a", "b/1", "c", "b"] {
        assert_eq!(cas(&[write(key, Some("x"), Some("y"))]).await, Err(StoreError::VersionConflict));
        cas(&[write(key, None, Some("1"))]).await.unwrap();
        assert_eq!(cas(&[write(key, None, Some("2"))]).await, Err(StoreError::VersionConflict));
    }
    assert_eq!(scan("", None, 9).await, ["a=1", "b=1", "b/1=1", "b/2=1", "c=1"]);
    assert_eq!(scan("b/", None, 9).await, ["b/1=1", "b/2=1"]);
    assert_eq!(scan("b", Some("b"), 1).await, ["b/1=1"]);
    assert_eq!(scan("b", Some("a"), 1).await, ["b=1"]);
    assert_eq!(scan("b", Some("c"), 9).await, Vec::<String>::new());
    // All of it or none.
    let half = [write("a", Some("1"), None), write("b", Some("2"), Some("3"))];
    assert_eq!(cas(&half).await, Err(StoreError::VersionConflict));
    assert_eq!((get("a").await, get("b").await), (Some("1".into()), Some("1".into())));
    let whole = [write("a", Some("1"), None), write("b", Some("1"), Some("")), write("d", None, Some("4"))];
    cas(&whole).await.unwrap();
    assert_eq!((get("a").await, get("b").await), (None, Some(Bytes::new())));
    assert_eq!(scan("", None, 3).await, ["b=", "b/1=1", "b/2=1"]);
    assert_eq!(scan("c", None, 9).await, ["c=1"]);
    assert_eq!(cas(&[write("a", Some("1"), Some("2"))]).await, Err(StoreError::VersionConflict));
    assert_eq!(cas(&[write("d", Some("4"), Some("4")), write("a", None, None)]).await, Ok(()));
    // Limits.
    let (key, value) = ("k".repeat(KEY_BYTES_MAX + 1), "v".repeat(VALUE_BYTES_MAX + 1));
    for refused in [write(&key, None, None), write("a", None, Some(&value))] {
        assert!(matches!(cas(&[refused]).await, Err(StoreError::OutOfRange(_))));
    }
    assert!(matches!(
        cas(&[write("a", None, None), write("a", None, None)]).await,
        Err(StoreError::OutOfRange(_))
    ));
    let many: Vec<Cas> =
        (0..=WRITES_MAX).map(|count| write(&format!("many {count}"), None, Some("x"))).collect();
    assert!(matches!(cas(&many).await, Err(StoreError::BatchTooLarge { what: "writes", .. })));
    cas(&many[1..]).await.unwrap();
    cas(&[write(&key[1..], None, Some(&value[1..]))]).await.unwrap();
    assert_eq!(store.get(Bytes::from(key[1..].to_owned())).await, Ok(Some(value[1..].to_owned().into())));
    assert_eq!(scan("many ", None, 99).await.len(), WRITES_MAX);
    store.shutdown().await.unwrap();
    assert!(matches!(cas(&[write("e", None, Some("x"))]).await, Err(StoreError::Unavailable(_))));
    assert_eq!(get("d").await, Some("4".into()));
}

/// Many writers move amounts between accounts: every move that was acknowledged happened once, no other did, and no
/// reader ever sees half of one.
pub(crate) async fn lets_one_writer_win(store: impl Store) {
    const WRITERS: u64 = 8;
    const MOVES: u64 = 60;
    const ACCOUNTS: u64 = 3;
    const AMOUNT: u64 = 1_000_000;
    let store = Arc::new(store);
    let account = |number: u64| Bytes::from(format!("account {number}"));
    let amount = |value: Option<Bytes>| -> u64 {
        value.map_or(0, |value| std::str::from_utf8(&value).unwrap().parse().unwrap())
    };
    for number in 0..ACCOUNTS {
        let value = Some(AMOUNT.to_string().into());
        store.cas(vec![Cas { key: account(number), expected: None, value }]).await.unwrap();
    }
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut conflicts = 0;
                for count in 0..MOVES {
                    let (from, to) = (writer + count, writer + count + 1 + count % (ACCOUNTS - 1));
                    let (from, to) = (account(from % ACCOUNTS), account(to % ACCOUNTS));
                    loop {
                        let before =
                            (store.get(from.clone()).await.unwrap(), store.get(to.clone()).await.unwrap());
                        let after = (amount(before.0.clone()) - 1, amount(before.1.clone()) + 1);
                        let write = |key: &Bytes, expected, value: u64| Cas {
                            key: key.clone(),
                            expected,
                            value: Some(value.to_string().into()),
                        };
                        let writes = vec![write(&from, before.0, after.0), write(&to, before.1, after.1)];
                        match store.cas(writes).await {
                            Ok(()) => break,
                            Err(StoreError::VersionConflict) => conflicts += 1,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    // A key of its own: written once, by whoever is first.
                    let own = Cas {
                        key: format!("first {count}").into(),
                        expected: None,
                        value: Some(writer.to_string().into()),
                    };
                    match store.cas(vec![own]).await {
                        Ok(()) => {
                            let found = store.get(format!("first {count}").into()).await.unwrap();
                            assert_eq!(amount(found), writer, "what was acknowledged is there");
                        }
                        Err(error) => assert_eq!(error, StoreError::VersionConflict),
                    }
                }
                conflicts
            })
        })
        .collect();
    let reader = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut scans = 0;
            loop {
                let found = store.scan("account ".into(), None, 9).await.unwrap();
                let sum: u64 = found.into_iter().map(|(_, value)| amount(Some(value))).sum();
                scans += 1;
                // Keys are read one by one where memory and database meet, so a scan may be in the middle of moves.
                assert!(sum.abs_diff(ACCOUNTS * AMOUNT) <= WRITERS * MOVES);
                if store.get("done".into()).await.unwrap().is_some() {
                    return scans;
                }
                tokio::task::yield_now().await;
            }
        })
    };
    for writer in writers {
        writer.await.unwrap();
    }
    store.cas(vec![write("done", None, Some(""))]).await.unwrap();
    assert!(reader.await.unwrap() > 0);
    let mut sum = 0;
    for number in 0..ACCOUNTS {
        sum += amount(store.get(account(number)).await.unwrap());
    }
    assert_eq!(sum, ACCOUNTS * AMOUNT, "a move was lost, doubled or halved");
}

pub(crate) async fn tells_of_commits(store: impl Store) {
    let mut commits = store.commits();
    let mut session = Session::open(&store, "a").await;
    let mut last = *commits.borrow_and_update();
    for _ in 0..3 {
        // A hint can be missed; the next commit brings the next one.
        loop {
            session.append(&store, &["x"]).await.unwrap();
            if timeout(HINT_TIMEOUT, commits.changed()).await.is_ok() {
                break;
            }
        }
        let now = *commits.borrow_and_update();
        assert!(now > last);
        last = now;
    }
    store.cas(vec![write("a", None, Some("x"))]).await.unwrap();
    assert!(*store.commits().borrow() > last);
}
