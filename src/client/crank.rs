//! One future that many tasks poll: whoever waits for it turns the crank for all.
//!
//! Nobody has to be there all the time, and nobody is relied upon. When the future can go on, all
//! who wait are woken, not one of them: one might be woken and then not poll for a long time,
//! such as a future that lost a select and was kept. The first to come does the work; to the
//! others it costs a look.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Wake, Waker},
};

use slab::Slab;

/// How many times in a row one caller polls the future, before it lets its own task go on.
const TURNS: usize = 8;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(super) struct Crank {
    /// The future's waker holds only this, not the future: a circle would keep both for ever.
    bell: Arc<Bell>,
    waker: Waker,
    slot: Mutex<Slot>,
}

enum Slot {
    /// Between two polls.
    Resting(Work),
    /// Some thread is inside it.
    Taken { stop: bool },
    /// It has ended and is dropped.
    Gone,
}

impl Crank {
    pub(super) fn new(work: Work) -> Self {
        let bell = Arc::new(Bell(Mutex::default()));
        Self {
            waker: bell.clone().into(),
            bell,
            slot: Mutex::new(Slot::Resting(work)),
        }
    }

    pub(super) fn seat(&self) -> Seat {
        Seat {
            bell: self.bell.clone(),
            place: None,
        }
    }

    /// The future has something to do, and the caller is about to [`turn`](Self::turn): nobody
    /// else is woken for it.
    pub(super) fn ask(&self) {
        self.bell.state().rung = true;
    }

    /// Polls the future, unless there is nothing to do or another thread is at it, which then
    /// does what there is to do. The caller's task is woken when there is something again. As soon
    /// as the caller has `enough`, the rest is for those who still wait.
    pub(super) fn turn(&self, seat: &mut Seat, cx: &Context<'_>, enough: impl Fn() -> bool) {
        seat.take(cx.waker());
        for _ in 0..TURNS {
            if !self.bell.state().rung {
                return;
            }
            // Who has the work looks at the bell once more after putting it back.
            let Some(mut turn) = self.take() else {
                return;
            };
            self.bell.state().rung = false;
            turn.poll(&mut Context::from_waker(&self.waker));
            drop(turn);
            if enough() {
                break;
            }
        }
        if !self.bell.state().rung {
            return;
        }
        self.bell.ring();
    }

    /// Ends the future: at once, or as soon as the thread that is inside leaves it.
    pub(super) fn stop(&self) {
        let mut slot = self.slot();
        if let Slot::Taken { stop } = &mut *slot {
            *stop = true;
            return;
        }
        let work = std::mem::replace(&mut *slot, Slot::Gone);
        drop(slot);
        drop(work);
    }

    fn take(&self) -> Option<Turn<'_>> {
        let mut slot = self.slot();
        match std::mem::replace(&mut *slot, Slot::Taken { stop: false }) {
            Slot::Resting(work) => Some(Turn {
                crank: self,
                work: Some(work),
                ended: false,
            }),
            other => {
                *slot = other;
                None
            }
        }
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The future, taken out for one poll. Dropping this puts it back, or buries it where it has ended
/// or panicked. No lock is held while it is polled or dropped.
struct Turn<'a> {
    crank: &'a Crank,
    work: Option<Work>,
    ended: bool,
}

impl Turn<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) {
        if let Some(work) = &mut self.work {
            self.ended = true; // should it panic
            self.ended = work.as_mut().poll(cx).is_ready();
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut work = self.work.take();
        if self.ended {
            drop(work.take());
        }
        let mut slot = self.crank.slot();
        match work {
            Some(work) if !matches!(*slot, Slot::Taken { stop: true }) => {
                *slot = Slot::Resting(work);
            }
            work => {
                *slot = Slot::Gone;
                drop(slot);
                drop(work);
            }
        }
    }
}

/// Wakes those who wait.
struct Bell(Mutex<Hall>);

#[derive(Default)]
struct Hall {
    /// The future can go on.
    rung: bool,
    /// How often the hall has been emptied.
    epoch: u64,
    waiting: Slab<Waker>,
}

impl Bell {
    fn state(&self) -> MutexGuard<'_, Hall> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        let mut hall = self.state();
        hall.rung = true;
        hall.epoch += 1;
        let waiting = std::mem::take(&mut hall.waiting);
        drop(hall);
        for (_, waker) in waiting {
            waker.wake();
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

/// The place of one who waits.
pub(super) struct Seat {
    bell: Arc<Bell>,
    /// The epoch and the index of its waker; void in a later epoch.
    place: Option<(u64, usize)>,
}

impl Seat {
    fn take(&mut self, waker: &Waker) {
        let mut hall = self.bell.state();
        let epoch = hall.epoch;
        let mut old = None;
        match self.place {
            Some((since, index)) if since == epoch => {
                let place = hall.waiting.get_mut(index);
                if let Some(place) = place.filter(|place| !place.will_wake(waker)) {
                    old = Some(std::mem::replace(place, waker.clone()));
                }
            }
            _ => self.place = Some((epoch, hall.waiting.insert(waker.clone()))),
        }
        // The last waker of a task may take the task with it, and that may come back here.
        drop(hall);
        drop(old);
    }

    /// Waits no more.
    pub(super) fn leave(&mut self) {
        let Some((epoch, index)) = self.place.take() else {
            return;
        };
        let mut hall = self.bell.state();
        if epoch == hall.epoch {
            let waker = hall.waiting.try_remove(index);
            drop(hall);
            drop(waker);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}
