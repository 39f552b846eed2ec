//! A store that answers each batch when the test says so, and as it says.

mod perform;

use std::{
    collections::BTreeSet,
    future::pending,
    marker::PhantomData,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_channel::{Receiver, Sender};
use futures_lite::Stream;
use keywire::{
    protocol::{Command, Topic},
    store::{
        Batch, Change, Changes, KeyPage, Memory, Order, Store, StoreSize, Submission, WatchRequest,
    },
};
use perform::{apply, line_of, perform};

/// What becomes of a batch, of a page, or of a request to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is applied, and comes back.
    Apply,
    /// It fails as a whole, and comes back.
    Fail,
    Unconfirmed,
    /// It comes back without answers.
    NoAnswer,
    /// It is dropped, and its future never ends.
    Drop,
    Panic,
    /// The first commands are answered, so many. At the next one the future panics.
    PanicAt(usize),
}

/// What the store promises.
pub trait Keeps: Send + 'static {
    const ORDER: Order;
    const CHANGES: Changes = Changes::Elsewhere;
}

/// Commands take effect when their batch completes. No two batches may share a key: the store asserts it.
#[derive(Debug)]
pub struct NoOrder;

/// Commands take effect when they are submitted.
#[derive(Debug)]
pub struct PerKey;

/// The same.
#[derive(Debug)]
pub struct Total;

impl Keeps for NoOrder {
    const ORDER: Order = Order::None;
}

impl Keeps for PerKey {
    const ORDER: Order = Order::PerKey;
}

impl Keeps for Total {
    const ORDER: Order = Order::Total;
}

pub struct LateStore<O> {
    state: Arc<Mutex<State>>,
    order: PhantomData<fn() -> O>,
}

/// The test's side.
#[derive(Clone)]
pub struct StoreControl(Arc<Mutex<State>>);

struct State {
    memory: Memory,
    in_flight: Vec<InFlight>,
    last_id: usize,
    /// What was submitted so far.
    submitted: Vec<Vec<String>>,
    answers_at_once: bool,
    /// Keys of a page, if pages are given at all.
    page_keys: usize,
    pages_wait: bool,
    watches_wait: bool,
    /// What it was told to watch and not to watch any more.
    watches: Vec<String>,
    changes: Option<Receiver<Change>>,
    change: Sender<Change>,
    close: Option<Receiver<()>>,
    closed: bool,
}

/// A batch, a page or a request that is with the store.
struct InFlight {
    id: usize,
    /// Its commands. A request has the one that asks for it. A page has one, which is `page`, the prefix and the cursor.
    lines: Vec<String>,
    keys: BTreeSet<Vec<u8>>,
    end: Sender<Outcome>,
}

/// A test that has failed may hold the lock.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<O: Keeps> LateStore<O> {
    pub fn new() -> (Self, StoreControl) {
        let (change, changes) = async_channel::unbounded();
        let state = Arc::new(Mutex::new(State {
            memory: Memory::new(),
            in_flight: Vec::new(),
            last_id: 0,
            submitted: Vec::new(),
            answers_at_once: false,
            page_keys: 2,
            pages_wait: false,
            watches_wait: false,
            watches: Vec::new(),
            changes: Some(changes),
            change,
            close: None,
            closed: false,
        }));
        let store = Self {
            state: state.clone(),
            order: PhantomData,
        };
        (store, StoreControl(state))
    }
}

impl StoreControl {
    /// Ends the batch or page that has this line.
    pub fn end(&self, line: &str, outcome: Outcome) {
        let mut state = lock(&self.0);
        let mut found = state.in_flight.iter_mut().filter(|it| {
            let waits = it.end.is_empty();
            waits && it.lines.iter().any(|other| other == line)
        });
        let found = found
            .next()
            .unwrap_or_else(|| panic!("{line} is not with the store"));
        found.end.try_send(outcome).unwrap();
    }

    pub fn end_all(&self, outcome: Outcome) {
        for it in &lock(&self.0).in_flight {
            let _ = it.end.try_send(outcome);
        }
    }

