//! The way of events from the connection to the watchers: a queue for each, and a table of them.
//!
//! In: changes that the server reports, with the read that each came with. Out: events, one queue a
//! watcher. Nothing here knows of a connection or of calls.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    task::{Poll, Waker},
};

use super::event::Event;
use crate::{
    Error,
    error::ConnectionError,
    lock::Lock,
    protocol::{MissedCount, Topic, Write},
};

/// Events that wait in a watcher's queue. A watcher that falls behind by more, while others drive
/// the connection, gets the number of those it missed.
const QUEUED_EVENTS: usize = 1024;

/// The same in bytes of keys and values: events may be large.
const QUEUED_BYTES: usize = 4 << 20;

/// A [`Topic`] that owns its bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum OwnedTopic {
    Key(Vec<u8>),
    Prefix(Vec<u8>),
}

impl OwnedTopic {
    pub(super) fn topic(&self) -> Topic<'_> {
        match self {
            OwnedTopic::Key(key) => Topic::Key(key),
            OwnedTopic::Prefix(prefix) => Topic::Prefix(prefix),
        }
    }
}

/// The bounded queue of events from the connection to one watcher.
#[derive(Default)]
pub(super) struct EventQueue(Lock<QueueState>);

#[derive(Default)]
struct QueueState {
    events: VecDeque<Event>,
    bytes: usize,
    /// Events that found no room, behind all that did.
    missed: MissedCount,
    /// The read that the last event came with, and whether the queue was full before it.
    read: u64,
    full: bool,
    /// Keys of snapshots that have come.
    keys: u64,
    /// The `Watch` was sent.
    sent: bool,
    /// The watcher was dropped.
    dropped: bool,
    end: QueueEnd,
    waker: Option<Waker>,
}

#[derive(Default)]
enum QueueEnd {
    #[default]
    Open,
    Failed(ConnectionError),
    Reported,
}

impl EventQueue {
    fn update(&self, change: impl FnOnce(&mut QueueState)) {
        let mut state = self.0.lock();
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The `Watch` is about to be sent. `false` if its watcher was dropped: then it must not be.
    pub(super) fn mark_sent(&self) -> bool {
        let mut state = self.0.lock();
        state.sent |= !state.dropped;
        !state.dropped
    }

    /// The watcher is dropped. Says whether its `Watch` was sent; if not, it never will be.
    pub(super) fn mark_dropped(&self) -> bool {
        let mut state = self.0.lock();
        state.dropped = true;
        state.sent
    }

    /// A key of the snapshot before the events has come. Says whether its watcher is still there.
    pub(super) fn count_key(&self) -> bool {
        let mut state = self.0.lock();
        state.keys += 1;
        !state.dropped
    }

    /// How many keys of snapshots have come.
    pub(super) fn keys(&self) -> u64 {
        self.0.lock().keys
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().events.is_empty()
    }

    /// Queues an event of this read. The event is missed if the queue was full before the read: a
    /// watcher that is polled empties the queue between any two.
    fn push(&self, event: Event, read: u64) {
        self.update(|state| {
            if state.read != read {
                state.read = read;
                state.full = state.events.len() >= QUEUED_EVENTS || state.bytes >= QUEUED_BYTES;
            }
            if state.full {
                state.missed.add(1);
                return;
            }
            if let Some(missed) = state.missed.take() {
                state.events.push_back(Event::Missed(missed));
            }
            state.bytes += event.bytes();
            state.events.push_back(event);
        });
    }

    fn miss(&self, changes: u64) {
        self.update(|state| state.missed.add(changes));
    }

    /// Removes all events so far.
    pub(super) fn clear(&self) {
        let mut state = self.0.lock();
        state.events.clear();
        state.bytes = 0;
        state.missed = MissedCount::default();
        state.full = false;
    }

    /// Whether every event here leaves its key with values. If so, a read that found none came
    /// before all of them: a key that was written to has values until it is deleted or its values
    /// are removed.
    pub(super) fn holds_only_values(&self) -> bool {
        let state = self.0.lock();
        let leaves_values = |event: &Event| match event {
            Event::Put { .. } | Event::Update { .. } | Event::Set { .. } => true,
            Event::Remove { .. } | Event::Delete { .. } | Event::Missed(_) => false,
        };
        state.missed.is_none() && state.events.iter().all(leaves_values)
    }

    fn end(&self, reason: &ConnectionError) {
        self.update(|state| state.end = QueueEnd::Failed(reason.clone()));
    }

    /// The next event. If there is none, this waker is woken when one comes, in place of the one
    /// before.
    pub(super) fn poll_next(&self, waker: Option<&Waker>) -> Poll<Option<Result<Event, Error>>> {
        let mut state = self.0.lock();
        let next = state.next();
        let waker = waker.filter(|_| next.is_pending()).cloned();
        let before = std::mem::replace(&mut state.waker, waker);
        drop(state);
        drop(before);
        next
    }
}

impl QueueState {
    fn next(&mut self) -> Poll<Option<Result<Event, Error>>> {
        if let Some(event) = self.events.pop_front() {
            self.bytes -= event.bytes();
            return Poll::Ready(Some(Ok(event)));
        }
        if let Some(missed) = self.missed.take() {
            return Poll::Ready(Some(Ok(Event::Missed(missed))));
        }
        match std::mem::replace(&mut self.end, QueueEnd::Reported) {
            QueueEnd::Open => {
                self.end = QueueEnd::Open;
                Poll::Pending
            }
            QueueEnd::Failed(reason) => Poll::Ready(Some(Err(reason.into()))),
            QueueEnd::Reported => Poll::Ready(None),
        }
    }
}

/// The queues of one connection, by what their watchers watch.
///
/// A queue is here from the moment its `Watch` is sent: an `Unwatch` that follows would end its
/// watch too. It gets events from the moment the server confirms the `Watch`.
#[derive(Default)]
pub(super) struct WatchTable {
    keys: QueuesByName,
    prefixes: QueuesByName,
    /// Counts the reads that events come with.
    read: u64,
    notified: bool,
}

/// In their order, so that a simulated run can be repeated.
type QueuesByName = BTreeMap<Vec<u8>, Vec<WatchQueue>>;

struct WatchQueue {
    queue: Arc<EventQueue>,
    /// The server has confirmed the `Watch`.
    begun: bool,
    /// It had, on a connection that is lost.
    lost: bool,
}

impl WatchTable {
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.prefixes.is_empty()
    }

