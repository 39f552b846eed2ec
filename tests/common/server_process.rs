//! The example server as a process of its own, and what the system knows of it.

use std::{
    fs,
    io::{BufRead, BufReader, Read as _},
    process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio},
    time::Duration,
};

use super::{Client, example, wait_until};

/// What processor time is counted in here: a hundredth of a second, on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// A server that is killed where the test ends before it.
pub struct ServerProcess {
    pub child: Child,
    pub output: BufReader<ChildStdout>,
    /// Several are joined by " and ".
    pub address: String,
}

impl ServerProcess {
    pub fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(example("server"));
        Self::spawn(command.args(arguments))
    }

    /// On a free port of the loopback, with so many descriptors at the most.
    pub fn with_files(files: usize, arguments: &[&str]) -> Self {
        let mut command = Command::new("sh");
        let script = format!("ulimit -S -n {files} && exec \"$0\" --listen 127.0.0.1:0 \"$@\"");
        let command = command.arg("-c").arg(script).arg(example("server"));
        Self::spawn(command.args(arguments))
    }

    pub fn spawn(command: &mut Command) -> Self {
        // What is in its log all the time would hide what is wrong.
        if command.get_envs().all(|(name, _)| name != "KEYWIRE_LOG") {
            command.env("KEYWIRE_LOG", "error");
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let rest = line.strip_prefix("keywire listens on ").expect(&line);
        let address = rest.split(',').next().unwrap().to_owned();
        Self {
            child,
            output,
            address,
        }
    }

    /// With its log, down to this level.
    pub fn with_log(level: &str, command: &mut Command) -> (Self, BufReader<ChildStderr>) {
        let mut server = Self::spawn(command.env("KEYWIRE_LOG", level).stderr(Stdio::piped()));
        let log = server.child.stderr.take().unwrap();
        (server, BufReader::new(log))
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.address.parse().unwrap())
    }

    pub fn signal(&self, signal: &str) {
        signal_to(&self.child, signal);
    }

    /// Waits for the end; gives what it printed meanwhile.
    pub fn wait(&mut self) -> (ExitStatus, String) {
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap(), rest)
    }

    /// Its resident memory now.
    pub fn resident(&self) -> usize {
        self.status("VmRSS:") * 1024
    }

    /// The most resident memory that it ever had.
    pub fn peak(&self) -> usize {
        self.status("VmHWM:") * 1024
    }

    pub fn threads(&self) -> usize {
        self.status("Threads:")
    }

    pub fn descriptors(&self) -> usize {
        fs::read_dir(self.about("fd")).unwrap().count()
    }

    /// The processor time that it has used.
    pub fn cpu_time(&self) -> Duration {
        let fields = stat(&self.child);
        let ticks = |at: usize| fields[at].parse::<u32>().unwrap();
        TICK * (ticks(11) + ticks(12))
    }

    fn status(&self, name: &str) -> usize {
        let status = fs::read_to_string(self.about("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn about(&self, what: &str) -> String {
        format!("/proc/{}/{what}", self.child.id())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The next line of a log that has these words.
#[track_caller]
pub fn find_line(log: &mut impl BufRead, words: &str) -> String {
    let mut lines = log.lines().map(Result::unwrap);
    lines.find(|line| line.contains(words)).expect(words)
}

/// What a server says that can't start, and its exit code. Nothing else has been said, and nothing
/// has panicked.
#[track_caller]
pub fn refused(command: &mut Command) -> (i32, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.starts_with("error: "), "{words}");
    assert!(!words.contains("panicked"), "{words}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
    (output.status.code().unwrap(), words)
}

/// Waits for its end, whether or not anyone reads what it prints.
pub fn wait_for(child: &mut Child) -> ExitStatus {
    let mut status = None;
    wait_until("the process ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

/// Sends a signal, by its name with a dash.
pub fn signal_to(child: &Child, signal: &str) {
    let mut kill = Command::new("kill");
    let status = kill.arg(signal).arg(child.id().to_string()).status();
    assert!(status.unwrap().success());
}

/// Whether a signal has stopped it.
pub fn is_stopped(child: &Child) -> bool {
    stat(child)[0] == "T"
}

/// What stands behind the name in the system's line on a process, which begins with its state.
fn stat(child: &Child) -> Vec<String> {
    let line = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    // The name stands in brackets, and may hold some itself.
    let (_, fields) = line.rsplit_once(") ").unwrap();
    fields.split(' ').map(str::to_owned).collect()
}
