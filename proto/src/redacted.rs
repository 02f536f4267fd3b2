//! What frames with a token or a key show of themselves: everything but that. They end up in logs, errors and failed assertions.

use std::fmt;

use crate::wire;

/// Stands where a token is.
struct Secret<'a>(&'a str);

impl fmt::Debug for Secret<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "(a token)" })
    }
}

impl fmt::Debug for wire::Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, client, features, token } = self;
        f.debug_struct("Hello")
            .field("device", device)
            .field("client", client)
            .field("features", features)
            .field("token", &Secret(token))
            .finish()
    }
}

impl fmt::Debug for wire::Authenticate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { request, token } = self;
        f.debug_struct("Authenticate").field("request", request).field("token", &Secret(token)).finish()
    }
}

impl fmt::Debug for wire::Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { request, token, id, expires_ms } = self;
        f.debug_struct("Shared")
            .field("request", request)
            .field("token", &Secret(token))
            .field("id", id)
            .field("expires_ms", expires_ms)
            .finish()
    }
}

impl fmt::Debug for wire::RevokeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { request, token, id } = self;
        f.debug_struct("RevokeToken")
            .field("request", request)
            .field("token", &Secret(token))
            .field("id", id)
            .finish()
    }
}

impl fmt::Debug for wire::SetWorkerGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { request, group, pattern, agent, url, secret, in_flight_max, attempts_max } = self;
        // A URL may have a password of the receiver's in its path or its query.
        let of = |text: &str| if text.is_empty() { "none" } else { "(a secret)" };
        f.debug_struct("SetWorkerGroup")
            .field("request", request)
            .field("group", group)
            .field("pattern", pattern)
            .field("agent", agent)
            .field("url", &of(url))
            .field("secret", &of(secret))
            .field("in_flight_max", in_flight_max)
            .field("attempts_max", attempts_max)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_frame_shows_its_token() {
        let token = || "canary".to_owned();
        let frames = [
            wire::client_frame::Frame::Hello(wire::Hello { token: token(), ..Default::default() }),
            wire::client_frame::Frame::Authenticate(wire::Authenticate { request: 1, token: token() }),
            wire::client_frame::Frame::RevokeToken(wire::RevokeToken {
                request: 1,
                token: token(),
                id: String::new(),
            }),
        ];
        let (url, secret) = (token(), token());
        let group = wire::SetWorkerGroup { url, secret, ..Default::default() };
        let shown = format!("{group:?}");
        assert!(!shown.contains("canary") && shown.contains("(a secret)"), "{shown}");
        let shared = wire::Shared { token: token(), ..Default::default() };
        let shown = format!("{frames:?} {shared:#?}");
        assert!(!shown.contains("canary") && shown.contains("(a token)"), "{shown}");
    }
}
