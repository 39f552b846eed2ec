//! When something is tried again that has failed.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Instant,
};

use crate::store::cluster::node::backoff;

/// Later each time.
#[derive(Clone, Copy, Default)]
pub(super) struct Retry {
    failures: u32,
    at: Option<Instant>,
}

impl Retry {
    pub(super) fn fail(&mut self, now: Instant) {
        // From a half to all of it, so that servers that have failed together do not try together.
        let half = backoff(self.failures) / 2;
        let random = RandomState::new().hash_one(now) as u32;
        self.at = Some(now + half + half.mul_f64(f64::from(random) / f64::from(u32::MAX)));
        self.failures = self.failures.saturating_add(1);
    }

    pub(super) fn is_early(&self, now: Instant) -> bool {
        self.at.is_some_and(|at| now < at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each failure waits longer, up to a bound, and not to the same moment as others.
    #[test]
    fn what_fails_is_tried_later_each_time() {
        let now = Instant::now();
        let mut retry = Retry::default();
        assert!(!retry.is_early(now));
        let mut times = Vec::new();
        for failures in 0..20 {
            let whole = backoff(failures);
            retry.fail(now);
            let time = retry.at.unwrap() - now;
            assert!(time >= whole / 2 && time <= whole, "{failures}: {time:?}");
            times.push(time.as_secs_f64() / whole.as_secs_f64());
        }
        assert_eq!(backoff(19), backoff(100));
        assert!(times.iter().any(|&time| (time - times[0]).abs() > 0.01));
    }
}
