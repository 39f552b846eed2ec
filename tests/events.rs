//! What a server tells the log of the program around it: not what clients say, and not without end.

mod common;

use std::{
    fmt::{Debug, Write as _},
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use common::{local::LocalServer, loopback, stores::ManualClock};
use futures_lite::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, future};
use keywire::{Listener, Overflow, Secret, Server};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::with_default,
};

/// Writes every event on a line.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<String>>);

impl Recorder {
    fn heard(&self) -> String {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "keywire"
    }

    fn event(&self, event: &Event<'_>) {
        let mut lines = self.0.lock().unwrap();
        write!(lines, "{}", event.metadata().level()).unwrap();
        event.record(&mut Line(&mut lines));
        lines.push('\n');
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

struct Line<'a>(&'a mut String);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => write!(self.0, " {value:?}"),
            "suppressed" if format!("{value:?}") == "0" => Ok(()),
            name => write!(self.0, " {name}={value:?}"),
        }
        .unwrap();
    }
}

/// Fails in its own words, as a TLS handshake does.
struct Broken;

impl AsyncRead for Broken {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let words = "the client speaks no TLS";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, words)))
    }
}

impl AsyncWrite for Broken {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn a_connection_that_breaks_is_told_in_the_words_of_its_transport() {
    let recorder = Recorder::default();
    with_default(recorder.clone(), || {
        let mut server = LocalServer::new(Server::new());
        server.attach(Broken);
        server.run_until("it is gone", |stats| stats.dropped == 1);
        assert_eq!(
            recorder.heard(),
            "DEBUG client connected client=1\n\
             DEBUG client disconnected client=1 error=the client speaks no TLS\n"
        );
    });
}

#[test]
fn clients_come_and_go_and_are_refused() {
    let recorder = Recorder::default();
    with_default(recorder.clone(), || {
        let server = Server::builder().max_clients(1).outbox_lines(1);
        let server = server
            .overflow(Overflow::Disconnect)
            .stall_timeout(Duration::ZERO);
        let mut server = LocalServer::new(server.build());
        let mut client = server.connect_with(8);
        assert_eq!(recorder.heard(), "DEBUG client connected client=1\n");
        server.connect();
        server.run();
        let words = "connection refused: the server has as many clients as it may";
        assert_eq!(recorder.heard(), format!("WARN {words}\n"));
        client.send("Put:hush:secret\nGet:hush\nGet:hush\nGet:hush\nGet:hush\n");
        server.run_until("it is cut off", |stats| stats.active == 0);
        let error = "connection aborted";
        assert_eq!(
            recorder.heard(),
            format!(
                "WARN disconnected: the client does not read client=1\n\
                 DEBUG client disconnected client=1 error={error}\n"
            )
        );
        let mut polite = server.connect();
        polite.half_close();
        server.run();
        server.shut_down();
        assert_eq!(
            recorder.heard(),
            "DEBUG client connected client=2\nDEBUG client disconnected client=2\nINFO shutting down clients=0\nDEBUG closed\n"
        );
    });
}

#[test]
fn replies_and_events_that_are_lost_are_told_without_their_words() {
    let recorder = Recorder::default();
    with_default(recorder.clone(), || {
        let clock = ManualClock::new();
        let server = Server::builder().outbox_lines(1).clock(clock.clone());
        let mut server = LocalServer::new(server.outbox_bytes(30).build());
        let (mut client, mut watcher) = (server.connect_with(8), server.connect_with(8));
        watcher.send("Watch:hush\n");
        client.send("Put:hush:secret\nGet:hush\nGet:hush\nGet:hush\nGet:hush\n");
        server.run();
        recorder.heard();
        clock.advance(Duration::from_secs(1));
        server.run();
        let lost = "replies dropped: the client does not read";
        assert_eq!(recorder.heard(), format!("WARN {lost} client=1 lines=3\n"));
        client.send("Put:hush:secret\nPut:hush:secret\n");
        server.run();
        let missed = "events missed: the watcher does not keep up";
        assert_eq!(
            recorder.heard(),
            format!("INFO {missed} client=2 events=2\n")
        );
    });
}

/// Each kind of event that a client can cause has its budget, and what was suppressed is counted.
#[test]
fn a_flood_makes_few_events() {
    let recorder = Recorder::default();
    with_default(recorder.clone(), || {
        let clock = ManualClock::new();
        let secret = Secret::new("sesame").unwrap();
        let server = Server::builder().clock(clock.clone()).secret(secret);
        let mut server = LocalServer::new(server.build());
        for _ in 0..3 {
            let mut guesses: Vec<_> = (0..100).map(|_| server.connect()).collect();
            for guess in &mut guesses {
                guess.send("Auth:open\nAuth:sesam\nAuth:seesam\n");
            }
            for _ in 0..4 {
                server.run();
                clock.advance(Duration::from_secs(1));
            }
        }
        server.run();
        let heard = recorder.heard();
        assert!(!heard.contains("sesam"), "{heard}");
        let failures: Vec<_> = heard
            .lines()
            .filter(|line| line.contains("secret"))
            .collect();
        assert_eq!(failures.len(), 3 * 3 * 20, "{heard}");
        assert_eq!(
            failures[0],
            "WARN unauthorized: a wrong secret, or none client=1"
        );
        assert_eq!(
            failures[20],
            "WARN unauthorized: a wrong secret, or none suppressed=80 client=1"
        );
        assert!(heard.lines().count() < 3 * 5 * 3 * 20);
    });
}

/// Never has a descriptor for another connection.
struct Exhausted;

impl Listener for Exhausted {
    type Connection = Broken;

    async fn accept(&mut self) -> io::Result<(Broken, Option<IpAddr>)> {
        Err(io::Error::other("too many open files"))
    }
}

#[test]
fn a_listener_that_fails_all_the_time_is_in_the_log_every_ten_seconds() {
    let recorder = Recorder::default();
    with_default(recorder.clone(), || {
        let clock = ManualClock::new();
        let server = Server::builder().clock(clock.clone()).listen(Exhausted);
        let mut server = LocalServer::new(server.build());
        let mut seconds = |seconds: u32| {
            for _ in 0..seconds * 20 {
                server.run();
                clock.advance(Duration::from_millis(50));
            }
        };
        let words = "a listener failed to accept a connection";
        let error = "error=too many open files";
        seconds(10);
        assert_eq!(recorder.heard(), format!("WARN {words} {error}\n"));
        seconds(10);
        assert_eq!(
            recorder.heard(),
            format!("WARN {words} suppressed=199 {error}\n")
        );
    });
}

#[test]
fn an_address_is_told_where_there_is_one() {
    let recorder = Recorder::default();
    let (listener, address) = loopback();
    let server = Server::builder().listen(listener).build();
    let handle = server.handle();
    let client = async {
        let mut client = async_net::TcpStream::connect(address).await.unwrap();
        client.write_all(b"Sync\n").await.unwrap();
        client.read_exact(&mut [0; 9]).await.unwrap();
        handle.shutdown(Duration::ZERO).await;
    };
    with_default(recorder.clone(), || {
        future::block_on(future::zip(server.run(), client));
    });
    let heard = recorder.heard();
    let joined = "DEBUG client connected client=1 address=127.0.0.1\n";
    assert!(heard.starts_with(joined), "{heard}");
}
