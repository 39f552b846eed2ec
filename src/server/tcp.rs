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

/// Reads that follow readiness before a blind one is tried again, after a blind one found nothing.
/// It makes the price of a wrong guess a small part of what right ones save.
const CAUTIOUS_READS: u8 = 16;

/// An accepted TCP connection.
///
/// Reading first and waiting where there is nothing is the usual way. But a client sends when it
/// has been answered, so right after a read there is nearly always nothing yet. This one waits
/// first, which saves a system call a request.
///
/// On a busy server the next request has come by the time the other clients have had their turn.
/// Then even the wait is saved: the connection steps back once and reads blindly, and goes on so
/// for as long as that finds something. At 1,000 busy clients this saves a quarter of the server's
/// time.
#[derive(Debug)]
pub struct Tcp {
    stream: Arc<Async<TcpStream>>,
    next: Next,
    /// How many more reads follow readiness.
    cautious: u8,
}

/// What comes before the next read.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// Nothing: there is probably more.
    Read,
    /// Everyone else's turn.
    StepBack,
    /// Readiness.
    Wait,
    /// A look at readiness, which then matters little: the task has been waiting for it and was
    /// woken. The reactor takes news for old news when it came while another thread was in it; to
    /// take its word for that would be to wait once more, for as long as the race is lost.
    Woken,
}

impl Tcp {
    pub(super) fn new(stream: Arc<Async<TcpStream>>) -> Self {
        Self {
            stream,
            next: Next::Wait,
            cautious: 0,
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
            let mut registered = false;
            match self.next {
                Next::Read => {}
                Next::StepBack => {
                    self.next = Next::Read;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Next::Wait => {
                    self.next = Next::Woken;
                    ready!(self.stream.poll_readable(cx))?;
                }
                Next::Woken => registered = self.stream.poll_readable(cx)?.is_pending(),
            }
            match self.stream.get_ref().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.cautious = CAUTIOUS_READS;
                    if registered {
                        self.next = Next::Woken;
                        return Poll::Pending;
                    }
                    self.next = Next::Wait;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(n) if n < buffer.len() => {
                    self.next = if self.cautious == 0 {
                        Next::StepBack
                    } else {
                        Next::Wait
                    };
                    self.cautious = self.cautious.saturating_sub(1);
                    return Poll::Ready(Ok(n));
                }
                result => {
                    self.next = Next::Read;
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
