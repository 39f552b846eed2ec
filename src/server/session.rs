//! One client: bytes → lines → the coordinator, and its replies → bytes.
//!
//! Reader and writer are two futures in one task. The reader has at most one batch with the
//! coordinator at a time, so a client's commands wait in its own socket and nowhere else.

use std::{
    cell::Cell,
    future::{Future, pending, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use async_channel::Sender;
use futures_lite::{
    AsyncRead, AsyncWrite, AsyncWriteExt as _, future,
    io::{ReadHalf, WriteHalf, split},
};

use super::{
    Control, Limits, Overflow,
    entry::{ENTRY_BYTES, ENTRY_DELAY, ENTRY_TIME, Entry, Verdict},
    outbox::{Chunks, Delivery, Outbox},
    pace::{LineTimer, Pace},
};
use crate::{
    Clock, Secret, clock,
    protocol::{Block, Lines},
};

/// The most that one read takes. It bounds what a client can have applied in one batch.
const READ_BYTES: usize = 64 * 1024;

thread_local! {
    /// One a thread is enough: a buffer is in use only while a read is tried, so a client that
    /// waits holds none.
    static READ_BUFFER: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Chunks that are smaller together than this are written in one go.
const WRITE_BYTES: usize = 16 * 1024;

/// At shutdown, how long a client must be silent before its connection is closed, after all its
/// replies are delivered. Closing while it still sends could cost it the replies on their way.
const LINGER: Duration = Duration::from_millis(250);

/// How long a client that was shown the door may take to hear why.
const PARTING: Duration = Duration::from_secs(2);

/// How long a client may take to make room for the end of the stream, which is a few bytes where
/// it is one of TLS. All replies are in the socket by then, so one that reads needs far less.
const FAREWELL: Duration = Duration::from_secs(10);

/// What a client is: anything that reads and writes bytes.
pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// News of one client for the coordinator.
///
/// The channel that carries them has no bound of its own. A session has at most one of each kind
/// on its way, so the number of clients bounds it.
pub(super) struct Event {
    pub(super) client: usize,
    pub(super) message: Message,
}

pub(super) enum Message {
    /// The lines of one read, or a part of them.
    Lines {
        block: Block,
        /// They had to wait for the client's rate.
        paced: bool,
    },
    /// The outbox has room again, or the socket refuses bytes.
    Resume,
    /// The client has said the secret, in this line.
    LetIn { line: u64 },
    /// It has said something else, and may try again.
    NotLetIn(NotLetIn),
    /// The client may send no more.
    End(End),
    /// The session is over and the connection closed.
    Left {
        /// What broke it.
        error: Option<io::ErrorKind>,
    },
}

/// A line that was not the secret.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotLetIn {
    pub(super) line: u64,
    /// It was another secret.
    pub(super) wrong: bool,
}

impl NotLetIn {
    /// For a person.
    pub(super) fn words(self) -> &'static str {
        match self.wrong {
            true => "that is not the secret",
            false => "first say Auth:secret",
        }
    }
}

/// Why a client's input ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// The client sends no more.
    Eof,
    /// The same, within a line.
    Partial,
    /// The server is closing.
    Closing,
    /// Nothing moved for too long.
    Idle,
    /// A line took too long.
    SlowLine,
    /// The last chance to say the secret was missed.
    NotLetIn(NotLetIn),
    /// The time for the secret is over.
    Late,
}

/// What all sessions share.
pub(super) struct Surroundings {
    events: Sender<Event>,
    limits: Limits,
    clock: Arc<dyn Clock>,
    /// How long a socket may take nothing before it counts as refusing; `None` is for ever.
    stall: Option<Duration>,
}

impl Surroundings {
    pub(super) fn new(events: Sender<Event>, control: &Control) -> Self {
        let limits = &control.limits;
        Self {
            events,
            limits: limits.clone(),
            clock: control.clock.clone(),
            stall: (limits.overflow != Overflow::Wait).then_some(limits.stall),
        }
    }

    async fn sleep(&self, time: Duration) {
        clock::sleep(&*self.clock, time).await;
    }
}

/// Tries a read, with a buffer that is held only until it returns.
fn poll_read(
    reader: &mut Reader,
    cx: &mut Context<'_>,
    most: usize,
    taken: impl FnOnce(&[u8]),
) -> Poll<io::Result<usize>> {
    let mut buffer = READ_BUFFER
        .take()
        .unwrap_or_else(|| vec![0; READ_BYTES].into());
    let result = Pin::new(reader).poll_read(cx, &mut buffer[..most]);
    if let Poll::Ready(Ok(n)) = result {
        taken(&buffer[..n]);
    }
    READ_BUFFER.set(Some(buffer));
    result
}

