//! Tasks that take their steps in a random order, on one thread, and time that passes when none can.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use fastrand::Rng;
use keywire::Clock;

type Task = (Arc<Ready>, Pin<Box<dyn Future<Output = ()>>>);

/// Tasks of a run. Those that are spawned last until the run ends, or they do.
#[derive(Clone, Default)]
pub(crate) struct Tasks(Rc<RefCell<Vec<Task>>>);

struct Ready(AtomicBool);

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Tasks {
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let ready = Arc::new(Ready(AtomicBool::new(true)));
        self.0.borrow_mut().push((ready, Box::pin(task)));
    }

    /// Drops them where they stand.
    pub(crate) fn clear(&self) {
        let tasks = self.0.take();
        drop(tasks);
    }

    /// Runs them until this is so, or until there is nothing to do any more. Gives whether it is so.
    pub(crate) fn run(&self, rng: &mut Rng, time: &Time, so: impl FnMut() -> bool) -> bool {
        let mut tasks = Vec::new();
        let result = self.run_all(&mut tasks, rng, time, so);
        self.0.borrow_mut().append(&mut tasks);
        result
    }

    fn run_all(
        &self,
        tasks: &mut Vec<Task>,
        rng: &mut Rng,
        time: &Time,
        mut so: impl FnMut() -> bool,
    ) -> bool {
        loop {
            tasks.append(&mut self.0.borrow_mut());
            if so() {
                return true;
            }
            let ready: Vec<usize> = (0..tasks.len())
                .filter(|&task| tasks[task].0.0.load(Ordering::Relaxed))
                .collect();
            if ready.is_empty() {
                if !time.advance() {
                    return so();
                }
                continue;
            }
            let index = ready[rng.usize(..ready.len())];
            let (ready, task) = &mut tasks[index];
            ready.0.store(false, Ordering::Relaxed);
            let waker = Waker::from(ready.clone());
            if task
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_ready()
            {
                drop(tasks.swap_remove(index));
            }
        }
    }
}

/// Lets others take so many steps.
pub(crate) async fn pause(steps: u32) {
    for _ in 0..steps {
        futures_lite::future::yield_now().await;
    }
}

/// Time that passes only by [`advance`](Self::advance).
#[derive(Clone)]
pub(crate) struct Time(Arc<Mutex<Timers>>);

struct Timers {
    now: Instant,
    sleepers: Vec<(Instant, Waker)>,
}

impl Time {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Timers {
            now: Instant::now(),
            sleepers: Vec::new(),
        })))
    }

    /// Goes on to when the next sleeper awakes. Gives whether there is one.
    pub(crate) fn advance(&self) -> bool {
        let mut timers = self.0.lock().unwrap();
        let Some(next) = timers.sleepers.iter().map(|sleeper| sleeper.0).min() else {
            return false;
        };
        timers.now = timers.now.max(next);
        let now = timers.now;
        let awake: Vec<_> = timers
            .sleepers
            .extract_if(.., |sleeper| sleeper.0 <= now)
            .collect();
        drop(timers);
        awake.into_iter().for_each(|(_, waker)| waker.wake());
        true
    }

    pub(crate) async fn pass(&self, time: Duration) {
        self.sleep(self.now() + time).await;
    }
}

impl Clock for Time {
    fn now(&self) -> Instant {
        self.0.lock().unwrap().now
    }

    fn sleep(&self, until: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let timers = self.0.clone();
        Box::pin(std::future::poll_fn(move |cx| {
            let mut timers = timers.lock().unwrap();
            if timers.now >= until {
                return Poll::Ready(());
            }
            timers.sleepers.push((until, cx.waker().clone()));
            Poll::Pending
        }))
    }
}
