//! Commands → replies: the turns of a round, handed to the store as one batch.

use std::{
    fmt,
    time::{Duration, Instant},
};

use memchr::memchr;

use super::{
    Limits, Overflow, Stats,
    outbox::{Content, Load},
    turn::{Progress, TURN_BYTES, Turn, TurnState},
    waiting::{Queue, Refusal, Waiting, What},
    watch::{TooMany, Watches},
};
use crate::{
    Clock, Error,
    protocol::{
        Code, Command, LineBlock, LineTooLong, Operation, Topic, push_error, push_sync, push_value,
        push_watch,
    },
};

/// Bytes of replies in one round, before the writers have their turn. What a round produced is
/// written while it is still in the processor's cache.
const ROUND_BYTES: usize = 256 * 1024;

/// How long a round may keep on handing out commands before everyone else has their turn. Some
/// commands take long, such as an Update of a list of a million values.
const ROUND_TIME: Duration = Duration::from_millis(2);

/// Work between two looks at the clock, counted in short commands: a look costs as much as one.
const WORK_PER_LOOK: usize = 16;

/// Bytes of values that take as long to go through as a short command.
const BYTES_PER_WORK: usize = 256;

/// Events that take as long to queue as a short command.
const EVENTS_PER_WORK: usize = 16;

/// A client with a command that took this long has its next turn behind those without.
const LONG_COMMAND: Duration = Duration::from_millis(1);

/// A reply buffer that outgrows this grows to a whole turn's bytes at once. Growing by halves
/// would copy as much as the replies themselves.
const SMALL_REPLIES: usize = 2 * 1024;

const MISFIT: &str = "the store gave an answer that does not fit the command";

/// Says when a round is over, however many batches it consists of.
///
/// Short commands are counted, and the clock is read only once in a while. What may have taken long
/// is followed by a look at once.
pub(super) struct RoundTimer {
    began: Instant,
    last_look: Instant,
    /// Work since the last look.
    work: usize,
}

impl RoundTimer {
    pub(super) fn start(now: Instant) -> Self {
        Self {
            began: now,
            last_look: now,
            work: 0,
        }
    }

    fn add(&mut self, work: usize) {
        self.work += work;
    }

    /// What was done may have taken any time.
    fn add_unknown(&mut self) {
        self.work = WORK_PER_LOOK;
    }

    /// If a look at the clock is due: whether the round is over, and whether one of the last
    /// commands took long.
    fn look(&mut self, clock: &dyn Clock) -> Option<(bool, bool)> {
        if self.work < WORK_PER_LOOK {
            return None;
        }
        self.work = 0;
        let now = clock.now();
        let since_last = now - std::mem::replace(&mut self.last_look, now);
        Some((now - self.began >= ROUND_TIME, since_last >= LONG_COMMAND))
    }
}

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
    limits: &'a Limits,
    blocks: &'a [LineBlock],
    turns: &'a mut [Turn],
    watches: &'a mut Watches,
    watches_before: usize,
    stats: &'a mut Stats,
    stats_before: Stats,
    /// Which turn the next command is taken from.
    current: usize,
    /// Bytes of replies in the turns before that; [`ROUND_BYTES`] when the round is over.
    round_bytes: usize,
    clock: &'a dyn Clock,
    timer: &'a mut RoundTimer,
    /// What has been read and not been answered: operations that the store has taken, and other
    /// lines that have to wait for them.
    waiting: Queue<Waiting<'a>>,
    taken: usize,
    /// The watches that have begun (`true`) and ended, to be taken back where the batch fails.
    turned: Vec<(usize, Topic<'a>, bool)>,
    /// What follows is for another batch of the same round.
    ended: bool,
}

