//! A durable store: all values in memory, all writes on a disk.
//!
//! In: batches. Out: the same batches, when the commits that they depend on are on the disk.
//!
//! ```text
//! submit ──> state: memory, and the lines of the commit that is being gathered
//!               │ take (committer.rs)
//!               v
//!            storage: logs (a record a commit), snapshots (records of many keys)
//! ```
//!
//! # What is on the disk
//!
//! Files of records (record.rs). A record of a **log** is a commit: its writes, as the lines that clients send. A
//! record of a **snapshot** holds the lists of some keys, as `Set` and `Put` lines, and the number of the last
//! commit that is in them.
//!
//! When the log is as long as the data, a new log and a new snapshot are begun. Each commit then writes a part of
//! the snapshot beside the log, so nobody waits for it. When it is complete, it gets its name, and the logs and the
//! snapshot before it are removed.
//!
//! At a start (load.rs), the snapshot is read, then the logs from its generation on. A write of a log is left out if
//! the list of its key holds a later commit already. A key that was gone when the snapshot came to it is not in
//! the snapshot; its writes are applied from the first one in the log. That ends the same: what they make
//! of an empty list is always a part of what they made of the list that was there, so it is empty when
//! that one was.

mod committer;
mod directory;
mod load;
mod record;
mod state;
mod storage;

use std::{fmt, future::Future, io, path::Path, sync::Arc, time::Duration};

pub use directory::Directory;
pub use storage::{FileName, Storage};

use super::{Batch, DiskStats, KeyPage, Memory, Order, Store, StoreSize, Submission};
use crate::{Clock, Error, Histogram, StoreKind};
use committer::Committer;
use state::Shared;

/// When a commit is on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Sync {
    /// Before any of its writes is answered.
    #[default]
    Always,
    /// Its write begins so much later, at most, or when the write of the commit before it is over. Writes are
    /// answered as soon as they are applied in memory. A crash, or a disk that fails, may take back those that are
    /// not on the disk.
    Within(Duration),
}

/// Sets up a [`Disk`]. Made by [`Disk::builder`].
#[derive(Debug)]
pub struct DiskBuilder {
    sync: Sync,
    min_log: u64,
    progress: Progress,
}

struct Progress(Box<dyn FnMut(u64, u64) + Send>);

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

impl DiskBuilder {
    /// When a commit is on the disk. Default: [`Sync::Always`].
    #[must_use]
    pub fn sync(self, sync: Sync) -> Self {
        Self { sync, ..self }
    }

    /// Bytes that the log has at least when a snapshot is begun. It also has as many as the data. Default:
    /// 64 MiB.
    #[must_use]
    pub fn min_log(self, bytes: u64) -> Self {
        Self {
            min_log: bytes,
            ..self
        }
    }

    /// While values are loaded, `progress` is called with the bytes that were read, and with those of all files. It
    /// is called often, so it should return soon. Default: nothing.
    #[must_use]
    pub fn on_progress(self, progress: impl FnMut(u64, u64) + Send + 'static) -> Self {
        Self {
            progress: Progress(Box::new(progress)),
            ..self
        }
    }

    /// Opens the directory, or makes it, and loads all values.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] if another process has the directory open, if it is none of this store's or of a
    /// newer version's, if it can't be read or written, or if damage is found: then the error names the file and
    /// the place. The files stay as they are.
    pub async fn open(self, directory: impl AsRef<Path>) -> Result<Disk, Error> {
        let directory = directory.as_ref();
        let place = |error: io::Error| Error::store(format!("{}: {error}", directory.display()));
        let storage = Directory::open(directory).await.map_err(place)?;
        self.open_storage(storage).await.map_err(place)
    }

    /// Loads all values of a storage of your own.
    ///
    /// # Errors
    ///
    /// Those of the storage, and [`io::ErrorKind::InvalidData`] if its files are damaged.
    pub async fn open_storage<S: Storage>(mut self, storage: S) -> io::Result<Disk<S>> {
        let (committer, shared) = Committer::open(storage, &mut self).await?;
        Ok(Disk {
            shared,
            committer: Some(committer),
        })
    }
}

