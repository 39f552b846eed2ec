//! What watchers that never read cost in memory.
//!
//! One test alone in its file, because it measures the whole process.

#![cfg(target_os = "linux")]

mod common;

use common::{TestServer, local::LocalServer, resident};
use keywire::{Overflow, Server};

const MIB: usize = 1 << 20;

#[test]
fn watchers_that_never_read_cost_a_bounded_amount() {
    for overflow in [Overflow::Drop, Overflow::Wait] {
        many_changes_a_round(overflow);
        a_round_each_change(overflow);
    }
}

/// 200 watchers, 100,000 changes of a hundred bytes, a thousand at a time.
fn many_changes_a_round(overflow: Overflow) {
    crate::common::allow_files(2000);
    let server = TestServer::start(Server::builder().overflow(overflow).build());
    let mut watchers: Vec<_> = (0..200).map(|_| server.connect()).collect();
    for watcher in &mut watchers {
        watcher.send("WatchPrefix:\n");
        watcher.sync();
    }
    let mut writer = server.connect();
    let key = "x".repeat(100);
    writer.send(format!("Put:{key}:v\n"));
    writer.sync();
    let before = resident();
    let mut most = 0;
    for _ in 0..100 {
        writer.send(format!("Update:{key}:v:v\n").repeat(1000));
        writer.sync();
        most = most.max(resident());
    }
    let stats = server.handle.stats();
    assert_eq!(stats.events + stats.missed, 200 * 100_001);
    assert!(stats.missed > 0);
    // What is kept for one is kept for all: the outbox of 4 MiB, of rounds that are not wholly in
    // it, and what the writers have in hand. 200 outboxes would be 800 MiB.
    let grown = most.saturating_sub(before);
    assert!(grown < 32 * MIB, "{overflow:?}: {} MiB more", grown / MIB);
}

/// Many small rounds. What it takes to know of each is more than what each says.
fn a_round_each_change(overflow: Overflow) {
    const WATCHERS: usize = 50;
    const ROOM: usize = 64 << 10;
    let server = Server::builder().overflow(overflow).outbox_bytes(ROOM);
    let mut server = LocalServer::new(server.build());
    let mut watchers: Vec<_> = (0..WATCHERS).map(|_| server.connect_with(10)).collect();
    for watcher in &mut watchers {
        watcher.send("WatchPrefix:\n");
    }
    server.run();
    let mut writer = server.connect();
    let before = resident();
    let mut changes = 0;
    while server.stats().missed < (WATCHERS * 1000) as u64 {
        writer.send("Delete:k\n");
        changes += 1;
    }
    let grown = resident().saturating_sub(before);
    assert!(
        grown < 8 * WATCHERS * ROOM,
        "{overflow:?}, after {changes} changes: {} KiB more",
        grown / 1024,
    );
}
