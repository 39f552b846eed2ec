//! A connection that is shut down, breaks or stays silent, and one that takes its place.

use std::{
    io,
    net::TcpListener,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use futures_lite::{AsyncRead, AsyncWrite, future};
use keywire::{Client, Error, Server, protocol::Code};

use super::connect;
use crate::common::{TestServer, is_unsent, wait_until};

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
                    assert!(error.is_disconnected(), "{error}");
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
            is_unsent(&error) || matches!(error, Error::Refused { code, .. } if code == closing),
            "{error}"
        );
    });
}

/// TLS whose peer was killed: it ends without `close_notify`.
struct Truncated;

impl AsyncRead for Truncated {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let words = "peer closed connection without sending TLS close_notify";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, words)))
    }
}

impl AsyncWrite for Truncated {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn an_end_without_close_notify_is_an_end() {
    let client = Client::from_stream(Truncated);
    let error = future::block_on(client.get("k")).unwrap_err();
    assert!(matches!(error, Error::Disconnected(None)), "{error:?}");
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

/// A call is told apart that was never sent.
#[test]
fn a_client_that_is_closed_sends_nothing_more() {
    let server = TestServer::start(Server::new());
    future::block_on(async {
        let client = connect(&server).await;
        let clone = client.clone();
        client.put("k", "v").await.unwrap();
        client.close();
        let error = clone.put("k", "w").await.unwrap_err();
        assert!(error.is_disconnected() && !error.may_be_applied());
        let text = error.to_string();
        assert_eq!(text, "nothing was sent: the connection is over");
        clone.close();
    });
    server.await_counts(0, 1);
    let store = server.stop(Duration::ZERO);
    assert!(store.get(b"k").eq([b"v"]));
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
            client.close();
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
