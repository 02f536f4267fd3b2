//! Where the audit log is.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The audit log's name in the data folder.
pub const AUDIT_FILE: &str = "audit.jsonl";

/// `true`, `false`, or a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AuditConfig {
    /// In the data folder, or nowhere.
    Kept(bool),
    /// In this file.
    At(PathBuf),
}

impl Default for AuditConfig {
    /// Who finds out that it is needed needs what happened before.
    fn default() -> Self {
        Self::Kept(true)
    }
}

impl AuditConfig {
    /// The file, when there is one.
    #[must_use]
    pub fn file(&self, data: &Path) -> Option<PathBuf> {
        match self {
            Self::Kept(kept) => kept.then(|| data.join(AUDIT_FILE)),
            Self::At(path) => Some(path.clone()),
        }
    }
}
