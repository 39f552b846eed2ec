//! What keeps the files.

use std::{fmt, future::Future, io};

/// A file of a store. The number is its generation: a snapshot replaces all logs of lower generations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FileName {
    /// Commits.
    Log(u64),
    /// The lists of keys, complete.
    Snapshot(u64),
    /// The lists of keys, not complete.
    NewSnapshot(u64),
}

impl FileName {
    /// The file that [`Display`](fmt::Display) shows so.
    ///
    /// ```
    /// use keywire::store::disk::FileName;
    ///
    /// assert_eq!(FileName::parse("log-7"), Some(FileName::Log(7)));
    /// assert_eq!(FileName::NewSnapshot(8).to_string(), "snapshot-8.new");
    /// assert_eq!(FileName::parse("log-07"), None);
    /// ```
    pub fn parse(name: &str) -> Option<Self> {
        let file = if let Some(generation) = name.strip_prefix("log-") {
            Self::Log(generation.parse().ok()?)
        } else {
            let name = name.strip_prefix("snapshot-")?;
            match name.strip_suffix(".new") {
                Some(generation) => Self::NewSnapshot(generation.parse().ok()?),
                None => Self::Snapshot(name.parse().ok()?),
            }
        };
        (file.to_string() == name).then_some(file)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(generation) => write!(f, "log-{generation}"),
            Self::Snapshot(generation) => write!(f, "snapshot-{generation}"),
            Self::NewSnapshot(generation) => write!(f, "snapshot-{generation}.new"),
        }
    }
}

/// Where a [`Disk`](super::Disk) keeps its files. [`Directory`](super::Directory) is the default; tests
/// have others.
///
/// No method may block: what has to, belongs on a thread for that. A future that is dropped may leave its
/// work done, or not, or half done. There is never more than one call at a time for the same file.
pub trait Storage: Clone + Send + 'static {
    /// All files, with their lengths in bytes.
    fn list(&self) -> impl Future<Output = io::Result<Vec<(FileName, u64)>>> + Send + 'static;

    /// So many bytes of a file, from this place on; fewer if it ends before.
    fn read(
        &self,
        file: FileName,
        at: u64,
        bytes: usize,
    ) -> impl Future<Output = io::Result<Vec<u8>>> + Send + 'static;

    /// Writes into a file, over what is there or behind it, and makes the file if there is none. With `sync`
    /// it returns when all of the file survives a loss of power.
    fn write(
        &self,
        file: FileName,
        at: u64,
        bytes: Vec<u8>,
        sync: bool,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static;

    /// Returns when all of the file survives a loss of power.
    fn sync(&self, file: FileName) -> impl Future<Output = io::Result<()>> + Send + 'static;

    /// Cuts off what is behind this place. When it returns, that survives a loss of power.
    fn truncate(
        &self,
        file: FileName,
        at: u64,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static;

    /// Gives a file another name. When it returns, that survives a loss of power.
    fn rename(
        &self,
        from: FileName,
        to: FileName,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static;

    /// Removes a file, if it is there. It may be there again after a loss of power.
    fn remove(&self, file: FileName) -> impl Future<Output = io::Result<()>> + Send + 'static;
}
