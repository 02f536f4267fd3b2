//! Worker groups: sessions whose agent has something to do are told to somebody who is not connected, by a webhook.
//!
//! ```text
//! change feed ──▶ dispatcher ──looks at──▶ session ──▶ wakes (pure, one for each group) ──▶ webhook
//!                     │                                                                       │
//!                     └── cursor, in the store's table      history, dead letters (sessions) ◀┘
//! ```
//!
//! The dispatcher is one task, and the owner of all wakes. What groups are told is in the store's table, with the secrets, which are nowhere
//! else; it reads that whenever it changes. A group's cursor is the commit of the change feed up to which nothing of its sessions is left to be
//! done: after a crash what is behind it is looked at again, so a wake may be tried twice, under one id, and none is forgotten.

pub mod definition;
pub mod dispatcher;
pub mod groups;
mod history;
mod step;
pub mod wakes;
pub mod watchers;
pub mod webhook;
