//! A store that answers at once, takes commands as it likes, and fails now and then.

use std::future::Future;

use keywire::{
    protocol::{Operation, Write},
    store::{Answer, Batch, KeyPage, Memory, Order, Store, StoreSize, Submission},
};

use crate::{
    history::{Entry, History, Kind, Limit, What, base, line_of, tag},
    lists::{Lists, Room},
    walks::{Page, name},
    world::World,
};

/// What a store does wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreFaults {
    /// Whether batches and pages fail.
    pub(crate) fails: bool,
    /// Whether some never come back.
    pub(crate) sticks: bool,
    pub(crate) room: Room,
    /// Names of a page, at the most.
    pub(crate) page: usize,
}

pub(crate) struct FaultyStore {
    pub(crate) world: World,
    pub(crate) memory: Memory,
    pub(crate) lists: Lists,
    pub(crate) history: History,
    pub(crate) faults: StoreFaults,
}

/// Batches without a command for the store, after which a server does nothing else. Clients do not
/// send as many lines.
const CIRCLES: usize = 1000;

impl FaultyStore {
    /// What a command comes to.
    fn judge(&self, operation: Operation<'_>) -> What {
        match (operation, self.lists.full(operation, self.faults.room)) {
            (_, Some(limit)) => What::Full(limit),
            (Operation::Write(write), None) => What::Written(write.key().to_vec(), line_of(write)),
            (asked, None) => read(&self.lists, asked.key()),
        }
    }

    fn write(&mut self, write: Write<'_>) {
        self.lists.write(write);
        match without_tag(write) {
            Write::Put { key, value } => self.memory.put(key, value),
            Write::Delete { key } => self.memory.delete(key),
            Write::Update { key, old, new } => self.memory.update(key, old, new),
            Write::Set { key, value } => self.memory.set(key, value),
            Write::Remove { key, value } => self.memory.remove(key, value),
            _ => panic!("{write:?} is new"),
        }
    }

    /// Applies a command, or does not, and answers it.
    fn apply(
        &mut self,
        operation: Operation<'_>,
        answer: Answer<'_>,
        fails: bool,
        by_memory: impl Fn(&mut Memory, Operation<'_>, Answer<'_>),
    ) {
        let at = self.world.moment();
        let is_write = matches!(operation, Operation::Write(_));
        let what = if fails || self.world.once_in(30) {
            answer.fail("a whim");
            What::Failed
        } else if self.world.once_in(60) {
            // So is what is left without an answer.
            if self.world.once_in(2) {
                answer.unconfirmed("a whim");
            }
            match is_write {
                true => What::Unconfirmed(self.maybe_write(operation)),
                false => What::Failed,
            }
        } else {
            let what = self.judge(operation);
            if self.world.once_in(2) {
                let by_memory = |memory: &mut Memory, inner: Operation<'_>| {
                    by_memory(memory, inner, answer);
                };
                self.leave_to_memory(operation, &what, by_memory);
            } else {
                if let (Operation::Write(write), What::Written(..)) = (operation, &what) {
                    self.write(write);
                }
                give(answer, &what);
            }
            what
        };
        assert_eq!(self.memory.size(), self.lists.size());
        let answered = self.world.moment();
        let entry = Entry {
            tag: tag(operation),
            key: operation.key().to_vec(),
            kind: Kind::of(operation),
            what,
            at,
            decided: answered,
            answered,
            held: self.memory.size(),
            number: 0,
            connection: 0,
            line: Vec::new(),
        };
        self.history.record().push(entry);
    }

    /// Gives the line that would tell of it, if it was applied.
    fn maybe_write(&mut self, operation: Operation<'_>) -> Option<Vec<u8>> {
        let What::Written(_, line) = self.judge(operation) else {
            return None;
        };
        match operation {
            Operation::Write(write) if self.world.once_in(2) => self.write(write),
            _ => return None,
        }
        Some(line)
    }

    /// Leaves a command to `Memory`, answer and all, and looks whether it did what it should.
    fn leave_to_memory(
        &mut self,
        operation: Operation<'_>,
        what: &What,
        by_memory: impl FnOnce(&mut Memory, Operation<'_>),
    ) {
        let inner = match operation {
            Operation::Write(write) => Operation::Write(without_tag(write)),
            read => Operation::Get {
                key: base(read.key()),
            },
        };
        by_memory(&mut self.memory, inner);
        if let (Operation::Write(write), What::Written(..)) = (inner, what) {
            self.lists.write(write);
        }
        let now = self.memory.get(inner.key());
        let values = self.lists.get(inner.key()).iter();
        assert!(now.eq(values), "{what:?} left other values");
    }
}

