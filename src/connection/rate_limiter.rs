//! How fast the lines of one client may come.

use std::time::{Duration, Instant};

use super::message::Message;
use crate::protocol::LineBlock;

const SECOND: Duration = Duration::from_secs(1);

/// So many shares of a second's lines are handed out at a time, so that a client with much to send
/// is not woken for each of them.
const REFILLS_PER_SECOND: u32 = 20;

/// Hands out so many lines a second, and at once what a second of silence has saved. The lines of a
/// read are held until the rate allows them.
pub(crate) struct RateLimiter {
    rate: u32,
    /// Until then, the lines handed out so far are paid for, at the rate.
    paid_until: Instant,
    held: Option<LineBlock>,
    /// When more of the held lines may come, if none may come now.
    until: Option<Instant>,
    /// The server shuts down: lines are refused, so their rate is no matter.
    lifted: bool,
}

impl RateLimiter {
    pub(crate) fn new(rate: u32, now: Instant) -> Self {
        Self {
            rate,
            paid_until: now,
            held: None,
            until: None,
            lifted: false,
        }
    }

    pub(crate) fn hold(&mut self, block: LineBlock) {
        self.held = Some(block);
    }

    pub(crate) fn is_holding(&self) -> bool {
        self.held.is_some()
    }

    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }

    pub(crate) fn lift(&mut self) {
        self.lifted = true;
    }

    /// As many of the held lines as may come now.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Message> {
        let mut rest = self.held.take()?;
        let allowed = match self.lifted {
            true => usize::MAX,
            false => self.available(now),
        };
        if allowed == 0 {
            let share = self.cost((self.rate / REFILLS_PER_SECOND).max(1) as usize);
            self.until = Some(self.paid_until + share - SECOND);
            self.held = Some(rest);
            return None;
        }
        let (block, lines) = rest.split_to(allowed);
        self.paid_until += self.cost(lines);
        self.held = Some(rest).filter(|rest| !rest.is_empty());
        let throttled = self.until.take().is_some();
        Some(Message::Lines { block, throttled })
    }

    fn available(&mut self, now: Instant) -> usize {
        self.paid_until = self.paid_until.max(now);
        let saved = SECOND.saturating_sub(self.paid_until - now);
        let lines = saved.as_nanos() * u128::from(self.rate) / SECOND.as_nanos();
        lines.try_into().unwrap_or(usize::MAX)
    }

    fn cost(&self, lines: usize) -> Duration {
        let nanos = (lines as u128 * SECOND.as_nanos()).div_ceil(self.rate.into());
        Duration::from_nanos(nanos.try_into().unwrap_or(u64::MAX))
    }
}
