//! A real cluster: masters and their replicas as processes on the loopback, in a temporary directory.
//!
//! A process of its own, the guard, waits for the end of its input, which is the end of the test
//! process, however that comes; then it kills the nodes and removes the directory.

use std::{
    collections::BTreeMap,
    env, fs, io,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Condvar, Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    common::{server_process::signal_to, wait_until},
    resp::{Resp, Value},
    servers::{Bound, within},
};

const SLOTS: u16 = 16384;

/// When a node counts as gone, in ms.
pub(crate) const NODE_TIMEOUT: Duration = Duration::from_millis(1500);

/// Below what systems use for the ports of outgoing connections: a node that comes back finds its
/// port free.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// How a cluster is set up.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) masters: usize,
    /// Replicas of each master.
    pub(crate) replicas: usize,
    /// Settings of `redis.conf`, for all nodes.
    pub(crate) settings: Vec<(&'static str, &'static str)>,
    /// What clients and nodes have to say.
    pub(crate) secret: Option<&'static str>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            masters: 3,
            replicas: 1,
            settings: Vec::new(),
            secret: None,
        }
    }
}

impl Setup {
    pub(crate) fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.settings.push((name, value));
        self
    }

    /// Writes are on the disk before they are answered, and no replica takes over.
    pub(crate) fn durable() -> Self {
        Self::default()
            .with("appendonly", "yes")
            .with("appendfsync", "always")
            .with("cluster-replica-no-failover", "yes")
    }
}

/// One node, running or not.
struct Node {
    port: u16,
    bus: u16,
    directory: PathBuf,
    process: Mutex<Option<Child>>,
}

/// A cluster of nodes. Masters come first, as it begins.
pub(crate) struct Nodes {
    setup: Setup,
    nodes: Vec<Node>,
    directory: PathBuf,
    guard: Child,
}

/// A cluster for the tests that leave it as it was. Each has names of its own on it.
pub(crate) fn shared() -> &'static Nodes {
    static SHARED: OnceLock<Nodes> = OnceLock::new();
    SHARED.get_or_init(|| Nodes::start(Setup::default()))
}

/// So many clusters that tests break are there at a time: most of the time they wait, for others to miss
/// a node.
const EXCLUSIVE: usize = 2;

static IN_USE: Mutex<usize> = Mutex::new(0);
static ONE_ENDS: Condvar = Condvar::new();

/// One of these.
pub(crate) struct Exclusive {
    nodes: Nodes,
    _bound: Bound,
    // The last to go.
    _turn: Turn,
}

struct Turn;

impl Drop for Turn {
    fn drop(&mut self) {
        *IN_USE.lock().unwrap() -= 1;
        ONE_ENDS.notify_one();
    }
}

impl std::ops::Deref for Exclusive {
    type Target = Nodes;

    fn deref(&self) -> &Nodes {
        &self.nodes
    }
}

/// A cluster for one test, which has a minute with it.
pub(crate) fn exclusive(setup: Setup) -> Exclusive {
    let in_use = IN_USE.lock().unwrap();
    let is_full = |in_use: &mut usize| *in_use == EXCLUSIVE;
    *ONE_ENDS.wait_while(in_use, is_full).unwrap() += 1;
    let turn = Turn;
    Exclusive {
        _bound: within(60),
        nodes: Nodes::start(setup),
        _turn: turn,
    }
}

