//! Who is connected and watches which sessions for something to do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use longwire_proto::pattern::Pattern;
use longwire_proto::session_id::SessionId;

/// Patterns that somebody watches, and how many do. As many as there are subscriptions of patterns at most.
#[derive(Debug, Default)]
pub struct Watchers(Mutex<HashMap<Pattern, usize>>);

/// Somebody watches for as long as this is kept.
#[derive(Debug)]
pub struct Watching {
    watchers: Arc<Watchers>,
    pattern: Pattern,
}

impl Watchers {
    /// One more watches these sessions.
    #[must_use]
    pub fn enter(self: &Arc<Self>, pattern: Pattern) -> Watching {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(pattern.clone()).or_default() += 1;
        Watching { watchers: Arc::clone(self), pattern }
    }

    /// Whether somebody watches a session.
    #[must_use]
    pub fn is_watched(&self, session: &SessionId) -> bool {
        let watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watched.keys().any(|pattern| pattern.matches(session))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut watched = self.watchers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watching) = watched.get_mut(&self.pattern) {
            *watching -= 1;
            if *watching == 0 {
                watched.remove(&self.pattern);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_watched_while_somebody_does() {
        let watchers = Arc::new(Watchers::default());
        let (chat, other) = (SessionId::parse("acme/chat/1").unwrap(), SessionId::parse("other/1").unwrap());
        let enter = |text: &str| watchers.enter(text.parse().unwrap());
        let (first, second) = (enter("acme/chat/*"), enter("acme/chat/*"));
        drop(first);
        assert!(watchers.is_watched(&chat) && !watchers.is_watched(&other));
        drop(second);
        assert!(!watchers.is_watched(&chat) && watchers.0.lock().unwrap().is_empty());
    }
}
