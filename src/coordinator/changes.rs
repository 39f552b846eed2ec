//! Changes that were made elsewhere, in order with the turns that come back from the store.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    vec,
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

/// Bytes of changes that wait here. A turn that comes back takes those before it along, however many wait
/// already. If there are as many bytes as this, the next ones are missed.
const WAITING_BYTES: usize = 64 << 20;

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
    /// Bytes of changes that were passed on and have not been handled.
    bytes: usize,
    /// The last that the stream gave was a change that is missed, because too many wait. A turn, or none, ends
    /// that: what is missed behind a turn is told behind it.
    is_missing: bool,
}

impl ChangeStream {
    pub(super) fn new(stream: impl Stream<Item = Change> + Send + 'static) -> Self {
        Self(Lock::new(State {
            stream: Some(Box::pin(stream)),
            waker: Waker::noop().clone(),
            bytes: 0,
            is_missing: false,
        }))
    }

    /// The coordinator is to be woken when there are changes, and gets those that are there, unless many
    /// wait for it already.
    pub(super) fn poll(&self, cx: &Context<'_>, to: &Sender<FromStore>) {
        let mut state = self.0.lock();
        state.waker.clone_from(cx.waker());
        while to.len() < WAITING_CHANGES && state.bytes < WAITING_BYTES && state.pass_on(to) {}
    }

    /// The coordinator is done with a change.
    fn on_handled(&self, change: &Change) {
        let mut state = self.0.lock();
        state.bytes = state.bytes.saturating_sub(change.bytes());
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
        let was_missing = std::mem::take(&mut self.is_missing);
        let from_store = match change.map(Change::into_turn) {
            Some(Ok(Some(turn))) => FromStore::Turn(turn),
            Some(Err(change)) if self.bytes < WAITING_BYTES => FromStore::Change(change),
            Some(Err(_)) => {
                self.is_missing = true;
                if was_missing {
                    return true;
                }
                FromStore::Change(Change::missed())
            }
            Some(Ok(None)) => return true,
            None => return false,
        };
        if let FromStore::Change(change) = &from_store {
            self.bytes += change.bytes();
        }
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

    /// Publishes a change. If it says that some were missed, so may those behind it: whoever has missed
    /// changes several times in a row is notified once.
    pub(super) fn on_change(
        &mut self,
        change: &Change,
        behind: &mut vec::IntoIter<FromStore>,
        round: &mut Round,
    ) {
        let Some(write) = change.write() else {
            let mut clients = self.on_missed(change, round);
            while let Some(FromStore::Change(next)) = behind.as_slice().first()
                && next.write().is_none()
                && !self.is_over(round)
            {
                clients.extend(self.on_missed(next, round));
                behind.next();
            }
            for client in clients {
                self.send_missed_count(client);
            }
            return;
        };
        let offset = |turn| round.reply_bytes(turn);
        let (look_ups, events) =
            self.watches
                .publish(write, change.except(), offset, &mut self.stats);
        round.timer.add(look_ups + events / EVENTS_PER_WORK);
        self.on_handled(change);
    }

    /// Gives the clients that have to be notified.
    fn on_missed(&mut self, change: &Change, round: &mut Round) -> Vec<usize> {
        // All topics are gone through.
        round.timer.add_unknown();
        self.on_handled(change);
        self.watches.miss(change.missed_keys())
    }

    fn on_handled(&self, change: &Change) {
        if let Some(changes) = &self.changes {
            changes.on_handled(change);
        }
    }
}

#[cfg(test)]
mod tests {
    use async_channel::Receiver;

    use super::*;
    use crate::{clock::SystemClock, protocol::Write, shared::limits::Limits};

    const LINE: usize = 1 << 20;

    fn change() -> Change {
        let (key, value) = (&b"k"[..], &[b'v'; LINE][..]);
        Change::from(Write::Put { key, value })
    }

    fn turn() -> Box<Turn> {
        let limits = Arc::new(Limits::default());
        Box::new(Turn::new(limits, Arc::default(), Arc::new(SystemClock)))
    }

    /// What is passed on, as letters: changes in a row, that some were missed, turns.
    fn received(from_store: &Receiver<FromStore>, changes: &ChangeStream) -> (String, usize) {
        let (mut kinds, mut bytes) = (Vec::new(), 0);
        while let Ok(it) = from_store.try_recv() {
            kinds.push(match it {
                FromStore::Turn(_) | FromStore::Lost(_) => 't',
                FromStore::Change(change) => {
                    bytes += change.bytes();
                    changes.on_handled(&change);
                    if change.write().is_some() { 'c' } else { 'm' }
                }
            });
        }
        kinds.dedup();
        (kinds.into_iter().collect(), bytes)
    }

    /// A store has more changes whenever a turn comes back, and the coordinator comes to none of them.
    #[test]
    fn changes_before_turns_are_bounded_in_all() {
        let (to_store, stream) = async_channel::unbounded();
        let changes = ChangeStream::new(stream);
        let (to, from_store) = async_channel::unbounded();
        let cx = &Context::from_waker(Waker::noop());
        for _ in 0..4 {
            for _ in 0..50 {
                to_store.try_send(change()).unwrap();
            }
            send_turn(Some(&changes), turn(), &to);
        }
        // They stay with the store.
        to_store.try_send(change()).unwrap();
        changes.poll(cx, &to);
        assert_eq!(to_store.len(), 1);
        // Each turn may show what was missed before it, and not what was missed behind it.
        let (kinds, bytes) = received(&from_store, &changes);
        assert_eq!(kinds, "ctcmtmtmt");
        assert!(bytes > WAITING_BYTES / 2 && bytes < WAITING_BYTES + 2 * LINE);
        changes.poll(cx, &to);
        assert_eq!(received(&from_store, &changes).0, "c");
        assert_eq!(changes.0.lock().bytes, 0);
    }
}
