//! The turns of a round: which clients have one, and what happens to their replies.

use std::time::Duration;

use super::{Coordinator, ROUND_CLIENTS, clients::Pending};
use crate::{
    connection::outbox::{Chunk, Chunks, Next, push_chunk},
    protocol::Command,
    store::{
        Changes, Order, Store,
        timer::{EVENTS_PER_WORK, RoundTimer},
        turn::{Turn, TurnState},
    },
    watch::events::{MustDisconnect, RoundEvents},
};

/// A client whose recent turns took this long together has its next turn behind those whose did not.
const LONG_TURNS: Duration = Duration::from_millis(1);

/// Bytes of replies in one round, before they are handed to the writers. What a round produced is
/// written while it is still in the processor's cache.
const ROUND_BYTES: usize = 256 * 1024;

/// Emptied buffers and ended turns that are kept, so that most rounds allocate none.
const POOLED: usize = ROUND_CLIENTS;

/// A buffer of more bytes than this goes to the connections' pool.
const POOLED_BYTES: usize = 1024;

/// The turns of a round that have ended and whose replies have not been sent.
pub(super) struct Round {
    pub(super) turns: Vec<Box<Turn>>,
    /// Bytes of their replies.
    bytes: usize,
    pub(super) timer: RoundTimer,
}

impl Round {
    pub(super) fn reply_bytes(&self, turn: usize) -> usize {
        reply_bytes(&self.turns, turn)
    }
}

/// Bytes of the replies of this turn; none if there is no such turn.
fn reply_bytes(turns: &[Box<Turn>], turn: usize) -> usize {
    turns
        .get(turn)
        .map_or(0, |turn| turn.progress.replies.len())
}

