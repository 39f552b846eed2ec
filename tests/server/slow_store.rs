//! A store that takes its time, and what happens meanwhile.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use keywire::{
    Server,
    store::{Batch, Memory, Order, Store, Submission},
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

/// Takes longer for a batch than a round may last, by its clock.
struct Slow(Memory, ManualClock);

impl Store for Slow {
    const ORDER: Order = Order::Immediate;

    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        let limits = self.0.limits(&batch);
        batch.each(|operation, answer| self.0.apply(operation, answer, limits));
        self.1.advance(ROUND_TIME);
        batch.done()
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
/// for no other, whatever stands between them, and whether or not the store says that it never waits.
#[test]
fn a_short_command_does_not_wait_for_all_long_ones() {
    // A batch of a store that may wait is measured by itself, so a round may end with a whole one.
    let short = (Duration::from_micros(600), [4, 7]);
    let long = (Duration::from_millis(4), [1, 1]);
    for (time, most_before) in [short, long] {
        for between in ["", "Stats\n", "bad\n"] {
            let before = [
                updates_before_get::<true>(time, between),
                updates_before_get::<false>(time, between),
            ];
            assert!(
                before[0] <= most_before[0] && before[1] <= most_before[1],
                "{between:?}, {time:?} each: {before:?} came before"
            );
        }
    }
}

const CLIENTS: usize = 40;
const UPDATES: usize = 15;

fn updates_before_get<const IMMEDIATE: bool>(time: Duration, between: &str) -> usize {
    let clock = ManualClock::new();
    let asking = Arc::new(Mutex::new(None));
    let store = Costly::<IMMEDIATE>::new(clock.clone(), time, asking.clone());
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
    store.updates_before_get.expect("it asked")
}

/// The same if each of them has a short command between its long ones.
#[test]
fn a_short_command_in_between_makes_no_long_turn_a_short_one() {
    let clock = ManualClock::new();
    let asking = Arc::new(Mutex::new(None));
    let store = Costly::<true>::new(clock.clone(), Duration::from_millis(4), asking.clone());
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
