//! The contestants as processes: started on a free port, killed when they are dropped.

use std::{
    env,
    ffi::OsStr,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    compare::{cores, kevy::Kevy},
    connect::{self, PATIENCE, Target},
    cpu::Process,
};

/// Files that a server has open besides its clients, and clients of the turn before that it has
/// not yet seen go.
const OTHER_FILES: usize = 200;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Keywire {
        threads: usize,
    },
    /// The example for tokio, with tokio's own number of threads.
    Tokio,
    /// The example for async-std.
    AsyncStd,
    Redis,
    Kevy,
}

impl Kind {
    pub(crate) const KEYWIRE: Kind = Kind::Keywire { threads: 1 };

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Keywire { .. } => "keywire",
            Kind::Tokio => "keywire on tokio",
            Kind::AsyncStd => "keywire on async-std",
            Kind::Redis => "Redis",
            Kind::Kevy => "kevy",
        }
    }
}

/// Where the programs are.
#[derive(Debug)]
pub(crate) struct Programs {
    keywire: PathBuf,
    redis: Option<PathBuf>,
    /// What Redis calls itself, with its version.
    pub(crate) version: String,
    /// Or why it is not there; `None` if nobody wants it.
    kevy: Option<Result<Kevy, String>>,
    /// Has a child killed when we are.
    setpriv: Option<PathBuf>,
}

impl Programs {
    /// kevy is looked for, and installed, only if it is wanted.
    pub(crate) fn find(keywire: Option<&Path>, kevy: bool) -> Result<Programs, String> {
        let keywire = match keywire {
            Some(path) => path.to_owned(),
            None => env::current_exe()
                .map_err(|error| format!("can't find the example server: {error}"))?
                .with_file_name("examples/server"),
        };
        if !keywire.is_file() {
            return Err(format!(
                "there is no {}; `cargo build --profile fast --examples` makes it",
                keywire.display()
            ));
        }
        let redis = installed("redis-server");
        Ok(Programs {
            keywire,
            version: redis.as_deref().and_then(version).unwrap_or("Redis".into()),
            kevy: kevy.then(Kevy::find_or_install),
            redis,
            setpriv: installed("setpriv"),
        })
    }

    /// What will not be as it should be.
    pub(crate) fn lacks(&self) -> Vec<String> {
        let redis = "redis-server is not installed: its rows are left out";
        let setpriv = "setpriv is not installed: if this program is killed, its servers live on";
        let kevy = |error| {
            format!(
                "{} is not there: {error}; its rows are left out",
                Kevy::NAME
            )
        };
        let lacks = [
            self.redis.is_none().then(|| redis.into()),
            self.kevy
                .as_ref()
                .and_then(|it| it.as_ref().err())
                .map(kevy),
            self.setpriv.is_none().then(|| setpriv.into()),
        ];
        lacks.into_iter().flatten().collect()
    }

    fn kevy(&self) -> Result<&Kevy, String> {
        match &self.kevy {
            Some(kevy) => kevy.as_ref().map_err(Clone::clone),
            None => Err("kevy was not wanted".into()),
        }
    }

    /// Those of others that can be started.
    pub(crate) fn peers(&self) -> Vec<Kind> {
        let redis = self.redis.is_some().then_some(Kind::Redis);
        let kevy = self.kevy().is_ok().then_some(Kind::Kevy);
        redis.into_iter().chain(kevy).collect()
    }

