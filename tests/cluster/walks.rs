//! Walks over keys of all nodes, against a model.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use futures_lite::{StreamExt as _, future};
use keywire::Client;

use crate::{
    common::wait_until,
    linear::List,
    nodes::{Nodes, Setup, exclusive, shared},
    resharding::Move,
    servers::{bucket, client, keys_by_master, server_with, slot, two_servers, within},
};

type Lists = BTreeMap<Vec<u8>, List>;

/// All keys of a walk, each once.
fn get_prefix(client: &Client, prefix: &[u8]) -> Lists {
    let walk = client.get_prefix(prefix).try_collect::<_, _, Vec<_>>();
    let found: Vec<_> = future::block_on(walk).unwrap();
    let keys = found.len();
    let lists = Lists::from_iter(found);
    assert_eq!(lists.len(), keys, "a key came twice");
    lists
}

fn keys(client: &Client, prefix: &[u8]) -> BTreeMap<Vec<u8>, u64> {
    let walk = client.keys(prefix).try_collect::<_, _, Vec<_>>();
    let found: Vec<_> = future::block_on(walk).unwrap();
    let keys = found.len();
    let counts = BTreeMap::from_iter(found);
    assert_eq!(counts.len(), keys, "a key came twice");
    counts
}

fn put_all(client: &Client, lists: &Lists) {
    for chunk in lists.iter().collect::<Vec<_>>().chunks(500) {
        let mut pipeline = client.pipeline();
        for (key, values) in chunk {
            for value in *values {
                pipeline = pipeline.put(key, value);
            }
        }
        let outcomes = future::block_on(pipeline.send()).unwrap();
        assert!(outcomes.iter().all(Result::is_ok));
    }
}

fn below(lists: &Lists, prefix: &[u8]) -> Lists {
    let found = lists.iter().filter(|(key, _)| key.starts_with(prefix));
    found
        .map(|(key, values)| (key.clone(), values.clone()))
        .collect()
}

/// Any bytes that a key may have, with those that mean something to Redis among them.
fn random_key(random: &mut fastrand::Rng) -> Vec<u8> {
    let length = match random.u8(..30) {
        0 => random.usize(1000..2000),
        _ => random.usize(1..8),
    };
    let byte = |random: &mut fastrand::Rng| match random.u8(..4) {
        0 => b"{}*?[]^\\#"[random.usize(..9)],
        1 => b"ab"[random.usize(..2)],
        _ => random.u8(..),
    };
    let bytes = std::iter::repeat_with(|| byte(random));
    let allowed = |byte: &u8| *byte != b':' && *byte != b'\n';
    bytes.filter(allowed).take(length).collect()
}

#[test]
fn walks_give_the_keys_of_all_nodes() {
    let _bound = within(60);
    let servers = two_servers(shared(), "walks:");
    let mut random = fastrand::Rng::with_seed(7);
    let mut lists = Lists::new();
    for _ in 0..2000 {
        let values = lists.entry(random_key(&mut random)).or_default();
        for _ in 0..random.usize(1..4) {
            let value = random_key(&mut random);
            values.push(if random.u8(..10) == 0 {
                Vec::new()
            } else {
                value
            });
        }
    }
    // A final CR belongs to the end of a line.
    for values in lists.values_mut() {
        values.retain(|value| value.last() != Some(&b'\r'));
    }
    lists.retain(|key, values| key.last() != Some(&b'\r') && !values.is_empty());
    put_all(&client(&servers[0]), &lists);
    for server in &servers {
        let client = client(server);
        let mut prefixes: Vec<Vec<u8>> = vec![b"".into(), b"a".into(), b"{".into(), b"*".into()];
        for key in lists.keys().step_by(lists.len() / 10) {
            prefixes.push(key.clone());
            prefixes.push(key[..key.len().div_ceil(2)].to_vec());
        }
        for prefix in prefixes {
            if prefix.last() == Some(&b'\r') {
                continue;
            }
            let expected = below(&lists, &prefix);
            assert_eq!(get_prefix(&client, &prefix), expected);
            let counts = expected
                .into_iter()
                .map(|(key, values)| (key, values.len() as u64));
            assert_eq!(keys(&client, &prefix), counts.collect());
        }
    }
}

/// More keys in one bucket than come at a time.
#[test]
fn a_bucket_with_many_keys_is_walked_whole() {
    let _bound = within(60);
    let servers = two_servers(shared(), "bucket:");
    let wanted = bucket(b"0");
    let names = (0..).map(|number: u32| number.to_string().into_bytes());
    let of_bucket = names.filter(|name| bucket(name) == wanted).take(2500);
    let lists: Lists = of_bucket.map(|name| (name, vec![b"v".to_vec()])).collect();
    put_all(&client(&servers[0]), &lists);
    assert_eq!(get_prefix(&client(&servers[1]), b""), lists);
    assert_eq!(get_prefix(&client(&servers[1]), b"1"), below(&lists, b"1"));
    assert_eq!(keys(&client(&servers[0]), b"").len(), lists.len());
}

