//! Opens sockets: one that waits for its replies, or thousands that do not.

use std::{
    error::Error,
    fmt,
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr, ToSocketAddrs as _},
    os::fd::AsRawFd as _,
    path::PathBuf,
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, unix::SourceFd};
use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use socket2::{Domain, SockAddr, Socket, Type};

/// How long the server may take to accept, and to answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Connections begun before the first of them is waited for.
const BATCH: usize = 512;

/// Connections that come from one address. It has some 28,000 ports to give, but the fewer of them
/// are free, the longer the kernel looks for one.
const PER_ADDRESS: usize = 5_000;

/// How often this process has connected its clients.
static RUNS: AtomicU32 = AtomicU32::new(0);

/// Where the server is.
#[derive(Debug)]
pub(crate) enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Tcp(address) => address.fmt(f),
            Target::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Target {
    /// The first of a name's addresses that a server answers at.
    pub(crate) fn find(name: &str) -> Result<Target, Box<dyn Error>> {
        let targets = match name.strip_prefix("unix:") {
            Some(path) => vec![Target::Unix(path.into())],
            None => match name.to_socket_addrs() {
                Ok(addresses) => addresses.map(Target::Tcp).collect(),
                Err(error) => return Err(format!("{name}: {error}").into()),
            },
        };
        let mut failure = format!("{name}: no such address");
        for target in targets {
            match target.open() {
                Ok(_) => return Ok(target),
                Err(error) => failure = format!("can't connect to {target}: {error}"),
            }
        }
        Err(failure.into())
    }

    /// A socket whose reads and writes wait, though not for ever.
    pub(crate) fn open(&self) -> io::Result<Socket> {
        let socket = self.socket()?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        match self {
            Target::Tcp(address) => socket.connect_timeout(&(*address).into(), PATIENCE)?,
            // Here the write timeout holds for connecting too.
            Target::Unix(path) => socket.connect(&SockAddr::unix(path)?)?,
        }
        Ok(socket)
    }

    /// A socket that has been connected by as few system calls as it takes.
    pub(crate) fn visit(&self, source: Option<Ipv4Addr>) -> io::Result<Socket> {
        let Target::Tcp(address) = self else {
            return self.open();
        };
        let socket = Socket::new(Domain::for_address(*address), Type::STREAM, None)?;
        // On Linux this bounds the wait for the connection too.
        socket.set_write_timeout(Some(PATIENCE))?;
        if let Some(source) = source {
            socket.bind(&SocketAddr::from((source, 0)).into())?;
        }
        socket.connect(&(*address).into())?;
        Ok(socket)
    }

    fn socket(&self) -> io::Result<Socket> {
        match self {
            Target::Tcp(address) => {
                let socket = Socket::new(Domain::for_address(*address), Type::STREAM, None)?;
                socket.set_tcp_nodelay(true)?;
                Ok(socket)
            }
            Target::Unix(_) => Socket::new(Domain::UNIX, Type::STREAM, None),
        }
    }

    /// Connects without waiting for it.
    fn begin(&self, source: Option<Ipv4Addr>, reads: bool) -> io::Result<Socket> {
        let address = match self {
            Target::Tcp(address) => address,
            // Where the server's queue is full, a Unix socket does not connect later, it fails.
            Target::Unix(_) => {
                let socket = self.open()?;
                socket.set_nonblocking(true)?;
                return Ok(socket);
            }
        };
        let socket = self.socket()?;
        socket.set_nonblocking(true)?;
        if !reads {
            // On the loopback device the kernel would hold megabytes for a client that does not
            // read, and the server would hardly notice it. A small window and small segments, from
            // which the sender's kernel reckons its own buffer, leave it some hundred kilobytes.
            socket.set_recv_buffer_size(4096)?;
            socket.set_tcp_mss(536)?;
        }
        if let Some(source) = source {
            socket.bind(&SocketAddr::from((source, 0)).into())?;
        }
        match socket.connect(&(*address).into()) {
            Err(error) if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) => Err(error),
            _ => Ok(socket),
        }
    }

    /// Addresses for the clients of a run to come from, where this machine has so many.
    pub(crate) fn sources(&self) -> impl Fn(usize) -> Option<Ipv4Addr> + use<> {
        let local = matches!(self, Target::Tcp(SocketAddr::V4(address))
            if address.ip().is_loopback());
        // The ports of an earlier run can't be bound again for a minute, so that each run has
        // addresses of its own, and so has each process.
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let run = process::id().wrapping_mul(101).wrapping_add(run);
        move |client| {
            let last = 1 + (client / PER_ADDRESS) % 254;
            local.then(|| [127, 64 + (run >> 8) as u8 % 128, run as u8, last as u8].into())
        }
    }

    /// Connects many clients, and after them some that will never read. All are then registered
    /// for reading and writing, edge-triggered, with their numbers for tokens.
    pub(crate) fn connect(
        &self,
        readers: usize,
        others: usize,
        poll: &mut Poll,
    ) -> Result<Vec<Socket>, String> {
        let clients = readers + others;
        let sources = self.sources();
        let begin = |poll: &Poll, client: usize| {
            // Few clients find free ports without help.
            let source = sources(client).filter(|_| clients > PER_ADDRESS);
            let socket = self.begin(source, client < readers)?;
            poll.registry().register(
                &mut SourceFd(&socket.as_raw_fd()),
                Token(client),
                Interest::READABLE | Interest::WRITABLE,
            )?;
            Ok(socket)
        };
        let mut sockets = Vec::with_capacity(clients);
        let mut events = Events::with_capacity(BATCH);
        while sockets.len() < clients {
            let first = sockets.len();
            for client in first..clients.min(first + BATCH) {
                sockets
                    .push(begin(poll, client).map_err(|error| failure(client, clients, &error))?);
            }
            wait(poll, &mut events, first, &sockets)
                .map_err(|(client, error)| failure(client, clients, &error))?;
        }
        Ok(sockets)
    }
}

