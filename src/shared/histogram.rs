//! Distributions, counted in fixed buckets.

use std::{fmt, iter, time::Duration};

/// Upper bounds of times, in seconds: 1 µs, and twice as much with each, up to 8.4 s.
const TIMES: [f64; 24] = {
    let mut bounds = [0.0; 24];
    let mut at = 0;
    while at < bounds.len() {
        // The closest number to the decimal one, so that it is printed as that.
        bounds[at] = (1_u32 << at) as f64 / 1e6;
        at += 1;
    }
    bounds
};

/// Upper bounds of shares of a limit, over which a single reply may go.
const SHARES: [f64; 16] = [
    0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 2.0, 5.0, 10.0,
];

/// Values, counted by fixed buckets, with their number and their sum.
///
/// It has a fixed size, and recording a value allocates nothing.
///
/// ```
/// use keywire::Histogram;
/// use std::time::Duration;
///
/// let mut times = Histogram::of_times();
/// times.record_time(Duration::from_micros(3));
/// times.record_time(Duration::from_micros(700));
/// assert_eq!(times.count(), 2);
/// assert_eq!(times.sum(), 0.000_703);
/// // Half of the values are at most 4 µs.
/// assert_eq!(times.quantile(0.5), Some(0.000_004));
/// assert!(times.buckets().any(|(bound, count)| bound == 0.001_024 && count == 1));
/// ```
#[derive(Clone, Copy, PartialEq)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One more than there are bounds.
    counts: [u64; TIMES.len() + 1],
    sum: f64,
}

impl Histogram {
    /// An empty one of times, in seconds. Its buckets are up to 1 µs, 2 µs, 4 µs and so on, up to 8.4 s, and
    /// one for what is longer.
    #[must_use]
    pub fn of_times() -> Self {
        Self::new(&TIMES)
    }

    /// An empty one of shares, of which 1 is the whole. Its buckets are up to 0.01, 0.02, 0.05, 0.1, 0.2 and so
    /// on, up to 1, then up to 2, 5 and 10, and one for what is more.
    #[must_use]
    pub fn of_shares() -> Self {
        Self::new(&SHARES)
    }

    fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: [0; TIMES.len() + 1],
            sum: 0.0,
        }
    }

    /// Counts a value. A bucket holds the values up to its bound, the bound included.
    pub fn record(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|&bound| bound < value);
        self.counts[bucket] += 1;
        self.sum += value;
    }

    /// Counts a time, in seconds.
    pub fn record_time(&mut self, time: Duration) {
        self.record(time.as_secs_f64());
    }

    /// How many values were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of these values.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// The upper bound of each bucket, and how many values are in this bucket alone. The last bound is infinity.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        iter::zip(bounds, self.counts)
    }

    /// The bound of the bucket that has this quantile: 0.5 is the median. Nothing if no value was recorded.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let rank = (quantile * self.count() as f64).ceil().max(1.0);
        let mut seen = 0;
        let mut buckets = self.buckets().map(|(bound, count)| {
            seen += count;
            (bound, seen)
        });
        let found = buckets.find(|&(_, seen)| seen as f64 >= rank);
        found.map(|(bound, _)| bound)
    }
}

/// The buckets that hold something.
impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let buckets = self.buckets().filter(|&(_, count)| count > 0);
        f.debug_struct("Histogram")
            .field("count", &self.count())
            .field("sum", &self.sum)
            .field("buckets", &buckets.collect::<Vec<_>>())
            .finish()
    }
}

/// A server's distributions. They are sampled once a round, not once a command, so they cost no more under
/// load. See [`Handle::histograms`](crate::Handle::histograms).
///
/// A round is what the server does between two looks for input: up to 256 clients each have a batch of
/// their commands applied, and get the replies.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Histograms {
    /// How long the rounds took, in seconds. A command that comes during a round waits for its end.
    pub round: Histogram,
    /// The fullest outbox of those that a round has put replies or events into, right after it, as a share of
    /// [`outbox_lines`](crate::Builder::outbox_lines) or [`outbox_bytes`](crate::Builder::outbox_bytes),
    /// whichever is fuller. It may be more than 1, since the replies to one command are queued as a whole.
    pub outbox_fill: Histogram,
    /// How long the commits of the store took, in seconds, if it keeps its values on a disk.
    pub commit: Option<Histogram>,
    /// How long the nodes of the store took to answer a request, in seconds, if it is on a cluster. One
    /// request a node is timed at a time.
    pub node_answer: Option<Histogram>,
}

impl Default for Histograms {
    fn default() -> Self {
        Self {
            round: Histogram::of_times(),
            outbox_fill: Histogram::of_shares(),
            commit: None,
            node_answer: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_bound_and_not_the_one_below() {
        for bounds in [&TIMES[..], &SHARES] {
            assert!(bounds.is_sorted_by(|a, b| a < b));
            for (at, &bound) in bounds.iter().enumerate() {
                let mut histogram = Histogram::new(bounds);
                histogram.record(bound);
                histogram.record(bound * 1.001);
                let counts: Vec<_> = histogram.buckets().map(|(_, count)| count).collect();
                assert_eq!(counts.len(), bounds.len() + 1);
                assert_eq!((counts[at], counts[at + 1]), (1, 1), "{bound}");
            }
        }
    }

    #[test]
    fn times_are_exact_in_decimal() {
        assert_eq!(TIMES[..3], [0.000_001, 0.000_002, 0.000_004]);
        assert_eq!(TIMES[23], 8.388_608);
        let mut times = Histogram::of_times();
        times.record_time(Duration::from_micros(4));
        assert_eq!(times.quantile(1.0), Some(0.000_004));
    }

    #[test]
    fn quantiles_are_bounds() {
        let mut shares = Histogram::of_shares();
        assert_eq!(shares.quantile(0.5), None);
        shares.record(0.0);
        assert_eq!(shares.quantile(0.0), Some(0.01));
        for _ in 0..98 {
            shares.record(0.25);
        }
        shares.record(77.0);
        assert_eq!(shares.quantile(0.5), Some(0.3));
        assert_eq!(shares.quantile(0.99), Some(0.3));
        assert_eq!(shares.quantile(1.0), Some(f64::INFINITY));
        assert_eq!(shares.count(), 100);
    }
}
