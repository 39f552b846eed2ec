//! Walks and snapshots of a prefix, against a real server.

use std::{
    collections::{BTreeMap, HashMap},
    thread,
};

use futures_lite::{StreamExt as _, future};
use keywire::{Client, Error, Event, Server, Snapshot};

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
#[ignore = "KEYWIRE-TODO-RUN: needs a server that answers GetPrefix and Keys"]
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
#[ignore = "KEYWIRE-TODO-RUN: needs a server that answers GetPrefix and Keys"]
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
#[ignore = "KEYWIRE-TODO-RUN: needs a server that answers GetPrefix and Keys"]
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

/// Replaying events on a snapshot gives what is there, while others write all over the prefix.
#[test]
#[ignore = "KEYWIRE-TODO-RUN: needs a server that answers GetPrefix and Keys"]
fn a_snapshot_and_its_events_are_the_state_of_the_store() {
    const WRITERS: u64 = 3;
    const WRITES: usize = 20_000;
    let server = TestServer::start(Server::new());
    future::block_on(async {
        fill(&connect(&server).await, 5_000).await;
    });
    let address = server.address;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            thread::spawn(move || {
                let mut random = fastrand::Rng::with_seed(writer);
                future::block_on(async {
                    let client = Client::connect(address).await.unwrap();
                    for _ in 0..WRITES / 100 {
                        let mut pipeline = client.pipeline();
                        for _ in 0..100 {
                            let key = format!("key{}", random.u32(..10_000));
                            let (value, old) = (random.u8(..4), random.u8(..4).to_string());
                            let value = value.to_string();
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
                    client.put(format!("key.end{writer}"), "1").await.unwrap();
                });
            })
        })
        .collect();
    future::block_on(async {
        let client = connect(&server).await;
        let mut snapshots = Vec::new();
        for _ in 0..5 {
            match client.get_and_watch_prefix("key").await {
                Ok(read) => snapshots.push(read),
                Err(Error::ChangesMissed { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        let ended = |kept: &Snapshot| {
            let ends = kept.keys().filter(|key| key.starts_with(b"key.end"));
            ends.count() as u64 == WRITERS
        };
        let mut replayed = Vec::new();
        for (mut kept, mut watcher) in snapshots {
            // A watcher of several that share a connection may miss some.
            let mut missed = false;
            while !missed && !ended(&kept) {
                let event = watcher.next().await.unwrap().unwrap();
                missed = matches!(event, Event::Missed(_));
                if !missed {
                    event.apply_to(&mut kept).unwrap();
                }
            }
            replayed.extend((!missed).then_some(kept));
        }
        writers
            .into_iter()
            .for_each(|writer| writer.join().unwrap());
        // The last of the writers has ended, and so has every change.
        let (last, _watcher) = client.get_and_watch_prefix("key").await.unwrap();
        let stored: Snapshot = client.get_prefix("key").try_collect().await.unwrap();
        assert_eq!(last, stored);
        for kept in replayed {
            assert!(kept == stored, "a replay differs from the store");
        }
    });
}
