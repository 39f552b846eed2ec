//! Stores that fail or take their time before they answer, and a clock for them.
//! [`LateStore`](super::late_store::LateStore) answers when a test says so.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use futures_lite::future;
use keywire::{
    Clock,
    protocol::{Operation, Write},
    store::{Batch, Memory, Order, Store, StoreSize, Submission},
};

use super::local::LocalClient;

/// Fails on command: every operation on the key `bad`, and every batch that touches `worse`. It never
/// waits.
#[derive(Default)]
pub struct Failing(Memory);

impl Store for Failing {
    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        if batch.operations().any(|asked| asked.key() == b"worse") {
            batch.fail("nothing\nof this");
            return batch.done();
        }
        let limits = self.0.limits(&batch);
        batch.each(|operation, answer| match operation.key() {
            b"bad" => answer.fail("out of order"),
            _ => self.0.apply(operation, answer, limits),
        });
        batch.done()
    }

    fn size(&self) -> StoreSize {
        self.0.size()
    }
}

/// Answers a while later, as a remote store would: it reads what is asked, and applies it when its future
/// is polled again.
#[derive(Default)]
pub struct Remote {
    pub memory: Arc<Mutex<Memory>>,
    pub batches: usize,
}

impl Store for Remote {
    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        self.batches += 1;
        let memory = self.memory.clone();
        Submission::Pending(async move {
            let asked = batch.operations().count();
            future::yield_now().await;
            let mut memory = memory.lock().unwrap();
            let limits = memory.limits(&batch);
            let mut answered = 0;
            batch.each(|operation, answer| {
                answered += 1;
                memory.apply(operation, answer, limits);
            });
            assert!(answered <= asked);
            drop(memory);
            batch
        })
    }

    fn size(&self) -> StoreSize {
        self.memory.lock().unwrap().size()
    }
}

/// A batch with `Get:gate` says that it has come there, and waits until told to go on. Others are
/// answered at once.
pub struct Gated {
    pub memory: Arc<Mutex<Memory>>,
    reached: async_channel::Sender<()>,
    open: async_channel::Receiver<()>,
}

impl Gated {
    pub fn new() -> (Self, async_channel::Receiver<()>, async_channel::Sender<()>) {
        let (reached, at_gate) = async_channel::bounded(1);
        let (go_on, open) = async_channel::bounded(1);
        let memory = Arc::default();
        let store = Self {
            memory,
            reached,
            open,
        };
        (store, at_gate, go_on)
    }
}

impl Store for Gated {
    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        let is_gate = |asked| matches!(asked, Operation::Get { key: b"gate" });
        if !batch.operations().any(is_gate) {
            apply_all(&mut self.memory.lock().unwrap(), &mut batch);
            return Submission::Done(batch);
        }
        let (memory, reached, open) =
            (self.memory.clone(), self.reached.clone(), self.open.clone());
        Submission::Pending(async move {
            reached.send(()).await.unwrap();
            open.recv().await.unwrap();
            apply_all(&mut memory.lock().unwrap(), &mut batch);
            batch
        })
    }
}

fn apply_all(memory: &mut Memory, batch: &mut Batch) {
    let limits = memory.limits(batch);
    batch.each(|operation, answer| memory.apply(operation, answer, limits));
}

/// Each `Update` takes some time by its clock. In the middle of one of them, a client asks for a
/// key, and the store counts the updates until it is asked. It never waits; whether it says so is up
/// to the test.
pub struct Costly<const IMMEDIATE: bool> {
    pub memory: Memory,
    pub clock: ManualClock,
    /// How long an update takes.
    pub time: Duration,
    pub updates: usize,
    pub asking: Arc<Mutex<Option<LocalClient>>>,
    pub updates_before_get: Option<usize>,
}

impl<const IMMEDIATE: bool> Costly<IMMEDIATE> {
    /// The client asks during the update of this number, when the server knows that the turns of
    /// the others take long.
    const ASKS: usize = 450;

    pub fn new(
        clock: ManualClock,
        time: Duration,
        asking: Arc<Mutex<Option<LocalClient>>>,
    ) -> Self {
        Self {
            memory: Memory::new(),
            clock,
            time,
            updates: 0,
            asking,
            updates_before_get: None,
        }
    }
}

impl<const IMMEDIATE: bool> Store for Costly<IMMEDIATE> {
    const ORDER: Order = match IMMEDIATE {
        true => Order::Immediate,
        false => Order::None,
    };

    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        let limits = self.memory.limits(&batch);
        batch.each(|operation, answer| {
            match operation {
                Operation::Write(Write::Update { .. }) => {
                    self.updates += 1;
                    self.clock.advance(self.time);
                    if let (Self::ASKS, Some(client)) =
                        (self.updates, &mut *self.asking.lock().unwrap())
                    {
                        client.send("Get:k\n");
                    }
                }
                Operation::Get { .. } => {
                    self.updates_before_get = Some(self.updates - Self::ASKS);
                }
                _ => {}
            }
            self.memory.apply(operation, answer, limits);
        });
        batch.done()
    }
}

/// More than a round may last.
pub const ROUND_TIME: Duration = Duration::from_millis(5);

/// A clock that goes on only where it is told to.
#[derive(Clone)]
pub struct ManualClock(Arc<Mutex<Hands>>);

struct Hands {
    now: Instant,
    sleepers: Vec<Waker>,
}

impl ManualClock {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Hands {
            now: Instant::now(),
            sleepers: Vec::new(),
        })))
    }

    pub fn advance(&self, time: Duration) {
        let mut hands = self.0.lock().unwrap();
        hands.now += time;
        let sleepers = std::mem::take(&mut hands.sleepers);
        drop(hands);
        sleepers.into_iter().for_each(Waker::wake);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.0.lock().unwrap().now
    }

    fn sleep(&self, until: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let hands = self.0.clone();
        Box::pin(future::poll_fn(move |cx| {
            let mut hands = hands.lock().unwrap();
            if hands.now >= until {
                return Poll::Ready(());
            }
            hands.sleepers.push(cx.waker().clone());
            Poll::Pending
        }))
    }
}
