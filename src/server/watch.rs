//! Changes → those who watch.
//!
//! The events of a round are encoded once, end to end, in one log. What a watcher hears of them is a
//! list of parts of that log, mostly a single one, and its bytes are shared with everyone who
//! watches the same.

use std::{
    collections::{BTreeMap, HashMap},
    ops::{Bound, Range},
    sync::Arc,
};

use slab::Slab;
use smallvec::SmallVec;

use super::{
    Limits, Overflow, Stats,
    outbox::{Chunk, Chunks, Content, Load, Room, push_chunk},
    turn::Turn,
};
use crate::protocol::{Topic, Write, push_change, push_missed};

/// All that is watched, and by whom. Watchers go by a number of their own, since most clients are
/// none.
#[derive(Default)]
pub(super) struct Watches {
    keys: HashMap<Box<[u8]>, Vec<usize>>,
    prefixes: BTreeMap<Box<[u8]>, Vec<usize>>,
    watchers: Slab<Watcher>,
    log: Log<Vec<u8>>,
    /// Watchers that hear something of this round.
    told: Vec<usize>,
    /// Topics watched, each watcher's counted.
    watching: u64,
}

/// The events of a round.
#[derive(Clone, Default)]
pub(super) struct Log<B> {
    bytes: B,
    /// Where each event ends.
    ends: Vec<usize>,
}

struct Watcher {
    client: usize,
    /// The client's place in this round.
    turn: usize,
    /// With its place among those who watch the same, so that it leaves without a search.
    keys: HashMap<Box<[u8]>, usize>,
    prefixes: HashMap<Box<[u8]>, usize>,
    /// What they count for together.
    weight: usize,
    /// What it hears of this round.
    parts: SmallVec<[Part; 1]>,
    /// Events that it has lost and not been told of.
    missed: u64,
}

/// Where a client has no turn in a round, its events come before all it may be answered later.
const NO_TURN: usize = usize::MAX;

/// A run of events for one watcher.
struct Part {
    /// How many bytes of the client's own replies in this round come before.
    after: usize,
    events: Range<usize>,
}

/// Bytes of a name that count for one watch. It bounds what a client's watches take up.
const NAME_BYTES: usize = 64;

fn weight(topic: Topic<'_>) -> usize {
    let (Topic::Key(name) | Topic::Prefix(name)) = topic;
    name.len().div_ceil(NAME_BYTES).max(1)
}

/// A client watches as much as it may.
pub(super) struct TooMany;

impl Watcher {
    /// Says whether it had not heard it yet: more of its topics may match.
    fn hear(&mut self, after: usize, event: &Range<usize>) -> bool {
        match self.parts.last_mut() {
            Some(last) if last.events.end == event.end => return false,
            Some(last) if last.events.end == event.start && last.after == after => {
                last.events.end = event.end;
            }
            _ => self.parts.push(Part {
                after,
                events: event.clone(),
            }),
        }
        true
    }
}

