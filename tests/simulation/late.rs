//! A store that answers when it likes: late, in any order, wrongly, or never.
//!
//! Here keys have no tags, so that clients share them. A batch says in its `Debug` which connection it
//! is of; `identify` finds out which of the commands sent each one is. The values of a reply end with a
//! `@` and the number of the read.

use std::{
    collections::HashSet,
    fmt,
    future::{Future, pending},
    marker::PhantomData,
    panic::resume_unwind,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_lite::Stream;
use keywire::{
    protocol::{Operation, Topic},
    store::{Batch, Change, Changes, KeyPage, Order, Store, StoreSize, Submission, WatchRequest},
};

use crate::{
    elsewhere::{self, Elsewhere},
    fate::{Fate, dawdle},
    history::{Entry, History, Kind, What, line_of},
    lists::Lists,
    order::change,
    store::{StoreFaults, fill, give},
    subscribe::{Request, Subscriptions, owned},
    walks::Page,
    world::{Moment, World, lock},
};

/// What orders a store may keep.
pub(crate) trait KeepsOrder: Send + 'static {
    const ORDER: Order;
    const CHANGES: Changes = Changes::Elsewhere;
}

/// The same order, of a store that makes all changes known.
pub(crate) struct AllChanges<O>(PhantomData<O>);

impl<O: KeepsOrder> KeepsOrder for AllChanges<O> {
    const ORDER: Order = O::ORDER;
    const CHANGES: Changes = Changes::All;
}

pub(crate) struct KeepsNone;
pub(crate) struct KeepsPerKey;
pub(crate) struct KeepsTotal;

impl KeepsOrder for KeepsNone {
    const ORDER: Order = Order::None;
}

impl KeepsOrder for KeepsPerKey {
    const ORDER: Order = Order::PerKey;
}

impl KeepsOrder for KeepsTotal {
    const ORDER: Order = Order::Total;
}

pub(crate) struct LateStore<O> {
    pub(crate) world: World,
    pub(crate) lists: Arc<Mutex<Lists>>,
    pub(crate) history: History,
    pub(crate) faults: StoreFaults,
    /// Makes changes, if any are made elsewhere.
    pub(crate) elsewhere: Option<Elsewhere>,
    /// What is watched, and whether some changes of that are missed.
    pub(crate) subscriptions: Subscriptions,
    pub(crate) misses: bool,
    pub(crate) order: PhantomData<O>,
}

/// A batch that the store has been given.
pub(crate) struct Submitted {
    /// The connection that it is of.
    pub(crate) connection: usize,
    pub(crate) keys: HashSet<Vec<u8>>,
    /// What it has been asked, and then what it has answered.
    pub(crate) entries: Vec<Entry>,
    pub(crate) writes: bool,
    pub(crate) completed: bool,
    /// Rounds that had ended when its answers could go out.
    pub(crate) rounds: u64,
    /// When its answers could go out.
    pub(crate) released: Option<Moment>,
}

impl fmt::Debug for Submitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let released = self.released.map(|released| released.tick);
        writeln!(f, "connection {}, released {released:?}", self.connection)?;
        self.entries
            .iter()
            .try_for_each(|entry| writeln!(f, "  {entry:?}"))
    }
}

/// The connection of a batch.
fn connection_of(batch: &Batch) -> usize {
    let shown = format!("{batch:?}");
    let digits = shown.chars().filter(char::is_ascii_digit);
    digits.collect::<String>().parse().expect("a connection")
}

impl<O: KeepsOrder> LateStore<O> {
    /// What each command comes to. Its effect is there at once; it is told later.
    fn plan(&mut self, batch: &mut Batch, connection: usize, fate: Fate) -> Vec<Entry> {
        let mut plan = Vec::new();
        for operation in batch.operations() {
            let whim = self.world.random(|rng| rng.u8(..80));
            let is_write = matches!(operation, Operation::Write(_));
            let number = self.history.record().number();
            let what = match (fate, whim) {
                (Fate::Failed, _) | (Fate::Answered, 0..=1) => What::Failed,
                (Fate::Answered, 3..) => self.apply(operation, number),
                // It is not known what became of it.
                (_, whim) if is_write && whim % 2 == 0 => match self.apply(operation, number) {
                    What::Written(_, line) => What::Unconfirmed(Some(line)),
                    _ => What::Unconfirmed(None),
                },
                _ if is_write => What::Unconfirmed(None),
                _ => What::Failed,
            };
            plan.push(Entry {
                number,
                connection,
                tag: (usize::MAX, number),
                key: operation.key().to_vec(),
                kind: Kind::of(operation),
                line: command_of(operation),
                what,
                at: self.world.moment(),
                decided: Moment::NEVER,
                answered: Moment::NEVER,
                held: StoreSize::default(),
            });
        }
        plan
    }

