//! The bounds that a server keeps, and what it does with a client that reaches one.

use std::time::Duration;

use crate::Secret;

/// What the server does with a reply if the client's outbox is full and its socket has taken no byte
/// for the [stall timeout](crate::Builder::stall_timeout).
///
/// Watch events follow another rule, because no client waits for a watcher. An event is missed if
/// [`outbox_bytes`](crate::Builder::outbox_bytes) of events and replies wait already, or if the outbox
/// is full and the socket refuses bytes. Under `Drop` and `Wait` missed events are counted, and the
/// client gets their number as `:missed:N`. Under `Disconnect` the client is disconnected.
///
/// ```
/// use keywire::{Overflow, Server};
///
/// let server = Server::builder().overflow(Overflow::Wait).build();
/// # drop(server);
/// assert_eq!(Overflow::default(), Overflow::Drop);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overflow {
    /// The reply is dropped and counted. The client's next `Sync` says how many lines were dropped.
    #[default]
    Drop,
    /// The client is disconnected.
    Disconnect,
    /// No reply is dropped. The client's own commands wait until it reads. No other client waits.
    Wait,
}

/// The limits of a server, each set by the [`Builder`](crate::Builder) method of its name. The maximum
/// of a type, and [`Duration::MAX`], mean no limit.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) outbox_lines: usize,
    pub(crate) outbox_bytes: usize,
    pub(crate) overflow: Overflow,
    pub(crate) stall_timeout: Duration,
    pub(crate) max_line: usize,
    pub(crate) max_reply: usize,
    pub(crate) max_watches: usize,
    pub(crate) max_watch_prefix: usize,
    pub(crate) max_clients: usize,
    pub(crate) max_clients_per_address: usize,
    pub(crate) line_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) max_line_rate: u32,
    pub(crate) max_store: u64,
    pub(crate) max_values: usize,
    pub(crate) secret: Option<Secret>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            outbox_lines: 500,
            outbox_bytes: 4 << 20,
            overflow: Overflow::Drop,
            stall_timeout: Duration::from_millis(500),
            max_line: 64 << 10,
            max_reply: 64 << 20,
            max_watches: 1_000,
            max_watch_prefix: 1 << 10,
            max_clients: 1 << 16,
            max_clients_per_address: usize::MAX,
            line_timeout: Duration::from_secs(60),
            idle_timeout: Duration::MAX,
            max_line_rate: u32::MAX,
            max_store: u64::MAX,
            max_values: usize::MAX,
            secret: None,
        }
    }
}

impl Limits {
    /// Whether this is the server's secret, or the server has none.
    pub(crate) fn accepts_secret(&self, secret: &[u8]) -> bool {
        self.secret.as_ref().is_none_or(|right| right.is(secret))
    }

    pub(crate) fn limits_per_address(&self) -> bool {
        self.max_clients_per_address < usize::MAX
    }
}
