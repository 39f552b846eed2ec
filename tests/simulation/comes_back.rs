//! The library's own client over connections that break at any byte, to a server that restarts, with
//! calls that are given up. No write is applied twice, no watcher misses a change silently, and a mirror
//! comes to what the store holds.

mod check;
mod ordered;

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use fastrand::Rng;
use futures_lite::{StreamExt as _, future};
use keywire::{Client, ConnectionState, Event, Handle, Server, Snapshot};

use ordered::Ordered;

use crate::{
    network::{Connection, connect},
    world::{Moment, Work, World, WorldClock, lock},
};

const CLIENTS: usize = 2;

/// Of each client, those that call.
const TASKS: usize = 3;

/// Each task makes fewer calls than this.
const CALLS: usize = 25;

/// A connection that holds fewer bytes takes each line in many writes. A run takes about ten steps for
/// each write, so the client calls less: the limit of steps is for runs that do not end.
const NARROW: usize = 8;

/// Each of its tasks makes fewer calls than this.
const NARROW_CALLS: usize = 8;

/// The keys whose values are only appended, each another one.
const KEYS: usize = 3;

/// The keys that are mirrored begin so.
const MIRRORED: &str = "m.";

/// What became of a put.
#[derive(Debug)]
struct Put {
    key: usize,
    value: Vec<u8>,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// Nobody waited for the end.
    Open,
    Applied(Moment),
    NotApplied,
    InDoubt,
}

#[derive(Debug)]
struct Read {
    key: usize,
    asked: Moment,
    values: Vec<Vec<u8>>,
}

/// What the tasks have in common.
struct Run {
    world: World,
    /// How the server is reached, while it is there.
    handle: Arc<Mutex<Option<Handle>>>,
    /// The connections that there are, or were.
    connections: Arc<Mutex<Vec<Connection>>>,
    puts: RefCell<Vec<Put>>,
    reads: RefCell<Vec<Read>>,
    /// Tasks that write, and tasks that read what is written.
    writers: Cell<usize>,
    readers: Cell<usize>,
    store: RefCell<Option<Ordered>>,
}

impl Run {
    fn clock(&self) -> WorldClock {
        WorldClock {
            world: self.world.clone(),
            start: Instant::now(),
        }
    }

    /// A client over connections that hold so many bytes, and how many it had.
    fn client(&self, capacity: usize, rng: &mut Rng) -> (Client, Arc<Mutex<u64>>) {
        let (handle, world) = (self.handle.clone(), self.world.clone());
        let connections = self.connections.clone();
        let connector = move || {
            let (handle, world) = (handle.clone(), world.clone());
            let connections = connections.clone();
            async move {
                let time = world.random(|rng| rng.u64(..200));
                world.sleep(Duration::from_millis(time)).await;
                let server = lock(&handle).clone().filter(|_| !world.once_in(5));
                let server = server.ok_or(io::ErrorKind::ConnectionRefused)?;
                let (ours, theirs) = connect(&world, capacity, &Arc::default());
                lock(&connections).push(ours.connection());
                server.attach(theirs).await.map_err(io::Error::other)?;
                Ok(ours)
            }
        };
        let made = Arc::new(Mutex::new(0));
        let count = made.clone();
        let client = Client::builder()
            .connector(connector)
            .clock(self.clock())
            .seed(rng.u64(..))
            .connect_timeout(Duration::from_secs(1))
            .answer_timeout(Some(Duration::from_secs(rng.u64(2..20))))
            .on_connection(move |state| {
                *lock(&count) += u64::from(matches!(state, ConnectionState::Connected { .. }));
            })
            .build();
        (client, made)
    }

    /// Some lives of the server, of which the last one ends when all is done.
    async fn serve(&self, lives: usize) {
        let mut store = Ordered::default();
        for life in 0..lives {
            let builder = Server::builder().clock(self.clock()).store(store);
            let server = builder.build();
            let handle = server.handle();
            let shut_down = async {
                match life + 1 < lives {
                    true => self.pause(4000).await,
                    false => self.finish(&handle).await,
                }
                *lock(&self.handle) = None;
                let grace = self.world.random(|rng| rng.u64(..100));
                handle.shutdown(Duration::from_millis(grace)).await;
            };
            *lock(&self.handle) = Some(handle.clone());
            (store, ()) = future::zip(server.run(), shut_down).await;
            self.pause(1000).await;
        }
        *self.store.borrow_mut() = Some(store);
    }

