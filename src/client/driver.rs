//! One future that many tasks share: every task that waits for it polls it on behalf of all.
//!
//! In: polls of the tasks that wait, and wake-ups of the future. Out: polls of the future, and
//! wake-ups of the tasks. It knows nothing of what the future does.
//!
//! No task has to be there all the time, and none is relied upon. When the future can go on, all
//! tasks that wait are woken, not one of them: one task might be woken and then not poll for a long
//! time, such as a future that lost a select and was kept. The first to come does the work; to the
//! others it costs a look.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Wake, Waker},
};

use slab::Slab;

use crate::lock::Lock;

/// How many times in a row one caller polls the future, before its own task goes on.
const POLLS_PER_DRIVE: usize = 8;

type DrivenFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(super) struct SharedDriver {
    /// The future's waker holds only this, not the future: a reference circle would keep both for
    /// ever.
    notifier: Arc<Notifier>,
    waker: Waker,
    state: Lock<DriverState>,
}

enum DriverState {
    /// Between two polls.
    Idle(DrivenFuture),
    /// Some thread is inside the future.
    Polling { stop: bool },
    /// The future has ended and is dropped.
    Done,
}

impl SharedDriver {
    pub(super) fn new(future: DrivenFuture) -> Self {
        let notifier = Arc::new(Notifier::default());
        Self {
            waker: notifier.clone().into(),
            notifier,
            state: Lock::new(DriverState::Idle(future)),
        }
    }

    pub(super) fn waiter(&self) -> Waiter {
        Waiter {
            notifier: self.notifier.clone(),
            entry: None,
        }
    }

    /// The future has something to do, and the caller is about to [`drive`](Self::drive): no other
    /// task is woken for it.
    pub(super) fn mark_ready(&self) {
        self.notifier.0.lock().ready = true;
    }

    /// The future has something to do, and nobody is about to drive it: those who wait are woken.
    pub(super) fn wake(&self) {
        self.notifier.wake_all();
    }

    /// Polls the future, unless there is nothing to do or another thread is at it, which then
    /// does what there is to do. The caller's task is woken when there is something again. As soon
    /// as the caller has `enough`, the rest is left to the tasks that still wait.
    pub(super) fn drive(&self, waiter: &mut Waiter, cx: &Context<'_>, enough: impl Fn() -> bool) {
        waiter.register(cx.waker());
        for _ in 0..POLLS_PER_DRIVE {
            if !self.notifier.0.lock().ready {
                return;
            }
            // The thread that has the future looks at `ready` once more after putting it back.
            let Some(mut guard) = self.start_poll() else {
                return;
            };
            self.notifier.0.lock().ready = false;
            guard.poll(&mut Context::from_waker(&self.waker));
            drop(guard);
            if enough() {
                break;
            }
        }
        if self.notifier.0.lock().ready {
            self.notifier.wake_all();
        }
    }

    /// Ends the future: at once, or as soon as the thread that is inside leaves it.
    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        if let DriverState::Polling { stop } = &mut *state {
            *stop = true;
            return;
        }
        let ended = std::mem::replace(&mut *state, DriverState::Done);
        drop(state);
        drop(ended);
    }

    fn start_poll(&self) -> Option<PollGuard<'_>> {
        let mut state = self.state.lock();
        match std::mem::replace(&mut *state, DriverState::Polling { stop: false }) {
            DriverState::Idle(future) => Some(PollGuard {
                driver: self,
                future: Some(future),
                ended: false,
            }),
            other => {
                *state = other;
                None
            }
        }
    }
}

/// The future, taken out for one poll. Dropping the guard puts it back, or drops it if it has ended
/// or panicked. No lock is held while it is polled or dropped.
struct PollGuard<'a> {
    driver: &'a SharedDriver,
    future: Option<DrivenFuture>,
    ended: bool,
}

impl PollGuard<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) {
        if let Some(future) = &mut self.future {
            self.ended = true; // should it panic
            self.ended = future.as_mut().poll(cx).is_ready();
        }
    }
}

impl Drop for PollGuard<'_> {
    fn drop(&mut self) {
        let mut future = self.future.take();
        if self.ended {
            drop(future.take());
        }
        let mut state = self.driver.state.lock();
        match future {
            Some(future) if !matches!(*state, DriverState::Polling { stop: true }) => {
                *state = DriverState::Idle(future);
            }
            future => {
                *state = DriverState::Done;
                drop(state);
                drop(future);
            }
        }
    }
}

/// Wakes the tasks that wait.
#[derive(Default)]
struct Notifier(Lock<WaitList>);

#[derive(Default)]
struct WaitList {
    /// The future can go on.
    ready: bool,
    /// How often the list has been emptied.
    epoch: u64,
    wakers: Slab<Waker>,
}

impl Notifier {
    fn wake_all(&self) {
        let mut list = self.0.lock();
        list.ready = true;
        list.epoch += 1;
        let wakers = std::mem::take(&mut list.wakers);
        drop(list);
        for (_, waker) in wakers {
            waker.wake();
        }
    }
}

impl Wake for Notifier {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_all();
    }
}

/// One task's entry in the list of those that wait.
pub(super) struct Waiter {
    notifier: Arc<Notifier>,
    /// The epoch and the index of its waker; void in a later epoch.
    entry: Option<(u64, usize)>,
}

impl Waiter {
    fn register(&mut self, waker: &Waker) {
        let mut list = self.notifier.0.lock();
        let epoch = list.epoch;
        let mut old = None;
        match self.entry {
            Some((since, index)) if since == epoch => {
                let entry = list.wakers.get_mut(index);
                if let Some(entry) = entry.filter(|entry| !entry.will_wake(waker)) {
                    old = Some(std::mem::replace(entry, waker.clone()));
                }
            }
            _ => self.entry = Some((epoch, list.wakers.insert(waker.clone()))),
        }
        // The last waker of a task may take the task with it, and that may come back here.
        drop(list);
        drop(old);
    }

    /// The task waits no more.
    pub(super) fn unregister(&mut self) {
        let Some((epoch, index)) = self.entry.take() else {
            return;
        };
        let mut list = self.notifier.0.lock();
        if epoch == list.epoch {
            let waker = list.wakers.try_remove(index);
            drop(list);
            drop(waker);
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.unregister();
    }
}
