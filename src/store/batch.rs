//! A turn on its way to the store and back.

use std::{fmt, future::Ready};

use async_channel::Sender;

use super::{
    Change, Submission,
    answer::Answer,
    lookahead::{Apply, ApplyFn, Lookahead},
    turn::Turn,
};
use crate::protocol::{Command, Operation};

/// Commands of one client for a [`Store`](super::Store) to apply, and the place for its answers.
///
/// It owns its bytes, so a store may keep it for as long as it needs. A store goes through it twice: first
/// over the commands, by [`operations`](Self::operations); then, when it knows the answers, over the commands
/// and their answers, by [`each`](Self::each). A store that knows the answers at once needs only `each`.
///
/// ```
/// use keywire::{protocol::Operation, store::{Batch, Store, Submission}};
/// use std::future::Future;
///
/// /// Says of every key how long it is.
/// struct Lengths;
///
/// impl Store for Lengths {
///     fn submit(
///         &mut self,
///         mut batch: Batch,
///     ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
///         batch.each(|operation, answer| match operation {
///             Operation::Get { key } => {
///                 let length = key.len().to_string();
///                 answer.values([length.as_bytes()]);
///             }
///             _ => answer.fail("this store can't be written"),
///         });
///         batch.done()
///     }
/// }
/// ```
///
/// A batch that is dropped is answered by the server: its writes [may have been
/// applied](Answer::unconfirmed).
pub struct Batch(TurnGuard);

impl Batch {
    pub(crate) fn new(guard: TurnGuard) -> Self {
        Self(guard)
    }

    pub(crate) fn into_turn(self) -> Option<Box<Turn>> {
        self.0.into_turn()
    }

    /// The commands, in the client's order.
    ///
    /// They are those of at most 4,096 lines, and at most 128 are `Get`s. So a store that collects answers
    /// before it calls [`each`](Self::each) holds at most 128 replies.
    ///
    /// If the store's order is [`Immediate`](super::Order::Immediate), the iterator is empty: use `each`.
    pub fn operations(&mut self) -> impl Iterator<Item = Operation<'_>> {
        self.0.turn_mut().into_iter().flat_map(Turn::operations)
    }

    /// Calls `apply` with each command in order, and with the way to answer it.
    ///
    /// If [`operations`](Self::operations) was called before, these are the same commands. Only `Get`s at
    /// the end may be left out, if there is no room for their replies; they come again in another batch.
    /// If it was not called, `each` may stop after any command, if there is no room or if other clients have
    /// to be served. The rest comes in another batch.
    ///
    /// A command that `apply` leaves unanswered is answered as by [`unconfirmed`](Self::unconfirmed).
    pub fn each(&mut self, apply: impl FnMut(Operation<'_>, Answer<'_>)) {
        self.each_by(&mut ApplyFn(apply));
    }

    /// Like [`each`](Self::each), of a store that looks keys up ahead.
    pub(super) fn each_by(&mut self, store: &mut impl Apply) {
        let Some(turn) = self.0.turn_mut() else {
            return;
        };
        if turn.progress.asked.is_some() {
            turn.progress.resume();
        }
        turn.each_by(store);
    }

    /// Takes back all answers, so that [`each`](Self::each), [`fail`](Self::fail) or
    /// [`unconfirmed`](Self::unconfirmed) goes over the same commands once more. For a store that finds out
    /// later that what it did has failed. (It needs an [`Order`](super::Order) that is not `Immediate`.)
    pub fn retract(&mut self) {
        if let Some(turn) = self.0.turn_mut() {
            turn.retract();
        }
    }

    /// Answers every command by [`fail`](Answer::fail): it failed, and left nothing behind.
    pub fn fail(&mut self, reason: impl fmt::Display) {
        self.each(|_, answer| answer.fail(&reason));
    }

    /// Answers every command by [`unconfirmed`](Answer::unconfirmed): a write may have been applied, or may
    /// be applied later; a `Get` failed.
    pub fn unconfirmed(&mut self, reason: impl fmt::Display) {
        self.each(|_, answer| answer.unconfirmed(&reason));
    }

    /// How much the store may hold, by [`StoreSize::charged`](super::StoreSize::charged); [`u64::MAX`] if
    /// there is no limit.
    pub fn max_store(&self) -> u64 {
        let turn = self.0.turn();
        turn.map_or(u64::MAX, |turn| turn.progress.limits.max_store)
    }

    /// How many values a key may have; [`usize::MAX`] if there is no limit.
    pub fn max_values(&self) -> usize {
        let turn = self.0.turn();
        turn.map_or(usize::MAX, |turn| turn.progress.limits.max_values)
    }

    /// The client, if it watches anything.
    #[cfg(feature = "cluster")]
    pub(super) fn watching_client(&self) -> Option<usize> {
        let turn = self.0.turn()?;
        turn.progress.watcher.map(|_| turn.client)
    }

    /// What its client is to be told with it, if it is a watcher.
    #[cfg(feature = "cluster")]
    pub(super) fn set_own_changes(&mut self, changes: super::OwnChanges) {
        if let Some(turn) = self.0.turn_mut() {
            turn.own_changes = changes;
        }
    }

    /// The batch, as what [`Store::submit`](super::Store::submit) returns if it does not wait.
    pub fn done(self) -> Submission<Self, Ready<Self>> {
        Submission::Done(self)
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let turn = self.0.turn();
        f.debug_struct("Batch")
            .field("client", &turn.map(|turn| turn.client))
            .finish_non_exhaustive()
    }
}

