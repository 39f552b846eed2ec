//! Who watches what.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
};

use slab::Slab;

use super::events::{EventBuffer, MustDisconnect, PendingEvents, RoundEvents};
use crate::{
    Stats,
    connection::outbox::{Chunks, OutboxStatus, Usage},
    protocol::{Topic, Write},
    shared::limits::Limits,
    store::KeyFilter,
};

/// All topics that are watched, and their watchers. Watchers have numbers of their own, since most
/// clients are none.
#[derive(Default)]
pub(crate) struct WatchRegistry {
    keys: HashMap<Arc<[u8]>, usize>,
    prefixes: BTreeMap<Arc<[u8]>, usize>,
    topics: Slab<WatchedTopic>,
    watchers: Slab<WatcherEntry>,
    events: EventBuffer,
    /// Watchers with events in this round.
    notified: Vec<usize>,
    /// Watches, each watcher's counted.
    watching: u64,
    /// Topics that have lost their last watcher, and whether they are prefixes, until the store is told.
    unwatched: Vec<(Arc<[u8]>, bool)>,
}

/// A topic with at least one watcher.
struct WatchedTopic {
    name: Arc<[u8]>,
    is_prefix: bool,
    watchers: Vec<usize>,
}

struct WatcherEntry {
    client: usize,
    /// The client's turn in this round, or [`NO_TURN`].
    turn: usize,
    /// Its topics, each with its index among their watchers, so that it leaves without a search.
    topics: HashMap<usize, usize>,
    /// The cost of its watches, bounded by `max_watches`.
    cost: usize,
    pending: PendingEvents,
}

/// If a client has no turn in a round, its events come before all later replies.
const NO_TURN: usize = usize::MAX;

/// A name costs one watch for each of so many bytes. That bounds the memory of a client's watches.
const BYTES_PER_WATCH: usize = 64;

fn cost(name: &[u8]) -> usize {
    name.len().div_ceil(BYTES_PER_WATCH).max(1)
}

/// The client has as many watches as it may.
pub(crate) struct WatchLimit;

impl WatchRegistry {
    /// Begins a watch for the client of a turn, which becomes a watcher with its first.
    pub(crate) fn watch(
        &mut self,
        watcher: &mut Option<usize>,
        client: usize,
        turn: usize,
        topic: Topic<'_>,
        limits: &Limits,
    ) -> Result<(), WatchLimit> {
        let id = *watcher.get_or_insert_with(|| {
            self.watchers.insert(WatcherEntry {
                client,
                turn,
                topics: HashMap::new(),
                cost: 0,
                pending: PendingEvents::default(),
            })
        });
        let topic_id = self.find(topic);
        if topic_id.is_some_and(|topic| self.watchers[id].topics.contains_key(&topic)) {
            return Ok(());
        }
        if !self.has_room(Some(id), topic, limits) {
            return Err(WatchLimit);
        }
        let (Topic::Key(name) | Topic::Prefix(name)) = topic;
        let watcher = &mut self.watchers[id];
        watcher.cost += cost(name);
        let topic_id = topic_id.unwrap_or_else(|| self.insert(topic));
        let watchers = &mut self.topics[topic_id].watchers;
        self.watchers[id].topics.insert(topic_id, watchers.len());
        watchers.push(id);
        self.watching += 1;
        Ok(())
    }

    /// Whether a watcher, or a client that is none yet, may watch one more.
    pub(crate) fn has_room(
        &self,
        watcher: Option<usize>,
        topic: Topic<'_>,
        limits: &Limits,
    ) -> bool {
        let (Topic::Key(name) | Topic::Prefix(name)) = topic;
        let used = watcher.map_or(0, |id| self.watchers[id].cost);
        cost(name) <= limits.max_watches - used
    }

    /// Whether anybody watches it.
    pub(crate) fn is_watched(&self, topic: Topic<'_>) -> bool {
        self.find(topic).is_some()
    }

    /// What nobody watches any more, since this was last asked.
    pub(crate) fn take_unwatched(&mut self) -> impl Iterator<Item = (Arc<[u8]>, bool)> + use<> {
        std::mem::take(&mut self.unwatched).into_iter()
    }

