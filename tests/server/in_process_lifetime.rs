//! A client in the process of its server: before the run, at shutdown, and when either is dropped.

use std::{pin::pin, time::Duration};

use futures_lite::{StreamExt as _, future};
use keywire::{Error, Event, Server, protocol::Code};

use crate::{
    common::TestServer,
    in_process::{SECOND, client, code, local},
};

#[test]
fn before_the_run_it_waits() {
    let server = Server::new();
    let handle = server.handle();
    let client = future::block_on(handle.client()).unwrap();
    let mut put = pin!(client.put("k", "v"));
    assert!(future::block_on(future::poll_once(put.as_mut())).is_none());
    let mut server = local(server);
    server.run_with(put.as_mut()).unwrap().unwrap();
    assert_eq!(server.shut_down().get(b"k").len(), 1);
}

#[test]
fn if_the_run_begins_with_a_shutdown_its_calls_are_refused() {
    let server = Server::new();
    let handle = server.handle();
    let client = future::block_on(handle.client()).unwrap();
    let mut put = pin!(client.put("k", "v"));
    for _ in 0..2 {
        assert!(future::block_on(future::poll_once(put.as_mut())).is_none());
    }
    let mut shutdown = pin!(handle.shutdown(SECOND));
    assert!(future::block_on(future::poll_once(shutdown.as_mut())).is_none());
    let (store, put) = future::block_on(future::zip(server.run(), put));
    future::block_on(shutdown);
    assert_eq!(code(put), Code::Closing);
    assert_eq!(store.iter().count(), 0);
}

/// The queue of incoming connections is bounded, so that one too many waits until the server takes
/// the first. A call that is dropped meanwhile leaves nothing.
#[test]
fn many_before_the_run_wait_for_it_or_for_the_end() {
    const WAITING: usize = 64;
    for runs in [true, false] {
        let server = Server::new();
        let handle = server.handle();
        let clients: Vec<_> = (0..WAITING)
            .map(|_| future::block_on(handle.client()).unwrap())
            .collect();
        {
            let mut dropped = pin!(handle.client());
            assert!(future::block_on(future::poll_once(dropped.as_mut())).is_none());
        }
        let mut one_more = pin!(handle.client());
        assert!(future::block_on(future::poll_once(one_more.as_mut())).is_none());
        if runs {
            let mut server = local(server);
            let one_more = server.run_with(one_more).unwrap().unwrap();
            server.finish(one_more.sync()).unwrap();
            assert_eq!(server.stats().active, WAITING as u64 + 1);
            drop(clients);
            assert_eq!(server.stats().active, 1);
        } else {
            drop(server);
            let result = future::block_on(one_more);
            assert!(matches!(result, Err(Error::Closed)));
            let result = future::block_on(clients[0].sync());
            assert!(matches!(result, Err(Error::Disconnected(_))));
        }
    }
}

#[test]
fn hundreds_may_come_at_once() {
    const CLIENTS: u64 = 300;
    let server = TestServer::start(Server::new());
    let handle = server.handle.clone();
    let executor = smol::Executor::new();
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let handle = &handle;
            executor.spawn(async move {
                let client = handle.client().await.unwrap();
                client.put("k", number.to_string()).await.unwrap();
                client
            })
        })
        .collect();
    let mut clients = Vec::new();
    future::block_on(executor.run(async {
        for task in tasks {
            clients.push(task.await);
        }
    }));
    server.await_counts(CLIENTS, 0);
    drop(clients);
    server.await_counts(0, CLIENTS);
    assert_eq!(server.stop(SECOND).get(b"k").len() as u64, CLIENTS);
}

#[test]
fn at_shutdown_calls_fail_with_closing() {
    let server = Server::new();
    let handle = server.handle();
    let mut server = local(server);
    let client = client(&mut server);
    let mut watcher = server.finish(client.watch("k")).unwrap();
    server.finish(client.put("k", "v")).unwrap();
    let mut shutdown = pin!(handle.shutdown(10 * SECOND));
    assert!(server.run_with(shutdown.as_mut()).is_none());
    // The change was before it.
    let event = server.finish(watcher.next()).unwrap();
    assert!(matches!(event, Ok(Event::Put { .. })), "{event:?}");
    let end = server.finish(watcher.next()).unwrap().map(|_| ());
    assert_eq!(code(end), Code::Closing);
    assert_eq!(code(server.finish(client.put("k", "late"))), Code::Closing);
    let result = server.finish(handle.client());
    assert!(matches!(result, Err(Error::Closed)));
    let store = server.shut_down();
    future::block_on(shutdown);
    assert_eq!(store.get(b"k").len(), 1);
    let result = future::block_on(handle.client());
    assert!(matches!(result, Err(Error::Closed)));
}

/// Nobody has to drive a client for the server to end.
#[test]
fn a_client_that_nobody_polls_does_not_hold_up_a_shutdown() {
    let server = TestServer::start(Server::new());
    let client = future::block_on(server.handle.client()).unwrap();
    future::block_on(client.put("k", "v")).unwrap();
    let handle = server.handle.clone();
    // The grace has no end.
    server.stop(Duration::MAX);
    assert_eq!((handle.stats().active, handle.stats().dropped), (0, 1));
    assert_eq!(code(future::block_on(client.sync())), Code::Closing);
}

#[test]
fn when_the_server_is_dropped_calls_and_watchers_fail() {
    let mut server = local(Server::new());
    let handle = server.handle.clone();
    let client = client(&mut server);
    let mut watcher = server.finish(client.watch("k")).unwrap();
    let mut next = pin!(watcher.next());
    assert!(server.run_with(next.as_mut()).is_none());
    drop(server);
    assert!(handle.is_closed());
    assert_eq!((handle.stats().active, handle.stats().dropped), (0, 1));
    let end = future::block_on(next).unwrap();
    assert!(matches!(end, Err(Error::Disconnected(_))), "{end:?}");
    let result = future::block_on(client.put("k", "v"));
    assert!(result.is_err_and(|error| error.is_disconnected() && !error.may_be_applied()));
}

/// What it had sent is applied.
#[test]
fn when_the_client_is_dropped_its_connection_ends() {
    let mut server = local(Server::new());
    let client = client(&mut server);
    {
        // Twice, as the first poll lets other calls come along.
        let mut put = pin!(client.put("k", "v"));
        for _ in 0..2 {
            assert!(future::block_on(future::poll_once(put.as_mut())).is_none());
        }
    }
    drop(client);
    let stats = server.stats();
    assert_eq!((stats.active, stats.dropped), (0, 1));
    assert_eq!(server.shut_down().get(b"k").len(), 1);
}

#[test]
fn nothing_of_it_stays_behind_whichever_end_goes_first() {
    let run = |server_goes_first: bool| {
        let mut server = local(Server::new());
        let client = client(&mut server);
        let watcher = server.finish(client.watch("k")).unwrap();
        server.finish(client.put("k", "v")).unwrap();
        if server_goes_first {
            drop(server);
            drop((client, watcher));
        } else {
            drop((client, watcher));
            assert_eq!(server.stats().active, 0);
        }
    };
    for server_goes_first in [true, false] {
        // The first time, a thread makes what it keeps.
        run(server_goes_first);
        let allocated = allocation_counter::measure(|| run(server_goes_first));
        assert_eq!(allocated.bytes_current, 0, "{allocated:?}");
    }
}
