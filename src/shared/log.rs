//! Events of `tracing`, behind the feature of that name. Without it, nothing here does anything.
//!
//! Events never hold a key, a value or a secret. What a client can cause as often as it likes is
//! limited to so many events a second of each kind; the next one says how many were suppressed.

#![cfg_attr(
    not(feature = "tracing"),
    allow(dead_code, unused_variables, unused_macros)
)]

use std::{
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::Clock;

#[cfg(feature = "tracing")]
const TARGET: &str = "keywire";

/// Events of a kind in a second.
const EVENTS_PER_SECOND: u32 = 20;

const SECOND: Duration = Duration::from_secs(1);

/// A failure to accept is logged once in this time.
const ACCEPT_FAILURE_INTERVAL: Duration = Duration::from_secs(10);

/// Emits an event, unless the budget of its kind is used up. The budget is asked only if anyone listens.
macro_rules! log_event {
    ($acquired:expr, $level:ident, $($event:tt)*) => {
        #[cfg(feature = "tracing")]
        if tracing::enabled!(target: TARGET, tracing::Level::$level) {
            if let Some(suppressed) = $acquired {
                let suppressed = (suppressed > 0).then_some(suppressed);
                tracing::event!(target: TARGET, tracing::Level::$level, suppressed, $($event)*);
            }
        }
    };
}

#[derive(Clone, Copy)]
#[allow(
    dead_code,
    reason = "stores, which are features, have some of their own"
)]
enum Kind {
    Connected,
    Refused,
    InputEnded,
    Unauthorized,
    RepliesDropped,
    EventsMissed,
    CutOff,
    Disconnected,
    NodeUp,
    NodeLost,
    NodeAbsent,
    SnapshotBegun,
    SnapshotComplete,
}

#[derive(Clone, Copy, Default)]
struct Budget {
    began: Option<Instant>,
    emitted: u32,
    suppressed: u64,
}

