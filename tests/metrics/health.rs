//! What `/healthz` says, from the start to the end.

use std::{fs, path::PathBuf, process::Command};

use crate::{
    common::{example, server_process::signal_to, wait_until},
    request::Server,
};

#[track_caller]
fn expect(server: &Server, status: u16, text: &str) {
    let health = server.get("/healthz");
    assert_eq!((health.status, &*health.body), (status, text));
}

#[test]
fn a_server_that_closes_says_so_until_it_is_gone() {
    let mut server = Server::start(&[]);
    expect(&server, 200, "serving\n");
    // More than any socket takes, for a client that does not read for now.
    let mut slow = server.process.connect();
    let value = "x".repeat(60_000);
    for _ in 0..400 {
        slow.send(format!("Put:k:{value}\n"));
    }
    slow.send("Sync\nGet:k\n");
    assert_eq!(slow.sync_reply(), "0:");
    signal_to(&server.process.child, "-TERM");
    wait_until("the shutdown has begun", || {
        server.get("/healthz").status == 503
    });
    expect(&server, 503, "closing\n");
    // Figures are there, too.
    let metrics = server.get("/metrics");
    assert!(metrics.body.contains("\nkeywire_clients 1\n"));
    // As soon as the client has read all, the server is gone.
    assert_eq!(slow.texts(400).len(), 400);
    drop(slow);
    assert!(server.process.wait().0.success());
}

struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_server_whose_disk_has_failed_says_so() {
    let name = format!("keywire-health-{}", std::process::id());
    let directory = Directory(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name));
    // In units of 512 bytes: no file may be as long as a log. The signal is ignored, so that the call fails
    // instead.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\""]);
    command.arg(example("server"));
    let server = Server::spawn(command.arg("--data").arg(&directory.0));
    expect(&server, 200, "serving\n");
    let mut client = server.process.connect();
    client.send("Put:k:1\n");
    let refused = client.text();
    assert!(refused.starts_with(":error:1:store:"), "{refused}");
    expect(&server, 503, "store refuses writes\n");
    let metrics = server.get("/metrics").body;
    assert!(metrics.contains("\nkeywire_refusing_writes 1\n"));
    // Reads are served.
    client.send("Get:k\n");
    assert_eq!(client.sync(), (vec![], 0));
}
