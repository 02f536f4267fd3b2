//! Looking names up in the database. Those that are asked for at a time are looked up together, on one thread and in one
//! transaction: when many sessions begin, changing threads for each takes ten times as long as the look.

use std::collections::VecDeque;
use std::sync::Arc;

use longwire_proto::session_id::SessionId;
use tokio::sync::oneshot;

use crate::store::StoreError;
use crate::store::local::lookups::{Found, Wanted};
use crate::store::local::reader::look_up;
use crate::store::local::shared::Shared;

/// Names that are looked up in one transaction: the first of them does not wait for long.
const TOGETHER: usize = 256;
/// Threads that look up at a time, when each has its hands full: what the disk is asked for is waited for.
const THREADS_MAX: usize = 4;

/// What the database knows about a session.
///
/// # Errors
/// [`StoreError::Corrupt`] or [`StoreError::Read`].
pub async fn find(shared: &Arc<Shared>, name: &SessionId) -> Result<Found, StoreError> {
    if shared.tuning.reads_block {
        return look(shared, std::slice::from_ref(name)).pop().unwrap_or_else(|| Err(unread()));
    }
    let (reply, found) = oneshot::channel();
    let begins = {
        let mut waiting = shared.lookups.waiting();
        waiting.names.push_back(Wanted { name: name.clone(), reply });
        let busy = waiting.threads * TOGETHER;
        let begins = waiting.threads < THREADS_MAX && waiting.names.len() > busy;
        waiting.threads += usize::from(begins);
        begins
    };
    if begins {
        let thread = Thread { shared: Arc::clone(shared), done: false };
        tokio::task::spawn_blocking(move || thread.run());
    }
    found.await.unwrap_or_else(|_| Err(unread()))
}

fn unread() -> StoreError {
    StoreError::Read("the broker is stopping".into())
}

/// Looks names up until none waits.
struct Thread {
    shared: Arc<Shared>,
    done: bool,
}

impl Thread {
    fn run(mut self) {
        loop {
            let wanted: Vec<Wanted> = {
                let mut waiting = self.shared.lookups.waiting();
                let count = waiting.names.len().min(TOGETHER);
                if count == 0 {
                    // Under the same lock: who asks after this begins another thread.
                    waiting.threads -= 1;
                    waiting.names = VecDeque::new();
                    self.done = true;
                    return;
                }
                waiting.names.drain(..count).collect()
            };
            let (names, replies): (Vec<_>, Vec<_>) =
                wanted.into_iter().map(|wanted| (wanted.name, wanted.reply)).unzip();
            for (reply, found) in replies.into_iter().zip(look(&self.shared, &names)) {
                // Who dropped the future does not care.
                let _ = reply.send(found);
            }
        }
    }
}

impl Drop for Thread {
    /// When it never ran, because its runtime ended, nobody may be left to look up what waits: who waits is told.
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut waiting = self.shared.lookups.waiting();
        waiting.threads -= 1;
        let left = if waiting.threads == 0 { std::mem::take(&mut waiting.names) } else { VecDeque::new() };
        drop(waiting);
        drop(left);
    }
}

fn look(shared: &Shared, names: &[SessionId]) -> Vec<Result<Found, StoreError>> {
    let evictions = shared.state().evictions;
    look_up(&shared.database, names).into_iter().map(|found| Ok((found?, evictions))).collect()
}
