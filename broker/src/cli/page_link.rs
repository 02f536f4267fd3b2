//! Links to the broker's page.

use longwire::SessionId;

/// The page about a session. A path of the URL is where the WebSocket is, not the page.
pub(crate) fn page_link(url: &str, id: &SessionId) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("ws", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    // All but one are encrypted.
    let scheme = if scheme == "ws" || scheme == "http" { "http" } else { "https" };
    format!("{scheme}://{host}/#/s/{id}")
}

/// The same for somebody who has no token yet. It is in the fragment, which a browser sends to nobody.
pub(crate) fn share_link(url: &str, id: &SessionId, token: &str) -> String {
    format!("{}?token={token}", page_link(url, id))
}

/// The token of such a link, or what is a token by itself.
pub(crate) fn token_of(link_or_token: &str) -> &str {
    let text = link_or_token.trim();
    text.rsplit_once("?token=").map_or(text, |(_, token)| token)
}

/// Whether the link leads to the machine that it is followed on.
pub(crate) fn is_local(link: &str) -> bool {
    let host = link.split("://").nth(1).unwrap_or_default().split('/').next().unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name.starts_with("127.") || name == "[::1]"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_leads_to_the_page_of_the_broker() {
        let id = SessionId::parse("acme/build/42").unwrap();
        let link = |url| page_link(url, &id);
        assert_eq!(link("ws://127.0.0.1:8700"), "http://127.0.0.1:8700/#/s/acme/build/42");
        assert_eq!(link("wss://user:secret@host/"), "https://host/#/s/acme/build/42");
        assert_eq!(link("quic://host"), "https://host/#/s/acme/build/42");
        assert_eq!(link("longwire://host:1"), "https://host:1/#/s/acme/build/42");
        assert_eq!(link("ws://[::1]:8700/v1/connect"), "http://[::1]:8700/#/s/acme/build/42");
        let shared = share_link("wss://host", &id, "a.b-c._d");
        assert_eq!(shared, "https://host/#/s/acme/build/42?token=a.b-c._d");
        assert_eq!((token_of(&shared), token_of(" a.b-c._d\n")), ("a.b-c._d", "a.b-c._d"));
        assert!(
            is_local(&link("ws://127.0.0.1:1")) && is_local(&link("ws://[::1]:8700")) && !is_local(&shared)
        );
    }
}
