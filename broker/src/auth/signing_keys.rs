//! The broker's own keys: one that signs, and those that did, in a file that nobody else can read.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde::{Deserialize, Serialize};

use crate::auth::key::Key;
use crate::auth::key_set::Keys;

/// The longest that a token is valid. Keys that signed one, and revocations, are kept for as long.
pub const TTL_MS_MAX: u64 = 366 * 24 * 60 * 60 * 1000;
/// Who may read and write the file: its owner.
const FILE_MODE: u32 = 0o600;
/// What a mode must not have: anything for anybody else.
const OTHERS: u32 = 0o077;
/// Bytes of the file: what it has with the most keys, twice.
const FILE_BYTES_MAX: u64 = 8 << 10;
/// Keys that signed earlier and still verify: a rotation a month, and some more.
const EARLIER_MAX: usize = 16;
/// Bytes that a key is made of (RFC 8032).
const SEED_BYTES: usize = 32;
/// Bytes of a hash of a key that are its id: too many for two keys of one broker to share one.
const ID_BYTES: usize = 12;

/// What becomes of the tokens that a key signed when another one takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Earlier {
    /// They stay valid for as long as they say.
    Kept,
    /// None is valid any more: somebody else may have the key.
    Dropped,
}

/// Why there are no signing keys.
#[derive(Debug, thiserror::Error)]
pub enum SigningKeysError {
    /// The file.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What happened.
        #[source]
        error: io::Error,
    },
    /// Somebody else can read it.
    #[error("{} can be read or written by others (mode {mode:o}): whoever did has the key. Make it `chmod 600` and rotate the key", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is not what was written.
    #[error("{} does not have signing keys, or is damaged; without it tokens that were made are not accepted. Move it away to have a new one made", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
    },
    /// Too many keys still verify.
    #[error("{EARLIER_MAX} earlier keys still verify tokens that are valid; drop them to rotate once more")]
    TooMany,
    /// The host gives no random numbers.
    #[error("no key could be made")]
    Make,
}

/// The file. It is not `Debug`: it has the key.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// The PKCS #8 of the key that signs, in base64url.
    current: String,
    earlier: Vec<EarlierKey>,
}

/// A key that signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EarlierKey {
    /// The public key, in base64url.
    public: String,
    /// When the last token that it signed has expired, in Unix milliseconds.
    until_ms: u64,
}

/// The public part of a key, which is Ed25519.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// Its id, as `kid` has it.
    pub id: String,
    /// Its bytes in base64url, as `x` of a JWK has them.
    pub x: String,
    /// Until when it counts, in Unix milliseconds; `None` for the one that signs.
    pub until_ms: Option<u64>,
}

/// The broker's own keys.
pub struct SigningKeys {
    pkcs8: EncodingKey,
    public: Vec<u8>,
    earlier: Vec<EarlierKey>,
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKeys")
            .field("current", &id(&self.public))
            .field("earlier", &self.earlier.len())
            .finish_non_exhaustive()
    }
}

impl SigningKeys {
    /// The keys of a file, which is made with a new one when it is not there.
    ///
    /// # Errors
    /// [`SigningKeysError`].
    pub fn load_or_make(path: &Path) -> Result<Self, SigningKeysError> {
        match Self::load(path) {
            Err(SigningKeysError::File { error, .. }) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => return outcome,
        }
        let keys = Self { earlier: Vec::new(), ..Self::make()? };
        let failed = |error| SigningKeysError::File { path: path.to_owned(), error };
        let whole = keys.write_beside(path).map_err(failed)?;
        // Unlike a rename it fails when another process was quicker; then that one's keys count.
        let linked = fs::hard_link(&whole, path);
        fs::remove_file(&whole).map_err(failed)?;
        match linked {
            Ok(()) => sync_folder(path).map(|()| keys).map_err(failed),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::load(path),
            Err(error) => Err(failed(error)),
        }
    }

