//! Whether a request may be sent: in the order of its keys.

use std::time::Instant;

use super::{
    Router,
    bucket::{Bucket, Places},
};
use crate::store::cluster::{
    job::State,
    node::{Link, RequestId},
};

impl Router {
    /// A request begins, or begins anew.
    pub(super) fn dispatch(&mut self, id: RequestId, now: Instant) {
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

    /// The node or its reader. A client's `Get` behind its own write, or behind its own `Get` that went to the
    /// node, goes the same way.
    fn connection(&self, id: RequestId, node: usize) -> usize {
        let request = &self.jobs[id.job].requests[id.request];
        let is_there = |&reader: &usize| {
            let reader = &self.nodes[reader];
            reader.reads_for == Some(node) && reader.link == Link::Up && reader.has_room()
        };
        let reader = self.nodes[node].reader.filter(is_there);
        let reader = reader.filter(|_| !request.is_write && request.ask.is_none());
        let has_own = || {
            let bucket = self
                .bucket(id)
                .map(|bucket| &self.buckets[usize::from(bucket)]);
            let mut active = bucket.into_iter().flat_map(Bucket::active);
            active.any(|&(other, at)| {
                Some(at) != reader && other.job == id.job && self.conflict(id, other)
            })
        };
        reader.filter(|_| !has_own()).unwrap_or(node)
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
    pub(super) fn is_behind(&self, id: RequestId, number: u16) -> bool {
        let held = &self.buckets[usize::from(number)].held;
        let mut before = held
            .iter()
            .take_while(|&&other| self.order(other) < self.order(id));
        before.any(|&other| self.conflict(id, other))
    }

    /// Whether the order of the two matters. It does for two `Get`s of one client: the later one may not show
    /// what was before.
    pub(super) fn conflict(&self, one: RequestId, other: RequestId) -> bool {
        let request = |id: RequestId| &self.jobs[id.job].requests[id.request];
        let (is_same_job, one, other) = (one.job == other.job, request(one), request(other));
        (is_same_job || one.is_write || other.is_write) && one.shares_key(other)
    }

    /// Puts it among the held ones of its bucket, in order.
    pub(super) fn hold(&mut self, id: RequestId, number: u16) {
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
    pub(super) fn release(&mut self, number: u16, now: Instant) {
        let bucket = &mut self.buckets[usize::from(number)];
        if bucket.retry_at.is_some_and(|at| now < at) {
            return;
        }
        let held = std::mem::take(&mut bucket.held);
        let mut places = Places::default();
        for &(id, _) in self.buckets[usize::from(number)].active() {
            places.add(id.job, &self.jobs[id.job].requests[id.request], None);
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
            let node = nodes.find(|&node| places.allow(id.job, request, node));
            places.add(id.job, request, node);
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

    pub(super) fn release_if_idle(&mut self, bucket: u16, now: Instant) {
        let it = &self.buckets[usize::from(bucket)];
        if it.is_idle() && !it.held.is_empty() {
            self.release(bucket, now);
        }
    }
}
