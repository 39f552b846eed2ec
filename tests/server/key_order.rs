//! One key's commands take effect in the order submitted, and no client waits for a key that it has not
//! come to.

use keywire::Server;

use crate::common::{
    late_store::{Keeps, LateStore, NoOrder, Outcome, PerKey, StoreControl, Total},
    local::{LocalClient, LocalServer},
};

fn late<O: Keeps>() -> (LocalServer<LateStore<O>>, StoreControl) {
    let (store, control) = LateStore::new();
    let server = Server::builder().store(store).build();
    (LocalServer::new(server), control)
}

fn watch_all<O: Keeps>(server: &mut LocalServer<LateStore<O>>) -> LocalClient {
    let mut watcher = server.connect();
    watcher.send("WatchPrefix:\n");
    server.run();
    assert_eq!(watcher.received(), ":watchprefix:\n");
    watcher
}

/// The store asserts that no two batches share a key.
#[test]
fn a_store_without_an_order_gets_one_batch_of_a_key() {
    let (mut server, control) = late::<NoOrder>();
    let mut watcher = watch_all(&mut server);
    let mut clients: Vec<_> = (0..10).map(|_| server.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(format!("Set:k:{n}\nGet:k\n"));
    }
    for (n, client) in clients.iter_mut().enumerate() {
        server.run();
        assert_eq!(control.in_flight(), [format!("Set:k:{n}")]);
        // One of them fails, which is no reason for the next to wait.
        let (outcome, reply) = match n {
            5 => (Outcome::Panic, None),
            _ => (Outcome::Apply, Some(format!("k:{n}\n"))),
        };
        control.end_all(outcome);
        server.run();
        let received = client.received();
        match reply {
            Some(reply) => {
                assert_eq!(received, reply);
                assert_eq!(watcher.received(), format!(":set:k:{n}\n"));
            }
            None => assert!(received.starts_with(":error:1:unconfirmed:")),
        }
    }
    assert_eq!(watcher.received(), "");
}

/// Random pipelines over a few keys, completed in any order: the replies of each key show all its writes
/// in the order in which watchers are told of them.
#[test]
fn random_pipelines_see_the_history_of_each_key() {
    for seed in 0..50 {
        random_pipelines::<NoOrder>(seed);
        random_pipelines::<PerKey>(seed);
        random_pipelines::<Total>(seed);
    }
}

fn random_pipelines<O: Keeps>(seed: u64) {
    println!("seed {seed}, {:?}", O::ORDER);
    let random = &mut fastrand::Rng::with_seed(seed);
    let (mut server, control) = late::<O>();
    let mut watcher = watch_all(&mut server);
    let mut clients: Vec<_> = (0..6).map(|_| server.connect()).collect();
    let mut sent = 0;
    let mut received = vec![String::new(); clients.len()];
    for _ in 0..60 {
        for client in &mut clients {
            for _ in 0..random.usize(..4) {
                let key = random.usize(..4);
                sent += 1;
                client.send(match random.u8(..4) {
                    0 => format!("Put:{key}:{sent}\nGet:{key}\n"),
                    1 => format!("Get:{key}\n"),
                    _ => format!("Set:{key}:{sent}\n"),
                });
            }
        }
        server.run();
        for line in control.in_flight() {
            if random.bool() {
                control.end(&line, Outcome::Apply);
            }
        }
        server.run();
        for (client, received) in clients.iter_mut().zip(&mut received) {
            *received += &client.received();
        }
    }
    while !control.in_flight().is_empty() {
        control.end_all(Outcome::Apply);
        server.run();
    }
    // Replaying what the watcher was told gives what the store holds, key by key.
    let mut replayed = vec![Vec::new(); 4];
    for event in watcher.received().lines() {
        let fields: Vec<_> = event.split(':').skip(1).collect();
        let values: &mut Vec<String> = &mut replayed[fields[1].parse::<usize>().unwrap()];
        if fields[0] == "set" {
            values.clear();
        }
        values.push(fields[2].to_owned());
    }
    for (key, values) in replayed.iter().enumerate() {
        assert_eq!(&control.values(&key.to_string()), values);
    }
    for (client, received) in clients.iter_mut().zip(&mut received) {
        *received += &client.received();
        assert!(!received.contains(":error:"));
    }
}

/// Completed in reverse, they are released in order.
fn reverse<O: Keeps>() {
    const CLIENTS: usize = 10;
    let (mut server, control) = late::<O>();
    let mut watcher = watch_all(&mut server);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(format!("Put:k:{n}\nGet:k\n"));
    }
    server.run();
    assert_eq!(control.in_flight().len(), CLIENTS);
    for n in (1..CLIENTS).rev() {
        control.end(&format!("Put:k:{n}"), Outcome::Apply);
        server.run();
        assert_eq!(clients[n].received(), "");
    }
    assert_eq!(watcher.received(), "");
    control.end("Put:k:0", Outcome::Apply);
    server.run();
    let mut events = String::new();
    let mut values = String::new();
    for (n, client) in clients.iter_mut().enumerate() {
        events += &format!(":put:k:{n}\n");
        values += &format!("k:{n}\n");
        assert_eq!(client.received(), values);
    }
    assert_eq!(watcher.received(), events);
}

#[test]
fn answers_of_a_key_are_released_in_the_order_submitted() {
    reverse::<PerKey>();
    reverse::<Total>();
}

