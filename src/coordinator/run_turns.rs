//! The turns of a round: which clients have one, and what happens to their replies.

use std::{collections::VecDeque, time::Duration};

use super::{Coordinator, ROUND_CLIENTS, clients::Pending};
use crate::{
    connection::outbox::{Chunk, Chunks, Next, push_chunk},
    protocol::LineBlock,
    round::turn::{Turn, TurnState},
    watch::events::{MustDisconnect, RoundEvents},
};

/// A client whose recent turns took this long together has its next turn behind those whose did not.
const LONG_TURNS: Duration = Duration::from_millis(1);

/// Emptied buffers that are kept, so that most rounds allocate none.
const POOLED_BUFFERS: usize = ROUND_CLIENTS;

/// A buffer larger than this is given back to the allocator.
const POOLED_BYTES: usize = 16 * 1024;

/// Clients whose commands wait for their turn, in the order of their turns. A client may be in the
/// queue twice; the second time it has no pending lines and is skipped.
///
/// Clients whose turns take long stand apart. A round comes to them last, so that a client with a
/// short turn does not wait for several long ones; but if it did not come to them, the next round
/// begins with one.
#[derive(Default)]
pub(super) struct TurnQueue {
    short: VecDeque<usize>,
    long: VecDeque<usize>,
    /// The next one is a client with long turns, if there is one.
    pub(super) long_first: bool,
}

impl TurnQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.short.is_empty() && self.long.is_empty()
    }

    pub(super) fn side(&mut self, long: bool) -> &mut VecDeque<usize> {
        match long {
            true => &mut self.long,
            false => &mut self.short,
        }
    }

    pub(super) fn pop_front(&mut self) -> Option<usize> {
        let long = if std::mem::take(&mut self.long_first) {
            self.long.pop_front()
        } else {
            None
        };
        long.or_else(|| self.short.pop_front())
            .or_else(|| self.long.pop_front())
    }
}

/// What a round consists of: the turns, and beside each the block it works through.
#[derive(Default)]
pub(super) struct Round {
    pub(super) turns: Vec<Turn>,
    pub(super) blocks: Vec<LineBlock>,
}

impl Coordinator {
    pub(super) fn start_turns(&mut self, round: &mut Round) {
        while round.turns.len() < ROUND_CLIENTS {
            let Some(key) = self.queue.pop_front() else {
                break;
            };
            self.start_turn(key, round);
        }
    }

    /// Gives the number of turns that had begun.
    pub(super) fn finish_turns(&mut self, round: &mut Round, events: &RoundEvents) -> usize {
        let mut finished = 0;
        let mut long_finished = false;
        let mut postponed = Vec::new();
        for (turn, block) in round.turns.drain(..).zip(round.blocks.drain(..)) {
            if turn.has_started() {
                finished += 1;
                long_finished |= self.is_long(turn.client);
                self.finish_turn(turn, block, events);
            } else {
                postponed.push((turn, block));
            }
        }
        // Turns for which the round had no time come first in the next, in their order.
        for (turn, block) in postponed.into_iter().rev() {
            let long = self.is_long(turn.client);
            self.queue.side(long).push_front(turn.client);
            self.requeue(turn, block);
        }
        self.queue.long_first = !long_finished;
        finished
    }

    fn is_long(&self, key: usize) -> bool {
        self.clients
            .get(key)
            .is_some_and(|client| client.recent_time >= LONG_TURNS)
    }

    pub(super) fn enqueue(&mut self, key: usize) {
        let long = self.is_long(key);
        self.queue.side(long).push_back(key);
    }

    fn start_turn(&mut self, key: usize, round: &mut Round) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let Some(Pending { block, rejecting }) = client.pending.take() else {
            return;
        };
        let outbox = client.outbox.clone();
        if let Some(watcher) = client.watcher {
            self.watches.set_turn(watcher, round.turns.len());
        }
        let replies = self.reply_buffers.pop().unwrap_or_default();
        round.turns.push(Turn::new(
            key,
            outbox,
            client.watcher,
            client.cursor,
            rejecting,
            replies,
        ));
        round.blocks.push(block);
    }

    fn finish_turn(&mut self, mut turn: Turn, block: LineBlock, events: &RoundEvents) {
        let mut then = match turn.state {
            _ if turn.aborted => Next::Abort,
            TurnState::Done => Next::ReadMore,
            TurnState::OutboxFull => Next::AwaitCapacity,
            TurnState::Running | TurnState::QuotaUsed => Next::Continue,
        };
        let key = turn.client;
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        client.cursor = turn.cursor;
        client.watcher = turn.watcher;
        client.recent_time = client.recent_time * 7 / 8 + turn.time;
        self.log.replies_dropped(client.id, turn.dropped);
        let limits = &self.server.limits;
        let replies = std::mem::take(&mut turn.replies);
        let mut usage = turn.usage;
        let chunks = match turn.watcher {
            None => {
                let mut chunks = Chunks::new();
                push_chunk(&mut chunks, Chunk::Own(replies));
                chunks
            }
            Some(watcher) => {
                let status = (client.outbox.status(), limits);
                let stats = &mut self.stats;
                let missed = stats.missed;
                let interleaved = self
                    .watches
                    .interleave(watcher, events, replies, &mut usage, status, stats);
                self.log
                    .events_missed(client.id, self.stats.missed - missed);
                interleaved.unwrap_or_else(|MustDisconnect| {
                    then = Next::Abort;
                    Chunks::new()
                })
            }
        };
        let awaits_capacity = client.outbox.try_send(chunks, usage, then);
        if turn.watcher.is_some_and(|id| self.watches.has_missed(id)) {
            client.outbox.request_capacity();
        }
        if turn.state != TurnState::Done {
            if !awaits_capacity {
                self.enqueue(key);
            }
            return self.requeue(turn, block);
        }
        client.cursor.offset = 0;
        let disconnected = client.disconnected;
        self.recycle(block.into_buffer());
        if disconnected {
            self.remove(key);
        }
    }

    /// Keeps the lines that a turn has not come to.
    fn requeue(&mut self, turn: Turn, block: LineBlock) {
        if let Some(client) = self.clients.get_mut(turn.client) {
            let rejecting = turn.rejecting;
            client.pending = Some(Pending { block, rejecting });
            // A batch that failed may have registered this client as a watcher.
            client.watcher = turn.watcher;
        }
        self.recycle(turn.replies);
    }

    fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.reply_buffers.len() < POOLED_BUFFERS
            && (1..=POOLED_BYTES).contains(&buffer.capacity())
        {
            buffer.clear();
            self.reply_buffers.push(buffer);
        }
    }
}
