//! Time limits of one client: how fast its lines may come, and how long one may take.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use crate::{Clock, clock};

const SECOND: Duration = Duration::from_secs(1);

/// So many shares of a second's lines are handed out at a time, so that a client with much to send
/// is not woken for each of them.
const REFILLS_PER_SECOND: u32 = 20;

/// Hands out so many lines a second, and at once what a second of silence has saved.
pub(crate) struct RateLimiter {
    rate: u32,
    /// When everything handed out so far is paid_until for, at the rate.
    paid_until: Instant,
}

impl RateLimiter {
    pub(crate) fn new(rate: u32, now: Instant) -> Self {
        Self {
            rate,
            paid_until: now,
        }
    }

    /// How many lines may come now; where it is none, the time to ask again.
    pub(crate) fn available(&mut self, now: Instant) -> Result<usize, Instant> {
        self.paid_until = self.paid_until.max(now);
        let saved = SECOND.saturating_sub(self.paid_until - now);
        let lines = saved.as_nanos() * u128::from(self.rate) / SECOND.as_nanos();
        if lines > 0 {
            return Ok(lines.try_into().unwrap_or(usize::MAX));
        }
        let share = self.cost((self.rate / REFILLS_PER_SECOND).max(1) as usize);
        Err(self.paid_until + share - SECOND)
    }

    pub(crate) fn consume(&mut self, lines: usize) {
        self.paid_until += self.cost(lines);
    }

    fn cost(&self, lines: usize) -> Duration {
        let nanos = (lines as u128 * SECOND.as_nanos()).div_ceil(self.rate.into());
        Duration::from_nanos(nanos.try_into().unwrap_or(u64::MAX))
    }
}

/// WatchRegistry over the time that a line takes. It costs nothing while no line has begun.
#[derive(Default)]
pub(crate) struct LineDeadline {
    began: Option<Instant>,
    /// For some line, maybe an earlier one: it is not set anew for each.
    timer: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl LineDeadline {
    /// No line is half there.
    pub(crate) fn clear(&mut self) {
        self.began = None;
    }

    /// A line is half there, and it is `new`, or its sender could not go on before now.
    pub(crate) fn start(&mut self, new: bool, clock: &dyn Clock) {
        if new || self.began.is_none() {
            self.began = Some(clock.now());
        }
    }

    /// Is ready when the line has taken too long.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        limit: Duration,
        clock: &dyn Clock,
    ) -> Poll<()> {
        if limit == Duration::MAX {
            return Poll::Pending;
        }
        loop {
            if let Some(timer) = &mut self.timer {
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.timer = None;
            }
            let Some(began) = self.began else {
                return Poll::Pending;
            };
            if self.is_past(limit, clock) {
                return Poll::Ready(());
            }
            self.timer = Some(clock.sleep(clock::later(began, limit)));
        }
    }

    /// Whether the line has taken too long by now.
    pub(crate) fn is_past(&self, limit: Duration, clock: &dyn Clock) -> bool {
        self.began
            .is_some_and(|began| limit < Duration::MAX && clock.now() >= clock::later(began, limit))
    }
}