/// Also if they are there at once.
#[test]
fn an_answer_that_is_there_at_once_waits_for_its_key() {
    let (mut server, control) = late::<PerKey>();
    let (mut first, mut second) = (server.connect(), server.connect());
    first.send("Put:k:1\n");
    server.run();
    control.answer_at_once(true);
    second.send("Put:j:1\nGet:j\nGet:k\nSync\n");
    server.run();
    assert_eq!(second.received(), "j:1\n");
    control.end("Put:k:1", Outcome::Apply);
    server.run();
    assert_eq!(second.received(), "k:1\n:sync:0:\n");
}

/// What waits for its release has its answers; what stands behind it in the pipeline is not touched.
#[test]
fn a_release_that_waits_is_of_one_batch() {
    let (mut server, control) = late::<PerKey>();
    let (mut first, mut second) = (server.connect(), server.connect());
    first.send("Put:k:1\n");
    second.send("Get:k\n".repeat(300) + "Put:k:2\nSync\n");
    server.run();
    control.end("Get:k", Outcome::Apply);
    server.run();
    assert_eq!(second.received(), "");
    control.end("Put:k:1", Outcome::Apply);
    for _ in 0..3 {
        server.run();
        control.end_all(Outcome::Apply);
    }
    server.run();
    assert_eq!(second.received(), "k:1\n".repeat(300) + ":sync:0:\n");
    assert_eq!(server.stats().errors, 0);
}

#[test]
fn keys_are_released_apart_unless_all_writes_have_one_order() {
    fn play<O: Keeps>() -> [String; 2] {
        let (mut server, control) = late::<O>();
        let mut watcher = watch_all(&mut server);
        let (mut first, mut second) = (server.connect(), server.connect());
        let mut reader = server.connect();
        first.send("Put:a:1\nSync:1\n");
        second.send("Put:b:1\nSync:2\n");
        reader.send("Get:c\nSync:3\n");
        server.run();
        control.end("Put:b:1", Outcome::Apply);
        control.end("Get:c", Outcome::Apply);
        server.run();
        // A reader has nothing to do with the order of the writes.
        assert_eq!(reader.received(), ":sync:0:3\n");
        let before = watcher.received() + &second.received();
        assert_eq!(first.received(), "");
        control.end("Put:a:1", Outcome::Apply);
        server.run();
        assert_eq!(first.received(), ":sync:0:1\n");
        [before, watcher.received() + &second.received()]
    }
    assert_eq!(play::<PerKey>(), [":put:b:1\n:sync:0:2\n", ":put:a:1\n"]);
    assert_eq!(play::<Total>(), ["", ":put:a:1\n:put:b:1\n:sync:0:2\n"]);
}

/// One key is stuck. A client that comes to it waits; nobody waits for that client.
#[test]
fn a_stuck_key_holds_up_nobody_else() {
    stuck::<NoOrder>();
    stuck::<PerKey>();
}

fn stuck<O: Keeps>() {
    const KEYS: [&str; 5] = ["j", "k", "l", "m", "k"];
    let (mut server, control) = late::<O>();
    let (mut stuck, mut behind) = (server.connect(), server.connect());
    let mut others: Vec<_> = (0..5).map(|_| server.connect()).collect();
    stuck.send("Put:stuck:1\n");
    server.run();
    // Other keys before it and after it in the pipeline, and in the same batch.
    behind.send("Put:k:0\nPut:stuck:2\nPut:k:1\nPut:l:1\nSync\n");
    server.run();
    for line in control.in_flight().split_off(1) {
        control.end(&line, Outcome::Apply);
        server.run();
    }
    for round in 0..3 {
        for (n, other) in others.iter_mut().enumerate() {
            let key = KEYS[n];
            other.send(format!("Set:{key}:{n}\nGet:{key}\nSync:{round}\n"));
        }
        for _ in 0..others.len() {
            server.run();
            for line in control.in_flight() {
                if !line.contains("stuck") {
                    control.end(&line, Outcome::Apply);
                }
            }
        }
        server.run();
        for (n, other) in others.iter_mut().enumerate() {
            let expected = format!("{}:{n}\n:sync:0:{round}\n", KEYS[n]);
            assert_eq!(other.received(), expected, "{:?}", O::ORDER);
        }
    }
    assert_eq!(behind.received(), "");
    for _ in 0..4 {
        control.end_all(Outcome::Apply);
        server.run();
    }
    assert_eq!(behind.received(), ":sync:0:\n");
    assert_eq!(control.values("stuck"), ["1", "2"]);
}

/// With late stores: the snapshot holds what was told before, and nothing that is told after.
#[test]
fn a_get_behind_a_watch_is_a_snapshot() {
    fn play<O: Keeps>(ends: [&str; 3]) {
        let (mut server, control) = late::<O>();
        let [mut first, mut second] = [server.connect(), server.connect()];
        let mut watcher = server.connect();
        first.send("Put:k:1\n");
        server.run();
        watcher.send("Watch:k\nGet:k\nSync\n");
        server.run();
        second.send("Put:k:2\n");
        for end in ends {
            server.run();
            control.end(end, Outcome::Apply);
        }
        server.run();
        assert_eq!(
            watcher.received(),
            ":watch:k\n:put:k:1\nk:1\n:sync:0:\n:put:k:2\n",
            "{:?}, {ends:?}",
            O::ORDER
        );
    }
    let in_order = ["Put:k:1", "Get:k", "Put:k:2"];
    play::<NoOrder>(in_order);
    for ends in [
        in_order,
        ["Get:k", "Put:k:1", "Put:k:2"],
        ["Put:k:2", "Get:k", "Put:k:1"],
        ["Put:k:2", "Put:k:1", "Get:k"],
        ["Get:k", "Put:k:2", "Put:k:1"],
    ] {
        play::<PerKey>(ends);
        play::<Total>(ends);
    }
}
