//! The store's own logic over a storage in memory: crashes, failures and shutdowns at every point.
//! `SEED=n` makes one run, `RUNS=n` so many, beginning with `FIRST=n`. (The order of keys within a
//! snapshot is the store's own choice, so a seed may need a few runs to show the same.)

use std::{
    cell::{Cell, RefCell},
    env,
    rc::Rc,
    time::{Duration, Instant},
};

use fastrand::Rng;
use futures_lite::{StreamExt as _, future};
use keywire::{
    Client, Error, Event, Handle, Server,
    protocol::Code,
    store::{
        Disk,
        disk::{FileName, Sync},
    },
};

use crate::{
    model::{History, KEYS, MAX_VALUES, Write},
    process::Lists,
    storage::{Crash, Medium},
    world::{Tasks, Time},
};

const CLIENTS: usize = 3;
const RUNS: u64 = 500;

/// Bytes of a snapshot of more than one part.
const LONG: usize = 20_000;

/// How much later than its answer a write is on the disk.
const WITHIN: Duration = Duration::from_millis(100);

/// What happened in all runs, to see that everything does.
#[derive(Default)]
struct Counts {
    starts: u64,
    crashes: u64,
    faults: u64,
    shutdowns: u64,
    logs: u64,
    snapshots: u64,
    snapshots_left: u64,
    long_snapshots_left: u64,
    writes: u64,
    survived: u64,
}

#[test]
fn every_run_keeps_what_it_acknowledged() {
    let number = |name| {
        env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().expect(name))
    };
    let mut counts = Counts::default();
    if let Some(seed) = number("SEED") {
        run(seed, &mut counts);
        return;
    }
    let first = number("FIRST").unwrap_or(0);
    let began = Instant::now();
    for seed in first..first + number("RUNS").unwrap_or(RUNS) {
        let caught =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed, &mut counts)));
        assert!(caught.is_ok(), "SEED={seed}");
    }
    eprintln!(
        "{} starts, {} crashes, {} faults, {} shutdowns; found at starts: {} logs, {} snapshots, {} short and {} \
         long ones half written; {} writes, {} survived unacknowledged, in {:.1} s",
        counts.starts,
        counts.crashes,
        counts.faults,
        counts.shutdowns,
        counts.logs,
        counts.snapshots,
        counts.snapshots_left,
        counts.long_snapshots_left,
        counts.writes,
        counts.survived,
        began.elapsed().as_secs_f64()
    );
}

fn run(seed: u64, counts: &mut Counts) {
    let mut rng = Rng::with_seed(seed);
    let medium = Medium::default();
    let length = [20, 200, 10_000][rng.usize(..3)];
    let histories = (0..CLIENTS).map(|client| RefCell::new(History::new(client, length)));
    let histories: Rc<Vec<_>> = Rc::new(histories.collect());
    let within = rng.u8(..4) == 0;
    let min_log = [1, 1_000, 20_000][rng.usize(..3)];
    for _ in 0..rng.usize(2..8) {
        for (file, length) in medium.files() {
            match file {
                FileName::Log(_) => counts.logs += 1,
                FileName::Snapshot(_) => counts.snapshots += 1,
                FileName::NewSnapshot(_) if length > LONG => counts.long_snapshots_left += 1,
                FileName::NewSnapshot(_) => counts.snapshots_left += 1,
                _ => panic!("{file:?} is new"),
            }
        }
        life(&mut rng, &medium, &histories, within, min_log, counts);
    }
    // Without faults, to see what is left.
    let world = World::new(&histories, &medium, within);
    world.start(&mut rng, min_log, u64::MAX);
    let settled = || world.settled.get();
    assert!(
        world.tasks.run(&mut rng, &world.time, settled),
        "it does not load"
    );
    counts.survived += world.survived.get();
    world.tasks.clear();
}

