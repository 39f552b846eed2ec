//! One history of all commands, kept by the store.
//!
//! Every command carries a tag, `CLIENT.NUMBER`: in its key behind a `#` that the store strips, so
//! that each reply and each event names the command it came from, or else as its value.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use keywire::{
    Error,
    protocol::{Operation, Reply, Write},
    store::{Batch, Memory, Store, StoreSize},
};

use crate::world::{Moment, World, lock};

pub(crate) type Tag = (usize, usize);

/// A command that the store has been given.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) tag: Tag,
    pub(crate) kind: Kind,
    pub(crate) what: What,
    /// When it was taken.
    pub(crate) at: Moment,
    /// When it was answered.
    pub(crate) answered: Moment,
    /// What the store held then.
    pub(crate) held: StoreSize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Get,
    Put,
    Update,
    Delete,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Failed,
    /// It would have gone over a limit.
    Full(Limit),
    /// The lines that it is answered with.
    Read(Vec<Vec<u8>>),
    /// The key, and the line that tells of it.
    Written(Vec<u8>, Vec<u8>),
}

/// What a write may go over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    Store,
    Values,
}

/// What the store did, in order.
#[derive(Clone, Default)]
pub(crate) struct History(Arc<Mutex<Record>>);

#[derive(Default)]
pub(crate) struct Record {
    pub(crate) entries: Vec<Entry>,
    /// When rounds ended, and the number of entries by then. Two rounds are taken for one where
    /// nothing else happened between them.
    pub(crate) rounds: Vec<(usize, Moment)>,
    /// Batches in a row of which nothing was taken.
    empty: usize,
    /// The store is taking its time.
    pub(crate) busy: bool,
}

impl History {
    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        lock(&self.0)
    }
}

/// The key without its tag.
fn base(key: &[u8]) -> &[u8] {
    key.split(|&byte| byte == b'#').next().unwrap_or(key)
}

pub(crate) fn tag_of(text: &[u8]) -> Option<Tag> {
    let text = std::str::from_utf8(text).ok()?;
    let (client, number) = text.rsplit('#').next()?.split_once('.')?;
    Some((client.parse().ok()?, number.parse().ok()?))
}

pub(crate) fn tag(operation: Operation<'_>) -> Tag {
    let (key, value) = match operation {
        Operation::Get { key } | Operation::Write(Write::Delete { key }) => (key, key),
        Operation::Write(Write::Put { key, value }) => (key, value),
        Operation::Write(Write::Update { key, new, .. }) => (key, new),
    };
    tag_of(key)
        .or_else(|| tag_of(value))
        .expect("every command has a tag")
}

/// A store that takes its time, takes commands as it likes, and fails now and then.
pub(crate) struct FaultyStore {
    pub(crate) world: World,
    pub(crate) memory: Memory,
    pub(crate) history: History,
    pub(crate) faults: StoreFaults,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreFaults {
    /// Commands that it takes before it answers the first of them, at the most.
    pub(crate) ahead: usize,
    /// Whether batches fail.
    pub(crate) fails: bool,
    /// What it may hold, and how many values of a key.
    pub(crate) max_store: u64,
    pub(crate) max_values: usize,
}

/// Batches without a command for the store, after which a server does nothing else. Clients do not
/// send as many lines.
const CIRCLES: usize = 1000;

/// Commands of a batch that fails, at the most.
pub(crate) const FAILED: usize = 6;

impl StoreFaults {
    /// Commands in a row that are answered without a look at the room for their answers.
    pub(crate) fn blind(self) -> usize {
        if self.fails { FAILED } else { self.ahead }
    }
}

impl FaultyStore {
    fn apply_one(&mut self, operation: Operation<'_>) -> Entry {
        let what = match operation {
            Operation::Get { key } => self.read(key),
            _ if self.full(operation).is_some() => self.judged(operation),
            Operation::Write(Write::Put { key, value }) => {
                self.memory.put(base(key), value);
                written(operation)
            }
            Operation::Write(Write::Delete { key }) => {
                self.memory.delete(base(key));
                written(operation)
            }
            Operation::Write(Write::Update { key, old, new }) => {
                self.memory.update(base(key), old, new);
                written(operation)
            }
        };
        self.entry(operation, what)
    }