type Reader = ReadHalf<Box<dyn Transport>>;
type Writer = WriteHalf<Box<dyn Transport>>;

struct Session {
    client: usize,
    outbox: Arc<Outbox>,
    surroundings: Arc<Surroundings>,
    began: Instant,
    /// When a byte last moved, in milliseconds since then; kept only where idleness has a limit.
    moved: AtomicU64,
    /// The reader waits for the server.
    waits: AtomicBool,
    error: Option<io::ErrorKind>,
}

/// Serves one client to its end.
pub(super) fn run(
    transport: Box<dyn Transport>,
    client: usize,
    outbox: Arc<Outbox>,
    surroundings: Arc<Surroundings>,
    admitted: bool,
) -> impl Future<Output = ()> {
    let mut session = Session {
        client,
        outbox,
        began: surroundings.clock.now(),
        surroundings,
        moved: AtomicU64::new(0),
        waits: AtomicBool::new(false),
        error: None,
    };
    async move {
        let (reader, writer) = split(transport);
        // It ends when input and output have both ended, or when the input breaks, or when the
        // coordinator cuts the client off. Which of these matters to nobody but a log.
        let ended = {
            let both = future::try_zip(session.write(writer), session.receive(reader, admitted));
            clock::in_turn(&session.surroundings.clock, pin!(both)).await
        };
        session.error = ended.err().map(|error| error.kind());
        drop(session);
    }
}

/// However a session ends, the coordinator hears of it, once the connection is closed.
impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.outbox.leave();
        let error = self.error;
        self.tell(Message::Left { error });
    }
}

impl Session {
    fn tell(&self, message: Message) {
        // The coordinator is gone only where this task is about to be.
        let _ = self.surroundings.events.try_send(Event {
            client: self.client,
            message,
        });
    }

    /// Reads until the input ends, one way or another, and tells the coordinator which.
    async fn receive(&self, mut reader: Reader, admitted: bool) -> io::Result<()> {
        if !admitted {
            return Box::pin(self.show_out(&mut reader)).await;
        }
        let end = match self.surroundings.limits.idle {
            Duration::MAX => self.read(&mut reader).await?,
            limit => {
                let idle = async {
                    self.idle(limit).await;
                    Ok(End::Idle)
                };
                Box::pin(future::or(self.read(&mut reader), idle)).await?
            }
        };
        self.tell(Message::End(end));
        match end {
            End::Eof | End::Partial => Ok(()),
            End::Closing => Box::pin(self.discard(&mut reader)).await,
            _ => Box::pin(self.show_out(&mut reader)).await,
        }
    }

    /// Bytes → lines → the coordinator, until the client or the server ends the input.
    async fn read(&self, reader: &mut Reader) -> io::Result<End> {
        let limits = &self.surroundings.limits;
        let clock = &*self.surroundings.clock;
        let mut lines = Lines::new(limits.max_line);
        let mut line = LineTimer::default();
        let mut pace = (limits.rate < u32::MAX).then(|| Pace::new(limits.rate, clock.now()));
        let mut first = None;
        if let Some(secret) = &limits.secret {
            match Box::pin(self.let_in_time(reader, secret)).await? {
                Ok(rest) => first = Some(Input::Block(lines.push(&rest))),
                Err(end) => return Ok(end),
            }
        }
        let mut closing = false;
        loop {
            // One read more after the server began to close: what has come is refused, line by
            // line, and not just cut off.
            let last = closing;
            let input = match first.take() {
                Some(input) => input,
                None => self.next_block(reader, &mut lines, &mut line).await?,
            };
            let mut new_line = false;
            match input {
                Input::Block(block) if block.is_empty() => {
                    // A long line comes in many reads; others get their turn between them.
                    future::yield_now().await;
                }
                Input::Block(block) => {
                    new_line = true;
                    self.waits.store(true, Ordering::Relaxed);
                    closing = match &mut pace {
                        None => {
                            let paced = false;
                            self.tell(Message::Lines { block, paced });
                            poll_fn(|cx| self.outbox.poll_next_batch(cx)).await?
                        }
                        Some(pace) => Box::pin(self.hand_over(block, pace)).await?,
                    };
                    self.waits.store(false, Ordering::Relaxed);
                    self.note_move();
                }
                Input::Ended if lines.is_partial() => return Ok(End::Partial),
                Input::Ended => return Ok(End::Eof),
                Input::SlowLine => return Ok(End::SlowLine),
                Input::Closing => return Ok(End::Closing),
            }
            if last {
                return Ok(End::Closing);
            }
            match lines.is_partial() {
                true => line.run(new_line, clock),
                false => line.stop(),
            }
        }
    }

