use std::sync::{Mutex, MutexGuard, PoisonError};

/// A [`Mutex`] whose `lock` ignores poisoning.
///
/// Poisoning says that a panic may have left the value half-changed. No code here can panic between
/// two steps of a change with such a lock held: stores and transports run outside it, but for a stream of
/// changes, and wakers are
/// woken and dropped outside it. So the value is whole, and the panic of one task stays with that
/// task.
#[derive(Debug, Default)]
pub(crate) struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