    /// What stands in the way of a write. On purpose not by the way of `Memory`.
    fn full(&self, operation: Operation<'_>) -> Option<Limit> {
        let (key, old, new) = match operation {
            Operation::Write(Write::Put { key, value }) => (base(key), None, value),
            Operation::Write(Write::Update { key, old, new }) => (base(key), Some(old), new),
            _ => return None,
        };
        let values: Vec<&[u8]> = self.memory.get(key).collect();
        let held = self.memory.size();
        let size = held.bytes + 64 * held.keys + 8 * held.values;
        let replaced = old.filter(|old| values.contains(old));
        let grown = match replaced {
            Some(old) => size + new.len() as u64 - old.len() as u64,
            None if values.is_empty() => size + 64 + key.len() as u64 + 8 + new.len() as u64,
            None => size + 8 + new.len() as u64,
        };
        if replaced.is_none() && values.len() >= self.faults.max_values {
            Some(Limit::Values)
        } else if grown > size && grown > self.faults.max_store {
            Some(Limit::Store)
        } else {
            None
        }
    }

    /// What a command comes to.
    fn judged(&self, operation: Operation<'_>) -> What {
        match (operation, self.full(operation)) {
            (_, Some(limit)) => What::Full(limit),
            (Operation::Get { key }, None) => self.read(key),
            (_, None) => written(operation),
        }
    }

    /// Leaves a command to `Memory`, answer and all, and looks whether it did what it should.
    fn leave_to_memory(&mut self, operation: Operation<'_>, batch: &mut Batch<'_>) {
        let what = self.judged(operation);
        let key = match operation {
            Operation::Get { key } | Operation::Write(Write::Delete { key }) => key,
            Operation::Write(Write::Put { key, .. })
            | Operation::Write(Write::Update { key, .. }) => key,
        };
        let key = base(key);
        let mut values: Vec<Vec<u8>> = self.memory.get(key).map(<[u8]>::to_vec).collect();
        let inner = match operation {
            Operation::Get { .. } => Operation::Get { key },
            Operation::Write(Write::Delete { .. }) => Operation::Write(Write::Delete { key }),
            Operation::Write(Write::Put { value, .. }) => {
                Operation::Write(Write::Put { key, value })
            }
            Operation::Write(Write::Update { old, new, .. }) => {
                Operation::Write(Write::Update { key, old, new })
            }
        };
        let at = self.world.moment();
        self.memory.answer(inner, batch);
        match inner {
            _ if !matches!(what, What::Written(..)) => {}
            Operation::Get { .. } => {}
            Operation::Write(Write::Delete { .. }) => values.clear(),
            Operation::Write(Write::Put { value, .. }) => values.push(value.to_vec()),
            Operation::Write(Write::Update { old, new, .. }) => {
                match values.iter_mut().find(|v| **v == old) {
                    Some(value) => *value = new.to_vec(),
                    None => values.push(new.to_vec()),
                }
            }
        }
        let now = self.memory.get(key);
        assert!(now.eq(values.iter()), "{what:?} left other values");
        let mut entry = self.entry(operation, what);
        entry.at = at;
        entry.answered = self.world.moment();
        self.history.record().entries.push(entry);
    }

    fn read(&self, key: &[u8]) -> What {
        let values = self.memory.get(base(key));
        What::Read(values.map(|value| [key, value].join(&b':')).collect())
    }

    fn entry(&self, operation: Operation<'_>, what: What) -> Entry {
        let kind = match operation {
            Operation::Get { .. } => Kind::Get,
            Operation::Write(Write::Put { .. }) => Kind::Put,
            Operation::Write(Write::Update { .. }) => Kind::Update,
            Operation::Write(Write::Delete { .. }) => Kind::Delete,
        };
        Entry {
            tag: tag(operation),
            kind,
            what,
            at: self.world.moment(),
            answered: Moment::NEVER,
            held: self.memory.size(),
        }
    }

    /// Answers what was taken, as it was noted in the history from this place on.
    fn answer(&self, batch: &mut Batch<'_>, from: usize) {
        let mut record = self.history.record();
        for entry in &mut record.entries[from..] {
            answer(batch, &entry.what);
            entry.answered = self.world.moment();
        }
    }

