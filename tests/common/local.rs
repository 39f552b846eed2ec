//! A server and its clients in memory, on one thread, step by step. What the clients send between two
//! steps is one round, with their turns in the order in which they sent.

use std::{
    collections::VecDeque,
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use futures_lite::{AsyncRead, AsyncWrite, future};
use keywire::{Handle, Server, Stats, store::Store};

use super::wait_until;

/// More than any test sends at once.
const UNBOUNDED: usize = 4 << 20;

pub struct LocalServer<S: Store> {
    running: Pin<Box<dyn Future<Output = S>>>,
    woken: Arc<Woken>,
    pub handle: Handle,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl<S: Store> LocalServer<S> {
    pub fn new(server: Server<S>) -> Self {
        Self {
            handle: server.handle(),
            running: Box::pin(server.run()),
            woken: Arc::new(Woken(AtomicBool::new(true))),
        }
    }

    /// Lets the server do all that it can do now.
    pub fn run(&mut self) {
        while self.woken.0.swap(false, Ordering::SeqCst) {
            let waker = Waker::from(self.woken.clone());
            let polled = self.running.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending(), "the server has ended");
        }
    }

    /// Lets the server and this future do all that they can do now. Gives the future's result, if it
    /// has one by then.
    pub fn run_with<T>(&mut self, mut future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let waker = Waker::from(woken.clone());
        while woken.0.swap(false, Ordering::SeqCst) {
            let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
            if let Poll::Ready(result) = polled {
                return Some(result);
            }
            self.run();
        }
        None
    }

    /// The result of a future for which the server need not wait.
    pub fn finish<T>(&mut self, future: impl Future<Output = T>) -> T {
        self.run_with(pin!(future)).expect("the future is ready")
    }

    /// Lets the server work until it is so. For what comes with time.
    pub fn run_until(&mut self, what: &str, mut so: impl FnMut(&Stats) -> bool) {
        wait_until(what, || {
            self.run();
            so(&self.handle.stats())
        });
    }

    pub fn stats(&mut self) -> Stats {
        self.run();
        self.handle.stats()
    }

    /// A new client, with room for all that is sent to it.
    pub fn connect(&mut self) -> LocalClient {
        self.connect_with(UNBOUNDED)
    }

    /// A new client. Until it receives, so many bytes have room on their way to it.
    pub fn connect_with(&mut self, buffer: usize) -> LocalClient {
        let (from_server, to_server) = (Pipe::new(buffer), Pipe::new(UNBOUNDED));
        let client = LocalClient {
            from_server: from_server.clone(),
            to_server: to_server.clone(),
        };
        self.attach(ServerEnd {
            from_server,
            to_server,
        });
        client
    }

    /// A client of another kind.
    pub fn attach<T>(&mut self, client: T)
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let attached = future::poll_once(self.handle.attach(client));
        future::block_on(attached).expect("a place").unwrap();
        self.run();
    }

    /// Asks for a shutdown, and lets the server begin it.
    pub fn begin_shutdown(&mut self, grace: Duration) {
        let shutdown = self.handle.shutdown(grace);
        let asked = future::block_on(future::poll_once(shutdown));
        assert!(asked.is_none(), "it has ended before");
    }

    /// Gives back the store, if the server has come to its end by itself.
    pub fn ended(mut self) -> Option<S> {
        while self.woken.0.swap(false, Ordering::SeqCst) {
            let waker = Waker::from(self.woken.clone());
            let cx = &mut Context::from_waker(&waker);
            if let Poll::Ready(store) = self.running.as_mut().poll(cx) {
                return Some(store);
            }
        }
        None
    }

    /// Shuts the server down and gives back its store.
    pub fn shut_down(self) -> S {
        let shutdown = self.handle.shutdown(Duration::from_secs(10));
        future::block_on(future::zip(self.running, shutdown)).0
    }
}

/// A client of the local server. Dropped, it has disconnected.
pub struct LocalClient {
    from_server: Arc<Pipe>,
    to_server: Arc<Pipe>,
}

impl LocalClient {
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let cx = &mut Context::from_waker(Waker::noop());
        match self.to_server.poll_write(cx, bytes) {
            Poll::Ready(Ok(n)) if n == bytes.len() => {}
            sent => panic!("sent {sent:?} of {} bytes", bytes.len()),
        }
    }

    /// Ends the input.
    pub fn half_close(&mut self) {
        self.to_server.close();
    }

    /// What has come since the last time. It makes room for more.
    pub fn received(&mut self) -> String {
        let cx = &mut Context::from_waker(Waker::noop());
        let mut received = Vec::new();
        let mut piece = [0; 4096];
        while let Poll::Ready(n @ 1..) = self.from_server.poll_read(cx, &mut piece) {
            received.extend_from_slice(&piece[..n]);
        }
        String::from_utf8(received).unwrap()
    }

    /// Receives until nothing more comes.
    pub fn receive_all<S: Store>(&mut self, server: &mut LocalServer<S>) -> String {
        let mut received = String::new();
        loop {
            server.run();
            let more = self.received();
            if more.is_empty() {
                return received;
            }
            received += &more;
        }
    }

    /// Whether the server has closed the connection and everything before that is received.
    pub fn is_disconnected(&self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        self.from_server.poll_read(cx, &mut [0]) == Poll::Ready(0)
    }
}

impl Drop for LocalClient {
    fn drop(&mut self) {
        self.from_server.close();
        self.to_server.close();
    }
}

/// One direction of a connection.
struct Pipe {
    state: Mutex<State>,
    capacity: usize,
}

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    closed: bool,
    waiting: Option<Waker>,
}

impl Pipe {
    fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            capacity,
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap();
        let result = change(&mut state);
        let waker = state.waiting.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
        result
    }

    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<usize> {
        let mut state = self.state.lock().unwrap();
        if state.bytes.is_empty() && !state.closed {
            state.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        drop(state);
        self.change(|state| {
            io::Read::read(&mut state.bytes, buffer).map_or(Poll::Pending, Poll::Ready)
        })
    }

    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.state.lock().unwrap();
        let n = bytes.len().min(self.capacity - state.bytes.len());
        if state.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        } else if n == 0 && !bytes.is_empty() {
            state.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        drop(state);
        self.change(|state| state.bytes.extend(&bytes[..n]));
        Poll::Ready(Ok(n))
    }

    fn close(&self) {
        self.change(|state| state.closed = true);
    }
}

/// The server's end.
struct ServerEnd {
    from_server: Arc<Pipe>,
    to_server: Arc<Pipe>,
}

impl AsyncRead for ServerEnd {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.to_server.poll_read(cx, buffer).map(Ok)
    }
}

impl AsyncWrite for ServerEnd {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.from_server.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.from_server.close();
        Poll::Ready(Ok(()))
    }
}

impl Drop for ServerEnd {
    fn drop(&mut self) {
        self.from_server.close();
    }
}
