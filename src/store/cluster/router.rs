//! The rules, without I/O: which request goes to which node, when, and what becomes of it.
//!
//! ```text
//! submit ──> bucket ──> node.waiting ──> node.out, node.sent ──> settled: Job
//!              ^ │ held behind earlier ones        │
//!              └─┴──── MOVED, ASK, refused, lost <─┘
//! ```
//!
//! - Requests of a key are sent in the order submitted, and while any is with one node, none goes to another.
//!   (Two `Get`s may.) Requests of a bucket with no key in common may overtake one another.
//! - A request that a node has refused is held, in order, until none of its keys is under way. If a later
//!   request of the same client and key was applied by then, it fails: its turn in the order is over. (Each
//!   client has one job at a time. So requests of different jobs are concurrent while neither is answered,
//!   and any order of the two is right.)
//! - A write whose bytes may have been written and that has no reply is never sent again.

mod bucket;
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

use self::bucket::{Bucket, Places};
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
        }
    }

    /// The node at this address.
    pub(super) fn node(&mut self, address: &Address, now: Instant) -> usize {
        let is_known = |it: &Node| it.address == *address && it.reads_for.is_none();
        match self.nodes.iter().position(is_known) {
            Some(node) => {
                self.nodes[node].used_at = now;
                node
            }
            None => self.insert(Node::new(address.clone(), now), now),
        }
    }

    fn insert(&mut self, mut node: Node, now: Instant) -> usize {
        // The place of one that nobody can have in mind any more.
        let forgotten = self.nodes.iter().position(|it| self.is_forgotten(it, now));
        if let Some(place) = forgotten {
            // The driver closes its connection.
            node.closed = self.nodes[place].closed + 1;
            self.nodes[place] = node;
            return place;
        }
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Sees to it that a node has a reader, which it needs if its own connection waits for replicas.
    fn reader(&mut self, node: usize, now: Instant) -> Option<usize> {
        let known = self.nodes[node].reader;
        let known = known.filter(|&reader| self.nodes[reader].reads_for == Some(node));
        if known.is_some() || self.config.replicas == 0 {
            return known;
        }
        let mut reader = Node::new(self.nodes[node].address.clone(), now);
        reader.reads_for = Some(node);
        let reader = self.insert(reader, now);
        self.nodes[node].reader = Some(reader);
        Some(reader)
    }

    /// It was of no use for longer than any request lasts.
    fn is_forgotten(&self, node: &Node, now: Instant) -> bool {
        let time = now.saturating_duration_since(node.used_at);
        !node.is_used() && time >= self.config.timeout + FORGET_TIME
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
        let target = self.target(id).map(|node| self.connection(id, node));
        self.refresh |= target.is_none();
        if let Some(number) = self.bucket(id)
            && !target.is_some_and(|target| self.may_go(id, number, target))
        {
            if target.is_some() {
                let bucket = &self.buckets[usize::from(number)];
                self.jobs[id.job].requests[id.request].retry_at = bucket.retry_at;
            }
            return self.hold(id, number);
        }
        if let Some(node) = target {
            self.enqueue(id, node, now);
        }
    }

    /// The node or its reader. A client's `Get` behind its own write goes the same way.
    fn connection(&self, id: RequestId, node: usize) -> usize {
        let request = &self.jobs[id.job].requests[id.request];
        let is_there = |&reader: &usize| {
            let reader = &self.nodes[reader];
            reader.reads_for == Some(node) && reader.link == Link::Up && reader.has_room()
        };
        let reader = self.nodes[node].reader.filter(is_there);
        let reader = reader.filter(|_| !request.is_write && request.ask.is_none());
        let has_own_write = || {
            let bucket = self
                .bucket(id)
                .map(|bucket| &self.buckets[usize::from(bucket)]);
            let mut active = bucket.into_iter().flat_map(Bucket::active);
            active.any(|&(other, _)| other.job == id.job && self.conflict(id, other))
        };
        reader.filter(|_| !has_own_write()).unwrap_or(node)
    }

    /// Whether no request is held, or on another node, that has to stay before this one.
    fn may_go(&self, id: RequestId, number: u16, target: usize) -> bool {
        let bucket = &self.buckets[usize::from(number)];
        let mut elsewhere = bucket.active().filter(|&&(_, node)| node != target);
        // A reader's requests and writes of other clients may change places: neither is answered.
        let is_before = |other: RequestId| {
            let is_write = |id: RequestId| self.jobs[id.job].requests[id.request].is_write;
            let is_ordered = other.job == id.job || is_write(id) && is_write(other);
            is_ordered && self.conflict(id, other)
        };
        bucket.is_only_on(target) && bucket.held.is_empty()
            || !self.is_behind(id, number) && !elsewhere.any(|&(other, _)| is_before(other))
    }

    /// Whether an earlier request on one of its keys is held.
    fn is_behind(&self, id: RequestId, number: u16) -> bool {
        let held = &self.buckets[usize::from(number)].held;
        let mut before = held
            .iter()
            .take_while(|&&other| self.order(other) < self.order(id));
        before.any(|&other| self.conflict(id, other))
    }

    /// Whether the order of the two matters.
    fn conflict(&self, one: RequestId, other: RequestId) -> bool {
        let request = |id: RequestId| &self.jobs[id.job].requests[id.request];
        request(one).conflicts(request(other))
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
        let request = &mut self.jobs[id.job].requests[id.request];
        request.state = State::Waiting;
        if bucket.held.is_empty() {
            self.delayed.push(number);
            bucket.retry_at = request.retry_at;
        }
        // `None` is the least: at any time.
        bucket.retry_at = bucket.retry_at.min(request.retry_at);
        bucket.held.insert(at, id);
    }

    /// Sends what is held and may go, in order.
    fn release(&mut self, number: u16, now: Instant) {
        let bucket = &mut self.buckets[usize::from(number)];
        if bucket.retry_at.is_some_and(|at| now < at) {
            return;
        }
        let held = std::mem::take(&mut bucket.held);
        let mut places = Places::default();
        for &(id, _) in self.buckets[usize::from(number)].active() {
            places.add(&self.jobs[id.job].requests[id.request], None);
        }
        let mut retry_at = None;
        let mut has_free = false;
        for id in held {
            if self.is_settled(id) {
                self.leave_queue(id);
                continue;
            }
            let target = self.target(id);
            self.refresh |= target.is_none();
            let request = &self.jobs[id.job].requests[id.request];
            let early = request.retry_at.filter(|&at| now < at);
            let target = target.filter(|_| early.is_none());
            let mut nodes = target
                .into_iter()
                .flat_map(|node| [self.connection(id, node), node]);
            let node = nodes.find(|&node| places.allow(request, node));
            places.add(request, node);
            if let Some(node) = node {
                self.enqueue(id, node, now);
                continue;
            }
            match early {
                Some(at) => retry_at = Some(retry_at.map_or(at, |other: Instant| other.min(at))),
                None => has_free = true,
            }
            self.buckets[usize::from(number)].held.push_back(id);
        }
        let bucket = &mut self.buckets[usize::from(number)];
        bucket.retry_at = retry_at.filter(|_| !has_free);
        if bucket.held.is_empty() {
            self.delayed.retain(|&other| other != number);
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

    fn release_if_idle(&mut self, bucket: u16, now: Instant) {
        let it = &self.buckets[usize::from(bucket)];
        if it.is_idle() && !it.held.is_empty() {
            self.release(bucket, now);
        }
    }
}
