//! A file with the keys of an issuer.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::auth::algorithm::Algorithm;
use crate::auth::key_set::{InvalidKeys, KEYS_BYTES_MAX, Keys};

/// What a mode must not have: who can write the file lets in whom they want.
const OTHERS_WRITE: u32 = 0o002;
/// What the mode of a file with a secret must not have: who can read it makes tokens.
const OTHERS: u32 = 0o007;

/// Why a file gives no keys. It repeats nothing of the file.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What happened.
        #[source]
        error: io::Error,
    },
    /// It is a folder, a pipe or the like.
    #[error("{} is no file", path.display())]
    NoFile {
        /// Which.
        path: PathBuf,
    },
    /// Somebody else can change it, or read the secret in it.
    #[error("{} can be {what} by everybody on this host (mode {mode:o}): make it `chmod {chmod}`", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// What everybody can do.
        what: &'static str,
        /// What forbids it.
        chmod: &'static str,
    },
    /// It has no keys, or not such as are used.
    #[error("{}: {why}", path.display())]
    Keys {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        why: InvalidKeys,
    },
}

/// See the top of this file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    path: PathBuf,
    key_id: String,
}

impl KeyFile {
    /// A file with a JWKS, or with a public key in PEM that has this id.
    #[must_use]
    pub fn new(path: &Path, key_id: &str) -> Self {
        Self { path: path.to_owned(), key_id: key_id.to_owned() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its keys.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn load(&self) -> Result<Keys, KeyFileError> {
        let path = || self.path.clone();
        let failed = |error| KeyFileError::File { path: path(), error };
        // Looked at before it is opened: opening a pipe waits for whoever writes into it.
        if !fs::metadata(&self.path).map_err(failed)?.is_file() {
            return Err(KeyFileError::NoFile { path: path() });
        }
        let file = File::open(&self.path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & OTHERS_WRITE != 0 {
            return Err(KeyFileError::Open { path: path(), mode, what: "written", chmod: "o-w" });
        }
        let mut text = String::new();
        file.take(KEYS_BYTES_MAX as u64 + 1).read_to_string(&mut text).map_err(failed)?;
        let keys = Keys::from_file(&text, &self.key_id);
        let keys = keys.map_err(|why| KeyFileError::Keys { path: path(), why })?;
        let has_secret = keys.iter().any(|(_, key)| key.algorithm() == Algorithm::Hs256);
        if has_secret && mode & OTHERS != 0 {
            return Err(KeyFileError::Open { path: path(), mode, what: "read", chmod: "o-rwx" });
        }
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::testing::Signer;

    fn write(folder: &Path, text: &str, mode: u32) -> KeyFile {
        let path = folder.join("keys");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        KeyFile::new(&path, "pem-key")
    }

    #[test]
    fn takes_a_jwks_and_a_public_key() {
        let folder = tempfile::tempdir().unwrap();
        let jwks = json!({"keys": [Signer::ed().jwk("a"), Signer::es().jwk("b")]}).to_string();
        let ids = |file: KeyFile| -> Vec<String> {
            file.load().unwrap().iter().map(|(id, _)| id.to_owned()).collect()
        };
        assert_eq!(ids(write(folder.path(), &jwks, 0o644)), ["a", "b"]);
        assert_eq!(ids(write(folder.path(), &Signer::rs().pem(), 0o644)), ["pem-key"]);
    }

    #[test]
    fn what_everybody_can_change_is_refused_and_a_secret_that_everybody_can_read() {
        let folder = tempfile::tempdir().unwrap();
        let public = json!({"keys": [Signer::ed().jwk("a")]}).to_string();
        let secret = json!({"keys": [Signer::hs().jwk("a")]}).to_string();
        let open = |file: KeyFile| matches!(file.load(), Err(KeyFileError::Open { .. }));
        assert!(open(write(folder.path(), &public, 0o646)));
        assert!(open(write(folder.path(), &secret, 0o604)));
        assert!(!open(write(folder.path(), &secret, 0o640)));
        assert!(!open(write(folder.path(), &public, 0o644)));
    }

    #[test]
    fn what_is_wrong_is_named_and_not_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let canary = "c2VjcmV0LWNhbmFyeQ";
        for text in [
            String::new(),
            canary.to_owned(),
            format!(r#"{{"keys":[{{"kty":"oct","kid":"a","alg":"HS256","k":"{canary}"}}]}}"#),
            canary.repeat(KEYS_BYTES_MAX / canary.len() + 1),
        ] {
            let error = write(folder.path(), &text, 0o600).load().unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(shown.contains("keys") && !shown.contains(canary), "{error}");
        }
        let file = KeyFile::new(&folder.path().join("absent"), "");
        assert!(matches!(file.load(), Err(KeyFileError::File { .. })));
        assert!(matches!(KeyFile::new(folder.path(), "").load(), Err(KeyFileError::NoFile { .. })));
    }
}
