//! Subscriptions: which there are, and what becomes of them when they are lost, when their slot moves, and
//! when the nodes want a secret.

use futures_lite::{StreamExt as _, future};
use keywire::{Event, Secret};

use crate::{
    common::wait_until,
    nodes::{Nodes, Setup, exclusive, shared},
    resharding::Move,
    servers::{ClusterServer, bucket, client, list_name, server_with, slot, two_servers, within},
    watchers::{Replica, stored},
};

/// The number of the last change says that nothing was missed while the subscription was lost; or that
/// something was.
#[test]
fn a_lost_subscription_misses_what_was_written_meanwhile() {
    let nodes = exclusive(Setup::default());
    let servers = two_servers(&nodes, "lost:");
    let clients = [client(&servers[0]), client(&servers[1])];
    let set = |value: &str| Event::Set {
        key: "k".into(),
        value: value.into(),
    };
    let owner = nodes.owner(slot(b"k"));
    let kill = || nodes.ask(owner, ["CLIENT", "KILL", "TYPE", "pubsub"]);
    future::block_on(async {
        let mut watcher = clients[0].watch("k").await.unwrap();
        clients[1].set("k", "1").await.unwrap();
        assert_eq!(watcher.next().await.unwrap().unwrap(), set("1"));
        assert_eq!(kill().integer(), 1);
        wait_until("it is subscribed again", || channels(&nodes, "lost:") == 1);
        // The number was asked for in the same write.
        clients[1].set("k", "2").await.unwrap();
        assert_eq!(watcher.next().await.unwrap().unwrap(), set("2"));
        assert_eq!(kill().integer(), 1);
        clients[1].set("k", "3").await.unwrap();
        let told = watcher.next().await.unwrap().unwrap();
        // Only if it was subscribed again before the write, was nothing missed.
        assert!(told == Event::Missed(0) || told == set("3"), "{told:?}");
        clients[0].set("k", "4").await.unwrap();
        assert_eq!(clients[0].get("k").await.unwrap(), [b"4"]);
    });
}

/// The channels of a prefix that any node has subscribers of.
fn channels(nodes: &Nodes, prefix: &str) -> usize {
    let pattern = format!("{prefix}*");
    let count = |index| {
        let channels = nodes.ask(index, ["PUBSUB", "SHARDCHANNELS", &pattern]);
        channels.array().len()
    };
    (0..nodes.len()).map(count).sum()
}

#[test]
fn only_what_is_watched_is_subscribed() {
    let _bound = within(30);
    let nodes = shared();
    let servers = two_servers(nodes, "unwatch:");
    let clients = [client(&servers[0]), client(&servers[0])];
    future::block_on(async {
        let of_key = clients[0].watch("k").await.unwrap();
        assert_eq!(channels(nodes, "unwatch:"), 1);
        let again = clients[1].watch("k").await.unwrap();
        let all = clients[1].watch_prefix("k").await.unwrap();
        assert_eq!(channels(nodes, "unwatch:"), 1024);
        drop(all);
        clients[1].put("k", "1").await.unwrap();
        wait_until("the prefix is unwatched", || {
            channels(nodes, "unwatch:") == 1
        });
        drop(of_key);
        clients[0].put("k", "2").await.unwrap();
        assert_eq!(channels(nodes, "unwatch:"), 1);
        drop(again);
        clients[1].put("k", "3").await.unwrap();
        wait_until("nothing is watched", || channels(nodes, "unwatch:") == 0);
        // And it can be again.
        let mut watcher = clients[0].watch("k").await.unwrap();
        clients[1].set("k", "4").await.unwrap();
        let set = Event::Set {
            key: "k".into(),
            value: "4".into(),
        };
        assert_eq!(watcher.next().await.unwrap().unwrap(), set);
    });
}