    /// Ends a watch, if there is one.
    pub(crate) fn unwatch(&mut self, watcher: Option<usize>, topic: Topic<'_>) {
        let (Some(id), Some(topic)) = (watcher, self.find(topic)) else {
            return;
        };
        let watcher = &mut self.watchers[id];
        if let Some(index) = watcher.topics.remove(&topic) {
            watcher.cost -= cost(&self.topics[topic].name);
            self.remove_watcher(topic, index);
        }
    }

    /// Removes a watcher whose client is gone, and its watches.
    pub(crate) fn remove(&mut self, id: usize) {
        for (topic, index) in self.watchers.remove(id).topics {
            self.remove_watcher(topic, index);
        }
    }

    fn find(&self, topic: Topic<'_>) -> Option<usize> {
        match topic {
            Topic::Key(key) => self.keys.get(key),
            Topic::Prefix(prefix) => self.prefixes.get(prefix),
        }
        .copied()
    }

    fn insert(&mut self, topic: Topic<'_>) -> usize {
        let (Topic::Key(name) | Topic::Prefix(name)) = topic;
        let name: Arc<[u8]> = name.into();
        let is_prefix = matches!(topic, Topic::Prefix(_));
        let id = self.topics.insert(WatchedTopic {
            name: name.clone(),
            is_prefix,
            watchers: Vec::new(),
        });
        match is_prefix {
            true => self.prefixes.insert(name, id),
            false => self.keys.insert(name, id),
        };
        id
    }

    /// Removes the watcher at this index of a topic, and the topic with its last watcher. The last
    /// watcher takes the index.
    fn remove_watcher(&mut self, topic: usize, index: usize) {
        self.watching -= 1;
        let watchers = &mut self.topics[topic].watchers;
        watchers.swap_remove(index);
        if let Some(&moved) = watchers.get(index) {
            self.watchers[moved].topics.insert(topic, index);
        } else if watchers.is_empty() {
            let removed = self.topics.remove(topic);
            match removed.is_prefix {
                true => self.prefixes.remove(&removed.name),
                false => self.keys.remove(&removed.name),
            };
            self.unwatched.push((removed.name, removed.is_prefix));
        }
    }

    /// The number of watches now, each watcher's counted.
    pub(crate) fn watching(&self) -> u64 {
        self.watching
    }

    /// The client of a watcher has this turn in the round that begins.
    pub(crate) fn set_turn(&mut self, id: usize, turn: usize) {
        self.watchers[id].turn = turn;
    }

    /// The client of a watcher has no turn in the round any more.
    pub(crate) fn end_turn(&mut self, id: usize) {
        self.watchers[id].turn = NO_TURN;
    }

    /// Whether no watcher has new events.
    pub(crate) fn is_quiet(&self) -> bool {
        self.notified.is_empty()
    }

    /// An unknown number of changes was missed, of keys that `concerns` says yes to, or of any. Gives the
    /// clients that watch such a key, or a prefix, and have to be notified: not those that have missed some
    /// before and have not been notified yet.
    pub(crate) fn miss(&mut self, concerns: Option<&KeyFilter>) -> Vec<usize> {
        let mut clients = Vec::new();
        for (_, topic) in &self.topics {
            if topic.is_prefix || concerns.is_none_or(|concerns| concerns(&topic.name)) {
                for &id in &topic.watchers {
                    let watcher = &mut self.watchers[id];
                    if !watcher.pending.has_missed() {
                        clients.push(watcher.client);
                    }
                    watcher.pending.miss(0);
                }
            }
        }
        clients
    }

    /// The same for one watcher.
    pub(crate) fn miss_by(&mut self, id: usize) {
        self.watchers[id].pending.miss(0);
    }