impl<'a> Batch<'a> {
    pub(super) fn new(
        limits: &'a Limits,
        blocks: &'a [LineBlock],
        turns: &'a mut [Turn],
        watches: &'a mut Watches,
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
            turned: Vec::new(),
            ended: false,
        }
    }

    /// The next command to apply; `None` when the batch is at its end, which may be at once.
    pub fn take(&mut self) -> Option<Operation<'a>> {
        while self.current < self.turns.len() {
            if let Some(operation) = self.take_from(self.current, Self::must_stop) {
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
    fn must_stop(&mut self, turn: usize) -> bool {
        let turn = &mut self.turns[turn];
        self.timer.add(1);
        if let Some((over, long)) = self.timer.look(self.clock) {
            turn.long |= long;
            if over {
                // Turns that come after this one stop without beginning.
                self.round_bytes = ROUND_BYTES;
            }
        }
        if self.round_bytes >= ROUND_BYTES && turn.state == TurnState::Going {
            turn.state = TurnState::Spent;
        }
        turn.must_stop(self.limits)
    }

    /// Handles the lines of a turn up to its next operation.
    fn take_from(
        &mut self,
        index: usize,
        must_stop: impl Fn(&mut Self, usize) -> bool,
    ) -> Option<Operation<'a>> {
        loop {
            if must_stop(self, index) {
                return None;
            }
            let turn = &mut self.turns[index];
            let before = turn.progress;
            let line = turn.next_line(&self.blocks[index])?;
            if line == Ok(b"") {
                continue;
            }
            let number = turn.progress.line;
            let command = match line {
                _ if turn.refuse => Err(Refusal::Closing),
                Ok(line) => match Command::parse(line) {
                    Ok(Command::Auth { secret }) if !self.limits.lets_in(secret) => {
                        Err(Refusal::WrongSecret)
                    }
                    command => command.map_err(Refusal::Parse),
                },
                Err(LineTooLong) => Err(Refusal::LongLine),
            };
            if self.taken > 0 && matches!(command, Ok(Command::Stats)) {
                // The store says what it holds between batches, so this line begins one.
                turn.put_back_line(before);
                self.ended = true;
                return None;
            }
            if let Ok(command) = &command {
                self.stats.count(command);
            }
            match command {
                Ok(Command::Operation(_) | Command::Unwatch(_)) => {}
                // Such a client is told why its connection ends.
                Ok(_) | Err(Refusal::WrongSecret) => turn.progress.knows_control_lines = true,
                // It has been told.
                Err(Refusal::Closing) => turn.progress.knows_control_lines = false,
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
                Ok(Command::Auth { .. }) => What::LetIn,
                Err(refusal) => What::Refused(refusal),
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
                    self.tell(line);
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
        self.refuse_oldest(Refusal::FullStore);
    }

    /// Answers the oldest command without an answer: its key has
    /// [`max_values`](Self::max_values) values already, and it left nothing behind.
    pub fn values_full(&mut self) {
        self.refuse_oldest(Refusal::FullValues);
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

    fn refuse_oldest(&mut self, refusal: Refusal) {
        if let Some(waiting) = self.waiting.pop_front() {
            self.timer.add_unknown();
            self.refuse(waiting.turn, waiting.line, refusal);
            self.settle();
        }
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
        self.watches.back_to(self.watches_before);
        for (turn, topic, begun) in std::mem::take(&mut self.turned).into_iter().rev() {
            if begun {
                self.watches.unwatch(self.turns[turn].watcher, topic);
            } else {
                // There was room for it before.
                let _ = self.begin_watch(turn, topic);
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

    /// Gives out what waited only for the answer before it.
    fn settle(&mut self) {
        while let Some(next) = self.waiting.front() {
            if matches!(next.what, What::Get { .. } | What::Write { .. }) {
                return;
            }
            if let Some(waiting) = self.waiting.pop_front() {
                self.control(waiting);
            }
        }
    }

    fn control(&mut self, waiting: Waiting<'a>) {
        let Waiting { turn, line, what } = waiting;
        match what {
            What::Get { .. } | What::Write { .. } | What::LetIn => {}
            What::Refused(refusal) => self.refuse(turn, line, refusal),
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
                    self.turned.push((turn, topic, false));
                }
            }
            What::Sync { token } => self.control_line(turn, |replies, progress, stats| {
                stats.lines_queued += 1;
                push_sync(replies, std::mem::take(&mut progress.lost), token);
            }),
        }
    }

    /// Tells those who watch of a write that was applied.
    fn tell(&mut self, line: &[u8]) {
        if let Ok(Command::Operation(Operation::Write(change))) = Command::parse(line) {
            let events = self.watches.tell(change, self.turns, self.stats);
            self.timer.add(events / EVENTS_PER_WORK);
        }
    }

    fn watch(&mut self, index: usize, line: u64, topic: Topic<'a>) {
        if self.turns[index].gone() {
            return;
        }
        if matches!(topic, Topic::Prefix(prefix) if prefix.len() > self.limits.max_watch_prefix) {
            return self.refuse(index, line, Refusal::LongPrefix);
        }
        match self.begin_watch(index, topic) {
            Ok(new) => {
                if new {
                    self.turned.push((index, topic, true));
                }
                self.control_line(index, |replies, _, stats| {
                    stats.lines_queued += 1;
                    push_watch(replies, topic);
                });
            }
            Err(TooMany) => self.refuse(index, line, Refusal::FullWatches),
        }
    }

    fn begin_watch(&mut self, index: usize, topic: Topic<'a>) -> Result<bool, TooMany> {
        let turn = &mut self.turns[index];
        self.watches
            .watch(&mut turn.watcher, turn.client, index, topic, self.limits)
    }

    fn refuse(&mut self, turn: usize, line: u64, refusal: Refusal) {
        refusal.count(self.stats);
        self.error(turn, line, refusal.code(), refusal.message(self.limits));
    }

    fn error(&mut self, turn: usize, line: u64, code: Code, message: impl fmt::Display) {
        self.stats.errors += 1;
        self.control_line(turn, |replies, _, stats| {
            stats.lines_queued += 1;
            push_error(replies, line, code, message);
        });
    }

    /// Queues a control line, unless nobody is there to read it. Control lines are not dropped; who
    /// leaves an outbox-full of them unread has to go.
    fn control_line(
        &mut self,
        turn: usize,
        push: impl FnOnce(&mut Vec<u8>, &mut Progress, &mut Stats),
    ) {
        let turn = &mut self.turns[turn];
        if turn.overflows(self.limits) {
            let mut control = turn.room.content.control;
            control += turn.content.control;
            turn.cut |= self.limits.overflow == Overflow::Disconnect || control.fills(self.limits);
        }
        if turn.gone() {
            return;
        }
        let before = turn.replies.len();
        push(&mut turn.replies, &mut turn.progress, self.stats);
        let load = Load {
            lines: 1,
            bytes: turn.replies.len() - before,
        };
        turn.content += Content {
            all: load,
            control: load,
        };
    }

    fn queue_values<'v>(
        &mut self,
        turn_number: usize,
        line: u64,
        key: &[u8],
        values: impl ExactSizeIterator<Item = &'v [u8]>,
    ) {
        let turn = &mut self.turns[turn_number];
        if turn.gone() {
            return;
        }
        let mut lines = values.len();
        if turn.overflows(self.limits) {
            if lines > 0 && self.limits.overflow == Overflow::Disconnect {
                turn.cut = true;
            } else {
                turn.progress.lost += lines as u64;
                turn.dropped += lines as u64;
                self.stats.lines_dropped += lines as u64;
            }
            return;
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
                    self.refuse(turn_number, line, Refusal::LongReply);
                } else {
                    let message = "a value holds a line feed, which no line can carry";
                    self.error(turn_number, line, Code::Store, message);
                };
            }
            make_room(&mut turn.replies, bytes);
            push_value(&mut turn.replies, key, value);
            lines += 1;
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

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("clients", &self.turns.len())
            .field("taken", &self.taken)
            .field("unanswered", &self.waiting.len())
            .finish()
    }
}
