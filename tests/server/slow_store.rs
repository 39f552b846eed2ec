//! A store that takes its time, and what happens meanwhile.

use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future};
use keywire::{
    Error, Overflow, Server,
    store::{Batch, Memory, Store},
};

use crate::common::{
    TestServer,
    local::LocalServer,
    stores::{Costly, Gated, ManualClock, ROUND_TIME},
    wait_until,
};

#[test]
fn a_client_that_reads_while_the_store_is_slow_loses_nothing_more() {
    let (store, at_gate, go_on) = Gated::new();
    let server = Server::builder()
        .outbox_lines(10)
        .stall_timeout(Duration::from_millis(50))
        .store(store)
        .build();
    let server = TestServer::start(server);
    let mut client = server.connect();
    client.send(format!("Put:big:{}\n", "x".repeat(60_000)));
    client.sync();
    client.send("Get:big\n".repeat(1000));
    wait_until("all are queued or dropped", || {
        server.handle.stats().commands >= 1002
    });
    let lost = server.handle.stats().lines_dropped;
    assert!(lost > 0);
    // The turn begins while the socket refuses bytes. Before it ends, the client has read all.
    client.send("Sync\nGet:gate\n".to_owned() + &"Get:big\n".repeat(5) + "Sync\n");
    at_gate.recv_blocking().unwrap();
    for _ in lost..1000 {
        client.line().unwrap();
    }
    // The server's last write has returned, but it may yet have to take note of that.
    std::thread::sleep(Duration::from_millis(50));
    go_on.send_blocking(()).unwrap();
    assert_eq!(client.read_to_sync(), (vec![], lost));
    let (lines, lost) = client.read_to_sync();
    assert_eq!((lines.len(), lost), (5, 0));
}

#[test]
fn what_was_read_before_a_shutdown_is_applied() {
    let (store, at_gate, go_on) = Gated::new();
    let server = Server::builder().store(store).build();
    let handle = server.handle();
    let (ours, mut theirs) = async_net::unix::UnixStream::pair().unwrap();
    let (gates, mut gating) = async_net::unix::UnixStream::pair().unwrap();
    let talk = async {
        handle.attach(ours).await.unwrap();
        handle.attach(gates).await.unwrap();
        gating.write_all(b"Get:gate\n").await.unwrap();
        at_gate.recv().await.unwrap();
        theirs.write_all(b"Put:k:v\nSync:fence\n").await.unwrap();
        // The store is at the gate; the server reads on.
        smol::Timer::after(Duration::from_millis(100)).await;
        let mut shutdown = std::pin::pin!(handle.shutdown(Duration::from_secs(60)));
        assert!(future::poll_once(shutdown.as_mut()).await.is_none());
        go_on.send(()).await.unwrap();
        let mut replies = String::new();
        theirs.read_to_string(&mut replies).await.unwrap();
        drop((theirs, gating));
        shutdown.await;
        replies
    };
    let (store, replies) = future::block_on(future::zip(server.run(), talk));
    let last = ":error:0:closing:the server is shutting down\n";
    assert_eq!(replies, format!(":sync:0:fence\n{last}"));
    assert_eq!(store.memory.get(b"k").len(), 1);
}

/// Takes a long time to commit a batch of many commands: until told to go on.
struct Committing(Gated);

impl Store for Committing {
    async fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), Error> {
        let mut taken = 0;
        while let Some(operation) = batch.take() {
            self.0.memory.answer(operation, batch);
            taken += 1;
        }
        // A turn takes ten where there is room; on a busy machine it may not take many more at once.
        if taken > 12 {
            self.0.reached.send(()).await.unwrap();
            self.0.open.recv().await.unwrap();
        }
        Ok(())
    }
}

#[test]
fn a_client_that_is_cut_off_after_it_broke_is_gone() {
    let (store, at_gate, go_on) = Gated::new();
    let server = Server::builder()
        .overflow(Overflow::Disconnect)
        .outbox_lines(10)
        .stall_timeout(Duration::from_millis(200))
        .store(Committing(store))
        .build();
    let server = TestServer::start(server);
    let mut client = server.connect();
    client.send(format!("Put:big:{}\n", "x".repeat(60_000)));
    client.sync();
    // It does not read, so the turn that takes the last of this is the one that cuts it off.
    client.send("Get:big\n".repeat(1000));
    at_gate.recv_blocking().unwrap();
    client.reset();
    // The server's writer finds out while the store commits; nothing tells when it has.
    std::thread::sleep(Duration::from_millis(100));
    go_on.send_blocking(()).unwrap();
    server.await_counts(0, 1);
}

/// Never comes back.
struct Stuck;

