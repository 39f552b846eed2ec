//! Changes and batches of the buckets that are watched, in one order. No I/O.
//!
//! Each write of a bucket has the bucket's next number. What is told of a bucket is its changes in the order
//! of their numbers, each once, or that some were missed. Batches are those of clients that watch.
//!
//! - A change is told when it comes. Only a client that has a batch with `Get`s of the bucket under way is
//!   told of it with that batch: before the `Get`s if they show it, otherwise behind them.
//! - A batch that took effect at number n comes back when all changes up to n were told. If they do not come
//!   in time, the bucket's watchers are told that they missed some, and the batch comes back.
//! - If changes were missed while a batch was under way, its client is told so behind it once more, since the
//!   `Get`s may show what was before that.

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod ticket;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use slab::Slab;
use smallvec::SmallVec;

use crate::store::OwnChanges;
pub(super) use ticket::Numbers;
use ticket::{Part, Ticket};

/// A batch that is answered waits no longer for the changes before it.
pub(super) const HOLD_TIME: Duration = Duration::from_secs(1);

/// What comes out, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Output<B> {
    /// For all that watch, but for these clients, which are in order.
    Change {
        line: Arc<[u8]>,
        except: Box<[usize]>,
    },
    /// Of this bucket.
    Missed(u16),
    /// With what its client is told around it.
    Batch(B, OwnChanges),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It was never subscribed. Nobody watches it yet.
    New,
    /// What is missing is found out when it is subscribed again.
    Lost,
    /// The same, and its watchers were told that they missed some. No batch waits for it.
    Missed,
    Live,
}

struct Bucket {
    phase: Phase,
    /// The number of the last change that was told or counts as missed.
    told: u64,
    /// Clients that have batches with `Get`s under way, and these batches.
    readers: BTreeMap<usize, usize>,
    /// Batches that are answered, by the number up to which they wait.
    answered: BTreeSet<(u64, usize)>,
}

pub(super) struct Sequencer<B> {
    buckets: Vec<Option<Box<Bucket>>>,
    tickets: Slab<Ticket<B>>,
    /// Those that wait for changes, in the order they were answered. Some may be gone.
    waiting: VecDeque<(usize, Instant)>,
    pub(super) out: VecDeque<Output<B>>,
}

impl<B> Sequencer<B> {
    pub(super) fn new(buckets: u16) -> Self {
        Self {
            buckets: (0..buckets).map(|_| None).collect(),
            tickets: Slab::new(),
            waiting: VecDeque::new(),
            out: VecDeque::new(),
        }
    }

    fn bucket(&mut self, bucket: u16) -> Option<&mut Bucket> {
        self.buckets[usize::from(bucket)].as_deref_mut()
    }

    pub(super) fn watch(&mut self, bucket: u16) {
        self.buckets[usize::from(bucket)].get_or_insert_with(|| {
            Box::new(Bucket {
                phase: Phase::New,
                told: 0,
                readers: BTreeMap::new(),
                answered: BTreeSet::new(),
            })
        });
    }

    /// Nobody watches it any more.
    pub(super) fn unwatch(&mut self, bucket: u16) {
        if let Some(it) = self.buckets[usize::from(bucket)].take() {
            for &ticket in it.readers.values() {
                if let Some(ticket) = self.tickets.get_mut(ticket) {
                    ticket.parts.retain(|part| part.bucket != bucket);
                    ticket.forget(bucket);
                }
            }
            for (_, ticket) in it.answered {
                self.on_part_ready(ticket);
            }
        }
    }

    pub(super) fn is_watched(&self, bucket: u16) -> bool {
        self.buckets[usize::from(bucket)].is_some()
    }

    /// Whether all changes from now on will be told.
    pub(super) fn is_live(&self, bucket: u16) -> bool {
        let bucket = self.buckets[usize::from(bucket)].as_ref();
        bucket.is_some_and(|it| it.phase == Phase::Live)
    }

