//! Handshakes that are refused, slow, broken, and very many.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_lite::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, future};
use keywire::{Listener, Server, tls::TlsListener};
use smol::net::{TcpListener, TcpStream};

use crate::{
    client_hello,
    common::{Authority, Talk, TlsServer, reset, run, wait_until},
};

const LONG: Duration = Duration::from_secs(60);

/// Reads to the end of the connection. Gives what came before it; an error is a reset.
async fn await_hang_up(mut stream: TcpStream) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    stream.read_to_end(&mut read).await?;
    Ok(read)
}

#[test]
fn what_is_no_tls_is_told_so_and_ended() {
    run(async {
        let served = TlsServer::start();
        let hello = client_hello(&served);
        let mut damaged = hello.clone();
        damaged[20..].fill(0xff);
        let text: &[u8] = b":error:0:malformed:this port speaks TLS\n";
        let alert: &[u8] = &[0x15];
        let cases: [(&[u8], &[u8]); 8] = [
            (b"Put:k:v\nGet:k\n", text),
            (b"Auth:open:sesame\n", text),
            (b"\r\n", text),
            (b"P", text),
            (&[0xff; 5000], alert),
            (&[0; 30], alert),
            (b"GET / HTTP/1.1\r\n\r\n", text),
            (&damaged, alert),
        ];
        for (number, (words, answer)) in cases.into_iter().enumerate() {
            let mut stream = served.plain().await;
            stream.write_all(words).await.unwrap();
            // The client still has its end open; the server hangs up on its own side, politely.
            let told = await_hang_up(stream.clone()).await.unwrap();
            assert!(told.starts_with(answer), "{told:?}");
            assert!(told.len() == answer.len() || answer == alert, "{told:?}");
            drop(stream);
            served.await_counts(0, number as u64 + 1).await;
        }
        assert_eq!(served.handle.stats().commands, 0);
        served.connect().await.sync().await;
    });
}

#[test]
fn a_handshake_that_stalls_is_ended_in_time() {
    run(async {
        let time = Duration::from_millis(200);
        let served = TlsServer::with(Server::new(), |tls| tls.handshake_timeout(time));
        let hello = client_hello(&served);
        let begun = Instant::now();
        let mut silent = Vec::new();
        // Nothing at all, half a hello, all of it and no more.
        for words in [&hello[..0], &hello[..1], &hello[..hello.len() / 2], &hello] {
            let mut stream = served.plain().await;
            stream.write_all(words).await.unwrap();
            silent.push(stream);
        }
        // They delay nobody.
        let mut other = served.connect().await;
        for stream in silent {
            let _ = await_hang_up(stream).await;
        }
        assert!(begun.elapsed() >= time);
        served.await_counts(1, 4).await;
        // The time is the handshake's alone.
        other.sync().await;
    });
}

/// Takes and gives a byte at a time.
struct Trickle(TcpStream);

impl AsyncRead for Trickle {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, &mut buffer[..1])
    }
}

impl AsyncWrite for Trickle {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, &bytes[..1.min(bytes.len())])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}

#[test]
fn a_slow_handshake_is_a_good_one() {
    run(async {
        let served = TlsServer::start();
        let stream = served.plain().await;
        stream.set_nodelay(true).unwrap();
        let client = Talk::over(Trickle(stream), served.authority.client()).await;
        let mut client = client.unwrap();
        client.send("Put:k:v\nGet:k\n").await;
        assert_eq!(client.end().await, "k:v\n");
    });
}

#[test]
fn five_hundred_that_stall_hold_eight_places_and_the_others_get_in() {
    run(async {
        const STALLED: u64 = 500;
        let time = Duration::from_millis(20);
        let served = TlsServer::with(Server::new(), |tls| {
            tls.max_handshakes(8).handshake_timeout(time)
        });
        let mut before = served.connect().await;
        let hello = client_hello(&served);
        let mut stalled = Vec::new();
        let stalling = async {
            for number in 0..STALLED {
                let mut stream = served.plain().await;
                if number % 2 == 0 {
                    stream.write_all(&hello).await.unwrap();
                }
                stalled.push(stream);
            }
            // All of these have to wait for a place, and each gets one.
            for _ in 0..20 {
                served.connect().await.sync().await;
            }
        };
        // Who is in already is served meanwhile, and sees how many are under way.
        let mut most = 0;
        let watching = async {
            loop {
                before.sync().await;
                most = most.max(served.handle.stats().active);
                smol::Timer::after(Duration::from_millis(1)).await;
            }
        };
        future::or(stalling, watching).await;
        // Eight, the one who looks, and a few who are in or just leaving.
        assert!((8..=16).contains(&most), "{most} at a time");
        drop(stalled);
        served.await_counts(1, STALLED + 20).await;
    });
}

