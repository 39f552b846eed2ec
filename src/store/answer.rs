//! Answers of the store → reply lines of the turn.

use std::fmt;

use memchr::memchr;

use super::{
    memory::Full,
    overflow::ReplyAction,
    rejection::Rejection,
    timer::BYTES_PER_WORK,
    turn::{AppliedWrite, Progress},
};
use crate::{
    connection::outbox::{Size, Usage},
    protocol::{Code, Operation, push_error, push_sync, push_value},
};

const MISFIT: &str = "the store gave an answer that does not fit the command";

/// The way to answer one command of a [`Batch`](super::Batch). Answering uses it up.
pub struct Answer<'a> {
    progress: &'a mut Progress,
    /// The key of a `Get`.
    key: Option<&'a [u8]>,
}

impl<'a> Answer<'a> {
    pub(super) fn new(progress: &'a mut Progress, operation: &Operation<'a>) -> Self {
        let key = match *operation {
            Operation::Get { key } => Some(key),
            Operation::Write(_) => None,
        };
        Self { progress, key }
    }

    /// The write is applied, and on disk if the store is durable.
    ///
    /// This does not answer a `Get`: one that is answered so fails with a store error.
    pub fn done(self) {
        self.progress.timer.add_unknown();
        self.done_after(0);
    }

    /// What [`Memory`](super::Memory) has done.
    pub(super) fn written(self, bytes: Result<usize, Full>) {
        match bytes {
            Ok(bytes) => self.done_after(bytes),
            Err(Full::Store) => self.store_full(),
            Err(Full::Values) => self.values_full(),
        }
    }

    /// Like [`done`](Self::done), of a write that went through so many bytes and did little else.
    pub(super) fn done_after(self, bytes: usize) {
        if self.key.is_some() {
            return self.fail(MISFIT);
        }
        let progress = self.progress;
        progress.answered = true;
        progress.timer.add(bytes / BYTES_PER_WORK);
        if progress.watched {
            progress.applied.push(AppliedWrite {
                offset: progress.line_offset,
                replies: progress.replies.len(),
            });
        }
    }

    /// What the store did since the last answer may have taken any time.
    pub(super) fn took_unknown_time(&mut self) {
        self.progress.timer.add_unknown();
    }

    /// The values that a `Get` has found, oldest first; none if the key is not there.
    ///
    /// If a value holds an LF, which would look like two lines, the `Get` fails with a store error. This does
    /// not answer a write: one that is answered so counts as [`unconfirmed`](Self::unconfirmed).
    pub fn values<'v, V>(self, values: V)
    where
        V: IntoIterator<Item = &'v [u8], IntoIter: ExactSizeIterator>,
    {
        self.progress.timer.add_unknown();
        self.values_at_once(values.into_iter(), true);
    }

    /// Like [`values`](Self::values), if they took no time to find, and if the store may know that none
    /// of them holds an LF. To look for one costs more than to copy a value.
    pub(super) fn values_at_once<'v>(
        self,
        values: impl ExactSizeIterator<Item = &'v [u8]>,
        may_hold_lf: bool,
    ) {
        match self.key {
            None => self.unconfirmed(MISFIT),
            Some(key) => {
                match self.progress.walk_line {
                    Some(walk) if walk.counts => self.progress.push_count(key, values.len()),
                    _ => self.progress.push_values(key, values, may_hold_lf),
                }
                self.progress.answered = true;
            }
        }
    }

    /// The write would have made the store larger than [`max_store`](super::Batch::max_store). It left
    /// nothing behind.
    pub fn store_full(self) {
        self.refuse(Rejection::FullStore);
    }

    /// The key of the write has [`max_values`](super::Batch::max_values) values already. The write left
    /// nothing behind.
    pub fn values_full(self) {
        self.refuse(Rejection::FullValues);
    }

    fn refuse(self, rejection: Rejection) {
        self.progress.answered = true;
        self.progress.timer.add_unknown();
        self.progress.refuse(rejection);
    }

    /// A key is longer than the store can keep. It left nothing behind.
    ///
    /// The client sees `:error:LINE:too-long:` and the reason.
    pub fn key_too_long(self, max: usize) {
        self.progress.answered = true;
        self.progress.timer.add_unknown();
        let message = format!("the key is longer than {max} bytes");
        self.progress.push_error(Code::TooLong, message);
    }

    /// The command failed, and left nothing behind.
    ///
    /// The client sees `:error:LINE:store:` and the reason, on one line. The reason must hold nothing that
    /// a client must not see.
    pub fn fail(self, reason: impl fmt::Display) {
        self.progress.answered = true;
        self.progress.timer.add_unknown();
        self.progress.push_error(Code::Store, reason);
    }

    /// The write may have been applied, or may be applied later: the store does not know.
    ///
    /// The client sees `:error:LINE:unconfirmed:` and the reason, on one line. Watchers get no event. For
    /// a `Get` this is the same as [`fail`](Self::fail).
    pub fn unconfirmed(self, reason: impl fmt::Display) {
        if self.key.is_some() {
            return self.fail(reason);
        }
        self.progress.answered = true;
        self.progress.timer.add_unknown();
        self.progress.stats.unconfirmed += 1;
        self.progress.push_error(Code::Unconfirmed, reason);
    }
}

