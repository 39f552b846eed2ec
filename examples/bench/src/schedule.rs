//! The open loop: batches are due at fixed times, whether or not the server keeps up.
//!
//! A closed loop asks less of a server that stalls, just when it should be measured. Here a batch
//! has its time, and its latency counts from that time, though its client was still waiting for
//! the batch before and sent it late.

use std::time::{Duration, Instant};

/// Below this the wait is a busy one: the kernel rounds what it sleeps up to milliseconds, which
/// would be the load's delay and not the server's.
const SPIN: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(crate) struct Schedule {
    start: Instant,
    /// Seconds from one batch to the next, all clients together. They take turns.
    interval: f64,
    clients: u64,
    /// Batches due at these times are measured, and none is due after them.
    from: Instant,
    until: Instant,
    /// The next batch that has not become due, counted over all clients.
    next: u64,
}

impl Schedule {
    pub(crate) fn new(
        batches_a_second: f64,
        clients: u32,
        warmup: Duration,
        seconds: Duration,
    ) -> Schedule {
        let start = Instant::now();
        Schedule {
            start,
            interval: 1.0 / batches_a_second,
            clients: clients.into(),
            from: start + warmup,
            until: start + warmup + seconds,
            next: 0,
        }
    }

    /// When the batch of a client is due, if it ever is; batches are counted from 0.
    pub(crate) fn due(&self, client: usize, batch: u64) -> Option<Instant> {
        self.time(batch * self.clients + client as u64)
    }

    /// The next client that has a batch due by now, and the number of the batch among its own.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(usize, u64)> {
        self.time(self.next).filter(|&due| due <= now)?;
        let (batch, client) = (self.next / self.clients, self.next % self.clients);
        self.next += 1;
        Some((client as usize, batch))
    }

    /// How long nothing will become due; without end after the last batch.
    pub(crate) fn pause(&self, now: Instant) -> Option<Duration> {
        let left = self.time(self.next)?.saturating_duration_since(now);
        Some(left.saturating_sub(SPIN))
    }

    pub(crate) fn measures(&self, due: Instant) -> bool {
        due >= self.from
    }

    fn time(&self, batch: u64) -> Option<Instant> {
        let time = self.start + Duration::from_secs_f64(batch as f64 * self.interval);
        (time < self.until).then_some(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_take_turns_until_the_end() {
        let second = Duration::from_secs(1);
        let mut schedule = Schedule::new(4.0, 3, Duration::ZERO, 2 * second);
        let start = schedule.start;
        assert_eq!(schedule.pop(start), Some((0, 0)));
        assert_eq!(schedule.pop(start), None);
        assert_eq!(schedule.pause(start), Some(second / 4 - SPIN));
        assert_eq!(schedule.due(0, 1), Some(start + second * 3 / 4));

        let all: Vec<_> = std::iter::from_fn(|| schedule.pop(start + 9 * second)).collect();
        let expected = [(1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 2), (1, 2)];
        assert_eq!(all, expected);
        assert_eq!(schedule.pause(start + second), None);
    }
}
