//! The order of keys, for stores that do not answer at once.
//!
//! Each batch has a ticket in the queue of each of its keys. It is at the head of all of them before it
//! goes to the store, or, if the store keeps the order of keys itself, before its answers are released.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher as _, RandomState},
};

use crate::store::turn::Turn;

/// The clients with a ticket for each key, by the hash of the key. Two keys with the same hash wait for each
/// other, which does no harm.
#[derive(Default)]
pub(super) struct KeyOrder {
    hasher: RandomState,
    queues: HashMap<u64, VecDeque<usize>>,
    tickets: HashMap<usize, Ticket>,
}

/// A client's batch.
struct Ticket {
    keys: Vec<u64>,
    /// Keys of which it is not at the head of the queue.
    blocked: usize,
    /// The batch, while it waits for that.
    turn: Option<Box<Turn>>,
}

/// Stands for all keys, if batches have one order.
pub(super) const ALL_BATCHES: u64 = 0;

impl KeyOrder {
    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    pub(super) fn is_free(&self, key: u64) -> bool {
        !self.queues.contains_key(&key)
    }

    /// Gives the client's batch a ticket for each of these keys, all different.
    pub(super) fn enter(&mut self, client: usize, keys: Vec<u64>) {
        let mut blocked = 0;
        for &key in &keys {
            let queue = self.queues.entry(key).or_default();
            blocked += usize::from(!queue.is_empty());
            queue.push_back(client);
        }
        self.tickets.insert(
            client,
            Ticket {
                keys,
                blocked,
                turn: None,
            },
        );
    }

    /// Gives the batch back, if it is at the head of all its queues. If not, it waits here.
    pub(super) fn wait(&mut self, turn: Box<Turn>) -> Option<Box<Turn>> {
        match self.tickets.get_mut(&turn.client) {
            Some(ticket) if ticket.blocked > 0 => {
                ticket.turn = Some(turn);
                None
            }
            _ => Some(turn),
        }
    }

    /// Takes the client's tickets away. Calls `unblocked` with each batch that waited for that.
    pub(super) fn leave(&mut self, client: usize, mut unblocked: impl FnMut(Box<Turn>)) {
        let Some(ticket) = self.tickets.remove(&client) else {
            return;
        };
        for key in ticket.keys {
            let Some(queue) = self.queues.get_mut(&key) else {
                continue;
            };
            queue.pop_front();
            let Some(next) = queue.front() else {
                self.queues.remove(&key);
                continue;
            };
            if let Some(next) = self.tickets.get_mut(next) {
                next.blocked -= 1;
                if next.blocked == 0 {
                    next.turn.take().into_iter().for_each(&mut unblocked);
                }
            }
        }
    }
}
