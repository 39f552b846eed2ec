//! Clients that do not read, and what that means for them and for others.

use std::{io::Write as _, thread, time::Duration};

use keywire::{Overflow, Server};

use crate::{
    common::{Client, TestServer, wait_until},
    executor::Executor,
};

/// Long enough that a busy machine does not pass for a client that refuses bytes, when the client
/// does read; short enough for a test.
const STALL: Duration = Duration::from_millis(200);

/// Replies of 4 KiB that are more than any socket buffers.
const GETS: usize = 8000;

fn server(executor: Executor, overflow: Overflow) -> TestServer {
    let server = Server::builder()
        .overflow(overflow)
        .stall_timeout(STALL)
        .build();
    let server = executor.start(server);
    let mut client = server.connect();
    client.send(format!("Put:big:{}\n", "x".repeat(4096)));
    client.sync();
    server
}

fn ask_and_do_not_read(server: &TestServer) -> Client {
    let mut client = server.connect();
    client.send("Get:big\n".repeat(GETS));
    client.send("Sync:fence\n");
    client
}

/// Someone else's work: each round trip is answered before the next is sent.
fn others_work(server: &TestServer, round_trips: usize) {
    let mut client = server.connect();
    for number in 0..round_trips {
        client.send(format!("Put:other:{number}\nGet:other\nDelete:other\n"));
        let (lines, dropped) = client.sync();
        assert_eq!(lines, [format!("other:{number}").into_bytes()]);
        assert_eq!(dropped, 0);
    }
}

/// Asks for much and reads it meanwhile.
fn ask_and_read(client: &mut Client) -> (Vec<Vec<u8>>, u64) {
    let mut sender = client.stream().try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            sender
                .write_all("Get:big\n".repeat(GETS).as_bytes())
                .unwrap();
            sender.write_all(b"Sync\n").unwrap();
        });
        client.read_to_sync()
    })
}

/// Checks what a slow client finds when it reads at last. Gives the number of lines that came.
fn read_at_last(mut client: Client) -> (usize, u64) {
    let (lines, dropped) = client.read_to_sync();
    let whole = format!("big:{}", "x".repeat(4096)).into_bytes();
    assert!(lines.iter().all(|line| *line == whole), "a torn reply");
    // And it is as good a client as any from then on.
    let (again, lost) = ask_and_read(&mut client);
    assert_eq!((again.len(), lost), (GETS, 0));
    (lines.len(), dropped)
}

fn slow_clients_lose_replies(executor: Executor, clients: usize) {
    let server = server(executor, Overflow::Drop);
    let slow: Vec<_> = (0..clients).map(|_| ask_and_do_not_read(&server)).collect();
    others_work(&server, 200);
    let all = (clients * (GETS + 1)) as u64;
    wait_until("every Get is answered or dropped", || {
        server.handle.stats().commands >= all + 200 * 4
    });
    others_work(&server, 20);
    for client in slow {
        let (came, dropped) = read_at_last(client);
        assert!(came >= 500, "only {came} lines");
        assert!(dropped > 0);
        assert_eq!(came as u64 + dropped, GETS as u64);
    }
}

on_every_executor! {
    fn one_slow_client_loses_replies_and_is_told_how_many(executor: Executor) {
        slow_clients_lose_replies(executor, 1);
    }

    fn a_client_that_reads_loses_nothing(executor: Executor) {
        reads_everything(executor, Overflow::Drop);
    }
}

#[test]
fn four_slow_clients_lose_replies_and_are_told_how_many() {
    slow_clients_lose_replies(Executor::PLAIN, 4);
}

/// 100,000 Gets in one go, read while they are written.
fn reads_everything(executor: Executor, overflow: Overflow) {
    const GETS: usize = 100_000;
    let server = server(executor, overflow);
    let mut client = server.connect();
    client.send(format!("Put:k:{}\nPut:k:second\n", "x".repeat(100)));
    let mut sender = client.stream().try_clone().unwrap();
    let sending = thread::spawn(move || {
        sender.write_all("Get:k\n".repeat(GETS).as_bytes()).unwrap();
        sender.write_all(b"Sync\n").unwrap();
    });
    let (lines, dropped) = client.read_to_sync();
    sending.join().unwrap();
    assert_eq!((lines.len(), dropped), (2 * GETS, 0));
    let first = format!("k:{}", "x".repeat(100)).into_bytes();
    assert!(
        lines
            .chunks(2)
            .all(|pair| *pair == [first.clone(), b"k:second".to_vec()])
    );
}

#[test]
fn a_client_that_reads_loses_nothing_where_slow_ones_are_disconnected() {
    reads_everything(Executor::PLAIN, Overflow::Disconnect);
}

#[test]
fn a_client_that_reads_loses_nothing_where_slow_ones_wait() {
    reads_everything(Executor::PLAIN, Overflow::Wait);
}