impl fmt::Debug for Answer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("to_get", &self.key.is_some())
            .finish()
    }
}

impl Progress {
    pub(crate) fn refuse(&mut self, rejection: Rejection) {
        rejection.count(&mut self.stats);
        let limits = self.limits.clone();
        self.push_error(rejection.code(), rejection.message(&limits));
    }

    /// Queues an error of the line at hand. A walk ends with it.
    pub(super) fn push_error(&mut self, code: Code, message: impl fmt::Display) {
        self.stats.errors += 1;
        let line = self.cursor.line;
        if let Some(walk) = &mut self.walk_line {
            walk.ended = true;
        }
        self.push_control_line(|replies| push_error(replies, line, code, message));
    }

    pub(super) fn push_sync(&mut self, token: &[u8]) {
        let dropped = self.cursor.dropped;
        if self.push_control_line(|replies| push_sync(replies, dropped, token)) {
            self.cursor.dropped = 0;
        }
    }

    /// Queues a control line, unless the client is gone or has to go.
    pub(crate) fn push_control_line(&mut self, push: impl FnOnce(&mut Vec<u8>)) -> bool {
        if !self.accepts_control_line() {
            return false;
        }
        let before = self.replies.len();
        push(&mut self.replies);
        self.stats.lines_queued += 1;
        let size = Size {
            lines: 1,
            bytes: self.replies.len() - before,
        };
        self.usage += Usage {
            all: size,
            control: size,
        };
        true
    }

    /// Decides whether a reply of so many lines is queued, and counts it if it is dropped.
    fn accepts_reply(&mut self, lines: usize) -> bool {
        match self.decide_reply(lines) {
            ReplyAction::Queue => return true,
            ReplyAction::Drop => {
                self.cursor.dropped += lines as u64;
                self.dropped += lines as u64;
                self.stats.lines_dropped += lines as u64;
            }
            ReplyAction::None => {}
        }
        false
    }

    fn push_values<'v>(
        &mut self,
        key: &[u8],
        values: impl ExactSizeIterator<Item = &'v [u8]>,
        may_hold_lf: bool,
    ) {
        if !self.accepts_reply(values.len()) {
            return;
        }
        let before = self.replies.len();
        let max = self.limits.max_reply;
        let mut lines = 0;
        for value in values {
            let bytes = key.len() + value.len() + 2;
            let whole = self.replies.len() - before + bytes;
            if whole > max || (may_hold_lf && memchr(b'\n', value).is_some()) {
                self.replies.truncate(before);
                self.timer.add_unknown();
                return if whole > max {
                    self.refuse(Rejection::LongReply);
                } else {
                    let message = "a value holds a line feed, which no line can carry";
                    self.push_error(Code::Store, message);
                };
            }
            self.buffers.reserve(&mut self.replies, bytes);
            push_value(&mut self.replies, key, value);
            lines += 1;
        }
        self.count_reply(lines, before);
    }

    /// The line of a key in the reply to `Keys`.
    fn push_count(&mut self, key: &[u8], values: usize) {
        if values > 0 && self.accepts_reply(1) {
            let before = self.replies.len();
            push_value(&mut self.replies, key, values.to_string().as_bytes());
            self.count_reply(1, before);
        }
    }

    /// A reply was queued behind so many bytes of others.
    fn count_reply(&mut self, lines: usize, before: usize) {
        self.usage.all += Size {
            lines,
            bytes: self.replies.len() - before,
        };
        self.stats.lines_queued += lines as u64;
    }
}
