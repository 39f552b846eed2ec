//! A world without threads, sockets or time of its own: everything that happens is chosen by one
//! seeded generator, so the same seed is the same run to the last byte.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use fastrand::Rng;
use keywire::Clock;

use crate::network::Pipe;

/// Steps, of the world's tasks and of the server's own, after which a run counts as one that does
/// not end.
const STEPS: u64 = 60_000;

/// One step in so many lets time pass although there is other work.
const TIME_PASSES: u32 = 300;

#[derive(Clone)]
pub(crate) struct World(Arc<Mutex<State>>);

/// Locks. After a panic too, so that what is dropped then does not panic again.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place in the order of all that happened, and the time of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    pub(crate) tick: u64,
    pub(crate) now: Duration,
}

impl Moment {
    pub(crate) const NEVER: Moment = Moment {
        tick: u64::MAX,
        now: Duration::MAX,
    };
}

struct State {
    rng: Rng,
    steps: u64,
    /// Counts what was noted of a run, so that any two things have an order.
    tick: u64,
    /// A digest of all that happened.
    trace: u64,
    now: Duration,
    /// What will happen at its time. The number is for those who don't wait any more.
    later: Vec<(Duration, u64, Action)>,
    /// What will happen, in no order.
    pending: Vec<Action>,
    ready: Arc<Mutex<Vec<usize>>>,
}

pub(crate) enum Action {
    /// Someone hears of something.
    Wake(Waker),
    /// Bytes under way arrive.
    Arrive(Weak<Mutex<Pipe>>),
}

pub(crate) type Work = Pin<Box<dyn Future<Output = ()>>>;

struct Ready {
    task: usize,
    ready: Arc<Mutex<Vec<usize>>>,
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        let mut ready = lock(&self.ready);
        if !ready.contains(&self.task) {
            ready.push(self.task);
        }
    }
}

