//! Stores that are slow, or fail, or take their time before they answer, and a clock for them.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use futures_lite::future;
use keywire::{
    Clock, Error,
    protocol::{Operation, Write},
    store::{Batch, Memory, Store, StoreSize},
};

use super::local::LocalClient;

/// Fails on command: every operation on the key `bad`, and every batch that touches `worse`.
#[derive(Default)]
pub struct Failing(Memory);

impl Store for Failing {
    async fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), Error> {
        let mut taken = Vec::new();
        while let Some(operation) = batch.take() {
            taken.push(operation);
        }
        if taken.iter().any(|operation| operation.key() == b"worse") {
            return Err(Error::store("nothing\nof this"));
        }
        for operation in taken {
            if operation.key() == b"bad" {
                batch.fail(&Error::store("out of order"));
            } else {
                self.0.answer(operation, batch);
            }
        }
        Ok(())
    }
}

/// Answers a while later, as a remote store would, several commands at a time.
#[derive(Default)]
pub struct Remote {
    pub memory: Memory,
    pub batches: usize,
}

impl Store for Remote {
    async fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), Error> {
        let taken: Vec<_> = std::iter::from_fn(|| batch.take()).take(7).collect();
        future::yield_now().await;
        self.batches += 1;
        for operation in taken {
            self.memory.answer(operation, batch);
        }
        Ok(())
    }
}

/// Says that it has come to the key `gate`, and waits there until told to go on.
pub struct Gated {
    pub memory: Memory,
    pub reached: async_channel::Sender<()>,
    pub open: async_channel::Receiver<()>,
}

impl Gated {
    pub fn new() -> (Self, async_channel::Receiver<()>, async_channel::Sender<()>) {
        let (reached, at_gate) = async_channel::bounded(1);
        let (go_on, open) = async_channel::bounded(1);
        let memory = Memory::new();
        let store = Self {
            memory,
            reached,
            open,
        };
        (store, at_gate, go_on)
    }
}

impl Store for Gated {
    async fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), Error> {
        while let Some(operation) = batch.take() {
            if matches!(operation, Operation::Get { key: b"gate" }) {
                self.reached.send(()).await.unwrap();
                self.open.recv().await.unwrap();
            }
            self.memory.answer(operation, batch);
        }
        Ok(())
    }
}

/// Takes at most so many commands at a time and answers each at once. A batch that touches the key
/// `worse` it takes back in the end, which takes some time by its clock.
pub struct Undoing {
    pub memory: Memory,
    pub most: usize,
    pub clock: Option<ManualClock>,
}

impl Undoing {
    pub fn new(most: usize) -> Self {
        Self {
            memory: Memory::new(),
            most,
            clock: None,
        }
    }
}

impl Store for Undoing {
    async fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), Error> {
        let mut before = Memory::new();
        for (key, values) in self.memory.iter() {
            values.for_each(|value| before.put(key, value));
        }
        let mut worse = false;
        for _ in 0..self.most {
            let Some(operation) = batch.take() else { break };
            worse |= operation.key() == b"worse";
            self.memory.answer(operation, batch);
        }
        if worse {
            self.memory = before;
            if let Some(clock) = &self.clock {
                clock.advance(ROUND_TIME);
            }
            return Err(Error::store("undone"));
        }
        Ok(())
    }

    fn size(&self) -> StoreSize {
        self.memory.size()
    }
}

/// Each `Update` takes some time by its clock. In the middle of one of them, a client asks for a
/// key, and the store counts the updates until it is asked.
pub struct Costly {
    pub memory: Memory,
    /// It takes at most so many commands at a time.
    pub most: usize,
    pub clock: ManualClock,
    /// How long an update takes.
    pub time: Duration,
    pub updates: usize,
    pub asking: Arc<Mutex<Option<LocalClient>>>,
    pub updates_before_get: Option<usize>,
}

impl Costly {
    /// The client asks during the update of this number, when the server knows that the turns of
    /// the others take long.
    const ASKS: usize = 450;
}

impl Store for Costly {
    async fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), Error> {
        for _ in 0..self.most {
            let Some(operation) = batch.take() else { break };
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
            self.memory.answer(operation, batch);
        }
        Ok(())
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
