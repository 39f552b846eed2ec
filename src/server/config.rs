//! How a server is set up: its limits, its listeners, its store and its clock.

use std::{fmt, sync::Arc, time::Duration};

use super::Server;
use crate::{
    Clock, Error, Listener, Overflow, Secret,
    listen::{StartAcceptLoop, start_accept_loop},
    shared::limits::Limits,
    store::{Memory, Store},
};

/// Sets the limits, the listeners, the store and the clock of a server. Made by [`Server::builder`].
///
/// Each limit has a default, stated at its method. The maximum of a number's type, such as
/// [`usize::MAX`], and [`Duration::MAX`] mean no limit. The page [`limits`](crate::guide::limits) has
/// all of them in one table. Times are those of the [clock](Self::clock).
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
    pub(crate) listeners: Vec<StartAcceptLoop>,
}

impl<S: Store> Builder<S> {
    /// Reply lines that may wait for a client. Default: 500. Minimum: 1; 0 counts as 1.
    ///
    /// An outbox is full if it holds this many lines *or* [`outbox_bytes`](Self::outbox_bytes). While
    /// it is not full it accepts the next reply as a whole, so it may hold one reply more than its
    /// bounds.
    #[must_use]
    pub fn outbox_lines(mut self, lines: usize) -> Self {
        self.limits.outbox_lines = lines.max(1);
        self
    }

    /// Bytes of replies that may wait for a client. Default: 4 MiB. Minimum: 1; 0 counts as 1.
    #[must_use]
    pub fn outbox_bytes(mut self, bytes: usize) -> Self {
        self.limits.outbox_bytes = bytes.max(1);
        self
    }

