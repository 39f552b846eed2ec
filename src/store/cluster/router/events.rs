//! What happens on connections: they open and close, bytes go out, replies come in, time passes.

use std::{collections::VecDeque, time::Instant};

use super::{CONNECT_TIMEOUT, IDLE_TICK, Router, SILENCE, TICK, refusal::Refusal};
use crate::store::cluster::{
    job::{FEW_REPLICAS, Outcome, Route, State},
    node::{Entry, Link, Node, RequestId},
    resp::{self, Reply},
    slots::{self, Address},
};

const LOST: &str = "the connection to the cluster was lost before the answer";
const LATE: &str = "the cluster has not answered in time";
const ABSENT: &str = "the cluster could not be reached in time";
const TOO_LONG: &str = "the reply is too long";

impl Router {
    /// A node that the driver is to connect to.
    pub(in super::super) fn next_connect(&mut self) -> Option<(usize, Address)> {
        let wanted = |node: &Node| node.link == Link::Wanted;
        let node = self.nodes.iter().position(wanted)?;
        self.nodes[node].link = Link::Connecting;
        Some((node, self.nodes[node].address.clone()))
    }

    pub(in super::super) fn on_connected(&mut self, node: usize, now: Instant) {
        let Self { config, nodes, .. } = self;
        let node = &mut nodes[node];
        node.link = Link::Handshake;
        if let Some(auth) = &config.auth {
            node.push(Entry::Auth, auth, now);
        }
        node.load_script(&config.load, now);
    }

    /// The connection is gone, or could not be made.
    pub(in super::super) fn on_closed(&mut self, node: usize, now: Instant) {
        let it = &self.nodes[node];
        // A second connection comes and goes with the first one.
        if it.reads_for.is_none() {
            if it.link == Link::Up {
                self.stats.nodes_up -= 1;
                self.log.node_lost(&it.address, now);
            } else if it.attempts() == 0 {
                self.log.node_absent(&it.address, now);
            }
        }
        self.refresh = true;
        self.on_replicas(node, false);
        for (entry, may_be_written) in self.nodes[node].on_closed(now) {
            let Entry::Request(id) = entry else {
                continue;
            };
            let Some(request) = self.jobs[id.job].requests.get(id.request) else {
                continue;
            };
            let is_write = request.is_write;
            let bucket = self.deactivate(id);
            if is_write && may_be_written {
                self.fail_overtaken(id);
                self.settle(id, Outcome::Unconfirmed(LOST.into()));
                self.leave_queue(id);
            } else if self.is_settled(id) {
                self.leave_queue(id);
            } else {
                self.stats.retries += u64::from(may_be_written);
                self.jobs[id.job].requests[id.request].ask = None;
                match bucket {
                    Some(bucket) => self.hold(id, bucket),
                    None => {
                        self.jobs[id.job].requests[id.request].state = State::Waiting;
                        let node = self.nodes[node].reads_for.unwrap_or(node);
                        self.nodes[node].waiting.push_back(id);
                        self.nodes[node].want(now);
                    }
                }
            }
        }
        self.release_all(now);
        if self.nodes[node].is_master || !self.nodes[node].waiting.is_empty() {
            self.nodes[node].want(now);
        }
    }

    /// Gives the bytes to be written next; the rest comes when these are.
    pub(in super::super) fn take_out(&mut self, node: usize, out: &mut Vec<u8>, now: Instant) {
        self.pump(node, now);
        let replicas = self.config.replicas;
        let time = self.config.timeout.as_millis() / 4;
        let node = &mut self.nodes[node];
        if replicas > 0 && node.writes > 0 && !node.waits {
            let mut wait = Vec::new();
            let (replicas, time) = (replicas.to_string(), time.max(1).to_string());
            let command: [&[u8]; 3] = [b"WAIT", replicas.as_bytes(), time.as_bytes()];
            resp::push_command(&mut wait, &command);
            node.writes = 0;
            node.waits = true;
            node.push(Entry::Wait, &wait, now);
        }
        std::mem::swap(&mut node.out, out);
    }

    pub(in super::super) fn on_written(&mut self, node: usize, bytes: usize) {
        self.nodes[node].written += bytes as u64;
    }

