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
    stream::Stream,
    terminal::{Completion, Editing, HistoryFile, Restored, Streams},
};

/// A connection, and how it is used.
pub(crate) struct Conversation<'a> {
    pub(crate) address: &'a str,
    pub(crate) stream: Stream,
    /// What is sent before all that is typed.
    pub(crate) first: Vec<u8>,
    /// How long the server may let us wait.
    pub(crate) limit: Option<Duration>,
    /// Where Tab finds keys.
    pub(crate) completion: Completion,
}

/// With editing where a person sits at both ends, plain otherwise.
pub(crate) async fn converse(with: Conversation<'_>) -> Result<(), String> {
    let (typed, seen) = (io::stdin().is_terminal(), io::stdout().is_terminal());
    if typed {
        let address = with.address;
        say(format_args!(
            "connected to {address}; Put:key:value, Get:key, ...; Ctrl-D ends"
        ));
    }
    let restored = Restored::new();
    let streams = Streams::new(|| Editing {
        prompt: "> ".into(),
        history: HistoryFile::from_env(),
        completion: Some(with.completion.clone()),
    });
    let (input, output, edited) = (streams.input, streams.output, streams.edited);
    let conversation = exchange(with, input, output, seen);
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
    with: Conversation<'_>,
    input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
    seen: bool,
) -> Result<(), String> {
    let (from_server, to_server) = split(with.stream);
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
    let receiving = receive(from_server, &mut output, &mut replies, &patience);
    let end = future::or(future::or(receiving, sending), waiting).await?;
    let mut rest = replies.rest();
    if seen && replies.is_cut() {
        rest.push(b'\n');
    }
    let end = match print(&mut output, &rest).await {
        Ok(()) => end,
        Err(error) => on_output(error).map(|()| End::Unread)?,
    };
    let mut faults = replies.faults();
    let fault = match (end, sent.get()) {
        (End::Unread, _) => return Ok(()),
        _ if replies.is_complete() => None,
        (End::Broken(error), _) => Some(error.to_string()),
        (End::Late, _) => Some("the time limit is over, and replies are owed".into()),
        (End::Closed, Sent::Open) => Some("the server closed the connection".into()),
        (End::Closed, Sent::Whole) => {
            Some("the server closed the connection, and replies are owed".into())
        }
        (End::Closed, Sent::Cut) => Some("the input ends within a line".into()),
    };
    faults.splice(0..0, fault);
    match faults.is_empty() {
        true => Ok(()),
        false => Err(format!("{}: {}", with.address, faults.join("; "))),
    }
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
