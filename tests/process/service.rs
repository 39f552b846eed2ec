//! The example server under a service manager, such as systemd: what it is given, and what it tells.

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    os::{
        fd::OwnedFd,
        unix::net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::PathBuf,
    process::Command,
    time::Instant,
};

use crate::common::{
    Client, DEADLINE, example,
    server_process::{ServerProcess, refused},
};

/// A path for a socket, which is gone with it.
struct SocketPath(PathBuf);

impl SocketPath {
    fn new(name: &str) -> Self {
        let name = format!("keywire-service-{name}-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The manager's side.
struct Manager(UnixDatagram);

impl Manager {
    fn new(path: &SocketPath) -> Self {
        let socket = UnixDatagram::bind(&path.0).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self(socket)
    }

    /// Waits until it is told this, in any datagram.
    #[track_caller]
    fn await_line(&self, wanted: &str) {
        let mut buffer = [0; 4096];
        let start = Instant::now();
        while start.elapsed() < DEADLINE {
            let length = self.0.recv(&mut buffer).expect(wanted);
            let text = std::str::from_utf8(&buffer[..length]).unwrap();
            if text.lines().any(|line| line == wanted) {
                return;
            }
        }
        panic!("waited in vain for {wanted}");
    }
}

#[test]
fn the_manager_is_told_when_it_serves_that_it_lives_and_when_it_stops() {
    let path = SocketPath::new("notify");
    let manager = Manager::new(&path);
    let address = SocketPath::new("listen");
    let mut command = Command::new(example("server"));
    command.env("NOTIFY_SOCKET", &path.0);
    command.env("WATCHDOG_USEC", "100000");
    command.args(["--listen", &format!("unix:{}", address.0.display())]);
    let mut server = ServerProcess::spawn(&mut command);
    manager.await_line("READY=1");
    // It listens by now.
    let _client = UnixStream::connect(&address.0).unwrap();
    manager.await_line("STATUS=clients: 1");
    for _ in 0..3 {
        manager.await_line("WATCHDOG=1");
    }
    server.signal("-TERM");
    manager.await_line("STOPPING=1");
    assert!(server.wait().0.success());
}

/// Whoever does not read what it is told holds up nothing.
#[test]
fn a_manager_that_does_not_read_holds_up_nothing() {
    let path = SocketPath::new("deaf");
    let manager = Manager::new(&path);
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    filler.connect(&path.0).unwrap();
    while filler.send(b"X=1").is_ok() {}
    let mut command = Command::new(example("server"));
    command.env("NOTIFY_SOCKET", &path.0);
    command.env("WATCHDOG_USEC", "2000");
    let mut server = ServerProcess::spawn(command.args(["--listen", "127.0.0.1:0"]));
    let mut client = server.connect();
    for _ in 0..1000 {
        client.sync();
    }
    server.signal("-TERM");
    while client.line().is_some() {}
    assert!(server.wait().0.success());
    drop(manager);
}

#[test]
fn a_manager_that_is_not_there_changes_nothing() {
    let mut command = Command::new(example("server"));
    command.env("NOTIFY_SOCKET", "/nowhere/at/all");
    let mut server = ServerProcess::spawn(command.args(["--listen", "127.0.0.1:0"]));
    server.connect().sync();
    server.signal("-TERM");
    assert!(server.wait().0.success());
}

/// A server that gets this socket as systemd passes it: the first descriptor behind standard error.
fn with_socket(socket: OwnedFd, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    let script = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\"";
    command.arg("-c").arg(script).arg(example("server"));
    command.args(arguments).stdin(socket);
    command
}

#[test]
fn it_listens_on_a_socket_that_is_passed_and_on_what_is_asked_for() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let server = ServerProcess::spawn(&mut with_socket(socket.into(), &[]));
    assert_eq!(server.address, address.to_string());
    Client::connect(address).sync();
    drop(server);

    let path = SocketPath::new("passed");
    let socket = UnixListener::bind(&path.0).unwrap();
    let both = &mut with_socket(socket.into(), &["--listen", "127.0.0.1:0"]);
    let mut server = ServerProcess::spawn(both);
    let (passed, own) = server.address.split_once(" and ").unwrap();
    assert_eq!(passed, format!("unix:{}", path.0.display()));
    Client::connect(own.parse().unwrap()).sync();
    UnixStream::connect(&path.0).unwrap();
    server.signal("-TERM");
    assert!(server.wait().0.success());
    // The file is the manager's.
    assert!(path.0.exists());
}

#[test]
fn a_socket_that_it_can_not_or_may_not_serve_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let open = TcpListener::bind("0.0.0.0:0").unwrap();
    let file = fs::File::open("/dev/null").unwrap();
    let sockets: [(OwnedFd, &str); 4] = [
        (peer.into(), "does not listen"),
        (udp.into(), "neither TCP nor a Unix stream socket"),
        (open.try_clone().unwrap().into(), "--secret-file, or --open"),
        (file.into(), "neither TCP nor a Unix stream socket"),
    ];
    for (socket, words) in sockets {
        let (code, said) = refused_with(socket);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(words), "{said}");
    }
    ServerProcess::spawn(&mut with_socket(open.into(), &["--open"]));
}

