//! Names that sessions had and none has now, for whoever restores an older backup.

use std::ops::Bound;
use std::sync::Arc;

use longwire_proto::session_id::SessionId;

use crate::store::list::HIDDEN;
use crate::store::local::LocalStore;
use crate::store::local::reader::{blocking, failure};
use crate::store::local::table::names::{NAMES, Name, OTHERS};
use crate::store::{LogId, StoreError};

/// Names looked at in one transaction.
const STEP: usize = 4096;

impl LocalStore {
    /// Names after one whose sessions were deleted, at most `limit`, and the epoch below which all of theirs are. What is
    /// not settled is not looked at.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub async fn deleted_names(
        &self,
        after: Option<SessionId>,
        limit: usize,
    ) -> Result<Vec<(SessionId, u64)>, StoreError> {
        let mut after = after.map_or(OTHERS.to_owned(), |name| name.as_str().to_owned());
        let mut names = Vec::new();
        while names.len() < limit {
            let from = after.clone();
            let looked = blocking(&Arc::clone(&self.shared), move |shared| {
                let looked = shared.database.read(|transaction| {
                    let range = (Bound::Excluded(from.as_str()), Bound::Unbounded);
                    let table = transaction.open_table(NAMES)?;
                    let mut looked = Vec::new();
                    for entry in table.range::<&str>(range)?.take(STEP) {
                        let (key, value) = entry?;
                        let next_epoch = match Name::decode(key.value(), value.value()) {
                            Ok(Name::Deleted { next_epoch }) => Some(next_epoch),
                            Ok(Name::Log(_)) | Err(_) => None,
                        };
                        looked.push((key.value().to_owned(), next_epoch));
                    }
                    Ok(looked)
                });
                looked.map_err(|error| failure(LogId(0), 0, error))
            })
            .await?;
            let Some((last, _)) = looked.last() else { break };
            after.clone_from(last);
            let deleted = looked.into_iter().filter(|(name, _)| !name.starts_with(HIDDEN));
            let deleted = deleted.filter_map(|(name, epoch)| Some((SessionId::stored(&name).ok()?, epoch?)));
            names.extend(deleted);
        }
        names.truncate(limit);
        Ok(names)
    }
}
