//! How long a connection has been idle.

use std::time::{Duration, Instant};

use super::input_rules::Environment;
use crate::clock;

/// When bytes last moved on a connection. It exists only if idleness has a limit.
pub(crate) struct IdleTracker {
    limit: Duration,
    last_activity: Instant,
    /// The last write to a peer whose acknowledgements the system knows.
    last_write: Instant,
}

impl IdleTracker {
    pub(crate) fn new(limit: Duration, now: Instant) -> Self {
        Self {
            limit,
            last_activity: now,
            last_write: now,
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        clock::later(self.last_activity, self.limit)
    }

    pub(crate) fn touch(&mut self, now: Instant) {
        self.last_activity = now;
    }

    pub(crate) fn on_write(&mut self, now: Instant) {
        self.last_write = now;
    }

    /// Counts what was written as activity, as far as the peer has acknowledged it. Says whether
    /// that makes a difference.
    pub(crate) fn update_acknowledged(&mut self, now: Instant, env: &impl Environment) -> bool {
        if self.last_write <= self.last_activity {
            return false;
        }
        let silence = env.silence().unwrap_or_default();
        let answered = now.checked_sub(silence).unwrap_or(self.last_activity);
        let before = self.last_activity;
        self.last_activity = before.max(self.last_write.min(answered));
        before < self.last_activity
    }
}
