//! A limit on the store is a limit on memory.

#![cfg(target_os = "linux")]

mod common;

use common::{Place, TestServer, resident, wait_until};
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
        let server = TestServer::start(Place::PLAIN, server);
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
