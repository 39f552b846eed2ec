//! Answers → reply lines in the turn of their client.

use std::fmt;

use memchr::memchr;

use super::{
    batch::Batch,
    overflow::ReplyAction,
    rejection::{Rejection, Waiting, What},
    timer::EVENTS_PER_WORK,
    turn::{Cursor, TURN_BYTES, Turn},
};
use crate::{
    Stats,
    connection::outbox::{Size, Usage},
    protocol::{Code, Command, Operation, Topic, push_error, push_sync, push_value, push_watch},
    watch::registry::WatchLimit,
};

/// A reply buffer that outgrows this grows to a whole turn's bytes at once. Doubling
/// step by step would copy as much as the replies themselves.
const SMALL_REPLIES: usize = 2 * 1024;

impl<'a> Batch<'a> {
    /// Answers the lines that waited only for the answer before them.
    pub(super) fn settle(&mut self) {
        while let Some(next) = self.waiting.front() {
            if matches!(next.what, What::Get { .. } | What::Write { .. }) {
                return;
            }
            if let Some(waiting) = self.waiting.pop_front() {
                self.control(waiting);
            }
        }
    }

    pub(super) fn control(&mut self, waiting: Waiting<'a>) {
        let Waiting { turn, line, what } = waiting;
        match what {
            What::Get { .. } | What::Write { .. } | What::Authenticated => {}
            What::Refused(rejection) => self.refuse(turn, line, rejection),
            What::Stats => {
                self.stats.watching = self.watches.watching();
                self.control_line(turn, |replies, _, stats| {
                    stats.lines_queued += 1;
                    stats.push(replies);
                });
            }
            What::Watch(topic) => self.watch(turn, line, topic),
            What::Unwatch(topic) => {
                if self.watches.unwatch(self.turns[turn].watcher, topic) {
                    self.watch_changes.push((turn, topic, false));
                }
            }
            What::Sync { token } => self.control_line(turn, |replies, cursor, stats| {
                stats.lines_queued += 1;
                push_sync(replies, std::mem::take(&mut cursor.dropped), token);
            }),
        }
    }

    /// Queues the events of a write that was applied.
    pub(super) fn notify_watchers(&mut self, line: &[u8]) {
        if let Ok(Command::Operation(Operation::Write(change))) = Command::parse(line) {
            let (look_ups, events) = {
                let turns = &*self.turns;
                let offset = |turn| turns.get(turn).map_or(0, |turn: &Turn| turn.replies.len());
                self.watches.publish(change, offset, self.stats)
            };
            self.timer.add(look_ups + events / EVENTS_PER_WORK);
        }
    }

    pub(super) fn watch(&mut self, index: usize, line: u64, topic: Topic<'a>) {
        if self.turns[index].is_closed() {
            return;
        }
        if matches!(topic, Topic::Prefix(prefix) if prefix.len() > self.limits.max_watch_prefix) {
            return self.refuse(index, line, Rejection::LongPrefix);
        }
        match self.add_watch(index, topic) {
            Ok(new) => {
                if new {
                    self.watch_changes.push((index, topic, true));
                }
                self.control_line(index, |replies, _, stats| {
                    stats.lines_queued += 1;
                    push_watch(replies, topic);
                });
            }
            Err(WatchLimit) => self.refuse(index, line, Rejection::FullWatches),
        }
    }

    pub(super) fn add_watch(&mut self, index: usize, topic: Topic<'a>) -> Result<bool, WatchLimit> {
        let turn = &mut self.turns[index];
        self.watches
            .watch(&mut turn.watcher, turn.client, index, topic, self.limits)
    }

    pub(super) fn refuse(&mut self, turn: usize, line: u64, rejection: Rejection) {
        rejection.count(self.stats);
        self.error(turn, line, rejection.code(), rejection.message(self.limits));
    }

    pub(super) fn error(&mut self, turn: usize, line: u64, code: Code, message: impl fmt::Display) {
        self.stats.errors += 1;
        self.control_line(turn, |replies, _, stats| {
            stats.lines_queued += 1;
            push_error(replies, line, code, message);
        });
    }

    fn control_line(
        &mut self,
        turn: usize,
        push: impl FnOnce(&mut Vec<u8>, &mut Cursor, &mut Stats),
    ) {
        let turn = &mut self.turns[turn];
        if !turn.accepts_control_line(self.limits) {
            return;
        }
        let before = turn.replies.len();
        push(&mut turn.replies, &mut turn.cursor, self.stats);
        let size = Size {
            lines: 1,
            bytes: turn.replies.len() - before,
        };
        turn.usage += Usage {
            all: size,
            control: size,
        };
    }

    pub(super) fn queue_values<'v>(
        &mut self,
        turn_number: usize,
        line: u64,
        key: &[u8],
        values: impl ExactSizeIterator<Item = &'v [u8]>,
    ) {
        let turn = &mut self.turns[turn_number];
        let mut lines = values.len();
        match turn.decide_reply(lines, self.limits) {
            ReplyAction::Queue => {}
            ReplyAction::Drop => {
                turn.cursor.dropped += lines as u64;
                turn.dropped += lines as u64;
                self.stats.lines_dropped += lines as u64;
                return;
            }
            ReplyAction::None => return,
        }
        let before = turn.replies.len();
        let max = self.limits.max_reply;
        lines = 0;
        for value in values {
            let bytes = key.len() + value.len() + 2;
            let whole = turn.replies.len() - before + bytes;
            if whole > max || memchr(b'\n', value).is_some() {
                turn.replies.truncate(before);
                self.timer.add_unknown();
                return if whole > max {
                    self.refuse(turn_number, line, Rejection::LongReply);
                } else {
                    let message = "a value holds a line feed, which no line can carry";
                    self.error(turn_number, line, Code::Store, message);
                };
            }
            make_room(&mut turn.replies, bytes);
            push_value(&mut turn.replies, key, value);
            lines += 1;
        }
        turn.usage.all += Size {
            lines,
            bytes: turn.replies.len() - before,
        };
        self.stats.lines_queued += lines as u64;
    }
}

fn make_room(replies: &mut Vec<u8>, more: usize) {
    if replies.capacity() - replies.len() < more
        && (SMALL_REPLIES..TURN_BYTES).contains(&(replies.len() + more))
    {
        replies.reserve(TURN_BYTES + SMALL_REPLIES - replies.len());
    }
}
