//! How long a connection lingers whose input the server has ended.

use std::time::{Duration, Instant};

use super::input_rules::Environment;

/// How long a client must be silent before its connection is closed, after all its replies are
/// delivered. To close it while it still sends could cost it the replies on their way.
const LINGER: Duration = Duration::from_millis(250);

/// How long a rejected client may take to read why.
const REJECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The connection is read on, and what comes is discarded, so that the client finds its last replies
/// and not a reset, until it hangs up or is silent.
pub(crate) struct Linger {
    silent_at: Instant,
    /// `None` if the grace time of the shutdown is the limit.
    limit: Option<Instant>,
}

impl Linger {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            silent_at: now + LINGER,
            limit: None,
        }
    }

    pub(crate) fn with_limit(now: Instant) -> Self {
        Self {
            limit: Some(now + REJECT_TIMEOUT),
            ..Self::new(now)
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.limit
            .map_or(self.silent_at, |limit| limit.min(self.silent_at))
    }

    pub(crate) fn on_bytes(&mut self, now: Instant) {
        self.silent_at = now + LINGER;
    }

    /// Says `true` if the client is silent and has all its replies, `false` if its time is over.
    pub(crate) fn on_timeout(&mut self, now: Instant, env: &impl Environment) -> Option<bool> {
        if self.silent_at <= now {
            if env.is_finished() {
                return Some(true);
            }
            self.silent_at = now + LINGER;
        }
        (self.limit? <= now).then_some(false)
    }
}