/// From a start to a crash, or to a shutdown.
fn life(
    rng: &mut Rng,
    medium: &Medium,
    histories: &Histories,
    within: bool,
    min_log: u64,
    counts: &mut Counts,
) {
    let fails_at = match rng.u8(..3) {
        0 => rng.u64(1..40),
        _ => u64::MAX,
    };
    let world = World::new(histories, medium, within);
    world.start(rng, min_log, fails_at);
    let most = [30, 200, 1_000][rng.usize(..3)];
    let steps = rng.u32(..most);
    let mut step = 0;
    let over = || {
        step += 1;
        step > steps
    };
    world.tasks.run(rng, &world.time, over);
    counts.starts += 1;
    counts.faults += u64::from(medium.has_failed());
    let handle = world.handle.take();
    match handle {
        Some(handle) if rng.u8(..3) == 0 => {
            counts.shutdowns += 1;
            let grace = [Duration::ZERO, Duration::from_secs(9)][rng.usize(..2)];
            let (closed, done) = (Rc::new(Cell::new(false)), world.clone());
            let is_closed = closed.clone();
            world.tasks.spawn(async move {
                handle.shutdown(grace).await;
                // Everything that was answered was flushed, if there was time.
                if !grace.is_zero() && !done.medium.has_failed() {
                    done.acknowledge(Duration::ZERO);
                }
                is_closed.set(true);
            });
            assert!(
                world.tasks.run(rng, &world.time, || closed.get()),
                "it does not shut down"
            );
        }
        _ => counts.crashes += 1,
    }
    world.acknowledge(WITHIN);
    counts.survived += world.survived.get();
    counts.writes += world.writes.get();
    world.tasks.clear();
    let kind = [Crash::Process, Crash::Power][rng.usize(..2)];
    medium.crash(kind, rng);
}

type Histories = Rc<Vec<RefCell<History>>>;

/// A server and its clients.
#[derive(Clone)]
struct World(Rc<Parts>);

struct Parts {
    tasks: Tasks,
    time: Time,
    histories: Histories,
    medium: Medium,
    within: bool,
    handle: RefCell<Option<Handle>>,
    /// With a delay, what was answered, and when: client, number.
    answered: RefCell<Vec<(Instant, usize, usize)>>,
    settled: Cell<bool>,
    survived: Cell<u64>,
    writes: Cell<u64>,
}

impl std::ops::Deref for World {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl World {
    fn new(histories: &Histories, medium: &Medium, within: bool) -> Self {
        Self(Rc::new(Parts {
            tasks: Tasks::default(),
            time: Time::new(),
            histories: histories.clone(),
            medium: medium.clone(),
            within,
            handle: RefCell::default(),
            answered: RefCell::default(),
            settled: Cell::default(),
            survived: Cell::default(),
            writes: Cell::default(),
        }))
    }

    /// What was answered so long ago is on the disk.
    fn acknowledge(&self, ago: Duration) {
        for &(then, client, number) in self.answered.borrow().iter() {
            if !self.medium.has_failed()
                && (ago.is_zero() || then + ago < keywire::Clock::now(&self.time))
            {
                self.histories[client].borrow_mut().acknowledge(number);
            }
        }
    }

    fn start(&self, rng: &mut Rng, min_log: u64, fails_at: u64) {
        let (this, mut rng) = (self.clone(), rng.fork());
        self.tasks.spawn(async move {
            let sync = if this.within {
                Sync::Within(WITHIN)
            } else {
                Sync::Always
            };
            let disk = Disk::builder().min_log(min_log).sync(sync);
            let storage = this.medium.open(rng.fork(), fails_at);
            let disk = match disk.open_storage(storage).await {
                Ok(disk) => disk,
                Err(error) => {
                    assert!(this.medium.has_failed(), "{error}");
                    return;
                }
            };
            let server = Server::builder()
                .clock(this.time.clone())
                .max_values(MAX_VALUES)
                .store(disk)
                .build();
            let handle = server.handle();
            this.tasks.spawn(async {
                server.run().await;
            });
            let client = handle.client().await.unwrap();
            let Ok(found) = all(&client).await else {
                return;
            };
            for history in this.histories.iter() {
                let (_, survived) = history.borrow_mut().settle(&found);
                this.survived.set(this.survived.get() + survived as u64);
            }
            this.settled.set(true);
            this.handle.replace(Some(handle.clone()));
            for client in 0..CLIENTS {
                this.tasks
                    .spawn(this.clone().write(client, handle.clone(), rng.fork()));
            }
            this.tasks
                .spawn(this.clone().read(handle.clone(), rng.fork()));
            this.tasks.spawn(this.clone().watch(handle));
        });
    }

