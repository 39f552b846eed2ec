//! Changes → those who watch.
//!
//! The events of a round are encoded once, end to end, in one log. What a watcher pending_client of them is a
//! list of segments of that log, mostly a single one, and its bytes are shared with everyone who
//! watches the same.

use std::{
    collections::{BTreeMap, HashMap},
    ops::{Bound, Range},
    sync::Arc,
};

use slab::Slab;
use smallvec::SmallVec;

use crate::{
    Overflow, Stats,
    connection::outbox::{Chunk, Chunks, OutboxStatus, Size, Usage, push_chunk},
    protocol::{Change, Topic, push_change, push_missed},
    shared::limits::Limits,
};

/// All that is watched, and by whom. Watchers go by a number of their own, since most clients are
/// none.
#[derive(Default)]
pub(crate) struct WatchRegistry {
    keys: HashMap<Box<[u8]>, Vec<usize>>,
    prefixes: BTreeMap<Box<[u8]>, Vec<usize>>,
    watchers: Slab<ClientWatches>,
    log: EventBuffer<Vec<u8>>,
    /// Watchers that hear something of this round.
    notified: Vec<usize>,
    /// Topics watched, each watcher's counted.
    watching: u64,
}

/// The events of a round.
#[derive(Clone, Default)]
pub(crate) struct EventBuffer<B> {
    bytes: B,
    /// Where each event boundaries.
    boundaries: Vec<usize>,
}

struct ClientWatches {
    client: usize,
    /// The client's place in this round.
    turn: usize,
    /// With its place among those who watch the same, so that it leaves without a search.
    keys: HashMap<Box<[u8]>, usize>,
    prefixes: HashMap<Box<[u8]>, usize>,
    /// What they count for together.
    watch_cost: usize,
    /// What it pending_client of this round.
    segments: SmallVec<[Segment; 1]>,
    /// Events that it has lost and not been notified of.
    missed: u64,
}

/// Where a client has no turn in a round, its events come before all it may be answered later.
const NO_TURN: usize = usize::MAX;

/// A run of events for one watcher.
struct Segment {
    /// How many bytes of the client's own replies in this round come before.
    reply_offset: usize,
    events: Range<usize>,
}

/// Bytes of a name that count for one watch. It bounds what a client's watches take up.
const BYTES_PER_WATCH: usize = 64;

fn watch_cost(topic: Topic<'_>) -> usize {
    let (Topic::Key(name) | Topic::Prefix(name)) = topic;
    name.len().div_ceil(BYTES_PER_WATCH).max(1)
}

/// A client watches as much as it may.
pub(crate) struct WatchLimit;

impl ClientWatches {
    /// Says whether it had not heard it yet: more of its topics may match.
    fn add_event(&mut self, reply_offset: usize, event: &Range<usize>) -> bool {
        match self.segments.last_mut() {
            Some(last) if last.events.end == event.end => return false,
            Some(last) if last.events.end == event.start && last.reply_offset == reply_offset => {
                last.events.end = event.end;
            }
            _ => self.segments.push(Segment {
                reply_offset,
                events: event.clone(),
            }),
        }
        true
    }
}

impl WatchRegistry {
    /// Begins a watch for the client of a turn, which may not be a watcher yet. Says whether it is
    /// a new one.
    pub(crate) fn watch(
        &mut self,
        watcher: &mut Option<usize>,
        client: usize,
        turn: usize,
        topic: Topic<'_>,
        limits: &Limits,
    ) -> Result<bool, WatchLimit> {
        let id = *watcher.get_or_insert_with(|| {
            self.watchers.insert(ClientWatches {
                client,
                turn,
                keys: HashMap::new(),
                prefixes: HashMap::new(),
                watch_cost: 0,
                segments: SmallVec::new(),
                missed: 0,
            })
        });
        let watcher = &mut self.watchers[id];
        let known = match topic {
            Topic::Key(key) => watcher.keys.contains_key(key),
            Topic::Prefix(prefix) => watcher.prefixes.contains_key(prefix),
        };
        if known {
            return Ok(false);
        }
        let watch_cost = watch_cost(topic);
        if watch_cost > limits.max_watches - watcher.watch_cost {
            return Err(WatchLimit);
        }
        watcher.watch_cost += watch_cost;
        match topic {
            Topic::Key(key) => {
                let ids = self.keys.entry(key.into()).or_default();
                watcher.keys.insert(key.into(), ids.len());
                ids.push(id);
            }
            Topic::Prefix(prefix) => {
                let ids = self.prefixes.entry(prefix.into()).or_default();
                watcher.prefixes.insert(prefix.into(), ids.len());
                ids.push(id);
            }
        }
        self.watching += 1;
        Ok(true)
    }

