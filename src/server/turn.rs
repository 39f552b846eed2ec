//! One client's part of a round.

use std::sync::Arc;

use super::{
    Limits,
    outbox::{Content, Outbox, Room},
};
use crate::protocol::{LineBlock, LineTooLong};

/// Lines of one client that are handled in one turn, before the others have theirs.
const TURN_LINES: usize = 4096;

/// Bytes of replies that one client may have in one turn, before the others have theirs.
pub(super) const TURN_BYTES: usize = 64 * 1024;

/// Where a client's block of lines stands, and the replies so far.
pub(super) struct Turn {
    pub(super) client: usize,
    outbox: Arc<Outbox>,
    /// The client's number among the watchers, if it is one.
    pub(super) watcher: Option<usize>,
    pub(super) progress: Progress,
    /// The server is closing: commands are refused, not applied.
    pub(super) refuse: bool,
    /// How the client's outbox stood when last looked at. Room only grows behind our back.
    pub(super) room: Room,
    /// Encoded replies, in order, and their measure.
    pub(super) replies: Vec<u8>,
    pub(super) content: Content,
    /// Reply lines dropped in this turn.
    pub(super) dropped: u64,
    /// The client broke the overflow policy and has to go.
    pub(super) cut: bool,
    /// One of its commands took long.
    pub(super) long: bool,
    pub(super) state: TurnState,
    /// Lines handled in this turn.
    pub(super) lines: usize,
    /// Operations that the store has taken in the batch at hand.
    pub(super) taken: usize,
    /// Where this turn stood when the batch at hand began.
    mark: Mark,
}

#[derive(Debug, Default)]
struct Mark {
    progress: Progress,
    lines: usize,
    replies: usize,
    content: Content,
    dropped: u64,
    cut: bool,
    state: TurnState,
}

/// How far a client's commands have been handled.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// Where in its block the next line begins.
    pub(super) at: usize,
    /// The number of lines handled so far on this connection.
    pub(super) line: u64,
    /// Reply lines dropped on this connection since the last Sync.
    pub(super) lost: u64,
    /// The connection has used a command that is answered by control lines, and no line of it was
    /// refused because the server is closing.
    pub(super) knows_control_lines: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum TurnState {
    #[default]
    Going,
    /// The outbox is full and the client may yet read: the rest waits for room.
    Full,
    /// The turn has taken its share of the round.
    Spent,
    /// Every line of the block is handled.
    Done,
}

impl Turn {
    pub(super) fn new(
        client: usize,
        outbox: Arc<Outbox>,
        watcher: Option<usize>,
        progress: Progress,
        refuse: bool,
        replies: Vec<u8>,
    ) -> Self {
        Self {
            client,
            progress,
            refuse,
            room: outbox.room(),
            outbox,
            watcher,
            replies,
            content: Content::default(),
            dropped: 0,
            cut: false,
            long: false,
            state: TurnState::Going,
            lines: 0,
            taken: 0,
            mark: Mark::default(),
        }
    }

    pub(super) fn set_mark(&mut self) {
        self.taken = 0;
        self.mark = Mark {
            progress: self.progress,
            lines: self.lines,
            replies: self.replies.len(),
            content: self.content,
            dropped: self.dropped,
            cut: self.cut,
            state: self.state,
        };
    }

    /// Goes back to where the batch began. Gives the number of operations that had been taken.
    pub(super) fn back_to_mark(&mut self) -> usize {
        self.progress = self.mark.progress;
        self.lines = self.mark.lines;
        self.replies.truncate(self.mark.replies);
        self.content = self.mark.content;
        self.dropped = self.mark.dropped;
        self.cut = self.mark.cut;
        self.state = self.mark.state;
        std::mem::take(&mut self.taken)
    }

    /// Whether the round came to this turn before it was over.
    pub(super) fn has_begun(&self) -> bool {
        self.lines > 0 || self.state != TurnState::Spent
    }

    pub(super) fn gone(&self) -> bool {
        self.room.gone || self.cut
    }

    fn is_full(&self, limits: &Limits) -> bool {
        let mut all = self.room.content.all;
        all += self.content.all;
        all.fills(limits)
    }

    /// Whether the outbox is full and the socket is refusing bytes, as of now: a store may have
    /// taken its time since the turn began.
    pub(super) fn overflows(&mut self, limits: &Limits) -> bool {
        if !(self.room.refusing && self.is_full(limits)) {
            return false;
        }
        self.room = self.outbox.room();
        self.room.refusing && self.is_full(limits)
    }

    /// Whether the turn has to stop before its next line.
    pub(super) fn must_stop(&mut self, limits: &Limits) -> bool {
        if self.state == TurnState::Going {
            if self.lines == TURN_LINES || self.replies.len() >= TURN_BYTES {
                self.state = TurnState::Spent;
            } else if !self.gone() && self.is_full(limits) && !self.overflows(limits) {
                self.state = TurnState::Full;
            }
        }
        self.state != TurnState::Going
    }

    /// Goes back before a line that has just been read.
    pub(super) fn put_back_line(&mut self, before: Progress) {
        self.progress = before;
        self.lines -= 1;
    }

    /// The next line; blank ones too.
    pub(super) fn next_line<'a>(
        &mut self,
        block: &'a LineBlock,
    ) -> Option<Result<&'a [u8], LineTooLong>> {
        let line = block.line_at(&mut self.progress.at);
        if line.is_some() {
            self.progress.line += 1;
            self.lines += 1;
        } else {
            self.state = TurnState::Done;
        }
        line
    }
}