/// A store that keeps its values on a disk.
///
/// All values are in memory as well, so reads cost what they cost with [`Memory`], and memory bounds the
/// data. A write is answered when its commit is on the disk. Meanwhile the next commit is gathered, from all
/// clients. A client that reads only what is on the disk does not wait.
///
/// ```
/// use futures_lite::future;
/// use keywire::{Server, store::Disk};
/// use std::time::Duration;
///
/// # let directory = std::env::temp_dir().join(format!("keywire-doc-{}", std::process::id()));
/// future::block_on(async {
///     for values in 1..=2 {
///         let server = Server::builder().store(Disk::open(&directory).await?).build();
///         let handle = server.handle();
///         let work = async {
///             let client = handle.client().await?;
///             client.put("user", "alice").await?; // it is on the disk
///             assert_eq!(client.get("user").await?.len(), values);
///             handle.shutdown(Duration::from_secs(1)).await;
///             Ok::<(), keywire::Error>(())
///         };
///         future::zip(server.run(), work).await.1?;
///     }
///     # std::fs::remove_dir_all(&directory).unwrap();
///     Ok::<(), keywire::Error>(())
/// })?;
/// # Ok::<(), keywire::Error>(())
/// ```
///
/// # What is promised
///
/// With [`Sync::Always`], what a client was answered, or a watcher was told, survives a crash of the
/// process and a loss of power.
///
/// # When the disk fails
///
/// The writes of a commit that could not be written fail. If even its removal from the log fails, they are
/// answered `unconfirmed`: nobody knows what the disk will show after a restart. The values in memory are read from
/// the disk anew. From then on the store serves reads and refuses writes, until it is opened again.
///
/// # Threads
///
/// Calls that block run on threads of the crate `blocking`.
///
/// Values are in memory: `Debug` shows the number of keys, never keys or values.
pub struct Disk<S = Directory> {
    shared: Arc<Shared>,
    /// There until the server runs.
    committer: Option<Committer<S>>,
}

impl Disk {
    /// A store with every option at its default.
    #[must_use]
    pub fn builder() -> DiskBuilder {
        DiskBuilder {
            sync: Sync::Always,
            min_log: 64 << 20,
            progress: Progress(Box::new(|_, _| {})),
        }
    }

    /// Opens the directory, or makes it, with every option at its default.
    ///
    /// # Errors
    ///
    /// See [`DiskBuilder::open`].
    pub async fn open(directory: impl AsRef<Path>) -> Result<Self, Error> {
        Self::builder().open(directory).await
    }
}

impl<S> Disk<S> {
    /// Reads the values without a server, such as before or after its run.
    ///
    /// ```
    /// # use futures_lite::future;
    /// # use keywire::{protocol::Operation, store::Disk};
    /// # let directory = std::env::temp_dir().join(format!("keywire-doc-values-{}", std::process::id()));
    /// let disk = future::block_on(Disk::open(&directory))?;
    /// assert_eq!(disk.with_values(|memory| memory.iter().count()), 0);
    /// # std::fs::remove_dir_all(&directory).unwrap();
    /// # Ok::<(), keywire::Error>(())
    /// ```
    ///
    /// While a server runs on the store, it waits for `read` to return.
    pub fn with_values<T>(&self, read: impl FnOnce(&Memory) -> T) -> T {
        read(&self.shared.state().memory)
    }
}

impl<S: Storage> Store for Disk<S> {
    const ORDER: Order = Order::Sequential;
    const KIND: StoreKind = StoreKind::Disk;

    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        let applied = self.shared.apply(&mut batch);
        if applied == Ok(None) {
            return Submission::Done(batch);
        }
        let shared = self.shared.clone();
        Submission::Pending(async move {
            shared.settle(&mut batch, applied).await;
            batch
        })
    }

    fn keys(
        &mut self,
        mut page: KeyPage,
    ) -> Submission<KeyPage, impl Future<Output = KeyPage> + Send + 'static> {
        let Some(commit) = self.shared.keys(&mut page) else {
            return Submission::Done(page);
        };
        let shared = self.shared.clone();
        Submission::Pending(async move {
            shared.settle_keys(&mut page, commit).await;
            page
        })
    }

    fn work(&mut self, clock: Arc<dyn Clock>) -> Option<impl Future<Output = ()> + Send + 'static> {
        self.committer.take().map(|committer| committer.run(clock))
    }

    fn disk_stats(&self) -> DiskStats {
        self.shared.state().stats
    }

    fn commit_times(&self) -> Option<Histogram> {
        Some(self.shared.state().commit_times)
    }

    fn size(&self) -> StoreSize {
        self.shared.state().memory.size()
    }

    async fn close(&mut self) {
        self.shared.flush().await;
    }
}

impl<S> fmt::Debug for Disk<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state();
        f.debug_struct("Disk")
            .field("keys", &state.memory.size().keys)
            .field("stats", &state.stats)
            .finish()
    }
}
