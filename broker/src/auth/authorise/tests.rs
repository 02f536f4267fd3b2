//! The matrix: every role, operation and path, against what is written down here in sets, and not in the table of rights.

use longwire_proto::session_id::SessionId;

use super::*;
use crate::auth::operation::Operation as Op;
use crate::auth::testing::principal;

/// What a reader can do.
const READING: &[Op] = &[
    Op::SubscribeLive,
    Op::SubscribeReplay,
    Op::SubscribePattern,
    Op::Read,
    Op::List,
    Op::Describe,
    Op::ForkFrom,
    Op::Export,
    Op::CommitCursor,
    Op::DescribeCursor,
    Op::DescribeAsk,
    Op::ReadMessage,
];
const PUBLISHING: &[Op] = &[Op::Publish];
const ANSWERING: &[Op] = &[Op::Answer];
const CONTROLLING: &[Op] = &[Op::Control];
const LEASING: &[Op] = &[Op::Lease];
const SETTING: &[Op] = &[Op::SetState];
const CREATING: &[Op] = &[Op::Create, Op::ForkInto];
const MANAGING: &[Op] = &[Op::Close, Op::Delete, Op::Trim, Op::Erase, Op::ActAs, Op::Share];
/// What takes two rights.
const PUBLISHING_AND_CREATING: &[Op] = &[Op::Import];
const CREATING_AND_MANAGING: &[Op] = &[Op::Update];
const LEASING_AND_MANAGING: &[Op] = &[Op::TakeOver];
/// What is about worker groups.
const GROUPS: &[Op] = &[Op::WorkerGroup];
/// What is about every session there is.
const EVERYTHING: &[Op] = &[Op::RevokeToken, Op::BackUp, Op::Metrics];

const PATHS: [&str; 12] = [
    "acme",
    "acme/a",
    "acme/b",
    "acme/a/run",
    "acme/a/run/1/2/3/4/5",
    "other",
    "other/a",
    "acmes/a",
    "acme-/a",
    "ACME/a",
    "a/acme",
    "acme.x/a",
];

/// What a role can do where; everywhere else, and for every other operation, it is refused.
struct Place {
    paths: &'static [&'static str],
    allowed: &'static [&'static [Op]],
    visible: bool,
}

struct Role {
    name: &'static str,
    grants: &'static [&'static str],
    places: &'static [Place],
    everything: bool,
}

const ACME: &[&str] = &["acme", "acme/a", "acme/b", "acme/a/run", "acme/a/run/1/2/3/4/5"];