const NO_ANSWER: &str = "the store gave no answer";

impl Turn {
    /// Answers lines that need no store. There are only such lines up to where the store is asked.
    pub(crate) fn answer_lines(&mut self) {
        self.each_by(&mut ApplyFn(|_: Operation<'_>, answer: Answer<'_>| {
            answer.fail(NO_ANSWER);
        }));
    }

    fn each_by<A: Apply>(&mut self, store: &mut A) {
        let Self {
            block, progress, ..
        } = self;
        let mut lines = Lookahead::new(block);
        while let Some((operation, place)) = progress.next_operation(&mut lines, store) {
            progress.answered = false;
            store.apply(operation, place, Answer::new(progress, &operation));
            if !progress.answered {
                Answer::new(progress, &operation).unconfirmed(NO_ANSWER);
            }
        }
    }

    /// The store has given the batch back, or lost it: what it was asked and has not answered, fails.
    pub(crate) fn fail_unanswered(&mut self) {
        let Self {
            block, progress, ..
        } = self;
        progress.resume();
        if !progress.answered {
            // The store has panicked between the command and its answer, or within the answer.
            progress.replies.truncate(progress.usage.all.bytes);
            let line = block.line_at(&mut progress.line_offset.clone());
            if let Some(Ok(Command::Operation(operation))) =
                line.and_then(Result::ok).map(Command::parse)
            {
                Answer::new(progress, &operation).unconfirmed(NO_ANSWER);
            }
        }
        // A store that did not read what was asked may stop anywhere, but not before the first.
        if progress
            .asked
            .is_none_or(|asked| asked.read || progress.cursor.offset == asked.start.offset)
        {
            self.each_by(&mut ApplyFn(|_: Operation<'_>, answer: Answer<'_>| {
                answer.unconfirmed(NO_ANSWER);
            }));
        }
        self.progress.asked = None;
    }
}

/// A turn that is with the store. If the store drops it, it comes back all the same.
pub(crate) struct TurnGuard {
    /// There until it is taken back.
    turn: Option<Box<Turn>>,
    lost: Option<Sender<FromStore>>,
}

/// What the coordinator gets from a store, in this order.
pub(crate) enum FromStore {
    /// It is back.
    Turn(Box<Turn>),
    /// The store has dropped it.
    Lost(Box<Turn>),
    Change(Change),
}

impl TurnGuard {
    pub(crate) fn new(turn: Box<Turn>, lost: Option<Sender<FromStore>>) -> Self {
        Self {
            turn: Some(turn),
            lost,
        }
    }

    pub(super) fn turn(&self) -> Option<&Turn> {
        self.turn.as_deref()
    }

    pub(super) fn turn_mut(&mut self) -> Option<&mut Turn> {
        self.turn.as_deref_mut()
    }

    pub(crate) fn into_turn(mut self) -> Option<Box<Turn>> {
        self.turn.take()
    }
}

impl Drop for TurnGuard {
    fn drop(&mut self) {
        if let (Some(turn), Some(lost)) = (self.turn.take(), &self.lost) {
            // This fails only if the server is gone.
            let _ = lost.try_send(FromStore::Lost(turn));
        }
    }
}