    async fn next_block(
        &self,
        reader: &mut Reader,
        lines: &mut Lines,
        line: &mut LineTimer,
    ) -> io::Result<Input> {
        let limit = self.surroundings.limits.line_time;
        poll_fn(|cx| {
            let mut block = None;
            let read = poll_read(reader, cx, READ_BYTES, |bytes| {
                block = Some(lines.push(bytes));
            });
            match (read, block) {
                (Poll::Ready(Ok(0)), _) => Poll::Ready(Ok(Input::Ended)),
                (Poll::Ready(Ok(_)), Some(block)) => {
                    self.note_move();
                    Poll::Ready(Ok(Input::Block(block)))
                }
                (Poll::Ready(Err(error)), _) => Poll::Ready(Err(error)),
                _ if self.outbox.poll_closing(cx).is_ready() => Poll::Ready(Ok(Input::Closing)),
                _ => line
                    .poll(cx, &*self.surroundings.clock, limit)
                    .map(|()| Ok(Input::SlowLine)),
            }
        })
        .await
    }

    /// Lines → the coordinator, as fast as the client's rate allows. Says whether the server is
    /// closing; then all of them have gone there, to be refused.
    async fn hand_over(&self, mut block: Block, pace: &mut Pace) -> io::Result<bool> {
        let clock = &*self.surroundings.clock;
        let mut closing = false;
        let mut paced = false;
        loop {
            let allowed = match pace.allows(clock.now()) {
                _ if closing => usize::MAX,
                Ok(lines) => lines,
                Err(until) => {
                    paced = true;
                    let closes = poll_fn(|cx| self.outbox.poll_closing(cx).map(|()| true));
                    let on_time = async {
                        clock.sleep(until).await;
                        false
                    };
                    closing = future::or(closes, on_time).await;
                    continue;
                }
            };
            let (block_now, lines) = block.split_to(allowed);
            pace.spend(lines);
            let paced = std::mem::take(&mut paced);
            self.tell(Message::Lines {
                block: block_now,
                paced,
            });
            closing |= poll_fn(|cx| self.outbox.poll_next_batch(cx)).await?;
            if block.is_empty() {
                return Ok(closing);
            }
        }
    }

    /// Lets the client in where it says the secret in time, and gives what it has sent behind it.
    async fn let_in_time(
        &self,
        reader: &mut Reader,
        secret: &Secret,
    ) -> io::Result<Result<Vec<u8>, End>> {
        let late = async {
            self.surroundings.sleep(ENTRY_TIME).await;
            Ok(Err(End::Late))
        };
        future::or(self.let_in(reader, secret), late).await
    }

    async fn let_in(
        &self,
        reader: &mut Reader,
        secret: &Secret,
    ) -> io::Result<Result<Vec<u8>, End>> {
        let mut entry = Entry::new(secret);
        loop {
            let verdict = entry.next();
            let line = entry.lines();
            match verdict {
                Verdict::LetIn { rest } => {
                    self.tell(Message::LetIn { line });
                    return Ok(Ok(rest));
                }
                Verdict::Refused { wrong, last } => {
                    self.surroundings.sleep(ENTRY_DELAY).await;
                    let refused = NotLetIn { line, wrong };
                    if last {
                        return Ok(Err(End::NotLetIn(refused)));
                    }
                    self.tell(Message::NotLetIn(refused));
                    if poll_fn(|cx| self.outbox.poll_next_batch(cx)).await? {
                        return Ok(Err(End::Closing));
                    }
                }
                Verdict::Unknown => {
                    let read = poll_fn(|cx| {
                        let read = poll_read(reader, cx, ENTRY_BYTES, |bytes| entry.push(bytes));
                        match read {
                            Poll::Ready(read) => Poll::Ready(read.map(Some)),
                            Poll::Pending => self.outbox.poll_closing(cx).map(|()| Ok(None)),
                        }
                    });
                    match read.await? {
                        Some(0) if entry.is_partial() => {
                            let (line, wrong) = (line + 1, false);
                            return Ok(Err(End::NotLetIn(NotLetIn { line, wrong })));
                        }
                        Some(0) => return Ok(Err(End::Eof)),
                        Some(_) => {}
                        None => return Ok(Err(End::Closing)),
                    }
                }
            }
        }
    }

    /// A byte has moved.
    fn note_move(&self) {
        if self.surroundings.limits.idle < Duration::MAX {
            let now = self.surroundings.clock.now() - self.began;
            self.moved.store(now.as_millis() as u64, Ordering::Relaxed);
        }
    }

