//! How a client comes to its connections, and when it gives up.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_lite::{StreamExt as _, future};
use keywire::{Client, ConnectionState, Error, Secret, Server, protocol::Code};

use super::comes_back::{builder, connected, poll_until, start};
use crate::common::{TestServer, proxy::Proxy};

#[test]
fn several_addresses_are_tried_in_turn() {
    let (server, proxy) = start();
    let nobody = Proxy::start(server.address);
    nobody.refuse(true);
    future::block_on(async {
        let client = Client::builder()
            .address(nobody.address)
            .address(proxy.address)
            .connect()
            .await
            .unwrap();
        client.put("k", "v").await.unwrap();
        proxy.refuse(true);
        nobody.refuse(false);
        proxy.cut();
        smol::Timer::after(Duration::from_millis(50)).await;
        assert_eq!(client.get("k").await.unwrap(), [b"v"]);
        assert_eq!((nobody.accepted(), proxy.accepted()), (2, 2));
    });
}

#[test]
fn the_secret_is_said_on_each_connection_and_a_wrong_one_is_the_end() {
    let secret = |text| Secret::new(text).unwrap();
    let guarded = |text| TestServer::start(Server::builder().secret(secret(text)).build());
    let server = guarded("one");
    let proxy = Proxy::start(server.address);
    future::block_on(async {
        let is_unauthorized = |error: &Error| match error {
            Error::Refused { code, .. } => *code == Code::Unauthorized,
            _ => false,
        };
        for wrong in [builder(&proxy), builder(&proxy).secret(secret("sesame"))] {
            let error = wrong.connect().await.unwrap_err();
            assert!(is_unauthorized(&error), "{error}");
        }
        let client = builder(&proxy)
            .secret(secret("one"))
            .connect()
            .await
            .unwrap();
        client.put("k", "v").await.unwrap();
        proxy.cut();
        smol::Timer::after(Duration::from_millis(50)).await;
        assert_eq!(client.get("k").await.unwrap(), [b"v"]);

        let mut watcher = client.watch("k").await.unwrap();
        let other = guarded("two");
        proxy.set_upstream(other.address);
        proxy.cut();
        let error = watcher.next().await.unwrap().unwrap_err();
        assert!(is_unauthorized(&error), "{error}");
        assert!(watcher.next().await.is_none());
        let accepted = proxy.accepted();
        for _ in 0..3 {
            let error = client.put("k", "w").await.unwrap_err();
            assert!(is_unauthorized(&error), "{error}");
        }
        assert_eq!(proxy.accepted(), accepted);
    });
}

#[test]
fn a_first_connection_that_fails_is_an_error() {
    let (_server, proxy) = start();
    proxy.refuse(true);
    future::block_on(async {
        let error = builder(&proxy).connect().await.unwrap_err();
        assert!(
            error.is_disconnected() && !error.may_be_applied(),
            "{error}"
        );
        let none = Client::builder();
        for error in [
            none.connect().await.unwrap_err(),
            Client::builder()
                .reconnect(false)
                .build()
                .sync()
                .await
                .unwrap_err(),
        ] {
            assert!(matches!(error, Error::Connect(_)), "{error}");
        }
        proxy.refuse(false);
        // Without reconnection, the first connection is the last.
        let client = builder(&proxy).reconnect(false).connect().await.unwrap();
        client.put("k", "v").await.unwrap();
        proxy.cut();
        smol::Timer::after(Duration::from_millis(50)).await;
        assert!(client.get("k").await.unwrap_err().is_disconnected());
        assert!(client.get("k").await.unwrap_err().is_disconnected());
        assert_eq!(proxy.accepted(), 2);
    });
}

#[test]
fn an_observer_hears_of_each_connection() {
    let (_server, proxy) = start();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let log = heard.clone();
    let observe = move |state| {
        log.lock().unwrap().push(match state {
            ConnectionState::Connected { address } => address,
            ConnectionState::Lost { .. } => "lost".into(),
            _ => "failed".into(),
        })
    };
    future::block_on(async {
        let client = builder(&proxy)
            .on_connection(observe)
            .connect()
            .await
            .unwrap();
        proxy.refuse(true);
        proxy.cut();
        let mut get = Box::pin(client.get("k"));
        poll_until(get.as_mut(), || heard.lock().unwrap().len() > 3).await;
        proxy.refuse(false);
        get.await.unwrap();
    });
    let heard = heard.lock().unwrap();
    let address = proxy.address.to_string();
    let (first, last) = (heard.first().unwrap(), heard.last().unwrap());
    assert_eq!((first, &heard[1][..], last), (&address, "lost", &address));
    assert!(
        heard[2..heard.len() - 1]
            .iter()
            .all(|word| word == "failed")
    );
}

#[test]
fn closing_it_ends_everything() {
    let (_server, proxy) = start();
    future::block_on(async {
        let client = connected(&proxy).await;
        let mut watcher = client.watch("k").await.unwrap();
        proxy.refuse(true);
        proxy.cut();
        smol::Timer::after(Duration::from_millis(50)).await;
        let waiting = client.put("k", "v");
        let close = async {
            let accepted = proxy.accepted();
            while proxy.accepted() < accepted + 3 {
                smol::Timer::after(Duration::from_millis(1)).await;
            }
            client.close();
        };
        let (result, ()) = future::zip(waiting, close).await;
        let error = result.unwrap_err();
        assert!(matches!(error, Error::NotSent(_)), "{error}");
        let error = watcher.next().await.unwrap().unwrap_err();
        assert!(error.is_disconnected());
        assert!(watcher.next().await.is_none());
        let accepted = proxy.accepted();
        client.get("k").await.unwrap_err();
        client.mirror("k").await.unwrap_err();
        assert_eq!(proxy.accepted(), accepted);
    });
}

#[test]
fn nothing_is_left_of_a_client_whose_last_handle_is_dropped() {
    let (server, proxy) = start();
    future::block_on(async {
        let client = connected(&proxy).await;
        let mirror = client.mirror_prefix("").await.unwrap();
        let watcher = client.watch("k").await.unwrap();
        drop(client);
        drop(mirror);
        assert_eq!(server.handle.stats().active, 1);
        drop(watcher);
    });
    server.await_counts(0, 1);
}