#[test]
fn resets_in_the_middle_free_their_places() {
    run(async {
        let served = TlsServer::with(Server::new(), |tls| tls.max_handshakes(1));
        let hello = client_hello(&served);
        for number in 0..30 {
            let mut stream = served.plain().await;
            let words = &hello[..hello.len() * number / 29];
            stream.write_all(words).await.unwrap();
            reset(stream);
        }
        // The only place is free again, long before the handshake time.
        served.connect().await.sync().await;
        served.await_counts(0, 31).await;
    });
}

#[test]
fn a_shutdown_does_not_wait_for_handshakes() {
    run(async {
        let served = TlsServer::with(Server::new(), |tls| tls.max_handshakes(5));
        let hello = client_hello(&served);
        let mut streams = Vec::new();
        for number in 0..10 {
            let mut stream = served.plain().await;
            stream
                .write_all(&hello[..hello.len() * number / 9])
                .await
                .unwrap();
            streams.push(stream);
        }
        served.await_counts(5, 0).await;
        let begun = Instant::now();
        let handle = served.handle.clone();
        served.stop(LONG).await;
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert_eq!((handle.stats().active, handle.stats().dropped), (0, 5));
        for stream in streams {
            let _ = await_hang_up(stream).await;
        }
    });
}

/// A listener that brings this one, and then waits.
struct Only<T>(Option<T>);

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Listener for Only<T> {
    type Connection = T;

    async fn accept(&mut self) -> io::Result<(T, Option<std::net::IpAddr>)> {
        match self.0.take() {
            Some(connection) => Ok((connection, None)),
            None => future::pending().await,
        }
    }
}

/// It never stops talking and never makes sense.
struct Flood;

impl AsyncRead for Flood {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        buffer.fill(b'!');
        Poll::Ready(Ok(buffer.len()))
    }
}

impl AsyncWrite for Flood {
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
fn a_flood_of_nonsense_leaves_others_their_turns() {
    run(async {
        let authority = Authority::new("ours");
        let config = authority.vouch().server();
        let listener = TlsListener::new(Only(Some(Flood)), config.clone());
        let server = Server::builder().listen(listener).build();
        let served = TlsServer::behind(server, authority, config, |tls| tls);
        let mut client = served.connect().await;
        client.sync().await;
        // It is ended, too.
        served.await_counts(1, 1).await;
        client.sync().await;
    });
}

/// Takes nothing any more, once it is told to, and says so by `Ok(0)`, as a broken pipe does.
struct Shut(TcpStream, Arc<AtomicBool>);

impl AsyncRead for Shut {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Shut {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.1.load(Ordering::SeqCst) {
            return Poll::Ready(Ok(0));
        }
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}

#[test]
fn a_transport_that_takes_nothing_more_is_broken_and_no_loop() {
    run(async {
        let authority = Authority::new("ours");
        let config = authority.vouch().server();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await;
        let theirs = TcpListener::accept(&listener).await.unwrap().0;
        let shut = Arc::new(AtomicBool::new(false));
        let only = Only(Some(Shut(theirs, shut.clone())));
        let listener = TlsListener::new(only, config.clone());
        let server = Server::builder().listen(listener).build();
        let served = TlsServer::behind(server, authority, config, |tls| tls);
        let talk = Talk::over(ours.unwrap(), served.authority.client()).await;
        let mut client = talk.unwrap();
        client.sync().await;
        shut.store(true, Ordering::SeqCst);
        client.send("Put:k:v\nGet:k\n").await;
        wait_until("it is applied", || served.handle.stats().gets == 1).await;
        served.connect().await.sync().await;
        drop(client);
        served.await_counts(0, 2).await;
    });
}
