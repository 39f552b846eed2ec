//! One connection: it moves the bytes between the transport and the framing.
//!
//! In: calls and dropped watchers, by channels, and the transport's bytes. Out: bytes, and whatever
//! the framing makes of the lines. It is polled by whoever drives it and starts nothing of itself.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use async_channel::Receiver;
use async_io::Timer;
use futures_lite::{AsyncRead, AsyncWrite, FutureExt as _};

use super::{
    call::Call,
    framing::{Framing, MAX_REPLY},
    watch::{EventQueue, OwnedTopic},
};
use crate::{error::ConnectionError, protocol::LineDecoder, transport::Transport};

/// The most that one read takes.
const READ_BYTES: usize = 64 * 1024;

/// Reads and writes in a row, before others on this thread have their turn.
const STEPS_PER_POLL: usize = 16;

/// An output buffer that has grown beyond this, for a large value, is not kept.
const KEPT_BYTES: usize = 256 * 1024;

/// Moves the bytes: it writes while there is something to send and reads while an answer or an
/// event may come, each without waiting for the other.
pub(super) struct ClientConnection {
    transport: Box<dyn Transport>,
    calls: Receiver<Call>,
    unwatches: Receiver<(OwnedTopic, Arc<EventQueue>)>,
    lines: LineDecoder,
    buffer: Box<[u8]>,
    framing: Framing,
    /// Encoded, and written up to `written`.
    out: Vec<u8>,
    written: usize,
    flushed: bool,
    /// Runs while a walk that has no room stops the reading.
    stall: Option<Timer>,
    /// What the server said before it hung up is still there to be read.
    write_error: Option<io::Error>,
    /// What ended the connection, for the callers.
    end: Arc<OnceLock<ConnectionError>>,
}

impl ClientConnection {
    pub(super) fn new(
        transport: Box<dyn Transport>,
        calls: Receiver<Call>,
        unwatches: Receiver<(OwnedTopic, Arc<EventQueue>)>,
        end: Arc<OnceLock<ConnectionError>>,
    ) -> Self {
        Self {
            transport,
            calls,
            unwatches,
            lines: LineDecoder::keeping_cr(MAX_REPLY),
            buffer: vec![0; READ_BYTES].into(),
            framing: Framing::default(),
            out: Vec::new(),
            written: 0,
            flushed: true,
            stall: None,
            write_error: None,
            end,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..STEPS_PER_POLL {
            match self.step(cx) {
                // A watcher that drives takes its events before more are read.
                Ok(true) if self.framing.has_notified() => break,
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(error) => {
                    let _ = self.end.set(self.framing.reason(error));
                    return Poll::Ready(());
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// A write and a read, if they can be had. Says whether another step is worth it.
    fn step(&mut self, cx: &mut Context<'_>) -> Result<bool, ConnectionError> {
        let mut again = false;
        if self.write_error.is_none() {
            match self.write(cx) {
                Ok(wrote) => again = wrote && self.has_more(),
                Err(error) => self.write_error = Some(error),
            }
        }
        if self.is_stalled(cx) {
            return Ok(again);
        }
        let read = self.framing.expects() && self.read(cx)?;
        match self.write_error.take() {
            Some(error) if !read => Err(error.into()),
            error => {
                self.write_error = error;
                Ok(again || read && (self.framing.expects() || self.has_more()))
            }
        }
    }

    /// Whether nothing is read for now, because what comes next belongs to a walk without room.
    fn is_stalled(&mut self, cx: &mut Context<'_>) -> bool {
        while let Some(left) = self
            .framing
            .walk_queue()
            .and_then(|queue| queue.left_to_wait())
        {
            let timer = self.stall.insert(Timer::after(left));
            if timer.poll(cx).is_pending() {
                return true;
            }
        }
        self.stall = None;
        false
    }

    /// Whether there is anything to write at once.
    fn has_more(&self) -> bool {
        !self.out.is_empty()
            || self.framing.has_room(&[])
                && (self.framing.is_sending()
                    || !self.calls.is_empty()
                    || !self.unwatches.is_empty())
    }

    /// One write. Says whether the transport took all of it.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if self.out.is_empty() {
            self.encode();
        }
        let mut wrote = false;
        if !self.out.is_empty() {
            let rest = &self.out[self.written..];
            if let Poll::Ready(written) = Pin::new(&mut self.transport).poll_write(cx, rest) {
                match written? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    n => self.written += n,
                }
                self.flushed = false;
                wrote = true;
            }
        }
        if self.written == self.out.len() {
            self.written = 0;
            self.out.clear();
            if self.out.capacity() > KEPT_BYTES {
                self.out = Vec::new();
            }
        }
        if !self.flushed && self.out.is_empty() {
            if let Poll::Ready(flushed) = Pin::new(&mut self.transport).poll_flush(cx) {
                flushed?;
                self.flushed = true;
            }
        }
        Ok(wrote)
    }

    /// Fills the empty buffer with whatever is to be sent.
    fn encode(&mut self) {
        while self.framing.has_room(&self.out) {
            if self.framing.is_sending() {
                self.framing.encode_next(&mut self.out);
            } else if let Ok((topic, queue)) = self.unwatches.try_recv() {
                self.framing.unwatch(&topic, &queue);
            } else if let Ok(call) = self.calls.try_recv() {
                self.framing.accept(call);
            } else {
                break;
            }
        }
        self.framing.fence(&mut self.out);
    }

    /// One read. Says whether there was something.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, ConnectionError> {
        let read = Pin::new(&mut self.transport).poll_read(cx, &mut self.buffer);
        let bytes = match read {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(0)) => return Err(ConnectionError::Disconnected(None)),
            Poll::Ready(Ok(n)) => &self.buffer[..n],
            Poll::Ready(Err(error)) => return Err(error.into()),
        };
        let block = self.lines.push(bytes);
        self.framing.begin_read();
        for line in block.iter() {
            let line = line.map_err(|_| ConnectionError::Protocol("a line without end"))?;
            self.framing.line(line)?;
        }
        if self.lines.held() > MAX_REPLY {
            return Err(ConnectionError::Protocol("a line without end"));
        }
        Ok(true)
    }
}

/// However a connection ends, every call and every watcher that waits for it gets the reason.
impl Drop for ClientConnection {
    fn drop(&mut self) {
        let end = &self.end;
        self.framing
            .end(end.get_or_init(|| ConnectionError::Disconnected(None)));
        // The link keeps the channels alive, so what is in them is dropped here.
        self.calls.close();
        self.unwatches.close();
        while self.calls.try_recv().is_ok() {}
        while self.unwatches.try_recv().is_ok() {}
    }
}
