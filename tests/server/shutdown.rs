//! Shutdown, at every moment and in every order of calls.

use std::{
    future::Future,
    pin::{Pin, pin},
    thread,
    time::Duration,
};

use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future};
use keywire::{Error, Overflow, Server, store::Memory};

use crate::common::{Client, TestServer, local::LocalServer, loopback, wait_until};

const LONG: Duration = Duration::from_secs(60);

/// Polls a future until it has nothing to do, as far as other threads allow.
fn settle<T>(mut future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    for _ in 0..20 {
        if let Some(done) = future::block_on(future::poll_once(future.as_mut())) {
            return Some(done);
        }
    }
    None
}

#[test]
fn shut_down_before_it_runs_a_server_ends_at_once() {
    let server = Server::new();
    let handle = server.handle();
    let mut shutdown = pin!(handle.shutdown(LONG));
    assert!(settle(shutdown.as_mut()).is_none());
    assert!(!handle.is_closed());
    future::block_on(server.run());
    assert!(handle.is_closed());
    future::block_on(shutdown);
    future::block_on(handle.shutdown(LONG));
    let (ours, _theirs) = async_net::unix::UnixStream::pair().unwrap();
    let attached = future::block_on(handle.attach(ours));
    assert!(matches!(attached, Err(Error::Closed)));
}

/// Whoever waits may come before the server is polled for the first time.
#[test]
fn to_wait_for_the_end_works_from_before_the_beginning() {
    for asks in [true, false] {
        let server = Server::new();
        let handle = server.handle();
        let waiting = {
            let handle = handle.clone();
            async move {
                match asks {
                    true => handle.shutdown(LONG).await,
                    false => handle.closed().await,
                }
                handle.is_closed()
            }
        };
        let mut waiting = pin!(waiting);
        assert_eq!(settle(waiting.as_mut()), None);
        let serving = thread::spawn(|| future::block_on(server.run()));
        if !asks {
            wait_until("it runs", || handle.stats().uptime > Duration::ZERO);
            assert_eq!(settle(waiting.as_mut()), None);
            future::block_on(handle.shutdown(LONG));
        }
        assert!(future::block_on(waiting));
        serving.join().unwrap();
    }
}

/// As many as fit wait for the server to take them; one more waits outside, to the end if need be.
#[test]
fn a_connection_too_many_before_the_run_waits_for_it_or_for_the_end() {
    const WAITING: usize = 64;
    for runs in [true, false] {
        let server = Server::new();
        let handle = server.handle();
        let mut others = Vec::new();
        let mut attach = || {
            let (ours, theirs) = async_net::unix::UnixStream::pair().unwrap();
            others.push(theirs);
            handle.attach(ours)
        };
        for _ in 0..WAITING {
            future::block_on(attach()).unwrap();
        }
        let mut one_more = pin!(attach());
        assert!(settle(one_more.as_mut()).is_none());
        if runs {
            let both = future::or(async { Some(one_more.await) }, async {
                server.run().await;
                None
            });
            assert!(matches!(future::block_on(both), Some(Ok(()))));
        } else {
            drop(server);
            let attached = future::block_on(one_more);
            assert!(matches!(attached, Err(Error::Closed)));
        }
    }
}

