//! Lines → commands, some of them before it is their turn.
//!
//! A store that does not fit into the processor's caches waits for memory most of the time. So what
//! stands at the next keys is touched for all of them, before the first one is needed: the processor then
//! fetches it at the same time, not one after another.

use smallvec::SmallVec;

use super::{answer::Answer, rejection::Rejection, turn::is_answered_in_place};
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
