//! What the options of the example server take, and what a start lacks that fails.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use crate::common::{
    example,
    server_process::{ServerProcess, refused},
};

#[test]
fn sizes_take_k_m_and_g() {
    let server = ServerProcess::start(&[
        "--listen",
        "127.0.0.1:0",
        "--max-line",
        "1K",
        "--max-reply",
        "2k",
        "--outbox-bytes",
        "1m",
        "--max-store",
        "1G",
    ]);
    let mut client = server.connect();
    let line = |bytes: usize| format!("Put:k:{}\n", "x".repeat(bytes - "Put:k:".len()));
    client.send(line(1024));
    assert_eq!(client.sync(), (vec![], 0));
    client.send(line(1025));
    assert!(client.text().starts_with(":error:3:too-long:"));
    // One value is less than the longest reply, three are more.
    client.send("Get:k\n");
    assert!(client.text().starts_with("k:xxx"));
    client.send(line(1024));
    client.send(line(1024));
    client.send("Get:k\n");
    assert!(client.text().starts_with(":error:7:too-long:"));

    for size in ["4T", "K", "", "-1K", "1.5M", "1 K", "99999999999G", "0K"] {
        let mut command = Command::new(example("server"));
        let (code, words) = refused(command.arg(format!("--max-line={size}")));
        assert_eq!(code, 2, "{words}");
    }
}

#[test]
fn threads_have_a_limit_and_those_that_can_not_be_are_an_error() {
    let mut command = Command::new(example("server"));
    let (code, words) = refused(command.args(["--threads", "100000"]));
    assert_eq!(code, 2);
    assert!(words.contains("from 1 to 1024"), "{words}");

    // So much room for stacks that a few threads have it, and forty have not.
    let mut command = Command::new("sh");
    let script = "ulimit -v 16000000 && exec \"$0\" --listen 127.0.0.1:0 --threads 40";
    let command = command.arg("-c").arg(script).arg(example("server"));
    let (code, words) = refused(command.env("RUST_MIN_STACK", (1 << 30).to_string()));
    assert_eq!(code, 1);
    assert!(words.contains("can't start thread "), "{words}");
}

#[test]
fn a_start_without_descriptors_says_what_it_needs_them_for() {
    for (told, files) in (4..40).enumerate() {
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(format!(
                "ulimit -n {files} && exec \"$0\" --listen localhost:0"
            ))
            .arg(example("server"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        if let Some(rest) = line.strip_prefix("keywire listens on ") {
            // It has what it needs for a client, too.
            let address = rest.split([',', ' ']).next().unwrap().parse().unwrap();
            crate::common::Client::connect(address).sync();
            crate::common::server_process::signal_to(&child, "-TERM");
            assert!(crate::common::server_process::wait_for(&mut child).success());
            assert!(told > 0);
            return;
        }
        let output = child.wait_with_output().unwrap();
        let words = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "with {files}: {words}");
        assert!(words.starts_with("error: "), "with {files}: {words}");
        assert!(words.contains("Too many open files"), "{words}");
        assert!(words.contains("listen"), "{words}");
    }
    panic!("it never started");
}

#[test]
fn the_help_says_what_the_units_are() {
    let help = Command::new(example("server"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("It counts lines, and a call of keywire's own Client sends two"));
    assert!(help.contains("BYTES may end in K, M or G"));
    assert!(help.contains(":PORT or PORT, all interfaces"));
}
