//! Watchers on several servers are told of every change, whichever server made it: what they replay is what
//! the store has.

use std::{
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use async_channel::Sender;
use futures_lite::{StreamExt as _, future};
use keywire::{Client, Error, Event, Snapshot, Watcher};

use crate::{
    common::wait_until,
    load::Load,
    nodes::{Setup, exclusive, shared},
    resharding::{MOVED, exchange},
    servers::{ClusterServer, client, keys_by_master, server, two_servers, within},
};

/// A client that keeps a copy of what is under a prefix, or of one key, by what it is told.
pub(crate) struct Replica {
    state: Arc<Mutex<Told>>,
    _stop: Sender<()>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Told {
    snapshot: Snapshot,
    is_read: bool,
    /// Times that it had to begin anew.
    missed: usize,
}

async fn read(client: &Client, name: &str, is_prefix: bool) -> Result<(Snapshot, Watcher), Error> {
    if is_prefix {
        return client.get_and_watch_prefix(name).await;
    }
    let (values, watcher) = client.get_and_watch(name).await?;
    let mut snapshot = Snapshot::new();
    if !values.is_empty() {
        snapshot.insert(name.into(), values);
    }
    Ok((snapshot, watcher))
}

async fn replay(client: &Client, name: &str, is_prefix: bool, state: &Mutex<Told>) {
    loop {
        state.lock().unwrap().is_read = false;
        let mut watcher = match read(client, name, is_prefix).await {
            Ok((snapshot, watcher)) => {
                let mut state = state.lock().unwrap();
                state.snapshot = snapshot;
                state.is_read = true;
                watcher
            }
            Err(Error::Refused { .. } | Error::ChangesMissed { .. }) => continue,
            Err(error) => panic!("{error:?}"),
        };
        while let Some(event) = watcher.next().await {
            let event = event.unwrap();
            let mut state = state.lock().unwrap();
            if matches!(event, Event::Missed(_)) {
                state.missed += 1;
                break;
            }
            event.apply_to(&mut state.snapshot).unwrap();
        }
    }
}

impl Replica {
    pub(crate) fn start(server: &ClusterServer, name: &str, is_prefix: bool) -> Self {
        let state = Arc::<Mutex<Told>>::default();
        let (stop, stopped) = async_channel::bounded::<()>(1);
        let (client, name, told) = (client(server), name.to_owned(), state.clone());
        let thread = thread::spawn(move || {
            future::block_on(future::or(
                replay(&client, &name, is_prefix, &told),
                async {
                    let _ = stopped.recv().await;
                },
            ));
        });
        let replica = Self {
            state,
            _stop: stop,
            thread,
        };
        wait_until("it is read", || replica.state.lock().unwrap().is_read);
        replica
    }

    /// Waits until it has what the store has, and gives how often it missed something.
    pub(crate) fn await_equal(&self, expected: &Snapshot) -> usize {
        wait_until("the replica has what the store has", || {
            assert!(!self.thread.is_finished(), "it has failed");
            let state = self.state.lock().unwrap();
            state.is_read && state.snapshot == *expected
        });
        self.state.lock().unwrap().missed
    }
}

/// What the store has of these keys.
pub(crate) fn stored(server: &ClusterServer, groups: &[Vec<String>]) -> Snapshot {
    let lists = crate::load::lists(server, groups).into_iter();
    lists
        .filter(|(_, list)| !list.is_empty())
        .map(|(key, list)| (key.into_bytes(), list))
        .collect()
}

/// Replicas of all keys and of one key of each group, on each server.
struct Replicas(Vec<(Replica, Option<String>)>);

impl Replicas {
    fn start(servers: &[ClusterServer], groups: &[Vec<String>]) -> Self {
        let mut replicas = Vec::new();
        for server in servers {
            replicas.push((Replica::start(server, "", true), None));
            for keys in groups {
                let key = keys[0].clone();
                replicas.push((Replica::start(server, &key, false), Some(key)));
            }
        }
        Self(replicas)
    }

    /// How often anything was missed.
    fn check(self, server: &ClusterServer, groups: &[Vec<String>]) -> usize {
        let all = stored(server, groups);
        let missed = self.0.iter().map(|(replica, key)| match key {
            None => replica.await_equal(&all),
            Some(key) => {
                let mut one = all.clone();
                one.retain(|name, _| name == key.as_bytes());
                replica.await_equal(&one)
            }
        });
        missed.sum()
    }
}

#[test]
fn watchers_on_two_servers_replay_to_what_the_store_has() {
    let _bound = within(60);
    let nodes = shared();
    let groups = keys_by_master(nodes, 8);
    let servers = two_servers(nodes, "watch:");
    let load = Load::start_deep(&servers, &groups, 4);
    load.await_applied(&[0, 1, 2], 20);
    let replicas = Replicas::start(&servers, &groups);
    load.await_applied(&[0, 1, 2], 400);
    load.finish();
    let missed = replicas.check(&servers[0], &groups);
    assert_eq!(missed, 0, "nothing was lost, so nothing is missed");
}

/// Commands of all kinds, from clients of both servers on the same keys.
#[test]
fn every_kind_of_change_is_told_once() {
    let _bound = within(60);
    let servers = two_servers(shared(), "kinds:");
    let groups = [(0..6)
        .map(|number| format!("k{number}"))
        .collect::<Vec<_>>()];
    let replicas = Replicas::start(&servers, &groups);
    thread::scope(|scope| {
        for number in 0..4 {
            let (client, keys) = (client(&servers[number % 2]), &groups[0]);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(number as u64);
                for _ in 0..300 {
                    let key = &keys[random.usize(..keys.len())];
                    let (old, new) = (random.u8(..4).to_string(), random.u8(..4).to_string());
                    future::block_on(async {
                        match random.u8(..10) {
                            0..4 => client.put(key, &new).await,
                            4..6 => client.update(key, &old, &new).await,
                            6 => client.set(key, &new).await,
                            7..9 => client.remove(key, &old).await,
                            _ => client.delete(key).await,
                        }
                    })
                    .unwrap();
                }
            });
        }
    });
    assert_eq!(replicas.check(&servers[1], &groups), 0);
}

