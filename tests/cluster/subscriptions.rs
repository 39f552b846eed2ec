//! Subscriptions: which there are, and what becomes of them when they are lost, when their slot moves, and
//! when the nodes want a secret.

use std::{
    io::Read as _,
    net::{Ipv4Addr, TcpListener},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use futures_lite::{StreamExt as _, future};
use keywire::{Event, Secret};

use crate::{
    common::wait_until,
    nodes::{Nodes, Setup, exclusive, shared},
    resharding::Move,
    servers::{bucket, client, list_name, server_with, slot, two_servers, within},
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

/// Whatever listens in the place of a node and does not speak as one is connected to less and less often.
#[test]
fn a_node_that_closes_subscriptions_is_tried_less_and_less_often() {
    let nodes = exclusive(Setup::durable());
    let server = server_with(&nodes, "backoff:", |store| store);
    let client = client(&server);
    let _watcher = future::block_on(client.watch("k")).unwrap();
    let owner = nodes.owner(slot(b"k"));
    nodes.kill(owner);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, nodes.port(owner))).unwrap();
    let (sender, attempts) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut bytes = [0; 64];
            let length = stream.and_then(|mut stream| stream.read(&mut bytes));
            // Commands go on connections of their own.
            let hello = |bytes: &[u8]| bytes.windows(5).any(|it| it == b"HELLO");
            if length.is_ok_and(|length| hello(&bytes[..length])) {
                let _ = sender.send(Instant::now());
            }
        }
    });
    let next = || attempts.recv_timeout(Duration::from_secs(10)).unwrap();
    let times: Vec<Instant> = (0..9).map(|_| next()).collect();
    let last = times[8] - times[7];
    assert!(last > Duration::from_millis(450), "{last:?}");
}

/// A slot stays half moved: the bucket's number and one of its keys are at the new node, another key is not.
/// Changes of the one key are told meanwhile, which are made there; the other can't be written until it has
/// moved. All are told once and in order, those from before the move included.
#[test]
fn changes_of_a_half_moved_slot_are_told() {
    let nodes = exclusive(Setup::default());
    let servers = two_servers(&nodes, "half:");
    let mut keys = (0..).map(|number| format!("k{number}"));
    let moves = keys.next().unwrap();
    let stays = keys
        .find(|key| bucket(key.as_bytes()) == bucket(moves.as_bytes()))
        .unwrap();
    let from = nodes.owner(slot(moves.as_bytes()));
    let slot = Move {
        nodes: &nodes,
        slot: slot(moves.as_bytes()),
        from,
        to: (from + 1) % nodes.masters(),
    };
    let writer = client(&servers[1]);
    let put = |key: &str, first: usize| {
        for number in first..first + 20 {
            future::block_on(writer.put(key, number.to_string())).unwrap();
        }
    };
    let expect = |key: &str| stored(&servers[0], &[vec![key.to_owned()]]);
    for key in [&moves, &stays] {
        put(key, 0);
    }
    let [of_moves, of_stays] = [&moves, &stays].map(|key| {
        servers
            .each_ref()
            .map(|server| Replica::start(server, key, false))
    });
    slot.begin();
    for key in [&moves, &stays] {
        put(key, 20);
    }
    for (key, replicas) in [(&moves, &of_moves), (&stays, &of_stays)] {
        for replica in replicas {
            assert_eq!(replica.await_equal(&expect(key)), 0);
        }
    }
    let number = format!("half:{{{}}}#seq", bucket(moves.as_bytes()));
    slot.migrate(number.as_bytes());
    slot.migrate(&list_name("half:", moves.as_bytes()));
    let pattern = format!("half:{{{}}}#ch", bucket(moves.as_bytes()));
    wait_until("the new node is subscribed to", || {
        let count = nodes.ask(slot.to, ["PUBSUB", "SHARDNUMSUB", &pattern]);
        count.array()[1].integer() == 2
    });
    for first in [40, 60, 80] {
        put(&moves, first);
        for replica in &of_moves {
            assert_eq!(replica.await_equal(&expect(&moves)), 0);
        }
    }
    thread::scope(|scope| {
        let late = scope.spawn(|| put(&stays, 40));
        wait_until("it is refused", || {
            let errors = |node: usize| nodes.ask(node, ["INFO", "errorstats"]).text();
            [slot.from, slot.to]
                .into_iter()
                .any(|node| errors(node).contains("TRYAGAIN"))
        });
        slot.migrate(&list_name("half:", stays.as_bytes()));
        late.join().unwrap();
    });
    slot.end();
    for key in [&moves, &stays] {
        put(key, 100);
    }
    for (key, replicas) in [(&moves, &of_moves), (&stays, &of_stays)] {
        for replica in replicas {
            assert_eq!(replica.await_equal(&expect(key)), 0);
        }
    }
}
