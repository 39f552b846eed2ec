//! A store that answers late, and what becomes of its clients meanwhile: they end, wait too long, or do not
//! read.

use std::time::Duration;

use keywire::{Overflow, Server};

use crate::common::{
    late_store::{LateStore, NoOrder, Outcome, StoreControl},
    local::LocalServer,
    stores::ManualClock,
};

const SECOND: Duration = Duration::from_secs(1);

fn late() -> (LocalServer<LateStore<NoOrder>>, StoreControl) {
    let (store, control) = LateStore::new();
    let server = Server::builder().store(store).build();
    (LocalServer::new(server), control)
}

/// It has sent all that it will. The writes are applied, and the replies go out before the end.
#[test]
fn a_client_that_ends_its_input_has_its_replies() {
    let (mut server, control) = late();
    let mut client = server.connect();
    client.send("Put:k:1\nGet:k\n");
    client.half_close();
    server.run();
    assert_eq!(
        (server.stats().active, client.is_disconnected()),
        (1, false)
    );
    control.end("Put:k:1", Outcome::Apply);
    server.run();
    assert_eq!(client.received(), "k:1\n");
    assert!(client.is_disconnected());
    let stats = server.stats();
    assert_eq!((stats.active, stats.dropped), (0, 1));
}

#[test]
fn what_a_client_has_sent_is_applied_if_it_is_gone() {
    let (mut server, control) = late();
    let (mut client, mut other) = (server.connect(), server.connect());
    // Two batches: the second is submitted when the client is gone.
    client.send("Watch:k\nPut:k:1\nStats\nPut:k:2\n");
    server.run();
    drop(client);
    other.send("Get:x\n");
    server.run();
    assert_eq!(control.in_flight(), ["Put:k:1", "Get:x"]);
    assert_eq!(server.stats().active, 2);
    control.end("Put:k:1", Outcome::Apply);
    server.run();
    control.end("Put:k:2", Outcome::Apply);
    server.run();
    assert_eq!(control.values("k"), ["1", "2"]);
    let stats = server.stats();
    assert_eq!((stats.active, stats.dropped, stats.watching), (1, 1, 0));
    // Its number is free, and nothing of it is left there.
    let mut next = server.connect();
    next.send("Put:k:3\nSync\n");
    server.run();
    control.end("Put:k:3", Outcome::Apply);
    server.run();
    assert_eq!(next.received(), ":sync:0:\n");
}

/// A watcher that waits for the store gets events meanwhile. It does not read them, so it is idle in the
/// end, and its watches end with its input, before its batch is back, or before it is submitted.
#[test]
fn a_watcher_may_end_while_its_batch_waits() {
    for (lines, waits_for_key) in [("Put:mine:1\n", false), ("Put:busy:2\n", true)] {
        let clock = ManualClock::new();
        let (store, control) = LateStore::<NoOrder>::new();
        let server = Server::builder()
            .clock(clock.clone())
            .idle_timeout(10 * SECOND)
            .store(store);
        let mut server = LocalServer::new(server.build());
        let mut busy = server.connect();
        let (mut watcher, mut writer) = (server.connect_with(10), server.connect());
        busy.send("Put:busy:1\n");
        watcher.send("Watch:k\n");
        server.run();
        assert_eq!(watcher.receive_all(&mut server), ":watch:k\n");
        watcher.send(lines);
        server.run();
        assert_eq!(
            control.in_flight().contains(&lines[..10].to_owned()),
            !waits_for_key
        );
        control.answer_at_once(true);
        for _ in 0..3 {
            writer.send("Put:k:1\n".repeat(5));
            server.run();
            clock.advance(6 * SECOND);
            server.run();
        }
        let stats = server.stats();
        assert_eq!((stats.idle, stats.watching), (1, 0));
        control.end("Put:busy:1", Outcome::Apply);
        server.run();
        control.end_all(Outcome::Apply);
        drop(watcher);
        server.run();
        writer.send("Put:k:1\nGet:k\n");
        server.run();
        assert_eq!(writer.received(), "k:1\n".repeat(16));
        let key = lines.split(':').nth(1).unwrap();
        assert!(!control.values(key).is_empty());
        assert_eq!(server.stats().active, 2);
    }
}

#[test]
fn a_line_that_has_begun_has_its_time_when_the_store_is_back() {
    let clock = ManualClock::new();
    let (store, control) = LateStore::<NoOrder>::new();
    let server = Server::builder()
        .clock(clock.clone())
        .line_timeout(10 * SECOND)
        .store(store);
    let mut server = LocalServer::new(server.build());
    let mut client = server.connect();
    client.send("Put:k:1\nSyn");
    for _ in 0..5 {
        server.run();
        clock.advance(6 * SECOND);
    }
    control.end("Put:k:1", Outcome::Apply);
    server.run();
    clock.advance(6 * SECOND);
    server.run();
    client.send("c\n");
    server.run();
    assert_eq!(client.received(), ":sync:0:\n");
    client.send("Syn");
    server.run();
    clock.advance(11 * SECOND);
    server.run();
    assert!(client.received().starts_with(":error:3:too-long:"));
}

