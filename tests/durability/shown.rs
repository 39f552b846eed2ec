//! What a client is shown while a commit is under way, and when one fails.

use std::{cell::RefCell, collections::BTreeSet, future::Future, rc::Rc, time::Duration};

use fastrand::Rng;
use futures_lite::StreamExt as _;
use keywire::{
    Client, Error, Handle, Server,
    protocol::Code,
    store::{
        Disk,
        disk::{DiskBuilder, FileName, Sync},
    },
};

use crate::{
    storage::Medium,
    world::{Tasks, Time},
};

/// Enough for what does not wait for the disk.
const STEPS: u32 = 2_000;

/// A server over a storage in memory.
struct World {
    tasks: Tasks,
    time: Time,
    medium: Medium,
    rng: Rng,
    handle: Handle,
}

/// What a task gives once it is done.
type Given<T> = Rc<RefCell<Option<T>>>;

impl World {
    fn start(seed: u64) -> Self {
        Self::with(seed, Disk::builder())
    }

    fn with(seed: u64, disk: DiskBuilder) -> Self {
        let mut rng = Rng::with_seed(seed);
        let (tasks, time, medium) = (Tasks::default(), Time::new(), Medium::default());
        let opened = Given::default();
        let (given, storage) = (opened.clone(), medium.open(rng.fork(), u64::MAX));
        tasks.spawn(async move {
            let disk = disk.open_storage(storage).await.unwrap();
            given.replace(Some(disk));
        });
        tasks.run(&mut rng, &time, || opened.borrow().is_some());
        let disk = opened.take().unwrap();
        let server = Server::builder().clock(time.clone()).store(disk).build();
        let handle = server.handle();
        tasks.spawn(async {
            server.run().await;
        });
        Self {
            tasks,
            time,
            medium,
            rng,
            handle,
        }
    }

    fn begin<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> Given<T> {
        let given = Given::default();
        let result = given.clone();
        self.tasks.spawn(async move {
            let value = task.await;
            result.replace(Some(value));
        });
        given
    }

    fn finish<T: 'static>(&mut self, task: impl Future<Output = T> + 'static) -> T {
        let given = self.begin(task);
        self.await_given(&given)
    }

    fn await_given<T>(&mut self, given: &Given<T>) -> T {
        let done = || given.borrow().is_some();
        assert!(
            self.tasks.run(&mut self.rng, &self.time, done),
            "it does not end"
        );
        given.take().unwrap()
    }

    /// Lets everything happen that does not wait.
    fn steps(&mut self, steps: u32) {
        let mut step = 0;
        self.tasks.run(&mut self.rng, &self.time, || {
            step += 1;
            step > steps
        });
    }

    fn client(&mut self) -> Rc<Client> {
        let handle = self.handle.clone();
        Rc::new(self.finish(async move { handle.client().await.unwrap() }))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.clear();
    }
}

async fn keys(client: Rc<Client>, values: bool) -> Result<Vec<Vec<u8>>, Error> {
    let mut keys = Vec::new();
    if values {
        let mut walk = client.get_prefix("");
        while let Some(next) = walk.next().await {
            keys.push(next?.0);
        }
    } else {
        let mut walk = client.keys("");
        while let Some(next) = walk.next().await {
            keys.push(next?.0);
        }
    }
    Ok(keys)
}

/// Holds up a write, and sees that this is not answered before the write is on the disk.
#[track_caller]
fn waits<T: 'static, F: Future<Output = T> + 'static>(
    write: &[u8],
    read: impl Fn(Rc<Client>) -> F,
    check: impl Fn(T),
) {
    let mut world = World::start(1);
    let (writer, reader, other) = (world.client(), world.client(), world.client());
    let first = writer.clone();
    world.finish(async move { first.put("a", "1").await.unwrap() });
    world.medium.hold(true);
    let write = write.to_vec();
    let written = world.begin(async move {
        match &write[..] {
            b"put" => writer.put("b", "2").await.unwrap(),
            _ => writer.delete("a").await.unwrap(),
        }
    });
    world.steps(STEPS);
    let given = world.begin(read(reader));
    // What is on the disk is read at once.
    let durable = world.finish(async move { other.get("c").await.unwrap() });
    assert!(durable.is_empty());
    world.steps(STEPS);
    assert!(written.borrow().is_none(), "the write is answered");
    assert!(
        given.borrow().is_none(),
        "it shows what a crash could take back"
    );
    world.medium.hold(false);
    world.await_given(&written);
    check(world.await_given(&given));
}

#[test]
fn a_get_waits_for_what_it_shows() {
    let get = |key: &'static str| move |client: Rc<Client>| async move { client.get(key).await };
    waits(b"put", get("b"), |values| {
        assert_eq!(values.unwrap(), [b"2"])
    });
    waits(b"delete", get("a"), |values| {
        assert!(values.unwrap().is_empty())
    });
}

#[test]
fn a_walk_waits_for_what_it_shows() {
    for values in [false, true] {
        let walk = |client| keys(client, values);
        waits(b"put", walk, |keys| assert_eq!(keys.unwrap().len(), 2));
        waits(b"delete", walk, |keys| assert!(keys.unwrap().is_empty()));
    }
}

#[test]
fn an_event_waits_for_its_commit() {
    let mut world = World::start(1);
    let (writer, watcher) = (world.client(), world.client());
    let events = world.finish(async move { watcher.watch("a").await.unwrap() });
    world.medium.hold(true);
    let written = world.begin(async move { writer.put("a", "1").await.unwrap() });
    let told = world.begin(async move { { events }.next().await });
    world.steps(STEPS);
    assert!(told.borrow().is_none(), "it was told too early");
    world.medium.hold(false);
    world.await_given(&written);
    world.await_given(&told).unwrap().unwrap();
}