    fn apply(&mut self, operation: Operation<'_>, number: usize) -> What {
        if let Some(limit) = lock(&self.lists).full(operation, self.faults.room) {
            return What::Full(limit);
        }
        match operation {
            Operation::Write(write) => {
                lock(&self.lists).write(write);
                What::Written(write.key().to_vec(), line_of(write))
            }
            // The first name of a page is a key that is never there.
            Operation::Get { key } if key.contains(&b'~') => What::Read(vec![
                [key, &b":@"[..], number.to_string().as_bytes()].concat(),
            ]),
            Operation::Get { key } => {
                let lists = lock(&self.lists);
                let values = lists.get(key).iter();
                let number = number.to_string();
                let line = |value: &Vec<u8>| [key, b":", value, b"@", number.as_bytes()].concat();
                What::Read(values.map(line).collect())
            }
            _ => panic!("{operation:?} is new"),
        }
    }
}

/// A command as it was sent.
fn command_of(operation: Operation<'_>) -> Vec<u8> {
    let mut line = Vec::new();
    keywire::protocol::Command::from(operation).encode(&mut line);
    line.pop();
    line
}

/// Answers all of a batch, or as much as there is room for.
fn answer(world: &World, batch: &mut Batch, plan: &mut Vec<Entry>, fate: Fate) {
    let is_write = |entry: &Entry| !matches!(entry.kind, Kind::Get);
    let whole = plan.last().is_some_and(is_write) && world.once_in(2);
    let mut answered = 0;
    match fate {
        Fate::Failed if whole => {
            batch.fail("a whim");
            answered = plan.len();
        }
        Fate::Unconfirmed if whole => {
            batch.unconfirmed("a whim");
            answered = plan.len();
        }
        _ => batch.each(|operation, answer| {
            let entry = &plan[answered];
            assert_eq!(entry.line, command_of(operation), "another command");
            answered += 1;
            match entry.what {
                // What is left without an answer, too.
                What::Unconfirmed(_) if world.once_in(2) => {}
                _ => give(answer, &entry.what),
            }
        }),
    }
    assert!(
        !plan[answered..].iter().any(is_write),
        "a write was left without an answer"
    );
    plan.truncate(answered);
}

