//! The server end of a connection of the client, without a network: a function that gets each line and
//! answers as it likes. Nothing happens behind the back of the test, so a client can be polled step by
//! step.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use futures_lite::{AsyncRead, AsyncWrite};
use keywire::Client;

type Answer = Box<dyn FnMut(&str, &mut String) + Send>;

#[derive(Default)]
struct State {
    answer: Option<Answer>,
    partial: Vec<u8>,
    received: Vec<String>,
    writes: usize,
    replies: Vec<u8>,
    reader: Option<Waker>,
    closed: bool,
    fails_writes: bool,
    /// How many more reads and writes may go on.
    allowed: Option<usize>,
    blocked: Vec<Waker>,
    released: bool,
}

impl State {
    fn is_blocked(&mut self, cx: &Context<'_>) -> bool {
        match &mut self.allowed {
            None => false,
            Some(0) => {
                self.blocked.push(cx.waker().clone());
                true
            }
            Some(allowed) => {
                *allowed -= 1;
                false
            }
        }
    }
}

/// An answer may panic, as some tests want it to.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The client's end.
pub struct ClientEnd(Arc<Mutex<State>>);

/// The test's end.
#[derive(Clone)]
pub struct ScriptedServer(Arc<Mutex<State>>);

pub fn pair(answer: impl FnMut(&str, &mut String) + Send + 'static) -> (ClientEnd, ScriptedServer) {
    let state = Arc::new(Mutex::new(State {
        answer: Some(Box::new(answer)),
        ..State::default()
    }));
    (ClientEnd(state.clone()), ScriptedServer(state))
}

/// One that answers as a server does, in so far as the tests need it.
pub fn answers() -> impl FnMut(&str, &mut String) + Send + 'static {
    let mut store: BTreeMap<String, Vec<String>> = BTreeMap::new();
    move |line, out| {
        let fields: Vec<_> = line.splitn(4, ':').collect();
        match fields[..] {
            ["Put", key, value] => store.entry(key.into()).or_default().push(value.into()),
            ["Delete", key] => drop(store.remove(key)),
            ["Get", key] => {
                for value in store.get(key).into_iter().flatten() {
                    *out += &format!("{key}:{value}\n");
                }
            }
            ["Set", key, value] => drop(store.insert(key.into(), vec![value.into()])),
            ["Remove", key, value] => {
                let values = store.entry(key.into()).or_default();
                if let Some(at) = values.iter().position(|one| one == value) {
                    values.remove(at);
                }
                if values.is_empty() {
                    store.remove(key);
                }
            }
            [word @ ("GetPrefix" | "Keys"), prefix] => {
                for (key, values) in store.iter().filter(|(key, _)| key.starts_with(prefix)) {
                    match word {
                        "Keys" => *out += &format!("{key}:{}\n", values.len()),
                        _ => values
                            .iter()
                            .for_each(|value| *out += &format!("{key}:{value}\n")),
                    }
                }
            }
            ["Sync", token] => *out += &format!(":sync:0:{token}\n"),
            ["Stats"] => *out += ":stats:active=1 dropped=2\n",
            ["Watch", key] => *out += &format!(":watch:{key}\n"),
            ["WatchPrefix", prefix] => *out += &format!(":watchprefix:{prefix}\n"),
            ["Unwatch", _] | ["UnwatchPrefix", _] => {}
            _ => panic!("the client sent {line}"),
        }
    }
}

impl ScriptedServer {
    pub fn send(&self, lines: impl AsRef<[u8]>) {
        let mut state = lock(&self.0);
        state.replies.extend_from_slice(lines.as_ref());
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Ends the replies.
    pub fn close(&self) {
        lock(&self.0).closed = true;
        self.send("");
    }

    /// From here on, writes to it fail.
    pub fn fail_writes(&self) {
        lock(&self.0).fails_writes = true;
    }

    /// From here on, the client's end reads and writes that many times and then waits. `None` lets
    /// it go on.
    pub fn allow_io(&self, allowed: Option<usize>) {
        let mut state = lock(&self.0);
        state.allowed = allowed;
        let blocked = std::mem::take(&mut state.blocked);
        drop(state);
        blocked.into_iter().for_each(Waker::wake);
    }

    /// What the client has sent so far, without the fences.
    pub fn commands(&self) -> Vec<String> {
        let state = lock(&self.0);
        let commands = state
            .received
            .iter()
            .filter(|line| !line.starts_with("Sync"));
        commands.cloned().collect()
    }

    /// How many lines it sent, fences and all.
    pub fn lines(&self) -> usize {
        lock(&self.0).received.len()
    }

    /// How many bytes the client has not read.
    pub fn unread(&self) -> usize {
        lock(&self.0).replies.len()
    }

    pub fn writes(&self) -> usize {
        lock(&self.0).writes
    }

    /// Whether the client has let go of the connection.
    pub fn is_released(&self) -> bool {
        lock(&self.0).released
    }
}

impl Drop for ClientEnd {
    fn drop(&mut self) {
        lock(&self.0).released = true;
    }
}

impl AsyncRead for ClientEnd {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.0);
        if state.replies.is_empty() && !state.closed {
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if state.is_blocked(cx) {
            return Poll::Pending;
        }
        let n = state.replies.len().min(buffer.len());
        buffer[..n].copy_from_slice(&state.replies[..n]);
        state.replies.drain(..n);
        Poll::Ready(Ok(n))
    }
}

impl AsyncWrite for ClientEnd {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.0);
        if state.fails_writes {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if state.is_blocked(cx) {
            return Poll::Pending;
        }
        state.writes += 1;
        state.partial.extend_from_slice(bytes);
        let mut answer = state.answer.take().unwrap();
        let mut replies = String::new();
        while let Some(end) = state.partial.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = state.partial.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line[..end]).into_owned();
            answer(&line, &mut replies);
            state.received.push(line);
        }
        state.answer = Some(answer);
        state.replies.extend_from_slice(replies.as_bytes());
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A client, and a scripted server that answers like a real one.
pub fn answering() -> (Client, ScriptedServer) {
    let (stream, server) = pair(answers());
    (Client::from_stream(stream), server)
}

/// A client whose server sends nothing by itself.
pub fn silent() -> (Client, ScriptedServer) {
    let (stream, server) = pair(|_, _| {});
    (Client::from_stream(stream), server)
}

/// Polls a future that has nothing to wait for but what the test does.
pub fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}
