//! A server and its clients in memory, on one thread, step by step. What the clients say between two
//! steps makes one round, with their turns in the order in which they spoke.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
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

/// More than any test says at once.
const EARSHOT: usize = 4 << 20;

pub struct Stage<S: Store> {
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

impl<S: Store> Stage<S> {
    pub fn new(server: Server<S>) -> Self {
        Self {
            handle: server.handle(),
            running: Box::pin(server.run()),
            woken: Arc::new(Woken(AtomicBool::new(true))),
        }
    }

    /// Lets the server do all that it can do now.
    pub fn play(&mut self) {
        while self.woken.0.swap(false, Ordering::SeqCst) {
            let waker = Waker::from(self.woken.clone());
            let polled = self.running.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending(), "the server has ended");
        }
    }

    /// Lets the server work until it is so. For what comes with time.
    pub fn play_until(&mut self, what: &str, mut so: impl FnMut(&Stats) -> bool) {
        wait_until(what, || {
            self.play();
            so(&self.handle.stats())
        });
    }

    pub fn stats(&mut self) -> Stats {
        self.play();
        self.handle.stats()
    }

    /// A new client that hears everything.
    pub fn join(&mut self) -> Actor {
        self.join_with(EARSHOT)
    }

    /// A new client. As long as it does not listen, so many bytes find a place on their way to it.
    pub fn join_with(&mut self, buffer: usize) -> Actor {
        let (ears, mouth) = (Pipe::new(buffer), Pipe::new(EARSHOT));
        let actor = Actor {
            ears: ears.clone(),
            mouth: mouth.clone(),
        };
        self.bring(Line { ears, mouth });
        actor
    }

    /// A client of another kind.
    pub fn bring<T>(&mut self, client: T)
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let attached = future::poll_once(self.handle.attach(client));
        future::block_on(attached).expect("a place").unwrap();
        self.play();
    }

    /// Shuts the server down and gives back its store.
    pub fn end(self) -> S {
        let shutdown = self.handle.shutdown(Duration::from_secs(10));
        future::block_on(future::zip(self.running, shutdown)).0
    }
}

/// A client on the stage. Dropped, it has hung up.
pub struct Actor {
    ears: Arc<Pipe>,
    mouth: Arc<Pipe>,
}

impl Actor {
    pub fn say(&mut self, words: impl AsRef<[u8]>) {
        let words = words.as_ref();
        let cx = &mut Context::from_waker(Waker::noop());
        match self.mouth.poll_write(cx, words) {
            Poll::Ready(Ok(n)) if n == words.len() => {}
            said => panic!("said {said:?} of {} bytes", words.len()),
        }
    }

    /// Will say no more.
    pub fn fall_silent(&mut self) {
        self.mouth.close();
    }

    /// What has come since the last time. It makes room for more.
    pub fn hear(&mut self) -> String {
        let cx = &mut Context::from_waker(Waker::noop());
        let mut heard = Vec::new();
        let mut piece = [0; 4096];
        while let Poll::Ready(n @ 1..) = self.ears.poll_read(cx, &mut piece) {
            heard.extend_from_slice(&piece[..n]);
        }
        String::from_utf8(heard).unwrap()
    }

    /// Listens until nothing more comes.
    pub fn hear_all<S: Store>(&mut self, stage: &mut Stage<S>) -> String {
        let mut heard = String::new();
        loop {
            stage.play();
            let more = self.hear();
            if more.is_empty() {
                return heard;
            }
            heard += &more;
        }
    }

    /// Whether the server has hung up and everything before that is heard.
    pub fn is_left_alone(&self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        self.ears.poll_read(cx, &mut [0]) == Poll::Ready(0)
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.ears.close();
        self.mouth.close();
    }
}

/// One way of a connection.
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
struct Line {
    ears: Arc<Pipe>,
    mouth: Arc<Pipe>,
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.mouth.poll_read(cx, buffer).map(Ok)
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.ears.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ears.close();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.ears.close();
    }
}
