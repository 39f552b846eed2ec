//! One client: bytes → lines → the coordinator, and its replies → bytes.
//!
//! Reader and writer are two futures in one task. The reader has at most one batch with the
//! coordinator at a time, so a client's commands wait in its own socket and nowhere else.

use std::{
    cell::Cell,
    future::{Future, pending, poll_fn},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_channel::Sender;
use futures_lite::{
    AsyncRead, AsyncWrite, AsyncWriteExt as _, future,
    io::{ReadHalf, WriteHalf, split},
};

use super::{
    Control, Limits, Overflow,
    outbox::{Chunks, Delivery, Outbox},
};
use crate::{
    Clock, clock,
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
    /// The lines of one read.
    Lines(Block),
    /// The outbox has room again, or the socket refuses bytes.
    Resume,
    /// The client sends no more. `partial`: its last line had no end.
    End { partial: bool },
    /// The session is over and the connection closed.
    Left,
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
        let limits = control.limits;
        Self {
            events,
            limits,
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
    taken: impl FnOnce(&[u8]),
) -> Poll<io::Result<usize>> {
    let mut buffer = READ_BUFFER
        .take()
        .unwrap_or_else(|| vec![0; READ_BYTES].into());
    let result = Pin::new(reader).poll_read(cx, &mut buffer);
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
}

/// Serves one client to its end.
pub(super) fn run(
    transport: Box<dyn Transport>,
    client: usize,
    outbox: Arc<Outbox>,
    surroundings: Arc<Surroundings>,
) -> impl Future<Output = ()> {
    let session = Session {
        client,
        outbox,
        surroundings,
    };
    async move {
        let (reader, writer) = split(transport);
        // It ends when input and output have both ended, or when the input breaks, or when the
        // coordinator cuts the client off. Which of these makes no difference to anyone.
        let _ = future::try_zip(session.write(writer), session.read(reader)).await;
        drop(session);
    }
}

/// However a session ends, the coordinator hears of it, once the connection is closed.
impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.outbox.leave();
        self.tell(Message::Left);
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

    /// Bytes → lines → the coordinator, until the client or the server ends the input.
    async fn read(&self, mut reader: Reader) -> io::Result<()> {
        let mut lines = Lines::new(self.surroundings.limits.max_line);
        let mut closing = false;
        loop {
            // One read more after the server began to close: what has come is refused, line by
            // line, and not just cut off.
            let last = closing;
            match self.next_block(&mut reader, &mut lines).await? {
                Input::Block(block) if block.is_empty() => {
                    // A long line comes in many reads; others get their turn between them.
                    future::yield_now().await;
                }
                Input::Block(block) => {
                    self.tell(Message::Lines(block));
                    closing = poll_fn(|cx| self.outbox.poll_next_batch(cx)).await?;
                }
                Input::Ended => {
                    let partial = lines.is_partial();
                    self.tell(Message::End { partial });
                    return Ok(());
                }
                Input::Closing => break,
            }
            if last {
                break;
            }
        }
        self.tell(Message::End { partial: false });
        Box::pin(self.discard(&mut reader)).await
    }

    async fn next_block(&self, reader: &mut Reader, lines: &mut Lines) -> io::Result<Input> {
        poll_fn(|cx| {
            let mut block = None;
            let read = poll_read(reader, cx, |bytes| {
                block = Some(lines.push(bytes));
            });
            match (read, block) {
                (Poll::Ready(Ok(0)), _) => Poll::Ready(Ok(Input::Ended)),
                (Poll::Ready(Ok(_)), Some(block)) => Poll::Ready(Ok(Input::Block(block))),
                (Poll::Ready(Err(error)), _) => Poll::Ready(Err(error)),
                _ => self.outbox.poll_closing(cx).map(|()| Ok(Input::Closing)),
            }
        })
        .await
    }

    /// Reads on to no purpose, so that the client finds its last replies and not a reset, until
    /// it hangs up or is silent.
    async fn discard(&self, reader: &mut Reader) -> io::Result<()> {
        loop {
            let read = poll_fn(|cx| poll_read(reader, cx, |_| ()));
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
                    // Where that fails, reading will fail too.
                    let _ = writer.close().await;
                    return Ok(());
                }
                // What the client sent before it hung up is still there to be read.
                Delivery::Gone => return Ok(()),
                Delivery::Cut => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
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
    /// The server is closing and nothing more has come.
    Closing,
}
