//! What goes wrong.

use super::{KEYS, Simulation, fake_node};
use crate::store::cluster::slots;

impl Simulation {
    pub(super) fn fault(&mut self) {
        let wire = self.random.usize(..self.nodes.len());
        let node = self.place(wire);
        match self.random.u32(..400) {
            0 => self.nodes[node].hangs = true,
            1..=8 => self.nodes[node].hangs = false,
            9 | 10 => self.nodes[node].is_down = true,
            11..=30 => self.nodes[node].is_down = false,
            31..=33 => self.nodes[node].knows_script = false,
            34..=39 => {
                // The connection breaks: what was not handled is lost, or is handled later.
                if let Some(it) = self.nodes[wire].wire.take() {
                    if self.random.bool() {
                        self.nodes[wire].old.push(it);
                    }
                    self.router.on_closed(wire, self.now);
                }
            }
            40..=60 => {
                // A slot begins to move, or has moved, or stays.
                let key = self.random.usize(..KEYS);
                let bucket = slots::bucket(&self.keys[key]);
                let slot = slots::slot(bucket);
                let (owner, target) = self.owners[&bucket];
                let next = match target {
                    None => (owner, (node != owner).then_some(node)),
                    Some(target) => (target, None),
                };
                for (&bucket, it) in &mut self.owners {
                    if slots::slot(bucket) == slot {
                        *it = next;
                    }
                }
                if next.1.is_none() {
                    self.moved.clear();
                    let latest = self.nodes.iter().map(|node| node.epoch).max();
                    let it = &mut self.nodes[next.0];
                    it.epoch = latest.unwrap_or(0) + 1;
                    it.old_rows = None;
                }
            }
            61..=100 => {
                // One of the bucket's keys, of which one is its number.
                let key = self.keys[self.random.usize(..KEYS)].clone();
                let key = match self.random.u8(..4) {
                    0 => fake_node::number_key(slots::bucket(&key)),
                    _ => key,
                };
                self.moved.insert(key);
            }
            101..=103 => {
                let rows = self.rows();
                self.nodes[node].old_rows.get_or_insert(rows);
            }
            104..=110 => self.nodes[node].old_rows = None,
            _ => {}
        }
    }
}
