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

/// Emits an event, unless the budget of its kind is used up.
macro_rules! log_event {
    ($log:ident, $kind:ident, $level:ident, $($event:tt)*) => {
        #[cfg(feature = "tracing")]
        if tracing::enabled!(target: TARGET, tracing::Level::$level) {
            if let Some(suppressed) = $log.try_acquire(Kind::$kind) {
                tracing::event!(target: TARGET, tracing::Level::$level, suppressed, $($event)*);
            }
        }
    };
}

#[derive(Clone, Copy)]
enum Kind {
    Connected,
    Refused,
    InputEnded,
    Unauthorized,
    RepliesDropped,
    EventsMissed,
    Disconnected,
}

#[derive(Clone, Copy, Default)]
struct Budget {
    began: Option<Instant>,
    emitted: u32,
    suppressed: u64,
}

impl Budget {
    /// `Some` lets an event through, with the number of those that were suppressed before it.
    fn try_acquire(&mut self, now: Instant) -> Option<u64> {
        if self.began.is_none_or(|began| now - began >= SECOND) {
            self.began = Some(now);
            self.emitted = 0;
        }
        if self.emitted == EVENTS_PER_SECOND {
            self.suppressed += 1;
            return None;
        }
        self.emitted += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// The coordinator's log. Clients go by their numbers, in the order in which they connected.
pub(crate) struct LogLimiter {
    clock: Arc<dyn Clock>,
    budgets: [Budget; Kind::Disconnected as usize + 1],
}

impl LogLimiter {
    pub(crate) fn new(clock: &Arc<dyn Clock>) -> Self {
        Self {
            clock: clock.clone(),
            budgets: Default::default(),
        }
    }

    fn try_acquire(&mut self, kind: Kind) -> Option<u64> {
        self.budgets[kind as usize].try_acquire(self.clock.now())
    }

    pub(crate) fn connected(&mut self, client: u64, address: Option<IpAddr>) {
        log_event!(
            self,
            Connected,
            DEBUG,
            client,
            address = address.map(tracing::field::display),
            "client connected"
        );
    }

    pub(crate) fn refused(&mut self, reason: &str, address: Option<IpAddr>) {
        log_event!(
            self,
            Refused,
            WARN,
            address = address.map(tracing::field::display),
            "connection refused: {reason}"
        );
    }

    pub(crate) fn unauthorized(&mut self, client: u64) {
        log_event!(self, Unauthorized, WARN, client, "not the secret");
    }

    /// The server ended the input of a client.
    pub(crate) fn input_ended(&mut self, client: u64, reason: &str) {
        log_event!(self, InputEnded, INFO, client, "{reason}");
    }

    pub(crate) fn replies_dropped(&mut self, client: u64, lines: u64) {
        if lines > 0 {
            let message = "replies dropped: the client does not read";
            log_event!(self, RepliesDropped, WARN, client, lines, "{message}");
        }
    }

    pub(crate) fn events_missed(&mut self, client: u64, events: u64) {
        if events > 0 {
            let message = "events missed: the watcher does not keep up";
            log_event!(self, EventsMissed, INFO, client, events, "{message}");
        }
    }

    pub(crate) fn disconnected(&mut self, client: u64, error: Option<io::Error>) {
        log_event!(
            self,
            Disconnected,
            DEBUG,
            client,
            error = error.map(tracing::field::display),
            "client disconnected"
        );
    }
}

/// A server shuts down a few times at most, so these need no budget.
pub(crate) fn shutting_down(clients: u64) {
    #[cfg(feature = "tracing")]
    tracing::info!(target: TARGET, clients, "shutting down");
}

/// It happens once.
pub(crate) fn disk_failed() {
    #[cfg(feature = "tracing")]
    tracing::error!(target: TARGET, "the disk has failed: writes are refused");
}

pub(crate) fn closed() {
    #[cfg(feature = "tracing")]
    tracing::info!(target: TARGET, "closed");
}

/// This needs no budget: the accept loop waits before it tries again.
pub(crate) fn accept_failed(error: &io::Error) {
    #[cfg(feature = "tracing")]
    tracing::warn!(target: TARGET, %error, "a listener failed to accept a connection");
}
