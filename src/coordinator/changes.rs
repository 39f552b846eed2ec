//! Changes that were made elsewhere, in order with the turns that come back from the store.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use async_channel::Sender;
use futures_lite::Stream;

use super::{Coordinator, turns::Round};
use crate::{
    lock::Lock,
    store::{Change, FromStore, TurnGuard, turn::Turn},
};

/// What the store brings in. Whoever hands a turn to the coordinator passes on the changes that were made
/// known before, so that one channel carries both in their order.
///
/// The stream is polled with the lock held. If it panics, the state is whole all the same.
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

    /// The coordinator is to be woken when there are changes, and gets those that are there.
    pub(super) fn poll(&self, cx: &Context<'_>, to: &Sender<FromStore>) {
        let mut state = self.0.lock();
        state.waker.clone_from(cx.waker());
        state.pass_on(to);
    }

    /// A turn has come back.
    pub(super) fn send_turn(&self, turn: Box<Turn>, to: &Sender<FromStore>) {
        // It is sent when this is dropped, also if the stream panics.
        let guard = TurnGuard::new(turn, Some(to.clone()));
        let mut state = self.0.lock();
        state.pass_on(to);
        drop(guard);
    }
}

impl State {
    fn pass_on(&mut self, to: &Sender<FromStore>) {
        let cx = &mut Context::from_waker(&self.waker);
        while let Some(stream) = &mut self.stream {
            match stream.as_mut().poll_next(cx) {
                Poll::Ready(Some(change)) => {
                    let _ = to.try_send(FromStore::Change(change));
                }
                Poll::Ready(None) => self.stream = None,
                Poll::Pending => return,
            }
        }
    }
}

impl Coordinator {
    pub(super) fn on_change(&mut self, change: &Change, round: &Round) {
        match change.write() {
            Some(write) => {
                let offset = |turn| round.reply_bytes(turn);
                self.watches.publish(write, offset, &mut self.stats);
            }
            None => {
                for client in self.watches.miss_all() {
                    self.send_missed_count(client);
                }
            }
        }
    }
}
