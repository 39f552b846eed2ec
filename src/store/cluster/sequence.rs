//! Changes and batches of the buckets that are watched, in one order. No I/O.
//!
//! Each write of a bucket has the bucket's next number. What is told of a bucket is its changes in the order
//! of their numbers, each once, or that some were missed.
//!
//! - A batch that took effect at number n comes back when all changes up to n were told.
//! - A change is told when all batches with `Get`s that took effect before it have come back.
//! - If either can't be, because changes were lost, the bucket's watchers are told that they missed some, and
//!   the batch comes back. If it shows what was before that, they are told so behind it as well.

#[cfg(test)]
mod simulation;

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use slab::Slab;
use smallvec::SmallVec;

/// A batch waits no longer for the changes before it, nor a change for the batches before it.
pub(super) const HOLD_TIME: Duration = Duration::from_secs(1);

/// Bytes of changes of one bucket that wait for batches. If there are more, they count as missed.
const MAX_WAITING: usize = 16 << 20;

/// What comes out, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Output<B> {
    Change(Vec<u8>),
    /// Of this bucket.
    Missed(u16),
    Batch(B),
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
    /// The number of the last change that has come.
    seen: u64,
    /// Those between, with their numbers.
    waiting: VecDeque<(u64, Vec<u8>)>,
    waiting_bytes: usize,
    /// Batches with `Get`s, by the number before which they did not take effect.
    readers: BTreeSet<(u64, usize)>,
    /// Batches that are answered, by the number up to which they wait.
    answered: BTreeSet<(u64, usize)>,
}

/// What a batch has to do with a bucket.
#[derive(Clone, Copy, Debug)]
struct Part {
    bucket: u16,
    has_get: bool,
    /// It took effect at this number; until it is answered, not before.
    number: u64,
    /// Some changes were missed since it was submitted, and maybe the others were told.
    is_stale: bool,
}

struct Ticket<B> {
    /// There when it is answered.
    batch: Option<B>,
    parts: SmallVec<[Part; 2]>,
    /// Parts that wait for changes.
    unready: usize,
    since: Instant,
}

pub(super) struct Sequencer<B> {
    buckets: Vec<Option<Box<Bucket>>>,
    tickets: Slab<Ticket<B>>,
    /// In the order they began. Some may be gone.
    ages: VecDeque<(usize, Instant)>,
    /// Buckets where something may go on.
    dirty: Vec<u16>,
    pub(super) out: VecDeque<Output<B>>,
}

