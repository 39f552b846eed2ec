//! Where the example server listens, and what it says if it can't.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, ToSocketAddrs as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::fs::{FlockOperation, flock};

use crate::{
    common::{
        Client, example,
        server_process::{ServerProcess, refused},
    },
    listen,
};

/// A folder of a test's own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("keywire-listen-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn files(&self) -> usize {
        fs::read_dir(&self.0).unwrap().count()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::set_permissions(&self.0, fs::Permissions::from_mode(0o700));
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// A round trip through a Unix socket.
#[track_caller]
fn sync(path: &Path) {
    let mut stream = UnixStream::connect(path).unwrap();
    stream
        .set_read_timeout(Some(crate::common::DEADLINE))
        .unwrap();
    stream.write_all(b"Sync:here\n").unwrap();
    let mut reply = [0; 13];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b":sync:0:here\n");
}

fn server(arguments: &[&str]) -> Command {
    let mut server = Command::new(example("server"));
    server.args(arguments);
    server
}

fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

#[test]
fn all_addresses_of_a_name_are_listened_on_at_one_port() {
    let expected: std::collections::HashSet<_> = ("localhost", 0)
        .to_socket_addrs()
        .unwrap()
        .filter(|address| address.is_ipv4() || has_ipv6())
        .map(|address| address.ip())
        .collect();
    let served = ServerProcess::start(&["--listen", "localhost:0"]);
    let addresses: Vec<SocketAddr> = served
        .address
        .split(" and ")
        .map(|address| address.parse().unwrap())
        .collect();
    let ips = addresses.iter().map(SocketAddr::ip).collect();
    assert_eq!(expected, ips);
    for address in &addresses {
        assert_eq!(address.port(), addresses[0].port());
        Client::connect(*address).sync();
    }
}

fn loopback(host: u8, port: u16) -> SocketAddr {
    ([127, 0, 0, host], port).into()
}

#[test]
fn several_addresses_have_one_port_and_one_that_is_in_use_is_an_error() {
    let listeners = listen::bind_all(&[loopback(1, 0), loopback(2, 0)], false).unwrap();
    let [first, second] = &listeners[..] else {
        panic!("{listeners:?}");
    };
    let port = first.local_addr().unwrap().port();
    assert_eq!(second.local_addr().unwrap(), loopback(2, port));

    let held = TcpListener::bind(loopback(2, 0)).unwrap();
    let port = held.local_addr().unwrap().port();
    let addresses = [loopback(1, port), loopback(2, port)];
    let (address, error) = listen::bind_all(&addresses, false).unwrap_err();
    assert_eq!(address, addresses[1]);
    assert!(error.to_string().contains("in use"), "{error}");
}

#[test]
fn without_ipv6_the_other_addresses_are_enough() {
    // The system has no such address (it is for documentation), as it has none without IPv6.
    let missing: SocketAddr = "[2001:db8::1]:0".parse().unwrap();
    for addresses in [[missing, loopback(1, 0)], [loopback(1, 0), missing]] {
        let listeners = listen::bind_all(&addresses, false).unwrap();
        assert_eq!(listeners.len(), 1);
        assert!(listeners[0].local_addr().unwrap().is_ipv4());
    }
    let listeners = listen::bind_all(&[missing, loopback(1, 0)], true).unwrap();
    assert!(listeners[0].local_addr().unwrap().is_ipv4());
    let (address, _) = listen::bind_all(&[missing], false).unwrap_err();
    assert_eq!(address, missing);
    // An address of the family that is there is another matter.
    let elsewhere = ([192, 0, 2, 1], 0).into();
    let (address, _) = listen::bind_all(&[loopback(1, 0), elsewhere], false).unwrap_err();
    assert_eq!(address, elsewhere);
}

#[test]
fn a_port_alone_means_all_interfaces_of_both_families() {
    for address in ["0", ":0"] {
        let (code, words) = refused(&mut server(&["--listen", address]));
        assert_eq!(code, 1);
        assert!(words.contains("--secret-file, or --open"), "{words}");

        let served = ServerProcess::start(&["--listen", address, "--open"]);
        let port = served.address.rsplit(':').next().unwrap().parse().unwrap();
        Client::connect(loopback(1, port)).sync();
        if has_ipv6() {
            Client::connect((Ipv6Addr::LOCALHOST, port).into()).sync();
        }
    }
}

#[test]
fn an_address_may_have_a_zone() {
    // Link-local addresses and their interfaces, as the system lists them. The one with the lowest
    // number has been there since the start.
    let table = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let local = table.lines().filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let address = u128::from_str_radix(fields[0], 16).ok()?.into();
        let number = u32::from_str_radix(fields[1], 16).ok()?;
        let bindable = TcpListener::bind(SocketAddrV6::new(address, 0, 0, number)).is_ok();
        (fields[3] == "20" && bindable).then(|| (number, address, fields[5].to_owned()))
    });
    if let Some((_, address, interface)) = local.min() {
        let address = format!("[{address}%{interface}]:0");
        let served = ServerProcess::start(&["--listen", &address, "--open"]);
        served.connect().sync();
    }
    let (code, words) = refused(&mut server(&["--listen", "[fe80::1%nowhere]:0", "--open"]));
    assert_eq!(code, 1, "it is no usage error: {words}");
    assert!(words.contains("[fe80::1%nowhere]:0"), "{words}");
}

