//! Requests that a node has refused.

use std::time::Instant;

use super::{FAST_MOVES, PARTED_BACKOFF, Router};
use crate::store::cluster::{
    job::{Outcome, code},
    node::{RequestId, backoff},
    slots::Address,
};

const OVERTAKEN: &str = "the cluster refused it, and answered a later command of the client";

/// What a node's refusal means for a request.
pub(super) enum Refusal {
    Moved(u16, Address),
    Ask(Address),
    NoScript,
    /// Not all of its keys are there.
    Parted,
    /// It was not applied, and may be later.
    TryAgain,
}

impl Refusal {
    /// `None` if the error is an answer.
    pub(super) fn parse(error: &[u8], host: &str) -> Option<Self> {
        let mut words = error.split(|&byte| byte == b' ');
        let mut redirect = || {
            let text = |word: Option<&[u8]>| Some(std::str::from_utf8(word?).ok()?.to_string());
            words.next();
            let slot = text(words.next())?.parse().ok()?;
            Some((slot, Address::parse(&text(words.next())?, host)?))
        };
        match code(error) {
            b"MOVED" => redirect().map(|(slot, address)| Self::Moved(slot, address)),
            b"ASK" => redirect().map(|(_, address)| Self::Ask(address)),
            b"NOSCRIPT" => Some(Self::NoScript),
            b"TRYAGAIN" => Some(Self::Parted),
            b"CLUSTERDOWN" | b"LOADING" | b"READONLY" | b"MASTERDOWN" | b"BUSY" => {
                Some(Self::TryAgain)
            }
            _ => None,
        }
    }
}

impl Router {
    /// A node has not applied a request, and may later, or another may.
    pub(super) fn on_refusal(
        &mut self,
        id: RequestId,
        node: usize,
        bucket: u16,
        refusal: Refusal,
        now: Instant,
    ) {
        if self.is_settled(id) {
            return self.leave_queue(id);
        }
        self.stats.retries += 1;
        let request = &mut self.jobs[id.job].requests[id.request];
        let refusals = request.refusals;
        request.refusals += 1;
        request.ask = None;
        let mut delay = None;
        match refusal {
            Refusal::Moved(slot, address) => {
                delay = (refusals >= FAST_MOVES).then(|| backoff(refusals));
                let owner = self.node(&address, now);
                let node = self.nodes[node].reads_for.unwrap_or(node);
                self.on_moved(slot, node, owner, now);
            }
            Refusal::Ask(address) => {
                // Whatever that node says, but that it has not the slot, has a delay of its own.
                let target = self.node(&address, now);
                self.jobs[id.job].requests[id.request].ask = Some(target);
            }
            Refusal::NoScript => {
                let Self { config, nodes, .. } = self;
                nodes[node].load_script(&config.load, now);
            }
            // Some of the keys are on another node, until their slot has moved.
            Refusal::Parted => delay = Some(backoff(refusals).min(PARTED_BACKOFF)),
            Refusal::TryAgain => {
                delay = Some(backoff(refusals));
                self.refresh = true;
            }
        }
        self.jobs[id.job].requests[id.request].retry_at = delay.map(|delay| now + delay);
        self.hold(id, bucket);
    }

    /// This request was applied, or may be: earlier ones of the same client and key that were refused are too
    /// late. Those of other clients are not: none of the two was answered when the other was submitted.
    pub(super) fn fail_overtaken(&mut self, id: RequestId) {
        let Some(bucket) = self.bucket(id) else {
            return;
        };
        let held = &self.buckets[usize::from(bucket)].held;
        let is_overtaken = |&&other: &&RequestId| {
            other.job == id.job && other.request < id.request && self.conflict(id, other)
        };
        let overtaken: Vec<_> = held.iter().filter(is_overtaken).copied().collect();
        for id in overtaken {
            self.settle(id, Outcome::Failed(OVERTAKEN.into()));
        }
    }
}