fn failure(client: usize, clients: usize, error: &io::Error) -> String {
    format!("can't connect client {} of {clients}: {error}", client + 1)
}

/// Waits until the sockets from `first` on are connected.
fn wait(
    poll: &mut Poll,
    events: &mut Events,
    first: usize,
    sockets: &[Socket],
) -> Result<(), (usize, io::Error)> {
    let deadline = Instant::now() + PATIENCE;
    let mut waiting = vec![true; sockets.len() - first];
    let mut left = waiting.len();
    while left > 0 {
        let slowest = || first + waiting.iter().position(|&waits| waits).unwrap_or(0);
        let time = deadline.saturating_duration_since(Instant::now());
        if time.is_zero() {
            return Err((slowest(), ErrorKind::TimedOut.into()));
        }
        match poll.poll(events, Some(time)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err((slowest(), error)),
            _ => {}
        }
        for event in events.iter() {
            let Token(client) = event.token();
            // Earlier batches are connected; what happens to them now is seen when they ask.
            if client < first || !waiting[client - first] {
                continue;
            }
            match sockets[client].take_error() {
                Ok(None) => {}
                Ok(Some(error)) | Err(error) => return Err((client, error)),
            }
            if event.is_writable() {
                waiting[client - first] = false;
                left -= 1;
            }
        }
    }
    Ok(())
}

/// Raises the limit of open files to what so many sockets need.
pub(crate) fn allow_sockets(sockets: usize) -> Result<(), String> {
    /// Standard streams, the poll, what looks into /proc.
    const OTHERS: u64 = 32;
    let needed = sockets as u64 + OTHERS;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    // Only the superuser may raise the maximum.
    let maximum = limit.maximum.map(|maximum| maximum.max(needed));
    let raised = Rlimit {
        current: Some(needed),
        maximum,
    };
    setrlimit(Resource::Nofile, raised).map_err(|error| {
        let maximum = limit.maximum.map_or("unlimited".into(), |n| n.to_string());
        format!("{sockets} clients need {needed} open files, {maximum} are allowed: {error}")
    })
}
