//! Commands → store: the turns of a round, handed to the store as one batch.
//!
//! In: the lines of clients that have their turns. Out: operations for the store, in order; its
//! answers become reply lines in the turns.

use std::fmt;

use super::{
    rejection::{Queue, Rejection, Waiting, What},
    timer::{BYTES_PER_WORK, RoundTimer},
    turn::{Turn, TurnState},
};
use crate::{
    Clock, Error, Stats,
    protocol::{Code, Command, LineBlock, LineTooLong, Operation, ParseError, Topic},
    shared::limits::Limits,
    watch::registry::WatchRegistry,
};

/// Bytes of replies in one round, before they are handed to the writers. What a round produced is
/// written while it is still in the processor's cache.
const ROUND_BYTES: usize = 256 * 1024;

const MISFIT: &str = "the store gave an answer that does not fit the command";

/// Commands for a [`Store`](crate::store::Store) to apply, and the place for its answers.
///
/// The commands borrow from the batch's own memory, not from the `Batch` value, so a store can take
/// several before it answers the first. The contract is written at the trait.
///
/// ```
/// use keywire::{Error, protocol::Operation, store::{Batch, Store}};
///
/// /// Says of every key how long it is.
/// struct Lengths;
///
/// impl Store for Lengths {
///     async fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), Error> {
///         while let Some(operation) = batch.take() {
///             match operation {
///                 Operation::Get { key } => {
///                     let length = key.len().to_string();
///                     batch.values([length.as_bytes()].into_iter());
///                 }
///                 _ => batch.fail(&Error::store("this store can't be written")),
///             }
///         }
///         Ok(())
///     }
/// }
/// ```
pub struct Batch<'a> {
    pub(super) limits: &'a Limits,
    pub(super) blocks: &'a [LineBlock],
    pub(super) turns: &'a mut [Turn],
    pub(super) watches: &'a mut WatchRegistry,
    pub(super) watches_before: usize,
    pub(super) stats: &'a mut Stats,
    pub(super) stats_before: Stats,
    /// Which turn the next command is taken from.
    pub(super) current: usize,
    /// Bytes of replies in the turns before that. At [`ROUND_BYTES`] or more the round is over; it is
    /// set to that, too, when the time is up.
    pub(super) round_bytes: usize,
    pub(super) clock: &'a dyn Clock,
    pub(super) timer: &'a mut RoundTimer,
    /// What has been read and not been answered: operations that the store has taken, and other
    /// lines that have to wait for them.
    pub(super) waiting: Queue<Waiting<'a>>,
    pub(super) taken: usize,
    /// The watches that have begun (`true`) and ended, to be taken back where the batch fails.
    pub(super) watch_changes: Vec<(usize, Topic<'a>, bool)>,
    /// What follows is for another batch of the same round.
    pub(super) ended: bool,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(
        limits: &'a Limits,
        blocks: &'a [LineBlock],
        turns: &'a mut [Turn],
        watches: &'a mut WatchRegistry,
        stats: &'a mut Stats,
        (clock, timer): (&'a dyn Clock, &'a mut RoundTimer),
    ) -> Self {
        turns.iter_mut().for_each(Turn::set_mark);
        // A batch before it may have taken any time.
        timer.add_unknown();
        Self {
            limits,
            blocks,
            turns,
            watches_before: watches.mark(),
            watches,
            stats_before: *stats,
            stats,
            current: 0,
            round_bytes: 0,
            clock,
            timer,
            waiting: Queue::default(),
            taken: 0,
            watch_changes: Vec::new(),
            ended: false,
        }
    }

    /// The next command to apply; `None` when the batch is at its end, which may be at once.
    pub fn take(&mut self) -> Option<Operation<'a>> {
        while self.current < self.turns.len() {
            if let Some(operation) = self.take_from(self.current, Self::should_yield) {
                return Some(operation);
            }
            if self.ended {
                return None;
            }
            self.round_bytes += self.turns[self.current].replies.len();
            self.current += 1;
        }
        None
    }

    /// Whether a turn has to stop before its next line, for its own sake or for the round's.
    fn should_yield(&mut self, turn: usize) -> bool {
        let turn = &mut self.turns[turn];
        self.timer.add(1);
        if let Some((over, since_last)) = self.timer.read(self.clock) {
            turn.time += since_last;
            if over {
                // Turns that come after this one stop without beginning.
                self.round_bytes = ROUND_BYTES;
            }
        }
        if self.round_bytes >= ROUND_BYTES && turn.state == TurnState::Running {
            turn.state = TurnState::QuotaUsed;
        }
        turn.should_yield(self.limits)
    }

    /// Handles the lines of a turn up to its next operation.
    fn take_from(
        &mut self,
        index: usize,
        should_yield: impl Fn(&mut Self, usize) -> bool,
    ) -> Option<Operation<'a>> {
        loop {
            if should_yield(self, index) {
                return None;
            }
            let turn = &mut self.turns[index];
            let before = turn.cursor;
            let line = turn.next_line(&self.blocks[index])?;
            if line == Ok(b"") {
                continue;
            }
            let number = turn.cursor.line;
            let command = match line {
                _ if turn.rejecting => Err(Rejection::Closing),
                Ok(line) => match Command::parse(line) {
                    Ok(Command::Auth { secret }) if !self.limits.accepts_secret(secret) => {
                        Err(Rejection::WrongSecret)
                    }
                    command => command.map_err(Rejection::Parse),
                },
                Err(LineTooLong) => Err(Rejection::LongLine),
            };
            if self.taken > 0 && matches!(command, Ok(Command::Stats)) {
                // The store says what it holds between batches, so this line begins one.
                turn.unread_line(before);
                self.ended = true;
                return None;
            }
            if let Ok(command) = &command {
                self.stats.count(command);
            }
            match command {
                Ok(Command::Operation(_) | Command::Unwatch(_)) => {}
                // Such a client is told when the server closes its connection.
                Ok(_) | Err(Rejection::WrongSecret) => turn.cursor.knows_control_lines = true,
                // It has been told already.
                Err(Rejection::Closing) => turn.cursor.knows_control_lines = false,
                Err(_) => {}
            }
            let what = match command {
                Ok(Command::Operation(operation)) => {
                    let what = match operation {
                        Operation::Get { key } => What::Get { key },
                        _ => What::Write {
                            line: line.unwrap_or_default(),
                        },
                    };
                    self.taken += 1;
                    turn.taken += 1;
                    self.waiting.push_back(Waiting {
                        turn: index,
                        line: number,
                        what,
                    });
                    return Some(operation);
                }
                Ok(Command::Sync { token }) => What::Sync {
                    token: token.unwrap_or_default(),
                },
                Ok(Command::Stats) => What::Stats,
                Ok(Command::Watch(topic)) => What::Watch(topic),
                Ok(Command::Unwatch(topic)) => What::Unwatch(topic),
                Ok(Command::Auth { .. }) => What::Authenticated,
                Ok(Command::GetPrefix { .. } | Command::Keys { .. }) => {
                    What::Refused(Rejection::Parse(ParseError::UnknownCommand))
                }
                Err(rejection) => What::Refused(rejection),
            };
            let waiting = Waiting {
                turn: index,
                line: number,
                what,
            };
            if self.waiting.is_empty() {
                self.control(waiting);
            } else {
                self.waiting.push_back(waiting);
            }
        }
    }

    /// Answers the oldest command without an answer, a write: it is applied.
    ///
    /// It does nothing where no command waits for an answer. Where that command is a `Get`, the
    /// store has lost count, and the command fails.
    pub fn done(&mut self) {
        self.timer.add_unknown();
        self.done_after(0);
    }

    /// Like [`done`](Self::done), of a write that went through so many bytes and did little else.
    pub(crate) fn done_after(&mut self, bytes: usize) {
        self.timer.add(bytes / BYTES_PER_WORK);
        match self.waiting.front() {
            Some(&Waiting {
                what: What::Write { line },
                ..
            }) => {
                self.waiting.pop_front();
                if self.watches.watching() > 0 {
                    self.notify_watchers(line);
                }
                self.settle();
            }
            _ => self.fail(&Error::store(MISFIT)),
        }
    }

    /// What the store did since the last answer may have taken any time.
    pub(crate) fn took_unknown_time(&mut self) {
        self.timer.add_unknown();
    }

    /// Answers the oldest command without an answer, a `Get`, with the values in order.
    ///
    /// It does nothing where no command waits for an answer. Where that command is a write, the
    /// store has lost count, and the command fails; so does a `Get` with a value that holds an LF,
    /// which would look like two lines.
    pub fn values<'v>(&mut self, values: impl ExactSizeIterator<Item = &'v [u8]>) {
        self.timer.add_unknown();
        self.values_at_once(values);
    }

    /// Like [`values`](Self::values), if they took no time to find.
    pub(crate) fn values_at_once<'v>(&mut self, values: impl ExactSizeIterator<Item = &'v [u8]>) {
        match self.waiting.front() {
            Some(&Waiting {
                turn,
                line,
                what: What::Get { key },
            }) => {
                self.waiting.pop_front();
                self.queue_values(turn, line, key, values);
                self.settle();
            }
            _ => self.fail(&Error::store(MISFIT)),
        }
    }

    /// Answers the oldest command without an answer: it failed, and left nothing behind.
    ///
    /// The client sees `:error:LINE:store:` and the error's own text, on one line.
    pub fn fail(&mut self, error: &Error) {
        let Some(waiting) = self.waiting.pop_front() else {
            return;
        };
        self.timer.add_unknown();
        match error {
            Error::Store(reason) => self.error(waiting.turn, waiting.line, Code::Store, reason),
            other => self.error(waiting.turn, waiting.line, Code::Store, other),
        }
        self.settle();
    }

    /// Answers the oldest command without an answer: it would make the store larger than
    /// [`max_store`](Self::max_store), and left nothing behind.
    pub fn store_full(&mut self) {
        self.refuse_oldest(Rejection::FullStore);
    }

    /// Answers the oldest command without an answer: its key has
    /// [`max_values`](Self::max_values) values already, and it left nothing behind.
    pub fn values_full(&mut self) {
        self.refuse_oldest(Rejection::FullValues);
    }

    /// How much the store may hold, by [`StoreSize::charged`](crate::store::StoreSize::charged); [`u64::MAX`] where
    /// there is no limit.
    pub fn max_store(&self) -> u64 {
        self.limits.max_store
    }

    /// How many values a key may have; [`usize::MAX`] where there is no limit.
    pub fn max_values(&self) -> usize {
        self.limits.max_values
    }

    fn refuse_oldest(&mut self, rejection: Rejection) {
        if let Some(waiting) = self.waiting.pop_front() {
            self.timer.add_unknown();
            self.refuse(waiting.turn, waiting.line, rejection);
            self.settle();
        }
    }

    /// Completes a batch after the store's `apply`: fails what is unanswered, or everything if `apply`
    /// failed. Says whether any commands are left for another.
    pub(crate) fn conclude(mut self, result: Result<(), Error>) -> bool {
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
        self.watches.back_to(self.watches_before);
        for (turn, topic, begun) in std::mem::take(&mut self.watch_changes).into_iter().rev() {
            if begun {
                self.watches.unwatch(self.turns[turn].watcher, topic);
            } else {
                // There was room for it before.
                let _ = self.add_watch(turn, topic);
            }
        }
        self.waiting = Queue::default();
        self.taken = 0;
        self.current = 0;
        for turn in 0..self.turns.len() {
            for _ in 0..self.turns[turn].back_to_mark() {
                // Exactly those that were taken, whatever room their errors need.
                self.take_from(turn, |_, _| false);
                self.fail(error);
            }
        }
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