/// The subscriber says it on each of its connections, also if it has to connect anew.
#[test]
fn nodes_with_a_secret_are_subscribed_to() {
    const SECRET: &str = "open-sesame";
    let nodes = exclusive(Setup {
        secret: Some(SECRET),
        ..Setup::default()
    });
    let server = server_with(&nodes, "secret:", |store| {
        store.secret(Secret::new(SECRET).unwrap())
    });
    let client = client(&server);
    future::block_on(async {
        let mut watcher = client.watch_prefix("").await.unwrap();
        for round in 0..3 {
            for number in 0..10 {
                let (key, value) = (format!("k{number}"), round.to_string());
                client.set(&key, &value).await.unwrap();
                let told = watcher.next().await.unwrap().unwrap();
                let (key, value) = (key.into(), value.into());
                assert_eq!(told, Event::Set { key, value });
            }
            for index in 0..nodes.masters() {
                assert_eq!(
                    nodes
                        .ask(index, ["CLIENT", "KILL", "TYPE", "pubsub"])
                        .integer(),
                    1
                );
            }
            wait_until("all is subscribed again", || {
                channels(&nodes, "secret:") == 1024
            });
        }
    });
}

/// A slot stays half moved: of one bucket everything is at its new node, of another nothing. The changes of
/// both are told, once and in order.
#[test]
fn changes_on_both_sides_of_a_half_moved_slot_are_told() {
    let nodes = exclusive(Setup::default());
    let servers = two_servers(&nodes, "half:");
    let [moves, stays] = two_buckets_of_a_slot();
    let groups = [vec![moves.clone()], vec![stays.clone()]];
    let from = nodes.owner(slot(moves.as_bytes()));
    let slot = Move {
        nodes: &nodes,
        slot: slot(moves.as_bytes()),
        from,
        to: (from + 1) % nodes.masters(),
    };
    let writer = client(&servers[1]);
    let write = |first: usize| {
        for number in first..first + 20 {
            for key in [&moves, &stays] {
                future::block_on(writer.put(key, number.to_string())).unwrap();
            }
        }
    };
    write(0);
    let replicas: Vec<Replica> = servers
        .iter()
        .flat_map(|server| {
            [("", true), (&moves, false)]
                .map(|(name, is_prefix)| Replica::start(server, name, is_prefix))
        })
        .collect();
    let await_equal = |server: &ClusterServer| {
        let all = stored(server, &groups);
        for (number, replica) in replicas.iter().enumerate() {
            let mut expected = all.clone();
            expected.retain(|name, _| number % 2 == 0 || name == moves.as_bytes());
            replica.await_equal(&expected);
        }
    };
    await_equal(&servers[0]);
    slot.begin();
    write(20);
    await_equal(&servers[0]);
    let number = format!("half:{{{}}}#seq", bucket(moves.as_bytes()));
    slot.migrate(number.as_bytes());
    slot.migrate(&list_name("half:", moves.as_bytes()));
    for first in [40, 60, 80] {
        write(first);
        await_equal(&servers[1]);
    }
    let missed = |replica: &Replica| replica.missed();
    let before: Vec<_> = replicas.iter().map(missed).collect();
    // They are subscribed at both nodes by now.
    write(100);
    await_equal(&servers[0]);
    assert_eq!(replicas.iter().map(missed).collect::<Vec<_>>(), before);
    let number = format!("half:{{{}}}#seq", bucket(stays.as_bytes()));
    slot.migrate(number.as_bytes());
    slot.migrate(&list_name("half:", stays.as_bytes()));
    slot.end();
    write(120);
    await_equal(&servers[1]);
}

/// Two keys of different buckets.
fn two_buckets_of_a_slot() -> [String; 2] {
    let keys: Vec<String> = (0..4000).map(|number| format!("k{number}")).collect();
    let of = |key: &String| (slot(key.as_bytes()), bucket(key.as_bytes()));
    for key in &keys {
        let is_other = |other: &&String| of(other).0 == of(key).0 && of(other).1 != of(key).1;
        if let Some(other) = keys.iter().find(is_other) {
            return [key.clone(), other.clone()];
        }
    }
    panic!("no slot has two buckets");
}
