//! A node, as the router knows it: its connection's state, and what is under way on it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::slots::{Address, Epochs};

/// Requests under way on a node. More wait here until some are answered.
pub(super) const NODE_REQUESTS: usize = 4096;

/// Bytes that wait to be written to a node; more wait as requests.
pub(super) const NODE_BYTES: usize = 1 << 20;

/// The time between two attempts to connect: doubled each time, up to the longest.
pub(super) const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

/// Attempts to connect that have to fail before a node may lose its slots to one with an earlier epoch.
const GIVEN_UP: u32 = 8;

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
    /// `CLUSTER NODES`, for the `CLUSTER SLOTS` behind it.
    Epochs,
    Slots,
}

pub(super) struct Node {
    pub(super) address: Address,
    pub(super) link: Link,
    /// Attempts to connect that have failed, since the last that did not.
    attempts: u32,
    /// Whether it has slots, or reads for one that has.
    pub(super) is_master: bool,
    /// The node that is the same by another connection, for what does not write: it need not wait for `WAIT`.
    pub(super) reader: Option<usize>,
    /// The node of which it is the reader.
    pub(super) reads_for: Option<usize>,
    /// Whether the last map names it, as a master or as a replica.
    pub(super) is_named: bool,
    /// When it was last of use.
    pub(super) used_at: Instant,
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
    /// A `SCRIPT LOAD` is under way.
    pub(super) loads: bool,
    /// A `WAIT` is under way. The next one waits for it, so that no read is behind two.
    pub(super) waits: bool,
    /// What it has given last, until its slots come.
    pub(super) epochs: Epochs,
    /// Since when it owes an answer and has given none.
    pub(super) silent_since: Instant,
    /// The request whose answer is timed: how many answers come up to it, and when it was pushed.
    timed: Option<(usize, Instant)>,
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
            reader: None,
            reads_for: None,
            is_named: false,
            used_at: now,
            out: Vec::new(),
            pushed: 0,
            written: 0,
            sent: VecDeque::new(),
            requests: 0,
            waiting: VecDeque::new(),
            unreplicated: VecDeque::new(),
            writes: 0,
            loads: false,
            waits: false,
            epochs: Epochs::new(),
            silent_since: now,
            timed: None,
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
        let is_request = matches!(entry, Entry::Request(_));
        self.sent.push_back((entry, self.pushed));
        if is_request && self.timed.is_none() {
            self.timed = Some((self.sent.len(), now));
        }
        self.pushed += bytes.len() as u64;
        self.out.extend_from_slice(bytes);
    }

    /// Once, however many requests have missed it.
    pub(super) fn load_script(&mut self, load: &[u8], now: Instant) {
        if !std::mem::replace(&mut self.loads, true) {
            self.push(Entry::Script, load, now);
        }
    }

    /// An answer has come. Says how long it took, if it was the one that is timed.
    pub(super) fn timed_answer(&mut self, now: Instant) -> Option<Duration> {
        let (answers, since) = self.timed.as_mut()?;
        *answers -= 1;
        if *answers > 0 {
            return None;
        }
        let time = now.saturating_duration_since(*since);
        self.timed = None;
        Some(time)
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

    /// Whether anything is under way there, or may be.
    pub(super) fn is_used(&self) -> bool {
        let is_opening = matches!(self.link, Link::Wanted | Link::Connecting | Link::Handshake);
        let queues = [&self.waiting, &self.unreplicated];
        let is_idle = self.sent.is_empty() && queues.iter().all(|it| it.is_empty());
        self.is_named || self.is_master || is_opening || !is_idle
    }

    /// Its connection is gone, or could not be made.
    pub(super) fn has_failed(&self) -> bool {
        self.attempts > 0
    }

    /// It could not be connected to for some seconds.
    pub(super) fn is_given_up(&self) -> bool {
        self.attempts >= GIVEN_UP
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
        self.loads = false;
        self.waits = false;
        self.timed = None;
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