    /// The first lines of all that is with the store, in the order submitted.
    pub fn in_flight(&self) -> Vec<String> {
        let state = lock(&self.0);
        state
            .in_flight
            .iter()
            .map(|it| it.lines[0].clone())
            .collect()
    }

    /// The lines of every batch and page that was submitted, also those that have ended.
    pub fn submitted(&self) -> Vec<Vec<String>> {
        lock(&self.0).submitted.clone()
    }

    pub fn values(&self, key: &str) -> Vec<String> {
        let state = lock(&self.0);
        let values = state.memory.get(key.as_bytes());
        values
            .map(|value| String::from_utf8(value.to_vec()).unwrap())
            .collect()
    }

    /// A value that is there from the start.
    pub fn put(&self, key: impl AsRef<[u8]>, value: &str) {
        let mut state = lock(&self.0);
        state.memory.put(key.as_ref(), value.as_bytes());
    }

    pub fn delete(&self, key: &str) {
        lock(&self.0).memory.delete(key.as_bytes());
    }

    /// Whether batches are answered when they are submitted.
    pub fn answer_at_once(&self, at_once: bool) {
        lock(&self.0).answers_at_once = at_once;
    }

    /// Pages have so many keys.
    pub fn set_page_keys(&self, keys: usize) {
        lock(&self.0).page_keys = keys;
    }

    /// Pages wait for the test, too.
    pub fn hold_pages(&self) {
        lock(&self.0).pages_wait = true;
    }

    /// Requests to watch wait for the test, too.
    pub fn hold_watches(&self) {
        lock(&self.0).watches_wait = true;
    }

    /// What it was told to watch, and not to watch any more, since this was last asked.
    pub fn take_watches(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.0).watches)
    }

    /// A change was made. The values of the store are not touched.
    pub fn tell(&self, change: Change) {
        lock(&self.0).change.try_send(change).unwrap();
    }

    /// `close` waits until something comes by this channel.
    pub fn hold_close(&self) -> Sender<()> {
        let (sender, receiver) = async_channel::bounded(1);
        lock(&self.0).close = Some(receiver);
        sender
    }

    pub fn is_closed(&self) -> bool {
        lock(&self.0).closed
    }
}

/// Whether its future was dropped or has ended, it is not with the store any more.
struct Leaves {
    state: Arc<Mutex<State>>,
    id: usize,
}

impl Drop for Leaves {
    fn drop(&mut self) {
        lock(&self.state).in_flight.retain(|it| it.id != self.id);
    }
}

impl<O: Keeps> LateStore<O> {
    fn enter(&self, lines: Vec<String>, keys: BTreeSet<Vec<u8>>) -> (Leaves, Receiver<Outcome>) {
        let (end, ended) = async_channel::bounded(1);
        let mut state = lock(&self.state);
        if O::ORDER == Order::None {
            for other in &state.in_flight {
                assert!(
                    other.keys.is_disjoint(&keys),
                    "{lines:?} shares a key with {:?}",
                    other.lines
                );
            }
        }
        state.last_id += 1;
        let id = state.last_id;
        state.in_flight.push(InFlight {
            id,
            lines,
            keys,
            end,
        });
        let state = self.state.clone();
        (Leaves { state, id }, ended)
    }
}