    /// Ends a watch. Says whether there was one.
    pub(crate) fn unwatch(&mut self, watcher: Option<usize>, topic: Topic<'_>) -> bool {
        let Some(id) = watcher else { return false };
        let watcher = &mut self.watchers[id];
        let place = match topic {
            Topic::Key(key) => watcher.keys.remove(key),
            Topic::Prefix(prefix) => watcher.prefixes.remove(prefix),
        };
        if let Some(place) = place {
            watcher.watch_cost -= watch_cost(topic);
            self.forget(place, topic);
        }
        place.is_some()
    }

    /// Takes the watcher at this place out of those of a topic, and the topic away with the last
    /// of them. The last one moves to its place.
    fn forget(&mut self, place: usize, topic: Topic<'_>) {
        let ids = match topic {
            Topic::Key(key) => self.keys.get_mut(key),
            Topic::Prefix(prefix) => self.prefixes.get_mut(prefix),
        };
        let Some(ids) = ids else { return };
        ids.swap_remove(place);
        if let Some(&moved) = ids.get(place) {
            let moved = &mut self.watchers[moved];
            let known = match topic {
                Topic::Key(key) => moved.keys.get_mut(key),
                Topic::Prefix(prefix) => moved.prefixes.get_mut(prefix),
            };
            if let Some(known) = known {
                *known = place;
            }
        } else if ids.is_empty() {
            match topic {
                Topic::Key(key) => drop(self.keys.remove(key)),
                Topic::Prefix(prefix) => drop(self.prefixes.remove(prefix)),
            }
        }
        self.watching -= 1;
    }

    /// A client is gone, and its watches with it.
    pub(crate) fn remove(&mut self, id: usize) {
        let watcher = self.watchers.remove(id);
        for (key, place) in &watcher.keys {
            self.forget(*place, Topic::Key(key));
        }
        for (prefix, place) in &watcher.prefixes {
            self.forget(*place, Topic::Prefix(prefix));
        }
    }

    /// The topics watched now, each watcher's counted.
    pub(crate) fn watching(&self) -> u64 {
        self.watching
    }

    /// The client of a watcher has this turn in the round that begins.
    pub(crate) fn set_turn(&mut self, id: usize, turn: usize) {
        self.watchers[id].turn = turn;
    }

    /// Notes a change for all who watch its key, behind what their turns have been replied so far.
    /// Gives the number of events. What nobody watches costs the look-ups and nothing more.
    pub(crate) fn publish(
        &mut self,
        change: Change<'_>,
        reply_offset: impl Fn(usize) -> usize,
        stats: &mut Stats,
    ) -> usize {
        let EventBuffer { bytes, boundaries } = &mut self.log;
        let start = bytes.len();
        let mut events = 0;
        let mut hear = |watching: &[usize]| {
            if bytes.len() == start {
                push_change(bytes, change);
                boundaries.push(bytes.len());
            }
            for &id in watching {
                let watcher = &mut self.watchers[id];
                if watcher.segments.is_empty() {
                    self.notified.push(id);
                }
                let reply_offset = reply_offset(watcher.turn);
                if watcher.add_event(reply_offset, &(start..bytes.len())) {
                    events += 1;
                }
            }
        };
        if let Some(watching) = self.keys.get(change.key()) {
            hear(watching);
        }
        prefixes_of(change.key(), &self.prefixes, hear);
        stats.events += events as u64;
        events
    }

    /// How far the log has come, for [`back_to`](Self::back_to).
    pub(crate) fn mark(&self) -> usize {
        self.log.bytes.len()
    }

    /// Takes back what was notified since.
    pub(crate) fn back_to(&mut self, mark: usize) {
        self.log.bytes.truncate(mark);
        self.log.boundaries.retain(|&end| end <= mark);
        self.notified.retain(|&id| {
            let segments = &mut self.watchers[id].segments;
            segments.retain_mut(|segment| {
                segment.events.end = segment.events.end.min(mark);
                segment.events.start < mark
            });
            !segments.is_empty()
        });
    }

    /// Ends the round. Gives its events, and those who hear of them.
    pub(crate) fn take_events(&mut self) -> (EventBuffer<Arc<Vec<u8>>>, Vec<usize>) {
        let EventBuffer { bytes, boundaries } = std::mem::take(&mut self.log);
        let log = EventBuffer {
            bytes: bytes.into(),
            boundaries,
        };
        (log, std::mem::take(&mut self.notified))
    }

    /// The client of a watcher, if it still pending_client something of the round that has ended.
    pub(crate) fn pending_client(&self, id: usize) -> Option<usize> {
        let watcher = self.watchers.get(id)?;
        (!watcher.segments.is_empty()).then_some(watcher.client)
    }

