//! Terms: what a session is found by in the list of sessions, beside its id.

use bytes::Bytes;
use longwire_proto::meta::Meta;
use longwire_proto::session_id::SessionId;

use crate::entity::view::Status;

/// The term of a label with its value.
#[must_use]
pub fn label(name: &str, value: &str) -> Bytes {
    // A name has no zero byte that could make two labels look alike: its length says where it ends.
    let mut term = vec![b'l', u8::try_from(name.len()).unwrap_or(u8::MAX)];
    term.extend_from_slice(name.as_bytes());
    term.extend_from_slice(value.as_bytes());
    Bytes::from(term)
}

/// The term of the sessions that belong to one.
#[must_use]
pub fn parent(parent: &SessionId) -> Bytes {
    Bytes::from([b"p", parent.as_str().as_bytes()].concat())
}

/// The term of the sessions that take publishes, or of those that do not any more.
#[must_use]
pub fn status(closed: bool) -> Bytes {
    Bytes::from_static(if closed { b"sclosed" } else { b"sopen" })
}

/// The term of the sessions that take publishes and do this. Those that are idle have none: nearly all are.
#[must_use]
pub fn doing(doing: Status) -> Option<Bytes> {
    match doing {
        Status::Idle => None,
        Status::Working => Some(Bytes::from_static(b"dworking")),
        Status::InputRequired => Some(Bytes::from_static(b"dinput_required")),
    }
}

/// Every term of a session, sorted, without repetitions.
#[must_use]
pub fn of(meta: &Meta, closed: bool, does: Status) -> Vec<Bytes> {
    let labels = meta.labels.iter().map(|(name, value)| label(name, value));
    let parents = meta.parent.iter().map(parent);
    let does = doing(does).filter(|_| !closed);
    let mut terms: Vec<Bytes> = labels.chain(parents).chain([status(closed)]).chain(does).collect();
    terms.sort_unstable();
    terms.dedup();
    terms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_do_not_look_like_one_another() {
        assert_ne!(label("ab", "c"), label("a", "bc"));
        assert_ne!(label("a", ""), label("", "a"));
    }

    #[test]
    fn a_session_has_its_labels_its_parent_and_its_status() {
        let meta = Meta {
            labels: [("b".into(), "1".into()), ("a".into(), "2".into())].into(),
            parent: Some(SessionId::parse("acme/x").unwrap()),
            ..Meta::default()
        };
        let terms = of(&meta, true, Status::Working);
        assert_eq!(terms.len(), 4, "what is closed does nothing");
        assert!(terms.is_sorted());
        assert!(terms.contains(&status(true)) && !terms.contains(&status(false)));
        assert!(of(&meta, false, Status::Working).contains(&doing(Status::Working).unwrap()));
    }
}
