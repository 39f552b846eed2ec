//! When the next connection is attempted, and to which of the addresses.
//!
//! In: how the attempts went. Out: the next address, and how long to wait first. It knows no clock and
//! no network.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

/// The rules: after a connection that is lost, its own address is the first to be tried, then the
/// others, in turn. There is a wait before the first attempt and after each that has tried them all.
/// The wait doubles each time, up to the longest; of each, between half and all is waited, at random,
/// so that the clients of a server that comes back do not all come at once.
pub(super) struct Attempts {
    addresses: usize,
    next: usize,
    /// How many of them have failed since the last wait.
    failed: usize,
    delays: Delays,
}

struct Delays {
    first: Duration,
    longest: Duration,
    /// The next, before chance has its part.
    next: Duration,
    /// The last as it was.
    last: Duration,
    jitter: Jitter,
}

impl Attempts {
    pub(super) fn new(addresses: usize, delays: (Duration, Duration), jitter: Jitter) -> Self {
        let (first, longest) = delays;
        Self {
            addresses,
            next: 0,
            failed: 0,
            delays: Delays {
                first,
                longest: longest.max(first),
                next: first,
                last: Duration::ZERO,
                jitter,
            },
        }
    }

    /// The index of the address to be tried.
    pub(super) fn address(&self) -> usize {
        self.next
    }

    /// This address has failed. `None`: the next is tried at once.
    pub(super) fn fail(&mut self) -> Option<Duration> {
        self.next = (self.next + 1) % self.addresses.max(1);
        self.failed += 1;
        if self.failed < self.addresses {
            return None;
        }
        self.failed = 0;
        Some(self.delays.next())
    }

    /// A connection is lost that was of use for so long. If that is longer than the last wait, the waits
    /// begin anew: a server that falls each time it has come up is tried less and less.
    pub(super) fn lose(&mut self, lived: Duration) -> Duration {
        self.failed = 0;
        if lived >= self.delays.last {
            self.delays.next = self.delays.first;
        }
        self.delays.next()
    }
}

impl Delays {
    fn next(&mut self) -> Duration {
        let whole = self.next;
        self.next = whole.saturating_mul(2).min(self.longest);
        self.last = whole - whole.mul_f64(0.5 * self.jitter.next());
        self.last
    }
}

/// Numbers from 0 up to 1 that nobody can foresee, unless a test chose the first.
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: Option<u64>) -> Self {
        Self(seed.unwrap_or_else(|| RandomState::new().hash_one(0)))
    }

    /// The generator is `splitmix64`.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as f64 / u64::MAX as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(5);

    fn attempts(addresses: usize) -> Attempts {
        Attempts::new(addresses, (FIRST, LONGEST), Jitter::new(Some(1)))
    }

    #[test]
    fn waits_grow_to_the_longest_and_keep_within_half_of_it() {
        let mut attempts = attempts(1);
        let mut whole = FIRST;
        for _ in 0..1_000 {
            let wait = attempts.fail().unwrap();
            assert!(whole / 2 <= wait && wait <= whole, "{wait:?} of {whole:?}");
            whole = (whole * 2).min(LONGEST);
        }
    }

    #[test]
    fn each_address_has_its_turn_before_there_is_a_wait() {
        let mut attempts = attempts(3);
        for _ in 0..4 {
            assert_eq!((attempts.address(), attempts.fail()), (0, None));
            assert_eq!((attempts.address(), attempts.fail()), (1, None));
            assert_eq!(attempts.address(), 2);
            assert!(attempts.fail().is_some());
        }
    }

    #[test]
    fn the_address_of_a_lost_connection_is_tried_first() {
        let mut attempts = attempts(2);
        assert_eq!(attempts.fail(), None);
        attempts.lose(Duration::ZERO);
        assert_eq!((attempts.address(), attempts.fail()), (1, None));
        assert_eq!(attempts.address(), 0);
    }

    #[test]
    fn waits_begin_anew_after_a_connection_that_lasted() {
        let mut attempts = attempts(1);
        for _ in 0..20 {
            attempts.fail();
        }
        assert!(attempts.lose(Duration::from_secs(1)) > Duration::from_secs(2));
        assert!(attempts.lose(Duration::from_secs(6)) <= FIRST);
        // A server that falls at once is not asked without end.
        let waits: Duration = (0..20).map(|_| attempts.lose(Duration::ZERO)).sum();
        assert!(waits > Duration::from_secs(30), "{waits:?}");
    }

    #[test]
    fn extreme_delays_do_no_harm() {
        let most = (Duration::MAX, Duration::MAX);
        let mut attempts = Attempts::new(1, most, Jitter::new(None));
        for _ in 0..3 {
            assert!(attempts.fail().unwrap() >= Duration::MAX / 4);
        }
        let none = (Duration::ZERO, Duration::ZERO);
        let mut attempts = Attempts::new(0, none, Jitter::new(None));
        assert_eq!(attempts.fail(), Some(Duration::ZERO));
    }
}
