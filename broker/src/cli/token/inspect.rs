//! What a token says. Nothing of it is believed: it may come from anybody.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use longwire_broker::auth::guard::OWN_NAME;
use longwire_broker::auth::issuer::Issuer;
use longwire_broker::auth::token::Verifier;
use serde_json::{Map, Value, json};

use crate::cli::clock_text::{date_time, now_ms};
use crate::cli::escape::escape;
use crate::cli::key::Folder;

/// Claims with a time, and what each is called here.
const TIMES: [(&str, &str); 3] = [("iat", "issued"), ("nbf", "not before"), ("exp", "expires")];
/// Claims that are shown by name; the others follow as they are.
const NAMED: [(&str, &str); 7] = [
    ("sub", "subject"),
    ("kind", "kind"),
    ("iss", "issuer"),
    ("aud", "audience"),
    ("jti", "token id"),
    ("device", "device"),
    ("grants", "grants"),
];
/// Columns of the names.
const WIDTH: usize = 11;

/// What was found out about a signature.
enum Signature {
    /// It is of a key of the data folder; whether the token is accepted, and if not, why.
    Here { refused: Option<String> },
    /// It is of none of them.
    Elsewhere { why: String },
    /// There is nothing to verify it with.
    Unchecked { why: String },
}

/// Prints what a token says.
///
/// # Errors
/// What it is not a token for.
pub(super) fn inspect(token: &str, folder: &Folder, json: bool) -> anyhow::Result<()> {
    let (header, claims) = parts(token).ok_or_else(|| {
        anyhow::anyhow!("this is no token: three parts of base64url, separated by `.`, the first two of JSON")
    })?;
    let signature = signature(token, folder)?;
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", as_json(header, claims, &signature))?;
    } else {
        write!(out, "{}", as_text(&header, claims, &signature))?;
    }
    Ok(())
}

fn parts(token: &str) -> Option<(Map<String, Value>, Map<String, Value>)> {
    let part = |text: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok();
    let mut parts = token.split('.');
    let (header, claims) = (part(parts.next()?)?, part(parts.next()?)?);
    parts.next().filter(|_| parts.next().is_none()).map(|_| (header, claims))
}

fn signature(token: &str, folder: &Folder) -> anyhow::Result<Signature> {
    let keys = match folder.keys() {
        Ok(keys) => keys,
        Err(error) => return Ok(Signature::Unchecked { why: error.to_string() }),
    };
    let mut verifier = Verifier::new(vec![Issuer::own(OWN_NAME, OWN_NAME)?])?;
    verifier.put_keys(OWN_NAME, keys.keys(now_ms()));
    Ok(match verifier.check_signature(token) {
        Ok(()) => {
            Signature::Here { refused: verifier.verify(token, now_ms()).err().map(|error| error.to_string()) }
        }
        Err(error) => Signature::Elsewhere { why: error.to_string() },
    })
}

/// A time of a claim, in seconds, as text; `None` when it is none.
fn time(claims: &Map<String, Value>, name: &str) -> Option<String> {
    let seconds = claims.get(name)?.as_f64().filter(|seconds| (0.0..1e12).contains(seconds))?;
    Some(date_time((seconds * 1000.0) as u64))
}

fn as_json(header: Map<String, Value>, claims: Map<String, Value>, signature: &Signature) -> Value {
    let (signed_here, accepted, why) = match signature {
        Signature::Here { refused } => (Some(true), refused.is_none(), refused.as_deref()),
        Signature::Elsewhere { why } => (Some(false), false, Some(why.as_str())),
        Signature::Unchecked { why } => (None, false, Some(why.as_str())),
    };
    let times: Map<String, Value> = TIMES
        .iter()
        .filter_map(|(claim, _)| Some(((*claim).to_owned(), time(&claims, claim)?.into())))
        .collect();
    json!({
        "header": header, "claims": claims, "times": times,
        "signed_here": signed_here, "valid_here": accepted, "why": why,
    })
}

fn as_text(header: &Map<String, Value>, mut claims: Map<String, Value>, signature: &Signature) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let name = escape(name);
        text.push_str(&format!("{name:WIDTH$} {}\n", escape(value)));
    };
    for (claim, name) in NAMED {
        match claims.remove(claim) {
            Some(Value::Array(values)) => values.iter().for_each(|value| line(name, &plain(value))),
            Some(value) => line(name, &plain(&value)),
            None => {}
        }
    }
    for (claim, name) in TIMES {
        if let Some(time) = time(&claims, claim) {
            line(name, &time);
            claims.remove(claim);
        }
    }
    claims.iter().for_each(|(name, value)| line(name, &plain(value)));
    for name in ["kid", "alg"] {
        if let Some(value) = header.get(name) {
            line(if name == "kid" { "key" } else { "algorithm" }, &plain(value));
        }
    }
    match signature {
        Signature::Here { refused } => {
            line("signature", "of a key of this data folder");
            match refused {
                None => line("valid", "yes, unless it was revoked, which only the broker knows"),
                Some(why) => line("valid", &format!("no: {why}")),
            }
        }
        Signature::Elsewhere { why } => line("signature", &format!("of no key of this data folder: {why}")),
        Signature::Unchecked { why } => line("signature", &format!("not checked: {why}")),
    }
    text
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.c2ln", part(header), part(claims))
    }

    #[test]
    fn what_a_token_says_is_shown_and_cannot_steer_the_terminal() {
        let claims = json!({
            "sub": "ada\u{1b}[2J", "kind": "human", "exp": 1_700_000_000, "nbf": "soon", "grants": ["a/**:read", "b:read"],
            "\u{1b}]0;x\u{7}": 1,
        });
        let (header, claims) = parts(&token(&json!({"alg": "none", "kid": "k"}), &claims)).unwrap();
        let shown = as_text(&header, claims, &Signature::Unchecked { why: "no keys".into() });
        assert!(!shown.contains('\u{1b}'), "{shown}");
        for line in [
            "subject     ada\\x1b[2J",
            "expires     2023-11-14T22:13:20.000Z",
            "grants      a/**:read",
            "grants      b:read",
            "nbf         soon",
            "algorithm   none",
            "signature   not checked: no keys",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{line}\n{shown}");
        }
    }

    #[test]
    fn other_things_are_no_tokens() {
        for text in ["", "a.b", "a.b.c", "e30.e30", "e30.e30.a.b", "e30.W10.c", "W10.e30.c", "e30.e30=.c"] {
            assert!(parts(text).is_none(), "{text}");
        }
        assert!(parts("e30.e30.").is_some());
    }
}