/// A client is told of what it writes itself, before its write is confirmed, and by the other server too.
#[test]
fn own_writes_are_told() {
    let _bound = within(30);
    let servers = two_servers(shared(), "own:");
    let [own, other] = [client(&servers[0]), client(&servers[1])];
    future::block_on(async {
        let mut told = own.watch("k").await.unwrap();
        let mut told_there = other.watch_prefix("k").await.unwrap();
        own.put("k", "1").await.unwrap();
        other.put("k", "2").await.unwrap();
        own.delete("k").await.unwrap();
        for watcher in [&mut told, &mut told_there] {
            let put = |value: &str| Event::Put {
                key: "k".into(),
                value: value.into(),
            };
            assert_eq!(watcher.next().await.unwrap().unwrap(), put("1"));
            assert_eq!(watcher.next().await.unwrap().unwrap(), put("2"));
            let delete = Event::Delete { key: "k".into() };
            assert_eq!(watcher.next().await.unwrap().unwrap(), delete);
        }
    });
}

/// A client sends all at once. Each of its `Get`s shows the writes that it was told of before, and no other.
#[test]
fn own_writes_are_told_before_the_reads_behind_them() {
    let _bound = within(30);
    let server = server(shared(), "pipelined:");
    let mut lines = String::from("Watch:k\n");
    for number in 0..20 {
        lines += &format!("Get:k\nPut:k:{number}\nGet:k\nSet:k:{number}\n");
    }
    lines += "Get:k\nDelete:k\nSync:end\n";
    let mut client = server.connect();
    client.send(lines);
    let mut expected = vec![":watch:k".to_owned()];
    for number in 0..20 {
        let shown = (number > 0).then(|| format!("k:{}", number - 1));
        expected.extend(shown.clone());
        expected.push(format!(":put:k:{number}"));
        expected.extend(shown);
        expected.push(format!("k:{number}"));
        expected.push(format!(":set:k:{number}"));
    }
    expected.extend(["k:19", ":delete:k", ":sync:0:end"].map(String::from));
    assert_eq!(client.texts(expected.len()), expected);
}

