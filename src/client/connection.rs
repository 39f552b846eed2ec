//! One connection: it moves the bytes between the transport and the framing.
//!
//! In: calls and dropped watchers, by channels, and the transport's bytes. Out: bytes, and whatever
//! the framing makes of the lines. It is polled by its [session](super::session).

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_channel::Receiver;
use async_io::Timer;
use futures_lite::{AsyncRead, AsyncWrite, FutureExt as _};

use super::{
    call::Call,
    framing::{Framing, MAX_REPLY},
    silence::Silence,
    watch::{EventQueue, OwnedTopic},
};
use crate::{error::ConnectionError, protocol::LineDecoder, transport::Transport};

/// The most that one read takes.
const READ_BYTES: usize = 64 * 1024;

/// Reads and writes in a row, before others on this thread have their turn.
const STEPS_PER_POLL: usize = 16;

/// An output buffer that has grown beyond this, for a large value, is not kept.
const KEPT_BYTES: usize = 256 * 1024;

/// What the callers send to the connection.
pub(super) struct Inbox {
    pub(super) calls: Receiver<Call>,
    pub(super) unwatches: Receiver<(OwnedTopic, Arc<EventQueue>)>,
}

/// Moves the bytes: it writes while there is something to send and reads while an answer or an
/// event may come, each without waiting for the other.
pub(super) struct ClientConnection {
    transport: Box<dyn Transport>,
    lines: LineDecoder,
    buffer: Box<[u8]>,
    /// Encoded, and written up to `written`.
    out: Vec<u8>,
    written: usize,
    flushed: bool,
    /// Runs while a walk that has no room stops the reading.
    stall: Option<Timer>,
    /// What the server said before it hung up is still there to be read.
    write_error: Option<io::Error>,
    /// A write that fails has sent nothing. So it is with a socket; TLS may have sent a part of it.
    fails_whole: bool,
    /// Of a connection that another one can replace.
    silence: Option<Silence>,
}

impl ClientConnection {
    pub(super) fn new(
        transport: Box<dyn Transport>,
        fails_whole: bool,
        silence: Option<Silence>,
    ) -> Self {
        Self {
            transport,
            lines: LineDecoder::keeping_cr(MAX_REPLY),
            buffer: vec![0; READ_BYTES].into(),
            out: Vec::new(),
            written: 0,
            flushed: true,
            stall: None,
            write_error: None,
            fails_whole,
            silence,
        }
    }

