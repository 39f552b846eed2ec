//! The server, to be run: keeps values in memory, serves TCP or a Unix socket, on smol.
//!
//! ```text
//! cargo run --release --example server
//! cargo run --release --example server -- --listen unix:/tmp/keywire.sock --threads 2 --stats 1
//! ```

use std::{
    fs,
    io::{self, ErrorKind, Write as _},
    net::ToSocketAddrs as _,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use async_signal::{Signal, Signals};
use clap::{Parser, ValueEnum};
use futures_lite::{StreamExt as _, future};
use keywire::{Handle, Overflow, Server};
use smol::net::unix::UnixListener;

/// How long clients may take for their last replies when the server shuts down.
const GRACE: Duration = Duration::from_secs(5);

/// A key-value server that speaks lines: Put:key:value, Get:key, Delete:key, Update:key:old:new.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Where to listen: a TCP address, or unix:PATH
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9999")]
    listen: String,
    /// Threads that serve
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one)]
    threads: usize,
    /// Reply lines that may wait for a client
    #[arg(long, value_name = "LINES", default_value_t = 500, value_parser = at_least_one)]
    outbox: usize,
    /// Bytes of replies that may wait for a client
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20, value_parser = at_least_one)]
    outbox_bytes: usize,
    /// What to do when a client does not read and its outbox is full
    #[arg(long, value_enum, default_value = "drop")]
    overflow: OnOverflow,
    /// How long a client's socket may take no bytes before it counts as not reading
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = seconds, allow_negative_numbers = true)]
    stall: Duration,
    /// The longest line that a client may send
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 10, value_parser = at_least_one)]
    max_line: usize,
    /// Keys and prefixes that a client may watch
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    max_watches: usize,
    /// Print clients and rates every so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    stats: Option<Duration>,
}

#[derive(Clone, Copy, ValueEnum)]
enum OnOverflow {
    /// Drop the reply and count it
    Drop,
    /// Disconnect the client
    Disconnect,
    /// Let the client's own commands wait until it reads
    Wait,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..) => Ok(number),
        _ => Err("it has to be a whole number, at least 1".into()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .filter(|seconds| (0.001..=1e9).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "it has to be a number of seconds, from 0.001 up".into())
}

fn main() -> ExitCode {
    match serve(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let mut server = Server::builder()
        .outbox_lines(options.outbox)
        .outbox_bytes(options.outbox_bytes)
        .overflow(match options.overflow {
            OnOverflow::Drop => Overflow::Drop,
            OnOverflow::Disconnect => Overflow::Disconnect,
            OnOverflow::Wait => Overflow::Wait,
        })
        .stall(options.stall)
        .max_line(options.max_line)
        .max_watches(options.max_watches)
        .build();
    let handle = server.handle();

    let (address, _socket_file) = match options.listen.strip_prefix("unix:") {
        Some(path) => {
            let (listener, file) = bind_unix(Path::new(path))
                .map_err(|error| format!("can't listen on {:?}: {error}", options.listen))?;
            server.listen(listener);
            (options.listen.clone(), Some(file))
        }
        None => {
            let listener = bind_tcp(&options.listen)
                .map_err(|error| format!("{:?}: {error}", options.listen))?;
            let address = listener.local_addr()?.to_string();
            server.listen(listener);
            (address, None)
        }
    };
    let signals = Signals::new([Signal::Int, Signal::Term])?;
    say(format_args!(
        "keywire listens on {address}, values in memory"
    ));

    for _ in 1..options.threads {
        let worker = handle.worker();
        thread::spawn(|| smol::block_on(worker));
    }
    smol::block_on(future::or(
        async {
            server.run().await;
        },
        future::or(obey(signals, &handle), report(options.stats, &handle)),
    ));
    let stats = handle.stats();
    say(format_args!(
        "shut down; clients served: {}, reply lines lost: {}",
        stats.dropped, stats.lines_dropped
    ));
    Ok(())
}

fn bind_tcp(address: &str) -> Result<smol::net::TcpListener, Box<dyn std::error::Error>> {
    let addresses = address
        .to_socket_addrs()
        .map_err(|error| format!("{error}; expected HOST:PORT or unix:PATH"))?;
    let mut result = Err("it has no address".into());
    for address in addresses {
        result = keywire::bind(address).map_err(Into::into);
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Our socket in the file system. Removes it at the end, unless another has taken its place.
struct SocketFile {
    path: PathBuf,
    inode: Option<u64>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.inode.is_some() && inode(&self.path) == self.inode {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    Some(fs::symlink_metadata(path).ok()?.ino())
}

fn bind_unix(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    if path.as_os_str().is_empty() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "the path is empty"));
    }
    let listener = UnixListener::bind(path).or_else(|error| {
        // A server that was killed leaves its socket behind; one that lives answers. Anything else
        // in this place is somebody's file.
        let is_socket = fs::symlink_metadata(path)?.file_type().is_socket();
        let abandoned = error.kind() == ErrorKind::AddrInUse
            && is_socket
            && std::os::unix::net::UnixStream::connect(path)
                .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
        if !abandoned {
            return Err(error);
        }
        fs::remove_file(path)?;
        UnixListener::bind(path)
    })?;
    let file = SocketFile {
        path: path.to_owned(),
        inode: inode(path),
    };
    Ok((listener, file))
}

/// The first signal lets clients have their replies; the second does not wait for them.
async fn obey(mut signals: Signals, handle: &Handle) {
    signals.next().await;
    say(format_args!("shutting down; once more to do it at once"));
    let again = async {
        signals.next().await;
        handle.shutdown(Duration::ZERO).await;
    };
    future::or(again, handle.shutdown(GRACE)).await;
    future::pending().await
}

async fn report(every: Option<Duration>, handle: &Handle) {
    let Some(every) = every else {
        return future::pending().await;
    };
    let mut ticks = smol::Timer::interval(every);
    let (mut before, mut last) = (handle.stats(), Instant::now());
    while let Some(now) = ticks.next().await {
        let stats = handle.stats();
        let seconds = (now - last).as_secs_f64();
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        say(format_args!(
            "active {}  gone {}  commands {:.0}/s  errors {:.0}/s  reply lines {:.0}/s  \
             lost {:.0}/s  events {:.0}/s  missed {:.0}/s",
            stats.active,
            stats.dropped,
            rate(stats.commands, before.commands),
            rate(stats.errors, before.errors),
            rate(stats.lines_queued, before.lines_queued),
            rate(stats.lines_dropped, before.lines_dropped),
            rate(stats.events, before.events),
            rate(stats.missed, before.missed),
        ));
        (before, last) = (stats, now);
    }
}

/// Prints a line at once, into a pipe too. Nobody listening is no reason to stop.
fn say(line: std::fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
