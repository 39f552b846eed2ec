//! The rules, without I/O: which request goes to which node, when, and what becomes of it.
//!
//! ```text
//! submit ──> bucket ──> node.waiting ──> node.out, node.sent ──> settled: Job
//!              ^ │ held behind earlier ones        │
//!              └─┴──── MOVED, ASK, refused, lost <─┘
//! ```
//!
//! - Requests of a key are sent in the order submitted, and while any is with one node, none goes to another.
//!   (Two `Get`s of different clients may.) Requests of a bucket with no key in common may overtake one another.
//! - A request that a node has refused is held, in order, until none of its keys is under way. If a later
//!   request of the same client and key was answered by then, it fails: its turn in the order is over. (Each
//!   client has one job at a time. So requests of different jobs are concurrent while neither is answered,
//!   and any order of the two is right.)
//! - A write whose bytes may have been written and that has no reply is never sent again.

mod bucket;
mod events;
mod map;
mod nodes;
mod order;
mod refusal;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    task::Waker,
    time::{Duration, Instant},
};

use slab::Slab;

use self::bucket::Bucket;
use super::{
    super::ClusterStats,
    job::{Job, Outcome, Route, State},
    node::{Entry, Link, Node, RequestId},
    resp::Reply,
    slots::{self, Address, BUCKETS},
};
use crate::{Histogram, shared::log::StoreLog};

/// The time between two attempts to learn which node has which slots, while that is wanted.
const REFRESH_INTERVAL: Duration = Duration::from_millis(100);

/// The time after which a node that owes an answer is asked nothing about slots, and others are asked
/// whether it still has its own.
const SILENCE: Duration = Duration::from_millis(500);

/// A handshake may take as long, and an attempt to connect.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// While commands are under way, the time between two looks at what is late.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// The same while none is and a master is not connected.
const IDLE_TICK: Duration = Duration::from_millis(500);

/// The time after which a node that no map names is forgotten. Longer than a subscription stays there.
const FORGET_TIME: Duration = Duration::from_secs(10);

/// `MOVED` replies that a request follows at once. The next ones wait, like other refusals.
const FAST_MOVES: u32 = 3;

/// The longest time between two attempts to send a request whose keys are on two nodes.
const PARTED_BACKOFF: Duration = Duration::from_millis(100);

pub(super) struct Config {
    pub(super) timeout: Duration,
    pub(super) replicas: usize,
    /// `AUTH`, if there is a secret.
    pub(super) auth: Option<Vec<u8>>,
    /// `SCRIPT LOAD`.
    pub(super) load: Vec<u8>,
}

pub(super) struct Router {
    pub(super) config: Config,
    pub(super) nodes: Vec<Node>,
    slots: Vec<u16>,
    owners: Vec<Option<usize>>,
    /// Their epochs, as [`map`] counts them.
    epochs: Vec<u64>,
    buckets: Vec<Bucket>,
    pub(super) jobs: Slab<Job>,
    next_number: u64,
    deadlines: VecDeque<(usize, u64, Instant)>,
    /// Buckets that have held requests.
    delayed: Vec<u16>,
    /// The map may be old.
    refresh: bool,
    next_refresh: Instant,
    next_asked: usize,
    /// What the user has named. They are asked if no other node answers.
    pub(super) seeds: Vec<Address>,
    wakers: Vec<Waker>,
    pub(super) stats: ClusterStats,
    pub(super) answer_times: Histogram,
    log: StoreLog,
}

/// How many writes a script has applied, by its reply. Those that it has applied have numbers.
fn writes_applied(reply: &[u8]) -> usize {
    let Some(Reply::Array(parts)) = Reply::parse(reply) else {
        return 0;
    };
    let is_applied = |part: &Reply<'_>| part.integer().is_some_and(|number| number > 0);
    parts.filter(is_applied).count()
}

impl Router {
    pub(super) fn new(config: Config, now: Instant) -> Self {
        Self {
            config,
            nodes: Vec::new(),
            slots: (0..BUCKETS).map(slots::slot).collect(),
            owners: vec![None; BUCKETS.into()],
            epochs: vec![0; BUCKETS.into()],
            buckets: (0..BUCKETS).map(|_| Bucket::default()).collect(),
            jobs: Slab::new(),
            next_number: 0,
            deadlines: VecDeque::new(),
            delayed: Vec::new(),
            refresh: false,
            next_refresh: now,
            next_asked: 0,
            seeds: Vec::new(),
            wakers: Vec::new(),
            stats: ClusterStats::default(),
            answer_times: Histogram::of_times(),
            log: StoreLog::default(),
        }
    }

    pub(super) fn owner(&self, bucket: u16) -> Option<usize> {
        self.owners[usize::from(bucket)]
    }

    pub(super) fn masters(&self) -> impl Iterator<Item = usize> {
        let is_master = |node: &Node| node.is_master && node.reads_for.is_none();
        (0..self.nodes.len()).filter(move |&node| is_master(&self.nodes[node]))
    }

    pub(super) fn slot(&self, bucket: u16) -> u16 {
        self.slots[usize::from(bucket)]
    }

