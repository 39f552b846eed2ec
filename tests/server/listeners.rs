//! Ways in: TCP, Unix sockets, pipes, and listeners that fail.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_lite::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, future};
use keywire::{Error, Listener, Server, async_net};

use crate::{
    common::{Client, TestServer, loopback, stores::Remote, wait_until},
    pipe::{Pipe, talk},
};

#[test]
fn a_server_may_have_listeners_of_several_kinds() {
    let folder = std::env::temp_dir();
    let path = folder.join(format!("keywire-listeners-{}.sock", std::process::id()));
    let unix = async_net::unix::UnixListener::bind(&path).unwrap();
    let server = TestServer::start(Server::builder().listen(unix).build());
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
    let server = TestServer::start(Server::new());
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
    let server = TestServer::start(server);
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
    let server = TestServer::start(server);
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

/// Fails a few times before each connection, as a listener does that has no descriptor left.
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
fn a_listener_that_fails_is_tried_again() {
    let (inner, address) = loopback();
    let troubled = Troubled { inner, failures: 3 };
    let server = TestServer::start(Server::builder().listen(troubled).build());
    for _ in 0..3 {
        let mut client = Client::connect(address);
        assert_eq!(client.sync(), (vec![], 0));
    }
    assert!(server.handle.stats().accept_errors >= 3);
    server.stop(Duration::ZERO);
}

#[test]
fn a_client_that_asks_is_told_of_the_latest_failures_of_a_listener() {
    let (inner, address) = loopback();
    let troubled = Troubled { inner, failures: 1 };
    let server = TestServer::start(Server::builder().listen(troubled).build());
    let mut client = Client::connect(address);
    client.sync();
    // The listener fails on after this client is in, while nobody else has anything to do.
    wait_until("the listener has failed twice more", || {
        server.handle.stats().accept_errors == 3
    });
    assert_eq!(client.stats().accept_errors, 3);
}

#[test]
fn an_address_in_use_is_an_error_with_its_reason() {
    let (_first, address) = loopback();
    let error = future::block_on(keywire::bind(address)).unwrap_err();
    assert!(
        error.to_string().starts_with("can't listen: Address"),
        "{error}"
    );
    let Error::Listen(cause) = error else {
        panic!("{error:?}");
    };
    assert_eq!(cause.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn an_address_may_be_a_name() {
    let named = |listener: Result<async_net::TcpListener, Error>| {
        let address = listener.unwrap().local_addr().unwrap();
        assert!(address.ip().is_loopback() && address.port() > 0);
    };
    // A runtime that has threads can move the future among them.
    let moved = smol::spawn(keywire::bind("localhost:0".to_owned()));
    named(future::block_on(moved));
    named(future::block_on(keywire::bind(("localhost", 0))));
    named(future::block_on(keywire::bind((Ipv4Addr::LOCALHOST, 0))));
    let error = future::block_on(keywire::bind("no port")).unwrap_err();
    assert!(matches!(error, Error::Listen(_)), "{error:?}");
}

#[test]
fn of_several_addresses_the_first_that_can_be_had_is_the_one() {
    let bind = |addresses: &[SocketAddr]| future::block_on(keywire::bind(addresses));
    let (_first, taken) = loopback();
    // No interface has this address.
    let foreign = SocketAddr::from(([192, 0, 2, 1], 0));
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = bind(&[taken, foreign, free, taken]).unwrap();
    assert!(listener.local_addr().unwrap().ip().is_loopback());
    // If there is none, the last says why.
    let kinds = [
        (vec![foreign, taken], io::ErrorKind::AddrInUse),
        (vec![taken, foreign], io::ErrorKind::AddrNotAvailable),
        (vec![], io::ErrorKind::InvalidInput),
    ];
    for (addresses, kind) in kinds {
        match bind(&addresses) {
            Err(Error::Listen(reason)) => assert_eq!(reason.kind(), kind),
            bound => panic!("{bound:?}"),
        }
    }
}

/// Whatever comes before it or after it in the chain, such as another store.
#[test]
fn listeners_may_be_set_up_with_the_builder() {
    let ((first, one), (second, two)) = (loopback(), loopback());
    let server = Server::builder()
        .listen(first)
        .store(Remote::default())
        .listen(second)
        .max_values(1)
        .build();
    let _server = TestServer::start(server);
    Client::connect(one).end_with("Put:k:v\n");
    let mut client = Client::connect(two);
    client.send("Put:k:w\nGet:k\n");
    assert!(client.text().starts_with(":error:1:full:"));
    assert_eq!(client.text(), "k:v");
}
