//! One key has one history, for all clients of all servers.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use keywire::Client;

use crate::{
    linear::{List, Op},
    load::{Fate, Record, call_all, check_order},
    nodes::shared,
    servers::{ClusterServer, client, server_with, two_servers, within},
};

const KEYS: [&str; 3] = ["a", "b", "c"];

/// A random call on a key with few values, so that calls depend on one another.
fn random_op(random: &mut fastrand::Rng, fresh: &str) -> Op {
    let mut value = || match random.u8(..3) {
        0 => "x".into(),
        _ => fresh.as_bytes().to_vec(),
    };
    let (one, other) = (value(), value());
    match random.u8(..20) {
        0..4 => Op::Put(one),
        4..7 => Op::Update(b"x".to_vec(), other),
        7..9 => Op::Remove(b"x".to_vec()),
        9 => Op::Set(one),
        10 => Op::Delete,
        _ => Op::Get(List::new()),
    }
}

fn work(client: &Client, number: usize, calls: usize, seed: u64) -> Vec<Record> {
    let mut random = fastrand::Rng::with_seed(number as u64 + 100 * seed);
    let mut records = Vec::new();
    for count in 0..calls {
        let key = KEYS[random.usize(..KEYS.len())];
        let op = random_op(&mut random, &format!("{seed}.{number}.{count}"));
        let mut calls = [(key.to_owned(), op)];
        let begin = Instant::now();
        let fates = call_all(client, &mut calls);
        assert_eq!(fates, [Fate::Applied]);
        let [(key, op)] = calls;
        records.push(Record {
            group: 0,
            client: number,
            number: count,
            key,
            op,
            begin,
            end: Instant::now(),
            fate: Fate::Applied,
        });
    }
    records
}

/// The calls of eight clients at once, four of each server.
fn concurrent_calls(servers: &[ClusterServer; 2], calls: usize, seed: u64) -> Vec<Record> {
    let together = Barrier::new(8);
    thread::scope(|scope| {
        let clients = (0..8).map(|number| {
            let (client, together) = (client(&servers[number % 2]), &together);
            scope.spawn(move || {
                together.wait();
                work(&client, number, calls, seed)
            })
        });
        let clients: Vec<_> = clients.collect();
        let records = clients.into_iter().map(|client| client.join().unwrap());
        records.flatten().collect()
    })
}

#[test]
fn a_key_is_linearizable_through_two_servers() {
    let _bound = within(60);
    let servers = two_servers(shared(), "order:");
    check_order(&concurrent_calls(&servers, 250, 0));
}

/// With `replicas`, a node's reads have a connection of their own beside that of its writes.
#[test]
fn a_key_is_linearizable_where_reads_have_their_own_connection() {
    let _bound = within(60);
    let servers = [(); 2].map(|()| server_with(shared(), "reads:", |store| store.replicas(1)));
    check_order(&concurrent_calls(&servers, 250, 0));
}

/// The scripts are gone, as after `SCRIPT FLUSH`: they are loaded again, and no call fails for it.
#[test]
fn scripts_that_are_gone_are_loaded_again() {
    const CALLS: usize = 40;
    let _bound = within(60);
    let nodes = shared();
    let servers = two_servers(nodes, "noscript:");
    let mut records = Vec::new();
    for round in 0..10 {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let calls = scope.spawn(|| {
                let calls = catch_unwind(AssertUnwindSafe(|| {
                    concurrent_calls(&servers, CALLS, round)
                }));
                done.store(true, Ordering::Relaxed);
                calls.unwrap_or_else(|panic| resume_unwind(panic))
            });
            while !done.load(Ordering::Relaxed) {
                for index in 0..nodes.masters() {
                    nodes.ask(index, ["SCRIPT", "FLUSH"]);
                }
                // Most calls find the scripts.
                thread::sleep(Duration::from_millis(5));
            }
            records.extend(calls.join().unwrap());
        });
    }
    check_order(&records);
}

/// A client pipelines; each Get sees what stands before it, whatever the nodes of the keys.
#[test]
fn a_pipeline_is_answered_in_order() {
    let _bound = within(60);
    let servers = two_servers(shared(), "pipeline:");
    thread::scope(|scope| {
        for (number, server) in servers.iter().enumerate() {
            scope.spawn(move || {
                let mut client = server.connect();
                let mut lines = String::new();
                let mut expected = Vec::new();
                for count in 0..2000 {
                    let key = format!("{number}.{}", count % 50);
                    lines += &format!("Put:{key}:{count}\nSync:{count}\nGet:{key}\n");
                    expected.push(format!(":sync:0:{count}"));
                    let values = (count % 50..=count).step_by(50);
                    expected.extend(values.map(|value| format!("{key}:{value}")));
                }
                let stream = client.stream().try_clone().unwrap();
                thread::scope(|scope| {
                    scope.spawn(move || {
                        std::io::Write::write_all(&mut &stream, lines.as_bytes()).unwrap();
                    });
                    for expected in &expected {
                        assert_eq!(client.text(), *expected);
                    }
                });
            });
        }
    });
}
