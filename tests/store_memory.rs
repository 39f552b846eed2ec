//! A limit on the store is a limit on memory.

#![cfg(target_os = "linux")]

mod common;

use common::{TestServer, resident, wait_until};
use keywire::Server;

/// However small the keys and values are: empty values cost something, too.
#[test]
fn a_store_that_is_full_takes_no_more_than_twice_its_size() {
    const SIZE: usize = 32 << 20;
    for shape in [
        "Put:k:\n",
        "Put:KEY:\n",
        "Put:KEY:a value of forty bytes and a bit more.\n",
    ] {
        let server = Server::builder().max_store(SIZE as u64).build();
        let server = TestServer::start(server);
        let mut client = server.connect();
        let before = resident();
        let mut key = 0;
        wait_until("the store is full", || {
            let lines: String = (0..50_000)
                .map(|n| shape.replace("KEY", &format!("{:x}", key + n)))
                .collect();
            key += 50_000;
            client.send(lines);
            client.sync();
            server.handle.stats().full_store > 0
        });
        let used = resident().saturating_sub(before);
        // Reads and replies have their room, too.
        assert!(used < 2 * SIZE + (8 << 20), "{shape:?}: {used}");
    }
}

/// A value that was long and is short now leaves its room to others.
#[test]
fn what_an_update_makes_shorter_is_given_back() {
    const SIZE: usize = 1 << 20;
    let server = Server::builder().max_store(SIZE as u64).build();
    let server = TestServer::start(server);
    let mut client = server.connect();
    let long = "x".repeat(30_000);
    client.send(format!("Put:0:{long}\nUpdate:0:{long}:\n"));
    client.sync();
    let before = resident();
    for key in 1..2_000 {
        client.send(format!("Put:{key}:{long}\nUpdate:{key}:{long}:\n"));
    }
    client.sync();
    let stats = server.handle.stats();
    assert_eq!((stats.keys, stats.full_store), (2_000, 0));
    let used = resident().saturating_sub(before);
    assert!(used < 8 << 20, "{used}");
}
