//! One client's part of a round: how far its lines are handled, and the replies so far.

use std::{sync::Arc, time::Duration};

use super::{
    change::OwnChanges,
    request::Request,
    timer::RoundTimer,
    walk::{Walk, WalkLine},
};
use crate::{
    Clock,
    connection::outbox::{OutboxSender, OutboxStatus, Usage},
    protocol::{Command, LineBlock, Operation, Write},
    shared::{buffers::BufferPool, limits::Limits, stats::TurnStats},
};

/// Lines of one client that are handled in one turn, before the others have theirs.
const TURN_LINES: usize = 4096;

/// Bytes of replies that one client may have in one turn, before the others have theirs.
const TURN_BYTES: usize = 64 * 1024;

/// `Get`s in a batch whose answers have to be waited for. The answers may all be in memory at a time.
const MAX_ASKED_GETS: usize = 128;

/// Writes that are applied before watchers are notified of them, if anybody watches. A write may be
/// told to any number of watchers, so that counts as work of the round.
const WATCHED_WRITES: usize = 16;

/// The same in a batch that has to be waited for, which is told as a whole.
const MAX_ASKED_WATCHED_WRITES: usize = 256;

/// What a client's turn works on.
pub(crate) struct Turn {
    pub(crate) client: usize,
    /// The lines of one read, or during a walk a page of it.
    pub(crate) block: LineBlock,
    pub(crate) progress: Progress,
    /// The `GetPrefix` or `Keys` that is being answered.
    pub(crate) walk: Option<Box<Walk>>,
    /// The store's answer to the `Watch` at which the turn stands.
    pub(super) watch_request: Request,
    /// What its client is told with a batch that is back.
    pub(crate) own_changes: OwnChanges,
}

/// How far a turn is.
pub(crate) struct Progress {
    pub(super) limits: Arc<Limits>,
    pub(super) buffers: Arc<BufferPool>,
    clock: Arc<dyn Clock>,
    pub(crate) outbox: Option<OutboxSender>,
    /// The client's number among the watchers, if it is one.
    pub(crate) watcher: Option<usize>,
    pub(crate) cursor: Cursor,
    /// The server is closing: commands are refused, not applied.
    pub(crate) rejecting: bool,
    /// The status of the client's outbox when last read. Meanwhile, its room can only have grown.
    pub(super) status: OutboxStatus,
    /// Encoded replies, in order, and their measure.
    pub(crate) replies: Vec<u8>,
    pub(crate) usage: Usage,
    /// Reply lines dropped in this turn.
    pub(crate) dropped: u64,
    /// The client is to be disconnected, by the overflow policy.
    pub(crate) aborted: bool,
    pub(crate) state: TurnState,
    /// What has to be counted.
    pub(crate) stats: TurnStats,
    /// Writes of which watchers have to be notified.
    pub(crate) applied: Vec<AppliedWrite>,
    /// Whether applied writes are kept there.
    pub(crate) watched: bool,
    /// Measures the round, and how long this turn has taken, as far as the clock was read.
    pub(crate) timer: RoundTimer,
    pub(crate) time: Duration,
    /// What the store was asked, if that was settled before.
    pub(super) asked: Option<Asked>,
    pub(super) walk_line: Option<WalkLine>,
    /// Where the line of the operation at hand begins, and whether that has been answered.
    pub(super) line_offset: usize,
    pub(super) answered: bool,
    /// Lines handled in this turn.
    pub(super) lines: usize,
}

/// A write that was applied.
pub(crate) struct AppliedWrite {
    /// Where its line begins in the block.
    pub(crate) offset: usize,
    /// Bytes of replies before it.
    pub(crate) replies: usize,
}

/// What a store was asked that may not answer at once.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    /// Where the turn stood, with the lines and the lines of replies dropped in it.
    pub(super) start: Cursor,
    lines: usize,
    dropped: u64,
    /// Where the part of the block ends that was asked.
    end: usize,
    /// Where the last write in it begins.
    last_write: Option<usize>,
    /// The store has read what is asked, so it may have applied the writes.
    pub(super) read: bool,
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
    /// The connection has used a command that is answered by control lines.
    pub(crate) knows_control_lines: bool,
    /// A line of it was refused because the server is closing.
    pub(crate) told_closing: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum TurnState {
    #[default]
    Running,
    /// The next line is not for the store: the coordinator answers it.
    AtControlLine,
    /// The outbox is full and the client may yet read: the rest waits for room.
    OutboxFull,
    /// The turn has taken its share of the round.
    QuotaUsed,
    /// Every line of the block is handled.
    Done,
}

