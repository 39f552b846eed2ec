//! One connection: its handle, and the driver that moves the bytes.

use std::{
    io,
    pin::{Pin, pin},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use async_channel::{Receiver, Sender};
use futures_lite::{AsyncRead, AsyncWrite, future};

use super::{
    crank::{Crank, Seat},
    flow::{Answers, Ask, Flow, MAX_REPLY},
    promise::{Promise, promise},
    watch::{Mailbox, Subject},
};
use crate::{
    Error,
    protocol::{Code, LineDecoder},
};

/// Requests that wait to be encoded. Callers beyond them wait their turn.
const REQUESTS: usize = 256;

/// The most that one read takes.
const READ_BYTES: usize = 64 * 1024;

/// Reads and writes in a row, before others on this thread have their turn.
const ROUNDS: usize = 16;

/// An output buffer that has grown beyond this, for a large value, is not kept.
const KEPT_BYTES: usize = 256 * 1024;

/// What one caller asks for in one go, and where the answers go.
pub(super) struct Request {
    pub(super) asks: Vec<Ask>,
    pub(super) promise: Promise<Answers>,
}

/// What ended a connection.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    Refused { code: Code, message: String },
    Disconnected(Option<Arc<io::Error>>),
    Protocol(&'static str),
}

impl Fault {
    /// Everyone who waited gets one.
    pub(super) fn to_error(&self) -> Error {
        match self {
            Fault::Refused { code, message } => Error::Refused {
                code: *code,
                message: message.clone(),
            },
            Fault::Disconnected(source) => Error::Disconnected(source.clone()),
            Fault::Protocol(what) => Error::Protocol(what),
        }
    }

    /// Where it is a refusal, and not of the command itself but of what was to confirm it, or of
    /// all that may come.
    pub(super) fn unconfirmed(&self) -> Error {
        match self {
            Fault::Refused { code, message } => Error::Unconfirmed {
                code: *code,
                message: message.clone(),
            },
            other => other.to_error(),
        }
    }

    fn io(error: io::Error) -> Self {
        Fault::Disconnected(Some(Arc::new(error)))
    }
}

pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// A connection, for those who ask something of it. The driver knows nothing of it, so it ends
/// with the last of them.
pub(super) struct Link {
    crank: Crank,
    requests: Sender<Request>,
    /// Watchers that have gone, of those whose watch was sent. Each goes once, so what was sent
    /// bounds it.
    leavers: Sender<(Subject, Arc<Mailbox>)>,
    fault: Arc<OnceLock<Fault>>,
    /// Calls under way.
    calls: AtomicUsize,
}

impl Link {
    pub(super) fn new(transport: Box<dyn Transport>) -> Self {
        let (requests, requested) = async_channel::bounded(REQUESTS);
        let (leavers, left) = async_channel::unbounded();
        let fault = Arc::new(OnceLock::new());
        let mut driver = Driver {
            transport,
            requests: requested,
            leavers: left,
            lines: LineDecoder::from_server(MAX_REPLY),
            buffer: vec![0; READ_BYTES].into(),
            flow: Flow::default(),
            out: Vec::new(),
            written: 0,
            flushed: true,
            write_error: None,
            fault: fault.clone(),
        };
        Self {
            crank: Crank::new(Box::pin(std::future::poll_fn(move |cx| driver.poll(cx)))),
            requests,
            leavers,
            fault,
            calls: AtomicUsize::new(0),
        }
    }

    /// What ended the connection.
    pub(super) fn fault(&self) -> Option<Error> {
        self.fault.get().map(Fault::to_error)
    }

    fn gone(&self) -> Error {
        self.fault().unwrap_or(Error::Disconnected(None))
    }

    /// Ends the connection.
    pub(super) fn end(&self) {
        let _ = self.fault.set(Fault::Disconnected(None));
        self.crank.stop();
    }

    pub(super) fn seat(&self) -> Seat {
        self.crank.seat()
    }

    pub(super) fn turn(&self, seat: &mut Seat, cx: &Context<'_>, enough: impl Fn() -> bool) {
        self.crank.turn(seat, cx, enough);
    }

    pub(super) fn leave(&self, subject: Subject, mailbox: Arc<Mailbox>) {
        if self.leavers.try_send((subject, mailbox)).is_ok() {
            self.crank.ask();
        }
    }

    /// Asks, and waits for the answers, one to each ask. Fails where nothing was sent.
    pub(super) async fn call(&self, asks: Vec<Ask>) -> Result<Answers, Error> {
        let others = self.calls.fetch_add(1, Ordering::Relaxed) > 0;
        let _call = Call(&self.calls);
        let mut seat = self.crank.seat();
        let (promise, mut promised) = promise();
        let mut send = pin!(self.requests.send(Request { asks, promise }));
        let sent = std::future::poll_fn(|cx| {
            let sent = send.as_mut().poll(cx);
            if sent.is_ready() {
                return sent;
            }
            self.crank.turn(&mut seat, cx, || false);
            send.as_mut().poll(cx)
        });
        sent.await.map_err(|_| self.gone())?;
        self.crank.ask();
        if others {
            // They may have something to send too. It can go in the same write.
            future::yield_now().await;
        }
        let answers = std::future::poll_fn(|cx| {
            if let Some(answers) = promised.take() {
                return Poll::Ready(answers);
            }
            self.crank.turn(&mut seat, cx, || promised.is_kept());
            promised.poll(cx)
        });
        answers.await.ok_or_else(|| self.gone())
    }
}

struct Call<'a>(&'a AtomicUsize);

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Moves the bytes: it writes while there is something to send and reads while an answer or an
/// event may come, each without waiting for the other.
struct Driver {
    transport: Box<dyn Transport>,
    requests: Receiver<Request>,
    leavers: Receiver<(Subject, Arc<Mailbox>)>,
    lines: LineDecoder,
    buffer: Box<[u8]>,
    flow: Flow,
    /// Encoded, and written up to `written`.
    out: Vec<u8>,
    written: usize,
    flushed: bool,
    /// What the server said before it hung up is still there to be read.
    write_error: Option<io::Error>,
    fault: Arc<OnceLock<Fault>>,
}

