//! One client's part of a round.

use super::{
    Limits,
    outbox::{Content, Room},
};
use crate::protocol::{Block, TooLong};

/// Commands that one client may have applied in one turn, before the others have theirs.
const TURN_COMMANDS: usize = 4096;

/// Bytes of replies that one client may have in one turn, before the others have theirs.
pub(super) const TURN_BYTES: usize = 64 * 1024;

/// Where a client's block of lines stands, and the replies so far.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) client: usize,
    pub(super) progress: Progress,
    /// The server is closing: commands are refused, not applied.
    pub(super) refuse: bool,
    /// How the client's outbox stood when the turn began.
    pub(super) room: Room,
    /// Encoded replies, in order, and their measure.
    pub(super) replies: Vec<u8>,
    pub(super) content: Content,
    /// The client broke the overflow policy and has to go.
    pub(super) cut: bool,
    pub(super) state: TurnState,
    commands: usize,
    /// Where this turn stood when the batch at hand began.
    mark: (Progress, usize, usize, Content, bool),
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TurnState {
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
        progress: Progress,
        refuse: bool,
        room: Room,
        replies: Vec<u8>,
    ) -> Self {
        Self {
            client,
            progress,
            refuse,
            room,
            replies,
            content: Content::default(),
            cut: false,
            state: TurnState::Going,
            commands: 0,
            mark: Default::default(),
        }
    }

    pub(super) fn set_mark(&mut self) {
        self.mark = (
            self.progress,
            self.commands,
            self.replies.len(),
            self.content,
            self.cut,
        );
    }

    pub(super) fn back_to_mark(&mut self) {
        let bytes;
        (self.progress, self.commands, bytes, self.content, self.cut) = self.mark;
        self.replies.truncate(bytes);
        self.state = TurnState::Going;
    }

    pub(super) fn gone(&self) -> bool {
        self.room.gone || self.cut
    }

    pub(super) fn is_full(&self, limits: &Limits) -> bool {
        let mut all = self.room.content.all;
        all += self.content.all;
        all.fills(limits)
    }

    /// The next line that is not blank, unless the turn has to stop here.
    pub(super) fn next_line<'a>(
        &mut self,
        block: &'a Block,
        limits: &Limits,
        round_is_over: bool,
    ) -> Option<Result<&'a [u8], TooLong>> {
        loop {
            if self.state != TurnState::Going {
                return None;
            }
            if round_is_over || self.commands == TURN_COMMANDS || self.replies.len() >= TURN_BYTES {
                self.state = TurnState::Spent;
                return None;
            }
            if !self.gone() && !self.room.refusing && self.is_full(limits) {
                self.state = TurnState::Full;
                return None;
            }
            let Some(line) = block.line_at(&mut self.progress.at) else {
                self.state = TurnState::Done;
                return None;
            };
            self.progress.line += 1;
            if line != Ok(b"") {
                self.commands += 1;
                return Some(line);
            }
        }
    }
}