impl Budget {
    /// `Some` lets an event through, with the number of those that were suppressed before it.
    fn try_acquire(&mut self, now: Instant, (events, time): (u32, Duration)) -> Option<u64> {
        if self.began.is_none_or(|began| now - began >= time) {
            self.began = Some(now);
            self.emitted = 0;
        }
        if self.emitted == events {
            self.suppressed += 1;
            return None;
        }
        self.emitted += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[derive(Default)]
struct Budgets([Budget; Kind::SnapshotComplete as usize + 1]);

impl Budgets {
    fn try_acquire(&mut self, kind: Kind, now: Instant) -> Option<u64> {
        self.0[kind as usize].try_acquire(now, (EVENTS_PER_SECOND, SECOND))
    }
}

/// The coordinator's log. Clients go by their numbers, in the order in which they connected.
pub(crate) struct LogLimiter {
    clock: Arc<dyn Clock>,
    budgets: Budgets,
}

impl LogLimiter {
    pub(crate) fn new(clock: &Arc<dyn Clock>) -> Self {
        Self {
            clock: clock.clone(),
            budgets: Budgets::default(),
        }
    }

    fn try_acquire(&mut self, kind: Kind) -> Option<u64> {
        self.budgets.try_acquire(kind, self.clock.now())
    }

    pub(crate) fn connected(&mut self, client: u64, address: Option<IpAddr>) {
        log_event!(
            self.try_acquire(Kind::Connected),
            DEBUG,
            client,
            address = address.map(tracing::field::display),
            "client connected"
        );
    }

    pub(crate) fn refused(&mut self, reason: &str, address: Option<IpAddr>) {
        log_event!(
            self.try_acquire(Kind::Refused),
            WARN,
            address = address.map(tracing::field::display),
            "connection refused: {reason}"
        );
    }

    pub(crate) fn unauthorized(&mut self, client: u64) {
        log_event!(
            self.try_acquire(Kind::Unauthorized),
            WARN,
            client,
            "unauthorized: a wrong secret, or none"
        );
    }

    /// The server ended the input of a client.
    pub(crate) fn input_ended(&mut self, client: u64, reason: &str) {
        log_event!(self.try_acquire(Kind::InputEnded), INFO, client, "{reason}");
    }

    pub(crate) fn replies_dropped(&mut self, client: u64, lines: u64) {
        if lines > 0 {
            let message = "replies dropped: the client does not read";
            log_event!(
                self.try_acquire(Kind::RepliesDropped),
                WARN,
                client,
                lines,
                "{message}"
            );
        }
    }

    pub(crate) fn events_missed(&mut self, client: u64, events: u64) {
        if events > 0 {
            let message = "events missed: the watcher does not keep up";
            log_event!(
                self.try_acquire(Kind::EventsMissed),
                INFO,
                client,
                events,
                "{message}"
            );
        }
    }

    /// The server ends the connection: the outbox is full, or what has to be sent has no room.
    pub(crate) fn cut_off(&mut self, client: u64) {
        let message = "disconnected: the client does not read";
        log_event!(self.try_acquire(Kind::CutOff), WARN, client, "{message}");
    }

    pub(crate) fn disconnected(&mut self, client: u64, error: Option<io::Error>) {
        log_event!(
            self.try_acquire(Kind::Disconnected),
            DEBUG,
            client,
            error = error.map(tracing::field::display),
            "client disconnected"
        );
    }
}

/// The log of a store.
#[cfg(any(feature = "cluster", feature = "disk"))]
#[derive(Default)]
pub(crate) struct StoreLog(Budgets);

#[cfg(feature = "cluster")]
impl StoreLog {
    pub(crate) fn node_up(&mut self, node: &impl std::fmt::Display, now: Instant) {
        let message = "connected to a node of the cluster";
        log_event!(self.0.try_acquire(Kind::NodeUp, now), INFO, %node, "{message}");
    }

    pub(crate) fn node_lost(&mut self, node: &impl std::fmt::Display, now: Instant) {
        let message = "the connection to a node of the cluster is lost";
        log_event!(self.0.try_acquire(Kind::NodeLost, now), WARN, %node, "{message}");
    }

    /// It has not been connected to since the last time that it was lost, or ever.
    pub(crate) fn node_absent(&mut self, node: &impl std::fmt::Display, now: Instant) {
        let message = "a node of the cluster can't be reached";
        log_event!(self.0.try_acquire(Kind::NodeAbsent, now), WARN, %node, "{message}");
    }
}

#[cfg(feature = "disk")]
impl StoreLog {
    pub(crate) fn snapshot_begun(&mut self, now: Instant) {
        log_event!(
            self.0.try_acquire(Kind::SnapshotBegun, now),
            DEBUG,
            "snapshot begun"
        );
    }

    pub(crate) fn snapshot_complete(&mut self, bytes: u64, now: Instant) {
        let message = "snapshot complete";
        log_event!(
            self.0.try_acquire(Kind::SnapshotComplete, now),
            INFO,
            bytes,
            "{message}"
        );
    }
}

/// A server shuts down a few times at most, so these need no budget.
pub(crate) fn shutting_down(clients: u64) {
    #[cfg(feature = "tracing")]
    tracing::info!(target: TARGET, clients, "shutting down");
}

/// It happens once.
#[cfg(feature = "disk")]
pub(crate) fn disk_failed(error: &io::Error) {
    #[cfg(feature = "tracing")]
    tracing::error!(target: TARGET, %error, "the disk has failed: writes are refused");
}

pub(crate) fn closed() {
    #[cfg(feature = "tracing")]
    tracing::debug!(target: TARGET, "closed");
}

/// The log of an accept loop. Without descriptors it fails 20 times a second, for as long as that lasts.
#[derive(Default)]
pub(crate) struct AcceptLog(Budget);

impl AcceptLog {
    pub(crate) fn failed(&mut self, error: &io::Error, now: Instant) {
        log_event!(
            self.0.try_acquire(now, (1, ACCEPT_FAILURE_INTERVAL)),
            WARN,
            %error,
            "a listener failed to accept a connection"
        );
    }
}
