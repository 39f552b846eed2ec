//! A client in the process of its server, without a socket.

use std::{pin::pin, time::Duration};

use futures_lite::{StreamExt as _, future};
use keywire::{Client, Error, Event, Outcome, Secret, Server, protocol::Code, store::Memory};

use crate::common::{TestServer, local::LocalServer, stores::ManualClock};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn local(server: Server) -> LocalServer<Memory> {
    LocalServer::new(server)
}

/// A client that the server has admitted.
pub(crate) fn client(server: &mut LocalServer<Memory>) -> Client {
    let handle = server.handle.clone();
    server.finish(async {
        let client = handle.client().await.unwrap();
        client.sync().await.unwrap();
        client
    })
}

/// What a call fails with that the server refused.
pub(crate) fn code(result: Result<(), Error>) -> Code {
    match result.unwrap_err() {
        Error::Refused { code, .. } | Error::Unconfirmed { code, .. } => code,
        error => panic!("{error:?}"),
    }
}

#[test]
fn it_reads_and_writes_and_watches() {
    let server = TestServer::start(Server::new());
    future::block_on(async {
        let client = server.handle.client().await.unwrap();
        let mut watcher = client.watch_prefix("us").await.unwrap();
        client.put("user", "alice").await.unwrap();
        client.put("user", "bob").await.unwrap();
        client.update("user", "alice", "charlie").await.unwrap();
        assert_eq!(client.get("user").await.unwrap(), [&b"charlie"[..], b"bob"]);
        client.delete("user").await.unwrap();
        assert!(client.get("user").await.unwrap().is_empty());
        let key = || b"user".to_vec();
        let expected = [
            Event::Put {
                key: key(),
                value: b"alice".to_vec(),
            },
            Event::Put {
                key: key(),
                value: b"bob".to_vec(),
            },
            Event::Update {
                key: key(),
                old: b"alice".to_vec(),
                new: b"charlie".to_vec(),
            },
            Event::Delete { key: key() },
        ];
        for event in expected {
            assert_eq!(watcher.next().await.unwrap().unwrap(), event);
        }
        let outcomes = client.pipeline().put("k", "v").get("k").send().await;
        let outcomes: Vec<_> = outcomes.unwrap().into_iter().map(Result::unwrap).collect();
        assert_eq!(
            outcomes,
            [Outcome::Done, Outcome::Values(vec![b"v".to_vec()])]
        );
    });
}

#[test]
fn it_has_one_history_with_clients_of_sockets() {
    let server = TestServer::start(Server::new());
    let mut socket = server.connect();
    future::block_on(async {
        let client = server.handle.client().await.unwrap();
        let mut watcher = client.watch("k").await.unwrap();
        socket.send("Put:k:socket\nSync\n");
        assert_eq!(socket.text(), ":sync:0:");
        assert_eq!(client.get("k").await.unwrap(), [b"socket"]);
        client.put("k", "process").await.unwrap();
        socket.send("Get:k\n");
        assert_eq!(socket.texts(2), ["k:socket", "k:process"]);
        for expected in ["socket", "process"] {
            let event = watcher.next().await.unwrap().unwrap();
            assert!(matches!(event, Event::Put { value, .. } if value == expected.as_bytes()));
        }
    });
}

/// Longer than what a pipe holds, in both directions.
#[test]
fn long_values_come_through_whole() {
    let server = Server::builder().max_line(usize::MAX).build();
    let server = TestServer::start(server);
    let long = "0123456789".repeat(100_000);
    future::block_on(async {
        let client = server.handle.client().await.unwrap();
        for _ in 0..3 {
            client.put("k", &long).await.unwrap();
        }
        let values = client.get("k").await.unwrap();
        assert!(values.len() == 3 && values.iter().all(|value| value == long.as_bytes()));
    });
}

#[test]
fn it_is_counted_like_any_client() {
    let mut server = local(Server::new());
    let first = client(&mut server);
    let second = client(&mut server);
    let clone = first.clone();
    drop(first);
    let stats = server.stats();
    assert_eq!((stats.active, stats.dropped), (2, 0));
    drop(clone);
    let stats = server.stats();
    assert_eq!((stats.active, stats.dropped), (1, 1));
    let counted = server.finish(second.stats()).unwrap();
    assert_eq!((counted.active, counted.dropped), (1, 1));
    // A watcher holds the connection, too.
    let watcher = server.finish(second.watch("k")).unwrap();
    drop(second);
    assert_eq!(server.stats().active, 1);
    drop(watcher);
    assert_eq!((server.stats().active, server.stats().watching), (0, 0));
}

