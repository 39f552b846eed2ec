//! A store that takes its time, takes commands as it likes, and fails now and then.

use std::time::Duration;

use keywire::{
    Error,
    protocol::{Operation, Write},
    store::{Batch, Memory, Store, StoreSize},
};

use crate::{
    history::{Entry, History, Kind, Limit, What, base, line_of, tag},
    lists::{Lists, Room},
    world::{Moment, World},
};

/// A store that takes its time, takes commands as it likes, and fails now and then.
pub(crate) struct FaultyStore {
    pub(crate) world: World,
    pub(crate) memory: Memory,
    pub(crate) lists: Lists,
    pub(crate) history: History,
    pub(crate) faults: StoreFaults,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreFaults {
    /// Commands that it takes before it answers the first of them, at the most.
    pub(crate) ahead: usize,
    /// Whether batches fail.
    pub(crate) fails: bool,
    pub(crate) room: Room,
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
        let what = self.judged(operation);
        if let (Operation::Write(write), What::Written(..)) = (operation, &what) {
            self.lists.write(write);
            match without_tag(write) {
                Write::Put { key, value } => self.memory.put(key, value),
                Write::Delete { key } => self.memory.delete(key),
                Write::Update { key, old, new } => self.memory.update(key, old, new),
                Write::Set { key, value } => self.memory.set(key, value),
                Write::Remove { key, value } => self.memory.remove(key, value),
            }
        }
        self.entry(operation, what)
    }

    /// What a command comes to.
    fn judged(&self, operation: Operation<'_>) -> What {
        match (operation, self.lists.full(operation, self.faults.room)) {
            (_, Some(limit)) => What::Full(limit),
            (Operation::Get { key }, None) => self.read(key),
            (Operation::Write(write), None) => written(write),
        }
    }

    /// Leaves a command to `Memory`, answer and all, and looks whether it did what it should.
    fn leave_to_memory(&mut self, operation: Operation<'_>, batch: &mut Batch<'_>) {
        let what = self.judged(operation);
        let inner = match operation {
            Operation::Get { key } => Operation::Get { key: base(key) },
            Operation::Write(write) => Operation::Write(without_tag(write)),
        };
        let at = self.world.moment();
        self.memory.answer(inner, batch);
        if let (Operation::Write(write), What::Written(..)) = (inner, &what) {
            self.lists.write(write);
        }
        let now = self.memory.get(inner.key());
        let values = self.lists.get(inner.key()).iter();
        assert!(now.eq(values), "{what:?} left other values");
        let mut entry = self.entry(operation, what);
        entry.at = at;
        entry.answered = self.world.moment();
        self.history.record().entries.push(entry);
    }

    fn read(&self, key: &[u8]) -> What {
        let values = self.lists.get(key).iter();
        What::Read(values.map(|value| [key, value].join(&b':')).collect())
    }

    fn entry(&self, operation: Operation<'_>, what: What) -> Entry {
        assert_eq!(self.memory.size(), self.lists.size());
        Entry {
            tag: tag(operation),
            key: operation.key().to_vec(),
            kind: Kind::of(operation),
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

/// The same, of the key without its tag.
fn without_tag(write: Write<'_>) -> Write<'_> {
    let key = base(write.key());
    match write {
        Write::Put { value, .. } => Write::Put { key, value },
        Write::Delete { .. } => Write::Delete { key },
        Write::Update { old, new, .. } => Write::Update { key, old, new },
        Write::Set { value, .. } => Write::Set { key, value },
        Write::Remove { value, .. } => Write::Remove { key, value },
    }
}

fn written(write: Write<'_>) -> What {
    What::Written(write.key().to_vec(), line_of(write))
}

fn answer(batch: &mut Batch<'_>, what: &What) {
    match what {
        What::Failed | What::Unconfirmed(_) => batch.fail(&Error::store("a whim")),
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
