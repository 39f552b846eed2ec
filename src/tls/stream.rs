//! A connection that does its handshake when it is first read or written.

use std::{
    any::Any,
    fmt,
    future::Future,
    io,
    net::TcpStream,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use async_io::{Async, Timer};
use futures_lite::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, future};
use futures_rustls::{TlsAcceptor, server};

use super::listener::HandshakePermit;

/// The most that TLS accepts while the socket takes nothing: one record. The server can't distinguish
/// these bytes from bytes on their way.
const HELD_BYTES: usize = 16 * 1024;

/// Bytes that may come in a row without any plaintext, such as empty records, before other tasks
/// have their turn.
const YIELD_BYTES: usize = 64 * 1024;

/// For a client whose first byte is text: it could not read an alert.
const NOT_TLS: &[u8] = b":error:0:malformed:this port speaks TLS\n";

/// How long the client has to read why its handshake failed.
const LINGER: Duration = Duration::from_secs(1);

/// A connection of a [`TlsListener`](super::TlsListener): TLS over a `T`.
///
/// Nothing happens until it is first read, written or flushed; that drives the handshake. If the
/// handshake fails or times out ([`TimedOut`](io::ErrorKind::TimedOut)), the call that drives it
/// fails. While the handshake is under way, the task that polled last is woken, so one task has to
/// poll both directions, as a server does.
///
/// If it is closed before its handshake is done, it hangs up; after that, it sends `close_notify`
/// first. An
/// end of input without `close_notify` is [an end like any other](super#the-end-of-the-input).
///
/// ```
/// use keywire::{
///     Listener,
///     async_net::{TcpListener, TcpStream},
///     tls::{TlsListener, TlsStream},
/// };
/// use std::{io, net::IpAddr};
///
/// /// A listener around it has to name this type.
/// struct Counted(TlsListener<TcpListener>, usize);
///
/// impl Listener for Counted {
///     type Connection = TlsStream<TcpStream>;
///
///     async fn accept(&mut self) -> io::Result<(TlsStream<TcpStream>, Option<IpAddr>)> {
///         let accepted = self.0.accept().await?;
///         self.1 += 1;
///         Ok(accepted)
///     }
/// }
/// ```
pub struct TlsStream<T> {
    state: TlsState<T>,
    /// The TCP socket below it, if it is a [`TcpStream`](async_net::TcpStream).
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    socket: Option<Weak<Async<TcpStream>>>,
}

type Established<T> = server::TlsStream<FairStream<T>>;
type Handshake<T> = Pin<Box<dyn Future<Output = io::Result<Established<T>>> + Send>>;

enum TlsState<T> {
    Handshaking(Handshake<T>),
    Established(Box<Established<T>>),
    /// The handshake has failed, or the stream was closed before its end.
    Over,
}

impl<T> TlsStream<T>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    pub(super) fn new(
        connection: T,
        acceptor: TlsAcceptor,
        time: Duration,
        permit: HandshakePermit,
    ) -> Self {
        let any: &dyn Any = &connection;
        let socket = any.downcast_ref::<async_net::TcpStream>();
        let socket = socket.map(|stream| Arc::downgrade(&stream.clone().into()));
        // The time runs from now on, not from the first poll.
        let timer = Timer::after(time);
        let handshake = async move {
            let late = async {
                timer.await;
                let message = "the TLS handshake took too long";
                Err(io::Error::new(io::ErrorKind::TimedOut, message))
            };
            future::or(handshake(connection, acceptor, permit), late).await
        };
        Self {
            state: TlsState::Handshaking(Box::pin(handshake)),
            socket,
        }
    }

    #[cfg(target_os = "linux")]
    pub(crate) fn socket(&self) -> Option<Weak<Async<TcpStream>>> {
        self.socket.clone()
    }

    fn poll_established(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Pin<&mut Established<T>>>> {
        if let TlsState::Handshaking(handshake) = &mut self.state {
            let done = ready!(handshake.as_mut().poll(cx));
            self.state = TlsState::Over;
            self.state = TlsState::Established(Box::new(done?));
        }
        Poll::Ready(match &mut self.state {
            TlsState::Established(stream) => Ok(Pin::new(stream)),
            _ => Err(io::ErrorKind::NotConnected.into()),
        })
    }
}

