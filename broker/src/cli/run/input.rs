//! What others say to the command.

use longwire::{From, Record, Session, Subscription};
use longwire_proto::kind;
use tokio::io::AsyncWriteExt;
use tokio::process::ChildStdin;

use crate::cli::run::agent::Inputs;
use crate::cli::run::{EXIT_TYPE, STREAM_HEADER};

/// Writes messages that others publish from now on, and input to the agent, to the command's stdin, one line each. The end of the
/// session is the end of the input.
pub(crate) async fn feed(session: Session, mut inputs: Inputs, mut stdin: ChildStdin) {
    let mut messages = match session.subscribe(From::End).wait_for_session().await {
        Ok(messages) => messages,
        Err(error) => return eprintln!("longwire: the command gets no input: {error}"),
    };
    loop {
        let record = tokio::select! {
            message = next(&mut messages) => match message {
                Some(message) if is_input(&message) => message,
                Some(_) => continue,
                None => return,
            },
            Some(input) = inputs.given.recv() => input,
        };
        if stdin.write_all(&line(&record)).await.is_err() {
            // The command does not read any more.
            return;
        }
        if record.kind == kind::INPUT && inputs.written.send(record.id).await.is_err() {
            return;
        }
    }
}

async fn next(messages: &mut Subscription) -> Option<Record> {
    loop {
        match messages.next().await? {
            Ok(message) => return Some(message),
            Err(error) if error.goes_on() => {}
            Err(error) => {
                eprintln!("longwire: the command gets no more input: {error}");
                return None;
            }
        }
    }
}

/// Whether a record is a message, and nothing that a command said.
fn is_input(record: &Record) -> bool {
    let said = record.headers.contains_key(STREAM_HEADER) || record.record_type == EXIT_TYPE;
    record.kind == kind::MESSAGE && !said
}

/// The line that a record is as input.
fn line(record: &Record) -> Vec<u8> {
    let one_line = |byte: &u8| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte };
    let mut line: Vec<u8> = record.bytes().iter().map(one_line).collect();
    line.push(b'\n');
    line
}
