//! The builder: limits, clock and store of a server.

use std::{fmt, sync::Arc, time::Duration};

use super::Server;
use crate::{
    Clock, Overflow, Secret,
    shared::limits::Limits,
    store::{Memory, Store},
};

/// Sets a server up. Made by [`Server::builder`].
///
/// ```
/// use keywire::{Overflow, Server};
/// use std::time::Duration;
///
/// let server = Server::builder()
///     .outbox_lines(1_000)
///     .outbox_bytes(1 << 20)
///     .overflow(Overflow::Disconnect)
///     .stall_timeout(Duration::from_secs(2))
///     .max_line(4096)
///     .max_reply(1 << 20)
///     .max_watches(100)
///     .max_watch_prefix(64)
///     .max_clients(1_000)
///     .max_clients_per_address(10)
///     .line_timeout(Duration::from_secs(10))
///     .idle_timeout(Duration::from_secs(300))
///     .max_line_rate(10_000)
///     .max_store(1 << 30)
///     .max_values(100_000)
///     .secret(keywire::Secret::new("correct horse battery staple")?)
///     .build();
/// # drop(server);
/// # Ok::<(), keywire::Error>(())
/// ```
pub struct Builder<S = Memory> {
    pub(crate) limits: Limits,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: S,
}

impl<S: Store> Builder<S> {
    /// Reply lines that may wait for a client; 500 unless set. At least 1.
    ///
    /// An outbox is full when it holds this many lines *or* [`outbox_bytes`](Self::outbox_bytes).
    /// A reply is let in while the outbox is not full, and always whole, so it may hold one
    /// reply more than its bounds.
    #[must_use]
    pub fn outbox_lines(mut self, lines: usize) -> Self {
        self.limits.outbox_lines = lines.max(1);
        self
    }

    /// Bytes of replies that may wait for a client; 4 MiB unless set. At least 1.
    #[must_use]
    pub fn outbox_bytes(mut self, bytes: usize) -> Self {
        self.limits.outbox_bytes = bytes.max(1);
        self
    }