impl<O: Keeps> Store for LateStore<O> {
    const ORDER: Order = O::ORDER;
    const CHANGES: Changes = O::CHANGES;

    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        let lines: Vec<_> = batch.operations().map(|it| line_of(it.into())).collect();
        let keys: BTreeSet<_> = batch.operations().map(|it| it.key().to_vec()).collect();
        assert!(!lines.is_empty(), "there is something to do");
        let mut state = lock(&self.state);
        state.submitted.push(lines.clone());
        let performed = (O::ORDER != Order::None).then(|| {
            let asked = batch.operations();
            let answers: Vec<_> = asked.map(|it| perform(&mut state.memory, it)).collect();
            answers.into_iter()
        });
        let at_once = state.answers_at_once;
        drop(state);
        if at_once {
            apply(&self.state, &mut batch, performed, usize::MAX);
            return Submission::Done(batch);
        }
        let (leaves, ended) = self.enter(lines, keys);
        Submission::Pending(async move {
            let state = &leaves.state;
            match ended.recv().await.unwrap() {
                Outcome::Apply => apply(state, &mut batch, performed, usize::MAX),
                Outcome::Fail => batch.fail("on purpose"),
                Outcome::Unconfirmed => batch.unconfirmed("on purpose"),
                Outcome::NoAnswer => {}
                Outcome::Drop => {
                    drop((leaves, batch));
                    return pending().await;
                }
                Outcome::Panic => panic!("a panic on purpose"),
                Outcome::PanicAt(number) => apply(state, &mut batch, performed, number),
            }
            batch
        })
    }

    fn keys(
        &mut self,
        mut page: KeyPage,
    ) -> Submission<KeyPage, impl Future<Output = KeyPage> + Send + 'static> {
        let line = [b"page:", page.prefix(), b":", page.cursor()].concat();
        let lines = vec![String::from_utf8_lossy(&line).into_owned()];
        let mut state = lock(&self.state);
        state.submitted.push(lines.clone());
        if !state.pages_wait {
            state.fill(&mut page);
            drop(state);
            return Submission::Done(page);
        }
        drop(state);
        let (leaves, ended) = self.enter(lines, BTreeSet::new());
        Submission::Pending(async move {
            match ended.recv().await.unwrap() {
                Outcome::Apply => lock(&leaves.state).fill(&mut page),
                Outcome::Fail | Outcome::Unconfirmed => {
                    lock(&leaves.state).fill(&mut page);
                    page.fail("on purpose");
                }
                Outcome::NoAnswer => {}
                Outcome::Drop => {
                    drop((leaves, page));
                    return pending().await;
                }
                Outcome::Panic | Outcome::PanicAt(_) => panic!("a panic on purpose"),
            }
            page
        })
    }

    fn watch(
        &mut self,
        mut request: WatchRequest,
    ) -> Submission<WatchRequest, impl Future<Output = WatchRequest> + Send + 'static> {
        let lines = vec![line_of(Command::Watch(request.topic()))];
        let mut state = lock(&self.state);
        state.watches.extend(lines.clone());
        if !state.watches_wait {
            return Submission::Done(request);
        }
        drop(state);
        let (leaves, ended) = self.enter(lines, BTreeSet::new());
        Submission::Pending(async move {
            match ended.recv().await.unwrap() {
                Outcome::Apply | Outcome::NoAnswer => {}
                Outcome::Fail | Outcome::Unconfirmed => request.fail("on purpose"),
                Outcome::Drop => {
                    drop((leaves, request));
                    return pending().await;
                }
                Outcome::Panic | Outcome::PanicAt(_) => panic!("a panic on purpose"),
            }
            request
        })
    }

    fn unwatch(&mut self, topic: Topic<'_>) {
        let line = line_of(Command::Unwatch(topic));
        lock(&self.state).watches.push(line);
    }

    fn changes(&mut self) -> Option<impl Stream<Item = Change> + Send + 'static> {
        lock(&self.state).changes.take()
    }

    fn size(&self) -> StoreSize {
        lock(&self.state).memory.size()
    }

    fn close(&mut self) -> impl Future<Output = ()> + Send {
        let close = lock(&self.state).close.take();
        async move {
            if let Some(close) = close {
                let _ = close.recv().await;
            }
            lock(&self.state).closed = true;
        }
    }
}

impl State {
    /// Keys come in their order; the cursor is the last one.
    fn fill(&mut self, page: &mut KeyPage) {
        let keys: BTreeSet<_> = self.memory.iter().map(|(key, _)| key.to_vec()).collect();
        let left = keys
            .iter()
            .filter(|key| key.starts_with(page.prefix()) && key.as_slice() > page.cursor());
        let mut left: Vec<_> = left.collect();
        let more = left.len() > self.page_keys;
        left.truncate(self.page_keys);
        for key in &left {
            page.push(key);
        }
        if let (true, Some(last)) = (more, left.last()) {
            page.set_next(last);
        }
    }
}