const ROLES: &[Role] = &[
    Role { name: "nobody", grants: &[], places: &[], everything: false },
    Role {
        name: "reader",
        grants: &["acme/**:read"],
        places: &[Place { paths: ACME, allowed: &[READING], visible: true }],
        everything: false,
    },
    Role {
        name: "reader of one",
        grants: &["acme/a:read"],
        places: &[Place { paths: &["acme/a"], allowed: &[READING], visible: true }],
        everything: false,
    },
    Role {
        name: "reader of a level",
        grants: &["acme/*:read"],
        places: &[Place { paths: &["acme/a", "acme/b"], allowed: &[READING], visible: true }],
        everything: false,
    },
    Role {
        name: "writer who cannot see",
        grants: &["acme/**:publish"],
        places: &[Place { paths: ACME, allowed: &[PUBLISHING], visible: false }],
        everything: false,
    },
    Role {
        name: "author",
        grants: &["acme/**:read,publish,create"],
        places: &[Place {
            paths: ACME,
            allowed: &[READING, PUBLISHING, CREATING, PUBLISHING_AND_CREATING],
            visible: true,
        }],
        everything: false,
    },
    Role {
        name: "creator who cannot see",
        grants: &["acme/a/**:create"],
        places: &[Place {
            paths: &["acme/a", "acme/a/run", "acme/a/run/1/2/3/4/5"],
            allowed: &[CREATING],
            visible: false,
        }],
        everything: false,
    },
    Role {
        name: "manager who cannot create",
        grants: &["acme/**:read,manage"],
        places: &[Place { paths: ACME, allowed: &[READING, MANAGING], visible: true }],
        everything: false,
    },
    Role {
        name: "owner of a tenant",
        grants: &["acme/**:read,publish,create,answer,control,lease,state,manage"],
        places: &[Place {
            paths: ACME,
            allowed: &[
                READING,
                PUBLISHING,
                ANSWERING,
                CONTROLLING,
                LEASING,
                SETTING,
                CREATING,
                MANAGING,
                PUBLISHING_AND_CREATING,
                CREATING_AND_MANAGING,
                LEASING_AND_MANAGING,
            ],
            visible: true,
        }],
        everything: false,
    },
    Role {
        name: "human who may only answer",
        grants: &["acme/**:read,answer"],
        places: &[Place { paths: ACME, allowed: &[READING, ANSWERING], visible: true }],
        everything: false,
    },
    Role {
        name: "agent",
        grants: &["acme/**:read,publish,lease"],
        places: &[Place { paths: ACME, allowed: &[READING, PUBLISHING, LEASING], visible: true }],
        everything: false,
    },
    Role {
        name: "human who may only control agents that it cannot see",
        grants: &["acme/**:control"],
        places: &[Place { paths: ACME, allowed: &[CONTROLLING], visible: false }],
        everything: false,
    },
    Role {
        name: "supervisor of agents",
        grants: &["acme/a:lease", "acme/**:manage"],
        places: &[
            Place { paths: &["acme/a"], allowed: &[MANAGING, LEASING, LEASING_AND_MANAGING], visible: false },
            Place { paths: ACME, allowed: &[MANAGING], visible: false },
        ],
        everything: false,
    },
    Role {
        name: "somebody who may set the state alone",
        grants: &["acme/**:state"],
        places: &[Place { paths: ACME, allowed: &[SETTING], visible: false }],
        everything: false,
    },
    Role {
        name: "reader of all, author of one",
        grants: &["acme/**:read", "acme/a:publish", "acme/a:create,manage"],
        places: &[
            Place {
                paths: &["acme/a"],
                allowed: &[
                    READING,
                    PUBLISHING,
                    CREATING,
                    MANAGING,
                    PUBLISHING_AND_CREATING,
                    CREATING_AND_MANAGING,
                ],
                visible: true,
            },
            Place {
                paths: &["acme", "acme/b", "acme/a/run", "acme/a/run/1/2/3/4/5"],
                allowed: &[READING],
                visible: true,
            },
        ],
        everything: false,
    },
    Role {
        name: "reader of two tenants",
        grants: &["acme:read", "other/**:read"],
        places: &[Place { paths: &["acme", "other", "other/a"], allowed: &[READING], visible: true }],
        everything: false,
    },
    Role {
        name: "manager of every tenant by name",
        grants: &["acme/**:manage", "other/**:manage", "acmes/**:manage", "a/**:manage"],
        places: &[Place {
            paths: &[
                "acme",
                "acme/a",
                "acme/b",
                "acme/a/run",
                "acme/a/run/1/2/3/4/5",
                "other",
                "other/a",
                "acmes/a",
                "a/acme",
            ],
            allowed: &[MANAGING],
            visible: false,
        }],
        everything: false,
    },
    Role {
        name: "reader of everything",
        grants: &["**:read"],
        places: &[Place { paths: &PATHS, allowed: &[READING], visible: true }],
        everything: false,
    },
    Role {
        name: "operator",
        grants: &["**:read,manage"],
        places: &[Place { paths: &PATHS, allowed: &[READING, MANAGING], visible: true }],
        everything: true,
    },
];

fn id(text: &str) -> SessionId {
    SessionId::parse(text).unwrap()
}