    /// Adds a change to the events of all who watch its key, but for some clients, behind the replies that
    /// their turns have so far. Gives the number of look-ups and of events: a change that nobody watches costs the
    /// look-ups alone.
    pub(crate) fn publish(
        &mut self,
        change: Write<'_>,
        except: &[usize],
        reply_offset: impl Fn(usize) -> usize,
        stats: &mut Stats,
    ) -> (usize, usize) {
        let mut event = None;
        let mut added = 0;
        let mut add = |topic: usize| {
            let event = event.get_or_insert_with(|| self.events.push(change));
            for &id in &self.topics[topic].watchers {
                let watcher = &mut self.watchers[id];
                if except.binary_search(&watcher.client).is_ok() {
                    continue;
                }
                if watcher.pending.is_empty() {
                    self.notified.push(id);
                }
                added += usize::from(watcher.pending.add(reply_offset(watcher.turn), event));
            }
        };
        if let Some(&topic) = self.keys.get(change.key()) {
            add(topic);
        }
        let look_ups = prefixes_of(change.key(), &self.prefixes, add);
        stats.events += added as u64;
        (look_ups, added)
    }

    /// Adds a change to the events of one watcher, if it watches the key, behind so many bytes of its replies.
    pub(crate) fn publish_to(
        &mut self,
        id: usize,
        change: Write<'_>,
        reply_offset: usize,
        stats: &mut Stats,
    ) -> (usize, usize) {
        let watcher = &mut self.watchers[id];
        let of_key = self.keys.get(change.key());
        let mut is_watched = of_key.is_some_and(|topic| watcher.topics.contains_key(topic));
        let look_ups = prefixes_of(change.key(), &self.prefixes, |topic| {
            is_watched |= watcher.topics.contains_key(&topic);
        });
        if is_watched {
            if watcher.pending.is_empty() {
                self.notified.push(id);
            }
            let event = self.events.push(change);
            watcher.pending.add(reply_offset, &event);
            stats.events += 1;
        }
        (look_ups, is_watched.into())
    }

    /// Ends the round. Gives its events, and the watchers that get some of them.
    pub(crate) fn take_events(&mut self) -> (RoundEvents, Vec<usize>) {
        (self.events.take(), std::mem::take(&mut self.notified))
    }

    /// The client of a watcher that has events of the round that has ended and has not got them.
    pub(crate) fn pending_client(&self, id: usize) -> Option<usize> {
        let watcher = self.watchers.get(id)?;
        (!watcher.pending.is_empty()).then_some(watcher.client)
    }

    /// The replies of a watcher's turn with its events in their places. See
    /// [`PendingEvents::interleave`].
    pub(crate) fn interleave(
        &mut self,
        id: usize,
        events: &RoundEvents,
        replies: Vec<u8>,
        usage: &mut Usage,
        room: (OutboxStatus, &Limits),
        stats: &mut Stats,
    ) -> Result<Chunks, MustDisconnect> {
        let watcher = &mut self.watchers[id];
        watcher.turn = NO_TURN;
        let pending = &mut watcher.pending;
        pending.interleave(events, replies, usage, room, stats)
    }

    /// Whether a watcher has missed events and has not been notified.
    pub(crate) fn has_missed(&self, id: usize) -> bool {
        self.watchers[id].pending.has_missed()
    }

    /// The line that notifies a watcher of how many events it has missed, if any.
    pub(crate) fn take_missed(&mut self, id: usize) -> Option<Vec<u8>> {
        self.watchers[id].pending.take_missed()
    }
}

/// Finds all prefixes of a key. Among sorted ones, the greatest that is not beyond the key is
/// either a prefix of it, or shares with it all that a shorter one can be. Gives the number of look-ups.
fn prefixes_of<T: Copy>(
    key: &[u8],
    prefixes: &BTreeMap<Arc<[u8]>, T>,
    mut found: impl FnMut(T),
) -> usize {
    let mut limit = key;
    let mut look_ups = 0;
    loop {
        look_ups += 1;
        let upto = (Bound::Unbounded, Bound::Included(limit));
        let Some((prefix, &value)) = prefixes.range::<[u8], _>(upto).next_back() else {
            return look_ups;
        };
        if limit.starts_with(prefix) {
            found(value);
            let Some(shorter) = prefix.len().checked_sub(1) else {
                return look_ups;
            };
            limit = &limit[..shorter];
        } else {
            let shared = prefix.iter().zip(limit).take_while(|(a, b)| a == b);
            limit = &limit[..shared.count()];
        }
    }
}
