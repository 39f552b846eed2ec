//! Changes that were made elsewhere, in order with the turns that come back from the store.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use async_channel::Sender;
use futures_lite::Stream;

use super::{Coordinator, ROUND_INPUTS, turns::Round};
use crate::{
    lock::Lock,
    store::{Change, FromStore, TurnGuard, parse_write, timer::EVENTS_PER_WORK, turn::Turn},
};

/// Changes that are taken from the store before the coordinator has handled those it has. The others stay
/// with the store. Fewer than the inputs of a round, so that no flood of changes holds up messages.
const WAITING_CHANGES: usize = ROUND_INPUTS / 2;

/// What the store brings in. Whoever hands a turn to the coordinator passes on the changes that were made
/// known before, so that one channel carries both in their order.
///
/// The stream is polled with the lock held. If it panics, it has ended.
pub(super) struct ChangeStream(Lock<State>);

struct State {
    /// Gone when it has ended.
    stream: Option<Pin<Box<dyn Stream<Item = Change> + Send>>>,
    /// Of the coordinator.
    waker: Waker,
}

impl ChangeStream {
    pub(super) fn new(stream: impl Stream<Item = Change> + Send + 'static) -> Self {
        Self(Lock::new(State {
            stream: Some(Box::pin(stream)),
            waker: Waker::noop().clone(),
        }))
    }

    /// The coordinator is to be woken when there are changes, and gets those that are there, unless many
    /// wait for it already.
    pub(super) fn poll(&self, cx: &Context<'_>, to: &Sender<FromStore>) {
        let mut state = self.0.lock();
        state.waker.clone_from(cx.waker());
        while to.len() < WAITING_CHANGES && state.pass_on(to) {}
    }
}

/// A turn has come back. All changes that were made known before go first.
pub(super) fn send_turn(changes: Option<&ChangeStream>, turn: Box<Turn>, to: &Sender<FromStore>) {
    // If the stream panics, the turn is lost, and comes back all the same.
    let guard = TurnGuard::new(turn, Some(to.clone()));
    let mut state = changes.map(|it| it.0.lock());
    while state.as_mut().is_some_and(|it| it.pass_on(to)) {}
    if let Some(turn) = guard.into_turn() {
        // This fails only if the coordinator is gone.
        let _ = to.try_send(FromStore::Turn(turn));
    }
}

impl State {
    /// Passes on a change, if there is one.
    fn pass_on(&mut self, to: &Sender<FromStore>) -> bool {
        // If it panics, it has ended.
        let Some(mut stream) = self.stream.take() else {
            return false;
        };
        let cx = &mut Context::from_waker(&self.waker);
        let change = match stream.as_mut().poll_next(cx) {
            Poll::Ready(None) => return false,
            Poll::Ready(Some(change)) => Some(change),
            Poll::Pending => None,
        };
        self.stream = Some(stream);
        let from_store = match change.map(Change::into_turn) {
            Some(Ok(Some(turn))) => FromStore::Turn(turn),
            Some(Ok(None)) => return true,
            Some(Err(change)) => FromStore::Change(change),
            None => return false,
        };
        to.try_send(from_store).is_ok()
    }
}

impl Coordinator {
    /// Tells the client of a turn that is in the round of changes that were kept for it, behind so many bytes
    /// of its replies. Gives whether it has missed some.
    pub(super) fn on_own_changes(
        &mut self,
        turn: &Turn,
        lines: &[Arc<[u8]>],
        replies: usize,
        round: &mut Round,
    ) -> bool {
        let Some(watcher) = turn.progress.watcher else {
            return false;
        };
        let mut has_missed = false;
        for line in lines {
            let Some(write) = parse_write(line) else {
                has_missed = true;
                continue;
            };
            let stats = &mut self.stats;
            let (look_ups, events) = self.watches.publish_to(watcher, write, replies, stats);
            round.timer.add(look_ups + events / EVENTS_PER_WORK);
        }
        has_missed
    }

    pub(super) fn on_change(&mut self, change: &Change, round: &mut Round) {
        match change.write() {
            Some(write) => {
                let offset = |turn| round.reply_bytes(turn);
                let (look_ups, events) =
                    self.watches
                        .publish(write, change.except(), offset, &mut self.stats);
                round.timer.add(look_ups + events / EVENTS_PER_WORK);
            }
            None => {
                for client in self.watches.miss(change.missed_keys()) {
                    self.send_missed_count(client);
                }
            }
        }
    }
}