    /// Is ready when nothing has moved for this time, and it is not for the server to move.
    async fn idle(&self, limit: Duration) {
        let clock = &*self.surroundings.clock;
        loop {
            let moved = Duration::from_millis(self.moved.load(Ordering::Relaxed));
            let until = clock::later(self.began + moved, limit);
            if clock.now() < until {
                clock.sleep(until).await;
            } else if self.waits.load(Ordering::Relaxed) && self.outbox.is_empty() {
                self.note_move();
            } else {
                return;
            }
        }
    }

    /// Lets the client hear why its connection ends, for a short time.
    async fn show_out(&self, reader: &mut Reader) -> io::Result<()> {
        let over = async {
            self.surroundings.sleep(PARTING).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        future::or(self.discard(reader), over).await
    }

    /// Reads on to no purpose, so that the client finds its last replies and not a reset, until
    /// it hangs up or is silent.
    async fn discard(&self, reader: &mut Reader) -> io::Result<()> {
        loop {
            let read = poll_fn(|cx| poll_read(reader, cx, READ_BYTES, |_| ()));
            let silent = async {
                self.surroundings.sleep(LINGER).await;
                Ok(None)
            };
            match future::or(async { read.await.map(Some) }, silent).await? {
                Some(0) => return Ok(()),
                Some(_) => future::yield_now().await,
                None if self.outbox.is_finished() => return Ok(()),
                None => {}
            }
        }
    }

    /// Replies → bytes, until there are no more.
    async fn write(&self, mut writer: Writer) -> io::Result<()> {
        loop {
            match poll_fn(|cx| self.outbox.poll_take(cx, &self.surroundings.limits)).await {
                Delivery::Replies(replies) => {
                    if self.deliver(&mut writer, replies).await.is_err() && self.outbox.leave() {
                        self.tell(Message::Resume);
                    }
                }
                Delivery::RoomAgain => self.tell(Message::Resume),
                Delivery::Finished => {
                    return match future::poll_once(writer.close()).await {
                        // Where that failed, reading will fail too.
                        Some(_) => Ok(()),
                        None => Box::pin(self.close(writer)).await,
                    };
                }
                // What the client sent before it hung up is still there to be read.
                Delivery::Gone => return Ok(()),
                Delivery::Cut => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
    }

    /// The transport can't close at once. A client that never lets it is cut off.
    async fn close(&self, mut writer: Writer) -> io::Result<()> {
        let late = async {
            self.surroundings.sleep(FAREWELL).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        let closed = async {
            let _ = writer.close().await;
            Ok(())
        };
        future::or(closed, late).await
    }

    async fn deliver(&self, writer: &mut Writer, chunks: Chunks) -> io::Result<()> {
        match &chunks[..] {
            [chunk] => self.deliver_bytes(writer, chunk.bytes()).await,
            // Boxed for the sake of those who are idle, too.
            _ => Box::pin(self.deliver_many(writer, chunks)).await,
        }
    }

    /// A watcher that is behind has many chunks, and small ones.
    async fn deliver_many(&self, writer: &mut Writer, chunks: Chunks) -> io::Result<()> {
        let mut gathered = Vec::new();
        for chunk in chunks {
            let bytes = chunk.bytes();
            if gathered.len() + bytes.len() > WRITE_BYTES {
                self.deliver_bytes(writer, &gathered).await?;
                gathered.clear();
            }
            if bytes.len() > WRITE_BYTES {
                self.deliver_bytes(writer, bytes).await?;
            } else {
                gathered.extend_from_slice(bytes);
            }
        }
        self.deliver_bytes(writer, &gathered).await
    }

    async fn deliver_bytes(&self, writer: &mut Writer, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            let written = match future::poll_once(writer.write(rest)).await {
                Some(result) => result?,
                // Boxed, because it is rare and every idle client would have to hold room for it.
                None => Box::pin(self.patiently(writer.write(rest))).await?,
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            rest = &rest[written..];
            self.note_move();
        }
        match future::poll_once(writer.flush()).await {
            Some(result) => result,
            None => Box::pin(self.patiently(writer.flush())).await,
        }
    }

    /// The socket accepts nothing just now. Where that lasts, the coordinator hears of it.
    async fn patiently<T>(&self, write: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let stalled = async {
            match self.surroundings.stall {
                Some(stall) => self.surroundings.sleep(stall).await,
                None => pending().await,
            }
            if self.outbox.set_refusing(true) {
                self.tell(Message::Resume);
            }
            // From here on, the coordinator may lose its patience.
            poll_fn(|cx| self.outbox.poll_cut(cx)).await;
            Err(io::ErrorKind::ConnectionAborted.into())
        };
        let result = future::or(write, stalled).await;
        let _ = self.outbox.set_refusing(false);
        result
    }
}

enum Input {
    Block(Block),
    /// The client will send no more.
    Ended,
    /// A line is taking too long.
    SlowLine,
    /// The server is closing and nothing more has come.
    Closing,
}
