//! The router's I/O: one connection a node, all in one future.

#[cfg(test)]
mod tests;

use std::{
    future::{Future, poll_fn},
    io,
    net::TcpStream,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use async_io::Async;
use futures_lite::{AsyncRead, AsyncWrite};

use super::{
    input::{Input, Item},
    layout::Layout,
    resp::Malformed,
    router::Router,
    stream::{Connector, Stream},
    watching::SharedWatching,
};
use crate::Clock;

/// The longest reply. The command that has a longer one fails.
pub(super) const MAX_REPLY: usize = 512 * 1024 * 1024;

/// Reads of one node before the others have their turns.
const READS: usize = 4;

type Connect = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

/// What the store and its driver share.
pub(super) struct Shared {
    pub(super) layout: Layout,
    /// How long a command waits for its node.
    pub(super) timeout: Duration,
    pub(super) watching: SharedWatching,
    pub(super) connector: Connector,
    state: Mutex<State>,
}

pub(super) struct State {
    pub(super) router: Router,
    /// That of the driver, if it was not woken since it was polled.
    driver: Option<Waker>,
    pub(super) clock: Option<Arc<dyn Clock>>,
}

impl Shared {
    pub(super) fn new(layout: Layout, connector: Connector, router: Router) -> Self {
        let state = State {
            router,
            driver: None,
            clock: None,
        };
        Self {
            layout,
            timeout: state.router.config.timeout,
            watching: SharedWatching::new(),
            connector,
            state: Mutex::new(state),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub(super) fn now(&self) -> Instant {
        self.clock
            .as_ref()
            .map_or_else(Instant::now, |clock| clock.now())
    }

    /// There is something to be written. The driver is polled when the round is over, so what comes
    /// until then goes in the same writes.
    pub(super) fn wake_driver(&mut self) -> Option<Waker> {
        self.driver.take()
    }
}

enum Connection {
    None,
    Connecting(Connect),
    Open(Box<Open>),
}

struct Open<T = Async<TcpStream>> {
    stream: Stream<T>,
    /// The count of the node when it was opened.
    closed: u64,
    input: Input,
    /// It was not read until there was no more.
    has_more: bool,
    output: Vec<u8>,
    written: usize,
}

/// Serves the connections, for ever.
pub(super) async fn run(shared: Arc<Shared>, clock: Arc<dyn Clock>) {
    shared.state().clock = Some(clock.clone());
    let mut driver = Driver {
        shared,
        clock,
        connections: Vec::new(),
        tick: None,
    };
    poll_fn(|cx| driver.poll(cx)).await
}

struct Driver {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    connections: Vec<Connection>,
    tick: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Driver {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.state().driver = Some(cx.waker().clone());
        loop {
            self.poll_time(cx);
            self.open();
            let mut is_busy = false;
            for node in 0..self.connections.len() {
                is_busy |= self.poll_input(node, cx);
            }
            if self.open() {
                // A reply has named a node that is new.
                continue;
            }
            // Behind all input, since a reply of one node may send something to another.
            for node in 0..self.connections.len() {
                is_busy |= self.poll_output(node, cx);
            }
            let wakers = self.shared.state().router.take_wakers();
            wakers.into_iter().for_each(Waker::wake);
            if is_busy {
                // Not without the others on this executor.
                cx.waker().wake_by_ref();
            }
            if self.tick.is_some() || self.next_tick().is_none() {
                return Poll::Pending;
            }
            self.set_tick();
        }
    }

    fn next_tick(&self) -> Option<Duration> {
        self.shared.state().router.next_tick()
    }

    fn set_tick(&mut self) {
        if let Some(time) = self.next_tick() {
            self.tick = Some(self.clock.sleep(self.clock.now() + time));
        }
    }

    fn poll_time(&mut self, cx: &mut Context<'_>) {
        while let Some(tick) = &mut self.tick {
            if tick.as_mut().poll(cx).is_pending() {
                return;
            }
            self.tick = None;
            self.shared.state().router.on_time(self.clock.now());
            self.set_tick();
        }
    }

    /// Begins to connect where that is wanted. Whether it was.
    fn open(&mut self) -> bool {
        let mut state = self.shared.state();
        let nodes = state.router.nodes.len();
        self.connections.resize_with(nodes, || Connection::None);
        let mut has_begun = false;
        while let Some((node, address)) = state.router.next_connect() {
            let connect = self.shared.connector.clone().connect(address);
            self.connections[node] = Connection::Connecting(Box::pin(connect));
            has_begun = true;
        }
        has_begun
    }

    /// Whether the node may have more at once.
    fn poll_input(&mut self, node: usize, cx: &mut Context<'_>) -> bool {
        let now = self.clock.now();
        if let Connection::Connecting(connect) = &mut self.connections[node] {
            let Poll::Ready(connected) = connect.as_mut().poll(cx) else {
                return false;
            };
            let mut state = self.shared.state();
            self.connections[node] = match connected {
                Ok(stream) => {
                    state.router.on_connected(node, now);
                    Connection::Open(Box::new(Open {
                        stream,
                        closed: state.router.nodes[node].closed,
                        input: Input::new(MAX_REPLY),
                        has_more: false,
                        output: Vec::new(),
                        written: 0,
                    }))
                }
                Err(_) => {
                    state.router.on_closed(node, now);
                    Connection::None
                }
            };
        }
        let Connection::Open(open) = &mut self.connections[node] else {
            return false;
        };
        if open.closed != self.shared.state().router.nodes[node].closed {
            self.connections[node] = Connection::None;
            return false;
        }
        let result = open.poll_read(node, &self.shared, now, cx);
        result.unwrap_or_else(|_| self.close(node, now))
    }

    /// Whether the driver has to look again.
    fn poll_output(&mut self, node: usize, cx: &mut Context<'_>) -> bool {
        let now = self.clock.now();
        let Connection::Open(open) = &mut self.connections[node] else {
            return false;
        };
        match open.poll_write(node, &self.shared, now, cx) {
            Ok(()) => false,
            Err(_) => self.close(node, now),
        }
    }

    /// A connection has failed. Gives true: what was sent on it may go elsewhere.
    fn close(&mut self, node: usize, now: Instant) -> bool {
        self.connections[node] = Connection::None;
        self.shared.state().router.on_closed(node, now);
        true
    }
}

impl Open {
    /// Whether there may be more.
    fn poll_read(
        &mut self,
        node: usize,
        shared: &Shared,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> io::Result<bool> {
        for _ in 0..READS {
            if !self.has_more {
                match self.stream.poll_readable(cx) {
                    Poll::Pending => return Ok(false),
                    Poll::Ready(ready) => ready?,
                }
            }
            self.has_more = self.read(cx)?;
            self.handle(node, shared, now)
                .map_err(|Malformed| io::ErrorKind::InvalidData)?;
        }
        Ok(true)
    }

    /// Reads once. `false` if there is nothing.
    fn read(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        match self.stream.read_ready(self.input.space(), cx) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => {
                self.input.on_read(bytes);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn handle(&mut self, node: usize, shared: &Shared, now: Instant) -> Result<(), Malformed> {
        if !self.has_more {
            return Ok(());
        }
        let mut state = shared.state();
        state.router.on_read(node, now);
        while let Some(item) = self.input.next()? {
            match item {
                Item::Reply(reply) => state.router.on_reply(node, reply, now)?,
                Item::TooLong => state.router.on_long_reply(node, now)?,
            }
        }
        Ok(())
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Open<T> {
    fn poll_write(
        &mut self,
        node: usize,
        shared: &Shared,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> io::Result<()> {
        loop {
            if self.written == self.output.len() {
                self.output.clear();
                self.written = 0;
                shared.state().router.take_out(node, &mut self.output, now);
                if self.output.is_empty() {
                    return match Pin::new(&mut self.stream).poll_flush(cx) {
                        Poll::Pending => Ok(()),
                        Poll::Ready(result) => result,
                    };
                }
            }
            let bytes = &self.output[self.written..];
            match Pin::new(&mut self.stream).poll_write(cx, bytes) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(bytes)) => {
                    self.written += bytes;
                    shared.state().router.on_written(node, bytes);
                }
                Poll::Ready(Err(error)) => {
                    let sent = self.stream.sent_by_failed_write(bytes.len());
                    shared.state().router.on_written(node, sent);
                    return Err(error);
                }
            }
        }
    }
}
