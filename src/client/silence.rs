//! How long a connection has been silent.
//!
//! In: the moments at which bytes move. Out: when the other end has to be pinged, or
//! given up.

use std::{
    io::{Error as IoError, ErrorKind},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use crate::{Clock, clock::later, error::ConnectionError, timer::Timer};

/// A connection on which nothing has moved for so long is read before anything is written: whoever
/// has ended it meanwhile would take no write. For less, the read would cost more than it saves.
const READ_FIRST_AFTER: Duration = Duration::from_millis(20);

pub(super) struct Silence {
    clock: Arc<dyn Clock>,
    pub(super) limit: Option<Duration>,
    /// When bytes were last seen to move, or a reply began to be owed.
    since: Instant,
    was_owed: bool,
    timer: Timer,
}

impl Silence {
    pub(super) fn new(clock: Arc<dyn Clock>, limit: Option<Duration>) -> Self {
        Self {
            since: clock.now(),
            clock,
            limit,
            was_owed: false,
            timer: Timer::default(),
        }
    }

    pub(super) fn error() -> ConnectionError {
        let error = "the server has been silent for too long";
        IoError::new(ErrorKind::TimedOut, error).into()
    }

    /// Bytes have moved.
    pub(super) fn reset(&mut self) {
        self.since = self.clock.now();
    }

    /// Whether a reply that has been owed since the last poll has not come in time.
    pub(super) fn is_over(&self) -> bool {
        self.was_owed && self.limit.is_some_and(|limit| self.elapsed() >= limit)
    }

    pub(super) fn is_worth_a_look(&self) -> bool {
        self.elapsed() >= READ_FIRST_AFTER
    }

    fn elapsed(&self) -> Duration {
        self.clock.now().saturating_duration_since(self.since)
    }

    /// Ready when the silence has lasted too long for somebody that `waits`. It begins anew then.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, waits: bool, is_owed: bool) -> Poll<()> {
        let begins = is_owed && !self.was_owed;
        self.was_owed = is_owed;
        if begins {
            self.reset();
        }
        let limit = self.limit.filter(|_| waits);
        let deadline = limit.map(|limit| later(self.since, limit));
        let over = self.timer.poll(cx, deadline, &*self.clock);
        if over.is_ready() {
            self.reset();
        }
        over
    }
}
