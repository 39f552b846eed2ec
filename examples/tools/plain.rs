//! A stream without TLS, which notices when the other end speaks it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures_lite::{AsyncRead, AsyncWrite};

/// Passes everything on, unless the first bytes are those with which TLS complains.
pub(crate) struct Plain<S> {
    stream: S,
    begun: bool,
}

impl<S> Plain<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            begun: false,
        }
    }
}

/// What a TLS port answers to plain text: an alert (its type, the version, the length of what
/// follows), or a keywire server its own words.
fn is_tls(bytes: &[u8]) -> bool {
    matches!(bytes, [0x15, 3, 0..=4, 0, 2, ..])
        || bytes.starts_with(b":error:0:malformed:this port speaks TLS")
}

impl<S: AsyncRead + Unpin> AsyncRead for Plain<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Poll::Ready(Ok(n)) = read
            && !std::mem::replace(&mut self.begun, true)
            && is_tls(&buffer[..n])
        {
            let reason = "the server seems to speak TLS; --tls-ca says whom to trust";
            return Poll::Ready(Err(io::Error::other(reason)));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Plain<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
