//! A connection for subscriptions: how bytes get in and out.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures_lite::{AsyncRead as _, AsyncWrite as _};

use crate::store::cluster::{driver::MAX_REPLY, feed::Feed, stream::Stream};

/// Bytes read at a time.
const READ_BYTES: usize = 64 * 1024;

pub(super) type Connect = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

enum Link {
    Connecting(Connect),
    Open(Stream),
}

pub(super) struct Connection {
    link: Link,
    pub(super) node: usize,
    pub(super) feed: Feed,
    /// What was read and not handled.
    pub(super) input: Vec<u8>,
    /// How much of the feed's output was written.
    written: usize,
}

impl Connection {
    pub(super) fn new(connect: Connect, node: usize, feed: Feed) -> Self {
        Self {
            link: Link::Connecting(connect),
            node,
            feed,
            input: Vec::new(),
            written: 0,
        }
    }

    /// Connects if it is not connected, and reads once.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = match &mut self.link {
            Link::Open(stream) => stream,
            Link::Connecting(connect) => match connect.as_mut().poll(cx)? {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(stream) => {
                    self.link = Link::Open(stream);
                    return self.poll_read(cx);
                }
            },
        };
        // TLS may have read more than it has given.
        if matches!(stream, Stream::Plain(_)) && stream.poll_readable(cx)?.is_pending() {
            return Poll::Pending;
        }
        let length = self.input.len();
        if length > MAX_REPLY {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        self.input.resize(length + READ_BYTES, 0);
        let read = Pin::new(stream).poll_read(cx, &mut self.input[length..]);
        let bytes = match &read {
            Poll::Ready(Ok(bytes)) => *bytes,
            _ => 0,
        };
        self.input.truncate(length + bytes);
        read.map(|read| match read? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        })
    }

    /// Writes what the feed has, as far as the node takes it.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Link::Open(stream) = &mut self.link else {
            return Poll::Pending;
        };
        let out = &mut self.feed.out;
        while self.written < out.len() {
            match Pin::new(&mut *stream).poll_write(cx, &out[self.written..])? {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(bytes) => self.written += bytes,
            }
        }
        out.clear();
        self.written = 0;
        Pin::new(stream).poll_flush(cx)
    }
}
