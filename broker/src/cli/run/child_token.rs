//! The token that the command has: for its session, and for nothing else.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use longwire::{Client, Closed, ConnectionState, Right, Session};
use tokio::time::timeout;

use crate::cli::Context;
use crate::cli::clock_text::now_ms;

/// How long the command waits, at most, for the broker to make its token.
const PATIENCE: Duration = Duration::from_secs(2);
/// So much earlier than our own token the command's is over: clocks differ, and no share lasts longer than what it is made with.
const MARGIN: Duration = Duration::from_secs(5);
/// Whom a broker takes everybody for that asks nobody for a token.
const ANONYMOUS: &str = "anonymous";

/// A token with which the command can read its session and publish to it, ask and answer for its part. `None` when we have none
/// ourselves, when nobody asks for one, when ours does not let us share, and when the broker is not there: then the command has what we have.
pub(crate) async fn child_token(context: &Context, client: &Client, session: &Session) -> Option<String> {
    let own = context.token.current()?;
    let shared = async {
        if principal(client).await.ok()? == ANONYMOUS {
            return None;
        }
        let rights = Right::Read | Right::Publish;
        let whole = session.share(rights, left(&own, now_ms())).await;
        // For as long as the broker makes one that is not told how long it is to last.
        let share = if let Ok(share) = whole { share } else { session.share(rights, None).await.ok()? };
        Some(share.token)
    };
    timeout(PATIENCE, shared).await.ok().flatten()
}

async fn principal(client: &Client) -> Result<String, Closed> {
    client.connected().await?;
    match &*client.state().borrow() {
        ConnectionState::Connected { principal, .. } => Ok(principal.clone()),
        // It was, a moment ago.
        _ => Err(Closed::ShutDown),
    }
}

/// How long a token lasts, by what it says of itself; `None` when it does not.
fn left(token: &str, now_ms: u64) -> Option<Duration> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    let expires = Duration::from_secs(claims["exp"].as_u64()?);
    expires.checked_sub(Duration::from_millis(now_ms) + MARGIN).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_has_its_token_for_as_long_as_we_have_ours() {
        let token = |claims: &str| format!("e30.{}.x", URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(left(&token(r#"{"exp": 100}"#), 40_000), Some(Duration::from_secs(55)));
        for none in ["", "e30", "e30.!.x", &token("{}"), &token(r#"{"exp": 44}"#), &token(r#"{"exp": 45}"#)] {
            assert_eq!(left(none, 40_000), None, "{none}");
        }
    }
}
