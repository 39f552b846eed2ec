//! The two counts, as clients come and go.

#[macro_use]
mod common;

use std::time::Duration;

use common::TestServer;
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future};
use keywire::{Server, Stats};

on_every_executor! {
    fn both_counts_are_right_after_each_round(place: Place) {
        let server = TestServer::start(place, Server::new());
        let mut gone = 0;
        let mut staying = Vec::new();
        for coming in [1, 50, 7, 33, 50] {
            for _ in 0..coming {
                let mut client = server.connect();
                // Whoever has a reply has been counted.
                assert_eq!(client.sync().1, 0);
                staying.push(client);
                assert_eq!(server.handle.stats().active, staying.len() as u64);
            }
            server.await_counts(staying.len() as u64, gone);
            // Every third leaves each round, one way or the other.
            let (leaving, rest): (Vec<_>, Vec<_>) = staying
                .into_iter()
                .enumerate()
                .partition(|(number, _)| number % 3 == 0);
            staying = rest.into_iter().map(|(_, client)| client).collect();
            for (number, client) in leaving {
                match number / 3 % 3 {
                    0 => drop(client),
                    1 => client.reset(),
                    _ => assert_eq!(client.end(), b""),
                }
                gone += 1;
            }
            server.await_counts(staying.len() as u64, gone);
        }
        let mut client = staying.pop().unwrap();
        client.send("Stats\n");
        let reply = client.text();
        let stats = Stats::parse(reply.strip_prefix(":stats:").unwrap().as_bytes()).unwrap();
        assert_eq!((stats.active, stats.dropped), (staying.len() as u64 + 1, gone));

        let everyone = gone + staying.len() as u64 + 1;
        let handle = server.handle.clone();
        server.stop(Duration::ZERO);
        let stats = handle.stats();
        assert_eq!((stats.active, stats.dropped), (0, everyone));
    }
}

#[test]
fn commands_errors_and_lines_are_counted() {
    let server = TestServer::start(common::Place::PLAIN, Server::new());
    let mut client = server.connect();
    client.send("Put:k:1\nPut:k:2\nGet:k\nbad\n\nGet:\n");
    client.sync();
    let stats = server.handle.stats();
    assert_eq!(stats.commands, 4);
    assert_eq!(stats.errors, 2);
    assert_eq!(stats.lines_queued, 5);
    assert_eq!(stats.lines_dropped, 0);
}

/// What they have sent is refused by its number, as it is for all others.
#[test]
fn connections_that_wait_when_the_server_ends_are_clients_to_the_end() {
    let server = Server::new();
    let handle = server.handle();
    let (stats, replies) = future::block_on(async {
        let mut ours = Vec::new();
        for _ in 0..5 {
            let (mut near, far) = async_net::unix::UnixStream::pair().unwrap();
            near.write_all(b"Get:k\n").await.unwrap();
            handle.attach(far).await.unwrap();
            ours.push(near);
        }
        let shutdown = handle.shutdown(Duration::MAX);
        future::zip(shutdown, server.run()).await;
        let mut replies = Vec::new();
        for near in &mut ours {
            near.read_to_end(&mut replies).await.unwrap();
        }
        (handle.stats(), String::from_utf8(replies).unwrap())
    });
    assert_eq!(
        replies,
        ":error:1:closing:the server is shutting down\n".repeat(5)
    );
    assert_eq!((stats.refused, stats.active, stats.dropped), (0, 0, 5));
}

#[test]
fn nothing_is_watched_once_the_server_is_gone() {
    let server = TestServer::start(common::Place::PLAIN, Server::new());
    let mut client = server.connect();
    client.send("Watch:k\n");
    client.sync();
    let handle = server.handle.clone();
    assert_eq!(handle.stats().watching, 1);
    server.stop(Duration::ZERO);
    assert_eq!(handle.stats().watching, 0);
}
