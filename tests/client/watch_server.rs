//! Watchers of a server.

use std::{collections::VecDeque, time::Duration};

use futures_lite::{StreamExt as _, future};
use keywire::{Client, Error, Event, Server, protocol::Code};

use crate::common::{
    DEADLINE, TestServer,
    events::{next, put},
};

#[test]
fn a_watcher_who_is_always_there_misses_nothing() {
    const CHANGES: usize = 50_000;
    let server = TestServer::start(Server::new());
    smol::block_on(async {
        let mut watcher = Client::connect(server.address)
            .await
            .unwrap()
            .watch("k")
            .await
            .unwrap();
        let writer = Client::connect(server.address).await.unwrap();
        let write = async {
            let puts = (0..CHANGES).fold(writer.pipeline(), |puts, number| {
                puts.put("k", number.to_string())
            });
            puts.send().await.unwrap();
        };
        let hear = async {
            for number in 0..CHANGES {
                assert_eq!(next(&mut watcher).await, put("k", number));
            }
        };
        future::zip(write, hear).await;
    });
}

/// Replaying events on a snapshot gives what is there, while others write and delete.
#[test]
fn a_snapshot_and_its_events_are_the_whole_story() {
    const WRITES: usize = 2000;
    let server = TestServer::start(Server::new());
    let address = server.address;
    let writer = std::thread::spawn(move || {
        future::block_on(async {
            let client = Client::connect(address).await.unwrap();
            for n in 0..WRITES {
                if n % 5 == 4 {
                    client.delete("k").await.unwrap();
                } else {
                    client.put("k", n.to_string()).await.unwrap();
                }
            }
            client.put("k", "end").await.unwrap();
        });
    });
    future::block_on(async {
        let client = Client::connect(address)
            .await
            .unwrap()
            .with_timeout(DEADLINE);
        for _ in 0..50 {
            let (values, mut watcher) = client.get_and_watch("k").await.unwrap();
            let mut values: VecDeque<_> = values.into();
            // A few events, or up to the end.
            for _ in 0..50 {
                if values.back().is_some_and(|last| last == b"end") {
                    break;
                }
                match next(&mut watcher).await {
                    Event::Put { value, .. } => {
                        assert!(!values.contains(&value), "told twice");
                        // Writes are numbered, so none is left out.
                        if let (Some(last), Ok(n)) = (values.back(), number(&value).ok_or(())) {
                            assert_eq!(number(last), Some(n - 1));
                        }
                        values.push_back(value);
                    }
                    Event::Delete { .. } => values.clear(),
                    other => panic!("{other:?}"),
                }
            }
        }
        let (values, _) = client.get_and_watch("k").await.unwrap();
        assert!(values.len() <= 5);
    });
    writer.join().unwrap();
}

fn number(value: &[u8]) -> Option<usize> {
    std::str::from_utf8(value).unwrap().parse().ok()
}

/// A graceful end is no crash.
#[test]
fn whoever_waits_or_is_idle_hears_that_the_server_shut_down() {
    let server = TestServer::start(Server::new());
    let closing = |error: Error| match error {
        Error::Refused { code, message, .. } => {
            assert_eq!(
                (code, &message[..]),
                (Code::Closing, "the server is shutting down")
            );
        }
        error => panic!("{error:?}"),
    };
    future::block_on(async {
        let connect = || Client::connect(server.address);
        let (watching, idle) = (connect().await.unwrap(), connect().await.unwrap());
        let mut watcher = watching.watch("k").await.unwrap();
        idle.put("k", 1.to_string()).await.unwrap();
        assert_eq!(watcher.next().await.unwrap().unwrap(), put("k", 1));
        let stop = async { server.handle.shutdown(Duration::from_secs(10)).await };
        let wait = async {
            closing(watcher.next().await.unwrap().unwrap_err());
            assert!(watcher.next().await.is_none());
        };
        future::zip(stop, wait).await;
        closing(idle.get("k").await.unwrap_err());
        for client in [watching, idle] {
            closing(client.put("k", "v").await.unwrap_err());
        }
    });
}
