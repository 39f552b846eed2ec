//! Changes that are made elsewhere, and that a store brings in.

use std::{
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use futures_lite::{Stream, StreamExt as _, stream};
use keywire::{
    protocol::Write,
    store::{Change, StoreSize},
};

use crate::{
    history::{Entry, History, Kind, What, line_of},
    lists::Lists,
    subscribe::Subscriptions,
    world::{World, lock},
};

/// Stands for a client where there is none.
const ELSEWHERE: usize = 1000;

/// What makes them. Shared by the store and the stream by which the server gets them.
#[derive(Clone)]
pub(crate) struct Elsewhere {
    world: World,
    lists: Arc<Mutex<Lists>>,
    history: History,
    subscriptions: Subscriptions,
    /// Whether some are missed.
    misses: bool,
    made: Arc<Mutex<usize>>,
}

/// Some changes, now and then, and those that the store makes known itself.
pub(crate) fn changes(
    elsewhere: Elsewhere,
    makes: bool,
) -> impl Stream<Item = Change> + Send + 'static {
    let most = elsewhere.world.random(|rng| rng.usize(..20));
    let most = if makes { most } else { 0 };
    let own = elsewhere.clone();
    let by_time = Box::pin(stream::unfold((own, 0), move |(own, made)| async move {
        if made == most {
            return None;
        }
        let time = own.world.random(|rng| rng.u64(..200));
        own.world.sleep(Duration::from_millis(time)).await;
        own.make();
        Some(((), (own, made + 1)))
    }));
    let mut by_time = by_time.fuse();
    stream::poll_fn(move |cx| {
        while let Poll::Ready(Some(())) = by_time.poll_next(cx) {}
        match elsewhere.subscriptions.next(cx.waker()) {
            Some(change) => Poll::Ready(Some(change)),
            None => Poll::Pending,
        }
    })
}

impl Elsewhere {
    pub(crate) fn new(
        world: &World,
        lists: &Arc<Mutex<Lists>>,
        history: &History,
        subscriptions: &Subscriptions,
        misses: bool,
    ) -> Self {
        Self {
            subscriptions: subscriptions.clone(),
            misses,
            world: world.clone(),
            lists: lists.clone(),
            history: history.clone(),
            made: Arc::default(),
        }
    }

    /// A change of a key of which the store owes no answer, and of which the server has all. It is told
    /// at once.
    pub(crate) fn make(&self) {
        let mut made = lock(&self.made);
        *made += 1;
        let key = ["k0", "k1", "k2", "k3", "w"][self.world.random(|rng| rng.usize(..5))];
        let tag = format!("{ELSEWHERE}.{made}");
        let (key, value) = (key.as_bytes(), tag.as_bytes());
        let write = match self.world.random(|rng| rng.u8(..3)) {
            0 => Write::Put { key, value },
            1 => Write::Set { key, value },
            _ => Write::Update {
                key,
                old: b"0.1",
                new: value,
            },
        };
        let mut record = self.history.record();
        if record.owes(key) {
            return;
        }
        lock(&self.lists).write(write);
        let number = record.number();
        let at = self.world.moment();
        record.entries.push(Entry {
            number,
            connection: ELSEWHERE,
            line: Vec::new(),
            tag: (ELSEWHERE, *made),
            key: key.to_vec(),
            kind: Kind::Elsewhere,
            what: What::Written(key.to_vec(), line_of(write)),
            at,
            decided: at,
            answered: at,
            held: StoreSize::default(),
        });
        if self.subscriptions.tell(write, self.misses, &self.world) {
            record.missed.insert(line_of(write));
        }
    }
}
