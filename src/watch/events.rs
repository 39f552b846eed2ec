//! The events of a round, and what one watcher gets of them.
//!
//! The events are encoded once, end to end, in one buffer. A watcher's share is a list of segments of
//! that buffer, mostly a single one.

use std::{ops::Range, sync::Arc};

use smallvec::SmallVec;

use crate::{
    Overflow, Stats,
    connection::outbox::{Chunk, Chunks, OutboxStatus, Size, Usage, push_chunk},
    protocol::{MissedCount, Write, push_change, push_missed},
    shared::limits::Limits,
};

/// The events of a round while it lasts.
#[derive(Default)]
pub(crate) struct EventBuffer {
    bytes: Vec<u8>,
    /// Where each event ends.
    ends: Vec<usize>,
    /// For rounds without events, which are most: they allocate nothing.
    none: Arc<Vec<u8>>,
}

/// The events of a round that has ended, shared by all that get some of them.
pub(crate) struct RoundEvents {
    bytes: Arc<Vec<u8>>,
    ends: Vec<usize>,
}

/// A run of events for one watcher.
struct Segment {
    /// Bytes of the client's own replies in this round that come before.
    reply_offset: usize,
    events: Range<usize>,
}

/// What a watcher gets of the round.
#[derive(Default)]
pub(super) struct PendingEvents {
    segments: SmallVec<[Segment; 1]>,
    /// Events that were lost, if it has not been notified of them.
    missed: MissedCount,
}

/// An event found no room, and the overflow policy is to disconnect.
pub(crate) struct MustDisconnect;

impl EventBuffer {
    /// Gives the place of the event.
    pub(super) fn push(&mut self, change: Write<'_>) -> Range<usize> {
        let start = self.bytes.len();
        push_change(&mut self.bytes, change);
        self.ends.push(self.bytes.len());
        start..self.bytes.len()
    }

    pub(super) fn take(&mut self) -> RoundEvents {
        let bytes = match self.ends.is_empty() {
            true => self.none.clone(),
            false => Arc::new(std::mem::take(&mut self.bytes)),
        };
        let ends = std::mem::take(&mut self.ends);
        RoundEvents { bytes, ends }
    }
}

impl RoundEvents {
    fn size(&self, events: &Range<usize>) -> Size {
        let until = |end: usize| self.ends.partition_point(|&other| other <= end);
        Size {
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

    /// Shared, unless it is so small a part of the buffer that it should not keep the rest in
    /// memory.
    fn chunk(&self, events: Range<usize>) -> Chunk {
        if events.len() >= self.bytes.len() / 2 {
            Chunk::Shared(self.bytes.clone(), events)
        } else {
            Chunk::Own(self.bytes[events].to_vec())
        }
    }
}

impl PendingEvents {
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Says whether the event is new: several topics of the watcher may match.
    pub(super) fn add(&mut self, reply_offset: usize, event: &Range<usize>) -> bool {
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

    /// So many more were lost; 0 if it is unknown.
    pub(super) fn miss(&mut self, events: u64) {
        self.missed.add(events);
    }

    pub(super) fn has_missed(&self) -> bool {
        !self.missed.is_none()
    }

    /// The line with the number of events that were missed, if any.
    pub(super) fn take_missed(&mut self) -> Option<Vec<u8>> {
        self.missed.take().map(|missed| {
            let mut line = Vec::new();
            push_missed(&mut line, missed);
            line
        })
    }

    /// Puts the events into their places among the client's replies. Adds to `usage` those for which
    /// there is room; the others are missed.
    pub(super) fn interleave(
        &mut self,
        events: &RoundEvents,
        replies: Vec<u8>,
        usage: &mut Usage,
        (mut status, limits): (OutboxStatus, &Limits),
        stats: &mut Stats,
    ) -> Result<Chunks, MustDisconnect> {
        status.usage += *usage;
        let mut out = Interleaved {
            chunks: Chunks::new(),
            replies,
            taken: 0,
        };
        let segments = std::mem::take(&mut self.segments);
        for segment in &segments {
            out.take_replies(segment.reply_offset);
            let size = events.size(&segment.events);
            if status.closed {
                stats.events -= size.lines as u64;
                continue;
            }
            // All of it at once, if there is room for all.
            let mut whole = status;
            whole.usage.all += size;
            if self.missed.is_none() && whole.accepts_events(limits) {
                status = whole;
                usage.all += size;
                push_chunk(&mut out.chunks, events.chunk(segment.events.clone()));
                continue;
            }
            for event in events.each(segment.events.clone()) {
                if !status.accepts_events(limits) {
                    if limits.overflow == Overflow::Disconnect {
                        let sizes = segments.iter().map(|other| events.size(&other.events));
                        stats.events -= sizes.map(|size| size.lines as u64).sum::<u64>();
                        return Err(MustDisconnect);
                    }
                    self.miss(1);
                    stats.events -= 1;
                    stats.missed += 1;
                    continue;
                }
                let mut size = events.size(&event);
                if let Some(line) = self.take_missed() {
                    size += Size {
                        lines: 1,
                        bytes: line.len(),
                    };
                    push_chunk(&mut out.chunks, Chunk::Own(line));
                }
                status.usage.all += size;
                usage.all += size;
                push_chunk(&mut out.chunks, events.chunk(event));
            }
        }
        out.take_replies(usize::MAX);
        Ok(out.chunks)
    }
}

struct Interleaved {
    chunks: Chunks,
    replies: Vec<u8>,
    taken: usize,
}

impl Interleaved {
    /// The client's own replies up to here come next.
    fn take_replies(&mut self, until: usize) {
        let until = until.min(self.replies.len());
        if self.taken == 0 && until == self.replies.len() {
            let replies = std::mem::take(&mut self.replies);
            push_chunk(&mut self.chunks, Chunk::Own(replies));
        } else if self.taken < until {
            let replies = self.replies[self.taken..until].to_vec();
            push_chunk(&mut self.chunks, Chunk::Own(replies));
            self.taken = until;
        }
    }
}
