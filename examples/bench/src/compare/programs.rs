//! The contestants as programs: which there are, where they are, and their command lines.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::compare::{Options, cluster, disk::Disk, kevy::Kevy, rows::Row};

/// Files that a server has open besides its clients, and clients of the turn before that it has
/// not yet seen go.
pub(crate) const OTHER_FILES: usize = 200;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Keywire {
        threads: usize,
    },
    /// Keywire with its store on a disk, which takes a snapshot when its log has so many bytes.
    Disk {
        min_log: Option<u64>,
    },
    /// Keywire with its store on the cluster to which the node at this port of the loopback belongs.
    Cluster {
        node: u16,
    },
    /// The example for tokio, with tokio's own number of threads.
    Tokio,
    /// The example for async-std.
    AsyncStd,
    Redis,
    /// Redis with a log that is synced before each answer. It rewrites its log when that has doubled,
    /// or not at all.
    RedisLog {
        rewrites: bool,
    },
    Kevy,
}

impl Kind {
    pub(crate) const KEYWIRE: Kind = Kind::Keywire { threads: 1 };
    pub(crate) const DISK: Kind = Kind::Disk { min_log: None };

    pub(crate) fn is_durable(self) -> bool {
        matches!(self, Kind::Disk { .. } | Kind::RedisLog { .. })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Keywire { .. } => "keywire",
            Kind::Tokio => "keywire on tokio",
            Kind::AsyncStd => "keywire on async-std",
            Kind::Disk { .. } => "keywire on a disk",
            Kind::Cluster { .. } => "keywire on a cluster",
            Kind::Redis => "Redis",
            Kind::RedisLog { .. } => "Redis, always synced",
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
    /// Likewise.
    disk: Option<Result<Disk, String>>,
    /// What a cluster would need, if a row wants one.
    cluster_lack: Option<String>,
    /// Has a child killed when we are.
    setpriv: Option<PathBuf>,
}

impl Programs {
    /// kevy is looked for, and installed, only if a row wants it.
    pub(crate) fn find(options: &Options, rows: &[&Row]) -> Result<Programs, String> {
        let keywire = match &options.server {
            Some(path) => path.clone(),
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
            version: redis.as_deref().and_then(version).unwrap_or("Redis".into()),
            kevy: (rows.iter().any(|row| row.has_kevy)).then(Kevy::find_or_install),
            disk: (rows.iter().any(|row| row.is_durable()))
                .then(|| Disk::find(&keywire, options.data.as_deref())),
            cluster_lack: (rows.iter().any(|row| row.is_clustered()))
                .then(cluster::lack)
                .flatten(),
            keywire,
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
        let disk = |error| format!("the rows of the store on a disk are left out: {error}");
        let cluster = |error| format!("the rows of the store on a cluster are left out: {error}");
        let lacks = [
            self.redis.is_none().then(|| redis.into()),
            self.kevy
                .as_ref()
                .and_then(|it| it.as_ref().err())
                .map(kevy),
            self.disk
                .as_ref()
                .and_then(|it| it.as_ref().err())
                .map(disk),
            self.cluster_lack.clone().map(cluster),
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

    pub(crate) fn disk(&self) -> Result<&Disk, String> {
        match &self.disk {
            Some(disk) => disk.as_ref().map_err(Clone::clone),
            None => Err("the disk was not wanted".into()),
        }
    }

    /// Those of others that can be started.
    pub(crate) fn peers(&self) -> Vec<Kind> {
        let redis = self.redis.is_some().then_some(Kind::Redis);
        let kevy = self.kevy().is_ok().then_some(Kind::Kevy);
        redis.into_iter().chain(kevy).collect()
    }

    fn redis_program(&self) -> Result<PathBuf, String> {
        let missing = || "redis-server is not installed".to_string();
        self.redis.clone().ok_or_else(missing)
    }

    pub(crate) fn redis(&self) -> Result<Command, String> {
        Ok(self.mortal(self.redis_program()?))
    }

    /// A server without the feature says so before it looks for a node.
    pub(crate) fn has_cluster(&self) -> Result<(), String> {
        let output = Command::new(&self.keywire)
            .args(["--listen", "127.0.0.1:0", "--cluster", "127.0.0.1:1"])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("can't start {}: {error}", self.keywire.display()))?;
        match String::from_utf8_lossy(&output.stderr).contains("built without the cluster") {
            true => Err(format!(
                "{} was built without the cluster; \
                 `cargo build --profile fast --features cluster --example server` builds it with",
                self.keywire.display()
            )),
            false => Ok(()),
        }
    }

    /// A program that is killed when we are, if that can be had.
    fn mortal(&self, program: PathBuf) -> Command {
        match &self.setpriv {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL"]).arg(program);
                command
            }
            None => Command::new(program),
        }
    }

    pub(crate) fn command(
        &self,
        kind: Kind,
        port: u16,
        clients: usize,
        data: Option<&Path>,
    ) -> Result<Command, String> {
        let program = match kind {
            Kind::Keywire { .. } | Kind::Disk { .. } | Kind::Cluster { .. } => self.keywire.clone(),
            Kind::Tokio => self.keywire.with_file_name("tokio"),
            Kind::AsyncStd => self.keywire.with_file_name("async_std"),
            Kind::Redis | Kind::RedisLog { .. } => self.redis_program()?,
            Kind::Kevy => self.kevy()?.program.clone(),
        };
        let mut command = self.mortal(program);
        if matches!(
            kind,
            Kind::Keywire { .. } | Kind::Disk { .. } | Kind::Cluster { .. }
        ) {
            command.args(["--log", "warn"]);
        }
        match kind {
            Kind::Keywire { threads } => command
                .args(["--listen", &format!("127.0.0.1:{port}")])
                .args(["--threads", &threads.to_string()]),
            Kind::Disk { min_log } => command
                .args(["--listen", &format!("127.0.0.1:{port}")])
                .args(min_log.map(|bytes| format!("--min-log={bytes}")))
                .arg("--data"),
            Kind::Cluster { node } => command
                .args(["--listen", &format!("127.0.0.1:{port}")])
                .args(["--cluster", &format!("127.0.0.1:{node}")]),
            Kind::Tokio | Kind::AsyncStd => command.arg(format!("127.0.0.1:{port}")),
            Kind::Redis | Kind::RedisLog { .. } => command
                .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
                .args(["--save", ""])
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
        if let Kind::RedisLog { rewrites } = kind {
            command.args(["--appendonly", "yes", "--appendfsync", "always"]);
            if !rewrites {
                command.args(["--auto-aof-rewrite-percentage", "0"]);
                command.args(["--aof-use-rdb-preamble", "no"]);
            }
            command.arg("--dir");
        }
        command.args(data);
        Ok(command)
    }
}

pub(crate) fn installed(name: &str) -> Option<PathBuf> {
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