    /// A whole reply has come. An error closes the connection.
    pub(in super::super) fn on_reply(
        &mut self,
        node: usize,
        reply: &[u8],
        now: Instant,
    ) -> Result<(), resp::Malformed> {
        let it = &mut self.nodes[node];
        let (entry, _) = it.sent.pop_front().ok_or(resp::Malformed)?;
        if let Some(time) = it.timed_answer(now) {
            self.answer_times.record_time(time);
        }
        let is_error = reply.first() == Some(&b'-');
        it.loads &= entry != Entry::Script;
        match entry {
            Entry::Request(id) => {
                it.requests -= 1;
                self.on_request_reply(id, node, reply, now);
            }
            Entry::Wait => {
                it.waits = false;
                let count = Reply::parse(reply).and_then(|it| it.integer()).unwrap_or(0);
                let is_enough = usize::try_from(count).is_ok_and(|it| it >= self.config.replicas);
                self.on_replicas(node, is_enough);
            }
            Entry::Epochs => it.epochs = slots::parse_epochs(reply),
            Entry::Slots => {
                let epochs = std::mem::take(&mut it.epochs);
                if let Some(rows) = slots::parse_slots(reply, &it.address.host, &epochs) {
                    self.on_slots(Some(node), &rows, now);
                }
            }
            Entry::Auth | Entry::Script if is_error && it.link == Link::Handshake => {
                // One that is loading its data says so here.
                return Err(resp::Malformed);
            }
            Entry::Script if it.link == Link::Handshake => {
                it.on_up();
                if it.reads_for.is_none() {
                    self.log.node_up(&it.address, now);
                    self.stats.nodes_up += 1;
                }
                self.pump(node, now);
            }
            Entry::Auth | Entry::Script | Entry::Asking => {}
        }
        self.pump(node, now);
        Ok(())
    }

    fn on_request_reply(&mut self, id: RequestId, node: usize, reply: &[u8], now: Instant) {
        let bucket = self.deactivate(id);
        let refusal = match reply.split_first() {
            Some((b'-', error)) => {
                let error = error.trim_ascii_end();
                Refusal::parse(error, &self.nodes[node].address.host)
            }
            _ => None,
        };
        match (refusal, bucket) {
            (Some(refusal), Some(bucket)) => self.on_refusal(id, node, bucket, refusal, now),
            _ => {
                self.fail_overtaken(id);
                self.on_answer(id, node, reply);
            }
        }
        if let Some(bucket) = bucket {
            self.release_if_idle(bucket, now);
        }
    }

    fn on_answer(&mut self, id: RequestId, node: usize, reply: &[u8]) {
        if self.is_settled(id) {
            // Too late. Its write counts for `WAIT` all the same.
            let is_write = self.jobs[id.job].requests[id.request].is_write;
            if is_write && self.config.replicas > 0 {
                return self.nodes[node].unreplicated.push_back(id);
            }
            return self.leave_queue(id);
        }
        let job = &mut self.jobs[id.job];
        let start = job.replies.len();
        job.replies.extend_from_slice(reply);
        let range = start..job.replies.len();
        let request = &mut job.requests[id.request];
        // What an error says is final: if anything of it was applied, it is unconfirmed.
        let is_error = reply.first() == Some(&b'-');
        if request.is_write && self.config.replicas > 0 && !is_error {
            request.state = State::Applied;
            request.outcome = Outcome::Reply(range);
            return self.nodes[node].unreplicated.push_back(id);
        }
        self.settle(id, Outcome::Reply(range));
        self.leave_queue(id);
    }

    fn on_replicas(&mut self, node: usize, is_enough: bool) {
        let applied = std::mem::take(&mut self.nodes[node].unreplicated);
        for id in applied {
            let outcome = match &self.jobs[id.job].requests[id.request].outcome {
                Outcome::Reply(range) if !is_enough => Outcome::Unreplicated(range.clone()),
                outcome => outcome.clone(),
            };
            self.settle(id, outcome);
            self.leave_queue(id);
        }
    }

    /// Part of a reply has come.
    pub(in super::super) fn on_read(&mut self, node: usize, now: Instant) {
        self.nodes[node].silent_since = now;
    }

    /// The node's next reply was longer than what is read. It would be so again: the request fails.
    pub(in super::super) fn on_long_reply(
        &mut self,
        node: usize,
        now: Instant,
    ) -> Result<(), resp::Malformed> {
        if let Some(&(Entry::Request(id), _)) = self.nodes[node].sent.front() {
            let request = self.jobs[id.job].requests.get(id.request);
            let outcome = match request.is_some_and(|request| request.is_write) {
                true => Outcome::Unconfirmed(TOO_LONG.into()),
                false => Outcome::Failed(TOO_LONG.into()),
            };
            self.settle(id, outcome);
        }
        self.on_reply(node, b"-TOOLONG\r\n", now)
    }

