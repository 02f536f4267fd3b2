//! The token that says who the client is, and where it comes from.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

/// A token. Whoever has it is its principal, so it shows itself nowhere.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(Arc<str>);

impl Token {
    /// `None` when there is nothing.
    pub(crate) fn new(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self(text.into()))
    }

    /// For a frame.
    pub(crate) fn reveal(&self) -> String {
        self.0.as_ref().to_owned()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a token)")
    }
}

/// A token on its way, or why there is none.
pub(crate) type Asking = Pin<Box<dyn Future<Output = Result<Token, String>> + Send>>;

/// What the application gives tokens with.
#[derive(Clone)]
pub(crate) struct TokenCallback(Arc<dyn Fn() -> Asking + Send + Sync>);

impl TokenCallback {
    pub(crate) fn new<F, T, E>(callback: F) -> Self
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: Future<Output = Result<String, E>> + Send + 'static,
        E: fmt::Display,
    {
        Self(Arc::new(move || {
            let asked = callback();
            Box::pin(async move {
                let text = asked.await.map_err(|error| error.to_string())?;
                Token::new(&text).ok_or_else(|| "the token callback gave an empty token".to_owned())
            })
        }))
    }

    pub(crate) fn ask(&self) -> Asking {
        (self.0)()
    }
}

impl fmt::Debug for TokenCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenCallback")
    }
}

/// Where the client's tokens come from.
#[derive(Clone, Debug, Default)]
pub(crate) enum TokenSource {
    /// The client is nobody.
    #[default]
    None,
    /// This one, for as long as it lasts.
    Fixed(Token),
    /// Each from the application.
    Callback(TokenCallback),
}
