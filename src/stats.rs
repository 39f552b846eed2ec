//! A server's counters, as both sides of a connection see them.

use std::time::Duration;

use crate::protocol::ReplyError;

/// Makes the struct, and its way onto the wire and back, of one list of counters.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A server's counters at one moment, all of the same moment.
        ///
        /// On the wire they are the reply to `Stats`: `active` and `dropped` first, then the
        /// others by the names of these fields, in this order.
        ///
        /// ```
        /// use keywire::Stats;
        ///
        /// let stats = Stats::parse(b"active=2 dropped=1 commands=7 new_in_a_later_version=9")?;
        /// assert_eq!((stats.active, stats.dropped, stats.commands), (2, 1, 7));
        /// # Ok::<(), keywire::protocol::ReplyError>(())
        /// ```
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
            /// Time since `run` was first polled, in whole seconds on the wire (`uptime=N`).
            pub uptime: Duration,
        }

        impl Stats {
            /// Reads what stands behind `:stats:` in a reply. Names it does not know are left out, so
            /// an old client understands a newer server; counters that are not there are 0.
            ///
            /// # Errors
            ///
            /// Where a word is not `name=N`.
            pub fn parse(counters: &[u8]) -> Result<Self, ReplyError> {
                let mut stats = Stats::default();
                let counters = std::str::from_utf8(counters).map_err(|_| ReplyError)?;
                for word in counters.split(' ') {
                    let (name, number) = word.split_once('=').ok_or(ReplyError)?;
                    let number = number.parse().map_err(|_| ReplyError)?;
                    match name {
                        $(stringify!($name) => stats.$name = number,)*
                        "uptime" => stats.uptime = Duration::from_secs(number),
                        _ => {}
                    }
                }
                Ok(stats)
            }

            /// All counters by name, as they stand on the wire, `uptime` in whole seconds.
            ///
            /// ```
            /// let stats = keywire::Stats::default();
            /// assert!(stats.counters().all(|(_, number)| number == 0));
            /// ```
            pub fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [
                    $((stringify!($name), self.$name),)*
                    ("uptime", self.uptime.as_secs()),
                ]
                .into_iter()
            }
        }
    };
}

counters! {
    /// Clients connected now.
    active,
    /// Clients gone since the start, whatever the cause.
    dropped,
    /// Connections that were rejected: for one of the next two reasons, or because
    /// the server was shutting down.
    refused,
    /// Those that were one more than [`max_clients`](crate::Builder::max_clients).
    full_clients,
    /// Those that were one more than
    /// [`max_clients_per_address`](crate::Builder::max_clients_per_address).
    full_addresses,
    /// Times that a listener failed to accept a connection, such as for want of a descriptor.
    accept_errors,
    /// Commands that were understood, of whatever kind.
    commands,
    /// `Get` commands among them.
    gets,
    /// `Put` commands.
    puts,
    /// `Update` commands.
    updates,
    /// `Delete` commands.
    deletes,
    /// `Set` commands.
    sets,
    /// `Remove` commands.
    removes,
    /// `GetPrefix` and `Keys` commands.
    walks,
    /// `Sync` commands.
    syncs,
    /// `Stats` commands, this one included.
    stats,
    /// `Watch` and `WatchPrefix` commands.
    watches,
    /// `Unwatch` and `UnwatchPrefix` commands.
    unwatches,
    /// `Auth` commands that were right, or not needed.
    auths,
    /// Lines that were answered `unauthorized`, and connections that took too long for it.
    unauthorized,
    /// `:error:` lines queued.
    errors,
    /// Lines longer than [`max_line`](crate::Builder::max_line).
    long_lines,
    /// Replies longer than [`max_reply`](crate::Builder::max_reply).
    long_replies,
    /// Prefixes to be watched that were longer than
    /// [`max_watch_prefix`](crate::Builder::max_watch_prefix).
    long_prefixes,
    /// Watches that were one more than [`max_watches`](crate::Builder::max_watches).
    full_watches,
    /// Writes that would have gone over [`max_store`](crate::Builder::max_store).
    full_store,
    /// Writes that would have gone over [`max_values`](crate::Builder::max_values).
    full_values,
    /// Writes that were answered `unconfirmed`.
    unconfirmed,
    /// Connections that were closed because a line took longer than
    /// [`line_timeout`](crate::Builder::line_timeout).
    slow_lines,
    /// Connections that were closed because nothing moved on them for the
    /// [`idle_timeout`](crate::Builder::idle_timeout).
    idle,
    /// Times that a client's lines had to wait because of
    /// [`max_line_rate`](crate::Builder::max_line_rate).
    throttled,
    /// Reply lines queued for clients, control lines among them, events not.
    lines_queued,
    /// Reply lines dropped because a client did not read.
    lines_dropped,
    /// Keys and prefixes watched now, each client's counted.
    watching,
    /// Changes queued for watchers: one change that a hundred clients watch is a hundred events.
    events,
    /// Changes of which watchers were not notified, because they did not keep up.
    missed,
    /// Keys that the store holds, where the store can say.
    keys,
    /// Values that the store holds.
    values,
    /// Bytes that these keys and values have, without what it costs to keep them.
    bytes,
    /// What [`max_store`](crate::Builder::max_store) bounds.
    size,
    /// Commits of the store, if it keeps its values on a disk.
    commits,
    /// Writes in these commits.
    commit_writes,
    /// Microseconds that the last commit took.
    commit_last_us,
    /// Microseconds that the longest commit took.
    commit_longest_us,
    /// Bytes that the store has on the disk.
    disk_bytes,
    /// Commits that are not in a snapshot yet.
    log_commits,
    /// 1 if the store refuses writes, because its disk has failed.
    refusing,
    /// Nodes that the store is connected to, if it is on a cluster.
    nodes_up,
    /// Commands that these nodes have to answer.
    under_way,
    /// Times that a command was sent to a node again.
    retries,
    /// Commands that failed, or are unconfirmed, because of a node.
    failures,
    /// What keeps the values: 1 is memory, 2 a disk, 3 a cluster, and 0 something else. See
    /// [`store_kind`](Stats::store_kind).
    store,
}

impl Stats {
    /// What keeps the server's values.
    ///
    /// ```
    /// use keywire::{Stats, StoreKind};
    ///
    /// let stats = Stats::parse(b"active=1 store=2").unwrap();
    /// assert_eq!(stats.store_kind(), StoreKind::Disk);
    /// ```
    #[must_use]
    pub fn store_kind(&self) -> StoreKind {
        match self.store {
            1 => StoreKind::Memory,
            2 => StoreKind::Disk,
            3 => StoreKind::Cluster,
            _ => StoreKind::Other,
        }
    }
}

/// What keeps the values of a store. See `Store::KIND` and
/// [`Stats::store_kind`]. The numbers are those on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreKind {
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

impl StoreKind {
    /// Its name in the metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            StoreKind::Other => "other",
            StoreKind::Memory => "memory",
            StoreKind::Disk => "disk",
            StoreKind::Cluster => "cluster",
        }
    }
}
