//! What a run is like.

use std::time::Duration;

use fastrand::Rng;
use keywire::{Overflow, store::Order};

use crate::{lists::Room, script::Style, store::StoreFaults, world::Moment};

/// What a line may take where that is not what a run is about.
pub(crate) const LINE_TIMEOUT: Duration = Duration::from_secs(600);

/// What a run is like.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) overflow: Overflow,
    pub(crate) stall: Duration,
    pub(crate) grace: Duration,
    pub(crate) outbox_lines: usize,
    pub(crate) outbox_bytes: usize,
    pub(crate) max_watches: usize,
    pub(crate) max_clients: usize,
    /// Whether clients have to say one.
    pub(crate) secret: bool,
    pub(crate) line_timeout: Duration,
    pub(crate) idle: Duration,
    pub(crate) rate: u32,
    pub(crate) faults: StoreFaults,
    /// The order that the store keeps, if it does not answer at once.
    pub(crate) late: Option<Order>,
    /// Whether that store makes all changes known, and whether it misses some.
    pub(crate) all_changes: bool,
    pub(crate) misses: bool,
    /// When the server has begun: not before, and not after.
    pub(crate) started: (Moment, Moment),
    /// When it was told to stop.
    pub(crate) stopped: Moment,
}

/// What most runs have; in one of so many it is another.
pub(crate) fn pick<T>(rng: &mut Rng, of: u8, most: T, else_by: impl FnOnce(&mut Rng) -> T) -> T {
    match rng.u8(..of) {
        0 => else_by(rng),
        _ => most,
    }
}

impl Settings {
    pub(crate) fn choose(rng: &mut Rng) -> Self {
        let policy = [
            Overflow::Drop,
            Overflow::Drop,
            Overflow::Disconnect,
            Overflow::Wait,
        ];
        let grace = [
            Duration::ZERO,
            Duration::from_millis(rng.u64(..2000)),
            Duration::MAX,
            Duration::MAX,
        ];
        let lines = [5, 30][rng.usize(..2)];
        let bytes = [100, 500, 2000][rng.usize(..3)];
        let late = [Order::None, Order::PerKey, Order::Total][rng.usize(..3)];
        let late = pick(rng, 3, None, |_| Some(late));
        let mut settings = Settings {
            overflow: policy[rng.usize(..policy.len())],
            stall: [Duration::from_millis(rng.u64(..1000)), Duration::MAX][rng.usize(..2)],
            grace: grace[rng.usize(..grace.len())],
            outbox_lines: rng.usize(1..lines),
            outbox_bytes: rng.usize(1..bytes),
            max_watches: rng.usize(1..8),
            max_clients: pick(rng, 6, usize::MAX, |rng| rng.usize(1..4)),
            secret: pick(rng, 6, false, |_| true),
            line_timeout: pick(rng, 7, LINE_TIMEOUT, |rng| {
                Duration::from_millis(rng.u64(100..3000))
            }),
            // Longer than an answer to what is not the secret takes.
            idle: pick(rng, 7, Duration::MAX, |rng| {
                Duration::from_millis(rng.u64(1200..6000))
            }),
            rate: pick(rng, 8, u32::MAX, |rng| rng.u32(1..15)),
            faults: StoreFaults {
                fails: rng.bool(),
                sticks: false,
                page: rng.usize(1..=4),
                room: Room {
                    max_store: pick(rng, 5, u64::MAX, |rng| rng.u64(60..1500)),
                    max_values: pick(rng, 6, usize::MAX, |rng| rng.usize(1..12)),
                },
            },
            started: (Moment::NEVER, Moment::NEVER),
            stopped: Moment::NEVER,
            late,
            all_changes: false,
            misses: false,
        };
        if late.is_some() {
            settings.all_changes = rng.u8(..3) == 0;
            settings.misses = settings.faults.fails && rng.bool();
            settings.only_late();
        }
        settings
    }

    /// Where the store is late, it is that which a run is about.
    fn only_late(&mut self) {
        self.max_clients = usize::MAX;
        self.secret = false;
        self.line_timeout = LINE_TIMEOUT;
        self.idle = Duration::MAX;
        self.rate = u32::MAX;
        self.faults.room.max_store = u64::MAX;
        // What never comes back holds a patient shutdown for ever.
        self.faults.sticks = !self.is_patient();
    }

    /// How clients write their commands. Lines that count keys can't be told from each other if some
    /// may be dropped.
    pub(crate) fn style(&self) -> Style {
        let has_tags = self.late.is_none();
        Style {
            has_tags,
            counts: has_tags || self.overflow != Overflow::Drop,
        }
    }

    /// The number of a line, where commands have no tags.
    pub(crate) fn number(&self, line: usize) -> Option<usize> {
        self.late.is_some().then_some(line)
    }

    /// Whether a client may have to go because of what it does not do.
    pub(crate) fn is_strict(&self) -> bool {
        self.line_timeout < LINE_TIMEOUT || self.idle < Duration::MAX
    }

    pub(crate) fn is_throttled(&self) -> bool {
        self.rate < u32::MAX
    }

    /// Longer than any run.
    pub(crate) fn for_ever(&self) -> Duration {
        Duration::from_secs(1 << 29)
    }

    /// Whether a shutdown takes the time it needs.
    pub(crate) fn is_patient(&self) -> bool {
        self.grace == Duration::MAX
    }
}