    pub(super) fn submit(&mut self, mut job: Job, now: Instant) -> usize {
        job.number = self.next_number;
        self.next_number += 1;
        job.queued = job.requests.len();
        self.stats.under_way += job.commands.len() as u64;
        let number = job.number;
        let requests = job.requests.len();
        let job = self.jobs.insert(job);
        self.deadlines
            .push_back((job, number, now + self.config.timeout));
        for request in 0..requests {
            self.dispatch(RequestId { job, request }, now);
        }
        job
    }

    /// The job, if all its requests are settled. It is forgotten then.
    pub(super) fn take(&mut self, job: usize) -> Option<Job> {
        let it = self.jobs.get_mut(job)?;
        if it.unsettled > 0 {
            return None;
        }
        it.abandoned = true;
        if it.queued == 0 {
            return self.jobs.try_remove(job);
        }
        // Something of it is under way still: its reply will find nobody.
        Some(Job {
            requests: it.requests.clone(),
            replies: std::mem::take(&mut it.replies),
            commands: std::mem::take(&mut it.commands),
            ..Job::default()
        })
    }

    /// Nobody waits for the job any more. Its requests go on.
    pub(super) fn abandon(&mut self, job: usize) {
        if let Some(it) = self.jobs.get_mut(job) {
            it.abandoned = true;
            it.waker = None;
            self.forget(job);
        }
    }

    fn forget(&mut self, job: usize) {
        let it = &self.jobs[job];
        if it.abandoned && it.queued == 0 && it.unsettled == 0 {
            self.jobs.remove(job);
        }
    }

    pub(super) fn take_wakers(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.wakers)
    }

    fn is_settled(&self, id: RequestId) -> bool {
        let request = self.jobs[id.job].requests.get(id.request);
        request.is_none_or(|request| request.state == State::Settled)
    }

    /// It stands in no queue any more.
    fn leave_queue(&mut self, id: RequestId) {
        self.jobs[id.job].queued -= 1;
        self.forget(id.job);
    }

    fn settle(&mut self, id: RequestId, outcome: Outcome) {
        let job = &mut self.jobs[id.job];
        let Some(request) = job.requests.get_mut(id.request) else {
            return;
        };
        if request.state == State::Settled {
            return;
        }
        self.stats.failures += match &outcome {
            Outcome::Reply(_) => 0,
            Outcome::Unreplicated(reply) => writes_applied(&job.replies[reply.clone()]),
            _ => request.keys.len().max(1),
        } as u64;
        request.state = State::Settled;
        request.outcome = outcome;
        job.unsettled -= 1;
        if job.unsettled == 0 {
            self.stats.under_way -= job.commands.len() as u64;
            self.wakers.extend(job.waker.take());
        }
    }

    fn target(&self, id: RequestId) -> Option<usize> {
        let request = &self.jobs[id.job].requests[id.request];
        match request.route {
            Route::Node(node) => Some(node),
            Route::Bucket(bucket) => request.ask.or(self.owners[usize::from(bucket)]),
        }
    }

    /// Requests compare in the order submitted.
    fn order(&self, id: RequestId) -> (u64, usize) {
        (self.jobs[id.job].number, id.request)
    }

    fn bucket(&self, id: RequestId) -> Option<u16> {
        match self.jobs[id.job].requests.get(id.request)?.route {
            Route::Bucket(bucket) => Some(bucket),
            Route::Node(_) => None,
        }
    }

    fn enqueue(&mut self, id: RequestId, node: usize, now: Instant) {
        if let Some(bucket) = self.bucket(id) {
            self.buckets[usize::from(bucket)].activate(id, node);
        }
        let it = &mut self.nodes[node];
        if it.link == Link::Up && it.waiting.is_empty() && it.has_room() {
            self.send(id, node, now);
        } else {
            it.want(now);
            it.waiting.push_back(id);
        }
    }

    fn send(&mut self, id: RequestId, node: usize, now: Instant) {
        let number = node;
        let node = &mut self.nodes[node];
        let job = &mut self.jobs[id.job];
        let request = &mut job.requests[id.request];
        if request.ask.is_some() {
            node.push(Entry::Asking, b"*1\r\n$6\r\nASKING\r\n", now);
        }
        request.state = State::Sent(number);
        node.requests += 1;
        node.writes += usize::from(request.is_write);
        node.push(Entry::Request(id), &job.bytes[request.bytes.clone()], now);
    }

    /// Sends what waits for a node, as far as there is room.
    fn pump(&mut self, node: usize, now: Instant) {
        while self.nodes[node].link == Link::Up && self.nodes[node].has_room() {
            let Some(id) = self.nodes[node].waiting.pop_front() else {
                return;
            };
            if self.is_settled(id) {
                self.leave_active(id, now);
            } else if let Some(bucket) = self.bucket(id).filter(|&it| self.is_behind(id, it)) {
                // An earlier one has come back.
                self.deactivate(id);
                self.hold(id, bucket);
                self.release_if_idle(bucket, now);
            } else {
                self.send(id, node, now);
            }
        }
    }

    /// It has left its node, and needs none any more.
    fn leave_active(&mut self, id: RequestId, now: Instant) {
        if let Some(bucket) = self.deactivate(id) {
            self.release_if_idle(bucket, now);
        }
        self.leave_queue(id);
    }

    fn deactivate(&mut self, id: RequestId) -> Option<u16> {
        let bucket = self.bucket(id)?;
        self.buckets[usize::from(bucket)].deactivate(id);
        Some(bucket)
    }
}
