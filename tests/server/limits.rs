//! Each limit: who is over it is told so, is counted, and disturbs no one else.

use std::{sync::atomic::Ordering, time::Duration};

use keywire::{Builder, Overflow, Server, Stats, store::Memory};
use socket2::{Domain, Socket, Type};

use crate::common::{
    Client, TestServer,
    flood::Flood,
    local::{LocalClient, LocalServer},
    script::converse,
    stores::{Gated, ManualClock},
    transcript,
};

const SECOND: Duration = Duration::from_secs(1);

/// A server on which time passes by hand.
fn timed(set: impl FnOnce(Builder) -> Builder) -> (LocalServer<Memory>, ManualClock) {
    let clock = ManualClock::new();
    let server = set(Server::builder().clock(clock.clone())).build();
    (LocalServer::new(server), clock)
}

fn pass(server: &mut LocalServer<Memory>, clock: &ManualClock, time: Duration) {
    server.run();
    clock.advance(time);
    server.run();
}

/// The client gets its answers.
fn is_served(server: &mut LocalServer<Memory>, client: &mut LocalClient) {
    client.send("Sync:served\n");
    server.run();
    assert_eq!(client.received(), ":sync:0:served\n");
}

#[test]
fn a_client_too_many_is_told_so_and_closed() {
    let (mut server, _) = timed(|server| server.max_clients(2));
    let (mut one, two) = (server.connect(), server.connect());
    let mut third = server.connect();
    // What it says does not matter.
    third.send("Put:k:v\nSync\n");
    server.run();
    let said = ":error:0:full:the server has as many clients as it may\n";
    assert_eq!(third.received(), said);
    assert!(third.is_disconnected());
    is_served(&mut server, &mut one);
    let stats = server.stats();
    assert_eq!((stats.active, stats.dropped), (2, 0));
    assert_eq!((stats.refused, stats.full_clients), (1, 1));
    assert_eq!((stats.errors, stats.puts), (1, 0));

    // Whoever leaves makes room for one.
    drop(two);
    server.run();
    let mut fourth = server.connect();
    is_served(&mut server, &mut fourth);
    let stats = server.stats();
    assert_eq!((stats.active, stats.dropped), (2, 1));
}

/// Those who are told why they can't come in may take a moment to hear it, and no longer. Beyond 64
/// of them, nobody is told any more.
#[test]
fn a_flood_of_clients_is_turned_away_in_bounded_room() {
    let (mut server, clock) = timed(|server| server.max_clients(1));
    let mut one = server.connect();
    let mut clients: Vec<_> = (0..200).map(|_| server.connect()).collect();
    let heard = clients.iter_mut().map(LocalClient::received);
    assert_eq!(heard.filter(|heard| !heard.is_empty()).count(), 64);
    assert!(clients.iter().all(LocalClient::is_disconnected));
    assert_eq!(server.stats().full_clients, 200);

    let mut late = server.connect();
    assert_eq!(late.received(), "");
    pass(&mut server, &clock, 2 * SECOND);
    let mut later = server.connect();
    assert!(later.received().starts_with(":error:0:full:"));
    is_served(&mut server, &mut one);
    assert_eq!(server.stats().active, 1);
}

fn connect_from(server: &TestServer, host: u8) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let host: std::net::SocketAddr = ([127, 0, 0, host], 0).into();
    socket.bind(&host.into()).unwrap();
    socket.connect(&server.address.into()).unwrap();
    Client::of(socket.into())
}

/// Every address of 127.0.0.0/8 is this machine's, on Linux.
#[cfg(target_os = "linux")]
#[test]
fn an_address_has_so_many_clients() {
    let server = Server::builder().max_clients_per_address(2).build();
    let server = TestServer::start(server);
    let mut first: Vec<_> = (0..2).map(|_| connect_from(&server, 1)).collect();
    first.iter_mut().for_each(|client| drop(client.sync()));
    let mut third = connect_from(&server, 1);
    let said = ":error:0:full:this address has as many connections as it may";
    assert_eq!(third.text(), said);
    assert_eq!(third.line(), None);
    // Another address has its own.
    let mut other = connect_from(&server, 2);
    other.sync();
    let stats = server.handle.stats();
    assert_eq!((stats.active, stats.full_addresses), (3, 1));

    first.pop();
    server.await_counts(2, 1);
    connect_from(&server, 1).sync();
}

