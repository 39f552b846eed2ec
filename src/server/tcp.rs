//! A TCP connection that waits for bytes before it reads.

use std::{
    io::{self, Read as _},
    net::TcpStream,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use async_io::Async;
use futures_lite::{AsyncRead, AsyncWrite};

/// An accepted TCP connection.
///
/// The usual way is to read, find nothing, and then wait. But a client sends when it has been
/// answered, so right after a read there is nearly always nothing. This one waits first, which
/// saves a system call a request.
#[derive(Debug)]
pub struct Tcp {
    stream: Arc<Async<TcpStream>>,
    /// The last read took all there was.
    drained: bool,
}

impl Tcp {
    pub(super) fn new(stream: Arc<Async<TcpStream>>) -> Self {
        Self {
            stream,
            drained: true,
        }
    }
}

impl AsyncRead for Tcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.drained {
                ready!(self.stream.poll_readable(cx))?;
                self.drained = false;
            }
            match self.stream.get_ref().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.drained = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    self.drained = matches!(result, Ok(n) if n < buffer.len());
                    return Poll::Ready(result);
                }
            }
        }
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self.stream).poll_close(cx)
    }
}