#[test]
fn every_role_can_do_what_is_written_down_and_nothing_else() {
    let mut count = 0;
    for role in ROLES {
        let somebody = principal(role.grants);
        for path in PATHS {
            let place = role.places.iter().find(|place| place.paths.contains(&path));
            for operation in Op::ALL.iter().copied() {
                let allowed =
                    place.is_some_and(|place| place.allowed.iter().any(|set| set.contains(&operation)));
                let visible = place.is_some_and(|place| place.visible);
                let expected = match (allowed, visible) {
                    (true, _) => None,
                    // What is about everything, or about worker groups, is not about a session, whoever asks.
                    (false, _) if EVERYTHING.contains(&operation) => Some(ErrorCode::SessionNotFound),
                    (false, _) if GROUPS.contains(&operation) => Some(ErrorCode::SessionNotFound),
                    (false, true) => Some(ErrorCode::Forbidden),
                    (false, false) => Some(ErrorCode::SessionNotFound),
                };
                let found = authorise(&somebody, operation, &id(path)).err().map(|error| error.code);
                assert_eq!(found, expected, "{} {operation:?} {path}", role.name);
                count += 1;
            }
        }
        for operation in Op::ALL.iter().copied() {
            let expected = !(role.everything && EVERYTHING.contains(&operation));
            let found = authorise(&somebody, operation, Subject::Everything).err().map(|error| error.code);
            assert_eq!(found, expected.then_some(ErrorCode::Forbidden), "{} {operation:?}", role.name);
            count += 1;
        }
    }
    assert_eq!(count, ROLES.len() * Op::ALL.len() * (PATHS.len() + 1));
    println!("{count} decisions: {} roles, {} operations", ROLES.len(), Op::ALL.len());
}

#[test]
fn the_sets_name_every_operation_once() {
    let sets = [
        READING,
        PUBLISHING,
        ANSWERING,
        CONTROLLING,
        LEASING,
        SETTING,
        CREATING,
        MANAGING,
        PUBLISHING_AND_CREATING,
        CREATING_AND_MANAGING,
        LEASING_AND_MANAGING,
        GROUPS,
        EVERYTHING,
    ];
    for operation in Op::ALL.iter().copied() {
        let named = sets.iter().map(|set| set.iter().filter(|one| **one == operation).count());
        assert_eq!(named.sum::<usize>(), 1, "{operation:?}");
    }
}

#[test]
fn what_may_not_be_read_is_refused_like_what_does_not_exist() {
    // What the session's owner and the store say of a name without a session.
    let absent = Error::no_such_session();
    for role in ROLES {
        let somebody = principal(role.grants);
        for operation in Op::ALL.iter().copied() {
            for path in PATHS {
                let Err(refused) = authorise(&somebody, operation, &id(path)) else { continue };
                if refused.code != ErrorCode::SessionNotFound {
                    continue;
                }
                let absent = match operation {
                    Op::ForkFrom => absent.clone().field("from_session"),
                    _ => absent.clone(),
                };
                // Every field, the message too: it does not repeat the name.
                assert_eq!(refused.to_wire(), absent.to_wire(), "{} {operation:?} {path}", role.name);
            }
        }
    }
}

#[test]
fn a_refusal_says_what_is_missing_and_no_more() {
    let reader = principal(&["acme/**:read", "other/**:publish"]);
    let error = authorise(&reader, Op::Import, &id("acme/a")).unwrap_err();
    assert_eq!((error.code, error.field), (ErrorCode::Forbidden, "session"));
    assert_eq!(error.message, "that takes a grant of this session with the right `publish,create`");
    let error = authorise(&principal(&["acme/**:read,create"]), Op::Update, &id("acme/a")).unwrap_err();
    assert_eq!(error.message, "that takes a grant of this session with the right `manage`");
    let error = authorise(&reader, Op::Metrics, Subject::Everything).unwrap_err();
    assert_eq!(error.message, "that takes a grant of `**` with the right `manage`");
}

