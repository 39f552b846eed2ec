//! Commands → replies: the turns of a round, handed to the store as one batch.

use std::{collections::VecDeque, fmt};

use super::{
    Limits, Overflow, Stats,
    outbox::{Content, Load, Room},
};
use crate::{
    Error,
    protocol::{
        Block, Code, Command, Operation, ParseError, TooLong, push_error, push_sync, push_value,
    },
};

/// Commands that one client may have applied in one turn, before the others have theirs.
const TURN_COMMANDS: usize = 4096;

/// Bytes of replies that one client may have in one turn, before the others have theirs.
const TURN_BYTES: usize = 64 * 1024;

/// Bytes of replies in one round, before the writers have their turn. What a round produced is
/// written while it is still in the processor's cache.
const ROUND_BYTES: usize = 256 * 1024;

/// A reply buffer that outgrows this grows to a whole turn's bytes at once. Growing by halves
/// would copy as much as the replies themselves.
const SMALL_REPLIES: usize = 2 * 1024;

/// One client's part of a round: where its block of lines stands, and the replies so far.
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

    fn set_mark(&mut self) {
        self.mark = (
            self.progress,
            self.commands,
            self.replies.len(),
            self.content,
            self.cut,
        );
    }

    fn back_to_mark(&mut self) {
        let bytes;
        (self.progress, self.commands, bytes, self.content, self.cut) = self.mark;
        self.replies.truncate(bytes);
        self.state = TurnState::Going;
    }

    fn gone(&self) -> bool {
        self.room.gone || self.cut
    }

    fn is_full(&self, limits: &Limits) -> bool {
        let mut all = self.room.content.all;
        all += self.content.all;
        all.fills(limits)
    }

    /// The next line that is not blank, unless the turn has to stop here.
    fn next_line<'a>(
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

    /// Counts a line that was just appended to the replies, where they were `before` long.
    fn count_control(&mut self, before: usize) {
        let load = Load {
            lines: 1,
            bytes: self.replies.len() - before,
        };
        self.content += Content {
            all: load,
            control: load,
        };
    }
}

/// Commands for a [`Store`](crate::store::Store) to apply, and the place for its answers.
///
/// The commands borrow from the batch's own memory, not from the `Batch` value, so a store can take
/// several before it answers the first. The contract is written at the trait.
pub struct Batch<'a> {
    limits: &'a Limits,
    blocks: &'a [Block],
    turns: &'a mut [Turn],
    stats: &'a mut Stats,
    stats_before: Stats,
    /// Which turn the next command is taken from.
    current: usize,
    /// Bytes of replies in the turns before that.
    round_bytes: usize,
    /// What has been read and not been answered: operations that the store has taken, and other
    /// lines that have to wait for them.
    waiting: VecDeque<Waiting<'a>>,
    taken: usize,
}

struct Waiting<'a> {
    turn: usize,
    line: u64,
    what: What<'a>,
}

enum What<'a> {
    Get { key: &'a [u8] },
    Write,
    Sync { token: &'a [u8] },
    Stats,
    Refused { code: Code, words: Words },
}

#[derive(Clone, Copy)]
enum Words {
    Parse(ParseError),
    TooLong { max: usize },
    Closing,
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Words::Parse(error) => error.fmt(f),
            Words::TooLong { max } => write!(f, "the line is longer than {max} bytes"),
            Words::Closing => f.write_str("the server is shutting down"),
        }
    }
}

impl<'a> Batch<'a> {
    pub(super) fn new(
        limits: &'a Limits,
        blocks: &'a [Block],
        turns: &'a mut [Turn],
        stats: &'a mut Stats,
    ) -> Self {
        turns.iter_mut().for_each(Turn::set_mark);
        Self {
            limits,
            blocks,
            turns,
            stats_before: *stats,
            stats,
            current: 0,
            round_bytes: 0,
            waiting: VecDeque::new(),
            taken: 0,
        }
    }

