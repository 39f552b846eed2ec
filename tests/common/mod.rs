//! What the tests share: a server on a free port, and a client that waits under a deadline.

// Each test file is a crate of its own and uses its own part of this.
#![allow(dead_code, unreachable_pub)]

pub mod events;
pub mod flood;
pub mod late_store;
pub mod local;
pub mod model;
pub mod numbered;
pub mod proxy;
pub mod script;
pub mod scripted;
#[cfg(target_os = "linux")]
pub mod server_process;
pub mod stores;
#[cfg(target_os = "linux")]
pub mod stress;
#[cfg(target_os = "linux")]
pub mod terminal;
#[cfg(target_os = "linux")]
pub mod tools;

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    path::PathBuf,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use futures_lite::future;
use keywire::{
    Error, Handle, Server, Stats, async_net,
    store::{Memory, Store},
};

/// How long a test waits for something that has to come. Only a failure takes as long.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A listener on a free port of the loopback, and its address.
pub fn loopback() -> (async_net::TcpListener, SocketAddr) {
    let listener = future::block_on(keywire::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Whether a call failed because its connection had ended before anything was sent.
pub fn is_unsent(error: &Error) -> bool {
    matches!(error, Error::NotSent(why) if matches!(**why, Error::Disconnected(_)))
}

/// A server that listens on a free port of the loopback.
pub struct TestServer<S: Store = Memory> {
    pub address: SocketAddr,
    pub handle: Handle,
    serving: Option<JoinHandle<S>>,
}

impl<S: Store> TestServer<S> {
    /// Polls the server on a thread of its own.
    pub fn start(server: Server<S>) -> Self {
        Self::polled_by(server, |server| {
            thread::spawn(|| smol::block_on(server.run()))
        })
    }

    pub fn polled_by(mut server: Server<S>, run: impl FnOnce(Server<S>) -> JoinHandle<S>) -> Self {
        let (listener, address) = loopback();
        server.listen(listener);
        let handle = server.handle();
        Self {
            address,
            handle,
            serving: Some(run(server)),
        }
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// Waits until both counts are right.
    pub fn await_counts(&self, active: u64, dropped: u64) {
        wait_until("the counts are right", || {
            let stats = self.handle.stats();
            (stats.active, stats.dropped) == (active, dropped)
        });
    }

    /// Shuts down with this grace and gives back the store.
    pub fn stop(mut self, grace: Duration) -> S {
        future::block_on(self.handle.shutdown(grace));
        self.serving.take().unwrap().join().unwrap()
    }
}

impl<S: Store> Drop for TestServer<S> {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.take() {
            future::block_on(self.handle.shutdown(Duration::ZERO));
            if !thread::panicking() {
                serving.join().unwrap();
            }
        }
    }
}

/// The server is fed the commands whole, then in two pieces, cut at every offset.
pub fn transcript(server: impl Fn() -> Server, commands: &[u8], replies: &str) {
    for cut in 0..=commands.len() {
        let (first, second) = commands.split_at(cut);
        let (output, _) = script::converse(server(), [first, second]);
        let output = String::from_utf8_lossy(&output);
        assert_eq!(output, replies, "cut at {cut}");
    }
    let (output, _) = script::converse(server(), commands.chunks(1));
    assert_eq!(String::from_utf8_lossy(&output), replies, "byte by byte");
}

/// The resident memory of this process.
#[cfg(target_os = "linux")]
pub fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

/// Raises the limit of open files to so many, or as far as the system lets it.
#[cfg_attr(not(unix), allow(unused_variables))]
pub fn allow_files(files: u64) {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        let files = limit.maximum.map_or(files, |maximum| files.min(maximum));
        if limit.current.is_some_and(|current| current < files) {
            limit.current = Some(files);
            setrlimit(Resource::Nofile, limit).unwrap();
        }
    }
}

/// An example program, which `cargo test` has built.
pub fn example(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push(format!("examples/{name}"));
    assert!(path.exists(), "first run: cargo build --examples");
    path
}

/// Looks again and again until it is so. For what has no event to wait for, such as a count.
pub fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < DEADLINE, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A answering client. Every wait has a deadline; every failure is a panic.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        Self::of(TcpStream::connect(address).unwrap())
    }

    pub fn of(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self {
            stream: BufReader::with_capacity(64 * 1024, stream),
        }
    }

    pub fn stream(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    pub fn reader(&mut self) -> &mut BufReader<TcpStream> {
        &mut self.stream
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// The next line, without its LF; `None` at the end of the stream.
    pub fn line(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).unwrap();
        match line.pop() {
            Some(b'\n') => Some(line),
            Some(_) => panic!("the stream ended within a line"),
            None => None,
        }
    }

    /// The next line, as text.
    pub fn text(&mut self) -> String {
        String::from_utf8(self.line().expect("one more line")).unwrap()
    }

    /// So many lines, as text.
    pub fn texts(&mut self, lines: usize) -> Vec<String> {
        (0..lines).map(|_| self.text()).collect()
    }

    /// What stands behind `:sync:` in the next line.
    pub fn sync_reply(&mut self) -> String {
        let line = self.text();
        line.strip_prefix(":sync:").expect(&line).to_owned()
    }

    /// Sends a Sync, and gives what came before its reply, and the number of lines dropped.
    pub fn sync(&mut self) -> (Vec<Vec<u8>>, u64) {
        self.send("Sync:fence\n");
        self.read_to_sync()
    }

    /// Reads up to the reply of a Sync that has been sent.
    pub fn read_to_sync(&mut self) -> (Vec<Vec<u8>>, u64) {
        let mut lines = Vec::new();
        loop {
            let line = self.line().expect("the reply to a Sync");
            match line.strip_prefix(b":sync:") {
                Some(rest) => {
                    let number = rest.split(|&byte| byte == b':').next().unwrap();
                    let number = std::str::from_utf8(number).unwrap().parse().unwrap();
                    return (lines, number);
                }
                None => lines.push(line),
            }
        }
    }

    /// The server's counters, where no other reply is on its way.
    pub fn stats(&mut self) -> Stats {
        self.send("Stats\n");
        let line = self.text();
        Stats::parse(line.strip_prefix(":stats:").expect(&line).as_bytes()).unwrap()
    }

    /// Says that no more commands will come.
    pub fn half_close(&self) {
        self.stream().shutdown(Shutdown::Write).unwrap();
    }

    /// Sends no more and reads everything.
    pub fn end(mut self) -> Vec<u8> {
        self.half_close();
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).unwrap();
        rest
    }

    /// Says this, and leaves once it is applied.
    pub fn end_with(mut self, bytes: impl AsRef<[u8]>) {
        self.send(bytes);
        self.sync();
    }

    /// Waits for the server to hang up, one way or the other.
    pub fn await_hang_up(mut self) {
        match io::copy(&mut self.stream, &mut io::sink()) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        }
    }

    /// Hangs up with a reset.
    pub fn reset(self) {
        let socket = socket2::SockRef::from(self.stream());
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
}
