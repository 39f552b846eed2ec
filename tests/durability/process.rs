//! The server as a process, its directory, and connections to it.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

/// How long a test waits for what has to come.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// The lists of all keys.
pub(crate) type Lists = BTreeMap<String, Vec<String>>;

/// A directory that is removed at the end, unless the test fails.
pub(crate) struct Directory(PathBuf);

impl Directory {
    /// One that does not exist yet, on a disk.
    pub(crate) fn new() -> Self {
        Self::below(env!("CARGO_TARGET_TMPDIR"))
    }

    /// One that does not exist yet, in memory if the system has a place for that: processes that are
    /// killed leave the same there.
    pub(crate) fn in_memory() -> Self {
        let memory = "/dev/shm";
        let there = Path::new(memory).is_dir();
        Self::below(if there {
            memory
        } else {
            env!("CARGO_TARGET_TMPDIR")
        })
    }

    pub(crate) fn below(parent: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("keywire-data-{}-{number}", std::process::id());
        let path = Path::new(parent).join(name);
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn copy(&self) -> Self {
        let copy = Self::new();
        copy_all(&self.0, &copy.0);
        copy
    }

    /// All files with their sizes, below the directory.
    pub(crate) fn files(&self) -> Vec<(PathBuf, u64)> {
        let mut files = Vec::new();
        collect(&self.0, &mut files);
        files.sort();
        files
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the directory is kept: {}", self.0.display());
        } else {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// Copies a directory. Files keep their holes.
pub(crate) fn copy_all(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    let command = command.arg("-r").arg("--sparse=always").arg(from).arg(to);
    assert!(command.status().unwrap().success());
}

fn collect(directory: &Path, files: &mut Vec<(PathBuf, u64)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => collect(&entry.path(), files),
            Ok(metadata) => files.push((entry.path(), metadata.len())),
            // The server has just removed it.
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound),
        }
    }
}

/// A server that is killed at the end.
pub(crate) struct Process {
    child: Child,
    /// It ends when this is closed.
    input: Option<ChildStdin>,
    address: String,
}

/// The server's command.
pub(crate) fn server(directory: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_durable-server"));
    command.arg(directory).args(options);
    command
}

/// The server's command, behind another one that runs it.
pub(crate) fn behind(wrapper: &[&str], directory: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(wrapper[0]);
    command.args(&wrapper[1..]);
    command.arg(env!("CARGO_BIN_EXE_durable-server"));
    command.arg(directory).args(options);
    command
}

/// Starts it, and does not wait until it listens.
pub(crate) fn spawn(command: &mut Command) -> Child {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

impl Process {
    pub(crate) fn start(directory: &Path, options: &[&str]) -> Self {
        Self::of(&mut server(directory, options)).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Gives what it said on its standard error if it does not serve.
    pub(crate) fn of(command: &mut Command) -> Result<Self, String> {
        let mut child = spawn(command);
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let Some(address) = line.strip_prefix("listening on ") else {
            let mut error = String::new();
            let mut stderr = child.stderr.take().unwrap();
            stderr.read_to_string(&mut error).unwrap();
            let status = child.wait().unwrap();
            return Err(format!("{error}({status})"));
        };
        Ok(Self {
            input: child.stdin.take(),
            address: address.trim().to_owned(),
            child,
        })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::to(&self.address).unwrap()
    }

    /// With a signal that it can't catch.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end after a shutdown.
    pub(crate) fn stop(mut self) {
        self.input = None;
        let began = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < DEADLINE, "the server does not end");
            thread::sleep(Duration::from_millis(1));
        }
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that sees errors, since the server may be gone at any moment.
pub(crate) struct Connection(BufReader<TcpStream>);

impl Connection {
    pub(crate) fn to(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Self(BufReader::new(stream)))
    }

    pub(crate) fn send(&mut self, lines: &str) -> io::Result<()> {
        self.0.get_mut().write_all(lines.as_bytes())
    }

    /// The next line without its LF.
    pub(crate) fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("no reply"),
            read => read?,
        };
        match line.pop() {
            Some('\n') => Ok(line),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The lines up to the reply of the Sync with this token.
    pub(crate) fn read_to_sync(&mut self, token: usize) -> io::Result<Vec<String>> {
        let end = format!(":sync:0:{token}");
        let mut lines = Vec::new();
        loop {
            match self.line()? {
                line if line == end => return Ok(lines),
                line if line.contains(":closing:") => {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                line => lines.push(line),
            }
        }
    }

    /// Sends these lines, and gives their replies.
    pub(crate) fn ask(&mut self, lines: &str) -> Vec<String> {
        self.send(&format!("{lines}Sync:0\n")).unwrap();
        self.read_to_sync(0).unwrap()
    }

    /// All lists of the server.
    pub(crate) fn lists(&mut self) -> Lists {
        to_lists(&self.ask("GetPrefix:\n"))
    }

    /// A counter of the server.
    pub(crate) fn counter(&mut self, name: &str) -> u64 {
        let line = self.ask("Stats\n").pop().unwrap();
        let prefix = format!("{name}=");
        let counter = line
            .split(' ')
            .find_map(|counter| counter.strip_prefix(&prefix));
        counter.expect(&line).parse().unwrap()
    }
}

/// Lines of data as lists.
pub(crate) fn to_lists(lines: &[String]) -> Lists {
    let mut lists = Lists::new();
    for line in lines {
        assert!(!line.starts_with(':'), "{line}");
        let (key, value) = line.split_once(':').unwrap();
        lists.entry(key.into()).or_default().push(value.into());
    }
    lists
}