#[test]
fn a_line_has_its_time() {
    let (mut server, clock) = timed(|server| server.line_timeout(10 * SECOND));
    let (mut slow, mut other) = (server.connect(), server.connect());
    slow.send("Put:k:1\nPut:k:2\nPut:ha");
    pass(&mut server, &clock, 9 * SECOND);
    // A byte now and then doesn't help.
    slow.send("l");
    server.run();
    assert_eq!(slow.received(), "");
    pass(&mut server, &clock, SECOND);
    assert_eq!(
        slow.received(),
        ":error:3:too-long:the line took longer than 10s\n"
    );
    assert!(slow.is_disconnected());
    is_served(&mut server, &mut other);
    let stats = server.stats();
    assert_eq!((stats.slow_lines, stats.puts), (1, 2));
    // It need not hang up.
    pass(&mut server, &clock, 2 * SECOND);
    assert_eq!(server.stats().active, 1);
}

/// Also where there is always more of it to read.
#[test]
fn a_line_without_end_has_its_time() {
    let (mut server, clock) = timed(|server| server.line_timeout(10 * SECOND));
    let flood = Flood::new(b'x', &clock, 50_000);
    let reads = flood.reads();
    server.attach(flood);
    let reads = reads.load(Ordering::SeqCst);
    // Ten seconds, and two to hear why.
    assert!(reads <= 12_010, "{reads}");
    let stats = server.stats();
    assert_eq!((stats.slow_lines, stats.active), (1, 0));
}

#[test]
fn the_time_of_one_line_is_not_that_of_the_next() {
    let (mut server, clock) = timed(|server| server.line_timeout(10 * SECOND));
    let mut client = server.connect();
    client.send("Put:k:");
    for line in 0..20 {
        // Each read ends within a line.
        client.send(format!("{line}\nPut:k:"));
        pass(&mut server, &clock, 9 * SECOND);
    }
    client.send("\n");
    is_served(&mut server, &mut client);
    // Nor is silence between lines a line.
    pass(&mut server, &clock, 1000 * SECOND);
    is_served(&mut server, &mut client);
    assert_eq!(server.stats().slow_lines, 0);
}

/// A line can't go on while the server does not read.
#[test]
fn time_in_which_replies_wait_for_room_is_not_the_lines() {
    let (mut server, clock) = timed(|server| {
        let server = server.line_timeout(10 * SECOND).overflow(Overflow::Wait);
        server.outbox_lines(1)
    });
    let mut client = server.connect_with(8);
    client.send("Put:k:v\nGet:k\nGet:k\nGet:k\nGet:k\nSyn");
    pass(&mut server, &clock, 60 * SECOND);
    assert_eq!(client.receive_all(&mut server), "k:v\n".repeat(4));
    pass(&mut server, &clock, 9 * SECOND);
    client.send("c\n");
    server.run();
    assert_eq!(client.receive_all(&mut server), ":sync:0:\n");
}

#[test]
fn an_idle_connection_is_told_so_and_closed() {
    let (mut server, clock) = timed(|server| server.idle_timeout(10 * SECOND));
    let (mut idle, mut busy) = (server.connect(), server.connect());
    for _ in 0..9 {
        pass(&mut server, &clock, SECOND);
        // A blank line will do.
        busy.send("\n");
    }
    pass(&mut server, &clock, SECOND);
    let said = ":error:0:closing:nothing has moved here for 10s\n";
    assert_eq!(idle.received(), said);
    assert!(idle.is_disconnected());
    is_served(&mut server, &mut busy);
    pass(&mut server, &clock, 9 * SECOND);
    is_served(&mut server, &mut busy);
    let stats = server.stats();
    assert_eq!((stats.idle, stats.active, stats.dropped), (1, 1, 1));
}