#[test]
fn a_commit_that_is_taken_back_has_failed_and_another_is_unconfirmed() {
    for stays in [false, true] {
        fail_a_commit(stays);
    }
}

fn has_failed<T>(result: &Result<T, Error>) -> bool {
    let code = Code::Store;
    matches!(result, Err(Error::Refused { code: it, .. }) if *it == code)
}

fn fail_a_commit(stays: bool) {
    let mut world = World::start(1);
    let (first, second, reader) = (world.client(), world.client(), world.client());
    let client = first.clone();
    world.finish(async move { client.put("a", "1").await.unwrap() });
    world.medium.hold(true);
    let client = first.clone();
    let failed = world.begin(async move { client.put("a", "2").await });
    world.steps(STEPS);
    // It is gathered while the other one is under way.
    let client = second.clone();
    let gathered = world.begin(async move { client.put("b", "1").await });
    let client = reader.clone();
    let reads = world.begin(async move { client.get("a").await });
    world.steps(STEPS);
    assert!(reads.borrow().is_none() && gathered.borrow().is_none());
    world.medium.fail_held(stays);
    world.medium.hold(false);
    let result = world.await_given(&failed);
    let code = Code::Unconfirmed;
    let unconfirmed = matches!(&result, Err(Error::Unconfirmed { code: it, .. }) if *it == code);
    assert!(
        if stays {
            unconfirmed
        } else {
            has_failed(&result)
        },
        "{result:?}"
    );
    let result = world.await_given(&gathered);
    assert!(has_failed(&result), "{result:?}");
    // It saw what is gone.
    assert!(world.await_given(&reads).is_err());
    let result = world.finish(async move { second.put("b", "2").await });
    assert!(has_failed(&result), "{result:?}");
    let values = world.finish(async move { (reader.get("a").await, reader.get("b").await) });
    assert_eq!(
        (values.0.unwrap(), values.1.unwrap()),
        (vec![b"1".to_vec()], vec![])
    );
    let stats = world.finish(async move { first.stats().await.unwrap() });
    assert_eq!((stats.refusing, stats.keys), (1, 1));
}

/// Damage that is found when the values are read anew is not taken for the end of the log.
#[test]
fn damage_is_not_hidden_when_the_values_are_read_anew() {
    let mut world = World::start(1);
    let (writer, reader) = (world.client(), world.client());
    let client = writer.clone();
    world.finish(async move {
        client.put("a", "1").await.unwrap();
        client.put("b", "1").await.unwrap();
    });
    // Within the first record.
    world.medium.flip(FileName::Log(0), 40);
    world.medium.hold(true);
    let failed = world.begin(async move { writer.put("b", "2").await });
    world.steps(STEPS);
    world.medium.fail_held(false);
    world.medium.hold(false);
    let result = world.await_given(&failed);
    assert!(has_failed(&result), "{result:?}");
    let values = world.finish(async move { reader.get("b").await });
    assert!(has_failed(&values), "{values:?}");
}

/// The time of a write begins when it is applied, not when the commit before it is over.
#[test]
fn a_write_is_on_the_disk_in_time_also_after_a_slow_commit() {
    const WITHIN: Duration = Duration::from_secs(1);
    let mut world = World::with(1, Disk::builder().sync(Sync::Within(WITHIN)));
    let client = world.client();
    world.medium.hold(true);
    for key in ["a", "b"] {
        let client = client.clone();
        world.finish(async move { client.put(key, "1").await.unwrap() });
        // The first one's commit is begun, and it is held up while that of the second one becomes due.
        let time = world.time.clone();
        let passed = world.begin(async move { time.pass(WITHIN).await });
        world.steps(STEPS);
        world.time.advance();
        world.steps(STEPS);
        assert!(passed.borrow().is_some());
    }
    world.medium.hold(false);
    // The server is always busy here, so no time passes.
    let mut commits = 0;
    for _ in 0..STEPS {
        let client = client.clone();
        let stats = world.finish(async move { client.stats().await.unwrap() });
        commits = stats.commits;
        if commits == 2 {
            break;
        }
    }
    assert_eq!(commits, 2);
    // The first one was held up, by the clock of the server.
    let times = world.handle.histograms().commit.unwrap();
    assert_eq!(times.count(), 2);
    assert!(times.sum() >= WITHIN.as_secs_f64(), "{times:?}");
    let bounds = times.buckets().filter(|&(_, count)| count > 0);
    let bounds: Vec<_> = bounds.map(|(bound, _)| bound).collect();
    assert!(bounds.iter().any(|&bound| bound >= 1.0), "{bounds:?}");
}

#[test]
fn a_walk_goes_on_when_the_values_are_read_anew() {
    const KEYS: usize = 9_000;
    let mut ended = 0;
    for steps in (0..1_000).step_by(50) {
        let mut world = World::start(steps);
        let (writer, reader) = (world.client(), world.client());
        let client = writer.clone();
        world.finish(async move {
            let mut pipeline = client.pipeline();
            for key in 0..KEYS {
                pipeline = pipeline.put(format!("{key}"), "1");
            }
            pipeline.send().await.unwrap();
        });
        let walk = world.begin(keys(reader, false));
        world.steps(steps as u32);
        world.medium.fail();
        let written = world.begin(async move { writer.put("more", "1").await });
        assert!(world.await_given(&written).is_err());
        if let Ok(keys) = world.await_given(&walk) {
            ended += 1;
            let different: BTreeSet<_> = keys.iter().filter(|key| *key != b"more").collect();
            assert_eq!((keys.len(), different.len()), (KEYS, KEYS), "{steps}");
        }
    }
    assert!(ended > 0);
}
