//! How a server is set up: its limits, and its store.

use std::{fmt, sync::Arc, time::Duration};

use super::Server;
use crate::{
    Clock,
    store::{Memory, Store},
};

/// What happens to a reply for a client whose outbox is full and whose socket takes no bytes.
///
/// Events of what a client watches are another matter, because nobody waits for a watcher: one
/// that finds [`outbox_bytes`](Builder::outbox_bytes) of them and of replies waiting, or the outbox
/// full and the socket taking no bytes, is missed. It is counted and told under `Drop` and `Wait`;
/// under `Disconnect` the client goes.
///
/// ```
/// use keywire::{Overflow, Server};
///
/// let server = Server::builder().overflow(Overflow::Wait).build();
/// # drop(server);
/// assert_eq!(Overflow::default(), Overflow::Drop);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The reply goes, and is counted: the client's next `Sync` says how many lines went.
    #[default]
    Drop,
    /// The client goes.
    Disconnect,
    /// No reply is dropped. The client's own commands wait until it reads; no one else's do.
    Wait,
}

/// The bounds a server keeps, each set by the [`Builder`] method of its name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) outbox_lines: usize,
    pub(super) outbox_bytes: usize,
    pub(super) overflow: Overflow,
    pub(super) stall: Duration,
    pub(super) max_line: usize,
    pub(super) max_reply: usize,
    pub(super) max_watches: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            outbox_lines: 500,
            outbox_bytes: 4 << 20,
            overflow: Overflow::Drop,
            stall: Duration::from_millis(500),
            max_line: 64 << 10,
            max_reply: 64 << 20,
            max_watches: 1_000,
        }
    }
}

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
///     .stall(Duration::from_secs(2))
///     .max_line(4096)
///     .max_reply(1 << 20)
///     .max_watches(100)
///     .build();
/// # drop(server);
/// ```
pub struct Builder<S = Memory> {
    pub(super) limits: Limits,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) store: S,
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
    pub fn stall(mut self, time: Duration) -> Self {
        self.limits.stall = time;
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
    /// One more is refused with `full`. Each may be as long as a line, and is held twice.
    #[must_use]
    pub fn max_watches(mut self, watches: usize) -> Self {
        self.limits.max_watches = watches;
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
        Server::with(self.limits, self.clock, self.store)
    }
}

impl<S> fmt::Debug for Builder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
