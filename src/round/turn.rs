//! One client's part of a round.

use std::time::Duration;

use crate::{
    connection::outbox::{OutboxSender, OutboxStatus, Usage},
    protocol::{LineBlock, LineTooLong},
    shared::limits::Limits,
};

/// Lines of one client that are handled in one turn, before the others have theirs.
const TURN_LINES: usize = 4096;

/// Bytes of replies that one client may have in one turn, before the others have theirs.
pub(crate) const TURN_BYTES: usize = 64 * 1024;

/// How far a client's block has been handled, and the replies so far.
pub(crate) struct Turn {
    pub(crate) client: usize,
    pub(super) outbox: OutboxSender,
    /// The client's number among the watchers, if it is one.
    pub(crate) watcher: Option<usize>,
    pub(crate) cursor: Cursor,
    /// The server is closing: commands are refused, not applied.
    pub(crate) rejecting: bool,
    /// The status of the client's outbox when last read. Meanwhile, its room can only have grown.
    pub(crate) status: OutboxStatus,
    /// Encoded replies, in order, and their measure.
    pub(crate) replies: Vec<u8>,
    pub(crate) usage: Usage,
    /// Reply lines dropped in this turn.
    pub(crate) dropped: u64,
    /// The client is to be disconnected, by the overflow policy.
    pub(crate) aborted: bool,
    /// How long it has taken, as far as the clock was read.
    pub(crate) time: Duration,
    pub(crate) state: TurnState,
    /// Lines handled in this turn.
    pub(crate) lines: usize,
    /// Operations that the store has taken in the batch at hand.
    pub(crate) taken: usize,
    /// Where this turn stood when the batch at hand began.
    mark: Mark,
}

#[derive(Debug, Default)]
struct Mark {
    cursor: Cursor,
    lines: usize,
    replies: usize,
    usage: Usage,
    dropped: u64,
    aborted: bool,
    state: TurnState,
}

/// How far a client's commands have been handled.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor {
    /// Where in its block the next line begins.
    pub(crate) offset: usize,
    /// The number of lines handled so far on this connection.
    pub(crate) line: u64,
    /// Reply lines dropped on this connection since the last Sync.
    pub(crate) dropped: u64,
    /// The connection has used a command that is answered by control lines, and no line of it was
    /// refused because the server is closing.
    pub(crate) knows_control_lines: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum TurnState {
    #[default]
    Running,
    /// The outbox is full and the client may yet read: the rest waits for room.
    OutboxFull,
    /// The turn has taken its share of the round.
    QuotaUsed,
    /// Every line of the block is handled.
    Done,
}

impl Turn {
    pub(crate) fn new(
        client: usize,
        outbox: OutboxSender,
        watcher: Option<usize>,
        cursor: Cursor,
        rejecting: bool,
        replies: Vec<u8>,
    ) -> Self {
        Self {
            client,
            cursor,
            rejecting,
            status: outbox.status(),
            outbox,
            watcher,
            replies,
            usage: Usage::default(),
            dropped: 0,
            aborted: false,
            time: Duration::ZERO,
            state: TurnState::Running,
            lines: 0,
            taken: 0,
            mark: Mark::default(),
        }
    }

    pub(crate) fn set_mark(&mut self) {
        self.taken = 0;
        self.mark = Mark {
            cursor: self.cursor,
            lines: self.lines,
            replies: self.replies.len(),
            usage: self.usage,
            dropped: self.dropped,
            aborted: self.aborted,
            state: self.state,
        };
    }

    /// Goes back to where the batch began. Gives the number of operations that had been taken.
    pub(crate) fn back_to_mark(&mut self) -> usize {
        self.cursor = self.mark.cursor;
        self.lines = self.mark.lines;
        self.replies.truncate(self.mark.replies);
        self.usage = self.mark.usage;
        self.dropped = self.mark.dropped;
        self.aborted = self.mark.aborted;
        self.state = self.mark.state;
        std::mem::take(&mut self.taken)
    }

    /// Whether this turn began before the round was over.
    pub(crate) fn has_started(&self) -> bool {
        self.lines > 0 || self.state != TurnState::QuotaUsed
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.status.closed || self.aborted
    }

    /// Whether the turn has to stop before its next line.
    pub(crate) fn should_yield(&mut self, limits: &Limits) -> bool {
        if self.state == TurnState::Running {
            if self.lines == TURN_LINES || self.replies.len() >= TURN_BYTES {
                self.state = TurnState::QuotaUsed;
            } else if self.awaits_capacity(limits) {
                self.state = TurnState::OutboxFull;
            }
        }
        self.state != TurnState::Running
    }

    /// Goes back before a line that has just been read.
    pub(crate) fn unread_line(&mut self, before: Cursor) {
        self.cursor = before;
        self.lines -= 1;
    }

    /// The next line; blank ones too.
    pub(crate) fn next_line<'a>(
        &mut self,
        block: &'a LineBlock,
    ) -> Option<Result<&'a [u8], LineTooLong>> {
        let line = block.line_at(&mut self.cursor.offset);
        if line.is_some() {
            self.cursor.line += 1;
            self.lines += 1;
        } else {
            self.state = TurnState::Done;
        }
        line
    }
}
