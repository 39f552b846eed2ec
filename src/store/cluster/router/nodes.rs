//! The nodes that are known.

use std::time::Instant;

use super::{FORGET_TIME, Router};
use crate::store::cluster::{
    node::{Link, Node},
    slots::Address,
};

impl Router {
    /// The node at this address.
    pub(in super::super) fn node(&mut self, address: &Address, now: Instant) -> usize {
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
        // The place of one that nobody can have in mind any more, and that has no connection.
        let is_free = |it: &Node| it.link != Link::Up && self.is_forgotten(it, now);
        if let Some(place) = self.nodes.iter().position(is_free) {
            node.closed = self.nodes[place].closed;
            self.nodes[place] = node;
            return place;
        }
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Sees to it that a node has a reader, which it needs if its own connection waits for replicas.
    pub(super) fn reader(&mut self, node: usize, now: Instant) -> Option<usize> {
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
    pub(super) fn is_forgotten(&self, node: &Node, now: Instant) -> bool {
        let time = now.saturating_duration_since(node.used_at);
        !node.is_used() && time >= self.config.timeout + FORGET_TIME
    }
}
