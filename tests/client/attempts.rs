//! How a client comes to its connections, and when it gives up.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_lite::{StreamExt as _, future};
use keywire::{Client, ConnectionState, Error, Secret, Server, protocol::Code};

use super::comes_back::{builder, connected, idle, poll_until, start};
use crate::common::{
    DEADLINE, TestServer,
    proxy::Proxy,
    scripted::{self, answers},
};

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
        idle().await;
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
        idle().await;
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
        idle().await;
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
        idle().await;
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

/// However short the time limits are: a server is slow to refuse a secret.
#[test]
fn a_client_in_a_hurry_hears_that_its_secret_is_refused() {
    let secret = Secret::new("one").unwrap();
    let server = TestServer::start(Server::builder().secret(secret).build());
    let limit = Duration::from_millis(100);
    let client = Client::builder()
        .address(server.address)
        .connect_timeout(limit)
        .answer_timeout(Some(limit))
        .build();
    let error = future::block_on(client.with_timeout(DEADLINE).sync()).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
}

/// Answering and hanging up again and again does not make it come more often.
#[test]
fn a_server_that_falls_at_once_is_left_alone() {
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = accepted.clone();
    let connect = move || {
        count.fetch_add(1, Ordering::SeqCst);
        let (stream, server) = scripted::pair(|line, out| {
            if line == "Sync:1" {
                *out += ":sync:0:1\n";
            }
        });
        server.close();
        future::ready(Ok(stream))
    };
    let client = Client::builder()
        .connector(connect)
        .reconnect_delays(Duration::from_millis(20), Duration::from_secs(60))
        .build();
    let calls = async {
        loop {
            client.put("k", "v").await.unwrap_err();
            future::yield_now().await;
        }
    };
    let end = async {
        smol::Timer::after(Duration::from_millis(600)).await;
    };
    future::block_on(future::or(calls, end));
    // Waits of 10 ms at least, which double.
    let accepted = accepted.load(Ordering::SeqCst);
    assert!((2..=8).contains(&accepted), "{accepted}");
}

/// The task that has begun an attempt may go; another that waits goes on with it.
#[test]
fn an_attempt_does_not_depend_on_who_began_it() {
    let (open, opened) = async_channel::bounded::<()>(1);
    let connect = move || {
        let opened = opened.clone();
        async move {
            let _ = opened.recv().await;
            Ok(scripted::pair(answers()).0)
        }
    };
    let client = Client::builder().connector(connect).build();
    let executor = smol::LocalExecutor::new();
    let first = executor.spawn(client.put("k", "1"));
    let second = executor.spawn(client.put("k", "2"));
    while executor.try_tick() {}
    drop(first);
    while executor.try_tick() {}
    open.close();
    future::block_on(executor.run(second)).unwrap();
}
