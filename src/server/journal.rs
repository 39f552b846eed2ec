//! Events of `tracing`, for whoever listens; nothing at all without the feature of that name.
//!
//! They never hold a key, a value or a secret. What a client can cause as often as it likes has a
//! budget a second for each kind; the next event of the kind says how many were withheld.

use std::{io, net::IpAddr};

use super::{admission::Crowded, event::End};

/// Sends an event, unless the budget of its kind is used up.
macro_rules! tell {
    ($journal:ident, $kind:ident, $level:ident, $($event:tt)*) => {
        #[cfg(feature = "tracing")]
        if tracing::enabled!(target: TARGET, tracing::Level::$level) {
            if let Some(withheld) = $journal.allows(Kind::$kind) {
                tracing::event!(target: TARGET, tracing::Level::$level, withheld, $($event)*);
            }
        }
    };
}

#[cfg(feature = "tracing")]
const TARGET: &str = "keywire";

#[cfg(feature = "tracing")]
mod budget {
    use std::time::{Duration, Instant};

    /// Events of a kind in a second.
    pub(super) const EVENTS: u32 = 20;

    const SECOND: Duration = Duration::from_secs(1);

    #[derive(Clone, Copy, Default)]
    pub(super) struct Budget {
        began: Option<Instant>,
        told: u32,
        withheld: u64,
    }

    impl Budget {
        /// `Some` lets an event through, with the number of those that were withheld before it.
        pub(super) fn allows(&mut self, now: Instant) -> Option<u64> {
            if self.began.is_none_or(|began| now - began >= SECOND) {
                self.began = Some(now);
                self.told = 0;
            }
            if self.told == EVENTS {
                self.withheld += 1;
                return None;
            }
            self.told += 1;
            Some(std::mem::take(&mut self.withheld))
        }
    }
}

#[cfg(feature = "tracing")]
#[derive(Clone, Copy)]
enum Kind {
    Joined,
    Refused,
    Ended,
    Unauthorized,
    Lost,
    Missed,
    Left,
}

/// The coordinator's. Clients go by their numbers, in the order in which they came.
pub(super) struct Journal {
    #[cfg(feature = "tracing")]
    clock: std::sync::Arc<dyn crate::Clock>,
    #[cfg(feature = "tracing")]
    budgets: [budget::Budget; Kind::Left as usize + 1],
}

// Without the feature, nobody looks at what is said.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
impl Journal {
    pub(super) fn new(clock: &std::sync::Arc<dyn crate::Clock>) -> Self {
        Self {
            #[cfg(feature = "tracing")]
            clock: clock.clone(),
            #[cfg(feature = "tracing")]
            budgets: Default::default(),
        }
    }

    #[cfg(feature = "tracing")]
    fn allows(&mut self, kind: Kind) -> Option<u64> {
        self.budgets[kind as usize].allows(self.clock.now())
    }

    pub(super) fn joined(&mut self, client: u64, address: Option<IpAddr>) {
        tell!(
            self,
            Joined,
            DEBUG,
            client,
            address = address.map(tracing::field::display),
            "client joined"
        );
    }

    pub(super) fn refused(&mut self, why: Crowded, address: Option<IpAddr>) {
        tell!(
            self,
            Refused,
            WARN,
            address = address.map(tracing::field::display),
            "connection refused: {}",
            why.message()
        );
    }

    pub(super) fn unauthorized(&mut self, client: u64) {
        tell!(self, Unauthorized, WARN, client, "not the secret");
    }

    pub(super) fn ended(&mut self, client: u64, why: End) {
        match why {
            End::Eof | End::Partial | End::Closing => {}
            End::NotLetIn(_) | End::Late => self.unauthorized(client),
            End::SlowLine => {
                tell!(self, Ended, INFO, client, "a line took too long");
            }
            End::Foreign { .. } => {
                tell!(self, Ended, INFO, client, "it speaks another protocol");
            }
            End::Idle | End::Unread => {
                tell!(self, Ended, INFO, client, "idle for too long");
            }
        }
    }

    pub(super) fn lost(&mut self, client: u64, lines: u64) {
        if lines > 0 {
            tell!(
                self,
                Lost,
                WARN,
                client,
                lines,
                "replies dropped: the client does not read"
            );
        }
    }

    pub(super) fn missed(&mut self, client: u64, events: u64) {
        if events > 0 {
            tell!(
                self,
                Missed,
                INFO,
                client,
                events,
                "events missed: the watcher does not keep up"
            );
        }
    }

    pub(super) fn left(&mut self, client: u64, error: Option<io::Error>) {
        tell!(
            self,
            Left,
            DEBUG,
            client,
            error = error.map(tracing::field::display),
            "client left"
        );
    }
}

/// A server stops a few times at most, so this needs no budget; so do the next two.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(super) fn closing(clients: u64) {
    #[cfg(feature = "tracing")]
    tracing::info!(target: TARGET, clients, "closing");
}

pub(super) fn closed() {
    #[cfg(feature = "tracing")]
    tracing::info!(target: TARGET, "closed");
}

/// A door waits before it tries again.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(super) fn door_failed(error: &io::Error) {
    #[cfg(feature = "tracing")]
    tracing::warn!(target: TARGET, %error, "a door failed to take a connection in");
}