impl Turn {
    pub(crate) fn new(
        limits: Arc<Limits>,
        buffers: Arc<BufferPool>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let timer = RoundTimer::start(clock.now());
        Self {
            client: 0,
            block: LineBlock::default(),
            walk: None,
            watch_request: Request::None,
            own_changes: OwnChanges::default(),
            progress: Progress {
                limits,
                buffers,
                clock,
                outbox: None,
                watcher: None,
                cursor: Cursor::default(),
                rejecting: false,
                status: OutboxStatus::default(),
                replies: Vec::new(),
                usage: Usage::default(),
                dropped: 0,
                aborted: false,
                state: TurnState::Running,
                stats: TurnStats::default(),
                applied: Vec::new(),
                watched: false,
                timer,
                time: Duration::ZERO,
                asked: None,
                walk_line: None,
                line_offset: 0,
                answered: true,
                lines: 0,
            },
        }
    }

    /// Begins a turn of this client, in the memory of one that has ended.
    pub(crate) fn start(
        &mut self,
        (client, watcher): (usize, Option<usize>),
        outbox: OutboxSender,
        cursor: Cursor,
        rejecting: bool,
    ) {
        self.client = client;
        let progress = &mut self.progress;
        progress.status = outbox.status();
        progress.outbox = Some(outbox);
        progress.watcher = watcher;
        progress.cursor = cursor;
        progress.rejecting = rejecting;
        progress.usage = Usage::default();
        progress.dropped = 0;
        progress.aborted = false;
        progress.state = TurnState::Running;
        progress.time = Duration::ZERO;
        progress.lines = 0;
    }

    /// Settles what the store is asked next: operations up to a line that is not for the store, or up
    /// to one for which `accept` says no, within bounds. It accepts the first. `false` if the next lines
    /// need no store, or if there is no room for replies.
    pub(crate) fn ask(&mut self, mut accept: impl FnMut(Operation<'_>) -> bool) -> bool {
        let Self {
            block, progress, ..
        } = self;
        progress.asked = None;
        if progress.rejecting {
            return false;
        }
        if progress.awaits_capacity() {
            // Looked at again, the client might be stalled, and the next operation be answered here.
            progress.state = TurnState::OutboxFull;
            return false;
        }
        // The client is stalled then. But it may take a byte before the answers are here, and what was applied
        // has to be answered, however full its outbox is: one write, and no read before it.
        let is_full = progress.is_full();
        let max_writes = match progress.watched {
            _ if is_full => 1,
            true => MAX_ASKED_WATCHED_WRITES,
            false => TURN_LINES,
        };
        let start = progress.cursor.offset;
        let (mut end, mut next) = (start, start);
        let (mut gets, mut writes) = (0, 0);
        let mut last_write = None;
        for _ in progress.lines..TURN_LINES {
            let Some(line) = block.line_at(&mut next) else {
                break;
            };
            match line.ok().map(Command::parse) {
                Some(Ok(Command::Operation(operation))) => {
                    if gets + writes == 0 && end > start {
                        // The lines before it are answered at once.
                        break;
                    }
                    match operation {
                        Operation::Get { .. } => gets += 1,
                        Operation::Write(_) if is_full && gets > 0 => break,
                        Operation::Write(_) => writes += 1,
                    }
                    if gets > MAX_ASKED_GETS || writes > max_writes || !accept(operation) {
                        break;
                    }
                    if matches!(operation, Operation::Write(_)) {
                        last_write = Some(end);
                    }
                }
                Some(Ok(command)) if !is_answered_in_place(&command) => break,
                _ => {}
            }
            end = next;
        }
        if end > start {
            progress.asked = Some(Asked {
                start: progress.cursor,
                lines: progress.lines,
                dropped: progress.dropped,
                end,
                last_write,
                read: false,
            });
        }
        gets + writes > 0
    }

    /// Takes all answers back, to go over what was asked once more. There were no replies before it.
    pub(super) fn retract(&mut self) {
        let progress = &mut self.progress;
        if let Some(asked) = &mut progress.asked {
            // All of what was answered is answered again.
            asked.end = progress.cursor.offset.max(asked.start.offset);
            asked.read = true;
            progress.cursor = asked.start;
            progress.lines = asked.lines;
            progress.dropped = asked.dropped;
            progress.replies.clear();
            progress.usage = Usage::default();
            progress.stats = TurnStats::default();
            progress.applied.clear();
            progress.state = TurnState::Running;
        }
    }

    /// The operations that were asked.
    pub(super) fn operations(&mut self) -> impl Iterator<Item = Operation<'_>> {
        let mut at = self.progress.cursor.offset;
        if let Some(asked) = &mut self.progress.asked {
            asked.read = true;
        }
        let end = self.progress.asked.map_or(0, |asked| asked.end);
        let block = &self.block;
        std::iter::from_fn(move || {
            while at < end {
                let line = block.line_at(&mut at)?;
                if let Some(Ok(Command::Operation(operation))) = line.ok().map(Command::parse) {
                    return Some(operation);
                }
            }
            None
        })
    }