/// The lines that a key is answered with.
pub(crate) fn read(lists: &Lists, key: &[u8]) -> What {
    let values = lists.get(key).iter();
    What::Read(values.map(|value| [key, value].join(&b':')).collect())
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
        _ => panic!("{write:?} is new"),
    }
}

/// Answers a command.
pub(crate) fn give(answer: Answer<'_>, what: &What) {
    match what {
        What::Failed => answer.fail("a whim"),
        What::Unconfirmed(_) => answer.unconfirmed("a whim"),
        What::Full(Limit::Store) => answer.store_full(),
        What::Full(Limit::Values) => answer.values_full(),
        What::Written(..) => answer.done(),
        What::Read(lines) => {
            let value = |line: &'_ [u8]| line.iter().position(|&byte| byte == b':').unwrap() + 1;
            let values: Vec<&[u8]> = lines.iter().map(|line| &line[value(line)..]).collect();
            answer.values(values);
        }
    }
}

impl Store for FaultyStore {
    const ORDER: Order = Order::Immediate;

    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        let before = self.history.record().entries.len();
        let limits = self.memory.limits(&batch);
        let fails = self.faults.fails && self.world.once_in(40);
        batch.each(|operation, answer| {
            self.apply(operation, answer, fails, |memory, inner, answer| {
                memory.apply(inner, answer, limits);
            });
        });
        let mut record = self.history.record();
        record.end_round(&self.world);
        let applied = record.entries.len();
        record.empty = match applied == before {
            true => record.empty + 1,
            false => 0,
        };
        assert!(record.empty < CIRCLES, "the server turns in circles");
        drop(record);
        batch.done()
    }

    fn keys(
        &mut self,
        mut page: KeyPage,
    ) -> Submission<KeyPage, impl Future<Output = KeyPage> + Send + 'static> {
        let asked = self.world.moment();
        let (prefix, cursor) = (page.prefix().to_vec(), page.cursor().to_vec());
        let most = self.world.random(|rng| rng.usize(..=self.faults.page));
        let (keys, next) = self.lists.page(base(&prefix), &cursor, most);
        let names: Vec<_> = keys.iter().map(|key| name(&prefix, key)).collect();
        let failed = self.faults.fails && self.world.once_in(10);
        if failed {
            page.fail("a whim");
        } else {
            fill(&mut page, &names, &next);
        }
        let entries = self.history.record().entries.len();
        let page_log = Page {
            asked,
            entries,
            prefix: prefix.clone(),
            cursor,
            next,
            names: if failed { Vec::new() } else { names },
            answered: self.world.moment(),
            failed,
        };
        let mut record = self.history.record();
        record.add_page(&prefix, page_log);
        record.end_round(&self.world);
        drop(record);
        page.done()
    }

    fn size(&self) -> StoreSize {
        self.memory.size()
    }
}

/// Names that no key can have, and those of others, are left out.
pub(crate) fn fill(page: &mut KeyPage, names: &[Vec<u8>], next: &[u8]) {
    for name in names {
        page.push(b"");
        if !page.prefix().is_empty() {
            page.push(b"other");
        }
        page.push(&[name, &b":1"[..]].concat());
        page.push(name);
    }
    if !next.is_empty() {
        page.set_next(next);
    }
}

impl crate::history::Record {
    /// Another round ends in each step.
    pub(crate) fn end_round(&mut self, world: &World) {
        let step = world.step();
        if self.step == step {
            self.rounds.pop();
        }
        self.step = step;
        let round = (self.entries.len(), world.moment());
        self.rounds.push(round);
    }

    fn push(&mut self, entry: Entry) {
        if entry.kind == Kind::Walk {
            let reads = self.walks.entry(entry.tag).or_default();
            reads.reads.push(self.entries.len());
        }
        self.entries.push(entry);
    }

    fn add_page(&mut self, prefix: &[u8], page: Page) {
        let tag = crate::history::tag_of(prefix).expect("a tag");
        self.walks.entry(tag).or_default().pages.push(page);
    }
}