impl<O: KeepsOrder> Store for LateStore<O> {
    const ORDER: Order = O::ORDER;
    const CHANGES: Changes = O::CHANGES;

    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        let connection = connection_of(&batch);
        if let Some(elsewhere) = self.elsewhere.as_ref().filter(|_| self.world.once_in(10)) {
            // What the batch reads may show that.
            elsewhere.make();
        }
        let mut fate = Fate::choose(&self.world, self.faults);
        let ends_with_write = |batch: &mut Batch| {
            let last = batch.operations().last();
            matches!(last, Some(Operation::Write(_)))
        };
        // Of what is lost behind the last write, nobody knows whether it was answered.
        if matches!(fate, Fate::Lost | Fate::Panics) && !ends_with_write(&mut batch) {
            fate = Fate::Answered;
        }
        let mut plan = self.plan(&mut batch, connection, fate);
        assert!(!plan.is_empty(), "a batch without a command");
        let id = self.history.record().submit(connection, &plan, O::ORDER);
        let (world, history) = (self.world.clone(), self.history.clone());
        // What completes later tells of its changes in the order of keys.
        let (subscriptions, misses) = (self.subscriptions.clone(), self.misses);
        let told_by = self.history.clone();
        let tell = move |plan: &[Entry], world: &World| {
            let written = plan.iter().filter_map(|entry| match &entry.what {
                What::Written(_, line) if O::CHANGES == Changes::All => Some(line),
                _ => None,
            });
            let missed = written.filter(|line| subscriptions.tell(change(line), misses, world));
            told_by.record().missed.extend(missed.cloned());
        };
        let is_free = O::CHANGES != Changes::All || history.record().is_first(id, O::ORDER);
        let answers = !matches!(fate, Fate::Lost | Fate::Panics | Fate::Stuck);
        if answers && is_free && world.once_in(4) {
            answer(&world, &mut batch, &mut plan, fate);
            history.complete(id, plan.clone(), O::ORDER, &world);
            tell(&plan, &world);
            return Submission::Done(batch);
        }
        Submission::Pending(async move {
            dawdle(&world).await;
            while O::CHANGES == Changes::All && !history.record().is_first(id, O::ORDER) {
                world.sleep(Duration::from_millis(50)).await;
            }
            match fate {
                Fate::Stuck => pending().await,
                Fate::Lost => {
                    history.complete(id, plan, O::ORDER, &world);
                    drop(batch);
                    pending().await
                }
                Fate::Panics => {
                    history.complete(id, plan, O::ORDER, &world);
                    resume_unwind(Box::new("a whim"))
                }
                _ => {
                    answer(&world, &mut batch, &mut plan, fate);
                    history.complete(id, plan.clone(), O::ORDER, &world);
                    tell(&plan, &world);
                    batch
                }
            }
        })
    }

    fn keys(
        &mut self,
        mut page: KeyPage,
    ) -> Submission<KeyPage, impl Future<Output = KeyPage> + Send + 'static> {
        let asked = self.world.moment();
        let mut record = self.history.record();
        let id = record.pages.len();
        let (prefix, cursor) = (page.prefix().to_vec(), page.cursor().to_vec());
        // A cursor says which page it is of.
        let inner = cursor.iter().position(|&byte| byte == b'>');
        let inner = inner.map_or(&b""[..], |end| &cursor[end..]);
        let most = self.world.random(|rng| rng.usize(..=self.faults.page));
        let (keys, next) = lock(&self.lists).page(&prefix, inner, most);
        let next = match next.is_empty() {
            true => next,
            false => [id.to_string().as_bytes(), &next].concat(),
        };
        let mark = [&prefix[..], b"~", id.to_string().as_bytes()].concat();
        let names: Vec<Vec<u8>> = [mark].into_iter().chain(keys).collect();
        let fate = Fate::choose(&self.world, self.faults);
        let failed = fate != Fate::Answered;
        let log = Page {
            asked,
            entries: record.entries.len(),
            prefix,
            cursor,
            next: next.clone(),
            names: if failed { Vec::new() } else { names.clone() },
            answered: Moment::NEVER,
            failed,
        };
        record.pages.push(log);
        drop(record);
        let (world, history) = (self.world.clone(), self.history.clone());
        if fate == Fate::Answered && world.once_in(2) {
            fill(&mut page, &names, &next);
            history.record().pages[id].answered = world.moment();
            return Submission::Done(page);
        }
        Submission::Pending(async move {
            dawdle(&world).await;
            if fate == Fate::Stuck {
                pending().await
            }
            history.record().pages[id].answered = world.moment();
            match fate {
                Fate::Answered => fill(&mut page, &names, &next),
                Fate::Failed => page.fail("a whim"),
                Fate::Panics => resume_unwind(Box::new("a whim")),
                _ => {
                    drop(page);
                    return pending().await;
                }
            }
            page
        })
    }

    fn watch(
        &mut self,
        mut request: WatchRequest,
    ) -> Submission<WatchRequest, impl Future<Output = WatchRequest> + Send + 'static> {
        let watched = owned(request.topic());
        self.subscriptions.ask(watched.clone());
        let fate = Fate::choose(&self.world, self.faults);
        let asked = self.world.moment();
        let mut record = self.history.record();
        let id = record.requests.len();
        record.requests.push(Request {
            watched: watched.clone(),
            asked,
            answered: Moment::NEVER,
            done: fate == Fate::Answered,
        });
        drop(record);
        let (world, history) = (self.world.clone(), self.history.clone());
        let subscriptions = self.subscriptions.clone();
        let settle = move |world: &World| {
            subscriptions.settle(&watched, fate == Fate::Answered);
            history.record().requests[id].answered = world.moment();
        };
        if fate == Fate::Answered && world.once_in(3) {
            settle(&world);
            return Submission::Done(request);
        }
        Submission::Pending(async move {
            dawdle(&world).await;
            if fate == Fate::Stuck {
                pending().await
            }
            settle(&world);
            match fate {
                Fate::Answered => {}
                Fate::Failed => request.fail("a whim"),
                Fate::Panics => resume_unwind(Box::new("a whim")),
                _ => {
                    drop(request);
                    return pending().await;
                }
            }
            request
        })
    }

    fn unwatch(&mut self, topic: Topic<'_>) {
        self.subscriptions.end(&owned(topic));
    }

    fn changes(&mut self) -> Option<impl Stream<Item = Change> + Send + 'static> {
        let elsewhere = Elsewhere::new(
            &self.world,
            &self.lists,
            &self.history,
            &self.subscriptions,
            self.misses,
        );
        let makes = self.faults.fails && self.world.once_in(2);
        self.elsewhere = makes.then(|| elsewhere.clone());
        let has_changes = makes || O::CHANGES == Changes::All;
        has_changes.then(|| elsewhere::changes(elsewhere, makes))
    }

    fn size(&self) -> StoreSize {
        let size = lock(&self.lists).size();
        let mut record = self.history.record();
        record.size = size;
        record.rounds_seen += 1;
        drop(record);
        size
    }
}