    /// Waits for those that write, and then writes what those that read wait for.
    async fn finish(&self, handle: &Handle) {
        while self.writers.get() > 0 {
            self.pause(500).await;
        }
        // What is still under way on connections that their clients have left.
        self.world.sleep(Duration::from_secs(60)).await;
        let client = handle.client().await.unwrap();
        let mirrored = format!("{MIRRORED}end");
        client.set(&mirrored, "").await.unwrap();
        client.set(format!("{MIRRORED}0"), "last").await.unwrap();
        while self.readers.get() > 0 {
            client.put("end", "").await.unwrap();
            self.pause(500).await;
        }
    }

    /// Breaks connections, as long as there is something to break.
    async fn cut(&self, mut rng: Rng) {
        for _ in 0..rng.usize(..30) {
            self.pause(600).await;
            let connections = lock(&self.connections).split_off(0);
            if self.writers.get() == 0 {
                break;
            }
            for connection in connections {
                match rng.bool() {
                    true => connection.reset(),
                    false => lock(&self.connections).push(connection),
                }
            }
        }
        lock(&self.connections).clear();
    }

    async fn pause(&self, most: u64) {
        let time = self.world.random(|rng| rng.u64(..most));
        self.world.sleep(Duration::from_millis(time)).await;
    }

    async fn write(&self, client: Client, number: usize, calls: usize, mut rng: Rng) {
        for count in 0..rng.usize(..calls) {
            let key = rng.usize(..KEYS);
            let value = format!("{number}.{count}").into_bytes();
            let patience = match rng.u8(..5) {
                0 => 300,
                _ => u64::from(u32::MAX),
            };
            let over = async {
                let time = self.world.random(|rng| rng.u64(..patience));
                // Nobody sleeps for longer than a run.
                match patience {
                    300 => self.world.sleep(Duration::from_millis(time)).await,
                    _ => future::pending().await,
                }
            };
            let call = async {
                match rng.u8(..8) {
                    0..=2 => self.put(&client, key, value).await,
                    3 => self.pipeline(&client, key, value).await,
                    4..=5 => self.get(&client, key).await,
                    _ => self.change(&client, value).await,
                }
            };
            future::or(call, over).await;
            self.pause(300).await;
        }
        drop(client);
        self.writers.set(self.writers.get() - 1);
    }

    fn begin(&self, key: usize, value: &[u8]) -> usize {
        let mut puts = self.puts.borrow_mut();
        puts.push(Put {
            key,
            value: value.to_vec(),
            fate: Fate::Open,
        });
        puts.len() - 1
    }

    fn end<T>(&self, put: usize, outcome: &Result<T, keywire::Error>) {
        self.puts.borrow_mut()[put].fate = match outcome {
            Ok(_) => Fate::Applied(self.world.moment()),
            Err(error) if error.may_be_applied() => Fate::InDoubt,
            Err(_) => Fate::NotApplied,
        };
    }

    async fn put(&self, client: &Client, key: usize, value: Vec<u8>) {
        let put = self.begin(key, &value);
        let outcome = client.put(name(key), value).await;
        self.end(put, &outcome);
    }

    async fn pipeline(&self, client: &Client, key: usize, value: Vec<u8>) {
        let other = [&value[..], b"x"].concat();
        let asked = self.world.moment();
        let puts = [self.begin(key, &value), self.begin(key, &other)];
        let pipeline = client.pipeline().put(name(key), value).get(name(key));
        match pipeline.put(name(key), other).send().await {
            Ok(outcomes) => {
                self.end(puts[0], &outcomes[0]);
                self.end(puts[1], &outcomes[2]);
                if let Ok(outcome) = &outcomes[1] {
                    let values = outcome.values().expect("a read has values").to_vec();
                    self.reads.borrow_mut().push(Read { key, asked, values });
                }
            }
            Err(error) => puts
                .iter()
                .for_each(|&put| self.end(put, &Err::<(), _>(error_of(&error)))),
        }
    }

    async fn get(&self, client: &Client, key: usize) {
        let asked = self.world.moment();
        if let Ok(values) = client.get(name(key)).await {
            self.reads.borrow_mut().push(Read { key, asked, values });
        }
    }

    /// Changes what is mirrored.
    async fn change(&self, client: &Client, value: Vec<u8>) {
        let (kind, key) = self.world.random(|rng| (rng.u8(..5), rng.u8(..3)));
        let key = format!("{MIRRORED}{key}");
        let repeating = client.with_repeated_writes();
        let _ = match kind {
            0 => client.put(key, value).await,
            1 => client.set(key, value).await,
            2 => client.delete(key).await,
            3 => repeating.set(key, value).await,
            _ => client.update(key, "old", value).await,
        };
    }