    /// Moves what can be moved. Ready with what ended the connection.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        framing: &mut Framing,
        inbox: &Inbox,
    ) -> Poll<ConnectionError> {
        if let Err(error) = self.look(cx, framing, inbox) {
            return Poll::Ready(framing.reason(error));
        }
        for _ in 0..STEPS_PER_POLL {
            match self.step(cx, framing, inbox) {
                // A watcher that drives takes its events before more are read.
                Ok(true) if framing.has_notified() => break,
                Ok(true) => {}
                Ok(false) => match self.poll_silence(cx, framing) {
                    Ok(true) => {}
                    Ok(false) => return Poll::Pending,
                    Err(error) => return Poll::Ready(framing.reason(error)),
                },
                Err(error) => return Poll::Ready(framing.reason(error)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// How long the other end may be silent from here on.
    pub(super) fn limit_silence(&mut self, limit: Option<Duration>) {
        if let Some(silence) = &mut self.silence {
            silence.limit = limit;
        }
    }

    /// What was encoded and not taken to the end of its line.
    pub(super) fn unsent(&self) -> &[u8] {
        let written = self.out.get(..self.written).unwrap_or_default();
        let begin = memchr::memrchr(b'\n', written).map_or(0, |end| end + 1);
        self.out.get(begin..).unwrap_or_default()
    }

    /// If nobody has looked at the connection for a while, it may have ended meanwhile. Then what is
    /// to be sent goes to the next one, instead of being lost on this one.
    fn look(
        &mut self,
        cx: &mut Context<'_>,
        framing: &mut Framing,
        inbox: &Inbox,
    ) -> Result<(), ConnectionError> {
        let Some(silence) = &self.silence else {
            return Ok(());
        };
        let is_owed = framing.is_owed();
        let was_left_alone = match is_owed {
            true => silence.is_over(),
            false => silence.is_worth_a_look() && self.has_more(framing, inbox),
        };
        if !was_left_alone || self.is_stalled(cx, framing) {
            return Ok(());
        }
        for step in 0..STEPS_PER_POLL {
            if self.read(cx, framing)? {
                continue;
            }
            if step == 0 && is_owed {
                return Err(Silence::error());
            }
            break;
        }
        Ok(())
    }

    /// Nothing moves. Says whether something does now, namely a ping.
    fn poll_silence(
        &mut self,
        cx: &mut Context<'_>,
        framing: &mut Framing,
    ) -> Result<bool, ConnectionError> {
        let Some(silence) = &mut self.silence else {
            return Ok(false);
        };
        if self.stall.is_some() {
            silence.reset();
        }
        let waits = framing.expects() || framing.is_greeting();
        if silence.poll(cx, waits, framing.is_owed()).is_pending() {
            return Ok(false);
        }
        if framing.is_owed() {
            return Err(Silence::error());
        }
        framing.ping();
        Ok(true)
    }

    /// A write and a read, if they can be had. Says whether another step is worth it.
    fn step(
        &mut self,
        cx: &mut Context<'_>,
        framing: &mut Framing,
        inbox: &Inbox,
    ) -> Result<bool, ConnectionError> {
        let mut again = false;
        if self.write_error.is_none() {
            match self.write(cx, framing, inbox) {
                Ok(wrote) => again = wrote && self.has_more(framing, inbox),
                Err(error) => self.write_error = Some(error),
            }
        }
        if self.is_stalled(cx, framing) {
            return Ok(again);
        }
        let read = framing.expects() && self.read(cx, framing)?;
        match self.write_error.take() {
            Some(error) if !read => Err(error.into()),
            error => {
                self.write_error = error;
                Ok(again || read && (framing.expects() || self.has_more(framing, inbox)))
            }
        }
    }

    /// Whether nothing is read for now, because what comes next belongs to a walk without room.
    fn is_stalled(&mut self, cx: &mut Context<'_>, framing: &Framing) -> bool {
        while let Some(left) = framing.walk_queue().and_then(|queue| queue.left_to_wait()) {
            let timer = self.stall.insert(Timer::after(left));
            if timer.poll(cx).is_pending() {
                return true;
            }
        }
        self.stall = None;
        false
    }

    /// Whether there is anything to write at once.
    fn has_more(&self, framing: &Framing, inbox: &Inbox) -> bool {
        !self.out.is_empty()
            || framing.has_room(&[])
                && (framing.is_sending()
                    || !framing.is_greeting()
                        && (framing.has_first_call()
                            || !inbox.calls.is_empty()
                            || !inbox.unwatches.is_empty()))
    }

    /// One write. Says whether the transport took all of it.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        framing: &mut Framing,
        inbox: &Inbox,
    ) -> io::Result<bool> {
        if self.out.is_empty() {
            self.encode(framing, inbox);
        }
        let mut wrote = false;
        if !self.out.is_empty() {
            let rest = &self.out[self.written..];
            if let Poll::Ready(written) = Pin::new(&mut self.transport).poll_write(cx, rest) {
                if written.is_err() && !self.fails_whole {
                    self.written = self.out.len();
                }
                match written? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    n => self.written += n,
                }
                self.flushed = false;
                wrote = true;
            }
        }
        if let Some(silence) = self
            .silence
            .as_mut()
            .filter(|_| wrote && self.written < self.out.len())
        {
            // A long command is on its way.
            silence.reset();
        }
        if self.written == self.out.len() {
            self.written = 0;
            self.out.clear();
            if self.out.capacity() > KEPT_BYTES {
                self.out = Vec::new();
            }
        }
        if !self.flushed
            && self.out.is_empty()
            && let Poll::Ready(flushed) = Pin::new(&mut self.transport).poll_flush(cx)
        {
            flushed?;
            self.flushed = true;
        }
        Ok(wrote)
    }

    /// Fills the empty buffer with whatever is to be sent.
    fn encode(&mut self, framing: &mut Framing, inbox: &Inbox) {
        while framing.has_room(&self.out) {
            if framing.is_sending() {
                framing.encode_next(&mut self.out);
            } else if framing.is_greeting() {
                break;
            } else if let Some(call) = framing.next_first_call() {
                framing.accept(call);
            } else if let Ok((topic, queue)) = inbox.unwatches.try_recv() {
                framing.unwatch(&topic, &queue);
            } else if let Ok(call) = inbox.calls.try_recv() {
                framing.accept(call.into());
            } else {
                break;
            }
        }
        framing.fence(&mut self.out);
    }

    /// One read. Says whether there was something.
    fn read(
        &mut self,
        cx: &mut Context<'_>,
        framing: &mut Framing,
    ) -> Result<bool, ConnectionError> {
        let read = Pin::new(&mut self.transport).poll_read(cx, &mut self.buffer);
        let bytes = match read {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(0)) => return Err(ConnectionError::Disconnected(None)),
            Poll::Ready(Ok(n)) => &self.buffer[..n],
            Poll::Ready(Err(error)) => return Err(error.into()),
        };
        if let Some(silence) = &mut self.silence {
            silence.reset();
        }
        let block = self.lines.push(bytes);
        framing.begin_read();
        for line in block.iter() {
            let line = line.map_err(|_| ConnectionError::Protocol("a line without end"))?;
            framing.line(line)?;
        }
        if self.lines.held() > MAX_REPLY {
            return Err(ConnectionError::Protocol("a line without end"));
        }
        Ok(true)
    }
}
