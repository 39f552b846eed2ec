//! A chat room that is one key of a server: to speak is to put a value, to listen is to watch.
//!
//! ```text
//! cargo run --release --example server
//! cargo run --release --example chat -- ann       # in a second terminal
//! cargo run --release --example chat -- bob       # in a third
//! ```
//!
//! What one types, all others see; who comes late sees the last lines first. To see what the
//! server's outbox is for, stop bob's reading with Ctrl-S and let a fourth terminal talk much:
//!
//! ```text
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
#[path = "common/comeback.rs"]
mod comeback;
#[path = "common/program.rs"]
mod program;
#[path = "common/say.rs"]
mod say;

use std::{
    error::Error,
    io::{self, Write as _},
    process::ExitCode,
};

use address::{Address, Kind};
use clap::Parser;
use futures_lite::{AsyncBufReadExt as _, StreamExt as _, future, io::BufReader};
use keywire::{Client, ClientBuilder, Event};
use say::{line, reason, say};
use smol::net::unix::UnixStream;

/// Talks in a chat room on a keywire server. Ctrl-D leaves.
#[derive(Parser)]
struct Options {
    /// Who is talking
    name: String,
    /// The key that is the room
    #[arg(long, default_value = "lobby")]
    room: String,
    /// The server: HOST:PORT, PORT on this machine, or unix:PATH
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9999")]
    connect: Address,
    /// End when the connection is lost, instead of waiting for the server to come back
    #[arg(long)]
    no_reconnect: bool,
}

fn main() -> ExitCode {
    let options: Options = program::parse();
    match smol::block_on(chat(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let reason = reason(&*error);
            say(format_args!("error: {}: {reason}", options.connect));
            ExitCode::FAILURE
        }
    }
}

async fn chat(options: &Options) -> Result<(), Box<dyn Error>> {
    let announce = comeback::announce(&options.connect.text);
    let client = builder(options).on_connection(announce).connect().await?;
    // The past, and every change from that moment on: no message is shown twice, and none is
    // missing between.
    let (said, mut watcher) = client.get_and_watch(&options.room).await?;
    for message in &said[said.len().saturating_sub(10)..] {
        show(message)?;
    }
    let mine = format!("{}: ", options.name);

    let listen = async {
        while let Some(event) = watcher.next().await {
            match event? {
                Event::Put { value, .. } | Event::Set { value, .. }
                    if !value.starts_with(mine.as_bytes()) =>
                {
                    show(&value)?
                }
                Event::Missed(0) => show("* you missed some messages")?,
                Event::Missed(messages) => show(format!("* you missed {messages} messages"))?,
                _ => {}
            }
        }
        Ok(())
    };
    // A connection of its own: confirmations must not wait behind messages that were not read yet.
    let sender = builder(options).connect().await?;
    let speak = async {
        let mut lines = BufReader::new(smol::Unblock::new(io::stdin())).split(b'\n');
        while let Some(line) = lines.next().await {
            let line = line?;
            if !line.trim_ascii().is_empty() {
                let message = [mine.as_bytes(), line.trim_ascii_end()].concat();
                match sender.put(&options.room, message).await {
                    Err(error) if !options.no_reconnect && error.may_be_applied() => {
                        say(format_args!("* that may not have been said: {error}"));
                    }
                    Err(error) if !options.no_reconnect => {
                        say(format_args!("* that was not said: {error}"));
                    }
                    said => said?,
                }
            }
        }
        Ok(())
    };
    future::or(speak, listen).await
}

/// A client that comes back when the server does.
fn builder(options: &Options) -> ClientBuilder {
    let client = Client::builder().reconnect(!options.no_reconnect);
    match &options.connect.kind {
        Kind::Unix(path) => {
            let path = path.clone();
            client.connector(move || UnixStream::connect(path.clone()))
        }
        Kind::Tcp(None, port) => client.address(format_args!("localhost:{port}")),
        Kind::Tcp(Some(host), port) if host.contains(':') => {
            client.address(format_args!("[{host}]:{port}"))
        }
        Kind::Tcp(Some(host), port) => client.address(format_args!("{host}:{port}")),
    }
}

fn show(message: impl AsRef<[u8]>) -> io::Result<()> {
    io::stdout().write_all(&line(message.as_ref()))
}