/// The outbox is full and the socket has refused bytes for long when the batch comes back.
#[test]
fn the_overflow_policy_is_that_of_the_moment_in_which_the_batch_is_back() {
    for overflow in [Overflow::Drop, Overflow::Disconnect, Overflow::Wait] {
        let clock = ManualClock::new();
        let (store, control) = LateStore::<NoOrder>::new();
        let server = Server::builder()
            .clock(clock.clone())
            .outbox_lines(3)
            .stall_timeout(SECOND)
            .overflow(overflow)
            .store(store);
        let mut server = LocalServer::new(server.build());
        let (mut client, mut writer) = (server.connect_with(1), server.connect());
        client.send("Watch:k\n");
        assert_eq!(client.receive_all(&mut server), ":watch:k\n");
        client.send("Put:mine:1\nGet:mine\nGet:mine\nSync:end\n");
        server.run();
        // While it waits, events fill its outbox.
        control.answer_at_once(true);
        writer.send("Put:k:1\n".repeat(3));
        server.run();
        clock.advance(2 * SECOND);
        server.run();
        control.end("Put:mine:1", Outcome::Apply);
        server.run();
        assert_eq!(control.values("mine"), ["1"]);
        let stats = server.stats();
        let told = ":put:k:1\n".repeat(3);
        match overflow {
            Overflow::Drop => {
                assert_eq!(stats.lines_dropped, 2);
                let received = client.receive_all(&mut server);
                assert_eq!(received, told + ":sync:2:end\n");
            }
            Overflow::Disconnect => assert_eq!((stats.active, stats.dropped), (1, 1)),
            _ => {
                assert_eq!(stats.lines_dropped, 0);
                let mut received = client.receive_all(&mut server);
                control.end_all(Outcome::Apply);
                received += &client.receive_all(&mut server);
                assert_eq!(received, told + "mine:1\nmine:1\n:sync:0:end\n");
            }
        }
    }
}

/// An answer that needs no store finds the outbox full. The command behind it stays with the store.
#[test]
fn a_client_is_cut_off_even_if_its_next_command_waits_for_the_store() {
    let clock = ManualClock::new();
    let (store, control) = LateStore::<NoOrder>::new();
    let server = Server::builder()
        .clock(clock.clone())
        .outbox_lines(3)
        .stall_timeout(SECOND)
        .overflow(Overflow::Disconnect)
        .store(store);
    let mut server = LocalServer::new(server.build());
    let (mut client, mut writer) = (server.connect_with(1), server.connect());
    client.send("Watch:k\n");
    assert_eq!(client.receive_all(&mut server), ":watch:k\n");
    client.send("Put:mine:1\nStats\nPut:mine:2\n");
    server.run();
    control.answer_at_once(true);
    writer.send("Put:k:1\n".repeat(3));
    server.run();
    control.answer_at_once(false);
    clock.advance(2 * SECOND);
    server.run();
    control.end("Put:mine:1", Outcome::Apply);
    server.run();
    assert_eq!(control.in_flight(), ["Put:mine:2"]);
    client.received();
    assert!(client.is_disconnected());
    // What it had sent is applied all the same.
    control.end("Put:mine:2", Outcome::Apply);
    server.run();
    assert_eq!(control.values("mine"), ["1", "2"]);
    let stats = server.stats();
    assert_eq!((stats.active, stats.dropped), (1, 1));
}

/// It is stalled when its batch goes to the store, and takes a byte meanwhile. Its replies are not dropped then,
/// and its outbox grows by none of them: there is no read before a write, which would have to be answered.
#[test]
fn a_full_outbox_does_not_grow_by_what_the_store_was_asked_while_it_was_stalled() {
    let clock = ManualClock::new();
    let (store, control) = LateStore::<NoOrder>::new();
    let server = Server::builder()
        .clock(clock.clone())
        .outbox_lines(3)
        .stall_timeout(SECOND)
        .store(store);
    let mut server = LocalServer::new(server.build());
    let (mut client, mut writer) = (server.connect_with(1), server.connect());
    control.put("mine", "0");
    client.send("Watch:k\n");
    let mut received = client.receive_all(&mut server);
    control.answer_at_once(true);
    writer.send("Put:k:1\n".repeat(3));
    server.run();
    control.answer_at_once(false);
    clock.advance(2 * SECOND);
    client.send("Get:mine\nGet:mine\nPut:mine:1\nPut:mine:2\nGet:mine\n");
    server.run();
    assert_eq!(
        control.submitted().last().unwrap(),
        &["Get:mine", "Get:mine"]
    );
    received += &client.received();
    server.run();
    control.end_all(Outcome::Apply);
    server.run();
    // They are asked for again when there is room.
    assert!(control.in_flight().is_empty());
    control.answer_at_once(true);
    received += &client.receive_all(&mut server);
    let events = ":put:k:1\n".repeat(3);
    let values = "mine:0\n".repeat(3) + "mine:1\nmine:2\n";
    assert_eq!(received, format!(":watch:k\n{events}{values}"));
    assert_eq!(server.stats().lines_dropped, 0);
}
