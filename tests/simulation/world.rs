//! A world without threads, sockets or time of its own: everything that happens is chosen by one
//! seeded generator, so the same seed is the same run to the last byte.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    io, iter,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, Weak},
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use fastrand::Rng;
use futures_lite::{AsyncRead, AsyncWrite};
use keywire::Clock;

/// Steps after which a run counts as one that does not end.
const STEPS: u64 = 2_000_000;

/// One step in so many lets time pass although there is other work.
const TIME_PASSES: u32 = 300;

#[derive(Clone)]
pub struct World(Arc<Mutex<State>>);

struct State {
    rng: Rng,
    steps: u64,
    /// A digest of all that happened.
    trace: u64,
    now: Duration,
    sleepers: Vec<(Duration, Waker)>,
    /// What will happen, in no order.
    pending: Vec<Action>,
    ready: Arc<Mutex<Vec<usize>>>,
}

enum Action {
    /// Someone hears of something.
    Wake(Waker),
    /// Bytes under way arrive.
    Arrive(Weak<Mutex<Pipe>>),
}

type Work = Pin<Box<dyn Future<Output = ()>>>;

struct Ready {
    task: usize,
    ready: Arc<Mutex<Vec<usize>>>,
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        let mut ready = self.ready.lock().unwrap();
        if !ready.contains(&self.task) {
            ready.push(self.task);
        }
    }
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng: Rng::with_seed(seed),
            steps: 0,
            trace: 0,
            now: Duration::ZERO,
            sleepers: Vec::new(),
            pending: Vec::new(),
            ready: Arc::default(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn random<T>(&self, choose: impl FnOnce(&mut Rng) -> T) -> T {
        choose(&mut self.state().rng)
    }

    /// Once in so many times.
    pub fn once_in(&self, times: u32) -> bool {
        self.random(|rng| rng.u32(..times) == 0)
    }

    pub fn steps(&self) -> u64 {
        self.state().steps
    }

    pub fn trace(&self) -> u64 {
        self.state().trace
    }

    pub fn note(&self, bytes: &[u8]) {
        let mut state = self.state();
        for &byte in bytes {
            state.trace = (state.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn act(&self, action: Action) {
        self.state().pending.push(action);
    }

    /// Runs all tasks to their ends.
    pub fn run(&self, tasks: Vec<Work>) {
        let ready = self.state().ready.clone();
        let mut tasks: Vec<Option<Work>> = tasks.into_iter().map(Some).collect();
        let wakers: Vec<Waker> = (0..tasks.len())
            .map(|task| {
                let ready = ready.clone();
                Arc::new(Ready { task, ready }).into()
            })
            .collect();
        wakers.iter().for_each(Waker::wake_by_ref);
        while tasks.iter().any(Option::is_some) {
            let mut state = self.state();
            state.steps += 1;
            assert!(state.steps < STEPS, "the run does not end");
            let mut waiting = ready.lock().unwrap();
            let (tasks_ready, actions) = (waiting.len(), state.pending.len());
            if state.rng.u32(..TIME_PASSES) == 0 || tasks_ready + actions == 0 {
                drop(waiting);
                drop(state);
                self.let_time_pass(tasks_ready + actions == 0);
                continue;
            }
            let choice = state.rng.usize(..tasks_ready + actions);
            if choice < tasks_ready {
                let task = waiting.swap_remove(choice);
                drop(waiting);
                drop(state);
                self.note(&[task as u8]);
                if let Some(work) = &mut tasks[task] {
                    if work
                        .as_mut()
                        .poll(&mut Context::from_waker(&wakers[task]))
                        .is_ready()
                    {
                        tasks[task] = None;
                    }
                }
            } else {
                let action = state.pending.swap_remove(choice - tasks_ready);
                drop(waiting);
                drop(state);
                match action {
                    Action::Wake(waker) => waker.wake(),
                    Action::Arrive(pipe) => self.arrive(&pipe),
                }
            }
        }
    }

    /// To the next time that someone waits for, or, while there is other work, by a while.
    fn let_time_pass(&self, idle: bool) {
        let mut state = self.state();
        let next = state.sleepers.iter().map(|(time, _)| *time).min();
        let now = match next {
            Some(next) if idle => next,
            None if idle => panic!("everyone waits, and for nothing"),
            _ => state.now + Duration::from_millis(state.rng.u64(..400)),
        };
        state.now = state.now.max(now);
        let now = state.now;
        let (due, later) = std::mem::take(&mut state.sleepers)
            .into_iter()
            .partition(|(time, _)| *time <= now);
        state.sleepers = later;
        drop(state);
        let due: Vec<(Duration, Waker)> = due;
        due.into_iter().for_each(|(_, waker)| waker.wake());
    }

    fn arrive(&self, pipe: &Weak<Mutex<Pipe>>) {
        let Some(shared) = pipe.upgrade() else { return };
        let mut pipe = shared.lock().unwrap();
        let under_way = pipe.bytes.len() - pipe.arrived;
        if under_way > 0 {
            let more = self.random(|rng| rng.usize(1..=under_way));
            pipe.arrived += more;
            if more < under_way {
                self.act(Action::Arrive(Arc::downgrade(&shared)));
            }
        }
        if let Some(waker) = pipe.reader.take() {
            drop(pipe);
            waker.wake();
        }
    }

    pub async fn sleep(&self, time: Duration) {
        let until = self.state().now + time;
        self.sleep_until(until).await;
    }

    pub async fn sleep_until(&self, until: Duration) {
        poll_fn(|cx| {
            let mut state = self.state();
            if state.now >= until {
                return Poll::Ready(());
            }
            state.sleepers.push((until, cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// Others may go first.
    pub async fn give_way(&self) {
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

    /// A connection: the client's end and the server's. Each way holds so many bytes.
    pub fn connect(&self, capacity: usize, servers: &Arc<()>) -> (End, End) {
        let pipe = || {
            Arc::new(Mutex::new(Pipe {
                capacity,
                ..Pipe::default()
            }))
        };
        let (up, down) = (pipe(), pipe());
        let end = |from: &Arc<Mutex<Pipe>>, to: &Arc<Mutex<Pipe>>, kind: &Arc<()>| End {
            wires: Wires {
                world: self.clone(),
                from: from.clone(),
                to: to.clone(),
            },
            _kind: kind.clone(),
        };
        (end(&down, &up, &Arc::default()), end(&up, &down, servers))
    }
}

/// The world's time, for a server. It begins at a real moment, because `Instant` can't begin
/// otherwise; only what is added to it matters.
pub struct WorldClock {
    pub world: World,
    pub start: Instant,
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
    fn holds_back(&self, task: &Waker) -> bool {
        match self.world.random(|rng| rng.u8(..6)) {
            0 => task.wake_by_ref(),
            1 => self.world.act(Action::Wake(task.clone())),
            _ => return false,
        }
        true
    }
}

/// One way of a connection.
#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    /// How many of them the reader can have.
    arrived: usize,
    capacity: usize,
    /// When the end of each line was written, and when it was read.
    lines: Vec<u64>,
    read: Vec<u64>,
    /// No more bytes follow.
    ended: bool,
    /// Nobody reads any more, or the connection was reset.
    broken: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// One end of a connection.
pub struct End {
    wires: Wires,
    /// Shared by all ends of a kind, so that they can be counted.
    _kind: Arc<()>,
}

/// Both ways of a connection, as seen from one end.
#[derive(Clone)]
pub struct Wires {
    world: World,
    from: Arc<Mutex<Pipe>>,
    to: Arc<Mutex<Pipe>>,
}

impl End {
    pub fn wires(&self) -> Wires {
        self.wires.clone()
    }
}

impl Wires {
    /// When each line that came this way was written.
    pub fn written(&self) -> Vec<u64> {
        self.from.lock().unwrap().lines.clone()
    }

    /// When each line that went the other way was read.
    pub fn read(&self) -> Vec<u64> {
        self.to.lock().unwrap().read.clone()
    }

    /// Tears the connection down.
    pub fn reset(&self) {
        for pipe in [&self.from, &self.to] {
            let mut pipe = pipe.lock().unwrap();
            pipe.broken = true;
            pipe.bytes.clear();
            pipe.arrived = 0;
            self.wake_both(&mut pipe);
        }
    }

    fn wake_both(&self, pipe: &mut Pipe) {
        let wakers = [pipe.reader.take(), pipe.writer.take()];
        for waker in wakers.into_iter().flatten() {
            self.world.act(Action::Wake(waker));
        }
    }

    /// Pending for no reason, once in a while.
    fn hesitates(&self, cx: &Context<'_>) -> bool {
        let hesitates = self.world.once_in(6);
        if hesitates {
            self.world.act(Action::Wake(cx.waker().clone()));
        }
        hesitates
    }
}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Wires { world, from, .. } = &self.wires;
        if self.wires.hesitates(cx) {
            return Poll::Pending;
        }
        let mut pipe = from.lock().unwrap();
        let most = pipe.arrived.min(buffer.len());
        if pipe.broken {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        } else if most > 0 {
            let n = world.random(|rng| rng.usize(1..=most));
            for (place, byte) in buffer.iter_mut().zip(pipe.bytes.drain(..n)) {
                *place = byte;
            }
            pipe.arrived -= n;
            let ends = buffer[..n].iter().filter(|&&byte| byte == b'\n').count();
            pipe.read.extend(iter::repeat_n(world.steps(), ends));
            if let Some(waker) = pipe.writer.take() {
                world.act(Action::Wake(waker));
            }
            Poll::Ready(Ok(n))
        } else if pipe.ended && pipe.bytes.is_empty() {
            Poll::Ready(Ok(0))
        } else {
            pipe.reader = Some(cx.waker().clone());
            Poll::Pending
        }
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Wires { world, to, .. } = &self.wires;
        if self.wires.hesitates(cx) {
            return Poll::Pending;
        }
        let mut pipe = to.lock().unwrap();
        let most = (pipe.capacity - pipe.bytes.len()).min(bytes.len());
        if pipe.broken || pipe.ended {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        } else if most > 0 {
            let n = world.random(|rng| rng.usize(1..=most));
            pipe.bytes.extend(&bytes[..n]);
            let ends = bytes[..n].iter().filter(|&&byte| byte == b'\n').count();
            pipe.lines.extend(iter::repeat_n(world.steps(), ends));
            world.act(Action::Arrive(Arc::downgrade(to)));
            world.note(&bytes[..n]);
            Poll::Ready(Ok(n))
        } else {
            pipe.writer = Some(cx.waker().clone());
            Poll::Pending
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.wires.to.lock().unwrap();
        pipe.ended = true;
        self.wires.wake_both(&mut pipe);
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let Wires { from, to, .. } = &self.wires;
        let mut to = to.lock().unwrap();
        to.ended = true;
        self.wires.wake_both(&mut to);
        drop(to);
        let mut from = from.lock().unwrap();
        from.broken = true;
        self.wires.wake_both(&mut from);
    }
}
