//! The client's line mode.

use std::io::{self, IsTerminal as _, Read, Write};

use async_signal::{Signal, Signals};
use futures_lite::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, StreamExt as _, future, io::split,
};
use smol::Unblock;

use crate::{
    on_output,
    stream::Stream,
    terminal::{self, Input, Restored, Screen},
};

/// With editing where a person sits at both ends, plain otherwise.
pub(crate) async fn converse(address: &str, stream: Stream) -> Result<(), String> {
    let (typed, seen) = (io::stdin().is_terminal(), io::stdout().is_terminal());
    if typed {
        eprintln!("connected to {address}; Put:key:value, Get:key, ...; Ctrl-D ends");
    }
    let restored = Restored::new();
    let editor = if typed && seen {
        terminal::editor()
    } else {
        None
    };
    let edited = editor.is_some();
    let (input, output): (Box<dyn Read + Send>, Box<dyn Write + Send>) = match editor {
        Some((typed, screen)) => (Box::new(typed), Box::new(screen)),
        None if seen => {
            let show = |text: String| io::stdout().write_all(text.as_bytes());
            (Box::new(io::stdin()), Box::new(Screen::new(show)))
        }
        None => (Box::new(io::stdin()), Box::new(io::stdout())),
    };
    let (input, output) = (Unblock::new(Input::new(input)), Unblock::new(output));
    let conversation = exchange(address, stream, input, output);
    if !edited {
        return conversation.await;
    }
    let signals = Signals::new([Signal::Term, Signal::Hup]);
    let mut signals = signals.map_err(|error| format!("signals: {error}"))?;
    let killed = async {
        signals.next().await;
        Err("ended by a signal".into())
    };
    let ended = future::or(conversation, killed).await;
    drop(restored);
    ended
}

/// Copies both ways until the server has said everything.
async fn exchange(
    address: &str,
    stream: Stream,
    input: impl AsyncRead + Unpin,
    output: impl AsyncWrite + Unpin,
) -> Result<(), String> {
    let (replies, mut commands) = split(stream);
    let mut ended = false;
    let sending = async {
        match copy(input, &mut commands).await {
            Ok(()) => {
                ended = true;
                // It fails only where the server has hung up; the replies will tell.
                let _ = commands.close().await;
            }
            Err(Broken::From(error)) => return Err(format!("standard input: {error}")),
            // The server has hung up. Whatever it had to say first is still worth reading.
            Err(Broken::To(_)) => {}
        }
        future::pending().await
    };
    let receiving = async {
        match copy(replies, output).await {
            Ok(()) => Ok(true),
            Err(Broken::From(error)) => Err(format!("{address}: {error}")),
            Err(Broken::To(error)) => on_output(error).map(|()| false),
        }
    };
    let heard_all = future::or(receiving, sending).await?;
    if heard_all && !ended {
        return Err(format!("{address}: the server closed the connection"));
    }
    Ok(())
}

/// Which side of a copy broke.
enum Broken {
    From(io::Error),
    To(io::Error),
}

/// Passes bytes on as they come.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) -> Result<(), Broken> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match from.read(&mut buffer).await.map_err(Broken::From)? {
            0 => return Ok(()),
            n => to.write_all(&buffer[..n]).await.map_err(Broken::To)?,
        }
        to.flush().await.map_err(Broken::To)?;
    }
}