/// Keys come and go during a walk: those that are there all the time come once, with their lists.
#[test]
fn keys_that_come_and_go_disturb_no_walk() {
    let _bound = within(60);
    let servers = two_servers(shared(), "churn:");
    let steady = (0..500).map(|number| (format!("s{number}").into_bytes(), vec![b"v".to_vec(); 3]));
    let steady = Lists::from_iter(steady);
    put_all(&client(&servers[0]), &steady);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for (number, server) in servers.iter().enumerate() {
            let (client, done) = (client(server), &done);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(number as u64);
                while !done.load(Ordering::Relaxed) {
                    let key = format!("c{}", random.u8(..));
                    future::block_on(async {
                        match random.bool() {
                            true => client.set(&key, "v").await.unwrap(),
                            false => client.delete(&key).await.unwrap(),
                        }
                    });
                }
            });
        }
        for _ in 0..5 {
            for server in &servers {
                let found = get_prefix(&client(server), b"");
                assert_eq!(below(&found, b"s"), steady);
                let others = found.iter().filter(|(key, _)| !steady.contains_key(*key));
                let others: BTreeSet<_> =
                    others.map(|(key, values)| (key[0], values.len())).collect();
                assert!(others.is_subset(&BTreeSet::from([(b'c', 1)])), "{others:?}");
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// A list for each key, as every walk has to give it.
fn lists_of(groups: &[Vec<String>]) -> Lists {
    let keys = groups.iter().flatten();
    keys.map(|key| (key.clone().into_bytes(), vec![b"v".to_vec()]))
        .collect()
}

/// A walk asks each master. If one dies, it asks the replica that takes over.
#[test]
fn a_walk_goes_on_with_the_replica_of_a_master_that_dies() {
    let nodes = exclusive(Setup::default());
    let server = server_with(&nodes, "dies:", |builder| {
        builder.replicas(1).timeout(Duration::from_secs(30))
    });
    let lists = lists_of(&keys_by_master(&nodes, 100));
    put_all(&client(&server), &lists);
    for master in 0..2 {
        nodes.kill(master);
        assert_eq!(get_prefix(&client(&server), b""), lists);
        assert_eq!(keys(&client(&server), b"").len(), lists.len());
    }
    assert!(nodes.is_master(nodes.replica_of(0)));
}

/// Takes all slots from a master, and gives them to another.
fn empty(nodes: &Nodes, from: usize, to: usize) {
    let slots = |index: usize| 16384 * index / nodes.masters();
    let first = slots(from).to_string();
    let last = (slots(from + 1) - 1).to_string();
    for index in (0..nodes.len()).rev() {
        nodes.ask(index, ["CLUSTER", "DELSLOTSRANGE", &first, &last]);
    }
    wait_until("the slots are given away", || {
        let words = ["CLUSTER", "ADDSLOTSRANGE", &first, &last];
        nodes.connect(to).unwrap().ask(words).is_ok()
    });
    nodes.wait_ok();
}

/// Keys that have moved to a node which no server has been told of yet.
#[test]
fn a_walk_finds_keys_at_a_node_without_slots() {
    let nodes = exclusive(Setup {
        replicas: 0,
        ..Setup::default()
    });
    let lists = lists_of(&keys_by_master(&nodes, 30)[..1]);
    empty(&nodes, 2, 1);
    let servers = two_servers(&nodes, "empty:");
    put_all(&client(&servers[0]), &lists);
    let slots: BTreeSet<u16> = lists.keys().map(|key| slot(key)).collect();
    for slot in slots {
        let slot = Move {
            nodes: &nodes,
            slot,
            from: 0,
            to: 2,
        };
        slot.begin();
        slot.left().iter().for_each(|name| slot.migrate(name));
    }
    for server in &servers {
        assert_eq!(get_prefix(&client(server), b""), lists);
    }
}

/// Slots have moved to it, and nothing has told the servers so.
#[test]
fn a_walk_finds_keys_at_a_node_that_the_server_does_not_know() {
    let nodes = exclusive(Setup {
        replicas: 0,
        ..Setup::default()
    });
    let lists = lists_of(&keys_by_master(&nodes, 30)[..1]);
    empty(&nodes, 2, 1);
    let servers = two_servers(&nodes, "unknown:");
    put_all(&client(&servers[0]), &lists);
    let slots: BTreeSet<u16> = lists.keys().map(|key| slot(key)).collect();
    for slot in slots {
        let slot = Move {
            nodes: &nodes,
            slot,
            from: 0,
            to: 2,
        };
        slot.begin();
        slot.left().iter().for_each(|name| slot.migrate(name));
        slot.end();
    }
    // Neither has sent a command there since.
    for server in &servers {
        assert_eq!(get_prefix(&client(server), b""), lists);
    }
}