    /// The line for the coordinator at which the turn stands, and what answers it.
    pub(crate) fn take_control_line(&mut self) -> Option<(Command<'_>, &mut Progress)> {
        let progress = &mut self.progress;
        if progress.state != TurnState::AtControlLine {
            return None;
        }
        progress.state = TurnState::Running;
        let mut end = progress.cursor.offset;
        let line = self.block.line_at(&mut end)?.ok()?;
        let command = Command::parse(line).ok()?;
        progress.pass_line(end);
        progress.count(&command);
        Some((command, progress))
    }

    /// Calls `f` with each write that was applied and has not been published, and with the bytes of
    /// replies before it.
    pub(crate) fn drain_applied(&mut self, mut f: impl FnMut(Write<'_>, usize)) {
        for applied in self.progress.applied.drain(..) {
            let mut offset = applied.offset;
            let line = self.block.line_at(&mut offset).and_then(Result::ok);
            if let Some(Ok(Command::Operation(Operation::Write(write)))) = line.map(Command::parse)
            {
                f(write, applied.replies);
            }
        }
        // The memory of a turn is used again, and a batch that was waited for may have had many.
        self.progress.applied.shrink_to(MAX_ASKED_WATCHED_WRITES);
    }
}

impl Progress {
    /// Answers are at hand, any time after the batch was submitted.
    pub(crate) fn resume(&mut self) {
        self.refresh_status();
        self.timer = RoundTimer::start(self.clock.now());
    }

    pub(super) fn count(&mut self, command: &Command<'_>) {
        if self.walk_line.is_some() {
            return;
        }
        self.stats.count(command);
        if !matches!(command, Command::Operation(_) | Command::Unwatch(_)) {
            self.cursor.knows_control_lines = true;
        }
    }

    /// Whether the turn has to stop before its next line.
    pub(super) fn should_yield(&mut self, block: &LineBlock) -> bool {
        if self.state != TurnState::Running || self.walk_line.is_some_and(|walk| walk.ended) {
            return true;
        }
        let mut is_timed = true;
        if let Some(asked) = &self.asked {
            // What the store has read is bounded, and would be asked for again if it were left out.
            is_timed = !asked.read;
            if self.cursor.offset >= asked.end {
                if block.is_end(self.cursor.offset) {
                    self.state = TurnState::Done;
                }
                return true;
            }
            // What may have been applied has to be answered. Reads can be asked again.
            if asked.read
                && asked
                    .last_write
                    .is_some_and(|last| self.cursor.offset <= last)
            {
                return false;
            }
        } else if self.applied.len() >= WATCHED_WRITES {
            return true;
        }
        if is_timed {
            self.timer.add(1);
            if let Some(since_last) = self.timer.read(&*self.clock) {
                self.time += since_last;
            }
        }
        if self.timer.is_over() || self.lines >= TURN_LINES || self.replies.len() >= TURN_BYTES {
            self.state = match block.is_end(self.cursor.offset) {
                true => TurnState::Done,
                false => TurnState::QuotaUsed,
            };
        } else if self.awaits_capacity() {
            self.state = TurnState::OutboxFull;
        }
        self.state != TurnState::Running
    }
}

/// Whether a command needs neither the store nor the coordinator, or the store alone.
pub(super) fn is_answered_in_place(command: &Command<'_>) -> bool {
    matches!(
        command,
        Command::Operation(_) | Command::Sync { .. } | Command::Auth { .. }
    )
}