#[test]
fn the_brokers_own_sessions_are_nobodys() {
    let operator = principal(&["**:read,publish,create,answer,control,lease,state,manage"]);
    for path in ["~import/acme/a", "~acme/a", "~a"] {
        for operation in Op::ALL.iter().copied() {
            let error = authorise(&operator, operation, &SessionId::reserved(path).unwrap()).unwrap_err();
            assert_eq!(error.code, ErrorCode::SessionNotFound, "{operation:?} {path}");
        }
    }
}

#[test]
fn a_worker_group_is_whose_folder_it_is_and_the_broker_alone_writes_to_it() {
    let reads = [
        Op::SubscribeLive,
        Op::SubscribeReplay,
        Op::Read,
        Op::Describe,
        Op::Export,
        Op::CommitCursor,
        Op::DescribeCursor,
        Op::WorkerGroup,
    ];
    let all = "read,publish,create,answer,control,lease,state,manage";
    for (grants, may) in [
        (vec![format!("acme/chat/**:{all}")], true),
        (vec!["acme/**:read".to_owned(), "acme/chat/**:manage".to_owned()], true),
        (vec![format!("**:{all}")], true),
        // Not everything that the group may wake is theirs.
        (vec![format!("acme/chat/*:{all}")], false),
        (vec![format!("acme/chat/coders:{all}"), format!("acme/chat:{all}")], false),
        (vec!["acme/chat/**:manage".to_owned()], false),
        (vec!["acme/**:read,publish,create,answer,control,lease,state".to_owned()], false),
        (vec![format!("other/**:{all}")], false),
        (Vec::new(), false),
    ] {
        let texts: Vec<&str> = grants.iter().map(String::as_str).collect();
        let somebody = principal(&texts);
        for path in ["~/workers/acme/chat/coders", "~/dead/acme/chat/coders"] {
            for operation in Op::ALL.iter().copied() {
                let expected = match (may, reads.contains(&operation)) {
                    (true, true) => None,
                    (true, false) => Some(ErrorCode::Forbidden),
                    (false, _) => Some(ErrorCode::SessionNotFound),
                };
                let session = SessionId::reserved(path).unwrap();
                let found = authorise(&somebody, operation, &session).err();
                assert_eq!(
                    found.as_ref().map(|error| error.code),
                    expected,
                    "{grants:?} {operation:?} {path}"
                );
                if let Some(refused) = found.filter(|error| error.code == ErrorCode::SessionNotFound) {
                    let absent = Error::no_such_session().field(operation.field());
                    assert_eq!(refused.to_wire(), absent.to_wire());
                }
            }
        }
    }
}

#[test]
fn acting_for_somebody_takes_a_right_and_shows() {
    let alice = principal(&["acme/**:read,publish", "acme/bridge/**:manage"]);
    let bridge = act_as(&alice, "bob", &id("acme/bridge/x")).unwrap();
    assert_eq!((bridge.id.as_str(), bridge.via.as_deref()), ("bob", Some("alice")));
    assert_eq!(bridge.grants.to_string(), "acme/bridge/x:read,publish,manage");
    let elsewhere = authorise(&bridge, Op::Publish, &id("acme/a")).unwrap_err();
    assert_eq!(elsewhere.code, ErrorCode::SessionNotFound);
    // Not even twice in a row does it lose sight of who acts.
    let again = act_as(&bridge, "carol", &id("acme/bridge/x")).unwrap();
    assert_eq!((again.id.as_str(), again.via.as_deref()), ("carol", Some("alice")));
    let code = |name: &str, session: &str| act_as(&alice, name, &id(session)).unwrap_err().code;
    assert_eq!(code("bob", "acme/a"), ErrorCode::Forbidden);
    assert_eq!(code("bob", "other/a"), ErrorCode::SessionNotFound);
    assert_eq!(code("b\u{43e}b", "acme/bridge/x"), ErrorCode::InvalidArgument);
    assert_eq!(code("anonymous", "acme/bridge/x"), ErrorCode::InvalidArgument);
}
