//! The client's line mode.

use std::{
    cell::Cell,
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use async_signal::Signal;
use futures_lite::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, future, io::split,
};
use smol::Timer;

use crate::{
    leave, on_output,
    replies::Replies,
    say::say,
    stream::{Dialer, Stream},
    terminal::{Completion, Editing, HistoryFile, Restored, Streams},
};

/// A connection, and how it is used.
pub(crate) struct Conversation<'a> {
    pub(crate) address: &'a str,
    /// Makes another connection for a person, when one is lost.
    pub(crate) dialer: Option<Dialer>,
    /// What is sent before all that is typed.
    pub(crate) first: Vec<u8>,
    /// How long the server may let us wait.
    pub(crate) limit: Option<Duration>,
    /// Where Tab finds keys.
    pub(crate) completion: Completion,
}

/// With editing where a person sits at both ends, plain otherwise.
pub(crate) async fn converse(mut with: Conversation<'_>, stream: Stream) -> Result<(), String> {
    let (typed, seen) = (io::stdin().is_terminal(), io::stdout().is_terminal());
    if typed {
        let address = with.address;
        say(format_args!(
            "connected to {address}; Put:key:value, Get:key, ...; Ctrl-D ends"
        ));
    }
    // A script could not tell which of its lines are in doubt.
    with.dialer = with.dialer.filter(|_| typed);
    let restored = Restored::new();
    let streams = Streams::new(|| Editing {
        prompt: "> ".into(),
        history: HistoryFile::from_env(),
        completion: Some(with.completion.clone()),
    });
    let (input, output, edited) = (streams.input, streams.output, streams.edited);
    let conversation = conversation(with, stream, input, output, seen);
    if !edited {
        return conversation.await;
    }
    // While a line is edited, the editor takes an interrupt for Ctrl-C.
    let signalled = leave::signalled([Signal::Int, Signal::Term, Signal::Hup], 2, || {})?;
    let killed = async {
        signalled.await;
        Err("ended by a signal".into())
    };
    let ended = future::or(conversation, killed).await;
    drop(restored);
    ended
}

/// One connection after the other, until the input has ended.
async fn conversation(
    mut with: Conversation<'_>,
    mut stream: Stream,
    mut input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
    seen: bool,
) -> Result<(), String> {
    let auth = with.first.clone();
    let mut faults = Vec::new();
    loop {
        let ended = exchange(&with, stream, &mut input, &mut output, seen, &mut faults).await?;
        let (Ended::Lost(why), Some(dialer)) = (ended, &with.dialer) else {
            break;
        };
        let address = with.address;
        let lost = format!("{address}: connection lost: {why}; reconnecting");
        tell(&mut output, seen, &lost).await?;
        let mut ahead = Vec::new();
        stream = match reconnect(dialer, with.limit, &mut input, &mut ahead).await {
            Some(stream) => stream,
            None => return Err(format!("{address}: the connection was lost: {why}")),
        };
        with.first = [&auth[..], &ahead].concat();
        let again = format!("connected again to {address}");
        tell(&mut output, seen, &again).await?;
    }
    match faults.is_empty() {
        true => Ok(()),
        false => Err(format!("{}: {}", with.address, faults.join("; "))),
    }
}

/// A line for the person at the terminal, above the one that is being typed.
async fn tell(
    output: &mut (impl AsyncWrite + Unpin),
    seen: bool,
    text: &str,
) -> Result<(), String> {
    if !seen {
        say(text);
        return Ok(());
    }
    let line = format!("{text}\n");
    print(output, line.as_bytes()).await.or_else(on_output)
}

/// The first wait between two attempts, and the longest.
const WAITS: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];

/// What is typed ahead, at most, while there is no connection.
const AHEAD: usize = 64 * 1024;