#[test]
fn it_listens_in_several_places_and_none_is_left_behind_if_one_fails() {
    let folder = Folder::new("several");
    let (one, two) = (folder.0.join("one"), folder.0.join("two"));
    let places = [
        "--listen",
        "127.0.0.1:0",
        "--listen",
        &unix(&one),
        "--listen",
        &unix(&two),
    ];
    let mut served = ServerProcess::start(&places);
    let addresses = served.address.clone();
    let mut addresses = addresses.split(" and ");
    Client::connect(addresses.next().unwrap().parse().unwrap()).sync();
    assert_eq!(addresses.next(), Some(&*unix(&one)));
    assert_eq!(addresses.next(), Some(&*unix(&two)));
    sync(&one);
    sync(&two);
    served.signal("-TERM");
    assert!(served.wait().0.success());
    assert_eq!(folder.files(), 0);

    let nowhere = unix(&folder.0.join("nowhere/socket"));
    let places = ["--listen", &unix(&one), "--listen", &nowhere];
    let (code, words) = refused(&mut server(&places));
    assert_eq!(code, 1);
    assert!(words.contains(&nowhere), "{words}");
    assert_eq!(folder.files(), 0);
}

#[test]
fn a_path_that_can_not_be_is_refused_for_the_right_reason() {
    let folder = Folder::new("reasons");
    let long = unix(&folder.0.join("x".repeat(108)));
    let (code, words) = refused(&mut server(&["--listen", &long]));
    assert_eq!(code, 1);
    assert!(words.contains("path must be shorter"), "{words}");

    let missing = unix(&folder.0.join("nowhere/socket"));
    let (_, words) = refused(&mut server(&["--listen", &missing]));
    assert!(words.contains("No such file"), "{words}");

    // Root may write everywhere but here.
    let mut forbidden = "/sys/keywire".into();
    if !rustix::process::geteuid().is_root() {
        fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o500)).unwrap();
        forbidden = folder.0.join("socket");
    }
    let (_, words) = refused(&mut server(&["--listen", &unix(&forbidden)]));
    let reasons = ["ermi", "Read-only"];
    assert!(
        reasons.iter().any(|reason| words.contains(reason)),
        "{words}"
    );
}

#[test]
fn of_servers_that_start_at_once_over_an_abandoned_socket_one_has_it() {
    const SERVERS: usize = 4;
    const ROUNDS: usize = 15;
    let folder = Folder::new("race");
    let path = folder.0.join("socket");
    for _ in 0..ROUNDS {
        drop(UnixListener::bind(&path).unwrap());
        let mut servers: Vec<_> = (0..SERVERS)
            .map(|_| {
                server(&["--listen", &unix(&path)])
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        // Each either says where it listens or ends.
        let mut listening = Vec::new();
        for (number, server) in servers.iter_mut().enumerate() {
            let mut line = String::new();
            let output = server.stdout.as_mut().unwrap();
            BufReader::new(output).read_line(&mut line).unwrap();
            if line.starts_with("keywire listens on unix:") {
                listening.push(number);
            } else {
                assert_eq!(line, "");
                let words = io::read_to_string(server.stderr.as_mut().unwrap()).unwrap();
                assert!(words.contains("in use"), "{words}");
                assert_eq!(server.wait().unwrap().code(), Some(1));
            }
        }
        let reached = UnixStream::connect(&path).is_ok();
        for &number in &listening {
            crate::common::server_process::signal_to(&servers[number], "-TERM");
            servers[number].wait().unwrap();
        }
        assert_eq!(listening.len(), 1, "they all say that they listen");
        assert!(reached);
        assert_eq!(folder.files(), 0, "what was made is gone");
    }
}

#[test]
fn a_server_has_its_socket_also_if_the_directory_can_not_be_locked() {
    let folder = Folder::new("lock");
    let path = folder.0.join("socket");
    // Left by a server that was killed.
    drop(UnixListener::bind(&path).unwrap());
    let held = fs::File::open(&folder.0).unwrap();
    flock(&held, FlockOperation::LockExclusive).unwrap();
    let mut served = ServerProcess::start(&["--listen", &unix(&path)]);
    sync(&path);
    served.signal("-TERM");
    assert!(served.wait().0.success());
    assert_eq!(folder.files(), 0);
    drop(held);

    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o300)).unwrap();
    let mut command = server(&[]);
    if rustix::process::geteuid().is_root() {
        // Without capabilities it may not read what its mode forbids.
        command = Command::new("setpriv");
        command.args(["--inh-caps=-all", "--bounding-set=-all"]);
        command.arg(example("server"));
    }
    let mut served = ServerProcess::spawn(command.args(["--listen", &unix(&path)]));
    sync(&path);
    served.signal("-TERM");
    assert!(served.wait().0.success());
    assert!(!path.exists());
}