    /// Fails as a whole, having taken some commands and answered a few of those as if nothing were
    /// amiss.
    fn fail(&self, batch: &mut Batch<'_>) {
        let before = self.history.record().entries.len();
        let most = self.world.random(|rng| rng.usize(1..=FAILED));
        let ahead = self.world.random(|rng| rng.usize(1..=most));
        let mut unanswered = Vec::new();
        for _ in 0..most {
            let Some(operation) = batch.take() else { break };
            let entry = self.entry(operation, What::Failed);
            self.history.record().entries.push(entry);
            unanswered.push(match operation {
                Operation::Get { key } => self.read(key),
                _ => self.judged(operation),
            });
            if unanswered.len() == ahead {
                for what in unanswered.drain(..) {
                    answer(batch, &what);
                }
            }
        }
        let mut record = self.history.record();
        for entry in &mut record.entries[before..] {
            entry.answered = self.world.moment();
        }
    }

    fn apply_some(&mut self, batch: &mut Batch<'_>) {
        let ahead = self.faults.ahead;
        let ahead = self.world.random(|rng| rng.usize(1..=ahead));
        let most = self.world.random(|rng| rng.usize(1..60));
        let mut answered = self.history.record().entries.len();
        let mut taken = 0;
        loop {
            let operation = if taken < most { batch.take() } else { None };
            if let Some(operation) = operation {
                taken += 1;
                let so_far = self.history.record().entries.len();
                if so_far == answered && self.world.once_in(2) {
                    self.leave_to_memory(operation, batch);
                    answered += 1;
                    continue;
                }
                let entry = match self.world.once_in(30) {
                    true => self.entry(operation, What::Failed),
                    false => self.apply_one(operation),
                };
                self.history.record().entries.push(entry);
            }
            let so_far = self.history.record().entries.len();
            if so_far - answered >= ahead || operation.is_none() {
                self.answer(batch, answered);
                answered = so_far;
            }
            if operation.is_none() {
                break;
            }
        }
    }
}

fn written(operation: Operation<'_>) -> What {
    let Operation::Write(change) = operation else {
        panic!("a write");
    };
    What::Written(change.key().to_vec(), line_of(change))
}

pub(crate) fn line_of(change: Write<'_>) -> Vec<u8> {
    let mut line = Vec::new();
    Reply::Change(change).encode(&mut line);
    line.pop();
    line
}

fn answer(batch: &mut Batch<'_>, what: &What) {
    match what {
        What::Failed => batch.fail(&Error::store("a whim")),
        What::Full(Limit::Store) => batch.store_full(),
        What::Full(Limit::Values) => batch.values_full(),
        What::Written(..) => batch.done(),
        What::Read(lines) => {
            let value = |line: &'_ [u8]| line.iter().position(|&byte| byte == b':').unwrap() + 1;
            let values: Vec<&[u8]> = lines.iter().map(|line| &line[value(line)..]).collect();
            batch.values(values.into_iter());
        }
    }
}

impl Store for FaultyStore {
    async fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), Error> {
        let before = {
            let mut record = self.history.record();
            record.busy = true;
            if let Some((_, last)) = record.rounds.last() {
                if !self.world.has_gone_on_since(*last) {
                    record.rounds.pop();
                }
            }
            record.entries.len()
        };
        let fails = self.faults.fails && self.world.once_in(40);
        if fails {
            self.fail(batch);
        } else {
            self.apply_some(batch);
        }
        match self.world.random(|rng| rng.u32(..30)) {
            0 => {
                let time = self.world.random(|rng| rng.u64(..1500));
                self.world.sleep(Duration::from_millis(time)).await;
            }
            1..10 => self.world.give_way().await,
            _ => {}
        }
        let mut record = self.history.record();
        record.busy = false;
        let applied = record.entries.len();
        record.empty = match applied == before {
            true => record.empty + 1,
            false => 0,
        };
        assert!(record.empty < CIRCLES, "the server turns in circles");
        record.rounds.push((applied, self.world.moment()));
        drop(record);
        if fails {
            return Err(Error::store("a whim"));
        }
        Ok(())
    }

    fn size(&self) -> StoreSize {
        self.memory.size()
    }
}
