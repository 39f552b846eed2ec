//! Watchers that do not read while others do.

use std::{ops::Range, time::Duration};

use keywire::{Overflow, Server};

use crate::{
    common::{Client, TestServer, numbered::Heard, wait_until},
    executor::Executor,
};

/// Makes changes that are long on the wire and short in the store, and is answered at once.
fn change(client: &mut Client, numbers: Range<usize>) {
    let long = "x".repeat(4000);
    let commands: String = numbers
        .map(|number| format!("Update:k:{number}.{long}:v\n"))
        .collect();
    client.send(commands + "Delete:j\n");
    let (replies, dropped) = client.sync();
    assert_eq!((replies.len(), dropped), (0, 0));
}

/// Reads until all these changes are told or missed.
fn listen(watcher: &mut Client, changes: usize) -> Heard {
    let mut heard = Heard::default();
    while heard.next < changes {
        assert!(heard.take(&watcher.text()));
    }
    heard
}

fn watchers_that_do_not_read(executor: Executor, overflow: Overflow, watchers: usize) {
    let server = Server::builder()
        .overflow(overflow)
        .stall_timeout(Duration::from_millis(100))
        .outbox_bytes(if overflow == Overflow::Wait {
            1 << 18
        } else {
            4 << 20
        });
    let server = executor.start(server.build());
    let mut clients: Vec<_> = (0..watchers).map(|_| server.connect()).collect();
    for watcher in &mut clients {
        watcher.send("WatchPrefix:k\nWatch:k\n");
        watcher.sync();
    }
    let mut writer = server.connect();
    let mut changes = 0;
    wait_until("everyone has missed a good deal", || {
        change(&mut writer, changes..changes + 100);
        changes += 100;
        // The system may take megabytes more for one of them than for another.
        server.handle.stats().missed > 1000 * watchers as u64
    });
    let stats = server.handle.stats();
    assert_eq!(stats.events + stats.missed, (changes * watchers) as u64);
    for watcher in &mut clients {
        let heard = listen(watcher, changes);
        assert!(heard.missed > 0 && heard.events > 10, "{heard:?}");
        // From here on it reads, and misses nothing.
        assert_eq!(watcher.sync(), (vec![], 0));
    }
    let before = server.handle.stats().missed;
    assert_eq!(before, stats.missed);
    writer.send("Put:k:0\n");
    for watcher in &mut clients {
        assert_eq!(watcher.text(), ":put:k:0");
    }
}

on_every_executor! {
    fn watchers_that_do_not_read_hold_nobody_up_and_know_what_they_missed(executor: Executor) {
        watchers_that_do_not_read(executor, Overflow::Drop, 2);
    }
}

#[test]
fn under_wait_events_are_bounded_by_their_bytes() {
    watchers_that_do_not_read(Executor::PLAIN, Overflow::Wait, 2);
}

#[test]
fn under_disconnect_a_watcher_that_does_not_read_is_cut_off() {
    let server = Server::builder()
        .overflow(Overflow::Disconnect)
        .stall_timeout(Duration::from_millis(100));
    let server = TestServer::start(server.build());
    let mut watcher = server.connect();
    watcher.send("WatchPrefix:\n");
    watcher.sync();
    let mut writer = server.connect();
    let mut changes = 0;
    wait_until("it is gone", || {
        change(&mut writer, changes..changes + 100);
        changes += 100;
        server.handle.stats().dropped == 1
    });
    assert_eq!(server.handle.stats().watching, 0);
    watcher.await_hang_up();
}