/// One writer counts. What a client reads behind its Watch is followed by the next number, on either server,
/// however often it begins.
#[test]
fn a_read_holds_what_was_told_before_it_and_nothing_else() {
    let _bound = within(60);
    let servers = two_servers(shared(), "count:");
    let writer = client(&servers[0]);
    let (done, ended) = async_channel::bounded::<()>(1);
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut number = 0;
            while !ended.is_closed() {
                // Several at a time, so that changes are under way whenever a client reads.
                let mut pipeline = writer.pipeline();
                for _ in 0..8 {
                    pipeline = pipeline.set("k", number.to_string());
                    number += 1;
                }
                for outcome in future::block_on(pipeline.send()).unwrap() {
                    outcome.unwrap();
                }
            }
        });
        let readers: Vec<_> = (0..4)
            .map(|number| scope.spawn(count_on(client(&servers[number % 2]), number / 2 == 1)))
            .collect();
        let results: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
        // First, so that the writer ends in any case.
        drop(done);
        assert!(results.iter().all(Result::is_ok), "a reader has failed");
    });
}

fn count_on(client: Client, is_prefix: bool) -> impl FnOnce() + Send {
    move || {
        future::block_on(async {
            for _ in 0..if is_prefix { 8 } else { 60 } {
                let (snapshot, mut watcher) = read(&client, "k", is_prefix).await.unwrap();
                let mut last = snapshot.get(&b"k"[..]).map(|values| number(&values[0]));
                for _ in 0..20 {
                    let Event::Set { value, .. } = watcher.next().await.unwrap().unwrap() else {
                        panic!("there are only Sets, and none is missed");
                    };
                    assert!(last.is_none_or(|last| number(&value) == last + 1));
                    last = Some(number(&value));
                }
            }
        });
    }
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

#[test]
fn watchers_replay_through_a_failover() {
    let nodes = exclusive(Setup::default());
    let groups = keys_by_master(&nodes, 8);
    let servers = two_servers(&nodes, "watchover:");
    let load = Load::start(&servers, &groups);
    let replicas = Replicas::start(&servers, &groups);
    load.await_applied(&[0, 1, 2], 50);
    let heir = nodes.replica_of(0);
    nodes.kill(0);
    wait_until("the replica takes over", || nodes.is_master(heir));
    load.await_applied(&[0, 1, 2], 50);
    load.finish();
    let missed = replicas.check(&servers[0], &groups);
    assert!(missed > 0, "the history has changed");
}

/// Its connections stay, and bring nothing.
#[test]
fn watchers_replay_while_a_master_hangs() {
    let nodes = exclusive(Setup::default());
    let groups = keys_by_master(&nodes, 8);
    let servers = two_servers(&nodes, "watchhang:");
    let load = Load::start(&servers, &groups);
    let replicas = Replicas::start(&servers, &groups);
    load.await_applied(&[0, 1, 2], 50);
    let heir = nodes.replica_of(0);
    nodes.stop(0);
    wait_until("the replica takes over", || nodes.is_master(heir));
    load.await_applied(&[0, 1, 2], 50);
    load.finish();
    let missed = replicas.check(&servers[0], &groups);
    assert!(missed > 0, "the history has changed");
    nodes.resume(0);
}

#[test]
fn watchers_replay_while_slots_move() {
    let nodes = exclusive(Setup::default());
    let mut groups = keys_by_master(&nodes, 20);
    exchange(&mut groups[0][..10]);
    let servers = two_servers(&nodes, "watchmove:");
    let load = Load::start(&servers, &groups);
    let replicas = Replicas::start(&servers, &groups);
    load.await_applied(&[0, 1, 2], 50);
    nodes.reshard(0, 1, MOVED.into());
    load.await_applied(&[0, 1, 2], 50);
    load.finish();
    let missed = replicas.check(&servers[0], &groups);
    eprintln!("slots moved: {missed} times something was missed");
}