    /// What happens if a client does not read its replies. Default: [`Overflow::Drop`].
    #[must_use]
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.limits.overflow = overflow;
        self
    }

    /// How long a client's socket may take no byte at all before it counts as refusing bytes.
    /// Default: 500 milliseconds.
    ///
    /// Until then a full outbox only makes that client's commands wait, so a client that reads,
    /// however slowly, loses nothing. [`Overflow::Wait`] does not use this time.
    #[must_use]
    pub fn stall_timeout(mut self, time: Duration) -> Self {
        self.limits.stall_timeout = time;
        self
    }

    /// Bytes of a line from a client, without its ending. Default: 64 KiB.
    ///
    /// A longer line is refused with `too-long` and skipped. The connection goes on.
    #[must_use]
    pub fn max_line(mut self, bytes: usize) -> Self {
        self.limits.max_line = bytes;
        self
    }

    /// Bytes of the reply to one `Get`, or of the lines of one key in the reply to a `GetPrefix`. Default:
    /// 64 MiB.
    ///
    /// Such a reply is held in memory as a whole. If it would be longer than this, the `Get` is refused with
    /// `too-long`; a `GetPrefix` ends with it.
    #[must_use]
    pub fn max_reply(mut self, bytes: usize) -> Self {
        self.limits.max_reply = bytes;
        self
    }

    /// Keys and prefixes that one client may watch at a time. Default: 1,000.
    ///
    /// One more is refused with `full`. A key or prefix counts once for each 64 bytes, or part of 64
    /// bytes, so that this limit bounds memory, too.
    #[must_use]
    pub fn max_watches(mut self, watches: usize) -> Self {
        self.limits.max_watches = watches;
        self
    }

    /// Bytes of a prefix that a client may watch. Default: 1 KiB.
    ///
    /// A longer prefix is refused with `too-long`. Each write looks up the watched prefixes of its key.
    /// Without this limit, a client could slow down all writes by watching many long prefixes of one
    /// key.
    #[must_use]
    pub fn max_watch_prefix(mut self, bytes: usize) -> Self {
        self.limits.max_watch_prefix = bytes;
        self
    }

    /// Clients at a time. Default: 65,536.
    ///
    /// One more gets `:error:0:full:...`, and its connection is closed. Up to 64 connections that are
    /// being rejected in this way may exist besides, each for at most two seconds. Beyond these,
    /// connections are closed without a line.
    #[must_use]
    pub fn max_clients(mut self, clients: usize) -> Self {
        self.limits.max_clients = clients;
        self
    }

    /// Clients at a time from one address. Default: no limit.
    ///
    /// One more is rejected like one over [`max_clients`](Self::max_clients). The address comes from
    /// the [listener](crate::Listener); connections without an address are not counted. An IPv6 address
    /// counts by its first 64 bits, because one subscriber usually has all addresses with the same 64
    /// bits. Behind a proxy all clients have one address.
    #[must_use]
    pub fn max_clients_per_address(mut self, clients: usize) -> Self {
        self.limits.max_clients_per_address = clients;
        self
    }

    /// How long a line may take, from its first byte to its end. Default: 60 seconds.
    ///
    /// A client whose line takes longer gets `too-long`, and its connection is closed. The time in
    /// which the server does not read, because the outbox is full, does not count.
    #[must_use]
    pub fn line_timeout(mut self, time: Duration) -> Self {
        self.limits.line_timeout = time;
        self
    }

    /// How long nothing may move on a connection, in either direction. Default: no limit. Minimum: 1
    /// millisecond.
    ///
    /// After this time the client gets `closing`, and its connection is closed. A client that only
    /// watches can send a blank line now and then. The time in which a command is being applied is not
    /// idle time. On Linux, bytes that are written to a TCP client count as a move when the client's
    /// system acknowledges them, not when the server's own system accepts them.
    ///
    /// On Linux, a TCP client whose machine is gone is found in about two minutes even without this
    /// limit. If no data is on the way to it, TCP keepalive finds it; a listener made by
    /// [`bind`](crate::bind) turns keepalive on. If data is on the way, keepalive is silent, and the
    /// server looks at the time of the client's last acknowledgement instead. If the client had not
    /// read for minutes before its machine went, it takes up to four minutes more, because the system
    /// probes such a client seldom. A client that is alive and does not read is not taken for gone.
    /// Other systems have only keepalive; the system decides when it gives up.
    #[must_use]
    pub fn idle_timeout(mut self, time: Duration) -> Self {
        // Idle time is counted in milliseconds.
        self.limits.idle_timeout = time.max(Duration::from_millis(1));
        self
    }

    /// Lines a second from one client. Default: no limit. Minimum: 1; 0 counts as 1.
    ///
    /// A call of a [`Client`](crate::Client) sends two lines: its command and a `Sync`.
    ///
    /// Lines beyond the limit are not refused. They wait, and so the client's later lines wait, too. A
    /// client that has sent nothing for a second may send a second's lines at once. So may a new
    /// connection; to stop a client that connects again and again, set
    /// [`max_clients_per_address`](Self::max_clients_per_address) as well. A client that hangs up keeps
    /// counting as connected until the lines that it has sent have been applied at this rate. These
    /// lines may be as much as the system's buffers hold.
    #[must_use]
    pub fn max_line_rate(mut self, lines: u32) -> Self {
        self.limits.max_line_rate = lines.max(1);
        self
    }

    /// How much the store may hold, in bytes. Default: no limit.
    ///
    /// [`StoreSize::charged`](crate::store::StoreSize::charged) is what counts: the bytes of keys and
    /// values, 64 more for each key and 8 for each value. A write that would exceed the limit is
    /// refused with `full` and changes nothing. The store enforces this limit; [`Memory`] does. If the store
    /// can't, the server is not [built](Self::build).
    #[must_use]
    pub fn max_store(mut self, bytes: u64) -> Self {
        self.limits.max_store = bytes;
        self
    }

    /// Values that one key may have. Default: no limit.
    ///
    /// A write that would add one more is refused with `full` and changes nothing. The store enforces
    /// this limit; [`Memory`] does. If the store can't, the server is not [built](Self::build).
    #[must_use]
    pub fn max_values(mut self, values: usize) -> Self {
        self.limits.max_values = values;
        self
    }

    /// The secret that a client has to send, as `Auth:secret`, before anything else. Default: none. A
    /// client [in the process](crate::Handle::client) needs none.
    ///
    /// Before a connection has authenticated, the server holds at most 2 KiB of what it sends, applies
    /// nothing, and answers each other line with `unauthorized` after a second. After the third such
    /// line, or after ten seconds, the connection is closed.
    #[must_use]
    pub fn secret(mut self, secret: Secret) -> Self {
        self.limits.secret = Some(secret);
        self
    }

    /// The clock that the server uses. Default: the system's clock, with async-io's timers.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The store that keeps the values. Default: an empty [`Memory`].
    #[must_use]
    pub fn store<T: Store>(self, store: T) -> Builder<T> {
        Builder {
            limits: self.limits,
            clock: self.clock,
            store,
            listeners: self.listeners,
        }
    }

    /// Adds a listener. A server may have several, of different kinds, or none: there is also
    /// [`Handle::attach`](crate::Handle::attach) for one connection, and
    /// [`Handle::client`](crate::Handle::client) for a client without a socket.
    ///
    /// The server accepts no connection before it runs.
    ///
    /// ```
    /// # futures_lite::future::block_on(async {
    /// let server = keywire::Server::builder()
    ///     .max_values(1_000)
    ///     .listen(keywire::bind("127.0.0.1:0").await?)
    ///     .listen(keywire::bind(("127.0.0.1", 0)).await?)
    ///     .build();
    /// # drop(server);
    /// # Ok::<(), keywire::Error>(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn listen(mut self, listener: impl Listener) -> Self {
        self.listeners.push(start_accept_loop(listener));
        self
    }

    /// Makes the server.
    ///
    /// # Panics
    ///
    /// If the store can't keep to [`max_store`](Self::max_store) or [`max_values`](Self::max_values), and one
    /// is set: [`Cluster`](crate::guide::cluster) can't keep to `max_store`. If a limit is not the program's
    /// own choice, use [`try_build`](Self::try_build).
    #[must_use]
    pub fn build(self) -> Server<S> {
        self.try_build()
            .unwrap_or_else(|error| panic!("the server can't be built: {error}"))
    }

    /// Makes the server, if the store keeps to the limits.
    ///
    /// # Errors
    ///
    /// What [`Store::check_limits`] says.
    pub fn try_build(self) -> Result<Server<S>, Error> {
        let limits = &self.limits;
        self.store
            .check_limits(limits.max_store, limits.max_values)?;
        let mut server = Server::from_parts(self.limits, self.clock, self.store);
        for start in self.listeners {
            server.start(start);
        }
        Ok(server)
    }
}

impl<S> fmt::Debug for Builder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("limits", &self.limits)
            .field("listeners", &self.listeners.len())
            .finish_non_exhaustive()
    }
}