    /// Looks at what is late. To be called every [`TICK`] while commands are under way.
    pub(in super::super) fn on_time(&mut self, now: Instant) {
        self.close_late(now);
        let mut has_expired = false;
        while let Some(&(job, number, deadline)) = self.deadlines.front() {
            let is_over = self
                .jobs
                .get(job)
                .is_none_or(|it| it.number != number || it.unsettled == 0);
            if !is_over && now < deadline {
                break;
            }
            self.deadlines.pop_front();
            if !is_over {
                self.expire(job);
                has_expired = true;
            }
        }
        if has_expired {
            self.drop_settled(now);
        }
        self.release_all(now);
        self.refresh_slots(now);
        for node in 0..self.nodes.len() {
            if self.nodes[node].link == Link::Up && self.is_forgotten(&self.nodes[node], now) {
                self.on_closed(node, now);
            }
            let it = &mut self.nodes[node];
            if it.is_used() {
                it.used_at = now;
            }
            if it.is_master || !it.waiting.is_empty() {
                it.want(now);
            }
            self.pump(node, now);
        }
    }

    /// Gives up connections that hang.
    fn close_late(&mut self, now: Instant) {
        let timeout = self.config.timeout;
        for node in &mut self.nodes {
            let silence = node.silence(now);
            node.closing |= match node.link {
                Link::Handshake => silence >= CONNECT_TIMEOUT,
                // Another has its slots by now, most likely because it hangs.
                Link::Up if !node.is_master => silence >= SILENCE,
                Link::Up => silence >= timeout,
                _ => false,
            };
            self.refresh |= node.link == Link::Up && silence >= SILENCE;
        }
        for node in 0..self.nodes.len() {
            if self.nodes[node].closing {
                self.on_closed(node, now);
                // The driver learns it from the link.
            }
        }
    }

    fn expire(&mut self, job: usize) {
        for request in 0..self.jobs[job].requests.len() {
            let id = RequestId { job, request };
            let it = &self.jobs[job].requests[request];
            let outcome = match it.state {
                State::Settled => continue,
                State::Sent(_) if it.is_write => Outcome::Unconfirmed(LATE.into()),
                State::Applied => match &it.outcome {
                    Outcome::Reply(range) => Outcome::Unreplicated(range.clone()),
                    _ => Outcome::Unconfirmed(FEW_REPLICAS.into()),
                },
                State::Sent(_) => Outcome::Failed(LATE.into()),
                State::Waiting => Outcome::Failed(ABSENT.into()),
            };
            self.settle(id, outcome);
        }
    }

    /// What waits for a node that is gone is not kept beyond its time.
    fn drop_settled(&mut self, now: Instant) {
        for node in 0..self.nodes.len() {
            for id in std::mem::take(&mut self.nodes[node].waiting) {
                match self.is_settled(id) {
                    true => self.leave_active(id, now),
                    false => self.nodes[node].waiting.push_back(id),
                }
            }
        }
    }

    pub(super) fn release_all(&mut self, now: Instant) {
        for bucket in self.delayed.clone() {
            self.release(bucket, now);
        }
    }

    /// Sends again what waits for nodes that may not be the right ones any more.
    pub(super) fn redispatch(&mut self, now: Instant) {
        for node in 0..self.nodes.len() {
            let waiting: VecDeque<_> = std::mem::take(&mut self.nodes[node].waiting);
            for id in waiting {
                match self.jobs[id.job].requests[id.request].route {
                    Route::Node(_) => self.nodes[node].waiting.push_back(id),
                    Route::Bucket(_) if self.target(id) == Some(node) => {
                        self.nodes[node].waiting.push_back(id);
                    }
                    Route::Bucket(_) => {
                        self.deactivate(id);
                        self.dispatch(id, now);
                    }
                }
            }
        }
    }

    /// The time until [`on_time`](Self::on_time) has something to look at.
    pub(in super::super) fn next_tick(&self) -> Option<std::time::Duration> {
        if self.stats.under_way > 0 || !self.jobs.is_empty() {
            return Some(TICK);
        }
        let is_well = |node: &Node| node.link == Link::Up || !node.is_master;
        let is_well = self.nodes.iter().all(is_well) && !self.refresh;
        (!is_well).then_some(IDLE_TICK)
    }
}
