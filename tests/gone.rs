//! Peers whose machine is gone, between two network namespaces. That needs root and `ip`; without
//! them, these tests say so and pass.
#![cfg(target_os = "linux")]

mod common;

use std::{
    io::{BufRead, BufReader, Write as _},
    net::{IpAddr, Ipv4Addr},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::wait_until;
use futures_lite::future;
use keywire::{Client, Handle, Listener, Overflow, Server};
use socket2::{SockRef, TcpKeepalive};

const SECOND: Duration = Duration::from_secs(1);

/// Another machine, as far as TCP can tell.
struct Machine {
    name: String,
    link: String,
    /// Our address, and its own.
    here: Ipv4Addr,
    there: Ipv4Addr,
    processes: Vec<Child>,
}

fn ip(arguments: &str) -> Result<(), String> {
    let run = Command::new("ip").args(arguments.split(' ')).output();
    let run = run.map_err(|error| format!("ip: {error}"))?;
    match run.status.success() {
        true => Ok(()),
        false => Err(format!(
            "ip {arguments}: {}",
            String::from_utf8_lossy(&run.stderr).trim()
        )),
    }
}

impl Machine {
    /// `None`, said aloud, if that is not permitted.
    fn new(number: u8) -> Option<Self> {
        let id = std::process::id();
        let machine = Machine {
            name: format!("keywire-{id}-{number}"),
            link: format!("kw{}n{number}", id % 1_000_000),
            here: Ipv4Addr::new(10, 213, id as u8, 4 * number + 1),
            there: Ipv4Addr::new(10, 213, id as u8, 4 * number + 2),
            processes: Vec::new(),
        };
        match machine.set_up() {
            Ok(()) => Some(machine),
            Err(error) => {
                println!("skipped: no network namespaces here: {error}");
                None
            }
        }
    }

    fn set_up(&self) -> Result<(), String> {
        let Machine {
            name,
            link,
            here,
            there,
            ..
        } = self;
        ip(&format!("netns add {name}"))?;
        ip(&format!(
            "link add {link} type veth peer name far netns {name}"
        ))?;
        ip(&format!("addr add {here}/30 dev {link}"))?;
        ip(&format!("link set {link} up"))?;
        ip(&format!("-n {name} addr add {there}/30 dev far"))?;
        ip(&format!("-n {name} link set far up"))
    }

    /// A client there that sends this, waits for a line, and then neither reads nor ends.
    fn connect(&mut self, port: u16, says: &str) {
        let here = self.here;
        let script = format!(
            "exec 3<>/dev/tcp/{here}/{port}; printf '{says}' >&3; read -r line <&3; echo up; \
             exec sleep 1000"
        );
        let mut client = Command::new("ip")
            .args(["netns", "exec", &self.name, "bash", "-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = client.stdout.take().unwrap();
        self.processes.push(client);
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n", "the client there has ended");
    }

    /// From here on, nothing comes from it.
    fn vanish(&self) {
        let Machine { name, here, .. } = self;
        ip(&format!("-n {name} route add blackhole {here}/32")).unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = ip(&format!("netns del {}", self.name));
        let _ = ip(&format!("link del {}", self.link));
    }
}

/// A server on the near end, and something that writes to `k` all the time.
struct Busy {
    handle: Handle,
    port: u16,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Busy {
    fn new<L>(
        mut server: Server,
        machine: &Machine,
        listener: impl FnOnce(async_net::TcpListener) -> L,
    ) -> Self
    where
        L: Listener,
    {
        let bound = future::block_on(keywire::bind((machine.here, 0))).unwrap();
        let address = bound.local_addr().unwrap();
        server.listen(listener(bound));
        let handle = server.handle();
        let serve = thread::spawn(|| drop(future::block_on(server.run())));
        let write = thread::spawn(move || {
            future::block_on(async {
                let client = Client::connect(address).await.unwrap();
                client.put("big", "x".repeat(60_000)).await.unwrap();
                while client.update("k", "1", "1").await.is_ok() {
                    async_io::Timer::after(SECOND / 10).await;
                }
            });
        });
        let port = address.port();
        wait_until("the writer is there", || handle.stats().updates > 0);
        let threads = vec![serve, write];
        Self {
            handle,
            port,
            threads,
        }
    }

    fn active(&self) -> u64 {
        self.handle.stats().active
    }

    fn stop(self) {
        future::block_on(self.handle.shutdown(Duration::ZERO));
        self.threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    }
}

/// Says how long it took until only the writer was there.
fn time_until_found(server: &Busy, limit: Duration) -> Duration {
    let since = Instant::now();
    while server.active() > 1 {
        assert!(
            since.elapsed() < limit,
            "a peer that is gone is still there"
        );
        thread::sleep(SECOND / 50);
    }
    since.elapsed()
}

#[test]
fn bytes_that_nobody_acknowledges_are_no_move() {
    let Some(mut machine) = Machine::new(0) else {
        return;
    };
    let server = Server::builder().idle_timeout(2 * SECOND).build();
    let server = Busy::new(server, &machine, |listener| listener);
    machine.connect(server.port, "Watch:k\\n");
    // It only reads, or its system does. Each event moves.
    let since = Instant::now();
    while since.elapsed() < 6 * SECOND {
        assert_eq!(server.active(), 2, "a watcher that is there was idle");
        thread::sleep(SECOND / 50);
    }
    machine.vanish();
    let found = time_until_found(&server, 10 * SECOND);
    assert!(found > SECOND, "{found:?}");
    assert_eq!(server.handle.stats().idle, 1);
    server.stop();
}

/// Keepalive gives them three seconds.
struct Impatient(async_net::TcpListener);

impl Listener for Impatient {
    type Connection = async_net::TcpStream;

    async fn accept(&mut self) -> std::io::Result<(Self::Connection, Option<IpAddr>)> {
        let (stream, address) = Listener::accept(&mut self.0).await?;
        let keepalive = TcpKeepalive::new().with_time(SECOND);
        let keepalive = keepalive.with_interval(SECOND).with_retries(2);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        Ok((stream, address))
    }
}

#[test]
fn who_is_gone_is_found_with_data_on_the_way_and_who_does_not_read_is_not() {
    let (Some(mut gone), Some(mut slow)) = (Machine::new(1), Machine::new(2)) else {
        return;
    };
    // It never reads, and its system answers to that.
    let server = Server::builder().overflow(Overflow::Wait).build();
    let server = Busy::new(server, &slow, Impatient);
    slow.connect(server.port, &"Get:big\\n".repeat(400));
    let since = Instant::now();
    while since.elapsed() < 12 * SECOND {
        assert_eq!(
            server.active(),
            2,
            "a client that does not read was taken for gone"
        );
        thread::sleep(SECOND / 50);
    }
    server.stop();

    let server = Busy::new(Server::new(), &gone, Impatient);
    gone.connect(server.port, "Watch:k\\n");
    gone.vanish();
    let found = time_until_found(&server, 25 * SECOND);
    assert!(found > 2 * SECOND, "{found:?}");
    server.stop();
}

/// It has sent something while the server could not write, so the server writes no more.
#[test]
fn a_peer_that_sent_while_it_did_not_read_is_found_too() {
    let Some(mut gone) = Machine::new(3) else {
        return;
    };
    let server = Busy::new(Server::new(), &gone, Impatient);
    let (here, port) = (gone.here, server.port);
    let gets = "Get:big\\n".repeat(400);
    let script = format!(
        "exec 3<>/dev/tcp/{here}/{port}; printf '{gets}' >&3; read; \
         printf 'Put:z:1\\n' >&3; sleep 1; echo up; exec sleep 1000"
    );
    let mut client = Command::new("ip")
        .args(["netns", "exec", &gone.name, "bash", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = client.stdin.take().unwrap();
    let output = client.stdout.take().unwrap();
    gone.processes.push(client);
    wait_until("the server can't write", || {
        server.handle.stats().lines_dropped > 0
    });
    input.write_all(b"\n").unwrap();
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    gone.vanish();
    let found = time_until_found(&server, 60 * SECOND);
    assert!(found > 2 * SECOND, "{found:?}");
    server.stop();
}
