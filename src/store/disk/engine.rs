//! What keeps the rows.

use std::{future::Future, io};

/// Rows of one kind, each with a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// The version of the format, and which snapshot is complete.
    Meta,
    /// The commits, in two logs by turns.
    Log(usize),
    /// The lists of keys, in two snapshots by turns.
    Snapshot(usize),
}

impl Space {
    /// All of them.
    pub const ALL: [Space; 5] = [
        Space::Meta,
        Space::Log(0),
        Space::Log(1),
        Space::Snapshot(0),
        Space::Snapshot(1),
    ];
}

/// A numbered run of bytes in a space.
#[derive(Clone, PartialEq, Eq)]
pub struct Row {
    /// Where it is.
    pub space: Space,
    /// Its number there.
    pub number: u64,
    /// What it holds.
    pub value: Vec<u8>,
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Row")
            .field("space", &self.space)
            .field("number", &self.number)
            .field("bytes", &self.value.len())
            .finish()
    }
}

/// What a [`Disk`](super::Disk) keeps its rows in. [`Fjall`](super::Fjall) is the default; tests have others.
///
/// No method may block: what has to, belongs on a thread for that. A future that is dropped may leave its work
/// done or not, but never half done.
pub trait Engine: Send + 'static {
    /// Writes all of these rows, or none. A row that is there is replaced. With `sync` it returns when they
    /// survive a loss of power, and everything before with them.
    ///
    /// After an error it is not called again.
    fn write(&mut self, rows: Vec<Row>, sync: bool) -> impl Future<Output = io::Result<()>> + Send;

    /// Removes all rows of a space.
    fn clear(&mut self, space: Space) -> impl Future<Output = io::Result<()>> + Send;

    /// Rows of a space from this number on, by number: at least one if there is any, and not much more
    /// than a MiB.
    fn read(
        &mut self,
        space: Space,
        from: u64,
    ) -> impl Future<Output = io::Result<Vec<(u64, Vec<u8>)>>> + Send;

    /// Bytes on the disk, about.
    fn bytes(&self) -> u64;
}
