//! A connection that is shut down, breaks or stays silent, and one that takes its place.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use futures_lite::future;
use keywire::{Client, Error, Server, protocol::Code};

use super::connect;
use crate::common::{DEADLINE, TestServer, wait_until};

#[test]
fn a_server_that_shuts_down_is_a_clear_error_to_all() {
    let server = TestServer::start(Server::new());
    let client = future::block_on(connect(&server));
    let failed = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            let (client, failed) = (client.clone(), &failed);
            scope.spawn(move || {
                future::block_on(async {
                    let error = loop {
                        if let Err(error) = client.put("k", "v").await {
                            break error;
                        }
                    };
                    assert!(
                        matches!(
                            error,
                            Error::Disconnected(_)
                                | Error::Refused {
                                    code: Code::Closing,
                                    ..
                                }
                                | Error::Unconfirmed {
                                    code: Code::Closing,
                                    ..
                                }
                        ),
                        "{error}"
                    );
                    failed.fetch_add(1, Ordering::Relaxed);
                });
            });
        }
        wait_until("puts are under way", || {
            server.handle.stats().commands > 100
        });
        server.stop(Duration::ZERO);
    });
    assert_eq!(failed.load(Ordering::Relaxed), 4);
    future::block_on(async {
        let error = client.get("k").await.unwrap_err();
        let closing = Code::Closing;
        assert!(
            matches!(error, Error::Disconnected(_))
                || matches!(error, Error::Refused { code, .. } if code == closing),
            "{error}"
        );
        let error = client.reconnect().await.unwrap_err();
        assert!(matches!(error, Error::Connect(_)), "{error}");
    });
}

/// Whoever waits for an event waits for ever otherwise.
#[cfg(target_os = "linux")]
#[test]
fn the_system_is_to_ask_within_a_minute_whether_a_silent_server_is_still_there() {
    let server = TestServer::start(Server::new());
    let client = future::block_on(connect(&server));
    let _watcher = future::block_on(client.watch("k")).unwrap();
    let port = format!(":{:04X}", server.address.port());
    wait_until("the keepalive timer runs", || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let fields = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut ours = fields.filter(|fields| fields[2].ends_with(&port));
        // The kind of the timer, and hundredths of a second.
        ours.any(|fields| match fields[5].split_once(':') {
            Some(("02", ticks)) => {
                let ticks = u64::from_str_radix(ticks, 16).unwrap();
                (3_000..6_100).contains(&ticks)
            }
            _ => false,
        })
    });
}

#[test]
fn reconnecting_is_one_call() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = TestServer::start(Server::new());
    let upstream = server.address;
    let relay = relay(listener, upstream, 1);
    future::block_on(async {
        let client = Client::connect(address).await.unwrap();
        let clone = client.with_timeout(DEADLINE);
        let error = client.put("k", "v").await.unwrap_err();
        assert!(matches!(error, Error::Disconnected(_)), "{error}");
        clone.put("k", "v").await.unwrap_err();
        client.reconnect().await.unwrap();
        clone.put("k", "v").await.unwrap();
        assert_eq!(client.get("k").await.unwrap(), [b"v"]);
        clone.reconnect().await.unwrap(); // nothing to do
        assert_eq!(clone.get("k").await.unwrap(), [b"v"]);
    });
    relay.join().unwrap();
    server.await_counts(0, 1);
}

/// The first connection is cut when so many bytes have come; the next one reaches the server.
fn relay(listener: TcpListener, upstream: SocketAddr, bytes: usize) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let (mut first, _) = listener.accept().unwrap();
        io::Read::read_exact(&mut first, &mut vec![0; bytes]).unwrap();
        drop(first);
        let (near, _) = listener.accept().unwrap();
        let far = std::net::TcpStream::connect(upstream).unwrap();
        let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
        let back = thread::spawn(move || io::copy(&mut &back.0, &mut &back.1));
        let _ = io::copy(&mut &near, &mut &far);
        let _ = far.shutdown(std::net::Shutdown::Both);
        let _ = back.join();
    })
}

#[test]
fn a_connection_that_ended_while_idle_is_replaced_by_one_call_too() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = TestServer::start(Server::new());
    let relay = relay(listener, server.address, 0);
    future::block_on(async {
        let client = Client::connect(address).await.unwrap();
        client.reconnect().await.unwrap();
        client.put("k", "v").await.unwrap();
    });
    relay.join().unwrap();
}

#[test]
fn several_may_reconnect_at_once() {
    let server = TestServer::start(Server::new());
    future::block_on(async {
        let client = connect(&server).await;
        client.disconnect();
        let error = client.get("k").await.unwrap_err();
        assert!(matches!(error, Error::Disconnected(None)), "{error}");
        let (one, other) = future::zip(client.reconnect(), client.reconnect()).await;
        one.unwrap();
        other.unwrap();
        client.put("k", "v").await.unwrap();
        wait_until("one of the two is gone", || {
            server.handle.stats().active == 1
        });
        // It has not ended, so there is nothing to do.
        let dropped = server.handle.stats().dropped;
        client.reconnect().await.unwrap();
        assert_eq!(client.get("k").await.unwrap(), [b"v"]);
        let stats = client.stats().await.unwrap();
        assert_eq!((stats.active, stats.dropped), (1, dropped));
    });
    wait_until("both are gone", || server.handle.stats().active == 0);
}

#[test]
fn a_silent_server_is_given_up_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    future::block_on(async {
        let client = Client::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let hasty = client.with_timeout(Duration::from_millis(20));
        let start = Instant::now();
        let error = hasty.get("k").await.unwrap_err();
        assert!(matches!(error, Error::TimedOut), "{error}");
        let error = hasty.pipeline().put("k", "v").send().await.unwrap_err();
        assert!(matches!(error, Error::TimedOut), "{error}");
        assert!(start.elapsed() >= Duration::from_millis(40));
        // The original has no limit: this would wait for ever.
        let waiting = client.get("k");
        let end = async {
            hasty.sync().await.unwrap_err();
            client.disconnect();
            std::future::pending().await
        };
        let error = future::or(waiting, end).await.unwrap_err();
        assert!(matches!(error, Error::Disconnected(None)), "{error}");
    });
}

#[test]
fn a_server_that_is_not_there_is_an_error() {
    future::block_on(async {
        let address = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let error = Client::connect(address).await.unwrap_err();
        let Error::Connect(source) = &error else {
            panic!("{error}");
        };
        assert_eq!(source.kind(), io::ErrorKind::ConnectionRefused);
    });
}
