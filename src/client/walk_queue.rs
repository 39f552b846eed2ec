//! The bounded queue from the connection to one walk over a prefix.
//!
//! In: keys, as their lines become whole. Out: the same keys, to whoever polls the walk. A queue
//! without room stops the connection, and has a time limit for that.

use std::{
    collections::VecDeque,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use crate::lock::Lock;

/// Keys that wait in a walk's queue. With so many, the connection stops reading.
const QUEUED_KEYS: usize = 1024;

/// The same in bytes of keys and values: lists may be long.
const QUEUED_BYTES: usize = 1 << 20;

/// How long a walk that nobody polls stops a connection on which others wait. Without a limit, a
/// task that makes a call between two polls of its walk would wait for itself.
const WALK_STALL: Duration = Duration::from_secs(5);

/// A key of a walk.
pub(super) struct Found {
    pub(super) key: Vec<u8>,
    /// Empty if only the number was requested.
    pub(super) values: Vec<Vec<u8>>,
    /// The number of values.
    pub(super) count: u64,
}

impl Found {
    fn bytes(&self) -> usize {
        self.key.len() + self.values.iter().map(Vec::len).sum::<usize>()
    }

    fn lines(&self) -> u64 {
        self.values.len().max(1) as u64
    }
}

#[derive(Default)]
pub(super) struct WalkQueue(Lock<QueueState>);

#[derive(Default)]
struct QueueState {
    found: VecDeque<Found>,
    bytes: usize,
    mode: QueueMode,
    /// Lines that were thrown away because the walk was not polled in time.
    dropped: u64,
    waker: Option<Waker>,
}

#[derive(Default)]
enum QueueMode {
    #[default]
    Open,
    /// The connection has stopped for want of room. A key was taken last at this time, or the
    /// connection stopped then.
    Full(Instant),
    /// What is still to come is thrown away.
    Closed,
}

impl QueueState {
    fn has_room(&self) -> bool {
        self.found.len() < QUEUED_KEYS && self.bytes < QUEUED_BYTES
    }
}

impl WalkQueue {
    /// Queues a key. It is the connection that keeps the bound: it does not read while
    /// [`left_to_wait`](Self::left_to_wait).
    pub(super) fn push(&self, found: Found) {
        let mut state = self.0.lock();
        if matches!(state.mode, QueueMode::Closed) {
            state.dropped += found.lines();
            return;
        }
        state.bytes += found.bytes();
        state.found.push_back(found);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// How long the connection has to wait for room; `None` if it need not. When the time is over,
    /// what is still to come is thrown away.
    pub(super) fn left_to_wait(&self) -> Option<Duration> {
        let mut state = self.0.lock();
        let left = match state.mode {
            QueueMode::Closed => return None,
            _ if state.has_room() => return None,
            QueueMode::Open => {
                state.mode = QueueMode::Full(Instant::now());
                WALK_STALL
            }
            QueueMode::Full(since) => WALK_STALL.saturating_sub(since.elapsed()),
        };
        if left.is_zero() {
            state.mode = QueueMode::Closed;
            return None;
        }
        Some(left)
    }

    /// Lines that the connection threw away because nobody polled the walk.
    pub(super) fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().found.is_empty()
    }

    /// The next key, and whether the connection has waited for the room that there is now. If there is
    /// no key, this waker is woken when one comes, in place of the one before.
    pub(super) fn poll_next(&self, waker: Option<&Waker>) -> Poll<(Found, bool)> {
        let mut state = self.0.lock();
        let Some(found) = state.found.pop_front() else {
            let before = std::mem::replace(&mut state.waker, waker.cloned());
            drop(state);
            drop(before);
            return Poll::Pending;
        };
        state.bytes -= found.bytes();
        let mut freed = false;
        if matches!(state.mode, QueueMode::Full(_)) {
            freed = state.has_room();
            state.mode = match freed {
                true => QueueMode::Open,
                false => QueueMode::Full(Instant::now()),
            };
        }
        Poll::Ready((found, freed))
    }

    /// Nobody will take a key any more. Says whether the connection has waited for that.
    pub(super) fn close(&self) -> bool {
        let mut state = self.0.lock();
        let before = std::mem::replace(&mut state.mode, QueueMode::Closed);
        let found = std::mem::take(&mut state.found);
        drop(state);
        drop(found);
        matches!(before, QueueMode::Full(_))
    }
}
