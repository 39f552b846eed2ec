//! One client: bytes → lines → the coordinator, and its replies → bytes.
//!
//! In: a transport from `listen`, and replies from the coordinator through the outbox. Out: the
//! messages of `message.rs` to the coordinator, and bytes to the transport. A connection touches the
//! clock, the limits and the system's view of its socket (`peer.rs`); not the store, and no other
//! connection.
//!
//! One task polls reader and writer, with one timer for both. What input means is decided in
//! `input_rules.rs`, without I/O. The coordinator has at most one batch of a connection at a time, so a
//! client has at most one read inside the server, and the rest waits in its socket.

mod authenticator;
#[cfg(target_os = "linux")]
pub(crate) mod epoll;
#[cfg(not(target_os = "linux"))]
#[path = "connection/no_epoll.rs"]
pub(crate) mod epoll;
mod idle;
mod input_rules;
mod linger;
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
mod shutdown;
mod writer;

use std::{
    future::{Future, poll_fn},
    io,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use async_channel::Sender;

pub(crate) use authenticator::AUTH_TIMEOUT;

use crate::{
    Clock, Overflow,
    shared::{buffers::BufferPool, limits::Limits, state::ServerState},
    timer::Timer,
};
use input_rules::{Environment, InputRules};
use message::{FromConnection, Message};
use outbox::{OutboxReceiver, OutboxSender};
use peer::Peer;
use writer::Output;

pub(crate) use crate::transport::Transport;

/// What all connections share.
pub(crate) struct ConnectionContext {
    messages: Sender<FromConnection>,
    limits: Arc<Limits>,
    clock: Arc<dyn Clock>,
    pub(crate) buffers: Arc<BufferPool>,
    /// How long a transport may take nothing before it counts as stalled; `None` is for ever.
    stall: Option<Duration>,
}

impl ConnectionContext {
    pub(crate) fn new(messages: Sender<FromConnection>, server: &ServerState) -> Self {
        let limits = &server.limits;
        Self {
            messages,
            limits: Arc::new(limits.clone()),
            clock: server.clock.clone(),
            buffers: Arc::default(),
            stall: (limits.overflow != Overflow::Wait).then_some(limits.stall_timeout),
        }
    }

    /// The outbox of a new connection.
    pub(crate) fn outbox(&self) -> (OutboxSender, OutboxReceiver) {
        outbox::outbox(self.limits.clone())
    }
}

/// The state of one connection's task.
struct Connection {
    // Declared before `link`: fields are dropped in order, so `Link::drop` reports a transport that is
    // closed already.
    transport: Box<dyn Transport>,
    input: InputRules,
    output: Output,
    timer: Timer,
    link: Link,
}

/// What a connection holds of the server. Dropping it sends `Disconnected`.
struct Link {
    client: usize,
    outbox: OutboxReceiver,
    context: Arc<ConnectionContext>,
    peer: Option<Arc<Peer>>,
    /// What broke the connection.
    error: Option<io::Error>,
}

/// What a connection may send when it begins.
pub(crate) enum Admission {
    /// Nothing: it is being rejected.
    Rejected,
    /// Everything; first the secret, if the server requires one.
    Admitted,
    /// Everything, without the secret.
    Authenticated,
}

/// Serves one client to its end.
///
/// The task ends when input and output have both ended, or when the input breaks, or when the
/// coordinator cuts the client off, or a time limit for closing is over. Which of these it was matters
/// only for the log.
pub(crate) fn run(
    (transport, peer): (Box<dyn Transport>, Option<Arc<Peer>>),
    client: usize,
    outbox: OutboxReceiver,
    context: Arc<ConnectionContext>,
    admission: Admission,
) -> impl Future<Output = ()> {
    let link = Link {
        client,
        outbox,
        context,
        peer,
        error: None,
    };
    let mut connection = Connection {
        transport,
        input: match admission {
            Admission::Rejected => InputRules::rejected(&link),
            Admission::Admitted => InputRules::new(&link),
            Admission::Authenticated => InputRules::authenticated(&link),
        },
        output: Output::default(),
        timer: Timer::default(),
        link,
    };
    poll_fn(move |cx| connection.poll(cx))
}

impl Connection {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.link.context.clock.defers(cx.waker()) {
            return Poll::Pending;
        }
        let result = ready!(self.poll_both(cx));
        self.link.error = result.err();
        Poll::Ready(())
    }

    fn poll_both(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let output = self.poll_output(cx)?;
            let input = self.poll_input(cx)?;
            if output.is_ready() && input.is_ready() {
                return Poll::Ready(Ok(()));
            }
            let deadlines = [self.input.deadline(), self.output.deadline()];
            let deadline = deadlines.into_iter().flatten().min();
            ready!(self.timer.poll(cx, deadline, &*self.link.context.clock));
            self.on_deadline()?;
        }
    }

    fn on_deadline(&mut self) -> io::Result<()> {
        let blocked = self.output.deadline();
        if blocked.is_some_and(|deadline| deadline <= self.link.now()) {
            self.on_blocked()?;
        }
        self.input.on_timeout(&self.link);
        Ok(())
    }
}

impl Environment for Link {
    fn limits(&self) -> &Limits {
        &self.context.limits
    }

    fn now(&self) -> Instant {
        self.context.clock.now()
    }

    fn buffer(&self, bytes: usize) -> Vec<u8> {
        self.context.buffers.take(bytes)
    }

    fn unread(&self) -> Option<usize> {
        self.peer.as_ref()?.unread()
    }

    fn is_delivered(&self) -> bool {
        self.outbox.is_delivered()
    }

    fn is_finished(&self) -> bool {
        self.outbox.is_finished()
    }

    fn silence(&self) -> Option<Duration> {
        self.peer.as_ref()?.silence()
    }

    fn send(&self, message: Message) {
        // This fails only if the coordinator is gone. Then this task is dropped, too.
        let _ = self.context.messages.try_send(FromConnection {
            client: self.client,
            message,
        });
    }
}

/// However a connection ends, its last message is `Disconnected`.
impl Drop for Link {
    fn drop(&mut self) {
        let _ = self.outbox.close();
        let error = self.error.take();
        self.send(Message::Disconnected { error });
    }
}