    /// Watches until the end is told.
    async fn watch(&self, client: Client, made: Arc<Mutex<u64>>) -> Vec<Event> {
        let mut watcher = loop {
            match client.watch_prefix("").await {
                Ok(watcher) => break watcher,
                Err(_) => self.pause(100).await,
            }
        };
        let mut events = Vec::new();
        loop {
            let event = watcher.next().await.unwrap().unwrap();
            let ends = event.key() == Some(b"end");
            events.push(event);
            if ends {
                break;
            }
            if self.world.once_in(10) {
                self.pause(1000).await;
            }
        }
        let missed = events
            .iter()
            .filter(|event| matches!(event, Event::Missed(_)));
        let (missed, made) = (missed.count() as u64, *lock(&made));
        assert!(missed < made, "{missed} gaps, {made} connections");
        drop(watcher);
        drop(client);
        self.readers.set(self.readers.get() - 1);
        events
    }

    /// Mirrors one key until it has its last value.
    async fn mirror_key(&self, client: Client) {
        let key = format!("{MIRRORED}0");
        let mut mirror = loop {
            match client.mirror(&key).await {
                Ok(mirror) => break mirror,
                Err(_) => self.pause(100).await,
            }
        };
        while mirror.get(&key) != [b"last"] {
            let patience = self.pause(2000);
            let change = async { drop(mirror.changed().await) };
            future::or(change, patience).await;
        }
        drop(mirror);
        drop(client);
        self.readers.set(self.readers.get() - 1);
    }

    async fn mirror(&self, client: Client) -> Snapshot {
        let mut mirror = loop {
            match client.mirror_prefix(MIRRORED).await {
                Ok(mirror) => break mirror,
                Err(_) => self.pause(100).await,
            }
        };
        let end = format!("{MIRRORED}end");
        let last = format!("{MIRRORED}0");
        while mirror.get(&end).is_empty() || mirror.get(&last) != [b"last"] {
            let patience = self.pause(2000);
            let change = async { drop(mirror.changed().await) };
            future::or(change, patience).await;
        }
        let entries = mirror.iter();
        let held = entries.map(|(key, values)| (key.to_vec(), values.to_vec()));
        let held = held.collect();
        drop(mirror);
        drop(client);
        self.readers.set(self.readers.get() - 1);
        held
    }
}

fn name(key: usize) -> String {
    format!("k{key}")
}

/// One that says the same of what may be applied.
fn error_of(error: &keywire::Error) -> keywire::Error {
    match error.may_be_applied() {
        true => keywire::Error::TimedOut,
        false => keywire::Error::Closed,
    }
}

pub(crate) fn run(seed: u64) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let world = World::new(rng.u64(..));
    let run = Rc::new(Run {
        world: world.clone(),
        handle: Arc::default(),
        connections: Arc::default(),
        puts: RefCell::default(),
        reads: RefCell::default(),
        writers: Cell::new(CLIENTS * TASKS),
        readers: Cell::new(CLIENTS * 3),
        store: RefCell::default(),
    });
    let heard = Rc::new(RefCell::new(Vec::new()));
    let mirrors = Rc::new(RefCell::new(Vec::new()));
    let mut tasks: Vec<Work> = Vec::new();
    let lives = rng.usize(1..5);
    let (server, cutter, cuts) = (run.clone(), run.clone(), rng.fork());
    tasks.push(Box::pin(async move { server.serve(lives).await }));
    tasks.push(Box::pin(async move { cutter.cut(cuts).await }));
    for _ in 0..CLIENTS {
        let capacity = rng.usize(1..2000);
        let calls = match capacity {
            ..NARROW => NARROW_CALLS,
            _ => CALLS,
        };
        let (client, made) = run.client(capacity, &mut rng);
        for _ in 0..TASKS {
            let (run, client, rng, number) = (run.clone(), client.clone(), rng.fork(), tasks.len());
            tasks.push(Box::pin(async move {
                run.write(client, number, calls, rng).await
            }));
        }
        let (watching, watcher, heard) = (run.clone(), client.clone(), heard.clone());
        tasks.push(Box::pin(async move {
            let events = watching.watch(watcher, made).await;
            heard.borrow_mut().push(events);
        }));
        let (following, follower) = (run.clone(), client.clone());
        tasks.push(Box::pin(
            async move { following.mirror_key(follower).await },
        ));
        let (run, mirrors) = (run.clone(), mirrors.clone());
        tasks.push(Box::pin(async move {
            let held = run.mirror(client).await;
            mirrors.borrow_mut().push(held);
        }));
    }
    world.run(tasks, || {});
    run.check(&heard.borrow(), &mirrors.borrow());
    world.trace()
}
