#[cfg(feature = "server")]
mod compare;

use std::{fmt, fs::File, io::Read as _, path::Path, sync::Arc};

use crate::Error;

/// The longest secret, in bytes. It bounds what a connection may send before it is authenticated.
const MAX_BYTES: usize = 512;

/// The secret by which clients authenticate. See [`Builder::secret`](crate::Builder::secret) and
/// [`Client::authenticate`](crate::Client::authenticate).
///
/// Neither `Debug` nor an error shows it. Clones share one copy, which is not erased from memory.
///
/// ```
/// use keywire::Secret;
///
/// let secret = Secret::new("correct horse battery staple")?;
/// assert_eq!(format!("{secret:?}"), "Secret");
/// assert!(Secret::new("").is_err());
/// # Ok::<(), keywire::Error>(())
/// ```
#[derive(Clone)]
pub struct Secret {
    padded: Arc<[u8; MAX_BYTES]>,
    len: usize,
}

impl Secret {
    /// A secret of 1 to 512 bytes, of any bytes but LF; the last is not a CR.
    ///
    /// A server slows guessing down and does not stop it, so take a long secret that was made at
    /// random, such as the output of `openssl rand -hex 32`.
    ///
    /// # Errors
    ///
    /// [`Error::Secret`] if it is empty, longer than 512 bytes, holds an LF or ends in a CR.
    ///
    /// ```
    /// assert!(keywire::Secret::new("two\nlines").is_err());
    /// ```
    pub fn new(secret: impl AsRef<[u8]>) -> Result<Self, Error> {
        let secret = secret.as_ref();
        let wrong = if secret.is_empty() {
            "it is empty"
        } else if secret.len() > MAX_BYTES {
            "it is longer than 512 bytes"
        } else if secret.contains(&b'\n') {
            "it is more than one line"
        } else if secret.ends_with(b"\r") {
            "it ends in a carriage return"
        } else {
            return Ok(Self {
                padded: Arc::new(padded(secret)),
                len: secret.len(),
            });
        };
        Err(Error::Secret(wrong.into()))
    }

    /// Reads a file that holds the secret as its only line, with or without a line ending.
    ///
    /// # Errors
    ///
    /// [`Error::Secret`] if the file can't be read or holds something else. It names the file.
    ///
    /// ```
    /// let error = keywire::Secret::from_file("no/such/file").unwrap_err();
    /// assert!(error.to_string().contains("no/such/file"));
    /// ```
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let named =
            |reason: &dyn fmt::Display| Error::Secret(format!("{}: {reason}", path.display()));
        let mut text = Vec::new();
        let file = File::open(path).map_err(|error| named(&error))?;
        // More than the longest secret and its line ending is too long, however long it is.
        let read = file.take(MAX_BYTES as u64 + 3).read_to_end(&mut text);
        read.map_err(|error| named(&error))?;
        let line = text.strip_suffix(b"\n").unwrap_or(&text);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Self::new(line).map_err(|error| match error {
            Error::Secret(reason) => named(&reason),
            other => other,
        })
    }

    /// The bytes of the secret, for a client of your own to send.
    ///
    /// ```
    /// assert_eq!(keywire::Secret::new("open")?.expose(), b"open");
    /// # Ok::<(), keywire::Error>(())
    /// ```
    pub fn expose(&self) -> &[u8] {
        &self.padded[..self.len]
    }
}

fn padded(bytes: &[u8]) -> [u8; MAX_BYTES] {
    let mut padded = [0; MAX_BYTES];
    padded[..bytes.len()].copy_from_slice(bytes);
    padded
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
