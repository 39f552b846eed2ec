//! What a server tells the log of the program around it: not what clients say, and not without end.

mod common;

use std::{
    fmt::{Debug, Write as _},
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use common::{stage::Stage, stores::HandClock};
use futures_lite::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, future};
use keywire::{Overflow, Secret, Server};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::with_default,
};

/// Writes every event on a line.
#[derive(Clone, Default)]
struct Listener(Arc<Mutex<String>>);

impl Listener {
    fn heard(&self) -> String {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Subscriber for Listener {
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
    let listener = Listener::default();
    with_default(listener.clone(), || {
        let mut stage = Stage::new(Server::new());
        stage.bring(Broken);
        stage.play_until("it is gone", |stats| stats.dropped == 1);
        assert_eq!(
            listener.heard(),
            "DEBUG client connected client=1\n\
             DEBUG client disconnected client=1 error=the client speaks no TLS\n"
        );
    });
}

#[test]
fn clients_come_and_go_and_are_refused() {
    let listener = Listener::default();
    with_default(listener.clone(), || {
        let server = Server::builder().max_clients(1).outbox_lines(1);
        let server = server
            .overflow(Overflow::Disconnect)
            .stall_timeout(Duration::ZERO);
        let mut stage = Stage::new(server.build());
        let mut client = stage.join_with(8);
        assert_eq!(listener.heard(), "DEBUG client connected client=1\n");
        stage.join();
        stage.play();
        let words = "connection refused: the server has as many clients as it may";
        assert_eq!(listener.heard(), format!("WARN {words}\n"));
        client.say("Put:hush:secret\nGet:hush\nGet:hush\nGet:hush\nGet:hush\n");
        stage.play_until("it is cut off", |stats| stats.active == 0);
        let error = "connection aborted";
        assert_eq!(
            listener.heard(),
            format!("DEBUG client disconnected client=1 error={error}\n")
        );
        let mut polite = stage.join();
        polite.fall_silent();
        stage.play();
        stage.end();
        assert_eq!(
            listener.heard(),
            "DEBUG client connected client=2\nDEBUG client disconnected client=2\nINFO shutting down clients=0\nINFO closed\n"
        );
    });
}

#[test]
fn replies_and_events_that_are_lost_are_told_without_their_words() {
    let listener = Listener::default();
    with_default(listener.clone(), || {
        let clock = HandClock::new();
        let server = Server::builder().outbox_lines(1).clock(clock.clone());
        let mut stage = Stage::new(server.outbox_bytes(30).build());
        let (mut client, mut watcher) = (stage.join_with(8), stage.join_with(8));
        watcher.say("Watch:hush\n");
        client.say("Put:hush:secret\nGet:hush\nGet:hush\nGet:hush\nGet:hush\n");
        stage.play();
        listener.heard();
        clock.pass(Duration::from_secs(1));
        stage.play();
        let lost = "replies dropped: the client does not read";
        assert_eq!(listener.heard(), format!("WARN {lost} client=1 lines=3\n"));
        client.say("Put:hush:secret\nPut:hush:secret\n");
        stage.play();
        let missed = "events missed: the watcher does not keep up";
        assert_eq!(
            listener.heard(),
            format!("INFO {missed} client=2 events=2\n")
        );
    });
}

/// Each kind of event that a client can cause has its budget, and what was suppressed is counted.
#[test]
fn a_flood_makes_few_events() {
    let listener = Listener::default();
    with_default(listener.clone(), || {
        let clock = HandClock::new();
        let secret = Secret::new("sesame").unwrap();
        let server = Server::builder().clock(clock.clone()).secret(secret);
        let mut stage = Stage::new(server.build());
        for _ in 0..3 {
            let mut guesses: Vec<_> = (0..100).map(|_| stage.join()).collect();
            for guess in &mut guesses {
                guess.say("Auth:open\nAuth:sesam\nAuth:seesam\n");
            }
            for _ in 0..4 {
                stage.play();
                clock.pass(Duration::from_secs(1));
            }
        }
        stage.play();
        let heard = listener.heard();
        assert!(!heard.contains("sesam"), "{heard}");
        let failures: Vec<_> = heard
            .lines()
            .filter(|line| line.contains("secret"))
            .collect();
        assert_eq!(failures.len(), 3 * 3 * 20, "{heard}");
        assert_eq!(failures[0], "WARN not the secret client=1");
        assert_eq!(failures[20], "WARN not the secret suppressed=80 client=1");
        assert!(heard.lines().count() < 3 * 5 * 3 * 20);
    });
}

#[test]
fn an_address_is_told_where_there_is_one() {
    let listener = Listener::default();
    let mut server = Server::new();
    let door = keywire::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = door.local_addr().unwrap();
    server.listen(door);
    let handle = server.handle();
    let client = async {
        let mut client = async_net::TcpStream::connect(address).await.unwrap();
        client.write_all(b"Sync\n").await.unwrap();
        client.read_exact(&mut [0; 9]).await.unwrap();
        handle.shutdown(Duration::ZERO).await;
    };
    with_default(listener.clone(), || {
        future::block_on(future::zip(server.run(), client));
    });
    let heard = listener.heard();
    let joined = "DEBUG client connected client=1 address=127.0.0.1\n";
    assert!(heard.starts_with(joined), "{heard}");
}
