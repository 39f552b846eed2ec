use std::{error::Error as StdError, fmt, io};

/// What can go wrong in this crate.
///
/// Nothing that a client sends ends up here: a client's mistakes are answered on its connection.
///
/// ```
/// use std::error::Error as _;
///
/// let error = keywire::Error::store("the disk is full");
/// assert_eq!(error.to_string(), "the store failed: the disk is full");
/// assert!(error.source().is_some());
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A listening socket could not be made.
    Listen(io::Error),
    /// The server has shut down, or is doing so.
    Closed,
    /// The store could not do what it was asked to.
    Store(Box<dyn StdError + Send + Sync>),
}

impl Error {
    /// A failure of a store, from words or from any other error.
    ///
    /// The text of `reason` goes to the client whose command failed, so it should hold nothing
    /// that a client must not see.
    pub fn store(reason: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Error::Store(reason.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Listen(source) => write!(f, "can't listen: {source}"),
            Error::Closed => f.write_str("the server is closed"),
            Error::Store(source) => write!(f, "the store failed: {source}"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Error::Listen(source) => Some(source),
            Error::Store(source) => Some(&**source),
            Error::Closed => None,
        }
    }
}
