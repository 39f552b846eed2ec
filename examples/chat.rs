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
#[path = "common/say.rs"]
mod say;
#[path = "tools/stream.rs"]
mod stream;
#[path = "tools/terminal.rs"]
mod terminal;

use std::{io, process::ExitCode};

use async_signal::Signal;
use clap::Parser;
use futures_lite::{
    AsyncBufReadExt as _, AsyncWrite, AsyncWriteExt as _, StreamExt as _, future, io::BufReader,
};
use keywire::{Client, Event, Watcher};
use say::{reason, say, shown};
use stream::Target;
use terminal::{Editing, Restored, Streams};

/// Talks in a chat room on a keywire server. Ctrl-D leaves.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Who is talking
    name: String,
    /// The key that is the room
    #[arg(long, default_value = "lobby")]
    room: String,
    #[command(flatten)]
    target: Target,
}

fn main() -> ExitCode {
    match smol::block_on(run(&Options::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<(), String> {
    let target = &options.target;
    let failed = |error: keywire::Error| format!("{}: {}", target.address, reason(&error));
    let secret = target.secret()?;
    let connect = async || {
        let client = Client::from_stream(stream::connect(target, None).await?);
        if let Some(secret) = &secret {
            client.authenticate(secret).await.map_err(failed)?;
        }
        Ok::<_, String>(client)
    };
    let listener = connect().await?;
    // The past, and every change from that moment on: no message is shown twice, and none is
    // missing between.
    let (said, watcher) = listener
        .get_and_watch(&options.room)
        .await
        .map_err(failed)?;
    // A connection of its own: confirmations must not wait behind messages that were not read yet.
    let speaker = connect().await?;

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
    let talking = talk(options, watcher, &speaker, &mut streams, failed);
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

async fn talk(
    options: &Options,
    mut watcher: Watcher,
    speaker: &Client,
    streams: &mut Streams,
    failed: impl Fn(keywire::Error) -> String,
) -> Result<(), String> {
    let (input, output) = (&mut streams.input, &mut streams.output);
    let mine = format!("{}: ", options.name);

    let listen = async {
        while let Some(event) = watcher.next().await {
            match event.map_err(&failed)? {
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
            if !line.trim_ascii().is_empty() {
                let message = [mine.as_bytes(), line.trim_ascii_end()].concat();
                let put = speaker.put(&options.room, message).await;
                put.map_err(&failed)?;
            }
        }
        Ok(())
    };
    future::or(speak, listen).await
}

async fn show(output: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> Result<(), String> {
    let line = [message, b"\n"].concat();
    output.write_all(&line).await.map_err(on_output)?;
    output.flush().await.map_err(on_output)
}

fn on_output(error: io::Error) -> String {
    format!("standard output: {error}")
}