    fn command(&self, kind: Kind, port: u16, clients: usize) -> Result<Command, String> {
        let program = match kind {
            Kind::Keywire { .. } => self.keywire.clone(),
            Kind::Tokio => self.keywire.with_file_name("tokio"),
            Kind::AsyncStd => self.keywire.with_file_name("async_std"),
            Kind::Redis => self.redis.clone().ok_or("redis-server is not installed")?,
            Kind::Kevy => self.kevy()?.program.clone(),
        };
        let mut command = match &self.setpriv {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        match kind {
            Kind::Keywire { threads } => command
                .args(["--listen", &format!("127.0.0.1:{port}")])
                .args(["--threads", &threads.to_string()]),
            Kind::Tokio | Kind::AsyncStd => command.arg(format!("127.0.0.1:{port}")),
            Kind::Redis => command
                .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
                .args(["--save", "", "--appendonly", "no"])
                // Its protection is from clients of any address but 127.0.0.1, not all of 127/8.
                .args(["--protected-mode", "no"])
                // Its queue of new connections is shorter than ours by default.
                .args(["--tcp-backlog", "4096"])
                .args(["--maxclients", &(clients + OTHER_FILES).to_string()]),
            Kind::Kevy => command
                .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
                .args(["--threads", "1", "--no-aof", "--dir"])
                .arg(&self.kevy()?.folder)
                // It says how it was started.
                .stderr(Stdio::null()),
        };
        Ok(command)
    }
}

fn installed(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(OsStr::new(name)))
        .find(|file| file.is_file())
}

/// From "Redis server v=7.0.15 sha=...", or the like of its descendants.
fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut words = text.split_ascii_whitespace();
    let name = words.next()?;
    let number = words.find_map(|word| word.strip_prefix("v="))?;
    Some(format!("{name} {number}"))
}

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) target: Target,
    pub(crate) process: Process,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, and then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts a server for so many clients and waits until it answers.
    pub(crate) fn start(
        programs: &Programs,
        kind: Kind,
        cores: &[usize],
        clients: usize,
    ) -> Result<Server, String> {
        let failed = |error: &dyn ToString| {
            let error = error.to_string();
            format!("can't start {}: {error}", kind.name())
        };
        // The server inherits our limit.
        connect::allow_sockets(clients + OTHER_FILES)?;
        let port = free_port().map_err(|error| failed(&error))?;
        let mut command = programs.command(kind, port, clients)?;
        command
            // Some of them end with their input.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // Ctrl-C is for us: we end the servers when the round is done.
            .process_group(0);

        // Where this can't be done it has been said, and the servers run wherever they may.
        let _ = cores::pin(cores);
        let child = command.spawn();
        let _ = cores::pin(cores::LOAD);
        let child = child.map_err(|error| failed(&error))?;
        let mut server = Server {
            kind,
            target: Target::Tcp((Ipv4Addr::LOCALHOST, port).into()),
            process: Process { id: child.id() },
            child,
        };
        server.answers().map_err(|error| failed(&error))?;
        Ok(server)
    }

    fn answers(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("it ended at once ({status})"));
            }
            match self.target.open() {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error.to_string()),
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Waits until the server has nothing to do: what is left over from one turn would be at the
    /// cost of the next, which is perhaps another's on the same core.
    pub(crate) fn settle(&self) {
        let deadline = Instant::now() + PATIENCE;
        let mut before = self.process.time();
        loop {
            thread::sleep(Duration::from_millis(60));
            let now = self.process.time();
            if now == before || Instant::now() > deadline {
                return;
            }
            before = now;
        }
    }

    /// Clients that a keywire server has, the one that asks left out.
    pub(crate) fn active(&self) -> Result<u64, String> {
        let ask = || -> io::Result<String> {
            let mut socket = self.target.open()?;
            socket.write_all(b"Stats\n")?;
            let mut line = String::new();
            BufReader::new(socket).read_line(&mut line)?;
            Ok(line)
        };
        let line = ask().map_err(|error| format!("no statistics: {error}"))?;
        line.strip_prefix(":stats:active=")
            .and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok()?.checked_sub(1))
            .ok_or_else(|| format!("no statistics: {}", line.escape_debug()))
    }

    /// Waits until a keywire server has so many clients.
    pub(crate) fn has_active(&self, clients: u64) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.active()? {
                active if active == clients => return Ok(()),
                active if Instant::now() > deadline => {
                    return Err(format!("{active} clients are active instead of {clients}"));
                }
                _ => thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

/// A port that nobody had a moment ago.
fn free_port() -> io::Result<u16> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Ok(TcpListener::bind(any)?.local_addr()?.port())
}
