//! The connections of a client, one after the other: attempted, used, lost, and attempted anew.
//!
//! In: calls and dropped watchers, by channels; transports, from the connector. Out: what the framing
//! makes of the lines. It is polled by whoever drives it and starts nothing of itself, so nothing is
//! attempted while nobody waits.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::{
    attempts::Attempts,
    connection::{ClientConnection, Inbox},
    connector::{Connecting, Connector},
    framing::Framing,
    link::QUEUED_CALLS,
    silence::Silence,
    state::{Condition, ConnectionState},
    validate,
};
use crate::{
    Secret,
    clock::later,
    error::{ConnectionError, Error},
    protocol::Code,
    transport::Transport,
};

/// Attempts and losses in a row, before others on this thread have their turn.
const STEPS_PER_POLL: usize = 16;

/// A first answer is waited for at least so long, since a server takes one second to refuse a secret: if
/// the client gave up earlier, it would never learn that, and would try for ever.
const SLOWEST_REFUSAL: Duration = Duration::from_secs(2);

pub(super) struct Session {
    phase: Phase,
    framing: Framing,
    inbox: Inbox,
    /// `None` for a connection that no other can replace.
    reconnection: Option<Reconnection>,
    /// For the callers.
    condition: Arc<Condition>,
}

enum Phase {
    Waiting(Pin<Box<dyn Future<Output = ()> + Send>>),
    Connecting(Connecting),
    Connected(Box<ClientConnection>),
}

/// How the next connection is made.
pub(super) struct Reconnection {
    pub(super) connector: Connector,
    pub(super) attempts: Attempts,
    pub(super) secret: Option<Secret>,
    pub(super) retry: Retry,
    pub(super) silence: Option<Duration>,
    pub(super) observer: Option<Observer>,
    /// Since when the connection is of use.
    pub(super) greeted: Option<Instant>,
}

pub(super) type Observer = Box<dyn FnMut(ConnectionState) + Send>;

/// Which failures are final.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// All.
    Never,
    /// Those of the first connection.
    AfterFirst,
    /// None, but a server that does not want this client.
    Always,
}

impl Session {
    /// Over this one connection.
    pub(super) fn over(
        transport: Box<dyn Transport>,
        inbox: Inbox,
        condition: Arc<Condition>,
    ) -> Self {
        Self {
            phase: Phase::Connected(ClientConnection::new(transport, false, None).into()),
            framing: Framing::default(),
            inbox,
            reconnection: None,
            condition,
        }
    }

