//! The way of an answer from the connection to the one who asked.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

struct Shared<T>(Mutex<State<T>>);

enum State<T> {
    Open(Option<Waker>),
    Kept(T),
    /// The promise was dropped, or its value has been taken.
    Void,
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, new: State<T>) {
        let mut state = self.state();
        let old = std::mem::replace(&mut *state, new);
        drop(state);
        if let State::Open(Some(waker)) = old {
            waker.wake();
        }
    }
}

/// The connection's end.
pub(super) struct Promise<T>(Arc<Shared<T>>);

/// The caller's end.
pub(super) struct Promised<T>(Arc<Shared<T>>);

pub(super) fn promise<T>() -> (Promise<T>, Promised<T>) {
    let shared = Arc::new(Shared(Mutex::new(State::Open(None))));
    (Promise(shared.clone()), Promised(shared))
}

impl<T> Promise<T> {
    /// Whether nobody waits for it any more.
    pub(super) fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    pub(super) fn keep(self, value: T) {
        self.0.set(State::Kept(value));
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        if matches!(*self.0.state(), State::Open(_)) {
            self.0.set(State::Void);
        }
    }
}

impl<T> Promised<T> {
    pub(super) fn is_kept(&self) -> bool {
        !matches!(*self.0.state(), State::Open(_))
    }

    /// What has come: `Some(None)` is a broken promise. It is not waited for from here on, so that
    /// a caller who turns the crank for himself does not wake himself.
    pub(super) fn take(&mut self) -> Option<Option<T>> {
        let mut state = self.0.state();
        let old = match &*state {
            State::Open(_) => std::mem::replace(&mut *state, State::Open(None)),
            _ => std::mem::replace(&mut *state, State::Void),
        };
        drop(state);
        match old {
            State::Open(_) => None,
            State::Kept(value) => Some(Some(value)),
            State::Void => Some(None),
        }
    }

    pub(super) fn poll(&mut self, cx: &Context<'_>) -> Poll<Option<T>> {
        if let Some(result) = self.take() {
            return Poll::Ready(result);
        }
        let mut state = self.0.state();
        if let State::Open(waker) = &mut *state {
            *waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        drop(state);
        // It came in between.
        self.take().map_or(Poll::Pending, Poll::Ready)
    }
}