#[test]
fn a_server_that_is_dropped_without_running_is_closed() {
    let (listener, address) = loopback();
    let server = Server::builder().listen(listener).build();
    let handle = server.handle();
    let worker = handle.worker();
    drop(server);
    future::block_on(worker);
    future::block_on(handle.shutdown(LONG));
    assert!(handle.is_closed());
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn a_connection_on_its_way_in_is_closed_with_the_server() {
    let server = Server::new();
    let handle = server.handle();
    let (ours, mut theirs) = async_net::unix::UnixStream::pair().unwrap();
    future::block_on(handle.attach(ours)).unwrap();
    drop(server);
    let end = future::block_on(theirs.read(&mut [0]));
    assert_eq!(end.unwrap(), 0);
    // It never was a client, so it is not one that has gone.
    let stats = handle.stats();
    assert_eq!((stats.refused, stats.dropped), (1, 0));
}

#[test]
fn several_callers_may_wait_and_the_shortest_grace_counts() {
    let server = Server::builder().overflow(Overflow::Wait).build();
    let server = TestServer::start(server);
    let mut client = server.connect();
    client.send(format!("Put:k:{}\n", "x".repeat(60_000)));
    client.send("Get:k\n".repeat(1000));
    wait_until("replies wait", || server.handle.stats().lines_queued > 0);
    let patient: Vec<_> = (0..3)
        .map(|_| {
            let handle = server.handle.clone();
            thread::spawn(move || future::block_on(handle.shutdown(Duration::MAX)))
        })
        .collect();
    future::block_on(server.handle.shutdown(Duration::from_millis(50)));
    for caller in patient {
        caller.join().unwrap();
    }
    client.await_hang_up();
}

#[test]
fn commands_that_come_too_late_are_refused_by_number() {
    let server = Server::new();
    let handle = server.handle();
    let mut run = pin!(server.run());
    let (ours, mut theirs) = async_net::unix::UnixStream::pair().unwrap();
    future::block_on(handle.attach(ours)).unwrap();
    wait_until("the client is in", || {
        assert!(settle(run.as_mut()).is_none());
        handle.stats().active == 1
    });
    let mut shutdown = pin!(handle.shutdown(LONG));
    assert!(settle(shutdown.as_mut()).is_none());
    future::block_on(theirs.write_all(b"Put:k:v\n\nGet:k\nbad\n")).unwrap();
    let client = async {
        let mut replies = String::new();
        theirs.read_to_string(&mut replies).await.unwrap();
        drop(theirs);
        replies
    };
    let (store, replies) = future::block_on(future::zip(run, client));
    assert_eq!(
        replies,
        ":error:1:closing:the server is shutting down\n\
         :error:3:closing:the server is shutting down\n\
         :error:4:closing:the server is shutting down\n",
    );
    assert_eq!(store.iter().count(), 0);
    future::block_on(shutdown);
}

#[test]
fn all_that_stands_in_a_socket_is_refused_by_number() {
    /// Together more than one read takes.
    const LINES: usize = 40_000;
    let mut server = LocalServer::new(Server::new());
    let mut client = server.connect();
    let handle = server.handle.clone();
    let mut shutdown = pin!(handle.shutdown(LONG));
    assert!(settle(shutdown.as_mut()).is_none());
    client.send("Get:a\n".repeat(LINES));
    server.shut_down();
    future::block_on(shutdown);
    let heard = client.received();
    let mut lines = heard.lines();
    for number in 1..=LINES {
        let expected = format!(":error:{number}:closing:the server is shutting down");
        assert_eq!(lines.next(), Some(&*expected));
    }
    assert_eq!(lines.next(), None);
}

/// Drops the run future after some number of polls, with clients at every server of their work.
fn drop_after(polls: usize, workers: usize) {
    let (listener, address) = loopback();
    let server = Server::builder().listen(listener).build();
    let handle = server.handle();
    let workers: Vec<_> = (0..workers)
        .map(|_| {
            let worker = handle.worker();
            thread::spawn(|| future::block_on(worker))
        })
        .collect();
    let mut clients: Vec<_> = (0..5).map(|_| Client::connect(address)).collect();
    for client in &mut clients {
        client.send("Put:k:v\nGet:k\nSync\nPut:half");
    }
    let mut run: Pin<Box<dyn Future<Output = Memory>>> = Box::pin(server.run());
    for _ in 0..polls {
        assert!(future::block_on(future::poll_once(&mut run)).is_none());
        thread::yield_now();
    }
    drop(run);
    assert!(handle.is_closed());
    assert_eq!(handle.stats().active, 0);
    future::block_on(handle.shutdown(LONG));
    for worker in workers {
        worker.join().unwrap();
    }
    for client in clients {
        client.await_hang_up();
    }
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn the_run_future_may_be_dropped_at_any_moment() {
    for polls in 0..60 {
        drop_after(polls, 0);
    }
}

#[test]
fn the_run_future_may_be_dropped_while_workers_help() {
    for polls in 0..60 {
        drop_after(polls, 2);
    }
}

/// A client that knows control lines is told that the server closes, in its last line; one that
/// need not know them sees none.
#[test]
fn who_knows_control_lines_is_told_of_the_end() {
    let server = Server::new();
    let handle = server.handle();
    let mut server = LocalServer::new(server);
    let said = [
        ("", ""),
        ("Put:a:1\nGet:a\nUpdate:a:1:1\nDelete:b\n", "a:1\n"),
        ("Sync\n", ":sync:0:\n"),
        ("Stats\n", ":stats:"),
        ("Watch:k\n", ":watch:k\n"),
        ("WatchPrefix:\nUnwatchPrefix:\n", ":watchprefix:\n"),
        ("Auth:x\n", ""),
        ("Sync\nGet:", ":sync:0:\n"),
    ];
    let clients = said.map(|(said, heard)| {
        let mut client = server.connect();
        client.send(said);
        server.run();
        assert!(client.received().starts_with(heard));
        client
    });
    let mut ended = server.connect();
    ended.send("Sync\n");
    ended.half_close();
    assert_eq!(ended.receive_all(&mut server), ":sync:0:\n");
    let mut shutdown = Box::pin(handle.shutdown(Duration::from_secs(10)));
    assert!(future::block_on(future::poll_once(shutdown.as_mut())).is_none());
    server.run();
    for (mut client, (said, _)) in clients.into_iter().zip(said) {
        let last = match said.contains(['S', 'W', 'A']) {
            true => ":error:0:closing:the server is shutting down\n",
            false => "",
        };
        assert_eq!(client.received(), last, "after {said:?}");
        assert!(client.is_disconnected());
    }
    // Whoever was refused a line knows it by that.
    let server = Server::new();
    let handle = server.handle();
    let mut server = LocalServer::new(server);
    let mut client = server.connect();
    client.send("Sync\n");
    server.run();
    client.received();
    let mut shutdown = Box::pin(handle.shutdown(Duration::from_secs(10)));
    assert!(future::block_on(future::poll_once(shutdown.as_mut())).is_none());
    client.send("Put:a:1\n");
    server.run();
    assert_eq!(
        client.received(),
        ":error:2:closing:the server is shutting down\n"
    );
}