impl Store for Stuck {
    async fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), Error> {
        match batch.take() {
            Some(_) => pending().await,
            None => Ok(()),
        }
    }
}

#[test]
fn a_stuck_store_can_not_hold_a_shutdown_up() {
    let server = TestServer::start(Server::builder().store(Stuck).build());
    let mut client = server.connect();
    client.sync();
    client.send("Get:k\n");
    server.stop(Duration::from_millis(100));
    client.await_hang_up();
}

/// Takes longer for a batch than a round may last, by its clock.
struct Slow(Memory, ManualClock);

impl Store for Slow {
    async fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), Error> {
        while let Some(operation) = batch.take() {
            self.0.answer(operation, batch);
        }
        self.1.advance(ROUND_TIME);
        Ok(())
    }
}

/// A Stats begins a second batch, for which the round has no time. What others said before it is
/// done, though a client before them waits for room.
#[test]
fn a_round_that_ends_early_does_nothing_twice() {
    let clock = ManualClock::new();
    let server = Server::builder()
        .outbox_lines(3)
        .clock(clock.clone())
        .store(Slow(Memory::new(), clock));
    let mut server = LocalServer::new(server.build());
    // The server looks at the clock now and then; with so many it does so at the one that waits.
    let mut others: Vec<_> = (0..15).map(|_| server.connect()).collect();
    let (mut full, mut writer, mut last) =
        (server.connect_with(1), server.connect(), server.connect());
    full.send("Watch:k\n");
    server.run();
    writer.send("Put:k:1\n".repeat(5));
    server.run();
    for other in &mut others {
        other.send("Get:x\n");
    }
    full.send("Sync:waits\n");
    writer.send("Put:once:1\nSync:one\n");
    last.send("Stats\n");
    server.run();
    assert_eq!(writer.received(), ":sync:0:one\n");
    assert!(last.received().starts_with(":stats:"));
    assert!(full.receive_all(&mut server).ends_with(":sync:0:waits\n"));
    // By this clock the server would wait for ever for those who linger.
    drop((others, full, writer, last));
    assert_eq!(server.shut_down().0.get(b"once").len(), 1);
}

/// Many clients with long commands, and one with a short one: it waits for the rest of the round and
/// for no other, whatever stands between them and however few the store takes.
#[test]
fn a_short_command_does_not_wait_for_all_long_ones() {
    const CLIENTS: usize = 40;
    const UPDATES: usize = 15;
    let short = (Duration::from_micros(600), 4);
    let long = (Duration::from_millis(4), 1);
    for (time, most_before) in [short, long] {
        for most in [1, 7, usize::MAX] {
            for between in ["", "Stats\n", "bad\n"] {
                let clock = ManualClock::new();
                let asking = Arc::new(Mutex::new(None));
                let store = Costly {
                    memory: Memory::new(),
                    most,
                    clock: clock.clone(),
                    time,
                    updates: 0,
                    asking: asking.clone(),
                    updates_before_get: None,
                };
                let server = Server::builder().clock(clock).store(store);
                let mut server = LocalServer::new(server.build());
                let mut clients: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
                *asking.lock().unwrap() = Some(server.connect());
                for client in &mut clients {
                    client.send(format!("Update:L:1:1\n{between}").repeat(UPDATES));
                }
                server.run();
                drop((clients, asking.lock().unwrap().take()));
                let store = server.shut_down();
                assert_eq!(store.updates, CLIENTS * UPDATES);
                let before = store.updates_before_get.expect("it asked");
                assert!(
                    before <= most_before,
                    "{between:?}, {most} at a time, {time:?} each: {before} came before"
                );
            }
        }
    }
}

/// The same if each of them has a short command between its long ones.
#[test]
fn a_short_command_in_between_makes_no_long_turn_a_short_one() {
    const CLIENTS: usize = 40;
    const UPDATES: usize = 15;
    let clock = ManualClock::new();
    let asking = Arc::new(Mutex::new(None));
    let store = Costly {
        memory: Memory::new(),
        most: usize::MAX,
        clock: clock.clone(),
        time: Duration::from_millis(4),
        updates: 0,
        asking: asking.clone(),
        updates_before_get: None,
    };
    let server = Server::builder().clock(clock).store(store);
    let mut server = LocalServer::new(server.build());
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
    *asking.lock().unwrap() = Some(server.connect());
    for _ in 0..UPDATES {
        for command in ["Delete:other\n", "Update:L:1:1\n"] {
            for client in &mut clients {
                client.send(command);
            }
            server.run();
        }
    }
    drop((clients, asking.lock().unwrap().take()));
    let store = server.shut_down();
    assert_eq!(store.updates, CLIENTS * UPDATES);
    let before = store.updates_before_get.expect("it asked");
    assert!(before <= 1, "{before} came before");
}