    /// Over connections that it makes itself, as soon as it is polled.
    pub(super) fn new(reconnection: Reconnection, inbox: Inbox, condition: Arc<Condition>) -> Self {
        let framing = match reconnection.retry {
            Retry::Never => Framing::default(),
            Retry::AfterFirst | Retry::Always => Framing::reconnecting(),
        };
        Self {
            phase: Phase::Connecting(reconnection.connect()),
            framing,
            inbox,
            reconnection: Some(reconnection),
            condition,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..STEPS_PER_POLL {
            let error = match &mut self.phase {
                Phase::Waiting(sleep) => match sleep.as_mut().poll(cx) {
                    Poll::Pending => {
                        self.keep_calls();
                        return Poll::Pending;
                    }
                    Poll::Ready(()) => {
                        self.connect();
                        continue;
                    }
                },
                Phase::Connecting(connect) => match connect.as_mut().poll(cx) {
                    Poll::Pending => {
                        self.keep_calls();
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(transport)) => {
                        self.begin(transport);
                        continue;
                    }
                    Poll::Ready(Err(error)) => ConnectionError::Connect(error.into()),
                },
                Phase::Connected(connection) => {
                    let moved = connection.poll(cx, &mut self.framing, &self.inbox);
                    self.note_greeting();
                    match moved {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(error) => error,
                    }
                }
            };
            if let Err(end) = self.lose(error) {
                let _ = self.condition.end.set(end);
                return Poll::Ready(());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn connect(&mut self) {
        if let Some(reconnection) = &self.reconnection {
            self.phase = Phase::Connecting(reconnection.connect());
        }
    }

    fn begin(&mut self, transport: Box<dyn Transport>) {
        let Some(reconnection) = &self.reconnection else {
            return;
        };
        let connector = &reconnection.connector;
        // Part of the attempt: a server that takes connections and answers none is left for the next.
        let limit = reconnection.silence.unwrap_or(connector.timeout);
        let limit = limit.min(connector.timeout).max(SLOWEST_REFUSAL);
        let silence = Silence::new(connector.clock.clone(), Some(limit));
        let fails_whole = connector.is_socket(reconnection.attempts.address());
        let connection = ClientConnection::new(transport, fails_whole, Some(silence));
        self.phase = Phase::Connected(connection.into());
        self.framing
            .greet(reconnection.secret.as_ref().map(validate::auth));
    }

    /// The connection is of use as soon as the server has answered.
    fn note_greeting(&mut self) {
        let Some(reconnection) = &mut self.reconnection else {
            return;
        };
        if reconnection.greeted.is_some() || !self.framing.is_greeted() {
            return;
        }
        reconnection.greeted = Some(reconnection.connector.clock.now());
        *self.condition.away.lock() = None;
        if reconnection.retry == Retry::AfterFirst {
            reconnection.retry = Retry::Always;
        }
        if let Phase::Connected(connection) = &mut self.phase {
            connection.limit_silence(reconnection.silence);
        }
        let address = reconnection.connector.name(reconnection.attempts.address());
        reconnection.observe(ConnectionState::Connected { address });
    }

    /// A connection is lost, or was not made. `Err` if that is the end.
    fn lose(&mut self, error: ConnectionError) -> Result<(), ConnectionError> {
        let Some(reconnection) = &mut self.reconnection else {
            return Err(error);
        };
        let clock = reconnection.connector.clock.clone();
        let greeted = reconnection.greeted.take();
        let wait = match greeted {
            Some(since) => {
                let lived = clock.now().saturating_duration_since(since);
                Some(reconnection.attempts.lose(lived))
            }
            None => reconnection.attempts.fail(),
        };
        let is_final = match reconnection.retry {
            Retry::Never | Retry::AfterFirst => greeted.is_some() || wait.is_some(),
            Retry::Always => false,
        };
        if is_final || is_refusal(&error, greeted.is_some()) {
            let reason = error.clone().into();
            reconnection.observe(ConnectionState::Ended { error: reason });
            return Err(error);
        }
        if let Phase::Connected(connection) = &self.phase {
            self.framing.lose(&error, connection.unsent());
        }
        *self.condition.away.lock() = Some(error.clone());
        let error = Error::from(error);
        let state = match greeted {
            Some(_) => ConnectionState::Lost { error },
            None => ConnectionState::Failed { error },
        };
        self.phase = match wait {
            Some(wait) => Phase::Waiting(clock.sleep(later(clock.now(), wait))),
            None => Phase::Connecting(reconnection.connect()),
        };
        reconnection.observe(state);
        Ok(())
    }

    /// While there is no connection, calls wait here. Those whose callers have given up make room.
    fn keep_calls(&mut self) {
        if self.inbox.calls.is_empty() {
            return;
        }
        let mut kept = self.framing.purge();
        while kept < QUEUED_CALLS {
            let Ok(call) = self.inbox.calls.try_recv() else {
                return;
            };
            self.framing.keep(call.into());
            kept += 1;
        }
    }
}

impl Reconnection {
    fn connect(&self) -> Connecting {
        self.connector.connect(self.attempts.address())
    }

    fn observe(&mut self, state: ConnectionState) {
        if let Some(observer) = &mut self.observer {
            observer(state);
        }
    }
}

/// Whether the server does not want this client: another connection would fare no better.
fn is_refusal(error: &ConnectionError, was_greeted: bool) -> bool {
    match error {
        ConnectionError::Refused { code, .. } => {
            *code == Code::Unauthorized || *code == Code::Malformed && !was_greeted
        }
        _ => false,
    }
}

/// However the last connection ends, every call and every watcher that waits for it gets the reason.
impl Drop for Session {
    fn drop(&mut self) {
        let end = &self.condition.end;
        self.framing
            .end(end.get_or_init(|| ConnectionError::Disconnected(None)));
        // The link keeps the channels alive, so what is in them is dropped here.
        self.inbox.calls.close();
        self.inbox.unwatches.close();
        while self.inbox.calls.try_recv().is_ok() {}
        while self.inbox.unwatches.try_recv().is_ok() {}
    }
}