impl Watches {
    /// Begins a watch for the client of a turn, which may not be a watcher yet. Says whether it is
    /// a new one.
    pub(super) fn watch(
        &mut self,
        watcher: &mut Option<usize>,
        client: usize,
        turn: usize,
        topic: Topic<'_>,
        limits: &Limits,
    ) -> Result<bool, TooMany> {
        let id = *watcher.get_or_insert_with(|| {
            self.watchers.insert(Watcher {
                client,
                turn,
                keys: HashMap::new(),
                prefixes: HashMap::new(),
                weight: 0,
                parts: SmallVec::new(),
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
        let weight = weight(topic);
        if weight > limits.max_watches - watcher.weight {
            return Err(TooMany);
        }
        watcher.weight += weight;
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
    pub(super) fn unwatch(&mut self, watcher: Option<usize>, topic: Topic<'_>) -> bool {
        let Some(id) = watcher else { return false };
        let watcher = &mut self.watchers[id];
        let place = match topic {
            Topic::Key(key) => watcher.keys.remove(key),
            Topic::Prefix(prefix) => watcher.prefixes.remove(prefix),
        };
        if let Some(place) = place {
            watcher.weight -= weight(topic);
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
    pub(super) fn leave(&mut self, id: usize) {
        let watcher = self.watchers.remove(id);
        for (key, place) in &watcher.keys {
            self.forget(*place, Topic::Key(key));
        }
        for (prefix, place) in &watcher.prefixes {
            self.forget(*place, Topic::Prefix(prefix));
        }
    }

    /// The topics watched now, each watcher's counted.
    pub(super) fn watching(&self) -> u64 {
        self.watching
    }

    /// The client of a watcher has this turn in the round that begins.
    pub(super) fn set_turn(&mut self, id: usize, turn: usize) {
        self.watchers[id].turn = turn;
    }

    /// Notes a change for all who watch its key, behind what their turns have been replied so far.
    /// Gives the number of events. What nobody watches costs the look-ups and nothing more.
    pub(super) fn tell(&mut self, change: Write<'_>, turns: &[Turn], stats: &mut Stats) -> usize {
        let Log { bytes, ends } = &mut self.log;
        let start = bytes.len();
        let mut events = 0;
        let mut hear = |watching: &[usize]| {
            if bytes.len() == start {
                push_change(bytes, change);
                ends.push(bytes.len());
            }
            for &id in watching {
                let watcher = &mut self.watchers[id];
                if watcher.parts.is_empty() {
                    self.told.push(id);
                }
                let after = turns.get(watcher.turn).map_or(0, |turn| turn.replies.len());
                if watcher.hear(after, &(start..bytes.len())) {
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
    pub(super) fn mark(&self) -> usize {
        self.log.bytes.len()
    }

    /// Takes back what was told since.
    pub(super) fn back_to(&mut self, mark: usize) {
        self.log.bytes.truncate(mark);
        self.log.ends.retain(|&end| end <= mark);
        self.told.retain(|&id| {
            let parts = &mut self.watchers[id].parts;
            parts.retain_mut(|part| {
                part.events.end = part.events.end.min(mark);
                part.events.start < mark
            });
            !parts.is_empty()
        });
    }

    /// Ends the round. Gives its events, and those who hear of them.
    pub(super) fn end_round(&mut self) -> (Log<Arc<Vec<u8>>>, Vec<usize>) {
        let Log { bytes, ends } = std::mem::take(&mut self.log);
        let log = Log {
            bytes: bytes.into(),
            ends,
        };
        (log, std::mem::take(&mut self.told))
    }

    /// The client of a watcher, if it still hears something of the round that has ended.
    pub(super) fn hears(&self, id: usize) -> Option<usize> {
        let watcher = self.watchers.get(id)?;
        (!watcher.parts.is_empty()).then_some(watcher.client)
    }

    /// Weaves what a watcher hears of a round into its own replies. Adds to `content` what it has
    /// room for; what it has not, it misses. An error is that the policy does not allow that.
    pub(super) fn weave(
        &mut self,
        id: usize,
        log: &Log<Arc<Vec<u8>>>,
        replies: Vec<u8>,
        content: &mut Content,
        (mut room, limits): (Room, &Limits),
        stats: &mut Stats,
    ) -> Result<Chunks, Missed> {
        let watcher = &mut self.watchers[id];
        watcher.turn = NO_TURN;
        room.content += *content;
        let mut out = Outgoing {
            chunks: Chunks::new(),
            replies,
            taken: 0,
        };
        let parts = std::mem::take(&mut watcher.parts);
        for part in &parts {
            out.take_replies(part.after);
            if room.gone {
                stats.events -= log.load(&part.events).lines as u64;
                continue;
            }
            // All of it at once where there is room for all.
            let load = log.load(&part.events);
            let mut whole = room;
            whole.content.all += load;
            if watcher.missed == 0 && whole.lets_events_in(limits) {
                room = whole;
                content.all += load;
                push_chunk(&mut out.chunks, log.chunk(part.events.clone()));
                continue;
            }
            for event in log.each(part.events.clone()) {
                if !room.lets_events_in(limits) {
                    if limits.overflow == Overflow::Disconnect {
                        let lines = parts.iter().map(|part| log.load(&part.events).lines);
                        stats.events -= lines.sum::<usize>() as u64;
                        return Err(Missed);
                    }
                    watcher.missed += 1;
                    stats.events -= 1;
                    stats.missed += 1;
                    continue;
                }
                let mut load = log.load(&event);
                if let Some(line) = watcher.take_missed() {
                    load += Load {
                        lines: 1,
                        bytes: line.len(),
                    };
                    push_chunk(&mut out.chunks, Chunk::Own(line));
                }
                room.content.all += load;
                content.all += load;
                push_chunk(&mut out.chunks, log.chunk(event));
            }
        }
        out.take_replies(usize::MAX);
        Ok(out.chunks)
    }

    /// Whether a watcher has lost events that it was not told of.
    pub(super) fn has_missed(&self, id: usize) -> bool {
        self.watchers[id].missed > 0
    }

    /// The line that tells a watcher how many it has missed, if any.
    pub(super) fn take_missed(&mut self, id: usize) -> Option<Vec<u8>> {
        self.watchers[id].take_missed()
    }
}

/// An event found no room.
pub(super) struct Missed;

impl Watcher {
    fn take_missed(&mut self) -> Option<Vec<u8>> {
        let missed = std::mem::take(&mut self.missed);
        (missed > 0).then(|| {
            let mut line = Vec::new();
            push_missed(&mut line, missed);
            line
        })
    }
}

impl Log<Arc<Vec<u8>>> {
    fn load(&self, events: &Range<usize>) -> Load {
        let until = |end: usize| self.ends.partition_point(|&other| other <= end);
        Load {
            lines: until(events.end) - until(events.start),
            bytes: events.len(),
        }
    }

    fn each(&self, events: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let mut start = events.start;
        let first = self.ends.partition_point(|&end| end <= start);
        let ends = self.ends[first..].iter();
        ends.take_while(move |&&end| end <= events.end)
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
