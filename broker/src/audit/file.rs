//! The files of the audit log: one that is written, and some that were.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Who may read and write it: its owner.
const FILE_MODE: u32 = 0o600;
/// Bytes of a file: one that an editor opens.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Files that were full and are kept: with the one that is written, 144 MiB.
const FILES_KEPT: u32 = 8;

/// See the top of this file.
pub(super) struct RotatingFile {
    path: PathBuf,
    bytes_max: u64,
    opened: Option<Opened>,
}

struct Opened {
    file: File,
    /// Where the last whole line ends.
    bytes: u64,
}

impl RotatingFile {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), bytes_max: FILE_BYTES_MAX, opened: None }
    }

    /// Opens the file, or makes it.
    pub(super) fn open(&mut self) -> io::Result<()> {
        // Looked at before it is opened: opening a pipe waits for whoever reads from it.
        match fs::metadata(&self.path) {
            Ok(found) if !found.is_file() => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(FILE_MODE).open(&self.path)?;
        let metadata = file.metadata()?;
        if metadata.permissions().mode() & 0o777 != FILE_MODE {
            file.set_permissions(fs::Permissions::from_mode(FILE_MODE))?;
        }
        let mut bytes = metadata.len();
        if bytes > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            // An earlier life was killed in the middle of a line.
            if last != *b"\n" {
                file.write_all(b"\n")?;
                bytes += 1;
            }
        }
        self.opened = Some(Opened { file, bytes });
        Ok(())
    }

    /// Appends whole lines, or nothing.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let length = lines.len() as u64;
        if self
            .opened
            .as_ref()
            .is_some_and(|opened| opened.bytes > 0 && opened.bytes + length > self.bytes_max)
        {
            self.sync();
            self.rotate()?;
        }
        if self.opened.is_none() {
            self.open()?;
        }
        let Some(Opened { file, bytes }) = &mut self.opened else { return Ok(()) };
        match file.write_all(lines) {
            Ok(()) => {
                *bytes += length;
                Ok(())
            }
            Err(error) => {
                // Half a line may be there. When it cannot be taken away, the next one that opens the file ends it.
                if file.set_len(*bytes).is_err() {
                    self.opened = None;
                }
                Err(error)
            }
        }
    }

    /// What was written survives the host, if the disk wants.
    pub(super) fn sync(&self) {
        if let Some(opened) = &self.opened
            && let Err(error) = opened.file.sync_data()
        {
            tracing::warn!(%error, "the end of the audit log may not be on the disk");
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..FILES_KEPT).rev() {
            match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, self.numbered(1))?;
        self.opened = None;
        Ok(())
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        name.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_where_it_ends_and_nobody_else_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        RotatingFile::new(&path).append(b"one\n").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, b"one\nha").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        RotatingFile::new(&path).append(b"two\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one\nha\ntwo\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(RotatingFile::new(folder.path()).open().is_err());
        assert!(RotatingFile::new(&folder.path().join("no/such")).open().is_err());
    }

    #[test]
    fn full_files_are_kept_in_order_and_not_all_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let mut file = RotatingFile { bytes_max: 8, ..RotatingFile::new(&path) };
        for number in 10..40 {
            file.append(format!("n{number}\n").as_bytes()).unwrap();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1 + FILES_KEPT as usize);
        let text = |path: &Path| fs::read_to_string(path).unwrap();
        assert_eq!(text(&path), "n38\nn39\n");
        assert_eq!(text(&file.numbered(1)), "n36\nn37\n");
        assert_eq!(text(&file.numbered(FILES_KEPT)), "n22\nn23\n");
        // One that is too long for any file has a file of its own.
        file.append(b"0123456789\n").unwrap();
        assert_eq!(text(&path), "0123456789\n");
    }

    #[test]
    fn what_the_disk_does_not_take_leaves_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let mut file = RotatingFile::new(&path);
        file.append(b"one\n").unwrap();
        let read_only = File::open(&path).unwrap();
        let writable = std::mem::replace(&mut file.opened.as_mut().unwrap().file, read_only);
        assert!(file.append(b"two\n").is_err());
        assert!(file.opened.is_none());
        drop(writable);
        file.append(b"three\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one\nthree\n");
    }
}
