//! The outbox → bytes.
//!
//! In: chunks of replies from the outbox. Out: bytes to the transport; `OutboxReady` to the coordinator
//! if there is room again, or if the transport is stalled.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures_lite::AsyncWrite as _;

use super::{
    Connection,
    input_rules::Environment as _,
    message::Message,
    outbox::{Chunk, Chunks, Delivery},
};
use crate::{clock, shared::buffers::BufferPool};

/// Chunks that are smaller together than this are written in one go.
const WRITE_BYTES: usize = 16 * 1024;

/// How long a client may take to make room for the end of the stream, which is a few bytes if it is
/// one of TLS. All replies are in the socket by then, so one that reads needs far less.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The output of a connection: what it is about to write, and how long the transport may refuse it.
#[derive(Default)]
pub(crate) struct Output {
    phase: WritePhase,
    /// The last first.
    chunks: Chunks,
    /// Bytes of the first chunk that are written.
    written: usize,
    /// The transport takes nothing just now, and may do so until then.
    deadline: Option<Instant>,
    /// It has done so for longer than that.
    is_stalled: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum WritePhase {
    /// Waits for the outbox.
    #[default]
    Next,
    Write,
    Close,
    Done,
}

impl Output {
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Makes one chunk of the small ones that come first. A watcher that is behind has many.
    fn gather(&mut self, buffers: &BufferPool) {
        let mut bytes = 0;
        let small = self.chunks.iter().rev().take_while(|chunk| {
            bytes += chunk.bytes().len();
            bytes <= WRITE_BYTES
        });
        let rest = self.chunks.len() - small.count();
        if self.chunks.len() - rest > 1 {
            let mut gathered = buffers.take(WRITE_BYTES);
            for chunk in self.chunks.drain(rest..).rev() {
                gathered.extend_from_slice(chunk.bytes());
            }
            self.chunks.push(Chunk::Own(gathered));
        }
    }
}

impl Connection {
    /// Replies → bytes, until there are no more.
    pub(crate) fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.output.phase {
                WritePhase::Next => match ready!(self.link.outbox.poll_next(cx)) {
                    Delivery::Write(mut chunks) => {
                        chunks.reverse();
                        self.output.chunks = chunks;
                        self.output.phase = WritePhase::Write;
                    }
                    Delivery::NotifyCapacity => self.link.send(Message::OutboxReady),
                    Delivery::Finish => self.output.phase = WritePhase::Close,
                    // What the client sent before it hung up is still there to be read.
                    Delivery::Closed => self.output.phase = WritePhase::Done,
                    Delivery::Abort => {
                        return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                    }
                },
                WritePhase::Write => {
                    let result = ready!(self.poll_write(cx));
                    self.output = Output::default();
                    if result.is_err() && self.link.outbox.close() {
                        self.link.send(Message::OutboxReady);
                    }
                }
                WritePhase::Close => {
                    if Pin::new(&mut self.transport).poll_close(cx).is_pending() {
                        // A client that never lets the transport close is cut off.
                        self.block(CLOSE_TIMEOUT);
                        return Poll::Pending;
                    }
                    // If that failed, reading will fail too.
                    self.output = Output::default();
                    self.output.phase = WritePhase::Done;
                }
                WritePhase::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.output.written == 0 && self.output.chunks.len() > 1 {
                self.output.gather(&self.link.context.buffers);
            }
            let transport = Pin::new(&mut self.transport);
            let Some(chunk) = self.output.chunks.last() else {
                let flushed = transport.poll_flush(cx);
                return self.detect_stall(cx, flushed);
            };
            let rest = &chunk.bytes()[self.output.written..];
            let left = rest.len();
            let written = transport.poll_write(cx, rest);
            let written = ready!(self.detect_stall(cx, written))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.written += written;
            if written >= left {
                self.output.written = 0;
                if let Some(Chunk::Own(buffer)) = self.output.chunks.pop() {
                    self.link.context.buffers.put(buffer);
                }
            }
            // A client that reads slowly has room for more before it has read the last byte.
            self.link.outbox.count_written(written);
            if let Some(peer) = &self.link.peer {
                peer.on_write();
            }
            let is_acknowledged = self.link.peer.is_none();
            self.input.on_write(is_acknowledged, &self.link);
        }
    }

    /// If the transport takes nothing for long, the coordinator is notified, and may cut the client
    /// off.
    fn detect_stall<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.output.deadline = None;
            if std::mem::take(&mut self.output.is_stalled) {
                let _ = self.link.outbox.set_stalled(false);
            }
        } else if self.output.is_stalled {
            let aborted = self.link.outbox.poll_aborted(cx);
            return aborted.map(|()| Err(io::ErrorKind::ConnectionAborted.into()));
        } else if let Some(stall) = self.link.context.stall {
            self.block(stall);
        }
        result
    }

    fn block(&mut self, limit: Duration) {
        if self.output.deadline.is_none() {
            self.output.deadline = Some(clock::later(self.link.now(), limit));
        }
    }

    /// The time is over in which the transport should have taken something.
    pub(crate) fn on_blocked(&mut self) -> io::Result<()> {
        if self.output.phase == WritePhase::Close {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.output.deadline = None;
        self.output.is_stalled = true;
        if self.link.outbox.set_stalled(true) {
            self.link.send(Message::OutboxReady);
        }
        Ok(())
    }
}