impl Coordinator {
    /// Whether there is nothing for a round to do.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.returned.is_empty() && self.unblocked.is_empty()
    }

    /// Gives the clients at the head of the queue their turns: the store gets their commands, and
    /// replies and events go to the outboxes.
    pub(super) fn run_ready<S: Store>(&mut self, store: &mut S, turns: &mut Vec<Box<Turn>>) {
        if self.is_idle() && self.watches.is_quiet() {
            return;
        }
        let began = self.server.clock.now();
        let mut round = Round {
            turns: std::mem::take(turns),
            bytes: 0,
            timer: RoundTimer::start(began),
        };
        self.stats.uptime = began - self.started;
        // A Stats in this round is answered with the counters of now, not of the last round.
        self.stats.accept_errors = self.server.accept_errors();
        if !self.returned.is_empty() || S::ORDER != Order::Immediate {
            self.take_store_output(store, &mut round);
            for turn in std::mem::take(&mut self.unblocked) {
                if self.is_over(&mut round) {
                    self.unblocked.push(turn);
                } else {
                    self.on_unblocked(turn, store, &mut round);
                }
            }
            if round.timer.is_over() {
                // So that a store that has much to say does not hold up those in the queue.
                round.timer = RoundTimer::start(self.server.clock.now());
            }
        }
        while round.turns.len() < ROUND_CLIENTS && !self.is_over(&mut round) {
            let Some(key) = self.queue.pop_front() else {
                break;
            };
            if let Some(turn) = self.start_turn(key, &round) {
                self.run_turn(turn, store, &mut round);
            }
        }
        self.count_store(store);
        let (events, notified) = self.watches.take_events();
        // Before the replies: a client that has its reply finds the command counted.
        self.publish();
        let finished = round.turns.len();
        let mut long_finished = false;
        for turn in round.turns.drain(..) {
            long_finished |= self.is_long(turn.client);
            self.finish_turn(turn, &events);
        }
        self.queue.long_first = !long_finished;
        *turns = round.turns;
        for &watcher in &notified {
            self.send_events(watcher, &events);
        }
        self.publish_round(store, began);
        self.server.wake_workers(finished + notified.len());
    }

    pub(super) fn is_over(&self, round: &mut Round) -> bool {
        round.timer.read(&*self.server.clock);
        round.bytes >= ROUND_BYTES || round.timer.is_over()
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

    fn start_turn(&mut self, key: usize, round: &Round) -> Option<Box<Turn>> {
        let client = self.clients.get_mut(key)?;
        let Pending {
            block,
            rejecting,
            walk,
        } = client.pending.take()?;
        let mut turn = self.turns.pop().unwrap_or_else(|| {
            let (limits, clock) = (self.limits.clone(), self.server.clock.clone());
            Box::new(Turn::new(limits, self.context.buffers.clone(), clock))
        });
        turn.block = block;
        turn.start(
            (key, client.watcher),
            client.outbox.clone(),
            client.cursor,
            rejecting,
        );
        turn.progress.replies = self.reply_buffers.pop().unwrap_or_default();
        turn.resume_walk(walk);
        if let Some(watcher) = client.watcher {
            self.watches.set_turn(watcher, round.turns.len());
        }
        Some(turn)
    }

    /// Has the store handle a client's lines, and answers those that are not for the store.
    pub(super) fn run_turn<S: Store>(
        &mut self,
        mut turn: Box<Turn>,
        store: &mut S,
        round: &mut Round,
    ) {
        loop {
            turn.progress.watched = S::CHANGES == Changes::Elsewhere && self.watches.watching() > 0;
            if turn.walk.is_some() {
                match self.walk(turn, store, round) {
                    Some(walking) => turn = walking,
                    None => return,
                }
                // A page without keys, of which a walk may have many: others are served before the next.
                if turn.is_page_done() {
                    return self.end_turn(turn, round);
                }
            }
            if turn.progress.state == TurnState::Running && !turn.is_page_done() {
                let submitted = match S::ORDER {
                    Order::Immediate => self.submit(turn, store, round),
                    _ => self.ask(turn, store, round),
                };
                match submitted {
                    Some(done) => turn = done,
                    None => return,
                }
            }
            match turn.progress.state {
                TurnState::AtControlLine if turn.watch_line().is_some() => {
                    match self.watch(turn, store, round) {
                        Some(answered) => turn = answered,
                        None => return,
                    }
                }
                TurnState::AtControlLine => self.answer_control_line(&mut turn, store),
                // That was a page. What follows it comes next.
                TurnState::Done if turn.walk.is_some() => turn.progress.state = TurnState::Running,
                TurnState::Running => {}
                _ => return self.end_turn(turn, round),
            }
            if let Some(since_last) = round.timer.read(&*self.server.clock) {
                turn.progress.time += since_last;
            }
            if round.timer.is_over() {
                return self.end_turn(turn, round);
            }
        }
    }

    /// The turn is over for this round.
    pub(super) fn end_turn(&mut self, mut turn: Box<Turn>, round: &mut Round) {
        if turn.walk.is_some() && turn.progress.state == TurnState::Done {
            // That was a page. What follows it comes next.
            turn.progress.state = TurnState::Running;
        }
        round.bytes += turn.progress.replies.len();
        round.turns.push(turn);
    }

    /// Takes what a turn has counted, and publishes the writes that were applied.
    pub(super) fn collect(&mut self, turn: &mut Turn, round: &mut Round) {
        self.stats.add(&mut turn.progress.stats);
        if turn.progress.applied.is_empty() {
            return;
        }
        let Round { turns, timer, .. } = round;
        let (watches, stats) = (&mut self.watches, &mut self.stats);
        let own = turns.len();
        turn.drain_applied(|write, replies| {
            let offset = |turn| match turn == own {
                true => replies,
                false => reply_bytes(turns, turn),
            };
            let (look_ups, events) = watches.publish(write, &[], offset, stats);
            timer.add(look_ups + events / EVENTS_PER_WORK);
        });
    }

    fn answer_control_line<S: Store>(&mut self, turn: &mut Turn, store: &S) {
        let Some((command, progress)) = turn.take_control_line() else {
            return;
        };
        let mut walk = None;
        match command {
            Command::Stats => {
                self.stats.add(&mut progress.stats);
                self.count_store(store);
                self.stats.watching = self.watches.watching();
                let mut stats = self.stats;
                // This line.
                stats.lines_queued += 1;
                progress.push_control_line(|replies| stats.push(replies));
            }
            Command::Unwatch(topic) => self.watches.unwatch(progress.watcher, topic),
            Command::GetPrefix { prefix } => walk = Some((prefix.to_vec(), false)),
            Command::Keys { prefix } => walk = Some((prefix.to_vec(), true)),
            // Answered by `watch`, and by the turn itself.
            Command::Watch(_)
            | Command::Operation(_)
            | Command::Sync { .. }
            | Command::Auth { .. } => {}
        }
        self.stats.add(&mut progress.stats);
        if let Some((prefix, counts)) = walk {
            turn.start_walk(prefix, counts);
        }
    }

    fn finish_turn(&mut self, mut turn: Box<Turn>, events: &RoundEvents) {
        let progress = &mut turn.progress;
        let mut then = match progress.state {
            _ if progress.aborted => Next::Abort,
            TurnState::Done => Next::ReadMore,
            TurnState::OutboxFull => Next::AwaitCapacity,
            _ => Next::Continue,
        };
        let key = turn.client;
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        client.cursor = progress.cursor;
        client.watcher = progress.watcher;
        client.recent_time = client.recent_time * 7 / 8 + progress.time;
        self.log.replies_dropped(client.id, progress.dropped);
        let limits = &self.server.limits;
        let replies = std::mem::take(&mut progress.replies);
        let mut usage = progress.usage;
        let chunks = match progress.watcher {
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
        if matches!(then, Next::Abort) {
            self.log.cut_off(client.id);
        }
        let sent = client.outbox.try_send(chunks, usage, then);
        self.fullest = self.fullest.max(sent.size);
        // Behind all that the turn has shown.
        let has_missed = std::mem::take(&mut turn.own_changes.has_missed);
        if let Some(watcher) = progress.watcher.filter(|_| has_missed) {
            self.watches.miss_by(watcher);
        }
        if progress
            .watcher
            .is_some_and(|id| self.watches.has_missed(id))
        {
            client.outbox.request_capacity();
        }
        let state = progress.state;
        progress.outbox = None;
        client.at_store = false;
        let walk = turn.suspend_walk();
        let block = std::mem::take(&mut turn.block);
        if state != TurnState::Done {
            client.pending = Some(Pending {
                block,
                rejecting: turn.progress.rejecting,
                walk,
            });
            if !sent.awaits_capacity {
                self.enqueue(key);
            }
        } else {
            client.cursor.offset = 0;
            let disconnected = client.disconnected;
            self.recycle(block.into_buffer());
            if disconnected {
                self.remove(key);
            }
        }
        if self.turns.len() < POOLED {
            self.turns.push(turn);
        }
    }

    fn recycle(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() > POOLED_BYTES {
            self.context.buffers.put(buffer);
        } else if self.reply_buffers.len() < POOLED && buffer.capacity() > 0 {
            buffer.clear();
            self.reply_buffers.push(buffer);
        }
    }
}
