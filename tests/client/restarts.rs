//! A client whose server is shut down and comes back with its store.

use std::time::Duration;

use futures_lite::future;
use keywire::Server;

use super::comes_back::{connected, start};
use crate::common::TestServer;

/// A server that shuts down is left for the next one: nobody who reads is told.
#[test]
fn a_restart_is_no_error_to_readers() {
    let (mut server, proxy) = start();
    future::block_on(async {
        let client = connected(&proxy).await;
        client.set("k", "v").await.unwrap();
        for _ in 0..5 {
            let restart = async {
                smol::Timer::after(Duration::from_millis(30)).await;
                let store = smol::unblock(move || server.stop(Duration::from_secs(5))).await;
                let server = TestServer::start(Server::builder().store(store).build());
                proxy.set_upstream(server.address);
                server
            };
            let reads = async {
                loop {
                    assert_eq!(client.get("k").await.unwrap(), [b"v"]);
                }
            };
            server = future::or(restart, reads).await;
        }
        assert_eq!(client.get("k").await.unwrap(), [b"v"]);
    });
}

#[test]
fn writes_over_restarts_are_never_applied_twice() {
    let (mut server, proxy) = start();
    let mut outcomes = Vec::new();
    let store = future::block_on(async {
        let client = connected(&proxy).await;
        for _ in 0..8 {
            let restart = async {
                smol::Timer::after(Duration::from_millis(30)).await;
                let store = smol::unblock(move || server.stop(Duration::ZERO)).await;
                let server = TestServer::start(Server::builder().store(store).build());
                proxy.set_upstream(server.address);
                server
            };
            let writes = async {
                loop {
                    let number = outcomes.len();
                    outcomes.push(None);
                    outcomes[number] = Some(client.put("k", number.to_string()).await);
                }
            };
            server = future::or(restart, writes).await;
        }
        drop(client);
        server.stop(Duration::from_secs(5))
    });
    let values: Vec<_> = store.get(b"k").map(<[u8]>::to_vec).collect();
    for (number, outcome) in outcomes.iter().enumerate() {
        let number = number.to_string().into_bytes();
        let count = values.iter().filter(|value| **value == number).count();
        match outcome {
            Some(Ok(())) => assert_eq!(count, 1),
            Some(Err(error)) if error.may_be_applied() => assert!(count <= 1, "{error}"),
            Some(Err(error)) => assert_eq!(count, 0, "{error}"),
            None => assert!(count <= 1),
        }
    }
    assert!(outcomes.iter().flatten().any(Result::is_ok));
}
