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
const SHARES: u32 = 20;

/// Hands out so many lines a second, and at once what a second of silence has saved.
pub(super) struct Pace {
    rate: u32,
    /// When everything handed out so far is paid for, at the rate.
    paid: Instant,
}

impl Pace {
    pub(super) fn new(rate: u32, now: Instant) -> Self {
        Self { rate, paid: now }
    }

    /// How many lines may come now; where it is none, the time to ask again.
    pub(super) fn allows(&mut self, now: Instant) -> Result<usize, Instant> {
        self.paid = self.paid.max(now);
        let saved = SECOND.saturating_sub(self.paid - now);
        let lines = saved.as_nanos() * u128::from(self.rate) / SECOND.as_nanos();
        if lines > 0 {
            return Ok(lines.try_into().unwrap_or(usize::MAX));
        }
        let share = self.time_of((self.rate / SHARES).max(1) as usize);
        Err(self.paid + share - SECOND)
    }

    pub(super) fn spend(&mut self, lines: usize) {
        self.paid += self.time_of(lines);
    }

    fn time_of(&self, lines: usize) -> Duration {
        let nanos = (lines as u128 * SECOND.as_nanos()).div_ceil(self.rate.into());
        Duration::from_nanos(nanos.try_into().unwrap_or(u64::MAX))
    }
}

/// Watches over the time that a line takes. It costs nothing while no line has begun.
#[derive(Default)]
pub(super) struct LineTimer {
    began: Option<Instant>,
    /// For some line, maybe an earlier one: it is not set anew for each.
    alarm: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl LineTimer {
    /// No line is half there.
    pub(super) fn stop(&mut self) {
        self.began = None;
    }

    /// A line is half there, and it is `new`, or its sender could not go on before now.
    pub(super) fn run(&mut self, new: bool, clock: &dyn Clock) {
        if new || self.began.is_none() {
            self.began = Some(clock.now());
        }
    }

    /// Is ready when the line has taken too long.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        limit: Duration,
        clock: &dyn Clock,
    ) -> Poll<()> {
        if limit == Duration::MAX {
            return Poll::Pending;
        }
        loop {
            if let Some(alarm) = &mut self.alarm {
                if alarm.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.alarm = None;
            }
            let Some(began) = self.began else {
                return Poll::Pending;
            };
            if self.is_late(limit, clock) {
                return Poll::Ready(());
            }
            self.alarm = Some(clock.sleep(clock::later(began, limit)));
        }
    }

    /// Whether the line has taken too long by now.
    pub(super) fn is_late(&self, limit: Duration, clock: &dyn Clock) -> bool {
        self.began
            .is_some_and(|began| limit < Duration::MAX && clock.now() >= clock::later(began, limit))
    }
}