    /// What happens when a client does not read its replies; [`Overflow::Drop`] unless set.
    #[must_use]
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.limits.overflow = overflow;
        self
    }

    /// How long a client's socket may take no byte at all before it counts as refusing bytes; half
    /// a second unless set.
    ///
    /// Until then a full outbox only makes that client's commands wait, so a client that reads,
    /// however slowly, loses nothing. [`Overflow::Wait`] makes no use of it.
    #[must_use]
    pub fn stall_timeout(mut self, time: Duration) -> Self {
        self.limits.stall_timeout = time;
        self
    }

    /// Bytes of a line from a client, its ending not counted; 64 KiB unless set.
    ///
    /// A longer one is refused with `too-long` and skipped; the connection goes on.
    #[must_use]
    pub fn max_line(mut self, bytes: usize) -> Self {
        self.limits.max_line = bytes;
        self
    }

    /// Bytes of the reply to one `Get`; 64 MiB unless set.
    ///
    /// A longer one is refused with `too-long`: it would have to be held in memory whole.
    #[must_use]
    pub fn max_reply(mut self, bytes: usize) -> Self {
        self.limits.max_reply = bytes;
        self
    }

    /// Keys and prefixes that one client may watch at a time; 1,000 unless set.
    ///
    /// One more is refused with `full`. A name of more than 64 bytes counts once more for each
    /// further 64, so that this bounds memory, too.
    #[must_use]
    pub fn max_watches(mut self, watches: usize) -> Self {
        self.limits.max_watches = watches;
        self
    }

    /// Bytes of a prefix that a client may watch; 1 KiB unless set.
    ///
    /// A longer one is refused with `too-long`. Each write looks for the prefixes of its key that
    /// are watched, so without a bound, prefixes of one another would make all writes slow.
    #[must_use]
    pub fn max_watch_prefix(mut self, bytes: usize) -> Self {
        self.limits.max_watch_prefix = bytes;
        self
    }

    /// Clients at a time; 65,536 unless set.
    ///
    /// One more is told `full`, and its connection is closed. Up to 64 who are being told so are
    /// there besides, for two seconds at most; beyond these, connections are just closed.
    #[must_use]
    pub fn max_clients(mut self, clients: usize) -> Self {
        self.limits.max_clients = clients;
        self
    }

    /// Clients at a time from one address, where its [listener](crate::Listener) tells it; no
    /// limit unless set. One more is turned away like one over [`max_clients`](Self::max_clients).
    ///
    /// An IPv6 address counts by its first 64 bits, which is what one subscriber has. Behind a
    /// proxy all clients have one address.
    #[must_use]
    pub fn max_clients_per_address(mut self, clients: usize) -> Self {
        self.limits.max_clients_per_address = clients;
        self
    }

    /// How long a line may take, from its first byte to its end; 60 seconds unless set.
    ///
    /// A client whose line takes longer is told `too-long`, and its connection is closed. Time in
    /// which the server does not read, because replies wait for room, does not count.
    #[must_use]
    pub fn line_timeout(mut self, time: Duration) -> Self {
        self.limits.line_timeout = time;
        self
    }

    /// How long a connection may last on which nothing moves, neither way; no limit unless set. At
    /// least a millisecond.
    ///
    /// When it is over, the client is told `closing`, and its connection is closed. A client that
    /// only watches can send a blank line now and then. A command that takes long is no idleness.
    /// On Linux, what is written to a TCP client moves when its system acknowledges it, not when
    /// ours takes it.
    ///
    /// Even without it a TCP client whose machine is gone is found out, in about two minutes: a
    /// listener made by [`bind`](crate::bind) has the system ask for signs of life (keepalive). With
    /// data on the way to the client, keepalive is silent; then, on Linux, the server itself looks
    /// for the client's last acknowledgement, with the same patience. A client that does not read is
    /// not taken for gone as long as its system answers. One that had not read for minutes before it
    /// went takes up to four minutes more, since its system is asked that seldom.
    #[must_use]
    pub fn idle_timeout(mut self, time: Duration) -> Self {
        // It is counted in milliseconds.
        self.limits.idle_timeout = time.max(Duration::from_millis(1));
        self
    }

    /// Lines a second from one client; no limit unless set. At least 1.
    ///
    /// It counts lines, and a call of a [`Client`](crate::Client) is two: its command and a `Sync`.
    ///
    /// What is more is not refused, it waits; so its sender waits, too. A client that has sent
    /// nothing for a second may send a second's lines at once; so may one that has just come, so
    /// bound [clients an address](Self::max_clients_per_address), too. One that leaves keeps its
    /// place until what it has sent, which may be all that the system's buffers hold, has had its
    /// time.
    #[must_use]
    pub fn max_line_rate(mut self, lines: u32) -> Self {
        self.limits.max_line_rate = lines.max(1);
        self
    }

    /// How much the store may hold, as [`StoreSize::charged`](crate::store::StoreSize::charged) has it: bytes of
    /// keys and values, and what it costs to keep them; no limit unless set.
    ///
    /// A write that would go over it is refused with `full`, and changes nothing. It is up to the
    /// store to keep to this; [`Memory`] does.
    #[must_use]
    pub fn max_store(mut self, bytes: u64) -> Self {
        self.limits.max_store = bytes;
        self
    }

    /// Values that one key may have; no limit unless set.
    ///
    /// A write that would add one more is refused with `full`, and changes nothing. It is up to the
    /// store to keep to this; [`Memory`] does.
    #[must_use]
    pub fn max_values(mut self, values: usize) -> Self {
        self.limits.max_values = values;
        self
    }

    /// What a client has to say, with `Auth:secret`, before it may do anything else; nothing unless
    /// set.
    ///
    /// Until then, the server keeps at most 2 KiB of what it sends, applies nothing, and answers
    /// each line after a second with `unauthorized`. After the third, or after ten seconds, the
    /// connection is closed.
    #[must_use]
    pub fn secret(mut self, secret: Secret) -> Self {
        self.limits.secret = Some(secret);
        self
    }

    /// What time it is; the system's, by async-io, unless set.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// What keeps the values; an empty [`Memory`] unless set.
    #[must_use]
    pub fn store<T: Store>(self, store: T) -> Builder<T> {
        Builder {
            limits: self.limits,
            clock: self.clock,
            store,
        }
    }

    /// The server, with no door yet.
    #[must_use]
    pub fn build(self) -> Server<S> {
        Server::from_parts(self.limits, self.clock, self.store)
    }
}

impl<S> fmt::Debug for Builder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
