//! One client: bytes → lines → the coordinator, and its replies → bytes.
//!
//! Reader and writer are two futures in one task. The reader has at most one batch with the
//! coordinator at a time, so a client's commands wait in its own socket and nowhere else.

mod entry;
mod foreign;
mod parting;
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
    future,
    io::{ReadHalf, WriteHalf, split},
};

pub(super) use entry::ENTRY_TIME;
pub(super) use foreign::Foreign;

use super::{
    Control, Limits, Overflow,
    event::{Event, Message},
    outbox::Outbox,
    pace::Pace,
    peer::Peer,
};
use crate::{Clock, clock};

pub(super) use crate::transport::Transport;

/// What all sessions share.
pub(super) struct Surroundings {
    events: Sender<Event>,
    limits: Limits,
    clock: Arc<dyn Clock>,
    began: Instant,
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
            began: control.clock.now(),
            stall: (limits.overflow != Overflow::Wait).then_some(limits.stall_timeout),
        }
    }

    async fn sleep(&self, time: Duration) {
        clock::sleep(&*self.clock, time).await;
    }

    fn pace(&self) -> Option<Box<Pace>> {
        let rate = self.limits.max_line_rate;
        (rate < u32::MAX).then(|| Box::new(Pace::new(rate, self.clock.now())))
    }

    /// The server's time, where anyone wants to know how long a client has been idle.
    fn millis(&self) -> u64 {
        match self.limits.idle_timeout {
            Duration::MAX => 0,
            _ => (self.clock.now() - self.began).as_millis() as u64,
        }
    }
}

type Reader = ReadHalf<Box<dyn Transport>>;
type Writer = WriteHalf<Box<dyn Transport>>;

struct Session {
    client: usize,
    outbox: Arc<Outbox>,
    surroundings: Arc<Surroundings>,
    /// When a byte last moved, in milliseconds of the server's time; kept only where idleness has
    /// a limit.
    moved: AtomicU64,
    /// The same of a write to a peer that the system knows more of. It counts as a move if the peer
    /// has acknowledged it: the system takes bytes for one that is gone, too.
    wrote: AtomicU64,
    peer: Option<Arc<Peer>>,
    /// The reader waits for the server.
    waits: AtomicBool,
    error: Option<io::Error>,
}

/// Serves one client to its end.
pub(super) fn run(
    (transport, peer): (Box<dyn Transport>, Option<Arc<Peer>>),
    client: usize,
    outbox: Arc<Outbox>,
    surroundings: Arc<Surroundings>,
    admitted: bool,
) -> impl Future<Output = ()> {
    let mut session = Session {
        client,
        outbox,
        moved: AtomicU64::new(surroundings.millis()),
        wrote: AtomicU64::new(0),
        peer,
        surroundings,
        waits: AtomicBool::new(false),
        error: None,
    };
    async move {
        let (reader, writer) = split(transport);
        // It ends when input and output have both ended, or when the input breaks, or when the
        // coordinator cuts the client off. Which of these matters to nobody but a log.
        let ended = {
            let both = future::try_zip(session.write(writer), session.receive(reader, admitted));
            clock::deferrable(&session.surroundings.clock, pin!(both)).await
        };
        session.error = ended.err();
        drop(session);
    }
}

/// However a session ends, the coordinator hears of it, once the connection is closed.
impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.outbox.leave();
        let error = self.error.take();
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

    /// The client has sent something.
    fn note_read(&self) {
        if let Some(peer) = &self.peer {
            peer.note_read();
        }
        self.note_move();
    }

    /// The transport has taken something.
    fn note_write(&self) {
        let Some(peer) = &self.peer else {
            return self.note_move();
        };
        peer.note_write();
        self.wrote
            .store(self.surroundings.millis(), Ordering::Relaxed);
    }

    /// Counts what was written as a move, as far as the peer has acknowledged it. Says whether that
    /// makes a difference.
    fn note_acknowledged(&self) -> bool {
        let wrote = self.wrote.load(Ordering::Relaxed);
        if wrote <= self.moved.load(Ordering::Relaxed) {
            return false;
        }
        let silence = self.peer.as_ref().and_then(|peer| peer.silence());
        let silence = silence.map_or(0, |silence| silence.as_millis() as u64);
        let answered = self.surroundings.millis().saturating_sub(silence);
        let moved = wrote.min(answered);
        self.moved.fetch_max(moved, Ordering::Relaxed) < moved
    }

    /// A byte has moved.
    fn note_move(&self) {
        self.moved
            .store(self.surroundings.millis(), Ordering::Relaxed);
    }
}
