//! Lines from a terminal or a pipe to a server, replies to standard output as they come.
//!
//! ```text
//! cargo run --release --example client
//! printf 'Put:a:1\nGet:a\n' | cargo run --release --example client -- --connect 127.0.0.1:9999
//! ```
//!
//! It ends when its input has ended and every reply is in. The exit code is 0 then, and 1 where the
//! server could not be reached or went away first.

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use clap::Parser;
use futures_lite::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, future};
use smol::{
    Unblock,
    net::{Shutdown, TcpStream, unix::UnixStream},
};

/// Sends lines to a keywire server and prints what it replies.
#[derive(Parser)]
struct Options {
    /// The server: a TCP address, or unix:PATH
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9999")]
    connect: String,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match smol::block_on(talk(&options.connect)) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output has had enough, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}: {error}", options.connect);
            ExitCode::FAILURE
        }
    }
}

async fn talk(address: &str) -> io::Result<()> {
    if let Some(path) = address.strip_prefix("unix:") {
        let stream = UnixStream::connect(path).await?;
        greet(address);
        exchange(&mut stream.clone(), &mut stream.clone(), || {
            stream.shutdown(Shutdown::Write)
        })
        .await
    } else {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        greet(address);
        exchange(&mut stream.clone(), &mut stream.clone(), || {
            stream.shutdown(Shutdown::Write)
        })
        .await
    }
}

fn greet(address: &str) {
    if io::stdin().is_terminal() {
        eprintln!("connected to {address}; Put:key:value, Get:key, ...; end with Ctrl-D");
    }
}

/// Copies both ways until the server has said everything.
async fn exchange(
    replies: &mut (impl AsyncRead + Unpin),
    commands: &mut (impl AsyncWrite + Unpin),
    end_commands: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let mut ended = false;
    let sending = async {
        match copy(&mut Unblock::new(io::stdin()), commands).await {
            // The server hung up. Whatever it had to say first is still worth reading.
            Err(error) if is_hang_up(&error) => future::pending().await,
            result => result?,
        }
        ended = true;
        end_commands()?;
        future::pending().await
    };
    let receiving = copy(replies, Unblock::new(io::stdout()));
    future::or(receiving, sending).await?;
    if ended {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "the server closed the connection",
        ))
    }
}

fn is_hang_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionReset)
}

/// Passes bytes on as they come.
async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match from.read(&mut buffer).await? {
            0 => return Ok(()),
            n => to.write_all(&buffer[..n]).await?,
        }
        to.flush().await?;
    }
}
