//! Which host a request is for, and whether the broker is that host.

use std::net::IpAddr;

use axum::extract::Request;
use http::header::HOST;
use http::uri::Authority;
use longwire_proto::error::{Error, ErrorCode};

/// The host that a request names: in `Host`, in `:authority` of HTTP/2, or in the URI of HTTP/1. Only a client that is no
/// browser names none.
///
/// # Errors
/// `origin_forbidden` when it names two, or none that can be read: what is checked must be what others act on.
pub fn requested(request: &Request) -> Result<Option<Authority>, Error> {
    let refuse = |message: String| Err(Error::new(ErrorCode::OriginForbidden, message));
    let mut headers = request.headers().get_all(HOST).iter();
    let header = headers.next();
    if headers.next().is_some() {
        return refuse("the request has more than one `Host`; send one".to_owned());
    }
    let in_uri = request.uri().authority();
    let named = match (header, in_uri) {
        (None, None) => return Ok(None),
        (None, Some(authority)) => Ok(authority.clone()),
        (Some(header), _) => header.to_str().unwrap_or_default().parse::<Authority>().map_err(|_| header),
    };
    let named = match named {
        Ok(named) if !named.as_str().contains('@') => named,
        Ok(named) => return refuse(format!("`{named}` is a host with a user: name the host alone")),
        Err(header) => return refuse(format!("{header:?} is not a host")),
    };
    match in_uri {
        Some(authority) if *authority != named => {
            refuse(format!("the request is for `{authority}`, and its `Host` is `{named}`: name one of them"))
        }
        _ => Ok(Some(named)),
    }
}

/// Whether the broker answers to this name: addresses, `localhost`, and those of the configuration.
#[must_use]
pub fn is_known(host: &Authority, hosts: &[String]) -> bool {
    let name = host.host().to_ascii_lowercase();
    let is_address = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    is_address
        || name == "localhost"
        || name.ends_with(".localhost")
        || hosts.iter().any(|known| known.eq_ignore_ascii_case(&name))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn request(uri: &str, hosts: &[&str]) -> Request {
        let request = http::Request::builder().uri(uri);
        hosts.iter().fold(request, |request, host| request.header(HOST, *host)).body(Body::empty()).unwrap()
    }

    #[test]
    fn only_names_of_the_broker_are_known() {
        let hosts = ["broker.example".to_owned()];
        let known = |host: &str| match requested(&request("/", &[host])) {
            Ok(Some(host)) => is_known(&host, &hosts),
            _ => false,
        };
        for host in ["127.0.0.1:8700", "[::1]:8700", "localhost", "a.localhost:1", "Broker.Example:443"] {
            assert!(known(host), "{host}");
        }
        for host in [
            "evil.example:8700",
            "127.0.0.1.evil.example",
            "127.0.0.1.",
            "localhost.evil.example",
            "localhost.",
            "broker.example.",
            "broker.example.evil.example",
            "",
            "a b",
            "x@evil.example",
            "x@localhost",
            "evil.example@localhost",
        ] {
            assert!(!known(host), "{host}");
        }
    }

    #[test]
    fn a_request_is_for_one_host() {
        let name = |uri: &str, hosts: &[&str]| {
            requested(&request(uri, hosts)).map(|host| host.map(|host| host.to_string()))
        };
        assert_eq!(name("/", &[]).unwrap(), None);
        assert_eq!(name("/", &["a:1"]).unwrap().unwrap(), "a:1");
        assert_eq!(name("https://a:1/", &[]).unwrap().unwrap(), "a:1");
        assert_eq!(name("https://A:1/", &["a:1"]).unwrap().unwrap(), "a:1");
        let twice: [(&str, &[&str]); 6] = [
            ("https://a:1/", &["b:1"]),
            ("https://a:1/", &["a:2"]),
            ("https://a/", &["a:1"]),
            ("https://a:1/", &[""]),
            ("/", &["a:1", "a:1"]),
            ("https://x@a:1/", &[]),
        ];
        for (uri, hosts) in twice {
            let error = name(uri, hosts).unwrap_err();
            assert_eq!(error.code, ErrorCode::OriginForbidden, "{uri} {hosts:?}");
        }
    }
}
