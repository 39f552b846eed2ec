//! When a round is over.

use std::time::{Duration, Instant};

use crate::Clock;

/// How long a round may go on taking commands before other clients have their turns. Some commands
/// take long, such as an Update of a list of a million values.
const ROUND_TIME: Duration = Duration::from_millis(2);

/// Work between two readings of the clock, counted in short commands. A reading costs as much as one.
const WORK_PER_CLOCK_CHECK: usize = 16;

/// Bytes of values that take as long to go through as a short command.
pub(super) const BYTES_PER_WORK: usize = 256;

/// Events that take as long to queue as a short command.
pub(crate) const EVENTS_PER_WORK: usize = 16;

/// Measures a round.
///
/// Short commands are counted, and the clock is read once in a while. After a command that may have
/// taken long, it is read at once.
#[derive(Clone, Copy)]
pub(crate) struct RoundTimer {
    began: Instant,
    last_reading: Instant,
    /// Work since the last reading.
    work: usize,
    over: bool,
}

impl RoundTimer {
    pub(crate) fn start(now: Instant) -> Self {
        Self {
            began: now,
            last_reading: now,
            work: 0,
            over: false,
        }
    }

    pub(crate) fn add(&mut self, work: usize) {
        self.work += work;
    }

    /// The last command may have taken any time.
    pub(crate) fn add_unknown(&mut self) {
        self.work = WORK_PER_CLOCK_CHECK;
    }

    /// The time since the last reading, if a reading is due.
    pub(crate) fn read(&mut self, clock: &dyn Clock) -> Option<Duration> {
        if self.work < WORK_PER_CLOCK_CHECK {
            return None;
        }
        self.work = 0;
        let now = clock.now();
        self.over = now - self.began >= ROUND_TIME;
        Some(now - std::mem::replace(&mut self.last_reading, now))
    }

    /// Whether the round was over at the last reading.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }
}