    /// The keys of a file.
    ///
    /// # Errors
    /// [`SigningKeysError`].
    pub fn load(path: &Path) -> Result<Self, SigningKeysError> {
        let failed = |error| SigningKeysError::File { path: path.to_owned(), error };
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & OTHERS != 0 {
            return Err(SigningKeysError::Open { path: path.to_owned(), mode });
        }
        let mut text = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut text).map_err(failed)?;
        Self::parse(&text).ok_or_else(|| SigningKeysError::Damaged { path: path.to_owned() })
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let Written { current, earlier } = serde_json::from_slice(text).ok()?;
        if earlier.len() > EARLIER_MAX || earlier.iter().any(|key| key.key().is_none()) {
            return None;
        }
        let keys = Self::from_pkcs8(&URL_SAFE_NO_PAD.decode(current).ok()?)?;
        Some(Self { earlier, ..keys })
    }

    fn from_pkcs8(pkcs8: &[u8]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).ok()?;
        let public = pair.public_key().as_ref().to_vec();
        Some(Self { pkcs8: EncodingKey::from_ed_der(pkcs8), public, earlier: Vec::new() })
    }

    fn make() -> Result<Self, SigningKeysError> {
        // Not `generate`: the generator of random numbers that it begins with takes 20 to 30 ms to gather its first ones.
        let mut seed = [0; SEED_BYTES];
        getrandom::fill(&mut seed).map_err(|_| SigningKeysError::Make)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| SigningKeysError::Make)?;
        let pkcs8 = pair.to_pkcs8().map_err(|_| SigningKeysError::Make)?;
        Self::from_pkcs8(pkcs8.as_ref()).ok_or(SigningKeysError::Make)
    }

    /// Keys with a new one that signs. They count once the file has them: what was made before is not changed when this
    /// fails.
    ///
    /// # Errors
    /// [`SigningKeysError`].
    pub fn rotate(&self, path: &Path, earlier: Earlier, now_ms: u64) -> Result<Self, SigningKeysError> {
        let earlier = match earlier {
            Earlier::Dropped => Vec::new(),
            Earlier::Kept => {
                // A token's last second is a whole one.
                let until_ms = now_ms.saturating_add(TTL_MS_MAX).saturating_add(1000);
                let last = EarlierKey { public: URL_SAFE_NO_PAD.encode(&self.public), until_ms };
                let kept = self.earlier.iter().filter(|key| now_ms < key.until_ms).cloned();
                kept.chain([last]).collect()
            }
        };
        if earlier.len() > EARLIER_MAX {
            return Err(SigningKeysError::TooMany);
        }
        let keys = Self { earlier, ..Self::make()? };
        let failed = |error| SigningKeysError::File { path: path.to_owned(), error };
        let whole = keys.write_beside(path).map_err(failed)?;
        fs::rename(whole, path).and_then(|()| sync_folder(path)).map_err(failed)?;
        Ok(keys)
    }

    /// Writes them, durably, into a file beside the one that they are for: a crash leaves that one as it was.
    fn write_beside(&self, path: &Path) -> io::Result<PathBuf> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{:016x}.new", u64::from_le_bytes(random)));
        let beside = path.with_file_name(name);
        let current = URL_SAFE_NO_PAD.encode(self.pkcs8.as_bytes());
        let text = serde_json::to_vec(&Written { current, earlier: self.earlier.clone() })?;
        // The mode is there from the start: nobody can open it before it is.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&beside)?;
        let written =
            give_to_owner(&file, path).and_then(|()| file.write_all(&text)).and_then(|()| file.sync_all());
        if written.is_err() {
            // What failed is worth more to know than that this did too.
            let _ = fs::remove_file(&beside);
        }
        written.map(|()| beside)
    }

    /// The id of the key that signs.
    #[must_use]
    pub fn id(&self) -> String {
        id(&self.public)
    }

    /// What verifies tokens now: the key that signs, and those that signed what may still be valid.
    #[must_use]
    pub fn keys(&self, now_ms: u64) -> Keys {
        let valid = self.earlier.iter().filter(|key| now_ms < key.until_ms).filter_map(EarlierKey::key);
        let current = Key::ed25519(&self.public).ok().map(|key| (self.id(), key));
        valid.chain(current).collect()
    }

    /// What others need to verify its tokens: the key that signs first, and those of before that still count.
    #[must_use]
    pub fn public(&self, now_ms: u64) -> Vec<PublicKey> {
        let current = PublicKey { id: self.id(), x: URL_SAFE_NO_PAD.encode(&self.public), until_ms: None };
        let earlier = self.earlier.iter().filter(|key| now_ms < key.until_ms).filter_map(|key| {
            let id = id(&URL_SAFE_NO_PAD.decode(&key.public).ok()?);
            Some(PublicKey { id, x: key.public.clone(), until_ms: Some(key.until_ms) })
        });
        [current].into_iter().chain(earlier).collect()
    }

    /// The claims, signed; `None` when the key does not sign.
    pub(super) fn sign<T: Serialize>(&self, claims: &T) -> Option<String> {
        let header = Header { kid: Some(self.id()), ..Header::new(Algorithm::EdDSA) };
        encode(&header, claims, &self.pkcs8).ok()
    }
}

