//! A connection to a node: TCP, or TLS over it.

use std::{
    io::{self, Read as _},
    net::TcpStream,
    pin::Pin,
    task::{Context, Poll, ready},
};

use async_io::{Async, Timer};
use futures_lite::{AsyncRead, AsyncWrite, future};

use super::{router::CONNECT_TIMEOUT, slots::Address};

#[cfg(feature = "tls")]
use crate::tls::{
    TlsConnector, futures_rustls,
    rustls::{self, pki_types::ServerName},
};

/// How nodes are connected to.
#[derive(Clone, Default)]
pub(super) struct Connector {
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Tls>,
}

#[cfg(feature = "tls")]
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) connector: TlsConnector,
    /// The name in the certificates, if it is not the node's host.
    pub(super) name: Option<ServerName<'static>>,
}

impl Connector {
    pub(super) fn is_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }

    /// Connects. With TLS, the handshake is over then. All of it has the one time.
    pub(super) async fn connect(self, address: Address) -> io::Result<Stream> {
        let mut timer = Timer::after(CONNECT_TIMEOUT);
        let late = async {
            (&mut timer).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        let stream = future::or(connect(&address), late).await?;
        #[cfg(feature = "tls")]
        if let Some(tls) = self.tls {
            let late = async {
                timer.await;
                // A node without TLS waits for the end of a line.
                let reason = "the TLS handshake timed out; it may not speak TLS";
                Err(io::Error::new(io::ErrorKind::TimedOut, reason))
            };
            return future::or(tls.over(stream, &address.host), late).await;
        }
        Ok(Stream::Plain(stream))
    }
}

async fn connect(address: &Address) -> io::Result<Async<TcpStream>> {
    let addresses = async_net::resolve((address.host.as_str(), address.port)).await?;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match Async::<TcpStream>::connect(address).await {
            Ok(stream) => {
                stream.get_ref().set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(feature = "tls")]
impl Tls {
    async fn over(self, stream: Async<TcpStream>, host: &str) -> io::Result<Stream> {
        let name = match self.name {
            Some(name) => name,
            None => ServerName::try_from(host.to_owned()).map_err(|_| {
                io::Error::other(format!("{host:?} can't be the name in a certificate"))
            })?,
        };
        let stream = self.connector.connect(name, stream).await;
        Ok(Stream::Tls(Box::new(stream.map_err(explain)?)))
    }
}

/// Says that it was the handshake, and what is probably wrong if what came is no TLS at all.
#[cfg(feature = "tls")]
fn explain(error: io::Error) -> io::Error {
    use rustls::{Error::InvalidMessage, InvalidMessage::InvalidContentType};
    let source = error.get_ref().and_then(|error| error.downcast_ref());
    match source {
        Some(InvalidMessage(InvalidContentType)) => {
            io::Error::new(error.kind(), "it does not seem to speak TLS")
        }
        _ => io::Error::new(error.kind(), format!("the TLS handshake failed: {error}")),
    }
}

pub(super) enum Stream<T = Async<TcpStream>> {
    Plain(T),
    #[cfg(feature = "tls")]
    Tls(Box<futures_rustls::client::TlsStream<T>>),
}

impl Stream {
    /// Whether the socket has become readable. TLS holds nothing back: it was read until there was no more,
    /// and a node says nothing before it is asked.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_readable(cx),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.get_ref().0.poll_readable(cx),
        }
    }

    /// Reads what is there: `WouldBlock` if nothing is.
    #[cfg_attr(not(feature = "tls"), expect(unused_variables))]
    pub(super) fn read_ready(
        &mut self,
        bytes: &mut [u8],
        cx: &mut Context<'_>,
    ) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.get_ref().read(bytes),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => match Pin::new(stream).poll_read(cx, bytes) {
                Poll::Ready(result) => result,
                Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            },
        }
    }
}

impl<T> Stream<T> {
    /// Bytes of those given that may have been sent if `poll_write` has failed. TLS takes many, sends them
    /// one record after the other, and does not tell how many it had sent when it failed.
    #[cfg_attr(not(feature = "tls"), expect(unused_variables))]
    pub(super) fn sent_by_failed_write(&self, given: usize) -> usize {
        match self {
            Self::Plain(_) => 0,
            #[cfg(feature = "tls")]
            Self::Tls(_) => given,
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, bytes),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, bytes),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => loop {
                match ready!(Pin::new(&mut *stream).poll_write(cx, bytes)) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    result => return Poll::Ready(result),
                }
            },
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    #[cfg_attr(not(feature = "tls"), expect(unused_variables))]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            // The socket has everything.
            Self::Plain(_) => Poll::Ready(Ok(())),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_close(cx),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(stream).poll_close(cx),
        }
    }
}
