//! The two counts, as clients come and go.

use std::time::Duration;

use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future};
use keywire::Server;

use crate::common::{TestServer, wait_until};

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

#[test]
fn rounds_and_the_fullest_outbox_of_each_are_sampled() {
    let server = TestServer::start(Server::builder().outbox_lines(10).build());
    let handle = server.handle.clone();
    let mut client = server.connect();
    let rounds = |fill: f64| {
        let buckets = handle.histograms().outbox_fill;
        let buckets: Vec<_> = buckets.buckets().collect();
        buckets.iter().find(|&&(bound, _)| bound == fill).unwrap().1
    };
    // A line of ten.
    client.sync();
    wait_until("the round is counted", || rounds(0.1) == 1);
    // These are 25 of ten, queued as a whole.
    client.send("Put:k:v\n".repeat(25));
    client.sync();
    client.send("Get:k\n");
    client.texts(25);
    wait_until("the round is counted", || rounds(5.0) == 1);
    let histograms = handle.histograms();
    assert_eq!(histograms.round.count(), histograms.outbox_fill.count());
    assert!(histograms.round.sum() > 0.0);
    // That is for stores that have a disk, or nodes.
    assert_eq!((histograms.commit, histograms.node_answer), (None, None));
    let rounds = histograms.round.count();
    server.stop(Duration::ZERO);
    assert!(handle.histograms().round.count() >= rounds);
}

#[test]
fn a_handle_knows_when_the_server_ends() {
    let server = TestServer::start(Server::new());
    let handle = server.handle.clone();
    assert!(!handle.is_shutting_down());
    let mut client = server.connect();
    client.send("Put:k:1\n".repeat(10));
    client.sync();
    assert!(!handle.is_shutting_down());
    server.stop(Duration::ZERO);
    assert!(handle.is_shutting_down() && handle.is_closed());
}