impl EarlierKey {
    fn key(&self) -> Option<(String, Key)> {
        let public = URL_SAFE_NO_PAD.decode(&self.public).ok()?;
        Some((id(&public), Key::ed25519(&public).ok()?))
    }
}

fn id(public: &[u8]) -> String {
    let hash = digest(&SHA256, public);
    URL_SAFE_NO_PAD.encode(hash.as_ref().get(..ID_BYTES).unwrap_or_default())
}

/// Whoever rotates the key or makes the first token may be root; who reads the file is the broker, whose folder it is.
fn give_to_owner(file: &File, path: &Path) -> io::Result<()> {
    let owner = fs::metadata(path).or_else(|_| fs::metadata(folder(path)))?;
    let own = file.metadata()?;
    if (own.uid(), own.gid()) == (owner.uid(), owner.gid()) {
        return Ok(());
    }
    fchown(file, Some(owner.uid()), Some(owner.gid()))
}

/// A name is durable when its folder is.
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_764_000_000_000;

    fn ids(keys: &SigningKeys, now_ms: u64) -> Vec<String> {
        keys.keys(now_ms).iter().map(|(id, _)| id.to_owned()).collect()
    }

    fn files(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn the_first_use_makes_a_key_that_only_its_owner_can_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let made = SigningKeys::load_or_make(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(files(folder.path()), 1);
        let again = SigningKeys::load_or_make(&path).unwrap();
        assert_eq!((made.id(), ids(&made, NOW_MS)), (again.id(), ids(&again, NOW_MS)));
        let other = SigningKeys::load_or_make(&folder.path().join("other")).unwrap();
        assert_ne!(made.id(), other.id());
    }

    #[test]
    fn whoever_makes_it_second_takes_the_first_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let ids: Vec<String> = std::thread::scope(|scope| {
            let makers: Vec<_> =
                (0..8).map(|_| scope.spawn(|| SigningKeys::load_or_make(&path).unwrap().id())).collect();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        assert_eq!(files(folder.path()), 1);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        SigningKeys::load_or_make(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o601, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = SigningKeys::load_or_make(&path).unwrap_err();
            assert!(matches!(error, SigningKeysError::Open { mode: found, .. } if found == mode), "{error}");
        }
    }

    #[test]
    fn a_damaged_file_is_neither_used_nor_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        SigningKeys::load_or_make(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        let long = vec![b' '; 1 << 20];
        let damaged = [
            &b""[..],
            b"{}",
            &whole[..whole.len() / 2],
            b"{\"current\":\"c2VjcmV0LWNhbmFyeQ\",\"earlier\":[]}",
            &long,
        ];
        for bytes in damaged {
            fs::write(&path, bytes).unwrap();
            let error = SigningKeys::load_or_make(&path).unwrap_err();
            assert!(matches!(error, SigningKeysError::Damaged { .. }), "{error}");
            assert!(!format!("{error} {error:?}").contains("c2VjcmV0"));
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    }

    #[test]
    fn a_rotation_keeps_what_verifies_tokens_that_may_still_be_valid() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let first = SigningKeys::load_or_make(&path).unwrap();
        let second = first.rotate(&path, Earlier::Kept, NOW_MS).unwrap();
        assert_ne!(first.id(), second.id());
        let loaded = SigningKeys::load(&path).unwrap();
        assert_eq!((loaded.id(), files(folder.path())), (second.id(), 1));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let known = |keys: &SigningKeys, now_ms| ids(keys, now_ms).contains(&first.id());
        assert!(known(&loaded, NOW_MS) && known(&loaded, NOW_MS + TTL_MS_MAX));
        assert!(!known(&loaded, NOW_MS + TTL_MS_MAX + 1000));
        let third = loaded.rotate(&path, Earlier::Dropped, NOW_MS).unwrap();
        assert_eq!(ids(&third, NOW_MS), [third.id()]);
        assert_eq!(ids(&SigningKeys::load(&path).unwrap(), NOW_MS), [third.id()]);
    }

    #[test]
    fn what_others_need_is_the_public_part() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let first = SigningKeys::load_or_make(&path).unwrap();
        let second = first.rotate(&path, Earlier::Kept, NOW_MS).unwrap();
        let public = second.public(NOW_MS);
        let ids: Vec<&str> = public.iter().map(|key| key.id.as_str()).collect();
        assert_eq!(ids, [second.id(), first.id()]);
        assert_eq!(public[0].until_ms, None);
        assert_eq!(public[1].until_ms, Some(NOW_MS + TTL_MS_MAX + 1000));
        assert_eq!(URL_SAFE_NO_PAD.decode(&public[0].x).unwrap(), second.public);
        assert_eq!(second.public(NOW_MS + TTL_MS_MAX + 1000).len(), 1);
    }

    #[test]
    fn the_file_stays_its_owners_whoever_rotates() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        // Only root can give files away, and only root needs to.
        if rustix::process::getuid().is_root() {
            std::os::unix::fs::chown(folder.path(), Some(4711), Some(4712)).unwrap();
        }
        let owner = fs::metadata(folder.path()).unwrap();
        let owner = (owner.uid(), owner.gid());
        let of = |path: &Path| (fs::metadata(path).unwrap().uid(), fs::metadata(path).unwrap().gid());
        let keys = SigningKeys::load_or_make(&path).unwrap();
        assert_eq!(of(&path), owner);
        keys.rotate(&path, Earlier::Dropped, NOW_MS).unwrap();
        assert_eq!(of(&path), owner);
    }

    #[test]
    fn earlier_keys_are_bounded_and_leave() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let mut keys = SigningKeys::load_or_make(&path).unwrap();
        for _ in 0..EARLIER_MAX {
            keys = keys.rotate(&path, Earlier::Kept, NOW_MS).unwrap();
        }
        assert!(fs::metadata(&path).unwrap().len() * 2 <= FILE_BYTES_MAX);
        assert!(matches!(keys.rotate(&path, Earlier::Kept, NOW_MS), Err(SigningKeysError::TooMany)));
        assert_eq!(SigningKeys::load(&path).unwrap().id(), keys.id());
        let later = keys.rotate(&path, Earlier::Kept, NOW_MS + TTL_MS_MAX + 1000).unwrap();
        assert_eq!(later.earlier.len(), 1);
    }

    #[test]
    fn the_key_is_in_no_text_but_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let keys = SigningKeys::load_or_make(&path).unwrap();
        let shown = format!("{keys:?} {:?} {:?}", keys.pkcs8, keys.keys(NOW_MS));
        let secret = URL_SAFE_NO_PAD.encode(keys.pkcs8.as_bytes());
        assert!(fs::read_to_string(&path).unwrap().contains(&secret));
        assert!(!shown.contains(&secret[24..40]), "{shown}");
    }
}
