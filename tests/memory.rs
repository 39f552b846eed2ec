//! What a client that asks for much and never reads costs in memory.
//!
//! One test alone in its file, because it measures the whole process.

#![cfg(target_os = "linux")]

mod common;

use common::{TestServer, resident, wait_until};
use keywire::{Overflow, Server};

const MIB: usize = 1 << 20;

#[test]
fn a_client_that_asks_for_gigabytes_and_never_reads_costs_a_bounded_amount() {
    for overflow in [Overflow::Drop, Overflow::Wait, Overflow::Disconnect] {
        let server = Server::builder().overflow(overflow).build();
        let server = TestServer::start(server);
        let mut client = server.connect();
        for _ in 0..MIB / (64 * 1000) {
            client.send(format!("Put:k:{}\n", "x".repeat(64_000)));
        }
        client.sync();
        client.send("Get:k\n");
        assert!(client.sync().0.len() > 10);
        let before = resident();

        let mut greedy = server.connect();
        const GETS: usize = 64 * 1024 / 6;
        greedy.send("Get:k\n".repeat(GETS));
        let so_far = server.handle.stats().commands;
        wait_until("the server has dealt with it", || match overflow {
            // Every command is handled: most replies are dropped.
            Overflow::Drop => server.handle.stats().commands >= so_far + GETS as u64 - 100,
            Overflow::Wait => server.handle.stats().lines_queued > 50,
            _ => server.handle.stats().active == 1,
        });
        // Others are served all the while.
        let mut most = 0;
        for _ in 0..500 {
            client.sync();
            most = most.max(resident());
        }
        // An outbox of 4 MiB, one reply more, what the writer has in hand, and what reallocation
        // takes on the way. All the replies together would be 10 GiB.
        let grown = most.saturating_sub(before);
        assert!(grown < 32 * MIB, "{overflow:?}: {} MiB more", grown / MIB);
    }
}