#[test]
fn one_too_many_is_refused() {
    let mut server = local(Server::builder().max_clients(2).build());
    let first = client(&mut server);
    let socket = server.connect();
    let handle = server.handle.clone();
    let one_more = server.finish(handle.client()).unwrap();
    assert_eq!(code(server.finish(one_more.put("k", "v"))), Code::Full);
    let stats = server.stats();
    assert_eq!((stats.active, stats.refused, stats.full_clients), (2, 1, 1));
    drop(socket);
    server.run();
    let second = client(&mut server);
    server.finish(second.put("k", "v")).unwrap();
    assert_eq!(server.finish(first.get("k")).unwrap(), [b"v"]);
}

#[test]
fn it_needs_no_secret() {
    let secret = Secret::new("open:sesame").unwrap();
    let server = Server::builder().secret(secret.clone()).build();
    let mut server = local(server);
    let inside = client(&mut server);
    server.finish(inside.put("k", "v")).unwrap();
    // It may send one all the same.
    server.finish(inside.authenticate(&secret)).unwrap();
    assert_eq!(server.stats().unauthorized, 0);
    // What is attached needs it.
    let mut attached = server.connect();
    attached.send("Get:k\n");
    assert_eq!(attached.receive_all(&mut server), "");
    let mut admitted = server.connect();
    admitted.send("Auth:open:sesame\nGet:k\n");
    assert_eq!(admitted.receive_all(&mut server), "k:v\n");
}

#[test]
fn it_has_no_address_to_be_counted() {
    let server = Server::builder().max_clients_per_address(1).build();
    let server = TestServer::start(server);
    let mut socket = server.connect();
    socket.sync();
    future::block_on(async {
        let mut clients = Vec::new();
        for _ in 0..3 {
            let client = server.handle.client().await.unwrap();
            client.sync().await.unwrap();
            clients.push(client);
        }
    });
    let mut second = server.connect();
    assert!(second.text().starts_with(":error:0:full:"));
}

#[test]
fn it_is_under_the_limits_of_lines() {
    let clock = ManualClock::new();
    let server = Server::builder()
        .clock(clock.clone())
        .max_line(100)
        .max_line_rate(2)
        .build();
    let mut server = local(server);
    // Its Sync was the first line, and the second is the put.
    let client = client(&mut server);
    let mut put = pin!(client.put("k", "v"));
    assert!(server.run_with(put.as_mut()).is_none());
    clock.advance(SECOND);
    server.run_with(put.as_mut()).unwrap().unwrap();
    assert_eq!(server.stats().throttled, 1);
    clock.advance(SECOND);
    let long = "x".repeat(100);
    assert_eq!(code(server.finish(client.put("k", long))), Code::TooLong);
}

#[test]
fn it_is_under_the_idle_timeout() {
    let clock = ManualClock::new();
    let server = Server::builder().clock(clock.clone()).idle_timeout(SECOND);
    let mut server = local(server.build());
    let client = client(&mut server);
    let mut watcher = server.finish(client.watch("k")).unwrap();
    clock.advance(SECOND);
    server.run();
    assert_eq!(server.stats().idle, 1);
    let end = server.finish(watcher.next()).unwrap().map(|_| ());
    assert_eq!(code(end), Code::Closing);
    assert_eq!(code(server.finish(client.put("k", "v"))), Code::Closing);
    clock.advance(SECOND);
    assert_eq!((server.stats().active, server.stats().dropped), (0, 1));
}

/// A program that does not read its events is a slow client: they are missed, and nobody waits.
#[test]
fn one_that_does_not_read_is_a_slow_client() {
    let server = Server::builder().outbox_bytes(1000).build();
    let mut server = local(server);
    let slow = client(&mut server);
    let mut watcher = server.finish(slow.watch("k")).unwrap();
    let other = client(&mut server);
    let value = "x".repeat(1000);
    let puts = 200; // more than a pipe holds
    for _ in 0..puts {
        server.finish(other.put("k", &value)).unwrap();
    }
    let missed = server.stats().missed;
    assert!(missed > 0);
    let mut seen = 0;
    while seen < puts {
        seen += match server.finish(watcher.next()).unwrap().unwrap() {
            Event::Missed(changes) => changes,
            _ => 1,
        };
    }
    assert_eq!((seen, server.stats().missed), (puts, missed));
}
