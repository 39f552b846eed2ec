//! One client: bytes → lines → the coordinator, and its replies → bytes.
//!
//! Reader and writer are two futures in one task. The reader has at most one batch with the
//! coordinator at a time, so a client's commands wait in its own socket and nowhere else.

mod authenticator;
mod close;
#[cfg(target_os = "linux")]
pub(crate) mod epoll;
#[cfg(not(target_os = "linux"))]
#[path = "connection/no_epoll.rs"]
pub(crate) mod epoll;
pub(crate) mod message;
mod other_protocol;
pub(crate) mod outbox;
#[cfg(target_os = "linux")]
pub(crate) mod peer;
#[cfg(not(target_os = "linux"))]
#[path = "connection/no_peer.rs"]
pub(crate) mod peer;
mod rate_limiter;
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

pub(crate) use authenticator::AUTH_TIMEOUT;

use crate::{
    Clock, Overflow, clock,
    shared::{limits::Limits, state::ServerState},
};
use message::{FromConnection, Message};
use outbox::Outbox;
use peer::Peer;
use rate_limiter::RateLimiter;

pub(crate) use crate::transport::Transport;

/// What all sessions share.
pub(crate) struct ConnectionContext {
    events: Sender<FromConnection>,
    limits: Limits,
    clock: Arc<dyn Clock>,
    began: Instant,
    /// How long a socket may take nothing before it counts as stalled; `None` is for ever.
    stall: Option<Duration>,
}

impl ConnectionContext {
    pub(crate) fn new(events: Sender<FromConnection>, control: &ServerState) -> Self {
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

    fn rate_limiter(&self) -> Option<Box<RateLimiter>> {
        let rate = self.limits.max_line_rate;
        (rate < u32::MAX).then(|| Box::new(RateLimiter::new(rate, self.clock.now())))
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
    context: Arc<ConnectionContext>,
    /// When a byte last last_activity, in milliseconds of the server's time; kept only where idleness has
    /// a limit.
    last_activity: AtomicU64,
    /// The same of a write to a peer that the system knows more of. It counts as a move if the peer
    /// has acknowledged it: the system takes bytes for one that is gone, too.
    wrote: AtomicU64,
    peer: Option<Arc<Peer>>,
    /// The reader awaiting_server for the server.
    awaiting_server: AtomicBool,
    error: Option<io::Error>,
}

/// Serves one client to its end.
pub(crate) fn run(
    (transport, peer): (Box<dyn Transport>, Option<Arc<Peer>>),
    client: usize,
    outbox: Arc<Outbox>,
    context: Arc<ConnectionContext>,
    admitted: bool,
) -> impl Future<Output = ()> {
    let mut session = Session {
        client,
        outbox,
        last_activity: AtomicU64::new(context.millis()),
        wrote: AtomicU64::new(0),
        peer,
        context,
        awaiting_server: AtomicBool::new(false),
        error: None,
    };
    async move {
        let (reader, writer) = split(transport);
        // It ends when input and output have both ended, or when the input breaks, or when the
        // coordinator cuts the client off. Which of these matters to nobody but a log.
        let ended = {
            let both = future::try_zip(
                session.run_writer(writer),
                session.run_reader(reader, admitted),
            );
            clock::deferrable(&session.context.clock, pin!(both)).await
        };
        session.error = ended.err();
        drop(session);
    }
}

/// However a session ends, the coordinator hears of it, once the connection is closed.
impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.outbox.close();
        let error = self.error.take();
        self.send_message(Message::Disconnected { error });
    }
}

impl Session {
    fn send_message(&self, message: Message) {
        // The coordinator is gone only where this task is about to be.
        let _ = self.context.events.try_send(FromConnection {
            client: self.client,
            message,
        });
    }

    /// The client has sent something.
    fn on_read(&self) {
        if let Some(peer) = &self.peer {
            peer.on_read();
        }
        self.touch();
    }

    /// The transport has taken something.
    fn on_write(&self) {
        let Some(peer) = &self.peer else {
            return self.touch();
        };
        peer.on_write();
        self.wrote.store(self.context.millis(), Ordering::Relaxed);
    }

    /// Counts what was written as a move, as far as the peer has acknowledged it. Says whether that
    /// makes a difference.
    fn update_acknowledged(&self) -> bool {
        let wrote = self.wrote.load(Ordering::Relaxed);
        if wrote <= self.last_activity.load(Ordering::Relaxed) {
            return false;
        }
        let silence = self.peer.as_ref().and_then(|peer| peer.silence());
        let silence = silence.map_or(0, |silence| silence.as_millis() as u64);
        let answered = self.context.millis().saturating_sub(silence);
        let last_activity = wrote.min(answered);
        self.last_activity
            .fetch_max(last_activity, Ordering::Relaxed)
            < last_activity
    }

    /// A byte has last_activity.
    fn touch(&self) {
        self.last_activity
            .store(self.context.millis(), Ordering::Relaxed);
    }
}