    pub(super) fn begin_read(&mut self) {
        self.read += 1;
        self.notified = false;
    }

    /// Whether any queue got an event since the read began.
    pub(super) fn has_notified(&self) -> bool {
        self.notified
    }

    fn queues<'t>(&mut self, topic: &'t OwnedTopic) -> (&mut QueuesByName, &'t Vec<u8>) {
        match topic {
            OwnedTopic::Key(key) => (&mut self.keys, key),
            OwnedTopic::Prefix(prefix) => (&mut self.prefixes, prefix),
        }
    }

    pub(super) fn insert(&mut self, topic: &OwnedTopic, queue: &Arc<EventQueue>) {
        let (queues, name) = self.queues(topic);
        let queues = queues.entry(name.clone()).or_default();
        if !queues.iter().any(|one| Arc::ptr_eq(&one.queue, queue)) {
            queues.push(WatchQueue {
                queue: queue.clone(),
                begun: false,
                lost: false,
            });
        }
    }

    /// From here on, the queue gets events; with a gap before, if it is a watch begun anew.
    pub(super) fn begin(&mut self, topic: &OwnedTopic, queue: &Arc<EventQueue>) {
        let (queues, name) = self.queues(topic);
        let queues = queues.get_mut(name).into_iter().flatten();
        for one in queues.filter(|one| Arc::ptr_eq(&one.queue, queue)) {
            one.begun = true;
            if std::mem::take(&mut one.lost) {
                one.queue.miss(0);
            }
        }
    }

    /// The connection is lost: nothing comes before the watches are begun anew.
    pub(super) fn lose(&mut self) {
        let queues = self.keys.values_mut().chain(self.prefixes.values_mut());
        for one in queues.flatten() {
            one.lost |= std::mem::take(&mut one.begun);
        }
    }

    /// Those that are to be begun anew.
    pub(super) fn lost(&self) -> impl Iterator<Item = (OwnedTopic, Arc<EventQueue>)> {
        fn of(
            queues: &QueuesByName,
            topic: fn(Vec<u8>) -> OwnedTopic,
        ) -> impl Iterator<Item = (OwnedTopic, Arc<EventQueue>)> {
            let queues = queues
                .iter()
                .flat_map(|(name, of_name)| of_name.iter().map(move |one| (name, one)));
            queues
                .filter(|(_, one)| one.lost)
                .map(move |(name, one)| (topic(name.clone()), one.queue.clone()))
        }
        of(&self.keys, OwnedTopic::Key).chain(of(&self.prefixes, OwnedTopic::Prefix))
    }

    /// The server refuses to begin it anew.
    pub(super) fn refuse(
        &mut self,
        topic: &OwnedTopic,
        queue: &Arc<EventQueue>,
        reason: &ConnectionError,
    ) {
        let (queues, name) = self.queues(topic);
        let mut own = queues.get(name).into_iter().flatten();
        if own.any(|one| Arc::ptr_eq(&one.queue, queue) && one.lost) {
            queue.end(reason);
            let _ = self.remove(topic, queue);
        }
    }

    /// Removes the queue of a watcher that was dropped. Says whether it was the last of its topic.
    #[must_use]
    pub(super) fn remove(&mut self, topic: &OwnedTopic, queue: &Arc<EventQueue>) -> bool {
        let (queues, name) = self.queues(topic);
        let Some(of_topic) = queues.get_mut(name) else {
            return false;
        };
        of_topic.retain(|one| !Arc::ptr_eq(&one.queue, queue));
        let last = of_topic.is_empty();
        if last {
            queues.remove(name);
        }
        last
    }

    pub(super) fn notify(&mut self, change: Write<'_>) {
        let of_key = self.keys.get(change.key()).into_iter();
        let of_prefix = self.prefixes.iter();
        let of_prefix = of_prefix.filter(|(prefix, _)| change.key().starts_with(prefix));
        let queues = of_key.chain(of_prefix.map(|(_, queues)| queues));
        for one in queues.flatten().filter(|one| one.begun) {
            one.queue.push(Event::of(change), self.read);
            self.notified = true;
        }
    }

    pub(super) fn missed(&self, changes: u64) {
        let queues = self.keys.values().chain(self.prefixes.values()).flatten();
        for one in queues.filter(|one| one.begun) {
            one.queue.miss(changes);
        }
    }

    pub(super) fn end(&mut self, reason: &ConnectionError) {
        let keys = std::mem::take(&mut self.keys);
        let queues = keys.into_iter().chain(std::mem::take(&mut self.prefixes));
        for one in queues.flat_map(|(_, queues)| queues) {
            one.queue.end(reason);
        }
    }
}
