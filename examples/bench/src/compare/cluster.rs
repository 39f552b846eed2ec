//! What the store on a cluster is measured with: masters on free ports of the loopback, and what
//! redis-benchmark does with them.

use std::{
    fs,
    io::Read as _,
    net::TcpListener,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    compare::{
        cores,
        programs::{Programs, installed},
    },
    connect::PATIENCE,
    cpu::Process,
    work::Mix,
};

const MASTERS: usize = 3;

/// Requests by which it is found out how many make a turn.
const TRIAL: u64 = 50_000;

/// Masters without replicas, killed when they are dropped.
#[derive(Debug)]
pub(crate) struct Nodes {
    ports: Vec<u16>,
    children: Vec<Child>,
    /// Where they keep what they know of each other.
    _directory: TempDir,
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Nodes {
    /// Starts them on both cores, and waits until they are one cluster.
    pub(crate) fn start(programs: &Programs) -> Result<Nodes, String> {
        programs.has_cluster()?;
        let directory = TempDir::new().map_err(|error| error.to_string())?;
        let mut nodes = Nodes {
            ports: Vec::new(),
            children: Vec::new(),
            _directory: directory,
        };
        // Each has a port for clients and one for the other nodes.
        let ports = free_ports(2 * MASTERS)?;
        for (number, pair) in ports.chunks(2).enumerate() {
            let [port, bus] = [pair[0], pair[1]].map(|port| port.to_string());
            let directory = nodes._directory.path().join(number.to_string());
            fs::create_dir(&directory).map_err(|error| error.to_string())?;
            let mut command = programs.redis()?;
            command
                .args(["--bind", "127.0.0.1", "--save", ""])
                .args(["--port", &port, "--cluster-port", &bus])
                .args(["--cluster-enabled", "yes", "--dir"])
                .arg(directory)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .process_group(0);
            let _ = cores::pin(cores::BOTH);
            let child = command.spawn();
            let _ = cores::pin(cores::LOAD);
            nodes
                .children
                .push(child.map_err(|error| error.to_string())?);
            nodes.ports.push(pair[0]);
        }
        nodes.join()?;
        Ok(nodes)
    }

    fn join(&self) -> Result<(), String> {
        let addresses = self.ports.iter().map(|port| format!("127.0.0.1:{port}"));
        let addresses: Vec<_> = addresses.collect();
        let deadline = Instant::now() + PATIENCE;
        let well = |text: &str| text.contains("cluster_state:ok");
        for port in &self.ports {
            until(deadline, || Ok(cli(*port, &["ping"])?.contains("PONG")))?;
        }
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]).args(addresses);
        let said = output(create.arg("--cluster-yes"))?;
        for port in &self.ports {
            let is_well = || Ok(well(&cli(*port, &["cluster", "info"])?));
            until(deadline, is_well).map_err(|error| format!("{error}: {said}"))?;
        }
        Ok(())
    }

    /// That of a node; it knows the others.
    pub(crate) fn port(&self) -> u16 {
        self.ports[0]
    }

    /// CPU time of all.
    pub(crate) fn time(&self) -> Option<Duration> {
        let time = |child: &Child| Process { id: child.id() }.time();
        self.children.iter().map(time).sum()
    }

    /// Connections to the nodes, from any program of this machine.
    pub(crate) fn connections(&self) -> Result<usize, String> {
        let table = fs::read_to_string("/proc/net/tcp").map_err(|error| error.to_string())?;
        let loopback = u32::from_ne_bytes([127, 0, 0, 1]);
        let address = |port: &u16| format!("{loopback:08X}:{port:04X}");
        let addresses: Vec<_> = self.ports.iter().map(address).collect();
        let to_a_node = |line: &&str| {
            let mut fields = line.split_ascii_whitespace().skip(2);
            let remote = fields.next();
            // 01 is established.
            fields.next() == Some("01") && addresses.iter().any(|it| remote == Some(it))
        };
        Ok(table.lines().filter(to_a_node).count())
    }

    /// Has all keys of the mix set by redis-benchmark.
    pub(crate) fn fill(&self, mix: &Mix) -> Result<(), String> {
        // By chance, one key in 20,000 is left out.
        self.run(mix, (50, 16), "set", 10 * u64::from(mix.keys))?;
        Ok(())
    }

    /// Operations a second of redis-benchmark: the rate of `GET` alone and that of `SET` alone,
    /// one run each, weighted as in the mix by the time that each operation takes.
    pub(crate) fn turn(
        &self,
        mix: &Mix,
        clients: (u32, u32),
        time: Duration,
    ) -> Result<f64, String> {
        let writes = f64::from(mix.writes) / 100.0;
        let mut seconds = 0.0;
        for (test, part) in [("get", 1.0 - writes), ("set", writes)] {
            let trial = self.run(mix, clients, test, TRIAL)?;
            let requests = (trial * time.as_secs_f64()) as u64;
            seconds += part / self.run(mix, clients, test, requests.max(TRIAL))?;
        }
        Ok(1.0 / seconds)
    }

    /// Requests a second.
    fn run(
        &self,
        mix: &Mix,
        (clients, depth): (u32, u32),
        test: &str,
        requests: u64,
    ) -> Result<f64, String> {
        let mut command = Command::new("redis-benchmark");
        let (clients, depth) = (clients.to_string(), depth.to_string());
        command
            .args(["--cluster", "--csv", "-p", &self.port().to_string()])
            .args(["-t", test, "-n", &requests.to_string()])
            .args([
                "-r",
                &mix.keys.to_string(),
                "-d",
                &mix.value_size.to_string(),
            ])
            .args(["-c", &clients, "-P", &depth]);
        let said = output(&mut command)?;
        let row = format!("\"{}\",\"", test.to_uppercase());
        let rate = said.lines().find_map(|line| line.strip_prefix(&row));
        rate.and_then(|rate| rate.split('"').next()?.parse().ok())
            .ok_or_else(|| format!("redis-benchmark gave no rate: {said}"))
    }
}

/// Why there is none: a program that is missing.
pub(crate) fn lack() -> Option<String> {
    let programs = ["redis-server", "redis-cli", "redis-benchmark"];
    let missing = programs
        .into_iter()
        .find(|name| installed(name).is_none())?;
    Some(format!("{missing} is not installed"))
}

fn cli(port: u16, words: &[&str]) -> Result<String, String> {
    output(
        Command::new("redis-cli")
            .args(["-p", &port.to_string()])
            .args(words),
    )
}

/// What it prints, errors too.
fn output(command: &mut Command) -> Result<String, String> {
    let failed = |error: std::io::Error| error.to_string();
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::null()).spawn().map_err(failed)?;
    let mut text = Vec::new();
    let read = match &mut child.stdout {
        Some(stdout) => stdout.read_to_end(&mut text).map(drop),
        None => Ok(()),
    };
    child.wait().map_err(failed)?;
    read.map_err(failed)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn until(deadline: Instant, mut so: impl FnMut() -> Result<bool, String>) -> Result<(), String> {
    while !so()? {
        if Instant::now() > deadline {
            return Err("the nodes do not become a cluster".into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Ports that nobody had a moment ago, all different.
fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    let bound = (0..count).map(|_| TcpListener::bind("127.0.0.1:0"));
    let bound: Vec<_> = bound
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    let ports = bound.iter().map(|it| Ok(it.local_addr()?.port()));
    let ports: Result<_, std::io::Error> = ports.collect();
    ports.map_err(|error| error.to_string())
}