    /// The subscription is gone.
    pub(super) fn on_lost(&mut self, bucket: u16) {
        if let Some(it) = self.bucket(bucket)
            && it.phase == Phase::Live
        {
            it.phase = Phase::Lost;
        }
    }

    /// It is subscribed, and its number is this. `is_same`: numbers are those of the same history as before,
    /// so that an equal one means that nothing was missed.
    pub(super) fn on_number(&mut self, bucket: u16, number: u64, is_same: bool) {
        let Some(it) = self.bucket(bucket) else {
            return;
        };
        match it.phase {
            Phase::New => {
                it.phase = Phase::Live;
                it.told = number;
            }
            Phase::Lost | Phase::Live if is_same && it.told == number => it.phase = Phase::Live,
            _ => self.miss(bucket, number, Phase::Live),
        }
        self.release(bucket);
    }

    /// A change has come.
    pub(super) fn on_change(&mut self, bucket: u16, number: u64, line: &[u8]) {
        let Self {
            buckets, tickets, ..
        } = self;
        let Some(it) = buckets[usize::from(bucket)].as_deref_mut() else {
            return;
        };
        if it.phase == Phase::New {
            return;
        }
        if it.told.checked_add(1) == Some(number) {
            it.told = number;
            let line: Arc<[u8]> = line.into();
            for &ticket in it.readers.values() {
                if let Some(ticket) = tickets.get_mut(ticket) {
                    ticket.keep(bucket, number, &line);
                }
            }
            let except = it.readers.keys().copied().collect();
            self.out.push_back(Output::Change { line, except });
            self.release(bucket);
        } else if it.phase == Phase::Live {
            self.miss(bucket, number, Phase::Live);
        }
        // Otherwise its number tells, which is asked for.
    }

    /// Changes up to this number were missed, or are not known.
    fn miss(&mut self, bucket: u16, number: u64, phase: Phase) {
        let Self {
            buckets, tickets, ..
        } = self;
        let Some(it) = buckets[usize::from(bucket)].as_deref_mut() else {
            return;
        };
        it.phase = phase;
        it.told = number;
        for &ticket in it.readers.values() {
            if let Some(ticket) = tickets.get_mut(ticket) {
                ticket.miss(bucket);
            }
        }
        let answered = std::mem::take(&mut it.answered);
        self.out.push_back(Output::Missed(bucket));
        for (_, ticket) in answered {
            self.on_part_ready(ticket);
        }
    }

    /// A client that watches is about to send a batch that touches these buckets, some of them with a `Get`.
    /// `None` if it need not wait for anything.
    pub(super) fn begin(
        &mut self,
        client: usize,
        touched: impl Iterator<Item = (u16, bool)>,
    ) -> Option<usize> {
        let mut parts: SmallVec<[Part; 2]> = SmallVec::new();
        for (bucket, has_get) in touched {
            let Some(it) = &self.buckets[usize::from(bucket)] else {
                continue;
            };
            match parts.iter_mut().find(|part| part.bucket == bucket) {
                Some(part) => part.has_get |= has_get,
                None => parts.push(Part {
                    bucket,
                    has_get,
                    numbers: None,
                    is_stale: it.phase == Phase::Missed,
                }),
            }
        }
        if parts.is_empty() {
            return None;
        }
        let ticket = self.tickets.insert(Ticket {
            client,
            batch: None,
            parts: parts.clone(),
            unready: 0,
            kept: Vec::new(),
            kept_bytes: 0,
            answered_at: None,
        });
        for part in parts.iter().filter(|part| part.has_get) {
            if let Some(it) = self.bucket(part.bucket) {
                it.readers.insert(client, ticket);
            }
        }
        Some(ticket)
    }

