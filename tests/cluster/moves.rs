//! Data that is moved between a server on a disk and servers on a cluster, by the example programs.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::{
    common::{example, server_process::ServerProcess},
    nodes::shared,
    servers::within,
};

/// More than a page of a walk.
const KEYS: usize = 3_000;

/// A directory that goes when the test ends.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let name = format!("keywire-moves-{}-{name}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn server(arguments: &[&str]) -> ServerProcess {
    let mut command = Command::new(example("server"));
    command.args(["--listen", "127.0.0.1:0"]).args(arguments);
    ServerProcess::spawn(&mut command)
}

fn on_disk(directory: &Directory) -> ServerProcess {
    server(&["--data", directory.0.to_str().unwrap()])
}

fn client(server: &ServerProcess, command: &str) -> Command {
    let mut client = Command::new(example("client"));
    client.args([command, "--connect", &server.address]);
    client
}

/// What `client dump` prints, a key's values together and in order, the keys sorted.
fn dump(server: &ServerProcess) -> Vec<Vec<u8>> {
    let output = client(server, "dump").output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let mut lines: Vec<Vec<u8>> = output
        .stdout
        .split_inclusive(|&byte| byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    let key = |line: &Vec<u8>| {
        let length = line.iter().position(|&byte| byte == b':');
        line[..length.unwrap()].to_vec()
    };
    // It keeps the order of a key's values.
    lines.sort_by_key(key);
    lines
}

/// `client dump | client load`
fn pipe(from: &ServerProcess, to: &ServerProcess) {
    let mut dump = client(from, "dump").stdout(Stdio::piped()).spawn().unwrap();
    let lines = dump.stdout.take().unwrap();
    let output = client(to, "load").stdin(lines).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(dump.wait().unwrap().success());
}

#[test]
fn a_dump_moves_from_a_disk_to_a_cluster_and_back() {
    let _bound = within(120);
    let (first, second) = (Directory::new("first"), Directory::new("second"));
    let mut disk = on_disk(&first);
    let mut lines = Vec::new();
    for key in 0..KEYS {
        // Colons, no bytes at all, bytes that are not UTF-8, and braces, which choose slots in Redis.
        for value in 0..=key % 3 {
            lines.extend_from_slice(format!("Put:{{k}}{key}:v:{value}\n").as_bytes());
        }
        if key % 100 == 0 {
            lines.extend_from_slice(format!("Put:{{k}}{key}:\nPut:{{k}}{key}:").as_bytes());
            lines.extend_from_slice(b"\xff\x00\n");
        }
    }
    disk.connect().end_with(&lines);
    let saved = dump(&disk);
    let values = lines.iter().filter(|&&byte| byte == b'\n').count();
    assert_eq!(saved.len(), values);

    let addresses = shared().addresses().join(",");
    let cluster = ["--cluster", &addresses, "--cluster-prefix", "moves:"];
    let (one, other) = (server(&cluster), server(&cluster));
    // What a key had there is replaced.
    one.connect().end_with("Put:{k}0:old\nPut:{k}0:older\n");
    for _ in 0..2 {
        // The second time changes nothing.
        pipe(&disk, &one);
        assert!(dump(&other) == saved);
    }
    let back = on_disk(&second);
    pipe(&other, &back);
    assert!(dump(&back) == saved);
    disk.signal("-TERM");
    let (status, words) = disk.wait();
    assert!(status.success(), "{words}");
}
