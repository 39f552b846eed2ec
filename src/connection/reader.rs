//! The driver of the input: reads → [`InputRules`](super::input_rules::InputRules) → messages to the coordinator.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_lite::AsyncRead as _;

use super::{Connection, input_rules::Wait};

/// The most that one read takes. It bounds what a client can have applied in one batch.
pub(crate) const READ_BYTES: usize = 64 * 1024;

thread_local! {
    /// One a thread is enough: a buffer is in use only while a read is tried, so a client that
    /// waits holds none.
    static READ_BUFFER: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

impl Connection {
    /// Reads until the input has ended, one way or another, and nothing more is to be done for it.
    pub(crate) fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.input.wait() {
                wait @ (Wait::Bytes | Wait::Discard) => {
                    if self.poll_read(cx)?.is_ready() {
                        if self.input.waits_for_bytes() {
                            // A long line comes in many reads. Other tasks run between them.
                            cx.waker().wake_by_ref();
                            return Poll::Pending;
                        }
                    } else if wait == Wait::Discard {
                        return Poll::Pending;
                    } else {
                        ready!(self.link.outbox.poll_shutdown(cx));
                        self.input.on_shutdown(&self.link);
                    }
                }
                Wait::Permit => {
                    let shutting_down = ready!(self.link.outbox.poll_read_permit(cx))?;
                    self.input.on_permit(shutting_down, &self.link);
                }
                Wait::Deadline => {
                    ready!(self.link.outbox.poll_shutdown(cx));
                    self.input.on_shutdown(&self.link);
                    if self.input.wait() == Wait::Deadline {
                        return Poll::Pending;
                    }
                }
                // The writer is a part of the same task, so this is polled when it is done.
                Wait::Delivery if !self.link.outbox.is_finished() => return Poll::Pending,
                Wait::Delivery => self.input.on_delivered(),
                Wait::Done => return Poll::Ready(Ok(())),
                Wait::TimedOut => return Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            }
        }
    }

    /// Tries a read, with a buffer that is held only until it returns.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut buffer = READ_BUFFER
            .take()
            .unwrap_or_else(|| vec![0; READ_BYTES].into());
        let most = self.input.read_bytes();
        let read = Pin::new(&mut self.transport).poll_read(cx, &mut buffer[..most]);
        let read = read.map_ok(|n| match n {
            0 => self.input.on_eof(&self.link),
            n => self.on_read(&buffer[..n]),
        });
        READ_BUFFER.set(Some(buffer));
        read
    }

    fn on_read(&mut self, bytes: &[u8]) {
        if let Some(peer) = &self.link.peer {
            peer.on_read();
        }
        self.input.on_bytes(bytes, &self.link);
    }
}