    /// The next command to apply; `None` when the batch is at its end.
    pub fn take(&mut self) -> Option<Operation<'a>> {
        loop {
            let round_is_over = self.round_bytes >= ROUND_BYTES;
            let turn = self.turns.get_mut(self.current)?;
            let block = &self.blocks[self.current];
            let Some(line) = turn.next_line(block, self.limits, round_is_over) else {
                self.round_bytes += turn.replies.len();
                self.current += 1;
                continue;
            };
            let (what, operation) = match line.map(Command::parse) {
                _ if turn.refuse => (What::refused(Code::Closing, Words::Closing), None),
                Err(_) => {
                    let max = self.limits.max_line;
                    (What::refused(Code::TooLong, Words::TooLong { max }), None)
                }
                Ok(Err(error)) => (What::refused(error.code(), Words::Parse(error)), None),
                Ok(Ok(Command::Sync { token })) => {
                    let token = token.unwrap_or_default();
                    (What::Sync { token }, None)
                }
                Ok(Ok(Command::Stats)) => (What::Stats, None),
                Ok(Ok(Command::Operation(operation))) => match operation {
                    Operation::Get { key } => (What::Get { key }, Some(operation)),
                    _ => (What::Write, Some(operation)),
                },
            };
            if !matches!(what, What::Refused { .. }) {
                self.stats.commands += 1;
            }
            let waiting = Waiting {
                turn: self.current,
                line: turn.progress.line,
                what,
            };
            if operation.is_some() {
                self.taken += 1;
                self.waiting.push_back(waiting);
                return operation;
            }
            if self.waiting.is_empty() {
                self.control(waiting);
            } else {
                self.waiting.push_back(waiting);
            }
        }
    }

    /// Answers the oldest command without an answer, a write: it is applied.
    ///
    /// For a `Get` it is an empty list. It does nothing where no command waits for an answer.
    pub fn done(&mut self) {
        self.values(std::iter::empty());
    }

    /// Answers the oldest command without an answer, a `Get`, with the values in order.
    ///
    /// For a write it is the same as [`done`](Self::done).
    pub fn values<'v>(&mut self, values: impl ExactSizeIterator<Item = &'v [u8]>) {
        let Some(waiting) = self.waiting.pop_front() else {
            return;
        };
        if let What::Get { key } = waiting.what {
            self.queue_values(&waiting, key, values);
        }
        self.settle();
    }

    /// Answers the oldest command without an answer: it failed, and left nothing behind.
    ///
    /// The client sees `:error:LINE:store:` and the error's own text, on one line.
    pub fn fail(&mut self, error: &Error) {
        let Some(waiting) = self.waiting.pop_front() else {
            return;
        };
        match error {
            Error::Store(reason) => self.error(&waiting, Code::Store, reason),
            other => self.error(&waiting, Code::Store, other),
        }
        self.settle();
    }

    /// Closes the books after a store's `apply`. Says whether any commands are left for another.
    pub(super) fn conclude(mut self, result: Result<(), Error>) -> bool {
        if self.taken == 0 {
            // So that every call makes progress.
            self.take();
        }
        match result {
            Ok(()) => {
                while !self.waiting.is_empty() {
                    self.fail(&Error::store("the store gave no answer"));
                }
            }
            Err(error) => self.fail_all(&error),
        }
        self.current < self.turns.len()
    }

    /// Takes back every answer and fails every command that was taken.
    fn fail_all(&mut self, error: &Error) {
        if self.taken == 0 {
            return;
        }
        *self.stats = self.stats_before;
        self.turns.iter_mut().for_each(Turn::back_to_mark);
        self.waiting.clear();
        self.current = 0;
        self.round_bytes = 0;
        for _ in 0..self.taken {
            if self.take().is_some() {
                self.fail(error);
            }
        }
    }

    /// Gives out what waited only for the answer before it.
    fn settle(&mut self) {
        while let Some(next) = self.waiting.front() {
            if matches!(next.what, What::Get { .. } | What::Write) {
                return;
            }
            if let Some(waiting) = self.waiting.pop_front() {
                self.control(waiting);
            }
        }
    }

    fn control(&mut self, waiting: Waiting<'a>) {
        match waiting.what {
            What::Get { .. } | What::Write => {}
            What::Refused { code, words } => self.error(&waiting, code, words),
            What::Stats => {
                if self.admit_control(waiting.turn) {
                    let turn = &mut self.turns[waiting.turn];
                    let before = turn.replies.len();
                    self.stats.lines_queued += 1;
                    self.stats.push(&mut turn.replies);
                    turn.count_control(before);
                }
            }
            What::Sync { token } => {
                if self.admit_control(waiting.turn) {
                    let turn = &mut self.turns[waiting.turn];
                    let before = turn.replies.len();
                    let dropped = std::mem::take(&mut turn.progress.lost);
                    push_sync(&mut turn.replies, dropped, token);
                    turn.count_control(before);
                    self.stats.lines_queued += 1;
                }
            }
        }
    }

    fn error(&mut self, waiting: &Waiting<'_>, code: Code, words: impl fmt::Display) {
        self.stats.errors += 1;
        if self.admit_control(waiting.turn) {
            let turn = &mut self.turns[waiting.turn];
            let before = turn.replies.len();
            push_error(&mut turn.replies, waiting.line, code, words);
            turn.count_control(before);
            self.stats.lines_queued += 1;
        }
    }

    /// Control lines are not dropped; who leaves an outbox-full of them unread has to go.
    fn admit_control(&mut self, turn: usize) -> bool {
        let turn = &mut self.turns[turn];
        if turn.room.refusing && turn.is_full(self.limits) {
            let mut control = turn.room.content.control;
            control += turn.content.control;
            turn.cut |= self.limits.overflow == Overflow::Disconnect || control.fills(self.limits);
        }
        !turn.gone()
    }

    fn queue_values<'v>(
        &mut self,
        waiting: &Waiting<'_>,
        key: &[u8],
        values: impl ExactSizeIterator<Item = &'v [u8]>,
    ) {
        let lines = values.len();
        let turn = &mut self.turns[waiting.turn];
        if lines == 0 || turn.gone() {
            return;
        }
        if turn.room.refusing && turn.is_full(self.limits) {
            if self.limits.overflow == Overflow::Disconnect {
                turn.cut = true;
            } else {
                turn.progress.lost += lines as u64;
                self.stats.lines_dropped += lines as u64;
            }
            return;
        }
        let before = turn.replies.len();
        let max = self.limits.max_reply;
        for value in values {
            if turn.replies.len() - before + key.len() + value.len() + 2 > max {
                turn.replies.truncate(before);
                let words = format_args!("the reply is longer than {max} bytes");
                return self.error(waiting, Code::TooLong, words);
            }
            make_room(&mut turn.replies, key.len() + value.len() + 2);
            push_value(&mut turn.replies, key, value);
        }
        turn.content.all += Load {
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

impl What<'_> {
    fn refused(code: Code, words: Words) -> Self {
        What::Refused { code, words }
    }
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("clients", &self.turns.len())
            .field("taken", &self.taken)
            .field("unanswered", &self.waiting.len())
            .finish()
    }
}
