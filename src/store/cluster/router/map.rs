//! Which node has which slots.
//!
//! Epochs are counted in half steps: an even number is an epoch that a node has given, and the odd one behind
//! it means a later epoch that is not known.

use std::time::Instant;

use super::{Link, REFRESH_INTERVAL, Router, SILENCE};
use crate::store::cluster::{
    node::Entry,
    slots::{NODES_COMMAND, SLOTS, SLOTS_COMMAND, SlotRange},
};

impl Router {
    /// A node has given the whole map. It may be old: of each slot the owner with the latest epoch counts,
    /// unless it is the owner's own map that names another.
    pub(in super::super) fn on_slots(
        &mut self,
        from: Option<usize>,
        rows: &[SlotRange],
        now: Instant,
    ) {
        let from = from.map(|node| self.nodes[node].reads_for.unwrap_or(node));
        self.refresh = false;
        for node in self.nodes.iter_mut().filter(|node| node.is_used()) {
            node.used_at = now;
            node.is_named = false;
        }
        let mut by_slot = vec![None; SLOTS.into()];
        for row in rows {
            let master = self.node(&row.master, now);
            self.nodes[master].is_named = true;
            for replica in &row.replicas {
                let replica = self.node(replica, now);
                self.nodes[replica].is_named = true;
            }
            if let Some(slots) = by_slot.get_mut(row.first.into()..=row.last.into()) {
                slots.fill(Some((master, row.epoch)));
            }
        }
        for ((slot, owner), known) in self
            .slots
            .iter()
            .zip(&mut self.owners)
            .zip(&mut self.epochs)
        {
            let is_given_up =
                owner.is_none_or(|owner| Some(owner) == from || self.nodes[owner].is_given_up());
            match by_slot[usize::from(*slot)] {
                Some((master, epoch)) => {
                    // A node that does not give epochs is believed.
                    let is_later = epoch.is_none_or(|epoch| half_steps(epoch) >= *known);
                    if is_later || is_given_up {
                        *owner = Some(master);
                        *known = epoch.map_or(0, half_steps);
                    } else {
                        self.refresh |= *owner != Some(master);
                    }
                }
                // No node has it now. What was known may come true again.
                None => self.refresh = true,
            }
        }
        self.on_owners(now);
    }

    /// The map may be old, as others have found.
    pub(in super::super) fn want_slots(&mut self, now: Instant) {
        self.refresh = true;
        self.refresh_slots(now);
    }

    /// A node has said that a slot is not its own, and names the owner. It may not know the last one: this
    /// counts only if it was believed to be the owner itself.
    pub(super) fn on_moved(&mut self, slot: u16, node: usize, owner: usize, now: Instant) {
        self.refresh = true;
        let mut changed = false;
        let known = self.owners.iter_mut().zip(&mut self.epochs);
        for (&other, (known, epoch)) in self.slots.iter().zip(known) {
            if other == slot && known.is_none_or(|known| known == node) && *known != Some(owner) {
                *known = Some(owner);
                // Maps with the epoch that it had are older than this, and all others are not.
                *epoch |= 1;
                changed = true;
            }
        }
        if changed {
            self.on_owners(now);
        }
    }

    fn on_owners(&mut self, now: Instant) {
        for node in self.nodes.iter_mut().filter(|node| node.is_master) {
            node.used_at = now;
            node.is_master = false;
        }
        for owner in self.owners.iter().flatten() {
            self.nodes[*owner].is_master = true;
        }
        for node in self.masters().collect::<Vec<_>>() {
            if let Some(reader) = self.reader(node, now) {
                self.nodes[reader].is_master = true;
            }
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
            self.nodes[node].push(Entry::Epochs, NODES_COMMAND, now);
            self.nodes[node].push(Entry::Slots, SLOTS_COMMAND, now);
        } else {
            // Nobody is there to be asked.
            if self.masters().all(|node| self.nodes[node].has_failed()) {
                // The names that the user gave may have other addresses by now.
                for seed in self.seeds.clone() {
                    self.node(&seed, now);
                }
            }
            for node in &mut self.nodes {
                node.want(now);
            }
        }
    }
}

fn half_steps(epoch: u64) -> u64 {
    epoch.saturating_mul(2)
}
