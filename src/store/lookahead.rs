//! Lines → commands, some of them before it is their turn.
//!
//! A store that does not fit into the processor's caches waits for memory most of the time. So what
//! stands at the next keys is touched for all of them, before the first one is needed: the processor then
//! fetches it at the same time, not one after another.

use smallvec::SmallVec;

use super::{
    answer::Answer,
    rejection::Rejection,
    turn::{Progress, TurnState, is_answered_in_place},
};
use crate::protocol::{Command, LineBlock, LineTooLong, Operation};

/// Lines that are parsed ahead. A processor has about as many fetches under way at a time.
const LINES: usize = 16;

/// What applies the commands of a batch.
pub(super) trait Apply {
    /// Where a key's values are.
    type Place: Copy;

    fn locate(&self, key: &[u8]) -> Self::Place;

    /// Reads some of what stands there. It is called only if several places are known.
    fn touch(&self, place: Self::Place);

    fn apply(&mut self, operation: Operation<'_>, place: Self::Place, answer: Answer<'_>);
}

/// A function, for stores that look nothing up ahead.
pub(super) struct ApplyFn<F>(pub(super) F);

impl<F: FnMut(Operation<'_>, Answer<'_>)> Apply for ApplyFn<F> {
    type Place = ();

    fn locate(&self, _: &[u8]) {}

    fn touch(&self, (): ()) {}

    fn apply(&mut self, operation: Operation<'_>, (): (), answer: Answer<'_>) {
        (self.0)(operation, answer);
    }
}

/// What a line says.
#[derive(Clone, Copy)]
pub(super) enum ParsedLine<'b, P> {
    Blank,
    Operation(Operation<'b>, P),
    /// A command that is not for the store.
    Other(Command<'b>),
    Rejected(Rejection),
}

/// Lines that are parsed and not handled yet.
pub(super) struct Lookahead<'b, P> {
    block: &'b LineBlock,
    /// Each with the place in the block where the next line begins.
    lines: SmallVec<[(ParsedLine<'b, P>, usize); LINES]>,
    /// So many of them are handled.
    handled: usize,
}

impl<'b, P: Copy> Lookahead<'b, P> {
    pub(super) fn new(block: &'b LineBlock) -> Self {
        Self {
            block,
            lines: SmallVec::new(),
            handled: 0,
        }
    }

    pub(super) fn block(&self) -> &'b LineBlock {
        self.block
    }

    /// The line that begins at `at`, and where the next one begins. Each call goes on where the one
    /// before has ended.
    pub(super) fn next(
        &mut self,
        at: usize,
        store: &impl Apply<Place = P>,
    ) -> Option<(ParsedLine<'b, P>, usize)> {
        if self.handled == self.lines.len() {
            self.parse(at, store);
        }
        let line = *self.lines.get(self.handled)?;
        self.handled += 1;
        Some(line)
    }

    fn parse(&mut self, mut at: usize, store: &impl Apply<Place = P>) {
        self.lines.clear();
        self.handled = 0;
        while self.lines.len() < LINES {
            let Some(line) = self.block.line_at(&mut at) else {
                break;
            };
            let command = match line {
                Ok(b"") => {
                    self.lines.push((ParsedLine::Blank, at));
                    continue;
                }
                Ok(line) => Command::parse(line).map_err(Rejection::Parse),
                Err(LineTooLong) => Err(Rejection::LongLine),
            };
            let parsed = match command {
                Ok(Command::Operation(operation)) => {
                    ParsedLine::Operation(operation, store.locate(operation.key()))
                }
                Ok(command) => ParsedLine::Other(command),
                Err(rejection) => ParsedLine::Rejected(rejection),
            };
            self.lines.push((parsed, at));
            if command.is_ok_and(|command| !is_answered_in_place(&command)) {
                // The turn stops here.
                break;
            }
        }
        if self.lines.len() > 1 {
            for (line, _) in &self.lines {
                if let ParsedLine::Operation(_, place) = line {
                    store.touch(*place);
                }
            }
        }
    }
}

impl Progress {
    /// The next operation. Lines before it that need no store are answered.
    pub(super) fn next_operation<'b, A: Apply>(
        &mut self,
        lines: &mut Lookahead<'b, A::Place>,
        store: &A,
    ) -> Option<(Operation<'b>, A::Place)> {
        while !self.should_yield(lines.block()) {
            self.line_offset = self.cursor.offset;
            let Some((line, end)) = lines.next(self.line_offset, store) else {
                self.state = TurnState::Done;
                break;
            };
            match line {
                ParsedLine::Blank => self.pass_line(end),
                _ if self.rejecting => self.reject_line(end, Rejection::Closing),
                ParsedLine::Operation(operation, place) => {
                    self.pass_line(end);
                    self.count(&operation.into());
                    return Some((operation, place));
                }
                // The coordinator answers it.
                ParsedLine::Other(command) if !is_answered_in_place(&command) => {
                    self.state = TurnState::AtControlLine;
                }
                ParsedLine::Other(Command::Auth { secret })
                    if !self.limits.accepts_secret(secret) =>
                {
                    self.reject_line(end, Rejection::WrongSecret);
                }
                ParsedLine::Other(command) => {
                    self.pass_line(end);
                    self.count(&command);
                    if let Command::Sync { token } = command {
                        self.push_sync(token.unwrap_or_default());
                    }
                }
                ParsedLine::Rejected(rejection) => self.reject_line(end, rejection),
            }
        }
        None
    }

    /// The line at hand is handled; the next one begins there.
    pub(super) fn pass_line(&mut self, end: usize) {
        self.cursor.offset = end;
        self.cursor.line += u64::from(self.walk_line.is_none());
        self.lines += 1;
    }

    fn reject_line(&mut self, end: usize, rejection: Rejection) {
        self.pass_line(end);
        match rejection {
            // Such a client is told when the server closes its connection.
            Rejection::WrongSecret => self.cursor.knows_control_lines = true,
            Rejection::Closing => self.cursor.told_closing = true,
            _ => {}
        }
        self.refuse(rejection);
    }
}