impl State {
    fn count_step(&mut self) {
        self.steps += 1;
        assert!(self.steps < STEPS, "the run does not end");
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng: Rng::with_seed(seed),
            steps: 0,
            tick: 0,
            trace: 0,
            now: Duration::ZERO,
            later: Vec::new(),
            pending: Vec::new(),
            ready: Arc::default(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    pub(crate) fn random<T>(&self, choose: impl FnOnce(&mut Rng) -> T) -> T {
        choose(&mut self.state().rng)
    }

    /// Once in so many times.
    pub(crate) fn once_in(&self, times: u32) -> bool {
        self.random(|rng| rng.u32(..times) == 0)
    }

    fn count_step(&self) {
        self.state().count_step();
    }

    /// Something is about to be noted.
    pub(crate) fn moment(&self) -> Moment {
        let mut state = self.state();
        state.tick += 1;
        Moment {
            tick: state.tick,
            now: state.now,
        }
    }

    /// The number of the step that is being taken.
    pub(crate) fn step(&self) -> u64 {
        self.state().steps
    }

    pub(crate) fn trace(&self) -> u64 {
        self.state().trace
    }

    pub(crate) fn note(&self, bytes: &[u8]) {
        let mut state = self.state();
        for &byte in bytes {
            state.trace = (state.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(crate) fn act(&self, action: Action) {
        self.state().pending.push(action);
    }

    pub(crate) fn act_later(&self, time: Duration, action: Action) {
        let mut state = self.state();
        let at = state.now + time;
        state.tick += 1;
        let number = state.tick;
        state.later.push((at, number, action));
    }

    /// Runs all tasks to their ends. Whenever nothing can happen before time passes, it is `quiet`.
    pub(crate) fn run(&self, tasks: Vec<Work>, mut quiet: impl FnMut()) {
        let ready = self.state().ready.clone();
        let mut tasks: Vec<Option<Work>> = tasks.into_iter().map(Some).collect();
        let slots: Vec<Arc<Ready>> = (0..tasks.len())
            .map(|task| {
                let ready = ready.clone();
                Arc::new(Ready { task, ready })
            })
            .collect();
        slots.iter().cloned().for_each(Ready::wake);
        while tasks.iter().any(Option::is_some) {
            let mut state = self.state();
            state.count_step();
            let mut waiting = lock(&ready);
            let (tasks_ready, actions) = (waiting.len(), state.pending.len());
            if state.rng.u32(..TIME_PASSES) == 0 || tasks_ready + actions == 0 {
                let idle = tasks_ready + actions == 0;
                // A clock that was looked at may have gone on by itself.
                let due = state.later.iter().any(|(time, _, _)| *time <= state.now);
                drop(waiting);
                drop(state);
                if idle && !due {
                    quiet();
                }
                self.let_time_pass(idle);
                continue;
            }
            let choice = state.rng.usize(..tasks_ready + actions);
            if choice < tasks_ready {
                let task = waiting.swap_remove(choice);
                drop(waiting);
                drop(state);
                self.note(&[task as u8]);
                if let Some(work) = &mut tasks[task] {
                    let waker = slots[task].clone().into();
                    if work
                        .as_mut()
                        .poll(&mut Context::from_waker(&waker))
                        .is_ready()
                    {
                        tasks[task] = None;
                    }
                }
            } else {
                let action = state.pending.swap_remove(choice - tasks_ready);
                drop(waiting);
                drop(state);
                self.perform(action);
            }
        }
        let mut state = self.state();
        let left = std::mem::take(&mut state.pending);
        let slept = std::mem::take(&mut state.later);
        drop(state);
        drop(left);
        let sleeps = |(_, _, action): &(_, _, Action)| matches!(action, Action::Wake(_));
        assert!(!slept.iter().any(sleeps), "someone gone still sleeps");
        for (task, slot) in slots.iter().enumerate() {
            let left = Arc::strong_count(slot) - 1;
            assert_eq!(left, 0, "wakers of task {task} are left");
        }
    }

    fn perform(&self, action: Action) {
        match action {
            Action::Wake(waker) => waker.wake(),
            Action::Arrive(pipe) => {
                if let Some(pipe) = pipe.upgrade() {
                    Pipe::arrive(&pipe, self);
                }
            }
        }
    }

    /// To the next time that someone waits for, or, while there is other work, by a while.
    fn let_time_pass(&self, idle: bool) {
        let mut state = self.state();
        let next = state.later.iter().map(|(time, _, _)| *time).min();
        let now = match next {
            Some(next) if idle => next,
            None if idle => panic!("everyone waits, and for nothing"),
            _ => state.now + Duration::from_millis(state.rng.u64(..400)),
        };
        state.now = state.now.max(now);
        let now = state.now;
        let (due, later) = std::mem::take(&mut state.later)
            .into_iter()
            .partition(|(time, _, _)| *time <= now);
        state.later = later;
        drop(state);
        let due: Vec<(Duration, u64, Action)> = due;
        due.into_iter()
            .for_each(|(_, _, action)| self.perform(action));
    }

    pub(crate) async fn sleep(&self, time: Duration) {
        let until = self.state().now + time;
        self.sleep_until(until).await;
    }

    async fn sleep_until(&self, until: Duration) {
        let mut sleep = Sleep {
            world: self.clone(),
            number: None,
        };
        poll_fn(|cx| sleep.poll(until, cx)).await;
    }

    /// Others may go first.
    pub(crate) async fn give_way(&self) {
        let mut given = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut given, true) {
                return Poll::Ready(());
            }
            self.act(Action::Wake(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

/// Takes its waker along when it is dropped.
struct Sleep {
    world: World,
    number: Option<u64>,
}

impl Sleep {
    fn poll(&mut self, until: Duration, cx: &Context<'_>) -> Poll<()> {
        self.leave();
        let mut state = self.world.state();
        if state.now >= until {
            return Poll::Ready(());
        }
        state.tick += 1;
        let number = state.tick;
        let action = Action::Wake(cx.waker().clone());
        state.later.push((until, number, action));
        self.number = Some(number);
        Poll::Pending
    }

    fn leave(&mut self) {
        let Some(own) = self.number.take() else {
            return;
        };
        let mut state = self.world.state();
        let place = state.later.iter().position(|(_, number, _)| *number == own);
        let gone = place.map(|place| state.later.swap_remove(place));
        // The last waker of a task may take the task with it, and that may come back here.
        drop(state);
        drop(gone);
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The world's time, for a server. It begins at a real moment, because `Instant` can't begin
/// otherwise; only what is added to it matters.
pub(crate) struct WorldClock {
    pub(crate) world: World,
    pub(crate) start: Instant,
}

impl Clock for WorldClock {
    fn now(&self) -> Instant {
        let mut state = self.world.state();
        // Whatever is done between two looks takes some time.
        if state.rng.u8(..8) == 0 {
            let time = Duration::from_micros(state.rng.u64(..3000));
            state.now += time;
        }
        self.start + state.now
    }

    fn sleep(&self, until: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let world = self.world.clone();
        let until = until - self.start;
        Box::pin(async move { world.sleep_until(until).await })
    }

    /// The server's own tasks come in any order too, and others may come between any two of them.
    fn defers(&self, task: &Waker) -> bool {
        self.world.count_step();
        match self.world.random(|rng| rng.u8(..6)) {
            0 => task.wake_by_ref(),
            1 => self.world.act(Action::Wake(task.clone())),
            _ => return false,
        }
        true
    }
}
