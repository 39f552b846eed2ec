//! Which node has which slots.

use std::time::Instant;

use super::{Link, REFRESH_INTERVAL, Router, SILENCE};
use crate::store::cluster::{
    node::Entry,
    slots::{SLOTS, SlotRange},
};

const SLOTS_COMMAND: &[u8] = b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n";

impl Router {
    /// A node has given the whole map.
    pub(in super::super) fn on_slots(&mut self, rows: &[SlotRange], now: Instant) {
        self.refresh = false;
        let mut by_slot = vec![None; SLOTS.into()];
        for row in rows {
            let master = self.node(&row.master, now);
            for replica in &row.replicas {
                self.node(replica, now);
            }
            if let Some(slots) = by_slot.get_mut(row.first.into()..=row.last.into()) {
                slots.fill(Some(master));
            }
        }
        let owner = |&slot: &u16| by_slot[usize::from(slot)];
        let mut owners: Vec<_> = self.slots.iter().map(owner).collect();
        if owners.iter().any(Option::is_none) {
            // No node has these slots now. What was known may come true again.
            self.refresh = true;
            for (new, &old) in owners.iter_mut().zip(&self.owners) {
                *new = new.or(old);
            }
        }
        self.owners = owners;
        self.on_owners(now);
    }

    /// The map may be old, as others have found.
    pub(in super::super) fn want_slots(&mut self, now: Instant) {
        self.refresh = true;
        self.refresh_slots(now);
    }

    /// One slot has another owner.
    pub(super) fn on_moved(&mut self, slot: u16, owner: usize, now: Instant) {
        self.refresh = true;
        let mut changed = false;
        for (&other, known) in self.slots.iter().zip(&mut self.owners) {
            if other == slot && *known != Some(owner) {
                *known = Some(owner);
                changed = true;
            }
        }
        if changed {
            self.on_owners(now);
        }
    }

    fn on_owners(&mut self, now: Instant) {
        for node in &mut self.nodes {
            node.is_master = false;
        }
        for owner in self.owners.iter().flatten() {
            self.nodes[*owner].is_master = true;
        }
        for node in &mut self.nodes {
            if node.is_master {
                node.want(now);
            }
        }
        self.redispatch(now);
        self.release_all(now);
    }

    /// Asks for the map, if it may be old.
    pub(super) fn refresh_slots(&mut self, now: Instant) {
        let absent = |node: &super::Node| {
            node.link != Link::Up && (node.is_master || !node.waiting.is_empty())
        };
        self.refresh |= self.nodes.iter().any(absent);
        if !self.refresh || now < self.next_refresh {
            return;
        }
        self.next_refresh = now + REFRESH_INTERVAL;
        let count = self.nodes.len();
        let mut nodes = (0..count).map(|node| (self.next_asked + node) % count);
        let answers = |&node: &usize| {
            let node = &self.nodes[node];
            node.link == Link::Up && node.silence(now) < SILENCE
        };
        if let Some(node) = nodes.find(answers) {
            self.next_asked = node + 1;
            self.nodes[node].push(Entry::Slots, SLOTS_COMMAND, now);
        } else if count > 0 {
            // Nobody is there to be asked: one more of those that are known is tried.
            for node in &mut self.nodes {
                node.want(now);
            }
        }
    }
}
