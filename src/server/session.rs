//! One client: bytes → lines → the coordinator, and its replies → bytes.
//!
//! Reader and writer are two futures in one task. The reader has at most one batch with the
//! coordinator at a time, so a client's commands wait in its own socket and nowhere else.

mod reader;
mod writer;

use std::{
    future::Future,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_channel::Sender;
use futures_lite::{
    AsyncRead, AsyncWrite, future,
    io::{ReadHalf, WriteHalf, split},
};

use super::{
    Control, Limits, Overflow,
    event::{Event, Message},
    outbox::Outbox,
};
use crate::{Clock, clock};

/// What a client is: anything that reads and writes bytes.
pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

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

    /// A byte has moved.
    fn note_move(&self) {
        if self.surroundings.limits.idle < Duration::MAX {
            let now = self.surroundings.clock.now() - self.began;
            self.moved.store(now.as_millis() as u64, Ordering::Relaxed);
        }
    }
}