/// The program of a node: `$REDIS_SERVER`, or what is installed.
fn program() -> String {
    let is_there = |program: &str| {
        let mut command = Command::new(program);
        let command = command.arg("--version").stdout(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if let Ok(program) = env::var("REDIS_SERVER") {
        assert!(is_there(&program), "REDIS_SERVER={program} does not run");
        return program;
    }
    let program = ["valkey-server", "redis-server"]
        .into_iter()
        .find(|program| is_there(program));
    let missing = "no redis-server and no valkey-server is installed, and these tests want one \
                   (Debian: apt-get install redis-server)";
    program.expect(missing).to_owned()
}

/// Two ports that nobody listens on.
fn free_ports() -> (u16, u16) {
    let mut found = Vec::new();
    while found.len() < 2 {
        let port = fastrand::u16(PORTS);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            found.push(listener);
        }
    }
    let port = |index: usize| found[index].local_addr().unwrap().port();
    (port(0), port(1))
}

impl Nodes {
    pub(crate) fn start(setup: Setup) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let program = program();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("keywire-cluster-{}-{number}", std::process::id());
        let directory = env::temp_dir().join(name);
        fs::create_dir(&directory).unwrap();
        let guard = guard(&directory);
        // Dropped if anything below fails.
        let mut cluster = Self {
            nodes: Vec::new(),
            setup,
            directory,
            guard,
        };
        for index in 0..cluster.setup.masters * (1 + cluster.setup.replicas) {
            let node = cluster.new_node(&program, index);
            cluster.nodes.push(node);
        }
        cluster.join();
        cluster.wait_ok();
        cluster
    }

    fn new_node(&self, program: &str, index: usize) -> Node {
        let directory = self.directory.join(index.to_string());
        fs::create_dir(&directory).unwrap();
        // Another process may take a port before the node does.
        for _ in 0..10 {
            let (port, bus) = free_ports();
            let node = Node {
                port,
                bus,
                directory: directory.clone(),
                process: Mutex::new(None),
            };
            self.configure(&node);
            *node.process.lock().unwrap() = Some(spawn(program, &directory));
            if self.await_listening(&node) {
                return node;
            }
        }
        let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
        panic!("{program} does not start:\n{log}");
    }

    fn configure(&self, node: &Node) {
        let place = node.directory.display();
        let mut settings: Vec<(&str, String)> = [
            ("bind", "127.0.0.1"),
            ("protected-mode", "no"),
            ("daemonize", "no"),
            ("cluster-enabled", "yes"),
            ("cluster-config-file", "nodes.conf"),
            ("cluster-allow-replica-migration", "no"),
            ("save", "\"\""),
            ("appendonly", "no"),
            ("repl-diskless-sync-delay", "0"),
            ("repl-diskless-load", "swapdb"),
        ]
        .map(|(name, value)| (name, value.to_owned()))
        .to_vec();
        settings.extend([
            ("port", node.port.to_string()),
            ("cluster-port", node.bus.to_string()),
            ("cluster-node-timeout", NODE_TIMEOUT.as_millis().to_string()),
            ("dir", place.to_string()),
            ("pidfile", format!("{place}/pid")),
            ("logfile", format!("{place}/log")),
        ]);
        if let Some(secret) = self.setup.secret {
            settings.push(("requirepass", secret.into()));
            settings.push(("masterauth", secret.into()));
        }
        for &(name, value) in &self.setup.settings {
            settings.retain(|&(other, _)| other != name);
            settings.push((name, value.into()));
        }
        let lines = settings
            .iter()
            .map(|(name, value)| format!("{name} {value}\n"));
        fs::write(
            node.directory.join("redis.conf"),
            lines.collect::<String>(),
        )
        .unwrap();
    }

    /// `false` if it has ended.
    fn await_listening(&self, node: &Node) -> bool {
        let mut ended = false;
        wait_until("a node listens", || {
            let mut process = node.process.lock().unwrap();
            ended = process.as_mut().unwrap().try_wait().unwrap().is_some();
            drop(process);
            // A node that is loading says so, and listens.
            let answers = || match self.ping(node) {
                Ok(_) => true,
                Err(error) => error.kind() == io::ErrorKind::Other,
            };
            ended || answers()
        });
        !ended
    }

    fn ping(&self, node: &Node) -> io::Result<Value> {
        Resp::connect(node.port, self.setup.secret)?.ask(["PING"])
    }

    /// Makes one cluster of the nodes.
    fn join(&self) {
        let masters = self.setup.masters;
        let range = |index: usize| {
            let at = |index: usize| usize::from(SLOTS) * index / masters;
            at(index)..at(index + 1)
        };
        let (port, bus) = (self.nodes[0].port.to_string(), self.nodes[0].bus.to_string());
        for index in 0..self.nodes.len() {
            let epoch = (index + 1).to_string();
            self.ask(index, ["CLUSTER", "SET-CONFIG-EPOCH", &epoch]);
            if index > 0 {
                self.ask(index, ["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
            }
            if index < masters {
                let slots = range(index).map(|slot| slot.to_string());
                let words = ["CLUSTER".into(), "ADDSLOTS".into()].into_iter().chain(slots);
                self.ask(index, words);
            }
        }
        let ids: Vec<String> = (0..masters).map(|index| self.id(index)).collect();
        for index in masters..self.nodes.len() {
            let master = &ids[index % masters];
            wait_until("a replica knows its master", || {
                let mut connection = self.connect(index).unwrap();
                connection.ask(["CLUSTER", "REPLICATE", master]).is_ok()
            });
        }
    }

    /// Waits until all nodes that run say that the cluster is well, agree on who is who, and replicas
    /// have their masters' data.
    pub(crate) fn wait_ok(&self) {
        let began = Instant::now();
        let mut trouble = String::new();
        while let Err(error) = self.check() {
            trouble = error;
            assert!(
                began.elapsed() < Duration::from_secs(40),
                "the cluster is not well: {trouble}"
            );
            thread::sleep(Duration::from_millis(20));
        }
        drop(trouble);
    }

    fn check(&self) -> Result<(), String> {
        let mut maps = Vec::new();
        for index in self.running() {
            let trouble = |what: &str| format!("node {index}: {what}");
            let mut connection = self.connect(index).map_err(|_| trouble("no connection"))?;
            let mut ask = |words: &[&str]| {
                let reply = connection.ask(words);
                reply.map_err(|error| trouble(&error.to_string()))
            };
            let info = ask(&["CLUSTER", "INFO"])?.text();
            if !info.contains("cluster_state:ok") || !info.contains("cluster_slots_ok:16384") {
                return Err(trouble(&info));
            }
            let replication = ask(&["INFO", "replication"])?.text();
            if replication.contains("role:slave") && !replication.contains("master_link_status:up")
            {
                return Err(trouble(&replication));
            }
            let map = ask(&["CLUSTER", "SLOTS"])?;
            let mut ranges: Vec<(i64, i64, i64, usize)> = Vec::new();
            for range in map.array() {
                let range = range.array();
                let port = range[2].array()[1].integer();
                ranges.push((range[0].integer(), range[1].integer(), port, range.len() - 3));
            }
            ranges.sort_unstable();
            maps.push(ranges);
        }
        let replicas = self.setup.masters * self.setup.replicas;
        let all_run = self.running().len() == self.nodes.len();
        let known = |map: &Vec<(i64, i64, i64, usize)>| {
            let masters: BTreeMap<_, _> = map.iter().map(|range| (range.2, range.3)).collect();
            masters.values().sum::<usize>()
        };
        match maps.windows(2).find(|two| two[0] != two[1]) {
            Some(two) => Err(format!("nodes differ: {two:?}")),
            None if all_run && maps.iter().any(|map| known(map) < replicas) => {
                Err("a replica is not known".into())
            }
            None => Ok(()),
        }
    }

    fn running(&self) -> Vec<usize> {
        let runs = |&index: &usize| self.nodes[index].process.lock().unwrap().is_some();
        (0..self.nodes.len()).filter(runs).collect()
    }

    /// `HOST:PORT` of each node.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let address = |node: &Node| format!("127.0.0.1:{}", node.port);
        self.nodes.iter().map(address).collect()
    }

    pub(crate) fn port(&self, index: usize) -> u16 {
        self.nodes[index].port
    }

    pub(crate) fn masters(&self) -> usize {
        self.setup.masters
    }

    /// The number of nodes.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn connect(&self, index: usize) -> io::Result<Resp> {
        Resp::connect(self.nodes[index].port, self.setup.secret)
    }

    /// The reply of a node that has to give one.
    #[track_caller]
    pub(crate) fn ask<A: AsRef<[u8]>>(
        &self,
        index: usize,
        words: impl IntoIterator<Item = A>,
    ) -> Value {
        let mut connection = self.connect(index).unwrap();
        connection.ask(words).unwrap()
    }

    pub(crate) fn id(&self, index: usize) -> String {
        self.ask(index, ["CLUSTER", "MYID"]).text()
    }

    /// The master of this slot, by what a running node says.
    pub(crate) fn owner(&self, slot: u16) -> usize {
        let running = self.running();
        let mut answers = running.iter().filter_map(|&index| {
            let mut connection = self.connect(index).ok()?;
            connection.ask(["CLUSTER", "SLOTS"]).ok()
        });
        let map = answers.next().expect("a node that answers");
        let slot = i64::from(slot);
        for range in map.array() {
            let range = range.array();
            if (range[0].integer()..=range[1].integer()).contains(&slot) {
                let port = range[2].array()[1].integer();
                let is_it = |node: &Node| i64::from(node.port) == port;
                return self.nodes.iter().position(is_it).unwrap();
            }
        }
        panic!("slot {slot} has no master");
    }

    /// The node's replica, as the cluster begins.
    pub(crate) fn replica_of(&self, master: usize) -> usize {
        assert!(self.setup.replicas == 1 && master < self.setup.masters);
        (self.setup.masters..self.nodes.len())
            .find(|index| index % self.setup.masters == master)
            .unwrap()
    }

    pub(crate) fn is_master(&self, index: usize) -> bool {
        self.connect(index)
            .and_then(|mut connection| connection.ask(["ROLE"]))
            .is_ok_and(|role| role.array()[0].text() == "master")
    }

    /// kill -9.
    pub(crate) fn kill(&self, index: usize) {
        let node = &self.nodes[index];
        let mut process = node.process.lock().unwrap();
        let mut child = process.take().expect("it runs");
        // First, so that the guard does not mistake another process for it.
        let _ = fs::remove_file(node.directory.join("pid"));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts a node again that was killed, with what it has on its disk.
    pub(crate) fn restart(&self, index: usize) {
        let node = &self.nodes[index];
        *node.process.lock().unwrap() = Some(spawn(&program(), &node.directory));
        assert!(self.await_listening(node), "the node's port is taken");
    }

    /// SIGSTOP.
    pub(crate) fn stop(&self, index: usize) {
        self.signal(index, "-STOP");
    }

    /// SIGCONT.
    pub(crate) fn resume(&self, index: usize) {
        self.signal(index, "-CONT");
    }

    fn signal(&self, index: usize, signal: &str) {
        let process = self.nodes[index].process.lock().unwrap();
        signal_to(process.as_ref().expect("it runs"), signal);
    }

    /// A process of redis-cli on this node.
    pub(crate) fn cli(&self, index: usize) -> Command {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.nodes[index].port.to_string()]);
        command
    }

    /// Moves so many slots between two masters, as an operator would.
    pub(crate) fn reshard(&self, from: usize, to: usize, slots: usize) {
        // It refuses if a node has not heard of the last move.
        self.wait_ok();
        let mut command = Command::new("redis-cli");
        let address = format!("127.0.0.1:{}", self.nodes[from].port);
        command.args(["--cluster", "reshard", &address, "--cluster-yes"]);
        command.args(["--cluster-from", &self.id(from)]);
        command.args(["--cluster-to", &self.id(to)]);
        command.args(["--cluster-slots", &slots.to_string()]);
        let output = command.output().expect("redis-cli");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in &self.nodes {
            let process = node.process.lock();
            let mut process = process.unwrap_or_else(|poisoned| poisoned.into_inner());
            if let Some(child) = process.as_mut() {
                let _ = fs::remove_file(node.directory.join("pid"));
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if thread::panicking() {
            for (index, node) in self.nodes.iter().enumerate() {
                let log = fs::read_to_string(node.directory.join("log")).unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                let last = &lines[lines.len().saturating_sub(8)..];
                eprintln!("node {index} (port {}):\n{}", node.port, last.join("\n"));
            }
        }
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

fn spawn(program: &str, directory: &Path) -> Child {
    Command::new(program)
        .arg(directory.join("redis.conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Kills nodes and removes the directory when its input ends.
fn guard(directory: &Path) -> Child {
    let script = "trap '' INT TERM HUP; cat >/dev/null; \
                  cat \"$0\"/*/pid 2>/dev/null | xargs -r kill -9 2>/dev/null; sleep 0.1; rm -rf \"$0\"";
    Command::new("sh")
        .args(["-c", script])
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}
