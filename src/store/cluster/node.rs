//! A node, as the router knows it: its connection's state, and what is under way on it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::slots::Address;

/// Requests under way on a node. More wait here until some are answered.
pub(super) const NODE_REQUESTS: usize = 4096;

/// Bytes that wait to be written to a node; more wait as requests.
pub(super) const NODE_BYTES: usize = 1 << 20;

/// The time between two attempts to connect: doubled each time, up to the longest.
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

/// A request of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestId {
    pub(super) job: usize,
    pub(super) request: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// No connection, and none is wanted yet.
    Idle,
    /// The driver is to connect.
    Wanted,
    Connecting,
    /// The node has to answer first. So one that hangs gets no requests.
    Handshake,
    Up,
    Backoff {
        until: Instant,
    },
}

/// Something that a node will reply to, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Request(RequestId),
    /// `AUTH`. The connection is of no use if it fails.
    Auth,
    /// `SCRIPT LOAD`, of a handshake or of a script that was not known.
    Script,
    Asking,
    /// `WAIT`, for all of [`Node::unreplicated`].
    Wait,
    Slots,
}

pub(super) struct Node {
    pub(super) address: Address,
    pub(super) link: Link,
    /// Attempts to connect that have failed, since the last that did not.
    attempts: u32,
    /// Whether it has slots.
    pub(super) is_master: bool,
    /// Bytes to be written.
    pub(super) out: Vec<u8>,
    /// Bytes put in `out` and bytes written, on this connection.
    pub(super) pushed: u64,
    pub(super) written: u64,
    /// What was pushed, and where its bytes begin.
    pub(super) sent: VecDeque<(Entry, u64)>,
    /// Requests among them.
    pub(super) requests: usize,
    pub(super) waiting: VecDeque<RequestId>,
    /// Writes that were applied, and that `WAIT` has not confirmed.
    pub(super) unreplicated: VecDeque<RequestId>,
    /// Writes pushed since the last `WAIT`.
    pub(super) writes: usize,
    /// A `WAIT` is under way. The next one waits for it, so that no read is behind two.
    pub(super) waits: bool,
    /// Since when it owes an answer and has given none.
    pub(super) silent_since: Instant,
    pub(super) closing: bool,
    /// Connections that were closed. The driver closes its own when this changes.
    pub(super) closed: u64,
}

impl Node {
    pub(super) fn new(address: Address, now: Instant) -> Self {
        Self {
            address,
            link: Link::Idle,
            attempts: 0,
            is_master: false,
            out: Vec::new(),
            pushed: 0,
            written: 0,
            sent: VecDeque::new(),
            requests: 0,
            waiting: VecDeque::new(),
            unreplicated: VecDeque::new(),
            writes: 0,
            waits: false,
            silent_since: now,
            closing: false,
            closed: 0,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.requests < NODE_REQUESTS && self.out.len() < NODE_BYTES
    }

    pub(super) fn push(&mut self, entry: Entry, bytes: &[u8], now: Instant) {
        if self.sent.is_empty() {
            self.silent_since = now;
        }
        self.sent.push_back((entry, self.pushed));
        self.pushed += bytes.len() as u64;
        self.out.extend_from_slice(bytes);
    }

    /// How long it has owed an answer.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        match self.sent.is_empty() {
            true => Duration::ZERO,
            false => now.saturating_duration_since(self.silent_since),
        }
    }

    /// A connection is wanted, as soon as the backoff is over.
    pub(super) fn want(&mut self, now: Instant) {
        match self.link {
            Link::Idle => self.link = Link::Wanted,
            Link::Backoff { until } if now >= until => self.link = Link::Wanted,
            _ => {}
        }
    }

    /// Attempts to connect that have failed since it was connected.
    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }

    pub(super) fn on_up(&mut self) {
        self.link = Link::Up;
        self.attempts = 0;
    }

    /// The connection is gone. Gives what was pushed, and whether it may have been written.
    pub(super) fn on_closed(&mut self, now: Instant) -> Vec<(Entry, bool)> {
        self.link = Link::Backoff {
            until: now + backoff(self.attempts),
        };
        self.attempts += 1;
        self.closing = false;
        self.closed += 1;
        self.out.clear();
        self.requests = 0;
        self.writes = 0;
        self.waits = false;
        let written = self.written;
        (self.pushed, self.written) = (0, 0);
        let sent = self.sent.drain(..);
        sent.map(|(entry, start)| (entry, start < written))
            .collect()
    }
}

/// The time before attempt number `attempt`, from 0.
pub(super) fn backoff(attempt: u32) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(1 << attempt.min(16));
    doubled.min(LONGEST_BACKOFF)
}