#[test]
fn a_client_that_writes_everything_before_it_reads_loses_nothing_that_the_socket_holds() {
    let server = TestServer::start(Server::new());
    let mut client = server.connect();
    client.send("Put:k:v\n");
    client.send("Get:k\n".repeat(100_000));
    let (lines, dropped) = client.sync();
    assert_eq!((lines.len(), dropped), (100_000, 0));
}

#[test]
fn a_client_that_reads_slowly_but_reads_loses_nothing() {
    let server = server(Executor::PLAIN, Overflow::Drop);
    let client = ask_and_do_not_read(&server);
    // A little at a time, with pauses well under the stall time: the pace is the point here.
    let mut stream = client.stream();
    let mut piece = vec![0; 1 << 20];
    let mut bytes = 0;
    for _ in 0..10 {
        thread::sleep(STALL / 8);
        bytes += std::io::Read::read(&mut stream, &mut piece).unwrap();
    }
    let rest = client.end();
    let fence = rest
        .iter()
        .rev()
        .skip(1)
        .position(|&byte| byte == b'\n')
        .unwrap();
    assert_eq!(&rest[rest.len() - 1 - fence..], b":sync:0:fence\n");
    assert_eq!(bytes + rest.len() - 1 - fence, GETS * (4096 + 5));
}

#[test]
fn replies_of_several_lines_are_dropped_whole() {
    let server = server(Executor::PLAIN, Overflow::Drop);
    let mut client = server.connect();
    let tail = "x".repeat(2048);
    client.send(format!(
        "Put:three:1{tail}\nPut:three:2{tail}\nPut:three:3{tail}\n"
    ));
    client.send("Get:three\n".repeat(GETS));
    wait_until("some are dropped", || {
        server.handle.stats().lines_dropped > 0
    });
    let (lines, dropped) = client.sync();
    assert_eq!(lines.len() as u64 + dropped, 3 * GETS as u64);
    assert_eq!(dropped % 3, 0);
    for reply in lines.chunks(3) {
        let first: Vec<u8> = reply.iter().map(|line| line[6]).collect();
        assert_eq!(first, b"123");
    }
}

#[test]
fn under_wait_nothing_is_dropped_and_no_one_else_waits() {
    let server = server(Executor::PLAIN, Overflow::Wait);
    let slow: Vec<_> = (0..4).map(|_| ask_and_do_not_read(&server)).collect();
    others_work(&server, 200);
    for client in slow {
        assert_eq!(read_at_last(client), (GETS, 0));
    }
}

#[test]
fn under_disconnect_a_slow_client_goes() {
    let server = server(Executor::PLAIN, Overflow::Disconnect);
    let slow = ask_and_do_not_read(&server);
    server.await_counts(0, 2);
    others_work(&server, 20);
    slow.await_hang_up();
}

#[test]
fn who_leaves_an_outbox_full_of_control_lines_unread_is_disconnected() {
    let server = server(Executor::PLAIN, Overflow::Drop);
    let client = server.connect();
    let sync = format!("Sync:{}\n", "x".repeat(60_000));
    // More than the sockets and the outbox hold. The server may hang up before all is sent.
    while client.stream().write_all(sync.as_bytes()).is_ok() {}
    server.await_counts(0, 2);
    others_work(&server, 20);
}

#[test]
fn under_wait_control_lines_wait_too() {
    const SYNCS: usize = 1000;
    let server = server(Executor::PLAIN, Overflow::Wait);
    let mut client = server.connect();
    let mut sender = client.stream().try_clone().unwrap();
    let sync = format!("Sync:{}\n", "x".repeat(60_000));
    let sending = thread::spawn(move || {
        for _ in 0..SYNCS {
            sender.write_all(sync.as_bytes()).unwrap();
        }
    });
    others_work(&server, 200);
    for _ in 0..SYNCS {
        assert_eq!(client.read_to_sync(), (vec![], 0));
    }
    sending.join().unwrap();
}

#[test]
fn costly_commands_of_one_client_leave_others_their_turn() {
    const UPDATES: u64 = 3000;
    let server = TestServer::start(Server::new());
    let mut costly = server.connect();
    costly.send("Put:k:v\n".repeat(50_000));
    costly.sync();
    let before = server.handle.stats().commands;
    // Each looks through the whole list.
    costly.send("Update:k:absent:v\n".repeat(UPDATES as usize) + "Sync:fence\n");
    wait_until("it has begun", || server.handle.stats().commands > before);
    others_work(&server, 3);
    assert!(
        server.handle.stats().commands < before + UPDATES,
        "the others had to wait for all of it",
    );
    costly.read_to_sync();
}

#[test]
fn hundreds_that_ask_without_end_leaves_others_their_turn() {
    let server = server(Executor::PLAIN, Overflow::Drop);
    // More than take part in one round, each with more to ask than one turn allows.
    let clients: Vec<_> = (0..400)
        .map(|_| {
            let mut client = server.connect();
            client.send("Get:big\n".repeat(2000));
            client
        })
        .collect();
    let asked = 2000 * clients.len() as u64;
    others_work(&server, 5);
    assert!(
        server.handle.stats().commands < asked,
        "the others had to wait for all of it"
    );
    drop(clients);
}
