//! The rules, without I/O: which request goes to which node, when, and what becomes of it.
//!
//! ```text
//! submit ──> bucket ──> node.waiting ──> node.out, node.sent ──> settled: Job
//!              ^ │ held behind earlier ones        │
//!              └─┴──── MOVED, ASK, refused, lost <─┘
//! ```
//!
//! - Requests of a bucket are sent in the order submitted, and while any is with one node, none goes to
//!   another.
//! - A request that a node has refused is held, in order, until none of its bucket is under way. If a later
//!   request of the same client and key was applied by then, it fails: its turn in the order is over. (Each
//!   client has one job at a time. So requests of different jobs are concurrent while neither is answered,
//!   and any order of the two is right.)
//! - A write whose bytes may have been written and that has no reply is never sent again.

mod events;
mod map;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    task::Waker,
    time::{Duration, Instant},
};

use slab::Slab;

use crate::shared::log::StoreLog;

use super::{
    super::ClusterStats,
    job::{Job, Outcome, Route, State},
    node::{Entry, Link, Node, RequestId},
    slots::{self, Address, BUCKETS},
};

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

/// `MOVED` replies that a request follows at once. The next ones wait, like other refusals.
const FAST_MOVES: u32 = 3;

pub(super) struct Config {
    pub(super) timeout: Duration,
    pub(super) replicas: usize,
    /// `AUTH`, if there is a secret.
    pub(super) auth: Option<Vec<u8>>,
    /// `SCRIPT LOAD`.
    pub(super) load: Vec<u8>,
}

#[derive(Default)]
struct Bucket {
    /// Requests in `waiting` or in `sent` of `node`.
    active: usize,
    node: usize,
    /// Those that can't be sent yet, in the order submitted.
    held: VecDeque<RequestId>,
    /// Not before this.
    retry_at: Option<Instant>,
}

pub(super) struct Router {
    pub(super) config: Config,
    pub(super) nodes: Vec<Node>,
    slots: Vec<u16>,
    owners: Vec<Option<usize>>,
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
    wakers: Vec<Waker>,
    pub(super) stats: ClusterStats,
    log: StoreLog,
}

impl Router {
    pub(super) fn new(config: Config, now: Instant) -> Self {
        Self {
            config,
            nodes: Vec::new(),
            slots: (0..BUCKETS).map(slots::slot).collect(),
            owners: vec![None; BUCKETS.into()],
            buckets: (0..BUCKETS).map(|_| Bucket::default()).collect(),
            jobs: Slab::new(),
            next_number: 0,
            deadlines: VecDeque::new(),
            delayed: Vec::new(),
            refresh: false,
            next_refresh: now,
            next_asked: 0,
            wakers: Vec::new(),
            stats: ClusterStats::default(),
            log: StoreLog::default(),
        }
    }

    /// The node at this address.
    pub(super) fn node(&mut self, address: &Address, now: Instant) -> usize {
        let known = self.nodes.iter().position(|node| node.address == *address);
        known.unwrap_or_else(|| {
            self.nodes.push(Node::new(address.clone(), now));
            self.nodes.len() - 1
        })
    }

    pub(super) fn owner(&self, bucket: u16) -> Option<usize> {
        self.owners[usize::from(bucket)]
    }

    pub(super) fn masters(&self) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(|&node| self.nodes[node].is_master)
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
        if !matches!(outcome, Outcome::Reply(_)) {
            self.stats.failures += request.keys.len().max(1) as u64;
        }
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

    /// A request begins, or begins anew.
    fn dispatch(&mut self, id: RequestId, now: Instant) {
        if self.is_settled(id) {
            return self.leave_queue(id);
        }
        let target = self.target(id);
        if let Some(number) = self.bucket(id) {
            let bucket = &self.buckets[usize::from(number)];
            let is_free = bucket.active == 0 || Some(bucket.node) == target;
            if !bucket.held.is_empty() || !is_free || target.is_none() {
                self.refresh |= target.is_none();
                return self.hold(id, number);
            }
        }
        if let Some(node) = target {
            self.enqueue(id, node, now);
        }
    }

    /// Puts it among the held ones of its bucket, in order.
    fn hold(&mut self, id: RequestId, number: u16) {
        let jobs = &self.jobs;
        let order = |id: RequestId| (jobs[id.job].number, id.request);
        let bucket = &mut self.buckets[usize::from(number)];
        let behind = bucket
            .held
            .iter()
            .rev()
            .take_while(|&&other| order(other) > order(id));
        let at = bucket.held.len() - behind.count();
        if bucket.held.is_empty() {
            self.delayed.push(number);
        }
        bucket.held.insert(at, id);
        self.jobs[id.job].requests[id.request].state = State::Waiting;
    }

    /// Sends what is held, once nothing of the bucket is under way: to one node, in order.
    fn release(&mut self, number: u16, now: Instant) {
        let bucket = &self.buckets[usize::from(number)];
        if bucket.active > 0 || bucket.retry_at.is_some_and(|at| now < at) {
            return;
        }
        while let Some(&id) = self.buckets[usize::from(number)].held.front() {
            let target = match self.is_settled(id) {
                true => None,
                false => match self.target(id) {
                    Some(target) => Some(target),
                    None => {
                        self.refresh = true;
                        return;
                    }
                },
            };
            let bucket = &mut self.buckets[usize::from(number)];
            if target.is_some_and(|target| bucket.active > 0 && bucket.node != target) {
                return;
            }
            bucket.held.pop_front();
            match target {
                Some(node) => self.enqueue(id, node, now),
                None => self.leave_queue(id),
            }
        }
        self.buckets[usize::from(number)].retry_at = None;
        self.delayed.retain(|&other| other != number);
    }

    fn enqueue(&mut self, id: RequestId, node: usize, now: Instant) {
        if let Some(bucket) = self.bucket(id) {
            let bucket = &mut self.buckets[usize::from(bucket)];
            bucket.active += 1;
            bucket.node = node;
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
            let bucket = self.bucket(id);
            let is_behind = |bucket: u16| {
                let first = self.buckets[usize::from(bucket)].held.front();
                first.is_some_and(|&first| self.order(first) < self.order(id))
            };
            if self.is_settled(id) {
                self.leave_active(id, now);
            } else if let Some(bucket) = bucket.filter(|&bucket| is_behind(bucket)) {
                // An earlier one has come back.
                self.deactivate(id);
                self.hold(id, bucket);
                self.release(bucket, now);
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
        self.buckets[usize::from(bucket)].active -= 1;
        Some(bucket)
    }

    fn release_if_idle(&mut self, bucket: u16, now: Instant) {
        let it = &self.buckets[usize::from(bucket)];
        if it.active == 0 && !it.held.is_empty() {
            self.release(bucket, now);
        }
    }
}