impl<B> Sequencer<B> {
    pub(super) fn new(buckets: u16) -> Self {
        Self {
            buckets: (0..buckets).map(|_| None).collect(),
            tickets: Slab::new(),
            ages: VecDeque::new(),
            dirty: Vec::new(),
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
                seen: 0,
                waiting: VecDeque::new(),
                waiting_bytes: 0,
                readers: BTreeSet::new(),
                answered: BTreeSet::new(),
            })
        });
    }

    /// Nobody watches it any more.
    pub(super) fn unwatch(&mut self, bucket: u16) {
        if let Some(it) = self.buckets[usize::from(bucket)].take() {
            let Bucket {
                readers, answered, ..
            } = *it;
            self.leave(bucket, readers, answered, false);
            self.run();
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
                (it.told, it.seen) = (number, number);
            }
            Phase::Lost | Phase::Live if is_same && it.seen == number => it.phase = Phase::Live,
            _ => self.miss(bucket, number, Phase::Live),
        }
        self.dirty.push(bucket);
        self.run();
    }

    /// A change has come.
    pub(super) fn on_change(&mut self, bucket: u16, number: u64, line: &[u8]) {
        let Some(it) = self.bucket(bucket) else {
            return;
        };
        if it.phase == Phase::New {
            return;
        }
        if it.seen.checked_add(1) == Some(number)
            && it.waiting_bytes + line.len() <= MAX_WAITING.max(line.len())
        {
            it.seen = number;
            it.waiting_bytes += line.len();
            it.waiting.push_back((number, line.to_vec()));
            self.dirty.push(bucket);
        } else if it.phase == Phase::Live {
            self.miss(bucket, number, Phase::Live);
        }
        self.run();
        // Otherwise its number tells, which is asked for.
    }

    /// Changes up to this number were missed, or are not known.
    fn miss(&mut self, bucket: u16, number: u64, phase: Phase) {
        let Some(it) = self.bucket(bucket) else {
            return;
        };
        it.phase = phase;
        (it.told, it.seen) = (number, number);
        it.waiting.clear();
        it.waiting_bytes = 0;
        let readers = std::mem::take(&mut it.readers);
        let answered = std::mem::take(&mut it.answered);
        self.out.push_back(Output::Missed(bucket));
        self.leave(bucket, readers, answered, true);
    }

    /// These batches wait for the bucket no more.
    fn leave(
        &mut self,
        bucket: u16,
        readers: BTreeSet<(u64, usize)>,
        answered: BTreeSet<(u64, usize)>,
        is_stale: bool,
    ) {
        for &(_, ticket) in &readers {
            let ticket = self.tickets.get_mut(ticket);
            let parts = ticket.into_iter().flat_map(|it| &mut it.parts);
            for part in parts.filter(|part| part.bucket == bucket) {
                part.is_stale = is_stale;
            }
        }
        let ready: SmallVec<[usize; 8]> = answered.into_iter().map(|(_, it)| it).collect();
        for ticket in ready {
            self.on_part_ready(ticket);
        }
    }

    /// A batch that touches these buckets, some of them with a `Get`, is about to be sent. `None` if it need
    /// not wait for anything.
    pub(super) fn begin(
        &mut self,
        touched: impl Iterator<Item = (u16, bool)>,
        now: Instant,
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
                    number: it.seen,
                    is_stale: it.phase == Phase::Missed,
                }),
            }
        }
        if parts.is_empty() {
            return None;
        }
        let ticket = self.tickets.insert(Ticket {
            batch: None,
            parts: parts.clone(),
            unready: 0,
            since: now,
        });
        self.ages.push_back((ticket, now));
        for part in parts.iter().filter(|part| part.has_get && !part.is_stale) {
            if let Some(it) = self.bucket(part.bucket) {
                it.readers.insert((part.number, ticket));
            }
        }
        Some(ticket)
    }

    /// The batch is answered. `number` gives the number at which it took effect in a bucket; none if that is
    /// not known, or if it shows and changed nothing there.
    pub(super) fn answer(&mut self, ticket: usize, batch: B, number: impl Fn(u16) -> Option<u64>) {
        let Some(it) = self.tickets.get_mut(ticket) else {
            return;
        };
        it.batch = Some(batch);
        // Until all parts are looked at.
        it.unready = 1;
        for index in 0..it.parts.len() {
            let it = &mut self.tickets[ticket];
            let part = &mut it.parts[index];
            let old = part.number;
            let number = number(part.bucket);
            part.has_get &= number.is_some();
            part.number = number.unwrap_or(old);
            let part = *part;
            let Some(bucket) = self.buckets[usize::from(part.bucket)].as_deref_mut() else {
                continue;
            };
            if bucket.readers.remove(&(old, ticket)) && part.has_get {
                bucket.readers.insert((part.number, ticket));
            }
            let waits = number.is_some_and(|number| number > bucket.told);
            if waits && !part.is_stale && bucket.phase != Phase::Missed {
                bucket.answered.insert((part.number, ticket));
                it.unready += 1;
            }
        }
        let parts = &self.tickets[ticket].parts;
        self.dirty.extend(parts.iter().map(|part| part.bucket));
        self.on_part_ready(ticket);
        self.run();
    }

    /// The batch will not be answered.
    pub(super) fn cancel(&mut self, ticket: usize) {
        if let Some(ticket_gone) = self.tickets.try_remove(ticket) {
            self.remove_parts(ticket, &ticket_gone.parts);
            self.run();
        }
    }

    fn remove_parts(&mut self, ticket: usize, parts: &[Part]) {
        for part in parts {
            if let Some(it) = self.bucket(part.bucket) {
                it.readers.remove(&(part.number, ticket));
                it.answered.remove(&(part.number, ticket));
                self.dirty.push(part.bucket);
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
        let parts = self.tickets.remove(ticket).parts;
        self.out.push_back(Output::Batch(batch));
        for part in parts.iter().filter(|part| part.is_stale && part.has_get) {
            if self.is_watched(part.bucket) {
                self.out.push_back(Output::Missed(part.bucket));
            }
        }
        self.remove_parts(ticket, &parts);
    }

    fn run(&mut self) {
        while let Some(bucket) = self.dirty.pop() {
            self.advance(bucket);
        }
    }

    /// Tells what can be told, and gives back what waited for it.
    fn advance(&mut self, bucket: u16) {
        loop {
            let Some(it) = self.bucket(bucket) else {
                return;
            };
            if let Some(&(number, ticket)) = it.answered.first()
                && number <= it.told
            {
                it.answered.pop_first();
                self.on_part_ready(ticket);
                continue;
            }
            let Some(&(number, _)) = it.waiting.front() else {
                return;
            };
            if it.readers.first().is_some_and(|&(read, _)| read < number) {
                return;
            }
            if let Some((number, line)) = it.waiting.pop_front() {
                it.waiting_bytes -= line.len();
                it.told = number;
                self.out.push_back(Output::Change(line));
            }
        }
    }

    /// When [`on_time`](Self::on_time) has something to do.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        while let Some(&(ticket, since)) = self.ages.front() {
            match self.tickets.get(ticket) {
                Some(it) if it.since == since => return Some(since + HOLD_TIME),
                _ => self.ages.pop_front(),
            };
        }
        None
    }

    /// Lets go what has waited too long. Gives the buckets whose subscription has not brought what it should
    /// have.
    pub(super) fn on_time(&mut self, now: Instant) -> Vec<u16> {
        let mut silent = Vec::new();
        while self.deadline().is_some_and(|deadline| deadline <= now) {
            let Some((ticket, _)) = self.ages.pop_front() else {
                break;
            };
            let Some(it) = self.tickets.get(ticket) else {
                continue;
            };
            let is_answered = it.batch.is_some();
            for part in it.parts.clone() {
                let Some(it) = self.bucket(part.bucket) else {
                    continue;
                };
                let is_late = it.answered.contains(&(part.number, ticket));
                if is_late && is_answered && it.seen < part.number {
                    // They should have come.
                    silent.push(part.bucket);
                    self.miss(part.bucket, part.number, Phase::Missed);
                } else if is_late
                    || !it.waiting.is_empty() && it.readers.contains(&(part.number, ticket))
                {
                    let (seen, phase) = (it.seen, it.phase);
                    self.miss(part.bucket, seen, phase);
                }
            }
            self.run();
            if let Some(it) = self.tickets.get_mut(ticket) {
                // Nothing waits for it yet.
                it.since = now;
                self.ages.push_back((ticket, now));
            }
        }
        silent
    }
}
