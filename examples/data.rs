//! What is in a directory of the server's, as lines; and lines into a directory. No server may have it open.
//!
//! ```text
//! cargo run --release --features disk --example data -- dump DIR > saved
//! cargo run --release --features disk --example data -- load DIR < saved
//! ```
//!
//! `dump` prints a `Set` line for the first value of each key and a `Put` line for each other one, so a
//! server takes them as well: `nc -N 127.0.0.1 9999 < saved`. `load` takes such lines, or any other writes,
//! on top of what is in the directory. It can be repeated, since each key begins with a `Set`.
//!
//! The exit code is 0 if all is done, and 2 if something went wrong.

#[path = "common/program.rs"]
mod program;
#[path = "common/say.rs"]
mod say;

use std::{
    error::Error,
    io::{self, BufRead as _, BufWriter, IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future};
use keywire::{
    Server,
    protocol::{Command, LineDecoder, Operation, Write},
    store::Disk,
};
use say::say;

/// Bytes of lines that are sent before their answer is waited for.
const SENT_BYTES: usize = 1 << 20;

/// The values in a directory of the server's, as lines
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Print all values as Set and Put lines
    Dump { directory: PathBuf },
    /// Apply Set, Put, Update, Remove and Delete lines from standard input
    Load { directory: PathBuf },
}

fn main() -> ExitCode {
    let result = match program::parse::<Options>().command {
        Task::Dump { directory } => future::block_on(dump(directory)),
        Task::Load { directory } => future::block_on(load(directory)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("error: {}", say::reason(&*error)));
            ExitCode::from(2)
        }
    }
}

async fn dump(directory: PathBuf) -> Result<(), Box<dyn Error>> {
    if !directory.try_exists()? {
        return Err(format!("{}: there is no such directory", directory.display()).into());
    }
    let disk = Disk::open(directory).await?;
    let mut out = BufWriter::new(io::stdout().lock());
    let printed = disk.with_values(|memory| {
        let mut line = Vec::new();
        for (key, values) in memory.iter() {
            for (number, value) in values.enumerate() {
                let write = match number {
                    0 => Write::Set { key, value },
                    _ => Write::Put { key, value },
                };
                line.clear();
                Command::from(write).encode(&mut line);
                line.pop();
                out.write_all(&say::line(&line))?;
            }
        }
        out.flush()
    });
    match printed {
        // Whoever read it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

async fn load(directory: PathBuf) -> Result<(), Box<dyn Error>> {
    let disk = Disk::open(directory).await?;
    let server = Server::builder().max_line(usize::MAX).store(disk).build();
    let handle = server.handle();
    let work = async {
        let loaded = send(&handle).await;
        handle.shutdown(Duration::from_secs(60)).await;
        loaded
    };
    future::zip(server.run(), work).await.1
}

/// Sends the writes of standard input to the server in this process.
async fn send(handle: &keywire::Handle) -> Result<(), Box<dyn Error>> {
    let (near, far) = async_net::unix::UnixStream::pair()?;
    handle.attach(far).await?;
    let mut stream = near;
    let mut progress = Progress::new();
    let mut input = io::stdin().lock();
    let mut lines = Vec::new();
    loop {
        let start = lines.len();
        let ended = input.read_until(b'\n', &mut lines)? == 0;
        if !ended {
            progress.line += 1;
            if lines.last() != Some(&b'\n') {
                lines.push(b'\n');
            }
            check(&lines[start..], progress.line)?;
        }
        if ended || lines.len() >= SENT_BYTES {
            lines.extend_from_slice(b"Sync\n");
            stream.write_all(&lines).await?;
            lines.clear();
            answer(&mut stream).await?;
            progress.show(ended);
        }
        if ended {
            return Ok(());
        }
    }
}

/// A line has to be a write, so that nothing but an error answers it.
fn check(line: &[u8], number: u64) -> Result<(), Box<dyn Error>> {
    let block = LineDecoder::new(usize::MAX).push(line);
    match block.iter().next().and_then(Result::ok).map(Command::parse) {
        Some(Ok(Command::Operation(Operation::Write(_)))) => Ok(()),
        Some(Err(error)) => Err(format!("line {number}: {error}").into()),
        _ => Err(format!("line {number}: no write").into()),
    }
}

/// Waits for the answer of the `Sync`. Anything before it is an error.
async fn answer(stream: &mut (impl futures_lite::AsyncRead + Unpin)) -> Result<(), Box<dyn Error>> {
    let mut answer = Vec::new();
    let mut buffer = [0; 512];
    while !answer.ends_with(b"\n") {
        match stream.read(&mut buffer).await? {
            0 => return Err("the server has ended".into()),
            read => answer.extend_from_slice(&buffer[..read]),
        }
    }
    match answer.strip_prefix(b":sync:0:") {
        Some(_) => Ok(()),
        None => Err(String::from_utf8_lossy(&answer)
            .trim_end()
            .to_string()
            .into()),
    }
}

/// Says on a terminal how far it is, once a second.
struct Progress {
    line: u64,
    said: Instant,
}

impl Progress {
    fn new() -> Self {
        Self {
            line: 0,
            said: Instant::now(),
        }
    }

    fn show(&mut self, ended: bool) {
        if ended || self.said.elapsed() >= Duration::from_secs(1) {
            self.said = Instant::now();
            if io::stderr().is_terminal() || ended {
                say(format_args!("{} lines are on the disk", self.line));
            }
        }
    }
}