/// Attempts connections until there is one. Keeps what is typed meanwhile. `None` if the input ends.
async fn reconnect(
    dialer: &Dialer,
    limit: Option<Duration>,
    input: &mut (impl AsyncRead + Unpin),
    ahead: &mut Vec<u8>,
) -> Option<Stream> {
    let dialing = async {
        let [mut wait, longest] = WAITS;
        loop {
            // Not all terminals at once.
            Timer::after(wait.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
            wait = (wait * 2).min(longest);
            if let Ok(stream) = dialer.dial_within(limit.or(Some(longest))).await {
                return Some(stream);
            }
        }
    };
    let typing = async {
        let mut buffer = vec![0; 16 * 1024];
        while ahead.len() < AHEAD {
            match input.read(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(read) => ahead.extend_from_slice(&buffer[..read]),
            }
        }
        future::pending().await
    };
    future::or(dialing, typing).await
}

/// How a connection ends.
enum Ended {
    Done,
    /// Before the input did.
    Lost(String),
}

/// Where the input stands.
#[derive(Clone, Copy)]
enum Sent {
    /// There may be more.
    Open,
    /// It ended within a line, which the server does not take.
    Cut,
    /// It has ended, and our own `Sync` stands behind it.
    Whole,
}

/// How a conversation ends.
enum End {
    Closed,
    Broken(io::Error),
    Late,
    /// Nobody reads the replies, as behind `head`.
    Unread,
}

/// Copies both ways until the server has said everything.
async fn exchange(
    with: &Conversation<'_>,
    stream: Stream,
    input: &mut (impl AsyncRead + Unpin),
    output: &mut (impl AsyncWrite + Unpin),
    seen: bool,
    faults: &mut Vec<String>,
) -> Result<Ended, String> {
    let (from_server, to_server) = split(stream);
    let mut replies = Replies::new();
    let (fence, sent, patience) = (replies.fence(), Cell::new(Sent::Open), Patience::new());
    let sending = async {
        let all = send(&with.first, input, to_server, &fence, &patience).await;
        sent.set(all.map_err(|error| format!("standard input: {error}"))?);
        future::pending().await
    };
    let waiting = async {
        patience.end(with.limit).await;
        Ok(End::Late)
    };
    let receiving = receive(from_server, output, &mut replies, &patience);
    let end = future::or(future::or(receiving, sending), waiting).await?;
    let mut rest = replies.rest();
    if seen && replies.is_cut() {
        rest.push(b'\n');
    }
    let end = match print(output, &rest).await {
        Ok(()) => end,
        Err(error) => on_output(error).map(|()| End::Unread)?,
    };
    let lost = with.dialer.is_some() && matches!(sent.get(), Sent::Open);
    let fault = match (end, sent.get()) {
        (End::Unread, _) => {
            faults.clear();
            return Ok(Ended::Done);
        }
        _ if replies.is_complete() => None,
        (End::Broken(error), _) => Some(error.to_string()),
        (End::Late, _) => Some("the time limit is over, and replies are owed".into()),
        (End::Closed, Sent::Open) => Some("the server closed the connection".into()),
        (End::Closed, Sent::Whole) => {
            Some("the server closed the connection, and replies are owed".into())
        }
        (End::Closed, Sent::Cut) => Some("the input ends within a line".into()),
    };
    if let (true, Some(why)) = (lost, &fault) {
        faults.extend(replies.faults());
        return Ok(Ended::Lost(why.clone()));
    }
    faults.extend(fault);
    faults.extend(replies.faults());
    Ok(Ended::Done)
}

/// Passes on what is typed. Only the input's errors are errors here: if the server has hung up,
/// what it had to say first is still worth reading.
async fn send(
    first: &[u8],
    mut input: impl AsyncRead + Unpin,
    mut to_server: impl AsyncWrite + Unpin,
    fence: &str,
    patience: &Patience,
) -> io::Result<Sent> {
    let mut buffer = vec![0; 16 * 1024];
    let mut whole = true;
    if !patience.send(&mut to_server, first).await {
        return Ok(Sent::Open);
    }
    loop {
        let read = input.read(&mut buffer).await?;
        let Some(last) = buffer[..read].last() else {
            break;
        };
        whole = *last == b'\n';
        if !patience.send(&mut to_server, &buffer[..read]).await {
            return Ok(Sent::Open);
        }
    }
    patience.input_ended.set(true);
    if whole && !patience.send(&mut to_server, fence.as_bytes()).await {
        return Ok(Sent::Open);
    }
    patience.moved();
    let _ = to_server.close().await;
    Ok(if whole { Sent::Whole } else { Sent::Cut })
}

/// Passes on what the server says.
async fn receive(
    mut from_server: impl AsyncRead + Unpin,
    output: &mut (impl AsyncWrite + Unpin),
    replies: &mut Replies,
    patience: &Patience,
) -> Result<End, String> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = match from_server.read(&mut buffer).await {
            Ok(0) => return Ok(End::Closed),
            Ok(read) => read,
            Err(error) => return Ok(End::Broken(error)),
        };
        let bytes = replies.push(&buffer[..read]);
        patience.printing.set(true);
        if let Err(error) = print(output, &bytes).await {
            return on_output(error).map(|()| End::Unread);
        }
        patience.printing.set(false);
        patience.moved();
    }
}

async fn print(output: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    output.write_all(bytes).await?;
    output.flush().await
}

/// How long the server has let us wait.
struct Patience {
    /// When bytes moved last, or the wait began.
    since: Cell<Instant>,
    sending: Cell<bool>,
    input_ended: Cell<bool>,
    /// While whoever reads us takes his time, the server is not to blame.
    printing: Cell<bool>,
}

impl Patience {
    fn new() -> Self {
        Self {
            since: Cell::new(Instant::now()),
            sending: Cell::new(false),
            input_ended: Cell::new(false),
            printing: Cell::new(false),
        }
    }

    fn moved(&self) {
        self.since.set(Instant::now());
    }

    /// Tells whether the server took it.
    async fn send(&self, to_server: &mut (impl AsyncWrite + Unpin), mut bytes: &[u8]) -> bool {
        self.moved();
        self.sending.set(true);
        while !bytes.is_empty() {
            match to_server.write(bytes).await {
                Ok(0) | Err(_) => break,
                Ok(taken) => bytes = &bytes[taken..],
            }
            self.moved();
        }
        let taken = bytes.is_empty() && to_server.flush().await.is_ok();
        self.sending.set(false);
        taken
    }

    /// Returns when a wait has taken too long. No wait begins without `moved`, so none is
    /// overslept.
    async fn end(&self, limit: Option<Duration>) {
        let Some(limit) = limit else {
            return future::pending().await;
        };
        loop {
            let waiting = self.sending.get() || self.input_ended.get();
            let left = match waiting && !self.printing.get() {
                true => limit.saturating_sub(self.since.get().elapsed()),
                false => limit,
            };
            if left.is_zero() {
                return;
            }
            Timer::after(left).await;
        }
    }
}
