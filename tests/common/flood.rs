//! A client that sends the same again and again, so fast that each read finds more.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_lite::{AsyncRead, AsyncWrite};

use super::stores::ManualClock;

/// Each read takes a millisecond of the clock. After so many it ends by itself, so that a test of a
/// server that does nothing but read fails and does not hang.
pub struct Flood {
    byte: u8,
    clock: ManualClock,
    most: usize,
    reads: Arc<AtomicUsize>,
}

impl Flood {
    pub fn new(byte: u8, clock: &ManualClock, most: usize) -> Self {
        Self {
            byte,
            clock: clock.clone(),
            most,
            reads: Arc::default(),
        }
    }

    /// How often it has been read.
    pub fn reads(&self) -> Arc<AtomicUsize> {
        self.reads.clone()
    }
}

impl AsyncRead for Flood {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.reads.fetch_add(1, Ordering::SeqCst) == self.most {
            return Poll::Ready(Ok(0));
        }
        self.clock.advance(Duration::from_millis(1));
        // Few are enough, and quickly dealt with.
        let bytes = buffer.len().min(64);
        buffer[..bytes].fill(self.byte);
        Poll::Ready(Ok(bytes))
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
