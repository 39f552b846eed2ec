//! The two counts, as clients come and go.

use std::time::Duration;

use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future};
use keywire::Server;

use crate::common::TestServer;

#[test]
fn commands_errors_and_lines_are_counted() {
    let server = TestServer::start(Server::new());
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
    let server = TestServer::start(Server::new());
    let mut client = server.connect();
    client.send("Watch:k\n");
    client.sync();
    let handle = server.handle.clone();
    assert_eq!(handle.stats().watching, 1);
    server.stop(Duration::ZERO);
    assert_eq!(handle.stats().watching, 0);
}
