//! Where a command has its token from. Not from its arguments: every user of the machine can read those, and shells keep
//! them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use longwire::{ClientBuilder, TOKEN_VARIABLE};

/// Bytes of a token file: a token is shorter, and what is longer is another file.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// It has the place of a token, never the token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum TokenFrom {
    /// [`TOKEN_VARIABLE`], which may be empty or absent.
    #[default]
    Variable,
    /// A file, which is read again for each connection, and before the token expires.
    File(PathBuf),
}

impl TokenFrom {
    /// Gives a client its token.
    ///
    /// # Errors
    /// A file that is not there, or has none.
    pub(crate) fn give(&self, builder: ClientBuilder) -> anyhow::Result<ClientBuilder> {
        match self {
            Self::Variable => Ok(builder.token(variable())),
            Self::File(path) => {
                read(path)?;
                let path = path.clone();
                Ok(builder.token_callback(move || {
                    let token = read(&path).map_err(|error| format!("{error:#}"));
                    async move { token }
                }))
            }
        }
    }

    /// Gives a client its token that outlives it, because what it records must not end with it.
    ///
    /// # Errors
    /// As [`Self::give`].
    pub(crate) fn keep(&self, builder: ClientBuilder) -> anyhow::Result<ClientBuilder> {
        match (self, variable()) {
            (Self::Variable, token) if !token.is_empty() => Ok(builder.token_callback(move || {
                let token = token.clone();
                async move { Ok::<_, String>(token) }
            })),
            _ => self.give(builder),
        }
    }

    /// The token that there is now; `None` without one.
    pub(crate) fn current(&self) -> Option<String> {
        match self {
            Self::Variable => Some(variable()).filter(|token| !token.is_empty()),
            Self::File(path) => read(path).ok(),
        }
    }
}

fn variable() -> String {
    std::env::var(TOKEN_VARIABLE).unwrap_or_default().trim().to_owned()
}

/// The token in a file.
pub(crate) fn read(path: &Path) -> anyhow::Result<String> {
    use std::io::Read;
    let shown = path.display();
    let mut text = String::new();
    let file = std::fs::File::open(path).with_context(|| format!("the token file {shown} cannot be read"))?;
    file.take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .with_context(|| format!("the token file {shown} cannot be read"))?;
    let token = text.trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        bail!("the token file {shown} has no token, or more than that; put the token alone into it");
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_token_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let said = |text: Option<&str>| {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            read(&path).map_err(|error| error.to_string())
        };
        assert!(said(None).unwrap_err().contains("cannot be read"));
        assert_eq!(said(Some(" a.b.c\n")).unwrap(), "a.b.c");
        for wrong in ["", "\n", "a.b.c d.e.f", "secret\nsecret"] {
            let error = said(Some(wrong)).unwrap_err();
            assert!(error.contains("no token") && !error.contains("secret"), "{error}");
        }
        let from = TokenFrom::File(folder.path().join("none"));
        assert!(from.give(longwire::Client::builder()).is_err());
    }
}
