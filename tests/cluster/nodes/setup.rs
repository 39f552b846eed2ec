//! How nodes are set up and started.

use std::{
    env, fs,
    net::{Ipv4Addr, TcpListener},
    path::{Display, Path},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use keywire::tls::rustls::ClientConfig;

/// When a node counts as gone, in ms.
pub(crate) const NODE_TIMEOUT: Duration = Duration::from_millis(1500);

/// Below what systems use for the ports of outgoing connections: a node that comes back finds its
/// port free.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// The certificate of all nodes.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub(crate) ca: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
    /// How tests speak to a node.
    pub(crate) client: Arc<ClientConfig>,
}

impl Tls {
    pub(super) fn write_files(&self, directory: &Path) {
        let files = [
            ("ca.pem", &self.ca),
            ("cert.pem", &self.certificate),
            ("key.pem", &self.key),
        ];
        for (name, text) in files {
            fs::write(directory.join(name), text).unwrap();
        }
    }

    fn settings(directory: Display<'_>) -> [(&'static str, String); 6] {
        [
            ("tls-ca-cert-file", format!("{directory}/ca.pem")),
            ("tls-cert-file", format!("{directory}/cert.pem")),
            ("tls-key-file", format!("{directory}/key.pem")),
            ("tls-cluster", "yes".into()),
            ("tls-replication", "yes".into()),
            ("tls-auth-clients", "no".into()),
        ]
    }
}

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
    /// Then nothing is without TLS, also between nodes.
    pub(crate) tls: Option<Tls>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            masters: 3,
            replicas: 1,
            settings: Vec::new(),
            secret: None,
            tls: None,
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

    /// The lines of `redis.conf`.
    pub(super) fn lines(&self, port: u16, bus: u16, directory: &Path) -> String {
        let place = directory.display();
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
            ("port", port.to_string()),
            ("cluster-port", bus.to_string()),
            ("cluster-node-timeout", NODE_TIMEOUT.as_millis().to_string()),
            ("dir", place.to_string()),
            ("pidfile", format!("{place}/pid")),
            ("logfile", format!("{place}/log")),
        ]);
        if self.tls.is_some() {
            settings.retain(|&(name, _)| name != "port");
            settings.push(("port", "0".into()));
            settings.push(("tls-port", port.to_string()));
            settings.extend(Tls::settings(place));
        }
        if let Some(secret) = self.secret {
            settings.push(("requirepass", secret.into()));
            settings.push(("masterauth", secret.into()));
        }
        for &(name, value) in &self.settings {
            settings.retain(|&(other, _)| other != name);
            settings.push((name, value.into()));
        }
        let lines = settings
            .iter()
            .map(|(name, value)| format!("{name} {value}\n"));
        lines.collect()
    }
}

/// The program of a node: `$REDIS_SERVER`, or what is installed.
pub(super) fn program() -> String {
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
pub(super) fn free_ports() -> (u16, u16) {
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

pub(super) fn spawn(program: &str, directory: &Path) -> Child {
    Command::new(program)
        .arg(directory.join("redis.conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Kills nodes and removes the directory when its input ends.
pub(super) fn guard(directory: &Path) -> Child {
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