impl Driver {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..ROUNDS {
            match self.round(cx) {
                // A watcher who drives takes its events before more are read.
                Ok(true) if self.flow.has_told() => break,
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(fault) => {
                    let _ = self.fault.set(self.flow.reason(fault));
                    return Poll::Ready(());
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// A write and a read, if they can be had. Says whether another round is worth it.
    fn round(&mut self, cx: &mut Context<'_>) -> Result<bool, Fault> {
        let mut again = false;
        if self.write_error.is_none() {
            match self.write(cx) {
                Ok(wrote) => again = wrote && self.has_more(),
                Err(error) => self.write_error = Some(error),
            }
        }
        let read = self.flow.expects() && self.read(cx)?;
        match self.write_error.take() {
            Some(error) if !read => Err(Fault::io(error)),
            error => {
                self.write_error = error;
                Ok(again || read && (self.flow.expects() || self.has_more()))
            }
        }
    }

    /// Whether there is anything to write at once.
    fn has_more(&self) -> bool {
        !self.out.is_empty()
            || self.flow.has_room(&[])
                && (self.flow.is_sending() || !self.requests.is_empty() || !self.leavers.is_empty())
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

    /// Fills the empty buffer with all that is asked for.
    fn encode(&mut self) {
        while self.flow.has_room(&self.out) {
            if self.flow.is_sending() {
                self.flow.encode_next(&mut self.out);
            } else if let Ok((subject, mailbox)) = self.leavers.try_recv() {
                self.flow.leave(&subject, &mailbox);
            } else if let Ok(request) = self.requests.try_recv() {
                self.flow.accept(request);
            } else {
                break;
            }
        }
        self.flow.fence(&mut self.out);
    }

    /// One read. Says whether there was something.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, Fault> {
        let read = Pin::new(&mut self.transport).poll_read(cx, &mut self.buffer);
        let bytes = match read {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(0)) => return Err(Fault::Disconnected(None)),
            Poll::Ready(Ok(n)) => &self.buffer[..n],
            Poll::Ready(Err(error)) => return Err(Fault::io(error)),
        };
        let block = self.lines.push(bytes);
        self.flow.begin_read();
        for line in block.iter() {
            let line = line.map_err(|_| Fault::Protocol("a line without end"))?;
            self.flow.line(line)?;
        }
        if self.lines.held() > MAX_REPLY {
            return Err(Fault::Protocol("a line without end"));
        }
        Ok(true)
    }
}

/// However a connection ends, everyone who waits for it hears of it.
impl Drop for Driver {
    fn drop(&mut self) {
        let fault = self.fault.get_or_init(|| Fault::Disconnected(None));
        self.flow.end(fault);
        // The handles keep the channels alive, so what is in them goes here.
        self.requests.close();
        self.leavers.close();
        while self.requests.try_recv().is_ok() {}
        while self.leavers.try_recv().is_ok() {}
    }
}