    /// Writes until the connection or the disk fails.
    async fn write(self, client: usize, handle: Handle, mut rng: Rng) {
        let Ok(connection) = handle.client().await else {
            return;
        };
        drop(handle);
        let mut unconfirmed = false;
        loop {
            if rng.u8(..4) == 0 {
                self.time.pass(Duration::from_millis(rng.u64(..80))).await;
            }
            let mut pipeline = connection.pipeline();
            let mut expected = Vec::new();
            let first = self.histories[client].borrow().next();
            for _ in 0..rng.usize(1..5) {
                let (write, refused) = self.histories[client].borrow_mut().write(&mut rng);
                let key = |key| History::key(client, key);
                pipeline = match write {
                    Write::Put(at, value) => pipeline.put(key(at), value),
                    Write::Set(at, value) => pipeline.set(key(at), value),
                    Write::Update(at, old, new) => pipeline.update(key(at), old, new),
                    Write::Remove(at, value) => pipeline.remove(key(at), value),
                    Write::Delete(at) => pipeline.delete(key(at)),
                    Write::SetShared(at, value) => pipeline.set(format!("s{at}"), value),
                };
                expected.push(refused);
            }
            self.writes.set(self.writes.get() + expected.len() as u64);
            let Ok(outcomes) = pipeline.send().await else {
                return;
            };
            let mut history = self.histories[client].borrow_mut();
            for (index, (outcome, refused)) in outcomes.into_iter().zip(expected).enumerate() {
                let number = first + index;
                match outcome {
                    Ok(_) => {
                        assert!(!refused && !unconfirmed, "it should be refused");
                        self.answer(&mut history, client, number + 1);
                    }
                    Err(Error::Refused {
                        code: Code::Full, ..
                    }) if refused => {
                        self.answer(&mut history, client, number + 1);
                    }
                    Err(Error::Unconfirmed {
                        code: Code::Unconfirmed,
                        ..
                    }) => {
                        assert!(self.medium.has_failed(), "nothing has failed");
                        unconfirmed = true;
                    }
                    Err(Error::Refused {
                        code: Code::Store, ..
                    }) => {
                        assert!(self.medium.has_failed(), "nothing has failed");
                        history.refuse_from(number);
                        return;
                    }
                    // A shutdown.
                    Err(_) => return,
                }
            }
        }
    }

    fn answer(&self, history: &mut History, client: usize, number: usize) {
        if self.within {
            let now = keywire::Clock::now(&self.time);
            self.answered.borrow_mut().push((now, client, number));
        } else {
            history.acknowledge(number);
        }
    }

    /// Reads everybody's keys. With a delay, a crash may take back what is shown.
    async fn read(self, handle: Handle, mut rng: Rng) {
        let Ok(connection) = handle.client().await else {
            return;
        };
        drop(handle);
        loop {
            if rng.bool() {
                self.time.pass(Duration::from_millis(rng.u64(..50))).await;
            }
            if rng.u8(..4) == 0 {
                let Ok(lists) = all(&connection).await else {
                    future::yield_now().await;
                    continue;
                };
                for (client, history) in self.histories.iter().enumerate() {
                    for key in (0..KEYS).filter(|_| !self.within) {
                        let list = lists.get(&History::key(client, key));
                        history
                            .borrow_mut()
                            .show(key, list.cloned().unwrap_or_default());
                    }
                }
            } else {
                let (client, key) = (rng.usize(..CLIENTS), rng.usize(..KEYS));
                if let Ok(list) = connection.get(History::key(client, key)).await
                    && !self.within
                {
                    let list = list.into_iter().map(text).collect();
                    self.histories[client].borrow_mut().show(key, list);
                }
            }
            if connection.sync().await.is_err() {
                return;
            }
        }
    }

    /// Hears of everybody's writes.
    async fn watch(self, handle: Handle) {
        let Ok(connection) = handle.client().await else {
            return;
        };
        drop(handle);
        let Ok(mut events) = connection.watch_prefix("c").await else {
            return;
        };
        while let Some(Ok(event)) = events.next().await {
            let (Event::Put { value, .. }
            | Event::Set { value, .. }
            | Event::Update { new: value, .. }) = event
            else {
                continue;
            };
            let value = text(value);
            let client = crate::model::client_of(&value);
            if !self.within {
                self.histories[client].borrow_mut().tell(&value);
            }
        }
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// All lists.
async fn all(client: &Client) -> Result<Lists, Error> {
    let mut walk = client.get_prefix("");
    let mut lists = Lists::new();
    while let Some(pair) = walk.next().await {
        let (key, values) = pair?;
        lists.insert(text(key), values.into_iter().map(text).collect());
    }
    Ok(lists)
}
