//! How much a store holds, and other counters of it.

/// How much a store holds. See [`Store::size`](super::Store::size).
///
/// ```
/// use keywire::store::{StoreSize, Memory, Store as _};
///
/// let mut store = Memory::new();
/// store.put(b"user", b"alice");
/// store.put(b"user", b"bob");
/// assert_eq!(store.size(), StoreSize { keys: 1, values: 2, bytes: 12 });
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreSize {
    /// Keys that have values.
    pub keys: u64,
    /// Values of all keys.
    pub values: u64,
    /// Bytes of all these keys and values, without what it costs to keep them.
    pub bytes: u64,
}

/// What a key costs besides its bytes, for [`StoreSize::charged`].
pub(crate) const KEY_COST: u64 = 64;

/// What a value costs besides its bytes.
pub(crate) const VALUE_COST: u64 = 8;

impl StoreSize {
    /// What [`Builder::max_store`](crate::Builder::max_store) bounds: the bytes of keys and values,
    /// and 64 for each key and 8 for each value.
    ///
    /// [`Memory`](super::Memory) takes up to twice as much of the system, since its tables grow by doubling.
    ///
    /// ```
    /// use keywire::store::StoreSize;
    ///
    /// assert_eq!(StoreSize { keys: 1, values: 2, bytes: 12 }.charged(), 92);
    /// ```
    pub fn charged(&self) -> u64 {
        self.bytes + KEY_COST * self.keys + VALUE_COST * self.values
    }
}

/// What keeps the values of a store. See [`Store::KIND`](super::Store::KIND) and
/// [`Stats::store_kind`](crate::Stats::store_kind). The numbers are those on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Something else, or it is not known.
    #[default]
    Other = 0,
    /// The memory of the server.
    Memory = 1,
    /// A disk of the server.
    Disk = 2,
    /// A Redis or Valkey Cluster.
    Cluster = 3,
}

impl Kind {
    /// Its name in the metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Other => "other",
            Kind::Memory => "memory",
            Kind::Disk => "disk",
            Kind::Cluster => "cluster",
        }
    }
}

/// The counters of a store on a disk. See [`Store::disk_stats`](super::Store::disk_stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskStats {
    /// Commits since the start.
    pub commits: u64,
    /// Writes in them.
    pub writes: u64,
    /// Microseconds that the last commit took.
    pub last_commit: u64,
    /// The longest of them.
    pub longest_commit: u64,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Commits that are not in a snapshot yet.
    pub log_commits: u64,
    /// 1 if the store refuses writes, because the disk has failed.
    pub refusing: u64,
}

/// The counters of a store on a cluster. See [`Store::cluster_stats`](super::Store::cluster_stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterStats {
    /// Nodes that a connection is up to.
    pub nodes_up: u64,
    /// Commands that the store has and has not answered.
    pub under_way: u64,
    /// Times that a request was sent again, because a node had refused it or a connection was lost.
    pub retries: u64,
    /// Commands that were answered with an error, because no node has answered them in time or a connection
    /// was lost.
    pub failures: u64,
}
