//! The keyed state by the SDK and the command line: nobody's change is lost.

use std::process::{Command, Output};

use longwire::{Client, ErrorCode, PublishError, StateValue};

use crate::support::broker::{Broker, LONGWIRE, folder};

const SESSION: &str = "acme/count";

fn longwire(broker: &Broker, args: &[&str]) -> Output {
    Command::new(LONGWIRE).env("LONGWIRE_URL", broker.url()).args(args).output().unwrap()
}

fn client(broker: &Broker) -> Client {
    Client::connect(&broker.url()).unwrap()
}

fn said(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    (output.status.code(), text)
}

/// Counts one up, however many others do.
async fn count_up(lw: &Client) {
    let session = lw.session(SESSION).unwrap();
    loop {
        let entry = session.get("count").await.unwrap();
        let revision = entry.as_ref().map_or(0, |entry| entry.revision);
        let count: u32 = match entry.and_then(|entry| entry.value) {
            Some(StateValue::Text(text)) => text.parse().unwrap(),
            None => 0,
            Some(other) => panic!("{other:?}"),
        };
        match session.set("count", (count + 1).to_string()).if_revision(revision).await {
            Ok(_) => return,
            Err(PublishError::Refused(refusal)) if refusal.code == Some(ErrorCode::RevisionMismatch) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_count_no_count_is_lost() {
    const CLIENTS: usize = 4;
    const COUNTS: usize = 25;
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let clients: Vec<Client> = (0..CLIENTS).map(|_| client(&broker)).collect();
    clients[0].session(SESSION).unwrap().publish("hello").await.unwrap();
    let counting = clients.iter().cloned().map(|lw| {
        tokio::spawn(async move {
            for _ in 0..COUNTS {
                count_up(&lw).await;
            }
        })
    });
    let counting: Vec<_> = counting.collect();
    for task in counting {
        task.await.unwrap();
    }
    let total = (CLIENTS * COUNTS).to_string();
    let get = longwire(&broker, &["state", "get", SESSION, "count"]);
    assert_eq!(said(&get), (Some(0), total.clone()));
    broker.kill();
    let broker = Broker::start(&data);
    let entry = client(&broker).session(SESSION).unwrap().get("count").await.unwrap().unwrap();
    assert_eq!(entry.value, Some(StateValue::Text(total)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_shows_and_sets_it() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let run = |args: &[&str]| longwire(&broker, args);
    let absent = run(&["state", "set", SESSION, "branch", "main"]);
    assert_eq!(absent.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&absent.stderr).contains("session_not_found"), "{absent:?}");
    assert!(run(&["pub", SESSION, "hello"]).status.success());
    assert_eq!(
        said(&run(&["state", "set", SESSION, "branch", "main", "--if-revision", "0"])),
        (Some(0), "1".into())
    );
    let late = run(&["state", "set", SESSION, "branch", "topic", "--if-revision", "0"]);
    assert_eq!(late.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&late.stderr).contains("revision_mismatch"), "{late:?}");
    assert_eq!(said(&run(&["state", "get", SESSION, "branch"])), (Some(0), "main".into()));
    let shown = "branch  main  (anonymous, revision 1)".to_owned();
    assert_eq!(said(&run(&["state", SESSION])), (Some(0), shown));
    let json = said(&run(&["--json", "state", SESSION])).1;
    assert!(json.contains("\"key\":\"branch\"") && json.contains("\"revision\":\"1\""), "{json}");
    assert_eq!(said(&run(&["state", "rm", SESSION, "branch"])), (Some(0), String::new()));
    assert_eq!(said(&run(&["state", "get", SESSION, "branch"])), (Some(1), String::new()));
    let told = said(&run(&["tail", SESSION, "--from", "start", "--no-follow"])).1;
    assert!(told.contains("sets branch: main") && told.contains("removes branch"), "{told}");
}
