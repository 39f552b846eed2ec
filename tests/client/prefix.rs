//! Walks and snapshots of a prefix, against a real server.

use std::{
    collections::{BTreeMap, HashMap},
    thread,
};

use futures_lite::{StreamExt as _, future};
use keywire::{Client, Error, Server, Snapshot};

use super::connect;
use crate::common::TestServer;

async fn fill(client: &Client, keys: usize) {
    let mut pipeline = client.pipeline();
    for key in 0..keys {
        pipeline = pipeline.put(format!("key{key}"), "1");
        if key % 2 == 0 {
            pipeline = pipeline.put(format!("key{key}"), "2:3");
        }
    }
    let outcomes = pipeline.send().await.unwrap();
    assert!(outcomes.iter().all(Result::is_ok));
}

#[test]
fn every_key_comes_once_with_its_values() {
    const KEYS: usize = 50_000;
    let server = TestServer::start(Server::new());
    future::block_on(async {
        let client = connect(&server).await;
        fill(&client, KEYS).await;
        client.put("other", "x").await.unwrap();
        let mut walk = client.get_prefix("key");
        let mut found = HashMap::new();
        while let Some(entry) = walk.next().await {
            let (key, values) = entry.unwrap();
            assert!(found.insert(key, values).is_none(), "a key came twice");
        }
        assert_eq!(found.len(), KEYS);
        assert_eq!(found[&b"key0"[..]], [&b"1"[..], b"2:3"]);
        assert_eq!(found[&b"key1"[..]], [b"1"]);

        let counts: BTreeMap<_, _> = client.keys("key").try_collect().await.unwrap();
        assert_eq!(counts.len(), KEYS);
        assert_eq!((counts[&b"key0"[..]], counts[&b"key1"[..]]), (2, 1));
        let all: BTreeMap<_, _> = client.keys("").try_collect().await.unwrap();
        assert_eq!(all.len(), KEYS + 1);
        assert!(client.keys("nobody").next().await.is_none());
    });
}

/// The server stops with the walk, as its client does, and goes on with it.
#[test]
fn a_walk_may_pause_and_be_dropped() {
    const KEYS: usize = 50_000;
    let server = Server::builder().overflow(keywire::Overflow::Wait).build();
    let server = TestServer::start(server);
    future::block_on(async {
        let (client, other) = (connect(&server).await, connect(&server).await);
        fill(&client, KEYS).await;
        let mut walk = client.get_prefix("");
        walk.next().await.unwrap().unwrap();
        // Nobody polls it meanwhile.
        for _ in 0..100 {
            other.set("other", "1").await.unwrap();
        }
        let rest: HashMap<_, _> = walk.try_collect().await.unwrap();
        assert!(rest.len() >= KEYS - 1);

        let mut walk = client.keys("");
        walk.next().await.unwrap().unwrap();
        drop(walk);
        assert_eq!(client.get("other").await.unwrap(), [b"1"]);
    });
}

#[test]
fn a_key_too_long_for_a_reply_ends_the_walk_and_not_the_connection() {
    let server = TestServer::start(Server::builder().max_reply(1000).build());
    future::block_on(async {
        let client = connect(&server).await;
        for _ in 0..20 {
            client.put("k", "x".repeat(100)).await.unwrap();
        }
        let error = client.get_prefix("k").next().await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        assert_eq!(client.keys("k").next().await.unwrap().unwrap().1, 20);
    });
}

const WRITERS: u64 = 3;

/// Writes all over the prefix `key`, and says in the end that it has ended.
async fn write_at_random(client: Client, writer: u64) {
    let mut random = fastrand::Rng::with_seed(writer);
    for _ in 0..200 {
        let mut pipeline = client.pipeline();
        for _ in 0..100 {
            let key = format!("key{}", random.u32(..10_000));
            let (value, old) = (random.u8(..4).to_string(), random.u8(..4).to_string());
            pipeline = match random.u8(..5) {
                0 => pipeline.put(key, value),
                1 => pipeline.update(key, old, value),
                2 => pipeline.set(key, value),
                3 => pipeline.remove(key, value),
                _ => pipeline.delete(key),
            };
        }
        pipeline.send().await.unwrap();
    }
    client.put(end_of(writer), "1").await.unwrap();
}

fn end_of(writer: u64) -> String {
    format!("key.end{writer}")
}

/// Reads and watches the prefix, and applies what comes until every writer has ended. Gives the last
/// state, and how many events made it. Whatever is missed, it begins again.
async fn replay(client: Client) -> (Snapshot, usize) {
    'again: loop {
        let (mut kept, mut watcher) = match client.get_and_watch_prefix("key").await {
            Ok(read) => read,
            Err(Error::ChangesMissed { .. }) => continue,
            Err(error) => panic!("{error}"),
        };
        let mut events = 0;
        while !(0..WRITERS).all(|writer| kept.contains_key(end_of(writer).as_bytes())) {
            let event = watcher.next().await.unwrap().unwrap();
            if event.apply_to(&mut kept).is_err() {
                continue 'again;
            }
            events += 1;
        }
        return (kept, events);
    }
}

/// Replaying events on a snapshot gives what is there, while others write all over the prefix.
#[test]
fn a_snapshot_and_its_events_are_the_state_of_the_store() {
    let server = TestServer::start(Server::new());
    let client = future::block_on(connect(&server));
    future::block_on(fill(&client, 5_000));
    let replayed: Vec<_> = thread::scope(|scope| {
        let connect = || future::block_on(connect(&server));
        for writer in 0..WRITERS {
            let client = connect();
            scope.spawn(move || future::block_on(write_at_random(client, writer)));
        }
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let client = connect();
                scope.spawn(|| future::block_on(replay(client)))
            })
            .collect();
        let replayed = readers.into_iter().map(|reader| reader.join().unwrap());
        replayed.collect()
    });
    let stored: Snapshot = future::block_on(client.get_prefix("key").try_collect()).unwrap();
    for (kept, events) in replayed {
        assert!(kept == stored, "a replay of {events} events differs");
    }
}
