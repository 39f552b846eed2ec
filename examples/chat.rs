//! A chat room that is one key of a server: to speak is to put a value, to listen is to watch.
//!
//! ```text
//! cargo run --release --example server
//! cargo run --release --example chat -- ann       # in a second terminal
//! cargo run --release --example chat -- bob       # in a third
//! ```
//!
//! What one types, all others see; who comes late sees the last lines first. On a terminal, what
//! others say appears above the line that is being typed.
//!
//! To see what the server's outbox is for, give bob's output to `cat`, stop it with Ctrl-S, and let a
//! fourth terminal talk much:
//!
//! ```text
//! cargo run --release --example chat -- bob | cat
//! seq -f "%0500g" 30000 | cargo run --release --example chat -- eve
//! ```
//!
//! Ann reads on as if nothing were wrong. When Ctrl-Q lets bob go on, he sees what had found room on
//! its way to him, and how many messages he missed.

// On other systems it can be checked, and there is no program.
#![cfg_attr(not(unix), no_main)]
#![cfg(unix)]

#[path = "common/address.rs"]
mod address;
#[path = "tools/leave.rs"]
mod leave;
#[path = "common/program.rs"]
mod program;
#[path = "tools/reconnect.rs"]
mod reconnect;
#[path = "common/say.rs"]
mod say;
#[path = "tools/stream.rs"]
mod stream;
#[path = "tools/terminal.rs"]
mod terminal;

use std::{io, pin::pin, process::ExitCode};

use async_signal::Signal;
use clap::Parser;
use futures_lite::{
    AsyncBufReadExt as _, AsyncWrite, AsyncWriteExt as _, StreamExt as _, future, io::BufReader,
    stream::or,
};
use keywire::{Client, Error, Event, Watcher};
use reconnect::explain;
use say::{reason, say, shown};
use smol::channel::{Receiver, Sender, bounded};
use stream::{Dialer, Target};
use terminal::{Editing, Restored, Streams};

/// Talks in a chat room on a keywire server. Ctrl-D leaves.
#[derive(Parser)]
struct Options {
    /// Who is talking
    name: String,
    /// The key that is the room
    #[arg(long, default_value = "lobby")]
    room: String,
    #[command(flatten)]
    target: Target,
    /// End when the connection is lost, instead of waiting for the server to come back
    #[arg(long)]
    no_reconnect: bool,
}

/// What a person is told of the connection and of what was not said.
type Notices = (Sender<String>, Receiver<String>);

fn main() -> ExitCode {
    let options: Options = program::parse();
    match smol::block_on(run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<(), String> {
    let target = &options.target;
    let failed = |error| explain(error, &target.address.text);
    let (dialer, secret) = (Dialer::new(target)?, target.secret()?);
    let builder = || {
        let builder = reconnect::builder(dialer.clone(), secret.clone());
        builder.reconnect(!options.no_reconnect)
    };
    let notices: Notices = bounded(100);
    let sender = notices.0.clone();
    // It must not wait. So many are there only if nothing is shown any more.
    let announce = reconnect::announce(&target.address.text, move |text| {
        let _ = sender.try_send(text);
    });
    let listener = builder().on_connection(announce).connect().await;
    let listener = listener.map_err(failed)?;
    // The past, and every change from that moment on: no message is shown twice, and none is
    // missing between.
    let (said, watcher) = listener
        .get_and_watch(&options.room)
        .await
        .map_err(failed)?;
    // A connection of its own: confirmations must not wait behind messages that were not read yet.
    let speaker = builder().connect().await.map_err(failed)?;

    let restored = Restored::new();
    let mut streams = Streams::new(|| Editing {
        prompt: format!("{}: ", shown(options.name.as_bytes())),
        history: None,
        completion: None,
    });
    for message in &said[said.len().saturating_sub(10)..] {
        show(&mut streams.output, message).await?;
    }
    let edited = streams.edited;
    let talking = talk(options, watcher, &speaker, &mut streams, &notices);
    if !edited {
        let ended = talking.await;
        // A line that is being printed is printed to its end.
        return ended.and(streams.output.flush().await.map_err(on_output));
    }
    // While a line is edited, the editor takes an interrupt for Ctrl-C.
    let signalled = leave::signalled([Signal::Int, Signal::Term, Signal::Hup], 1, || {})?;
    let killed = async {
        signalled.await;
        Err("ended by a signal".into())
    };
    let ended = future::or(talking, killed).await;
    drop(restored);
    ended
}

/// What comes while one types.
enum Heard {
    Event(Result<Event, Error>),
    Notice(String),
}

async fn talk(
    options: &Options,
    watcher: Watcher,
    speaker: &Client,
    streams: &mut Streams,
    (sender, receiver): &Notices,
) -> Result<(), String> {
    let (input, output, edited) = (&mut streams.input, &mut streams.output, streams.edited);
    let failed = |error| explain(error, &options.target.address.text);
    let mine = format!("{}: ", options.name);

    let listen = async {
        let notices = receiver.clone().map(Heard::Notice);
        let mut heard = pin!(or(notices, watcher.map(Heard::Event)));
        while let Some(heard) = heard.next().await {
            let event = match heard {
                Heard::Event(event) => event.map_err(failed)?,
                Heard::Notice(notice) => {
                    tell(output, edited, &notice).await?;
                    continue;
                }
            };
            match event {
                Event::Put { value, .. } | Event::Set { value, .. }
                    if !value.starts_with(mine.as_bytes()) =>
                {
                    show(output, &value).await?;
                }
                Event::Missed(0) => show(output, b"* you missed some messages").await?,
                Event::Missed(messages) => {
                    let missed = format!("* you missed {messages} messages");
                    show(output, missed.as_bytes()).await?;
                }
                _ => {}
            }
        }
        Ok(())
    };
    let speak = async {
        let mut lines = BufReader::new(input).split(b'\n');
        while let Some(line) = lines.next().await {
            let line = line.map_err(|error| format!("standard input: {error}"))?;
            if line.trim_ascii().is_empty() {
                continue;
            }
            let message = [mine.as_bytes(), line.trim_ascii_end()].concat();
            let Err(error) = speaker.put(&options.room, message).await else {
                continue;
            };
            if options.no_reconnect {
                return Err(failed(error));
            }
            let doubt = match error.may_be_applied() {
                true => "perhaps not",
                false => "not",
            };
            let line = String::from_utf8_lossy(line.trim_ascii());
            // Enough to tell which it was.
            let line: String = line.chars().take(60).collect();
            let notice = format!("* {doubt} said: {line} ({})", reason(&error));
            // `listen` shows it, or what follows `listen` does.
            let _ = sender.send(notice).await;
        }
        Ok(())
    };
    let ended = future::or(speak, listen).await;
    while let Ok(notice) = receiver.try_recv() {
        tell(output, edited, &notice).await?;
    }
    ended
}

/// Above the line that is being edited, or on standard error.
async fn tell(
    output: &mut (impl AsyncWrite + Unpin),
    edited: bool,
    notice: &str,
) -> Result<(), String> {
    if edited {
        return show(output, notice.as_bytes()).await;
    }
    say(notice);
    Ok(())
}

async fn show(output: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> Result<(), String> {
    let line = [message, b"\n"].concat();
    output.write_all(&line).await.map_err(on_output)?;
    output.flush().await.map_err(on_output)
}

fn on_output(error: io::Error) -> String {
    format!("standard output: {error}")
}