fn refused_with(socket: OwnedFd) -> (i32, String) {
    // Its standard input is the socket until the shell has moved it.
    let output = with_socket(socket, &[]).output().unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.starts_with("error: "), "{words}");
    (output.status.code().unwrap(), words)
}

/// Sockets for another process, as a shell between the manager and the server would leave them.
#[test]
fn sockets_of_another_process_are_none_of_its() {
    let mut command = Command::new(example("server"));
    command.envs([("LISTEN_FDS", "1"), ("LISTEN_PID", "1")]);
    let server = ServerProcess::spawn(command.args(["--listen", "127.0.0.1:0"]));
    server.connect().sync();
    command = Command::new(example("server"));
    command.envs([("LISTEN_FDS", "nonsense"), ("LISTEN_PID", "1")]);
    let (code, _) = refused(command.args(["--listen", "unix:/nowhere/at/all"]));
    assert_eq!(code, 1);
}

/// The units in the guide: their names and their text.
fn units() -> Vec<(&'static str, &'static str)> {
    let guide = include_str!("../../src/guide/operations.md");
    let blocks = guide.split("```ini\n# ").skip(1);
    blocks
        .map(|block| {
            let (path, rest) = block.split_once('\n').unwrap();
            let name = path.rsplit('/').next().unwrap();
            (name, rest.split("```").next().unwrap())
        })
        .collect()
}

#[test]
fn the_unit_in_the_guide_has_variables_that_there_are() {
    let help = Command::new(example("server")).arg("--help").output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    let [(_, service), (_, socket)] = units()[..] else {
        panic!("a service and a socket")
    };
    let variables = service.lines().filter_map(|line| {
        let line = line.trim_start_matches("# ");
        let (name, _) = line.strip_prefix("Environment=KEYWIRE_")?.split_once('=')?;
        Some(name)
    });
    let options: Vec<_> = variables
        .map(|name| format!("--{} <", name.to_lowercase().replace('_', "-")))
        .collect();
    assert!(options.len() > 3, "{options:?}");
    for option in options {
        assert!(help.contains(&option), "{option}");
    }
    assert!(socket.contains("ListenStream="));
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units_in_the_guide() {
    if Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        println!("left out: this machine has no systemd");
        return;
    }
    let folder = SocketPath::new("units");
    fs::create_dir(&folder.0).unwrap();
    let program = example("server");
    let paths = units().into_iter().map(|(name, text)| {
        let path = folder.0.join(name);
        let installed = "/usr/local/bin/keywire-server";
        fs::write(&path, text.replace(installed, program.to_str().unwrap())).unwrap();
        path
    });
    let paths: Vec<_> = paths.collect();
    let mut analyze = Command::new("systemd-analyze");
    let output = analyze.args(["verify", "--man=no"]).args(paths).output();
    fs::remove_dir_all(&folder.0).unwrap();
    let output = output.unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    // It may find things in other units of the machine.
    let own: Vec<_> = words
        .lines()
        .filter(|line| line.contains("keywire"))
        .collect();
    assert!(own.is_empty(), "{own:?}");
    assert!(output.status.success(), "{words}");
}