async fn handshake<T>(
    connection: T,
    acceptor: TlsAcceptor,
    permit: HandshakePermit,
) -> io::Result<Established<T>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let stream = FairStream {
        inner: connection,
        since_yield: 0,
        first: None,
    };
    let accepted = acceptor.accept_with(stream, |tls| tls.set_buffer_limit(Some(HELD_BYTES)));
    let accepted = accepted.into_fallible().await;
    // A handshake that failed makes room at once: the reply to its client takes no computing.
    drop(permit);
    match accepted {
        Ok(stream) => Ok(stream),
        Err((error, mut stream)) => {
            let late = async {
                Timer::after(LINGER).await;
            };
            let reply = async {
                if stream.is_text() {
                    let _ = stream.write_all(NOT_TLS).await;
                }
                drain(stream).await;
            };
            future::or(reply, late).await;
            Err(error)
        }
    }
}

/// Reads and discards until the client hangs up. Closing with unread input would be a reset, and the
/// client could lose the alert that says what was wrong.
async fn drain<T: AsyncRead + AsyncWrite + Unpin>(mut stream: FairStream<T>) {
    let _ = stream.close().await;
    let mut buffer = vec![0; 4096];
    while let Ok(1..) = stream.read(&mut buffer).await {}
}

impl<T> AsyncRead for TlsStream<T>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if let TlsState::Over = self.state {
            return Poll::Ready(Ok(0));
        }
        let mut stream = ready!(self.poll_established(cx))?;
        // What is read has to yield within one read only. Between two of them that is for the reader,
        // which takes `Pending` for a sign that there is nothing more.
        Pin::get_mut(stream.as_mut()).get_mut().0.since_yield = 0;
        match ready!(stream.poll_read(cx, buffer)) {
            // The client did not send `close_notify`. See the module's documentation.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(0)),
            result => Poll::Ready(result),
        }
    }
}

impl<T> AsyncWrite for TlsStream<T>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_established(cx))?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_established(cx))?.poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.state {
            TlsState::Established(stream) => Pin::new(stream).poll_close(cx),
            // Before the handshake is done, nothing can be sent.
            state => {
                *state = TlsState::Over;
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl<T> fmt::Debug for TlsStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            TlsState::Handshaking(_) => "handshaking",
            TlsState::Established(_) => "established",
            TlsState::Over => "over",
        };
        f.debug_struct("TlsStream").field("state", &state).finish()
    }
}

/// The connection below TLS, mended in two places. futures-rustls reads on as long as no plaintext
/// comes of it, without a yield; and if a write takes nothing, it writes on, or never again.
struct FairStream<T> {
    inner: T,
    /// Bytes read since other tasks had their turn.
    since_yield: usize,
    /// The first byte read.
    first: Option<u8>,
}

impl<T> FairStream<T> {
    /// Whether the other side speaks text: no TLS record begins so, nor anything that is meant to
    /// be one.
    fn is_text(&self) -> bool {
        matches!(self.first, Some(b'\t' | b'\n' | b'\r' | b' '..=b'~'))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for FairStream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.since_yield >= YIELD_BYTES {
            self.since_yield = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buffer));
        if let Ok(n @ 1..) = read {
            self.since_yield += n;
            if self.first.is_none() {
                self.first = Some(buffer[0]);
                if self.is_text() {
                    // TLS must not see it, or it would answer with an alert.
                    let message = "the client speaks no TLS";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, message)));
                }
            }
        }
        Poll::Ready(read)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for FairStream<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match ready!(Pin::new(&mut self.inner).poll_write(cx, bytes)) {
            Ok(0) if !bytes.is_empty() => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            result => Poll::Ready(result),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}
