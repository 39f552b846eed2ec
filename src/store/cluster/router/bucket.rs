//! What is under way of a bucket, and what is held.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use crate::store::cluster::{job::Request, node::RequestId};

#[derive(Default)]
pub(super) struct Bucket {
    /// Requests in `waiting` or in `sent` of a node, each with the node.
    active: VecDeque<(RequestId, usize)>,
    /// The node of most of them, and the number of those that are on others.
    node: usize,
    elsewhere: usize,
    /// Those that can't be sent yet, in the order submitted.
    pub(super) held: VecDeque<RequestId>,
    /// None of these can be sent before this.
    pub(super) retry_at: Option<Instant>,
}

impl Bucket {
    pub(super) fn active(&self) -> impl Iterator<Item = &(RequestId, usize)> {
        self.active.iter()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.active.is_empty()
    }

    /// Whether nothing is under way on another node.
    pub(super) fn is_only_on(&self, node: usize) -> bool {
        self.active.is_empty() || self.elsewhere == 0 && self.node == node
    }

    pub(super) fn activate(&mut self, id: RequestId, node: usize) {
        if self.active.is_empty() {
            self.node = node;
        }
        self.elsewhere += usize::from(self.node != node);
        self.active.push_back((id, node));
    }

    pub(super) fn deactivate(&mut self, id: RequestId) {
        // Nodes answer in order, so it is among the first.
        let Some(at) = self.active.iter().position(|&(other, _)| other == id) else {
            return;
        };
        let node = self.active.remove(at).map(|(_, node)| node);
        self.elsewhere -= usize::from(node != Some(self.node));
        if self.elsewhere == self.active.len()
            && let Some(&(_, node)) = self.active.front()
        {
            self.node = node;
            let is_elsewhere = |&&(_, other): &&(RequestId, usize)| other != node;
            self.elsewhere = self.active.iter().filter(is_elsewhere).count();
        }
    }
}

/// Where earlier requests are, by their keys, and by key and job.
#[derive(Default)]
pub(super) struct Places(HashMap<(u64, Option<usize>), Place>);

#[derive(Clone, Copy)]
struct Place {
    /// `None`: what follows has to wait for them.
    node: Option<usize>,
    has_write: bool,
}

impl Places {
    pub(super) fn add(&mut self, job: usize, request: &Request, node: Option<usize>) {
        for &key in &request.keys {
            for of_job in [None, Some(job)] {
                let place = self.0.entry((key, of_job)).or_insert(Place {
                    node,
                    has_write: false,
                });
                place.has_write |= request.is_write;
                place.node = place.node.filter(|_| place.node == node);
            }
        }
    }

    /// Whether a request may be sent to this node, behind those.
    pub(super) fn allow(&self, job: usize, request: &Request, node: usize) -> bool {
        request.keys.iter().all(|&key| {
            [None, Some(job)].iter().all(|&of_job| {
                let Some(place) = self.0.get(&(key, of_job)) else {
                    return true;
                };
                let are_reads = !place.has_write && !request.is_write;
                are_reads && of_job.is_none() || place.node == Some(node)
            })
        })
    }
}