#[test]
fn a_watcher_who_is_told_of_something_is_not_idle() {
    let (mut server, clock) = timed(|server| server.idle_timeout(10 * SECOND));
    let (mut watcher, mut writer) = (server.connect(), server.connect());
    watcher.send("Watch:k\n");
    for _ in 0..5 {
        pass(&mut server, &clock, 6 * SECOND);
        writer.send("Put:k:v\n");
    }
    server.run();
    assert_eq!(
        watcher.received(),
        format!(":watch:k\n{}", ":put:k:v\n".repeat(5))
    );
}

/// Nothing moves while it does not read, so it is as good as gone; also under `Wait`.
#[test]
fn a_client_that_never_reads_is_idle() {
    let (mut server, clock) = timed(|server| {
        let server = server.idle_timeout(10 * SECOND).overflow(Overflow::Wait);
        server.outbox_lines(1)
    });
    let mut client = server.connect_with(8);
    client.send("Put:k:v\nGet:k\nGet:k\nGet:k\nGet:k\nPut:last:1\n");
    pass(&mut server, &clock, 10 * SECOND);
    pass(&mut server, &clock, 2 * SECOND);
    let stats = server.stats();
    assert_eq!((stats.idle, stats.active), (1, 0));
    // What it had sent is applied all the same.
    assert_eq!(stats.puts, 2);
}

/// Nor does it help to hang up half-way, with replies that are never read.
#[test]
fn a_client_that_sends_no_more_and_never_reads_is_idle() {
    let (mut server, clock) = timed(|server| server.idle_timeout(10 * SECOND));
    let mut client = server.connect_with(8);
    client.send("Put:k:v\nGet:k\nGet:k\nGet:k\nGet:k\nGet:k\nGet:k\n");
    client.half_close();
    pass(&mut server, &clock, 9 * SECOND);
    // As long as it reads, it has its time.
    let mut heard = client.received();
    pass(&mut server, &clock, 9 * SECOND);
    assert_eq!(server.stats().active, 1);
    pass(&mut server, &clock, SECOND);
    let stats = server.stats();
    assert_eq!((stats.idle, stats.active), (1, 0));
    heard += &client.received();
    assert_eq!(heard.len(), 16);
}

#[test]
fn no_time_at_all_to_be_idle_is_no_trap() {
    let (mut server, clock) = timed(|server| server.idle_timeout(Duration::ZERO));
    let mut client = server.connect();
    client.send("Sync\n");
    server.run();
    assert_eq!(client.received(), ":sync:0:\n");
    pass(&mut server, &clock, SECOND);
    assert!(client.received().starts_with(":error:0:closing:"));
}

#[test]
fn to_wait_for_the_store_is_not_idleness() {
    let clock = ManualClock::new();
    let (store, _at_gate, gate) = Gated::new();
    let server = Server::builder()
        .clock(clock.clone())
        .idle_timeout(10 * SECOND);
    let mut server = LocalServer::new(server.store(store).build());
    let mut client = server.connect();
    client.send("Get:gate\nSync\n");
    for _ in 0..5 {
        server.run();
        clock.advance(6 * SECOND);
    }
    gate.send_blocking(()).unwrap();
    assert_eq!(client.receive_all(&mut server), ":sync:0:\n");
    assert_eq!(server.stats().idle, 0);
}

#[test]
fn lines_over_the_rate_wait_for_their_time() {
    let (mut server, clock) = timed(|server| server.max_line_rate(10));
    let (mut eager, mut other) = (server.connect(), server.connect());
    let lines: String = (1..=25).map(|n| format!("Sync:{n}\n")).collect();
    eager.send(lines);
    let mut heard = String::new();
    let mut counts = Vec::new();
    for _ in 0..5 {
        server.run();
        heard += &eager.received();
        counts.push(heard.lines().count());
        is_served(&mut server, &mut other);
        clock.advance(SECOND);
    }
    // A second's lines at once, and then as many a second.
    assert_eq!(counts, [10, 20, 25, 25, 25]);
    let expected: String = (1..=25).map(|n| format!(":sync:0:{n}\n")).collect();
    assert_eq!(heard, expected);
    let stats = server.stats();
    assert!((1..=20).contains(&stats.throttled), "{}", stats.throttled);
    // What was saved in a long silence is no more than that.
    clock.advance(100 * SECOND);
    eager.send("Sync\n".repeat(25));
    server.run();
    assert_eq!(eager.received().lines().count(), 10);
}

