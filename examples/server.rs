//! The server, to be run: keeps values in memory, serves TCP or a Unix socket, on smol.
//!
//! ```text
//! cargo run --release --example server
//! cargo run --release --example server -- --listen unix:/tmp/keywire.sock --threads 2 --stats 1
//! cargo run --release --features tls --example server -- --tls-cert cert.pem --tls-key key.pem
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
use keywire::{Handle, Overflow, Secret, Server};
use rustix::{fs::Mode, process::umask};
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
    /// Clients at a time
    #[arg(long, value_name = "N", default_value_t = 1 << 16, value_parser = at_least_one)]
    max_clients: usize,
    /// Clients at a time from one address; no limit unless given
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    max_clients_per_address: Option<usize>,
    /// How long a line may take from its first byte to its end
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds, allow_negative_numbers = true)]
    line_time: Duration,
    /// How long a connection may last on which nothing moves; no limit unless given
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    idle: Option<Duration>,
    /// Lines a second from one client, what is more waits; no limit unless given
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Bytes that the store may hold, and 64 for each key and 8 for each value; no limit unless given
    #[arg(long, value_name = "BYTES")]
    max_store: Option<u64>,
    /// Values that a key may have; no limit unless given
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    max_values: Option<usize>,
    /// A file with the secret that clients have to say, Auth:SECRET, before anything else
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Listen beyond this machine although there is no secret
    #[arg(long)]
    open: bool,
    /// Print clients and rates every so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    stats: Option<Duration>,
    /// Speak TLS, with the certificate in this PEM file, and those behind it that vouch for it
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key that belongs to the certificate, a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Let in only clients with a certificate that an authority in this PEM file vouches for
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
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
    let mut builder = Server::builder()
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
        .max_clients(options.max_clients)
        .max_clients_per_address(options.max_clients_per_address.unwrap_or(usize::MAX))
        .line_time(options.line_time)
        .idle(options.idle.unwrap_or(Duration::MAX))
        .rate(options.rate.unwrap_or(u32::MAX))
        .max_store(options.max_store.unwrap_or(u64::MAX))
        .max_values(options.max_values.unwrap_or(usize::MAX));
    if let Some(file) = &options.secret_file {
        builder = builder.secret(read_secret(file)?);
    }
    let guarded = options.secret_file.is_some() || options.open;
    let mut server = builder.build();
    let handle = server.handle();

    let tls = tls::config(options)?;
    let manner = match (&tls, &options.tls_client_ca) {
        (None, _) => "",
        (Some(_), None) => " TLS,",
        (Some(_), Some(_)) => " TLS for clients with a certificate,",
    };
    let (address, _socket_file) = match options.listen.strip_prefix("unix:") {
        Some(path) => {
            let (listener, file) = bind_unix(Path::new(path))
                .map_err(|error| format!("can't listen on {:?}: {error}", options.listen))?;
            tls::listen(&mut server, listener, tls);
            (options.listen.clone(), Some(file))
        }
        None => {
            let listener = bind_tcp(&options.listen, guarded)
                .map_err(|error| format!("{:?}: {error}", options.listen))?;
            let address = listener.local_addr()?.to_string();
            tls::listen(&mut server, listener, tls);
            (address, None)
        }
    };
    let signals = Signals::new([Signal::Int, Signal::Term])?;
    let secret = match options.secret_file {
        Some(_) => ", for those who know the secret",
        None => "",
    };
    say(format_args!(
        "keywire listens on {address},{manner} values in memory{secret}"
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

fn read_secret(file: &Path) -> Result<Secret, keywire::Error> {
    if fs::metadata(file).is_ok_and(|file| file.mode() & 0o007 != 0) {
        let file = file.display();
        eprintln!("warning: {file}: every user here may read or write it; try chmod 600");
    }
    Secret::file(file)
}

/// Whoever is not `guarded` may listen only to this machine.
fn bind_tcp(
    address: &str,
    guarded: bool,
) -> Result<smol::net::TcpListener, Box<dyn std::error::Error>> {
    let addresses = address
        .to_socket_addrs()
        .map_err(|error| format!("{error}; expected HOST:PORT or unix:PATH"))?;
    let mut result = Err("it has no address".into());
    for address in addresses {
        if !(guarded || address.ip().to_canonical().is_loopback()) {
            let words = "others than this machine could come in; it takes --secret-file, or --open \
                         to let everyone in";
            return Err(words.into());
        }
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
    let listener = bind_private(path).or_else(|error| {
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
        bind_private(path)
    })?;
    let file = SocketFile {
        path: path.to_owned(),
        inode: inode(path),
    };
    Ok((listener, file))
}

/// A socket for us alone, from its first moment: to change its mode afterwards would leave others a
/// moment to connect. The mask is the whole process's, so this comes before there are other threads
/// that make files.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let before = umask(Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    umask(before);
    bound
}

#[cfg(feature = "tls")]
mod tls {
    use std::sync::Arc;

    use keywire::{
        Error, Listener, Server,
        tls::{Pem, TlsListener, rustls::ServerConfig, server_config},
    };

    use super::Options;

    pub(crate) fn config(options: &Options) -> Result<Option<Arc<ServerConfig>>, Error> {
        let (Some(certificate), Some(key)) = (&options.tls_cert, &options.tls_key) else {
            return Ok(None);
        };
        let (certificate, key) = (Pem::file(certificate)?, Pem::file(key)?);
        let client_ca = options.tls_client_ca.as_ref().map(Pem::file).transpose()?;
        server_config(&certificate, &key, client_ca.as_ref()).map(Some)
    }

    pub(crate) fn listen(
        server: &mut Server,
        listener: impl Listener,
        config: Option<Arc<ServerConfig>>,
    ) {
        match config {
            Some(config) => server.listen(TlsListener::new(listener, config)),
            None => server.listen(listener),
        };
    }
}

#[cfg(not(feature = "tls"))]
mod tls {
    use std::convert::Infallible;

    use keywire::{Listener, Server};

    use super::Options;

    pub(crate) fn config(options: &Options) -> Result<Option<Infallible>, &'static str> {
        match options.tls_cert {
            Some(_) => Err("this server was built without TLS; \
                            cargo build --release --features tls --example server builds it with"),
            None => Ok(None),
        }
    }

    pub(crate) fn listen(server: &mut Server, listener: impl Listener, _: Option<Infallible>) {
        server.listen(listener);
    }
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