    /// Weaves what a watcher pending_client of a round into its own replies. Adds to `usage` what it has
    /// status for; what it has not, it misses. An error is that the policy does not allow that.
    pub(crate) fn interleave(
        &mut self,
        id: usize,
        log: &EventBuffer<Arc<Vec<u8>>>,
        replies: Vec<u8>,
        usage: &mut Usage,
        (mut status, limits): (OutboxStatus, &Limits),
        stats: &mut Stats,
    ) -> Result<Chunks, Missed> {
        let watcher = &mut self.watchers[id];
        watcher.turn = NO_TURN;
        status.usage += *usage;
        let mut out = Outgoing {
            chunks: Chunks::new(),
            replies,
            taken: 0,
        };
        let segments = std::mem::take(&mut watcher.segments);
        for segment in &segments {
            out.take_replies(segment.reply_offset);
            if status.closed {
                stats.events -= log.size(&segment.events).lines as u64;
                continue;
            }
            // All of it at once where there is status for all.
            let size = log.size(&segment.events);
            let mut whole = status;
            whole.usage.all += size;
            if watcher.missed == 0 && whole.accepts_events(limits) {
                status = whole;
                usage.all += size;
                push_chunk(&mut out.chunks, log.chunk(segment.events.clone()));
                continue;
            }
            for event in log.each(segment.events.clone()) {
                if !status.accepts_events(limits) {
                    if limits.overflow == Overflow::Disconnect {
                        let lines = segments
                            .iter()
                            .map(|segment| log.size(&segment.events).lines);
                        stats.events -= lines.sum::<usize>() as u64;
                        return Err(Missed);
                    }
                    watcher.missed += 1;
                    stats.events -= 1;
                    stats.missed += 1;
                    continue;
                }
                let mut size = log.size(&event);
                if let Some(line) = watcher.take_missed() {
                    size += Size {
                        lines: 1,
                        bytes: line.len(),
                    };
                    push_chunk(&mut out.chunks, Chunk::Own(line));
                }
                status.usage.all += size;
                usage.all += size;
                push_chunk(&mut out.chunks, log.chunk(event));
            }
        }
        out.take_replies(usize::MAX);
        Ok(out.chunks)
    }

    /// Whether a watcher has lost events that it was not notified of.
    pub(crate) fn has_missed(&self, id: usize) -> bool {
        self.watchers[id].missed > 0
    }

    /// The line that tells a watcher how many it has missed, if any.
    pub(crate) fn take_missed(&mut self, id: usize) -> Option<Vec<u8>> {
        self.watchers[id].take_missed()
    }
}

/// An event found no status.
pub(crate) struct Missed;

impl ClientWatches {
    fn take_missed(&mut self) -> Option<Vec<u8>> {
        let missed = std::mem::take(&mut self.missed);
        (missed > 0).then(|| {
            let mut line = Vec::new();
            push_missed(&mut line, missed);
            line
        })
    }
}

impl EventBuffer<Arc<Vec<u8>>> {
    fn size(&self, events: &Range<usize>) -> Size {
        let until = |end: usize| self.boundaries.partition_point(|&other| other <= end);
        Size {
            lines: until(events.end) - until(events.start),
            bytes: events.len(),
        }
    }

    fn each(&self, events: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let mut start = events.start;
        let first = self.boundaries.partition_point(|&end| end <= start);
        let boundaries = self.boundaries[first..].iter();
        boundaries
            .take_while(move |&&end| end <= events.end)
            .map(move |&end| std::mem::replace(&mut start, end)..end)
    }

    /// Shared, unless it is so little of the log that it should not keep the rest in memory.
    fn chunk(&self, events: Range<usize>) -> Chunk {
        if events.len() >= self.bytes.len() / 2 {
            Chunk::Shared(self.bytes.clone(), events)
        } else {
            Chunk::Own(self.bytes[events].to_vec())
        }
    }
}

struct Outgoing {
    chunks: Chunks,
    replies: Vec<u8>,
    taken: usize,
}

impl Outgoing {
    /// The client's own replies up to here come next.
    fn take_replies(&mut self, until: usize) {
        let until = until.min(self.replies.len());
        if self.taken == 0 && until == self.replies.len() {
            push_chunk(
                &mut self.chunks,
                Chunk::Own(std::mem::take(&mut self.replies)),
            );
        } else if self.taken < until {
            let replies = self.replies[self.taken..until].to_vec();
            push_chunk(&mut self.chunks, Chunk::Own(replies));
            self.taken = until;
        }
    }
}

/// Finds all prefixes of a key. Among sorted ones, the greatest that is not beyond the key is
/// either a prefix of it, or shares with it all that a shorter one can be.
fn prefixes_of<T>(key: &[u8], prefixes: &BTreeMap<Box<[u8]>, Vec<T>>, mut found: impl FnMut(&[T])) {
    let mut limit = key;
    loop {
        let upto = (Bound::Unbounded, Bound::Included(limit));
        let Some((prefix, value)) = prefixes.range::<[u8], _>(upto).next_back() else {
            return;
        };
        if limit.starts_with(prefix) {
            found(value);
            let Some(shorter) = prefix.len().checked_sub(1) else {
                return;
            };
            limit = &limit[..shorter];
        } else {
            let shared = prefix.iter().zip(limit).take_while(|(a, b)| a == b);
            limit = &limit[..shared.count()];
        }
    }
}
