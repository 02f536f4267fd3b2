//! A folder that comes about as a whole or not at all: it is made beside its name, which it is given at the end.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::store::local::disk::{FOLDER_MODE, sync_folder};
use crate::store::local::error::OpenStoreError;
use crate::store::local::folder::DataFolder;

/// What the name of a folder that is not complete ends with.
pub const SUFFIX: &str = ".partial";

/// A folder that is being made. Removed when it is dropped before [`PartialFolder::finish`]; what a crash leaves of it is
/// removed by the next one of its name.
#[derive(Debug)]
pub struct PartialFolder {
    path: PathBuf,
    target: PathBuf,
    finished: bool,
}

impl PartialFolder {
    /// Begins with an empty folder.
    ///
    /// # Errors
    /// [`OpenStoreError::InUse`] when somebody else makes it at this moment, or [`OpenStoreError::Io`].
    pub fn begin(target: &Path) -> Result<Self, OpenStoreError> {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(SUFFIX);
        let path = target.with_file_name(name);
        let made = make(parent(target));
        made.map_err(|source| OpenStoreError::Io { what: "creating", path: target.into(), source })?;
        if path.symlink_metadata().is_ok() {
            // Whatever is wrong with it, it is removed, unless somebody holds it.
            if let Err(held @ OpenStoreError::InUse(_)) = DataFolder::open(&path) {
                return Err(held);
            }
            fs::remove_dir_all(&path).map_err(|source| OpenStoreError::Io {
                what: "removing",
                path: path.clone(),
                source,
            })?;
        }
        make(&path).map_err(|source| OpenStoreError::Io { what: "creating", path: path.clone(), source })?;
        Ok(Self { path, target: target.into(), finished: false })
    }

    /// Where it is until it is complete.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name, durably. What is in its files is durable already.
    ///
    /// # Errors
    /// Those of the disk, such as that there is a folder of the name by now which is not empty.
    pub fn finish(mut self) -> io::Result<()> {
        sync_folder(&self.path)?;
        fs::rename(&self.path, &self.target)?;
        self.finished = true;
        sync_folder(parent(&self.target))
    }
}

impl Drop for PartialFolder {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.path) {
            warn!(%error, folder = %self.path.display(), "an incomplete folder could not be removed");
        }
    }
}

/// The folder that a path is in.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Creates a folder and those that it is in, durably.
fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    make(parent(path))?;
    match DirBuilder::new().mode(FOLDER_MODE).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    sync_folder(parent(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_its_name_when_it_is_complete_and_not_before() {
        let around = tempfile::tempdir().unwrap();
        let target = around.path().join("a/b/c");
        let partial = PartialFolder::begin(&target).unwrap();
        fs::write(partial.path().join("file"), "x").unwrap();
        assert!(!target.exists() && partial.path().ends_with("c.partial"));
        drop(partial);
        assert!(fs::read_dir(around.path().join("a/b")).unwrap().next().is_none(), "nothing is left of it");
        // A crash leaves it; nobody holds it any more.
        fs::create_dir_all(around.path().join("a/b/c.partial/journal")).unwrap();
        fs::write(around.path().join("a/b/c.partial/FORMAT"), "half").unwrap();
        let partial = PartialFolder::begin(&target).unwrap();
        assert!(fs::read_dir(partial.path()).unwrap().next().is_none());
        fs::write(partial.path().join("file"), "y").unwrap();
        partial.finish().unwrap();
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "y");
        assert_eq!(fs::read_dir(around.path().join("a/b")).unwrap().count(), 1);
    }

    #[test]
    fn what_somebody_makes_or_has_is_left_alone() {
        let around = tempfile::tempdir().unwrap();
        let target = around.path().join("c");
        let partial = PartialFolder::begin(&target).unwrap();
        let held = DataFolder::open(partial.path()).unwrap();
        assert!(matches!(PartialFolder::begin(&target), Err(OpenStoreError::InUse(_))));
        assert!(partial.path().join("FORMAT.new").exists());
        fs::create_dir(&target).unwrap();
        fs::write(target.join("file"), "x").unwrap();
        assert!(partial.finish().is_err());
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "x");
        drop(held);
    }
}