#[test]
fn lines_that_wait_for_their_time_are_refused_by_number_at_shutdown() {
    let (mut server, _) = timed(|server| server.max_line_rate(3));
    let mut client = server.connect();
    client.send("Sync\nSync\nSync\nPut:k:v\nPut:k:w\n");
    server.run();
    client.half_close();
    assert_eq!(server.shut_down().iter().count(), 0);
    let closing = "closing:the server is shutting down";
    let refused = format!(":error:4:{closing}\n:error:5:{closing}\n");
    assert_eq!(client.received(), ":sync:0:\n".repeat(3) + &refused);
}

#[test]
fn a_store_holds_so_much_and_refuses_the_rest() {
    // A key costs 64 bytes, a value 8, and both their own.
    let server = || Server::builder().max_store(2 * (64 + 1 + 8 + 1)).build();
    let full = "full:the store would hold more than 148 bytes";
    transcript(
        server,
        b"Put:a:1\nPut:b:2\nPut:c:3\nPut:a:\nUpdate:a:1:22\nUpdate:a:1:4\nUpdate:c:x:y\n\
          Get:a\nGet:b\nGet:c\nDelete:b\nPut:c:3\nGet:c\nUpdate:a:4:\nGet:a\nSync\n",
        &format!(
            ":error:3:{full}\n:error:4:{full}\n:error:5:{full}\n:error:7:{full}\n\
             a:4\nb:2\nc:3\na:\n:sync:0:\n"
        ),
    );
}

#[test]
fn a_key_has_so_many_values_and_no_more() {
    let full = "full:the key has 2 values, as many as it may";
    transcript(
        || Server::builder().max_values(2).build(),
        b"Put:a:1\nPut:a:2\nPut:a:3\nUpdate:a:x:3\nUpdate:a:1:3\nGet:a\nPut:b:1\nDelete:a\nPut:a:4\n\
          Get:a\n",
        &format!(":error:3:{full}\n:error:4:{full}\na:3\na:2\na:4\n"),
    );
}

fn stats_of(server: Server, commands: &str) -> Stats {
    let handle = server.handle();
    converse(server, [commands.as_bytes()]);
    handle.stats()
}

#[test]
fn every_refusal_is_counted() {
    let small = || Server::builder().max_store(200).max_values(1);
    let stats = stats_of(small().build(), "Put:a:1\nPut:a:2\nPut:b:1\nPut:c:1\n");
    assert_eq!((stats.full_values, stats.full_store), (1, 1));
    assert_eq!((stats.errors, stats.values, stats.size), (2, 2, 148));

    let server = Server::builder().max_line(10).max_reply(10).max_watches(1);
    let long = "Put:abc:123456789\nPut:a:1234\nPut:a:1234\nGet:a\nWatch:a\nWatch:b\n";
    let stats = stats_of(server.build(), long);
    assert_eq!((stats.long_lines, stats.long_replies), (1, 1));
    assert_eq!((stats.full_watches, stats.errors), (1, 3));
}

/// What is refused is not told to those who watch.
#[test]
fn a_write_that_is_refused_is_no_change() {
    let mut server = LocalServer::new(Server::builder().max_values(1).build());
    let (mut watcher, mut writer) = (server.connect(), server.connect());
    watcher.send("Watch:k\n");
    server.run();
    writer.send("Put:k:1\nPut:k:2\nUpdate:k:1:3\nUpdate:k:1:4\n");
    assert_eq!(
        watcher.receive_all(&mut server),
        ":watch:k\n:put:k:1\n:update:k:1:3\n"
    );
}
