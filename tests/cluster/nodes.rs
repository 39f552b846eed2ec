//! A real cluster: masters and their replicas as processes on the loopback, in a temporary directory.
//!
//! A process of its own, the guard, waits for the end of its input, which is the end of the test
//! process, however that comes; then it kills the nodes and removes the directory.

mod join;
mod setup;
mod shared;

use std::{
    env, fs, io,
    path::PathBuf,
    process::{Child, Command},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use self::setup::{free_ports, guard, program, spawn};
pub(crate) use self::{
    setup::{Setup, Tls},
    shared::{Exclusive, exclusive, shared},
};
use crate::{
    common::{server_process::signal_to, wait_until},
    resp::{Resp, Value},
};

/// One node, running or not.
struct Node {
    port: u16,
    /// Where nodes speak to one another.
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
            if let Some(tls) = &self.setup.tls {
                tls.write_files(&directory);
            }
            let lines = self.setup.lines(port, bus, &directory);
            fs::write(directory.join("redis.conf"), lines).unwrap();
            *node.process.lock().unwrap() = Some(spawn(program, &directory));
            if self.await_listening(&node) {
                return node;
            }
        }
        let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
        panic!("{program} does not start:\n{log}");
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
        self.connect_to(node)?.ask(["PING"])
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
        self.connect_to(&self.nodes[index])
    }

    fn connect_to(&self, node: &Node) -> io::Result<Resp> {
        let tls = self.setup.tls.as_ref().map(|tls| &tls.client);
        Resp::connect(node.port, self.setup.secret, tls)
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
