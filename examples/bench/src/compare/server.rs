//! The contestants as processes: started on a free port, killed when they are dropped.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::process::CommandExt as _,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    compare::{
        cores,
        programs::{Kind, OTHER_FILES, Programs},
    },
    connect::{self, PATIENCE, Target},
    cpu::Process,
    fill,
    work::Work,
};

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) target: Target,
    pub(crate) process: Process,
    child: Child,
    started: Instant,
    /// Where its data is, if it is durable.
    data: Option<TempDir>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    fn kill(&mut self) {
        // It may have ended by itself, and then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts a server for so many clients and waits until it answers.
    pub(crate) fn start(
        programs: &Programs,
        kind: Kind,
        cores: &[usize],
        clients: usize,
    ) -> Result<Server, String> {
        let data = match kind.is_durable() {
            true => Some(programs.disk()?.directory()?),
            false => None,
        };
        Server::spawn(programs, kind, cores, clients, data)
    }

    /// Kills the server, starts another with the same data and tells how long it took, from then on,
    /// until the data was served. One client is enough for that.
    pub(crate) fn restart(&mut self, programs: &Programs, work: &Work) -> Result<Duration, String> {
        self.kill();
        let data = self.data.take();
        *self = Server::spawn(programs, self.kind, cores::SERVER, 1, data)?;
        fill::wait_until_loaded(&self.target, work)?;
        Ok(self.started.elapsed())
    }

    fn spawn(
        programs: &Programs,
        kind: Kind,
        cores: &[usize],
        clients: usize,
        data: Option<TempDir>,
    ) -> Result<Server, String> {
        let failed = |error: &dyn ToString| {
            let error = error.to_string();
            format!("can't start {}: {error}", kind.name())
        };
        // The server inherits our limit.
        connect::allow_sockets(clients + OTHER_FILES)?;
        let port = free_port().map_err(|error| failed(&error))?;
        let mut command =
            programs.command(kind, port, clients, data.as_ref().map(TempDir::path))?;
        command
            // Some of them end with their input.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // Ctrl-C is for us: we end the servers when the round is done.
            .process_group(0);

        // Where this can't be done it has been said, and the servers run wherever they may.
        let _ = cores::pin(cores);
        let started = Instant::now();
        let child = command.spawn();
        let _ = cores::pin(cores::LOAD);
        let child = child.map_err(|error| failed(&error))?;
        let mut server = Server {
            kind,
            target: Target::Tcp((Ipv4Addr::LOCALHOST, port).into()),
            process: Process { id: child.id() },
            child,
            started,
            data,
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
                Err(_) => thread::sleep(Duration::from_millis(2)),
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

    /// A figure that a keywire server tells of itself.
    pub(crate) fn stat(&self, name: &str) -> Result<u64, String> {
        let ask = || -> io::Result<String> {
            let mut socket = self.target.open()?;
            socket.write_all(b"Stats\n")?;
            let mut line = String::new();
            BufReader::new(socket).read_line(&mut line)?;
            Ok(line)
        };
        let line = ask().map_err(|error| format!("no statistics: {error}"))?;
        line.trim_end()
            .strip_prefix(":stats:")
            .and_then(|rest| {
                let mut figures = rest.split(' ').filter_map(|figure| figure.split_once('='));
                figures.find(|(it, _)| *it == name)?.1.parse().ok()
            })
            .ok_or_else(|| format!("no {name} in the statistics: {}", line.escape_debug()))
    }

    /// Clients that a keywire server has, the one that asks left out.
    fn active(&self) -> Result<u64, String> {
        Ok(self.stat("active")?.saturating_sub(1))
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