    /// The batch is answered. `numbers` gives those at which it took effect in a bucket; none if they are not
    /// known, or if it shows and changed nothing there.
    pub(super) fn answer(
        &mut self,
        ticket: usize,
        batch: B,
        numbers: impl Fn(u16) -> Option<Numbers>,
        now: Instant,
    ) {
        let Self {
            buckets, tickets, ..
        } = self;
        let Some(it) = tickets.get_mut(ticket) else {
            return;
        };
        it.batch = Some(batch);
        // Until all parts are looked at.
        it.unready = 1;
        for part in &mut it.parts {
            part.numbers = numbers(part.bucket);
            let Some(bucket) = buckets[usize::from(part.bucket)].as_deref_mut() else {
                continue;
            };
            if let Some(Numbers { last, .. }) = part.numbers
                && last > bucket.told
                && !part.is_stale
                && bucket.phase != Phase::Missed
            {
                bucket.answered.insert((last, ticket));
                it.unready += 1;
            }
        }
        if it.unready > 1 {
            it.answered_at = Some(now);
            let is_gone = |&(ticket, since): &(usize, Instant)| {
                let ticket = tickets.get(ticket);
                ticket.is_none_or(|it| it.answered_at != Some(since))
            };
            while self.waiting.front().is_some_and(is_gone) {
                self.waiting.pop_front();
            }
            self.waiting.push_back((ticket, now));
        }
        self.on_part_ready(ticket);
    }

    /// The batch will not be answered.
    pub(super) fn cancel(&mut self, ticket: usize) {
        let Some(mut gone) = self.tickets.try_remove(ticket) else {
            return;
        };
        self.remove_parts(ticket, &gone);
        for (bucket, ..) in std::mem::take(&mut gone.kept) {
            gone.miss(bucket);
        }
        for part in gone.parts.iter().filter(|part| part.is_stale) {
            self.out.push_back(Output::Missed(part.bucket));
        }
    }

    fn remove_parts(&mut self, ticket: usize, gone: &Ticket<B>) {
        for part in &gone.parts {
            if let Some(it) = self.bucket(part.bucket) {
                if it.readers.get(&gone.client) == Some(&ticket) {
                    it.readers.remove(&gone.client);
                }
                if let Some(Numbers { last, .. }) = part.numbers {
                    it.answered.remove(&(last, ticket));
                }
            }
        }
    }

    fn on_part_ready(&mut self, ticket: usize) {
        let Some(it) = self.tickets.get_mut(ticket) else {
            return;
        };
        it.unready = it.unready.saturating_sub(1);
        if it.unready > 0 {
            return;
        }
        let Some(batch) = it.batch.take() else {
            return;
        };
        let mut gone = self.tickets.remove(ticket);
        self.remove_parts(ticket, &gone);
        self.out
            .push_back(Output::Batch(batch, gone.take_changes()));
    }

    /// Gives back what has waited for what was told.
    fn release(&mut self, bucket: u16) {
        while let Some(it) = self.bucket(bucket)
            && let Some(&(number, ticket)) = it.answered.first()
            && number <= it.told
        {
            it.answered.pop_first();
            self.on_part_ready(ticket);
        }
    }

    /// When [`on_time`](Self::on_time) has something to do.
    #[cfg(test)]
    fn deadline(&self) -> Option<Instant> {
        let is_there = |&(ticket, since): &(usize, Instant)| {
            let ticket = self.tickets.get(ticket);
            ticket.is_some_and(|it| it.answered_at == Some(since))
        };
        let first = self.waiting.iter().copied().find(is_there);
        first.map(|(_, since)| since + HOLD_TIME)
    }

    /// Lets go what has waited too long. Gives the buckets whose subscription has not brought what it should
    /// have.
    pub(super) fn on_time(&mut self, now: Instant) -> Vec<u16> {
        let mut silent = Vec::new();
        while let Some(&(ticket, since)) = self.waiting.front()
            && since + HOLD_TIME <= now
        {
            self.waiting.pop_front();
            let it = self.tickets.get(ticket);
            let Some(it) = it.filter(|it| it.answered_at == Some(since)) else {
                continue;
            };
            for part in it.parts.clone() {
                if let Some(Numbers { last, .. }) = part.numbers
                    && let Some(it) = self.bucket(part.bucket)
                    && it.answered.contains(&(last, ticket))
                {
                    silent.push(part.bucket);
                    self.miss(part.bucket, last, Phase::Missed);
                }
            }
        }
        silent
    }
}
