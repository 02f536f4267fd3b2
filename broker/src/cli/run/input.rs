//! What others say to the command.

use longwire::{From, Record, Session};
use longwire_proto::kind;
use tokio::io::AsyncWriteExt;
use tokio::process::ChildStdin;

use crate::cli::run::{EXIT_TYPE, STREAM_HEADER};

/// Writes messages that others publish from now on to the command's stdin, one line each. The end of the session is the
/// end of the input.
pub(crate) async fn feed(session: Session, mut stdin: ChildStdin) {
    let mut records = match session.subscribe(From::End).wait_for_session().await {
        Ok(records) => records,
        Err(error) => return eprintln!("longwire: the command gets no input: {error}"),
    };
    while let Some(next) = records.next().await {
        let record = match next {
            Ok(record) => record,
            Err(error) if error.goes_on() => continue,
            Err(error) => return eprintln!("longwire: the command gets no more input: {error}"),
        };
        if let Some(line) = input_line(&record)
            && stdin.write_all(&line).await.is_err()
        {
            // The command does not read any more.
            return;
        }
    }
}

/// The line that a record is as input; none for what a command said.
fn input_line(record: &Record) -> Option<Vec<u8>> {
    let said = record.headers.contains_key(STREAM_HEADER) || record.record_type == EXIT_TYPE;
    if record.kind != kind::MESSAGE || said {
        return None;
    }
    let one_line = |byte: &u8| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte };
    let mut line: Vec<u8> = record.bytes().iter().map(one_line).collect();
    line.push(b'\n');
    Some(line)
}
