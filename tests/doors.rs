//! Ways in: TCP, Unix sockets, pipes, and doors that fail.

#[macro_use]
mod common;

use std::{
    io,
    time::{Duration, Instant},
};

use common::{Client, Place, TestServer, wait_until};
use futures_lite::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, future};
use keywire::{Listener, Server};

/// Both directions of an in-memory connection.
struct Pipe {
    reader: piper::Reader,
    writer: piper::Writer,
}

impl Pipe {
    fn pair(capacity: usize) -> (Self, Self) {
        let (reader, far_writer) = piper::pipe(capacity);
        let (far_reader, writer) = piper::pipe(capacity);
        let far = Self {
            reader: far_reader,
            writer: far_writer,
        };
        (Self { reader, writer }, far)
    }
}

use std::{
    pin::Pin,
    task::{Context, Poll},
};

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.reader).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_close(cx)
    }
}

/// A few commands through anything, then the end of the input, then the rest of the replies.
async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> String {
    stream.write_all(b"Put:k:v\nGet:k\n").await.unwrap();
    let mut first = [0; 4];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"k:v\n");
    stream
        .write_all(b"Delete:k\nGet:k\nSync:done\n")
        .await
        .unwrap();
    stream.close().await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    rest
}

on_every_executor! {
    fn a_client_comes_in_through_a_pipe(place: Place) {
        // From a roomy pipe to one that takes a byte at a time.
        for capacity in [1, 7, 1000] {
            let server = TestServer::start(place, Server::new());
            let (ours, theirs) = Pipe::pair(capacity);
            let replies = future::block_on(async {
                server.handle.attach(theirs).await.unwrap();
                talk(ours).await
            });
            assert_eq!(replies, ":sync:0:done\n");
            server.await_counts(0, 1);
        }
    }
}

#[test]
fn a_server_may_have_doors_of_several_kinds() {
    let folder = std::env::temp_dir();
    let path = folder.join(format!("keywire-doors-{}.sock", std::process::id()));
    let mut server = Server::new();
    server.listen(async_net::unix::UnixListener::bind(&path).unwrap());
    let server = TestServer::start(Place::PLAIN, server);
    let replies = future::block_on(async {
        talk(async_net::unix::UnixStream::connect(&path).await.unwrap()).await
    });
    std::fs::remove_file(&path).unwrap();
    assert_eq!(replies, ":sync:0:done\n");
    let replies = future::block_on(async {
        talk(async_net::TcpStream::connect(server.address).await.unwrap()).await
    });
    assert_eq!(replies, ":sync:0:done\n");
}

#[test]
fn tcp_clients_are_served_without_delay_and_by_the_hundred() {
    let server = TestServer::start(Place::PLAIN, Server::new());
    // More than a usual backlog at once, while nobody has been accepted for sure.
    let mut clients: Vec<_> = (0..300).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send("Sync:");
    }
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(format!("{number}\n"));
        assert_eq!(client.text(), format!(":sync:0:{number}"));
    }
}

/// Takes bytes in, as a TLS stream does, and gets none of them out.
struct Clogged(Pipe);

impl AsyncRead for Clogged {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Clogged {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, b: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(b.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

#[test]
fn a_transport_that_can_not_flush_is_one_that_refuses_bytes() {
    let server = Server::builder()
        .outbox_lines(5)
        .stall_timeout(Duration::from_millis(20))
        .overflow(keywire::Overflow::Disconnect)
        .build();
    let server = TestServer::start(Place::PLAIN, server);
    let (mut ours, theirs) = Pipe::pair(1000);
    future::block_on(async {
        server.handle.attach(Clogged(theirs)).await.unwrap();
        ours.write_all("Sync\n".repeat(50).as_bytes())
            .await
            .unwrap();
    });
    server.await_counts(0, 1);
}

/// Delivers everything but the end.
struct Endless(Pipe);

impl AsyncRead for Endless {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Endless {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

/// On it, what takes seconds is over in milliseconds.
struct Hurried;

impl keywire::Clock for Hurried {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, until: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let time = until.saturating_duration_since(Instant::now()) / 1000;
        Box::pin(async move {
            smol::Timer::after(time).await;
        })
    }
}

#[test]
fn a_transport_that_can_not_close_is_left_in_the_end() {
    let server = Server::builder().clock(Hurried).build();
    let server = TestServer::start(Place::PLAIN, server);
    let (mut ours, theirs) = Pipe::pair(1000);
    future::block_on(async {
        server.handle.attach(Endless(theirs)).await.unwrap();
        ours.write_all(b"Sync:end\n").await.unwrap();
        ours.close().await.unwrap();
        let mut reply = [0; 12];
        ours.read_exact(&mut reply).await.unwrap();
        assert_eq!(&reply, b":sync:0:end\n");
    });
    server.await_counts(0, 1);
}

/// Fails a few times before each connection, as a door does that has no descriptor left.
struct Troubled {
    inner: async_net::TcpListener,
    failures: u32,
}

impl Listener for Troubled {
    type Connection = async_net::TcpStream;

    async fn accept(&mut self) -> io::Result<(async_net::TcpStream, Option<std::net::IpAddr>)> {
        if self.failures > 0 {
            self.failures -= 1;
            return Err(io::Error::other("no descriptor left"));
        }
        self.failures = 2;
        Listener::accept(&mut self.inner).await
    }
}

#[test]
fn a_door_that_fails_is_tried_again() {
    let inner = keywire::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = inner.local_addr().unwrap();
    let mut server = Server::new();
    server.listen(Troubled { inner, failures: 3 });
    let server = TestServer::start(Place::PLAIN, server);
    for _ in 0..3 {
        let mut client = Client::connect(address);
        assert_eq!(client.sync(), (vec![], 0));
    }
    assert!(server.handle.stats().accept_errors >= 3);
    server.stop(Duration::ZERO);
}

#[test]
fn a_client_that_asks_is_told_of_the_latest_failures_of_a_door() {
    let inner = keywire::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = inner.local_addr().unwrap();
    let mut server = Server::new();
    server.listen(Troubled { inner, failures: 1 });
    let server = TestServer::start(Place::PLAIN, server);
    let mut client = Client::connect(address);
    client.sync();
    // The door fails on after this client is in, while nobody else has anything to do.
    wait_until("the door has failed twice more", || {
        server.handle.stats().accept_errors == 3
    });
    assert_eq!(client.stats().accept_errors, 3);
}

#[test]
fn an_address_in_use_is_an_error_with_its_reason() {
    let first = keywire::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let error = keywire::bind(first.local_addr().unwrap()).unwrap_err();
    assert!(
        error.to_string().starts_with("can't listen: Address"),
        "{error}"
    );
    let keywire::Error::Listen(cause) = error else {
        panic!("{error:?}");
    };
    assert_eq!(cause.kind(), std::io::ErrorKind::AddrInUse);
}
