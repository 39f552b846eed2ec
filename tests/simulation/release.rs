//! When the answers of a store that answers late may go out: what the server has to see to.

use std::collections::HashSet;

use keywire::store::Order;

use crate::{
    history::{Entry, Flight, History, Kind, Record},
    late::Submitted,
    world::{Moment, World},
};

/// Rounds by whose end the server has all that could go out before. A batch may wait for that of each
/// other client, and goes out a round later than that.
const ROUNDS: u64 = 8;

impl Record {
    /// The number of a command that the store is asked.
    pub(crate) fn number(&mut self) -> usize {
        self.numbers += 1;
        self.numbers
    }

    /// The store is given a batch. Gives its number.
    pub(crate) fn submit(&mut self, connection: usize, plan: &[Entry], order: Order) -> usize {
        let keys: HashSet<_> = plan.iter().map(|entry| entry.key.clone()).collect();
        for other in self.in_flight() {
            let other = &self.batches[other];
            assert!(
                other.connection != connection,
                "two batches of a client: {plan:?}, {other:?}"
            );
            assert!(
                order != Order::None || keys.is_disjoint(&other.keys),
                "two batches of a key: {plan:?}, {other:?}"
            );
        }
        self.batches.push(Submitted {
            connection,
            keys,
            entries: plan.to_vec(),
            writes: plan.iter().any(|entry| entry.kind != Kind::Get),
            completed: false,
            released: None,
            rounds: 0,
        });
        self.batches.len() - 1
    }

    /// The batches whose answers could not go out yet.
    pub(crate) fn in_flight(&self) -> impl Iterator<Item = usize> + '_ {
        let batches = self.batches.iter().enumerate();
        batches
            .filter(|(_, batch)| batch.released.is_none())
            .map(|(id, _)| id)
    }

    /// Whether the server may not have all answers about this key.
    pub(crate) fn owes(&self, key: &[u8]) -> bool {
        let seen = |batch: &Submitted| {
            batch.released.is_some() && batch.rounds + ROUNDS <= self.rounds_seen
        };
        let mut batches = self.batches.iter();
        batches.any(|batch| !seen(batch) && batch.keys.contains(key))
    }

    /// Notes what the store has not answered. Gives the number of the note.
    pub(crate) fn fly(&mut self) -> usize {
        let pages = self.pages.iter();
        let pages = pages.filter(|page| page.answered == Moment::NEVER);
        let flight = Flight {
            batches: self.in_flight().collect(),
            pages: pages.map(|page| page.prefix.clone()).collect(),
            requests: (self.requests.iter())
                .filter(|request| request.answered == Moment::NEVER)
                .map(|request| request.watched.clone())
                .collect(),
            counted: None,
        };
        self.flights.push(flight);
        self.flights.len() - 1
    }

    /// Whether the answers of a batch may go out.
    fn may_go(&self, id: usize, order: Order) -> bool {
        self.batches[id].completed && self.is_first(id, order)
    }

    /// Whether a batch waits for no other.
    pub(crate) fn is_first(&self, id: usize, order: Order) -> bool {
        let own = &self.batches[id];
        let mut before = self.in_flight().take_while(|other| *other < id);
        !before.any(|other| {
            let other = &self.batches[other];
            let total = order == Order::Total && own.writes && other.writes;
            total || !own.keys.is_disjoint(&other.keys)
        })
    }
}

impl History {
    /// The store has answered a batch, or lost it.
    pub(crate) fn complete(&self, id: usize, mut plan: Vec<Entry>, order: Order, world: &World) {
        let mut record = self.record();
        let decided = world.moment();
        plan.iter_mut().for_each(|entry| entry.decided = decided);
        record.batches[id].entries = plan;
        record.batches[id].completed = true;
        loop {
            let mut waiting = record.in_flight();
            let Some(next) = waiting.find(|id| record.may_go(*id, order)) else {
                break;
            };
            drop(waiting);
            let released = world.moment();
            let rounds = record.rounds_seen;
            let batch = &mut record.batches[next];
            batch.rounds = rounds;
            batch.released = Some(released);
            let mut entries = batch.entries.clone();
            entries
                .iter_mut()
                .for_each(|entry| entry.answered = released);
            record.entries.append(&mut entries);
        }
    }
}
