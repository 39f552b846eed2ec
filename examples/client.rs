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
#[command(version)]
struct Options {
    /// The server: a TCP address, or unix:PATH
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9999")]
    connect: String,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match smol::block_on(talk(&options.connect)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn talk(address: &str) -> Result<(), String> {
    let refused = |error| format!("can't connect to {address}: {error}");
    if let Some(path) = address.strip_prefix("unix:") {
        let stream = UnixStream::connect(path).await.map_err(refused)?;
        let end = || stream.shutdown(Shutdown::Write);
        exchange(address, stream.clone(), stream.clone(), end).await
    } else {
        let stream = TcpStream::connect(address).await.map_err(refused)?;
        stream.set_nodelay(true).map_err(refused)?;
        let end = || stream.shutdown(Shutdown::Write);
        exchange(address, stream.clone(), stream.clone(), end).await
    }
}

/// Copies both ways until the server has said everything.
async fn exchange(
    address: &str,
    replies: impl AsyncRead + Unpin,
    commands: impl AsyncWrite + Unpin,
    end_commands: impl FnOnce() -> io::Result<()>,
) -> Result<(), String> {
    if io::stdin().is_terminal() {
        eprintln!("connected to {address}; Put:key:value, Get:key, ...; Ctrl-D ends");
    }
    let mut ended = false;
    let sending = async {
        match copy(Unblock::new(io::stdin()), commands).await {
            Ok(()) => {
                ended = true;
                // It fails only where the server has hung up; the replies will tell.
                let _ = end_commands();
            }
            Err(Broken::From(error)) => return Err(format!("standard input: {error}")),
            // The server has hung up. Whatever it had to say first is still worth reading.
            Err(Broken::To(_)) => {}
        }
        future::pending().await
    };
    let receiving = async {
        match copy(replies, Unblock::new(io::stdout())).await {
            Ok(()) => Ok(true),
            Err(Broken::From(error)) => Err(format!("{address}: {error}")),
            // The reader of our output has had enough, as `head` does.
            Err(Broken::To(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(Broken::To(error)) => Err(format!("standard output: {error}")),
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
